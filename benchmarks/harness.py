"""Interleaved timing of contestants, and the report of a benchmark: medians, ratios, the machine.

Interleaving as in Kalibera & Jones, "Rigorous Benchmarking in Reasonable Time", ISMM 2013.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import psutil

_PROCESSOR_FILE: Final = Path("/proc/cpuinfo")
_LIBRARIES: Final = ("numpy", "scipy", "librosa", "torch")


@dataclass(frozen=True, slots=True)
class Report:
    """The report of a benchmark.

    Args:
        name: of the benchmark.
        machine: `machine_line()`.
        medians: figures by name; the name ends with the unit: `audio_ours_ms`, `rows_per_s`.
        ratios: how many times better than its peer ours is; above 1 is better.
        facts: counts, largest deviations, number of rounds.
    """

    name: str
    machine: str
    medians: dict[str, float] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    facts: dict[str, float | int | str | bool] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the report as JSON; its folder is created where needed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    def print(self) -> None:
        """Print machine, medians, ratios and facts as one table."""
        print(f"\n{self.name}: {self.machine}")
        for title, figures in (("medians", self.medians), ("ratios", self.ratios), ("facts", self.facts)):
            if figures:
                print(f"  {title}")
            for label, value in figures.items():
                shown = f"{value:,.3f}" if isinstance(value, float) and abs(value) >= 0.001 else f"{value}"
                print(f"    {label:<48} {shown:>16}")


def time_rounds(
    contestants: Mapping[str, Callable[[], object]], rounds: int = 5, warmups: int = 1
) -> dict[str, list[float]]:
    """Run every contestant once a round, in turn, and return the seconds of each round by name.

    The order is reversed every other round. `warmups` rounds are run first and not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(-warmups, rounds):
        names = list(contestants)
        for name in names if number % 2 == 0 else reversed(names):
            start = time.perf_counter()
            contestants[name]()
            elapsed = time.perf_counter() - start
            if number >= 0:
                seconds[name].append(elapsed)
    return seconds


def medians_of(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the median seconds of each contestant."""
    return {name: statistics.median(times) for name, times in seconds.items()}


def ratio_of(seconds: Mapping[str, Sequence[float]], peer: str, ours: str) -> float:
    """Return how many times as long as `ours` `peer` takes: the median over rounds of the ratio within a round."""
    return statistics.median(theirs / own for theirs, own in zip(seconds[peer], seconds[ours], strict=True))


def machine_line() -> str:
    """Return processor, usable cores, memory, Python and library versions in one line."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [
        _processor(),
        f"{cores} cores",
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        f"Python {platform.python_version()}",
    ]
    for library in _LIBRARIES:
        try:
            parts.append(f"{library} {version(library)}")
        except PackageNotFoundError:
            continue
    return ", ".join(parts)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark: `--json FILE` and `--rounds N`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--json", type=Path, default=None, metavar="FILE", help="write the figures to this file as well"
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds to take medians of (default 5)")
    return parser


def finish(report: Report, json_file: Path | None) -> None:
    """Print the report, and write it to `json_file` where given."""
    report.print()
    if json_file is not None:
        report.write(json_file)


def write_section(document: Path, name: str, text: str) -> None:
    """Replace what is between `<!-- name -->` and `<!-- /name -->` in a document."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, _, rest = document.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(end)
    document.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def _processor() -> str:
    if _PROCESSOR_FILE.exists():
        for line in _PROCESSOR_FILE.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
