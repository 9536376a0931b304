"""Every bench, one after another, and all of their ratios side by side.

For: `python -m benchmarks`, which `make bench` runs: each bench in a process of its own, its JSON under
`benchmarks/results/`, then one table, one file of everything, and a plot of latency against offered rate.
Does not know: what any bench measures.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from benchmarks.harness import machine_line

ROOT: Final = Path(__file__).resolve().parent.parent
RESULTS: Final = ROOT / "benchmarks" / "results"
BENCHES: Final = ("audio", "network", "service", "startup", "training")
QUICK: Final = {"audio": ("--clips", "5", "--rounds", "1")}  # the others have `--quick`


def run(bench: str, folder: Path, options: Sequence[str]) -> dict[str, Any]:
    """Run one and read what it wrote.

    Raises:
        subprocess.CalledProcessError: it failed; it has said why.
    """
    file = folder / f"{bench}.json"
    subprocess.run([sys.executable, "-m", f"benchmarks.{bench}", "--json", str(file), *options], cwd=ROOT, check=True)
    report: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return report


def table(reports: dict[str, dict[str, Any]]) -> str:
    """All ratios, a line each."""
    lines = [f"{'bench':<10} {'ratio':<48} {'value':>9}", "-" * 69]
    for bench, report in reports.items():
        lines += [f"{bench:<10} {name:<48} {value:>9.2f}" for name, value in report["ratios"].items()]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benches", nargs="*", default=BENCHES, help=f"which of {', '.join(BENCHES)} (default: all)")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER", help="where to write")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and rates: to see that it runs")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    # Beside another bench's load no figure would hold: they run one at a time.
    reports = {
        bench: run(bench, options.out, QUICK.get(bench, ("--quick",)) if options.quick else ())
        for bench in options.benches
    }
    print(f"\n{machine_line()}\n\n{table(reports)}")
    whole = {"machine": machine_line(), "ratios": {name: report["ratios"] for name, report in reports.items()}}
    (options.out / "all.json").write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    curves = options.out / "service.curves.json"
    if curves.is_file() and find_spec("matplotlib") is not None:
        from benchmarks.plot import plot

        plot(json.loads(curves.read_text(encoding="utf-8")), options.out / "service.png")


if __name__ == "__main__":
    main()
