"""Look up known vulnerabilities of the image's packages with pip-audit (`make audit`).

Fails when one is found; packages that the database could not be asked about are a warning.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tools.supply_chain.requirements import COMMON, TORCH

SERVICES: Final = ("pypi", "osv")
TIMEOUT: Final = 15  # seconds for one request to the database


@dataclass(slots=True)
class Audit:
    """The outcome.

    Args:
        checked: packages that the database knows.
        skipped: packages that it could not be asked about.
        found: vulnerabilities, as `package version: identifier (fixed in …)`.
        error: why nothing could be looked up; empty where something was.
    """

    checked: int = 0
    skipped: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    error: str = ""


def read_report(output: str, error: str) -> Audit:
    """Read pip-audit's JSON report, or the last line of its standard error where there is none."""
    try:
        dependencies: list[dict[str, Any]] = json.loads(output)["dependencies"]
    except ValueError:
        lines = error.strip().splitlines()
        return Audit(error=lines[-1][:300] if lines else "pip-audit printed nothing")
    audit = Audit()
    for one in dependencies:
        if "skip_reason" in one:
            audit.skipped.append(one["name"])
            continue
        audit.checked += 1
        for vulnerability in one["vulns"]:
            fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
            audit.found.append(f"{one['name']} {one['version']}: {vulnerability['id']} (fixed in {fixed})")
    if not audit.checked:
        audit.error = "the database knows none of the packages"
    return audit


def look_up(service: str, files: list[Path]) -> Audit:
    """Run pip-audit on requirement files; nothing is resolved or installed."""
    command = [
        sys.executable, "-m", "pip_audit", "--vulnerability-service", service, "--format", "json", "--desc", "off",
        "--require-hashes", "--disable-pip", "--progress-spinner", "off", "--timeout", str(TIMEOUT),
        *(word for file in files for word in ("--requirement", str(file))),
    ]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return read_report(ended.stdout, ended.stderr)


def message(audit: Audit, *, annotate: bool) -> str:
    """Describe the outcome; `annotate` has a GitHub workflow show it."""
    if audit.found:
        level, text = "error", "known vulnerabilities: " + "; ".join(audit.found)
    elif audit.error:
        level, text = "warning", f"vulnerabilities were not looked up: {audit.error}"
    elif audit.skipped:
        level, text = "warning", f"{audit.checked} packages have no known vulnerability; not known to the database: "
        text += ", ".join(audit.skipped)
    else:
        level, text = "notice", f"{audit.checked} packages have no known vulnerability"
    return f"::{level}::{text}" if annotate else f"{level}: {text}"


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Look up known vulnerabilities of the image's packages.")
    parser.add_argument("--annotate", action="store_true", help="print the outcome as a GitHub workflow command")
    options = parser.parse_args()
    audit = Audit()
    for service in SERVICES:
        audit = look_up(service, [COMMON, TORCH["cuda"]])
        if not audit.error:
            break
    sys.stdout.write(message(audit, annotate=options.annotate) + "\n")
    return 1 if audit.found else 0


if __name__ == "__main__":
    sys.exit(main())
