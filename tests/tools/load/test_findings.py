import argparse
import json
from pathlib import Path

import pytest

from tools.load.findings import PAGE, Finding, conclude, line, recorded, shown, table


def finding(*failures: str, name: str = "case") -> Finding:
    return Finding(name, {"answers": {"200": 3, "422": 1}, "seconds": 0.12345}, list(failures))


def test_a_bench_fails_when_one_of_its_findings_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = argparse.Namespace(json=tmp_path / "new" / "out.json", record=False)
    assert conclude("chaos", [finding()], chosen) == 0
    assert conclude("chaos", iter([finding(), finding("it broke")]), chosen) == 1
    written = json.loads(chosen.json.read_text())
    assert written["bench"] == "chaos"
    assert [one["passed"] for one in written["findings"]] == [True, False]
    assert "it broke" in capsys.readouterr().out


def test_what_is_expected_and_does_not_hold_is_a_failure() -> None:
    found = finding()
    found.expect(True, "never said")
    assert found.passed
    found.expect(False, "said")
    assert (found.passed, found.failures) == (False, ["said"])


def test_a_line_says_every_figure_in_words() -> None:
    assert line(finding()) == "ok    case: answers 200 × 3; 422 × 1, seconds 0.123"
    assert line(finding("no")).startswith("FAIL")
    assert [shown(value) for value in (None, 1234.5, [], ["1", "2"], True)] == ["–", "1234", "–", "1, 2", "True"]


def test_findings_with_the_same_figures_share_a_table_and_a_single_one_is_a_column() -> None:
    both = table([finding(name="one"), finding("no", name="two")])
    assert both.splitlines()[0] == "| | answers | seconds | passed |"
    assert both.splitlines()[2:] == [
        "| one | 200 × 3; 422 × 1 | 0.123 | yes |",
        "| two | 200 × 3; 422 × 1 | 0.123 | **no**: no |",
    ]
    assert table([finding()]).splitlines()[:3] == ["|  | case |", "| --- | --- |", "| answers | 200 × 3; 422 × 1 |"]


def test_a_page_keeps_everything_but_what_stands_between_the_marks() -> None:
    page = "a\n<!-- soak -->\nold\n<!-- /soak -->\nz\n"
    new = recorded(page, "soak", [finding()])
    assert (new.startswith("a\n"), new.endswith("\nz\n"), "old" in new) == (True, True, False)
    assert recorded(new, "soak", [finding()]) == new
    with pytest.raises(ValueError, match="no place marked chaos"):
        recorded(page, "chaos", [])


@pytest.mark.parametrize("bench", ["schemathesis", "atheris", "chaos", "overload", "soak"])
def test_the_page_has_a_place_for_every_bench(bench: str) -> None:
    assert recorded(PAGE.read_text(encoding="utf-8"), bench, [finding()])
