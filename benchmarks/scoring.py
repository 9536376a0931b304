"""`emmr score` beside the service: rows a second, against answers a second of the same utterances over HTTP.

The service is loaded by clients that send one request after the other, so its figure is its throughput, which its
goodput cannot exceed.
"""

import csv
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import uvloop

from benchmarks.bodies import Bodies
from benchmarks.harness import Report, arguments, finish, machine_line
from benchmarks.processes import OURS, ROOT, service
from model.modality import COMPLETE, Modality, ModalitySet
from tools.load.client import Client
from tools.load.generator import capacity

TEXT: Final = ModalitySet.of(Modality.TEXT)
ROWS: Final[Mapping[ModalitySet, int]] = {COMPLETE: 300, TEXT: 3_000}
QUICK: Final = 10  # times fewer rows and seconds
SECONDS: Final = 20.0  # of load on the service
CLIENTS: Final = 16  # more requests may be refused for their waiting time
GOAL: Final = 0.9
SCORE: Final = ("-c", "from app.cli import main; main()", "score")
_RATE: Final = re.compile(r"([\d,]+) answers, 0 errors, ([\d.]+) rows/s")


def write_manifest(folder: Path, subset: ModalitySet, rows: int) -> Path:
    """Write a manifest of utterances of which no two have a part in common."""
    bodies, path = Bodies(), folder / "manifest.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ("id", "text", "audio", "openface"))
        table.writeheader()
        for number in range(rows):
            parts = bodies.parts(subset)
            row = {"id": str(number), "text": parts.get(Modality.TEXT, b"").decode()}
            for modality, column, suffix in ((Modality.AUDIO, "audio", "wav"), (Modality.VISUAL, "openface", "csv")):
                if modality in parts:
                    row[column] = f"{number}.{suffix}"
                    (folder / row[column]).write_bytes(parts[modality])
            table.writerow(row)
    return path


def score(subset: ModalitySet, rows: int) -> float:
    """Return the rows a second of `emmr score`, from the first row on.

    Raises:
        RuntimeError: a row has no answer.
        subprocess.CalledProcessError: the command failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_manifest(Path(folder), subset, rows)
        command = [sys.executable, *SCORE, str(manifest), "--out", str(manifest.with_name("out.csv"))]
        done = subprocess.run(command, cwd=ROOT, check=True, stderr=subprocess.PIPE, text=True)
    found = _RATE.search(done.stderr)
    if found is None or int(found[1].replace(",", "")) != rows:
        raise RuntimeError(f"not every row has an answer: {done.stderr}")
    return float(found[2])


async def load(port: int, subset: ModalitySet, seconds: float) -> float:
    """Return the answers a second of the service."""
    client = Client(port)
    try:
        return await capacity(client, Bodies().requests(subset), seconds, warm_up=seconds / 4, workers=CLIENTS)
    finally:
        client.close()


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = arguments(__doc__)
    parser.add_argument("--quick", action="store_true", help="one round, a tenth of the rows")
    options = parser.parse_args(argv)
    rounds, share = (1, QUICK) if options.quick else (options.rounds, 1)
    report = Report("scoring", machine_line())
    for subset, label in ((COMPLETE, "trimodal"), (TEXT, "text")):
        ours: list[float] = []
        served: list[float] = []
        for _ in range(rounds):
            ours.append(score(subset, ROWS[subset] // share))
            with service(OURS, "/health/ready") as running:
                served.append(uvloop.run(load(running.port, subset, SECONDS / share)))
        report.medians[f"{label}_score_rows_per_s"] = statistics.median(ours)
        report.medians[f"{label}_service_answers_per_s"] = statistics.median(served)
        ratio = statistics.median(own / theirs for own, theirs in zip(ours, served, strict=True))
        report.ratios[f"{label}_score_vs_service"] = ratio
    report.facts.update({"rounds": rounds, "goal_met": min(report.ratios.values()) >= GOAL})
    finish(report, options.json)


if __name__ == "__main__":
    main()
