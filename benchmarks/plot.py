"""Latency against offered rate, one panel for each subset that was compared.

For: `benchmarks.__main__`; matplotlib comes with the `bench` extra.
Does not know: how the figures were taken.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PANELS: Final = ("text+audio+visual", "text")
LIMIT_MS: Final = 500.0
COLOURS: Final = {"ours": "#1b6ca8", "naive": "#b8432f", "litserve": "#6b7f3a"}

Curves = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
"""Service → subset → trials."""


def plot(curves: Curves, file: Path) -> None:
    """Draw median and 99th percentile of every service."""
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
