"""The figures of the reproduction report, as SVG that is drawn once and coloured for a light and a dark page.

Needs Matplotlib, scikit-learn and threadpoolctl, which the `train` extra installs.
"""

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from model.config import SYSTEMS
from model.experiments.comparisons import CONDITIONS, Comparison
from model.experiments.grid import ABLATIONS
from model.experiments.measures import LOSSES, Measures
from model.training.missing_patterns import RATES
from model.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

WIDTH: Final = 9.6  # inches
INK: Final = "#24292f"
GREY: Final = "#7d8590"
RULE: Final = "#d8dee4"
_SERIES: Final = (
    "#d55e00", "#0072b2", "#009e73", "#b5609a", "#a87b00", "#3d98cf", "#6f6f6f", "#5b4b9a", "#8c5a3c",
)  # fmt: skip
DARK: Final[Mapping[str, str]] = {
    INK: "#e6edf3",
    GREY: "#9198a1",
    RULE: "#3d444d",
    **dict(
        zip(
            _SERIES,
            ("#ff8c42", "#4fa8e0", "#2fc99a", "#e394c8", "#d9b13b", "#93d4ff", "#b0b0b0", "#a99be8", "#cf9a78"),
            strict=True,
        )
    ),
}
"""Colour on a light page → on a dark page. The series are those of Okabe & Ito, "Color Universal Design", 2008, with a
contrast of at least 3:1 to the page; series also differ in marker."""
_MARKERS: Final = "osD^vPX<>"
_SYSTEM_ORDER: Final = ("emmr", "tate", "mmin", "transm", "mctn", "cra", "ae", "late-fusion", "classical")
_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",  # text stays text: it can be read out and searched
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Helvetica", "Arial"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"), INK),
    "axes.edgecolor": GREY,
}

NAMES: Final[Mapping[str, str]] = {
    "emmr": "EMMR",
    "ae": "AE",
    "cra": "CRA",
    "mctn": "MCTN",
    "transm": "TransM",
    "mmin": "MMIN",
    "tate": "TATE",
    "late-fusion": "late fusion",
    "classical": "best classical",
    "no-forward": "EMMR without forward loss",
    "no-backward": "EMMR without backward loss",
    "tf": "TF",
    "tf+ae": "TF+AE",
    "tf+mmin": "TF+MMIN",
    "maximum": "maximum",
    "average": "average",
    "kl": "KL",
    "mae": "MAE",
    "cosine": "cosine",
}
"""Short name of each variant."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawn figure.

    Args:
        name: of its file, without suffix.
        text: what is shown, with units and n; also its description for those who do not see it.
        svg: in the colours of a light page.
    """

    name: str
    text: str
    svg: str

    @property
    def dark_svg(self) -> str:
        """In the colours of a dark page."""
        return _recolour(self.svg, lambda colour: DARK[colour])

    @property
    def inline_svg(self) -> str:
        """An `svg` element for a page that defines each colour of `DARK` as a variable, `--c-24292f` for example."""
        element = self.svg[self.svg.index("<svg") :].replace(
            "<svg", f'<svg role="img" aria-label="{escape(self.text)}"', 1
        )
        return _recolour(element, lambda colour: f"var(--c-{colour[1:]})")


def _recolour(svg: str, to: Callable[[str], str]) -> str:
    return re.sub("|".join(DARK), lambda match: to(match[0]), svg)


