"""The committed page of limits has the values of the settings and the responses of a running service."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.settings import Settings
from docs.limits import HEAD, OTHERS, PAGE, TAIL, TIMED, contents, formatted, send, timed
from tests.support.limit_rows import SMALL, LimitRow, rows
from tools.load.service import Service, serving

ROWS = list(rows(Settings.model_validate(SMALL)))


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|\n ").split(" | ")]


def answers(line: str) -> list[str]:
    """The responses in a row."""
    return [cell.rpartition("→ ")[2] for cell in cells(line) if "→" in cell]


def committed() -> dict[str, str]:
    """The rows of the page by setting."""
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
def test_responses_at_each_limit_are_those_of_the_page(service: Service, row: LimitRow) -> None:
    responses = [send(service.port, request) for request in row.requests]
    assert responses == answers(committed()[row.setting])
    rejected = 0 if row.setting.startswith("min_") else 2
    assert [position for position, answer in enumerate(responses) if answer != "200"] == [rejected]
    assert responses[rejected][:3] in {"413", "422"}


def test_the_page_has_the_default_settings() -> None:
    page, usual = committed(), Settings()
    for setting, line in page.items():
        assert cells(line)[2] == formatted(setting, getattr(usual, setting)), setting
    for row in rows(usual):
        assert [cell.partition(" →")[0] for cell in cells(page[row.setting])[3:]] == [a.value for a in row.requests]


def test_responses_to_each_content_are_those_of_the_page(service: Service) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for line in contents(service.port):
        assert f"{line}\n" in page


def test_responses_past_time_and_queue_limits_are_those_of_the_page(tiny_weights: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for line in timed(tiny_weights):
        assert f"{line}\n" in page


def test_the_text_of_the_page_is_that_of_the_command() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.startswith(HEAD)
    assert page.endswith(TAIL)
    assert TIMED in page
    assert OTHERS in page
