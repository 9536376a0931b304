"""The service held against its own OpenAPI document, by requests that follow the document and by requests that do not.

For: half of `make fuzz`, that is `python -m tools.fuzz.schema`. Runs Schemathesis, with all of its checks, twice
against a service started for it: once with good files in the forms, where the document's promises must be kept to the
letter, and once with damaged ones, which may be refused.
Does not know: the document. Needs the `fuzz` extra (Schemathesis).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tools.fuzz.files import CONTENT, Content
from tools.load.findings import Finding, conclude, options
from tools.load.service import ROOT, WEIGHTS, Service, serving

KEPT: Final = ROOT / ".cache" / "schema"
DEADLINE: Final = 30  # seconds for one answer, the service's own
# What a document cannot promise: that a damaged file is a sound. Everything else is checked as it comes.
CONFIGS: Final[dict[Content, str]] = {
    "good": "",
    "damaged": "[checks.positive_data_acceptance]\nexpected-statuses = "
    '["2xx", 401, 403, 404, 409, 413, 415, 422, 429]\n',
}


def check(service: Service, content: Content, cases: int, seed: int, kept: Path) -> Finding:
    """Run Schemathesis once; its report and the requests that reproduce a failure go to `kept`."""
    kept.mkdir(parents=True, exist_ok=True)
    report, log = kept / f"{content}.json", kept / f"{content}.log"
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "schemathesis.toml"
        config.write_text(CONFIGS[content], encoding="utf-8")
        command = [
            sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run",
            f"http://127.0.0.1:{service.port}/openapi.json", "--checks", "all", "--max-examples", str(cases),
            "--seed", str(seed), "--request-timeout", str(DEADLINE), "--continue-on-failure", "--no-color",
            "--generation-database", "none", "--report-json-path", str(report),
        ]  # fmt: skip
        environment = {
            **os.environ,
            "SCHEMATHESIS_HOOKS": "tools.fuzz.hooks",
            "PYTHONPATH": str(ROOT),
            CONTENT: content,
        }
        with log.open("w", encoding="utf-8") as output:
            status = subprocess.run(
                command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False
            ).returncode
    return _finding(service, content, json.loads(report.read_text(encoding="utf-8")), status)


def _finding(service: Service, content: Content, report: dict[str, Any], status: int) -> Finding:
    rates = report["valid_rates"].get("POST /predict", {})
    finding = Finding(
        f"schemathesis: {content} files",
        {
            "cases": report["test_cases"]["generated"],
            "operations": report["operations"]["tested"],
            "/predict answered 200": sum(phase["accepted"] for phase in rates.values()),
            "/predict refused": sum(phase["rejected"] for phase in rates.values()),
            "answers of 500": round(service.metric("emmr_request_seconds_count", 'status="500"')),
            "failures": report["test_cases"]["unique_failures"],
            "seconds": report["running_time"],
            "seed": report["seed"],
        },
    )
    for failure in report["failures"]:
        where = ", ".join(failure["operations"])
        finding.failures.append(f"{failure['code']} {failure['title']} × {failure['count']} in {where}")
    finding.failures += [f"error: {error}" for error in report["errors"]]
    references = report["warnings"].get("unresolvable_reference", [])
    finding.expect(not references, f"references of the document that lead nowhere in {', '.join(references)}")
    finding.expect(status == 0 or bool(finding.failures), f"Schemathesis ended with status {status}")
    finding.expect(service.running and service.health("/health/live")[0] == 200, "the service has not survived")
    return finding


def _checked(chosen: argparse.Namespace) -> Iterator[Finding]:
    with serving(chosen.weights) as service:
        for content in CONFIGS:
            yield check(service, content, chosen.cases, chosen.seed, chosen.kept)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Hold the service against its OpenAPI document.")
    parser.add_argument("--cases", type=int, default=1500, help="at most, for each operation and each kind of content")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--kept", type=Path, default=KEPT, help="a folder for reports and logs")
    options(parser)
    chosen = parser.parse_args()
    return conclude("schemathesis", _checked(chosen), chosen)


if __name__ == "__main__":
    sys.exit(main())