@contextmanager
def _drawing(name: str, height: float, width: float = WIDTH) -> Iterator[tuple["Canvas", list[str]]]:
    """A canvas, made without pyplot, which would keep it in memory; the SVG is put in the list at the end."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas

    # Equal data give equal files. The salt makes the identifiers of several figures in one page differ.
    with rc_context({**_STYLE, "svg.hashsalt": name}):
        canvas, drawn = Canvas(figsize=(width, height), layout="constrained"), list[str]()
        yield canvas, drawn
        stream = io.StringIO()
        canvas.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = re.sub(r"\d+\.\d{5,}", lambda match: f"{float(match[0]):.2f}", stream.getvalue())  # coordinates
    drawn.append(re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg))


def _line(axes: "Axes", x: Sequence[float], runs: Sequence[Sequence[float]], number: int, label: str) -> None:
    """A mean over seeds with a bar of one standard deviation; `runs` has the seeds' values of each point."""
    mean = [float(np.mean(values)) for values in runs]
    deviation = [float(np.std(values, ddof=1)) if len(values) > 1 else 0.0 for values in runs]
    first = number == 0
    axes.errorbar(
        x,
        mean,
        yerr=deviation,
        label=label,
        color=_SERIES[number % len(_SERIES)],
        marker=_MARKERS[number % len(_MARKERS)],
        markersize=5 if first else 4,
        linewidth=2.2 if first else 1.1,
        elinewidth=0.8,
        capsize=2,
        zorder=3 if first else 2,
    )


