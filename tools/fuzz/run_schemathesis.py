"""Schemathesis against a running service (half of `make fuzz`): the service must conform to its OpenAPI document.

Runs all checks twice: with valid files in the forms, and with damaged ones, which may be rejected.
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
from tools.load.report import Result, add_options, report
from tools.load.service import ROOT, WEIGHTS, Service, serving

KEPT: Final = ROOT / ".cache" / "schema"
DEADLINE: Final = 30  # seconds for one response, as the service has it
# A damaged file may be rejected although it satisfies the document. All other checks have their defaults.
CONFIGS: Final[dict[Content, str]] = {
    "good": "",
    "damaged": "[checks.positive_data_acceptance]\nexpected-statuses = "
    '["2xx", 401, 403, 404, 409, 413, 415, 422, 429]\n',
}


def check(service: Service, content: Content, cases: int, seed: int, kept: Path) -> Result:
    """Run Schemathesis once; its report and log are written to `kept`."""
    kept.mkdir(parents=True, exist_ok=True)
    report_path, log = kept / f"{content}.json", kept / f"{content}.log"
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "schemathesis.toml"
        config.write_text(CONFIGS[content], encoding="utf-8")
        command = [
            sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run",
            f"http://127.0.0.1:{service.port}/openapi.json", "--checks", "all", "--max-examples", str(cases),
            "--seed", str(seed), "--request-timeout", str(DEADLINE), "--continue-on-failure", "--no-color",
            "--generation-database", "none", "--report-json-path", str(report_path),
        ]  # fmt: skip
        environment = {
            **os.environ,
            "SCHEMATHESIS_HOOKS": "tools.fuzz.schemathesis_hooks",
            "PYTHONPATH": str(ROOT),
            CONTENT: content,
        }
        with log.open("w", encoding="utf-8") as output:
            status = subprocess.run(
                command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False
            ).returncode
    return _result(service, content, json.loads(report_path.read_text(encoding="utf-8")), status)


def _result(service: Service, content: Content, summary: dict[str, Any], status: int) -> Result:
    rates = summary["valid_rates"].get("POST /predict", {})
    result = Result(
        f"schemathesis: {content} files",
        {
            "cases": summary["test_cases"]["generated"],
            "operations": summary["operations"]["tested"],
            "/predict answered 200": sum(phase["accepted"] for phase in rates.values()),
            "/predict refused": sum(phase["rejected"] for phase in rates.values()),
            "answers of 500": round(service.metric("emmr_request_seconds_count", 'status="500"')),
            "failures": summary["test_cases"]["unique_failures"],
            "seconds": summary["running_time"],
            "seed": summary["seed"],
        },
    )
    for failure in summary["failures"]:
        where = ", ".join(failure["operations"])
        result.failures.append(f"{failure['code']} {failure['title']} × {failure['count']} in {where}")
    result.failures += [f"error: {error}" for error in summary["errors"]]
    references = summary["warnings"].get("unresolvable_reference", [])
    result.expect(not references, f"unresolvable references of the document in {', '.join(references)}")
    result.expect(status == 0 or bool(result.failures), f"Schemathesis ended with status {status}")
    result.expect(service.running and service.health("/health/live")[0] == 200, "the service is not running")
    return result


def _results(options: argparse.Namespace) -> Iterator[Result]:
    with serving(options.weights) as service:
        for content in CONFIGS:
            yield check(service, content, options.cases, options.seed, options.kept)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Test the service against its OpenAPI document.")
    parser.add_argument("--cases", type=int, default=1500, help="at most, for each operation and each kind of content")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--kept", type=Path, default=KEPT, help="a folder for reports and logs")
    add_options(parser)
    options = parser.parse_args()
    return report("schemathesis", _results(options), options)


if __name__ == "__main__":
    sys.exit(main())
