import re

import pytest

from app.settings import Settings
from docs import configuration


def rows() -> dict[str, list[str]]:
    lines = configuration.page().splitlines()
    cells = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in lines if line.startswith("| `EMMR_")]
    return {row[0]: row[1:] for row in cells}


def test_the_committed_page_is_current() -> None:
    assert configuration.PAGE.read_text(encoding="utf-8") == configuration.page()


def test_every_setting_has_a_row_with_a_meaning() -> None:
    assert list(rows()) == [f"`EMMR_{name.upper()}`" for name in Settings.model_fields]
    assert not [name for name, cells in rows().items() if len(cells) != 4 or not cells[3]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("MAX_BODY_BYTES", ["integer, > 0", "`100663296` (96 MiB)", "bytes"]),
        ("PORT", ["integer, ≥ 0, ≤ 65535", "`8000`", "–"]),
        ("WEIGHTS", ["path", "`weights/default`", "–"]),
        ("API_KEYS", ["list of secrets", "–", "–"]),
        ("LOG_LEVEL", ["`debug` or `info` or `warning` or `error`", "`info`", "–"]),
        ("DECODE_WORKERS", ["integer, > 0", "`min(8, processors)`", "–"]),
        ("DEADLINE", ["number, > 0", "`30`", "seconds"]),
    ],
)
def test_a_row_states_type_default_and_unit(name: str, expected: list[str]) -> None:
    assert rows()[f"`EMMR_{name}`"][:3] == expected


def test_a_check_fails_where_the_page_is_not_current(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stale = tmp_path_factory.mktemp("docs") / "configuration.md"
    stale.write_text("stale", encoding="utf-8")
    monkeypatch.setattr(configuration, "PAGE", stale)
    monkeypatch.setattr(configuration, "ROOT", stale.parent)
    monkeypatch.setattr("sys.argv", ["configuration", "--check"])
    with pytest.raises(SystemExit, match="not current"):
        configuration.main()
    monkeypatch.setattr("sys.argv", ["configuration"])
    configuration.main()
    assert stale.read_text(encoding="utf-8").startswith("# Configuration")
