"""The committed page of limits says what the settings say and what a running service answers."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.settings import Settings
from docs.limits import HEAD, OTHERS, PAGE, TAIL, TIMED, ask, not_counted, timed, written
from tests.support.limit_rows import SMALL, LimitRow, rows
from tools.load.service import Service, serving

ROWS = list(rows(Settings.model_validate(SMALL)))


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|\n ").split(" | ")]


def answers(line: str) -> list[str]:
    """What a row's requests were answered."""
    return [cell.rpartition("→ ")[2] for cell in cells(line) if "→" in cell]


def committed() -> dict[str, str]:
    """The page's rows by setting."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    found = {cells(line)[1].strip("`"): line for line in lines if re.search(r"\| `\w+` \|.*\|.*\|.*\|", line)}
    assert len(found) == len(ROWS) + 4
    return found


@pytest.fixture(scope="module")
def service(tiny_weights: Path) -> Iterator[Service]:
    small = (f"EMMR_{name.upper()}={value}" for name, value in SMALL.items())
    with serving(tiny_weights, prefix=("env", *small)) as service:
        yield service


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.setting))
def test_below_at_and_above_each_limit_a_service_answers_what_the_page_says(service: Service, row: LimitRow) -> None:
    given = [ask(service.port, asked) for asked in row.asked]
    assert given == answers(committed()[row.setting])
    refused = 0 if row.setting.startswith("min_") else 2
    assert [position for position, answer in enumerate(given) if answer != "200"] == [refused]
    assert given[refused][:3] in {"413", "422"}


def test_the_page_was_made_at_the_defaults() -> None:
    page, usual = committed(), Settings()
    for setting, line in page.items():
        assert cells(line)[2] == written(setting, getattr(usual, setting)), setting
    for row in rows(usual):
        assert [cell.partition(" →")[0] for cell in cells(page[row.setting])[3:]] == [a.value for a in row.asked]


def test_what_is_neither_counted_nor_timed_is_answered_as_the_page_says(service: Service) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for line in not_counted(service.port):
        assert f"{line}\n" in page


def test_time_and_room_run_out_as_the_page_says(tiny_weights: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for line in timed(tiny_weights):
        assert f"{line}\n" in page


def test_what_the_page_says_beside_its_tables_is_what_the_command_writes() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.startswith(HEAD)
    assert page.endswith(TAIL)
    assert TIMED in page
    assert OTHERS in page
