"""An evaluation as one HTML file with diagrams, which loads nothing else.

Needs Matplotlib and Jinja, which the `train` extra installs; both are imported when a report is written.
"""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from model.errors import ConfigError
from model.training.evaluation import Evaluation
from model.training.report import ReportTable, tables, write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from model.training.progress import FitReport

_PANEL: Final = 2.6  # inches
_COLUMNS: Final = 4
_CURVES: Final = {"entropy": "entropy", "one_minus_max": "1 − max probability", "score": "score"}  # the last on top
_TRUTHS: Final = {"key": "differs and is right", "changes": "differs"}
_SHADE: Final = "15 bins; the darker a bar, the more cases"

_PAGE: Final = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 80rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem }
div { overflow-x: auto } img { max-width: 100%; height: auto }
table { border-collapse: collapse; font-size: .85rem } th, td { padding: .2rem .6rem; border-bottom: 1px solid #ddd }
th, td { text-align: right; white-space: nowrap } th:first-child, td:first-child { text-align: left }
caption { text-align: left; font-weight: 600; padding: .3rem 0 } .matrices { display: flex; flex-wrap: wrap; gap: 2rem }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p>{{ n }} items; classes {{ classes | join(", ") }}.</p>
{% for note in notes %}
<p>{{ note }}</p>
{% endfor %}
{% for figure in figures %}
<h2>{{ figure.title }}</h2>
<p>{{ figure.text }}</p>
<img src="data:image/svg+xml;base64,{{ figure.svg }}" alt="{{ figure.title }}">
{% endfor %}
<h2>Confusion</h2>
<p>Rows: true class; columns: decision. Shades: share of the true class.</p>
<div class="matrices">
{% for name, figures in parts.items() if figures.n %}
<table><caption>{{ name }}</caption>
<tr><th></th>{% for name in classes %}<th>{{ name }}</th>{% endfor %}</tr>
{% for counts in figures.confusion %}
{% set total = [1, counts | sum] | max %}
<tr><th>{{ classes[loop.index0] }}</th>{% for count in counts %}
<td style="background: rgba(31, 119, 180, {{ "%.2f" | format(0.6 * count / total) }})">{{ count }}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% endfor %}
</div>
{% for table in tables %}
<h2>{{ table.title }}</h2>
<div><table>
<tr>{% for header in table.headers %}<th>{{ header }}</th>{% endfor %}</tr>
{% for row in table.rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table></div>
{% endfor %}
</body>
</html>
"""


def check_packages() -> None:
    """Make sure that a report can be written.

    Raises:
        ConfigError: a package of the `train` extra is not installed.
    """
    for package in ("matplotlib", "jinja2"):
        if find_spec(package) is None:
            raise ConfigError(f"an HTML report needs {package}: pip install 'emmr[train]'")


def write_report(
    evaluation: Evaluation,
    path: Path,
    title: str,
    course: "FitReport | None" = None,
    notes: Sequence[str] = (),
    first: Sequence[ReportTable] = (),
) -> None:
    """Write an evaluation as one HTML file, whole or not at all.

    Args:
        evaluation: what was measured.
        path: of the file; its folder is made where it does not exist.
        title: of the page.
        course: of the training, for its curves.
        notes: sentences at the top of the page.
        first: tables before those of the evaluation.

    Raises:
        ConfigError: a package of the `train` extra is not installed.
    """
    check_packages()
    from jinja2 import Environment, StrictUndefined

    corpora = evaluation["corpora"]
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(_PAGE)
    content = page.render(
        title=title,
        n=evaluation["n"],
        classes=evaluation["classes"],
        notes=notes,
        figures=list(_figures(evaluation, course)),
        parts=evaluation["patterns"] if corpora is None else corpora["by_corpus"],
        tables=[*first, *tables(evaluation)],
    )
    write_whole(content, path)


def _figures(evaluation: Evaluation, course: "FitReport | None") -> Iterator[dict[str, str]]:
    from matplotlib import rc_context

    diagrams = evaluation["diagrams"]
    corpora, verdict = diagrams["corpora"], diagrams.get("verdict")
    # Equal evaluations give equal files: identifiers within an SVG are hashed with a salt that is otherwise random.
    with rc_context({"svg.hashsalt": "emmr", "font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        if course is not None and course.losses:
            yield {
                "title": "Course of the training",
                "text": "Mean training loss and validation macro-F1 (mean over what is present) of each epoch; the "
                "dashed line is the epoch that is kept.",
                "svg": _course(course),
            }
        # A corpus of single modalities is shown by corpus; its names stand in the text, not in the diagram.
        names = ", ".join(f"{number} {name}" for number, name in enumerate(corpora, 1))
        yield {
            "title": "Reliability by corpus" if corpora else "Reliability by what is present",
            "text": f"Share of right decisions by confidence, {_SHADE}." + (f" Corpora: {names}." if corpora else ""),
            "svg": _reliability(dict(enumerate(corpora.values(), 1)) if corpora else diagrams["reliability"]),
        }
        if verdict is not None:
            yield {
                "title": "Key missing modality: precision and recall",
                "text": "True: the complete input's decision differs from the available-only one (and is right). "
                "Over one and two missing; the dot is what is reported.",
                "svg": _precision_recall(verdict),
            }
            bins = {_TRUTHS[name]: part["calibration"] for name, part in verdict.items()}
            yield {
                "title": "Key missing modality: reliability of the score",
                "text": f"Share of true cases by score, {_SHADE}.",
                "svg": _reliability(bins, "score", "share true"),
            }


def _reliability(parts: Mapping[Any, Mapping[str, Any]], x: str = "confidence", y: str = "share right") -> str:
    columns = min(_COLUMNS, len(parts))
    figure, panels = _panels(len(parts), columns)
    for axes, (name, bins) in zip(panels, parts.items(), strict=True):
        count, confidence, accuracy = (np.array(bins[key]) for key in ("count", "confidence", "accuracy"))
        used, left = count > 0, np.arange(count.size) / count.size
        shades = [("tab:blue", 0.15 + 0.85 * share) for share in count[used] / max(1, count.max())]
        axes.bar(left[used], accuracy[used], 1 / count.size, align="edge", color=shades)
        axes.plot(confidence[used], accuracy[used], "o-", color="black", markersize=2, linewidth=0.8)
        axes.plot([0, 1], [0, 1], "--", color="grey", linewidth=0.8)
        axes.set(title=f"{name} (n = {count.sum()})", xlabel=x, ylabel=y)
    return _svg(figure)


def _course(course: "FitReport") -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2 * _PANEL * 1.5, _PANEL), layout="constrained")
    epochs = range(1, len(course.history) + 1)
    curves = {"training loss": [losses["total"] for losses in course.losses], "validation macro-F1": course.history}
    for position, (name, values) in enumerate(curves.items(), start=1):
        axes = figure.add_subplot(1, len(curves), position)
        axes.plot(epochs, values, "o-", markersize=2, linewidth=1)
        axes.axvline(course.best_epoch, linestyle="--", color="grey", linewidth=0.8)
        axes.set(title=name, xlabel="epoch")
    return _svg(figure)


def _precision_recall(verdict: Mapping[str, Any]) -> str:
    figure, panels = _panels(len(verdict), len(verdict), 1.5)
    for axes, (truth, part) in zip(panels, verdict.items(), strict=True):
        for name, label in _CURVES.items():
            if (curve := part["precision_recall"].get(name)) is not None:
                axes.step(curve["recall"], curve["precision"], where="pre", label=label, linewidth=1)
        recall, precision = part["reported"]["recall"], part["reported"]["precision"]
        if recall is not None and precision is not None:
            axes.plot([recall], [precision], "o", color="black", label="reported")
        axes.set(title=_TRUTHS[truth], xlabel="recall", ylabel="precision")
        if axes.get_legend_handles_labels()[1]:
            axes.legend(frameon=False)
    return _svg(figure)


def _panels(count: int, columns: int, scale: float = 1.0) -> tuple["Figure", list["Axes"]]:
    """A figure of square panels from 0 to 1, made without pyplot, which would keep it in memory."""
    from matplotlib.figure import Figure

    rows = -(-count // columns)
    figure = Figure(figsize=(_PANEL * scale * columns, _PANEL * scale * rows), layout="constrained")
    limits = {"xlim": (0, 1), "ylim": (0, 1.02), "box_aspect": 1}
    return figure, [figure.add_subplot(rows, columns, at, **limits) for at in range(1, count + 1)]


def _svg(figure: "Figure") -> str:
    """As base64, for an `img` element: identifiers of several SVGs in one page would collide."""
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    return base64.b64encode(stream.getvalue()).decode("ascii")