def rates(
    measures: Measures, corpus: str, split: str, title: str, published: Mapping[str, Mapping[str, Sequence[float]]]
) -> Figure | None:
    """Macro-F1 and accuracy of every system by missing rate; the published ones below, where there are any.

    Args:
        measures: of the grid.
        corpus: its name.
        split: part of the corpus.
        title: of the corpus.
        published: system → metric → percent at each of `RATES`.
    """
    metrics = {"macro_f1": "macro-F1 (%)", "accuracy": "accuracy (%)"}
    runs = {
        metric: {
            system: [[100 * v for v in measures.values(corpus, system, split, "rates", r, metric)] for r in RATES]
            for system in _SYSTEM_ORDER
            if measures.values(corpus, system, split, "rates", RATES[0], metric)
        }
        for metric in metrics
    }
    if not runs["macro_f1"]:
        return None
    name = f"rates-{corpus}" + ("" if split == "test" else f"-{split}")
    with _drawing(name, 6.0 if published else 3.3) as (canvas, drawn):
        panels = canvas.subplots(2 if published else 1, 2, squeeze=False, sharex=True)
        for axes, (metric, label) in zip(panels[0], metrics.items(), strict=True):
            for system, values in runs[metric].items():
                _line(axes, RATES, values, _SYSTEM_ORDER.index(system), NAMES[system])
            axes.set(title="This report", ylabel=label)
        for axes, (metric, label) in zip(panels[-1] if published else (), metrics.items(), strict=False):
            for system in (system for system in _SYSTEM_ORDER if system in published):
                values = [[value] for value in published[system][metric]]
                _line(axes, RATES, values, _SYSTEM_ORDER.index(system), NAMES[system])
            axes.set(title="Published (Table 1)", ylabel=label)
        for axes in panels[-1]:
            axes.set_xlabel("missing rate η")
        shown = {
            label: handle
            for axes in panels[:, 0]
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        names = [NAMES[system] for system in _SYSTEM_ORDER if NAMES[system] in shown]
        canvas.legend([shown[label] for label in names], names, loc="outside right center")
    n = max(len(values[0]) for values in runs["macro_f1"].values())
    text = f"{title}: macro-F1 and accuracy by missing rate, mean ± sd over seeds (at most n = {n})."
    return Figure(name, text, drawn[0])


def differences(comparisons: Sequence[Comparison], name: str, text: str) -> Figure | None:
    """EMMR minus each system with its interval, a panel for each condition; macro-F1."""
    shown = [c for c in comparisons if c.metric == "macro_f1" and c.first == "emmr" and c.second in SYSTEMS]
    systems = [system for system in _SYSTEM_ORDER if any(c.second == system for c in shown)]
    if not shown:
        return None
    conditions = [condition for condition in CONDITIONS if any(c.condition == condition for c in shown)]
    with _drawing(name, 2 * (0.75 + 0.21 * len(systems))) as (canvas, drawn):
        panels = canvas.subplots(2, -(-len(conditions) // 2), sharex=True, sharey=True, squeeze=False).ravel()
        for axes, condition in zip(panels, conditions, strict=False):
            axes.axvline(0, color=INK, linewidth=0.9)
            for row, system in enumerate(systems):
                for c in (c for c in shown if (c.second, c.condition) == (system, condition)):
                    low, middle, high = (100 * v for v in (c.interval.low, c.interval.difference, c.interval.high))
                    colour = {1: _SERIES[1], -1: _SERIES[0], 0: GREY}[c.outcome]
                    axes.plot([low, high], [row, row], color=colour, linewidth=1.8, solid_capstyle="butt")
                    axes.plot([middle], [row], {1: "^", -1: "v", 0: "o"}[c.outcome], color=colour, markersize=5)
            axes.set_title(f"η = {condition}" if condition.startswith("0") else condition)
            axes.grid(visible=False, axis="y")
        panels[0].set_yticks(range(len(systems)), [f"− {NAMES[system]}" for system in systems])
        panels[0].set_ylim(len(systems) - 0.5, -0.5)
        canvas.supxlabel("macro-F1 of EMMR minus that of the system (points), 95% interval", fontsize=9)
    return Figure(name, text, drawn[0])


def embeddings(measures: Measures, corpora: Mapping[str, str]) -> Figure | None:
    """Macro-F1 and accuracy of EMMR by missing rate with each kind of word vectors (the paper's Fig. 4)."""
    found = [corpus for corpus in corpora if measures.values(corpus, "emmr", "test", "rates", 0.0, "macro_f1")]
    if not found:
        return None
    with _drawing("embeddings", 3.0) as (canvas, drawn):
        panels = canvas.subplots(1, 2)
        for axes, (metric, label) in zip(
            panels, {"macro_f1": "macro-F1 (%)", "accuracy": "accuracy (%)"}.items(), strict=True
        ):
            for corpus in found:
                values = [[100 * v for v in measures.values(corpus, "emmr", "test", "rates", r, metric)] for r in RATES]
                _line(axes, RATES, values, list(corpora).index(corpus), corpora[corpus])
            axes.set(xlabel="missing rate η", ylabel=label)
        canvas.legend(*panels[0].get_legend_handles_labels(), loc="outside right center")
    n = max(len(measures.values(corpus, "emmr", "test", "rates", 0.0, "macro_f1")) for corpus in found)
    text = f"EMMR on the sentences of CMU-MOSI with each kind of word vectors, mean ± sd over seeds (at most n = {n})."
    return Figure("embeddings", text, drawn[0])


def losses(measures: Measures, corpus: str, variants: Mapping[str, str]) -> Figure | None:
    """Training loss by epoch for each similarity of the forward and backward losses (the paper's Fig. 5)."""
    found = [v for v in variants if measures.conditions(corpus, v, "train", "losses", "forward")]
    if not found:
        return None
    with _drawing("losses", 2.9) as (canvas, drawn):
        panels = canvas.subplots(1, len(found), squeeze=False)[0]
        for axes, variant in zip(panels, found, strict=True):
            for number, part in enumerate(LOSSES):
                epochs = measures.conditions(corpus, variant, "train", "losses", part)
                values = [measures.values(corpus, variant, "train", "losses", epoch, part) for epoch in epochs]
                if epochs:
                    _line(axes, [int(epoch) for epoch in epochs], values, number, part)
            axes.set(title=variants[variant], xlabel="epoch")
            axes.set_ylim(bottom=0)
        panels[0].set_ylabel("mean training loss")
        canvas.legend(*panels[0].get_legend_handles_labels(), loc="outside right center")
    n = max(len(measures.values(corpus, variant, "train", "losses", 1, "forward")) for variant in found)
    text = f"Training loss by epoch, mean ± sd over seeds (at most n = {n}); all but the total before their weights."
    return Figure("losses", text, drawn[0])


def embedded(
    representations: Mapping[str, Mapping[str, FloatArray]], classes: Sequence[str], perplexity: float = 30.0
) -> Figure | None:
    """t-SNE of the joint representations, a row for each rate and a column for each variant (the paper's Fig. 7).

    Args:
        representations: variant → rate → `(N, D)`, and `labels` `(N,)`.
        classes: names.
        perplexity: of t-SNE; at most (N − 1) / 3.
    """
    if not representations:
        return None
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    shown = sorted({rate for arrays in representations.values() for rate in arrays if rate != "labels"}, key=float)
    count = max(len(arrays["labels"]) for arrays in representations.values())
    width = max(4.0, 0.4 + 2.5 * len(representations))
    with _drawing("embedded", 2.7 * len(shown) + 0.3, width) as (canvas, drawn):
        panels = canvas.subplots(len(shown), len(representations), squeeze=False)
        for column, (variant, arrays) in enumerate(representations.items()):
            for axes, rate in zip(panels[:, column], shown, strict=True):
                labels = arrays["labels"]
                model = TSNE(perplexity=min(perplexity, (len(labels) - 1) / 3), random_state=0, n_jobs=1)
                with threadpool_limits(1):  # sums in one order: the same figure every time
                    points = model.fit_transform(arrays[rate])
                for number, name in enumerate(classes):
                    own = points[labels == number]
                    axes.plot(
                        own[:, 0], own[:, 1], _MARKERS[number], label=name.replace("$", r"\$"), color=_SERIES[number],
                        markersize=3, alpha=0.6, markeredgewidth=0,
                    )  # fmt: skip
                axes.set(title=f"{NAMES[variant]}, η = {rate}", xticks=[], yticks=[], box_aspect=1)
        canvas.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(classes))
    text = f"t-SNE of the joint representations of {count} test items, seed 0; perplexity {perplexity:g}, no units."
    return Figure("embedded", text, drawn[0])


def parameters(measures: Measures, corpus: str) -> Figure | None:
    """Trained parameters of the networks (the paper's Fig. 9)."""
    variants = [*("tf", "tf+ae", "tf+mmin"), *(s for s in _SYSTEM_ORDER if s not in {"late-fusion", "classical"})]
    found = {v: n for v in variants if (n := measures.mean(corpus, v, "", "cost", "", "parameters"))}
    if not found:
        return None
    with _drawing("parameters", 0.7 + 0.24 * len(found), 7.2) as (canvas, drawn):
        axes = canvas.subplots()
        colours = [_SERIES[0] if variant == "emmr" or variant in ABLATIONS else GREY for variant in found]
        bars = axes.barh([NAMES[variant] for variant in found], list(found.values()), color=colours, height=0.7)
        axes.bar_label(bars, [f"{count:,.0f}" for count in found.values()], padding=3)
        axes.margins(x=0.15)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("trained parameters")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1e6:g} M" if value else "0")
    text = "Trained parameters with the configuration of the grid; EMMR and parts of it in colour."
    return Figure("parameters", text, drawn[0])


def costs(measures: Measures, corpora: Mapping[str, str]) -> Figure | None:
    """Mean macro-F1 over the missing rates against the operations of one complete utterance."""
    found = {
        corpus: [s for s in _SYSTEM_ORDER if measures.mean(corpus, s, "", "cost", "", "operations")]
        for corpus in corpora
    }
    found = {corpus: systems for corpus, systems in found.items() if systems}
    if not found:
        return None
    with _drawing("costs", 3.1) as (canvas, drawn):
        panels = canvas.subplots(1, len(found), squeeze=False)[0]
        for axes, (corpus, systems) in zip(panels, found.items(), strict=True):
            for system in systems:
                number = _SYSTEM_ORDER.index(system)
                seeds = np.mean(
                    [measures.values(corpus, system, "test", "rates", r, "macro_f1") for r in RATES], axis=0
                )
                operations = measures.mean(corpus, system, "", "cost", "", "operations")
                axes.plot(
                    [operations], [100 * seeds.mean()], _MARKERS[number], color=_SERIES[number],
                    label=NAMES[system], markersize=9 if number == 0 else 7,
                )  # fmt: skip
            axes.set(title=corpora[corpus], xlabel="operations", xscale="log")
        panels[0].set_ylabel("mean macro-F1 over rates (%)")
        widest = max(panels, key=lambda axes: len(axes.lines))
        canvas.legend(*widest.get_legend_handles_labels(), loc="outside right center")
    text = "Mean macro-F1 over the six missing rates and seeds, against the operations of one complete utterance."
    return Figure("costs", text, drawn[0])
