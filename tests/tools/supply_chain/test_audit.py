import json
from pathlib import Path

import pytest

from tools.supply_chain import audit
from tools.supply_chain.audit import Audit, message, read_report

KNOWN = {"name": "a", "version": "1", "vulns": []}
VULNERABLE = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
SKIPPED = {"name": "c", "skip_reason": "Dependency not found"}


def report(*dependencies: object) -> str:
    return json.dumps({"dependencies": dependencies, "fixes": []})


def test_vulnerabilities_are_named_with_their_fix() -> None:
    found = read_report(report(KNOWN, VULNERABLE), "")
    assert (found.checked, found.found) == (2, ["b 2: CVE-1 (fixed in 3)"])
    assert message(found, annotate=True).startswith("::error::known vulnerabilities: b 2: CVE-1")


@pytest.mark.parametrize(
    ("output", "error", "reason"),
    [
        (report(SKIPPED), "", "knows none"),
        ("", "Traceback\nConnectionError: no route", "ConnectionError: no route"),
        ("", "", "printed nothing"),
    ],
)
def test_a_database_that_does_not_answer_is_a_warning(output: str, error: str, reason: str) -> None:
    found = read_report(output, error)
    assert reason in found.error
    assert message(found, annotate=True).startswith("::warning::vulnerabilities were not looked up")


def test_packages_that_the_database_does_not_know_are_named() -> None:
    assert message(read_report(report(KNOWN, SKIPPED), ""), annotate=False) == (
        "warning: 1 packages have no known vulnerability; not known to the database: c"
    )
    assert message(read_report(report(KNOWN), ""), annotate=False).startswith("notice")


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [
        (Audit(error="closed"), Audit(checked=1), 0),
        (Audit(error="closed"), Audit(checked=1, found=["a"]), 1),
        (Audit(error="closed"), Audit(error="closed"), 0),
        (Audit(checked=1, found=["a"]), Audit(checked=1), 1),
    ],
)
def test_the_command_fails_for_vulnerabilities_alone(
    first: Audit, second: Audit, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = dict(zip(audit.SERVICES, (first, second), strict=True))

    def look_up(service: str, files: list[Path]) -> Audit:
        return outcomes[service]

    monkeypatch.setattr(audit, "look_up", look_up)
    monkeypatch.setattr("sys.argv", ["audit"])
    assert audit.main() == status
