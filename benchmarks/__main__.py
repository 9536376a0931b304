"""All benchmarks (`make bench`), one after the other in processes of their own, and a table of their ratios."""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from benchmarks.harness import machine_line

ROOT: Final = Path(__file__).resolve().parent.parent
RESULTS: Final = ROOT / "benchmarks" / "results"
BENCHES: Final = ("audio", "network", "scoring", "service", "startup", "training")
QUICK: Final = {"audio": ("--clips", "5", "--rounds", "1")}  # the others have `--quick`
PANELS: Final = ("text+audio+visual", "text")
LIMIT_MS: Final = 500.0
COLOURS: Final = {"ours": "#1b6ca8", "naive": "#b8432f", "litserve": "#6b7f3a"}

Curves = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
"""Service → subset → trials."""


def run(bench: str, folder: Path, options: Sequence[str]) -> dict[str, Any]:
    """Run one benchmark and return its report.

    Raises:
        subprocess.CalledProcessError: it failed; its error is on standard error.
    """
    file = folder / f"{bench}.json"
    subprocess.run([sys.executable, "-m", f"benchmarks.{bench}", "--json", str(file), *options], cwd=ROOT, check=True)
    report: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return report


def table(reports: dict[str, dict[str, Any]]) -> str:
    """Format all ratios, a line each."""
    lines = [f"{'bench':<10} {'ratio':<48} {'value':>9}", "-" * 69]
    for bench, report in reports.items():
        lines += [f"{bench:<10} {name:<48} {value:>9.2f}" for name, value in report["ratios"].items()]
    return "\n".join(lines)


def plot(curves: Curves, file: Path) -> None:
    """Plot median and 99th percentile of latency against the offered rate, a panel for each subset of `PANELS`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # of the `bench` extra
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, subset in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        for service, subsets in curves.items():
            trials = [t for t in subsets.get(subset, ()) if t["p99"] is not None]
            rates = [t["rate"] for t in trials]
            colour = COLOURS.get(service)
            axes.plot(rates, [t["p99"] for t in trials], "o-", color=colour, label=f"{service}, p99")
            axes.plot(rates, [t["p50"] for t in trials], "--", color=colour, alpha=0.6, label=f"{service}, p50")
        axes.axhline(LIMIT_MS, color="grey", linewidth=0.8)
        axes.set(xscale="log", yscale="log", xlabel="offered, requests a second", ylabel="milliseconds", title=subset)
        axes.legend(fontsize="small")
    figure.savefig(file, dpi=120)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benches", nargs="*", default=BENCHES, help=f"which of {', '.join(BENCHES)} (default: all)")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER", help="where to write")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and rates, as a test run")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    # One at a time: the load of one would change the figures of another.
    reports = {
        bench: run(bench, options.out, QUICK.get(bench, ("--quick",)) if options.quick else ())
        for bench in options.benches
    }
    print(f"\n{machine_line()}\n\n{table(reports)}")
    whole = {"machine": machine_line(), "ratios": {name: report["ratios"] for name, report in reports.items()}}
    (options.out / "all.json").write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    curves = options.out / "service.curves.json"
    if curves.is_file() and find_spec("matplotlib") is not None:
        plot(json.loads(curves.read_text(encoding="utf-8")), options.out / "service.png")


if __name__ == "__main__":
    main()
