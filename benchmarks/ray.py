"""Ray beside one process: answers a second with one and two replicas, and rows a second of `emmr score` per actor.

Both engines use the same machine, so that a replica adds processes and no processors.
"""

import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import uvloop

from benchmarks.harness import Report, arguments, finish, machine_line
from benchmarks.processes import OURS, ROOT, service
from benchmarks.scoring import QUICK, SCORE, SECONDS, load, write_manifest
from model.modality import COMPLETE

ROWS: Final = 600
WARM_UP: Final = 1.25
"""Seconds of load for each that is measured; see `benchmarks.scoring.load`."""
ON_RAY: Final = ("--engine", "ray")
_DONE: Final = re.compile(r"([\d,]+) answers, 0 errors, ([\d.]+) rows/s")


def serve(*options: str, seconds: float) -> tuple[float, float]:
    """Return the answers a second of a service, and its processor seconds for each."""
    with service((*OURS, *options), "/health/ready") as running:
        before = running.processor_seconds()
        rate = uvloop.run(load(running.port, COMPLETE, seconds))
        used = running.processor_seconds() - before
    return rate, used / (rate * seconds * WARM_UP)


def score(folder: Path, rows: int, *options: str) -> float:
    """Return the rows a second of `emmr score`, the start of its engine included where it is Ray's.

    Raises:
        RuntimeError: a row has no answer.
        subprocess.CalledProcessError: the command failed.
    """
    manifest = write_manifest(folder, COMPLETE, rows)
    out = folder / ("parts" if options else "out.csv")
    command = [sys.executable, *SCORE, str(manifest), "--out", str(out), *options]
    done = subprocess.run(command, cwd=ROOT, check=True, stderr=subprocess.PIPE, text=True)
    found = _DONE.search(done.stderr)
    if found is None or int(found[1].replace(",", "")) != rows:
        raise RuntimeError(f"not every row has an answer: {done.stderr}")
    return float(found[2])


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = arguments(__doc__)
    parser.add_argument("--quick", action="store_true", help="one round, a tenth of the rows and seconds")
    options = parser.parse_args(argv)
    rounds, share = (1, QUICK) if options.quick else (options.rounds, 1)
    report = Report("ray", machine_line())
    served = {"process": (), "ray_1": (*ON_RAY, "--replicas", "1"), "ray_2": (*ON_RAY, "--replicas", "2")}
    scored = {"process": (), "ray_1": (*ON_RAY, "--workers", "1"), "ray_2": (*ON_RAY, "--workers", "2")}
    figures: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, chosen in served.items():
            rate, used = serve(*chosen, seconds=SECONDS / share)
            figures.setdefault(f"{name}_answers_per_s", []).append(rate)
            figures.setdefault(f"{name}_processor_ms_per_answer", []).append(1000 * used)
        for name, chosen in scored.items():
            with tempfile.TemporaryDirectory() as folder:
                figures.setdefault(f"{name}_rows_per_s", []).append(score(Path(folder), ROWS // share, *chosen))
    report.medians.update({name: statistics.median(values) for name, values in figures.items()})
    report.facts["rounds"] = rounds
    finish(report, options.json)


if __name__ == "__main__":
    main()
