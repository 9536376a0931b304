"""An evaluation as one HTML file with diagrams, which loads nothing else.

Needs Matplotlib and Jinja, which the `train` extra installs; both are imported when a report is written.
"""

import base64
import io
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table

from model.errors import ConfigError
from model.training.evaluation import Evaluation
from model.training.report import tables, write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANEL: Final = 2.6  # inches
_COLUMNS: Final = 4
_CURVES: Final = {"entropy": "entropy", "one_minus_max": "1 − max probability", "score": "score"}  # the last on top
_TRUTHS: Final = {"key": "differs and is right", "changes": "differs"}

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
{% for figure in figures %}
<h2>{{ figure.title }}</h2>
<p>{{ figure.text }}</p>
<img src="data:image/svg+xml;base64,{{ figure.svg }}" alt="{{ figure.title }}">
{% endfor %}
{% if matrices %}
<h2>Confusion</h2>
<p>Rows: true class; columns: decision. Shades: share of the true class.</p>
<div class="matrices">
{% for matrix in matrices %}
<table><caption>{{ matrix.title }}</caption>
<tr><th></th>{% for name in classes %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in matrix.rows %}
<tr><th>{{ row.label }}</th>{% for cell in row.cells %}
<td style="background: rgba(31, 119, 180, {{ cell.shade }})">{{ cell.count }}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% endfor %}
</div>
{% endif %}
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


def write_report(evaluation: Evaluation, path: Path, title: str) -> None:
    """Write an evaluation as one HTML file, whole or not at all.

    Args:
        evaluation: what was measured.
        path: of the file; its folder is made where it does not exist.
        title: of the page.

    Raises:
        ConfigError: a package of the `train` extra is not installed.
    """
    check_packages()
    from jinja2 import Environment, StrictUndefined

    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(_PAGE)
    content = page.render(
        title=title,
        n=evaluation["n"],
        classes=evaluation["classes"],
        figures=list(_figures(evaluation)),
        matrices=list(_matrices(evaluation)),
        tables=[_table(table) for table in tables(evaluation)],
    )
    write_whole(content, path)


def _figures(evaluation: Evaluation) -> Iterable[dict[str, str]]:
    from matplotlib import rc_context

    # Equal evaluations give equal files: identifiers within an SVG are hashed with a salt that is else random.
    with rc_context({"svg.hashsalt": "emmr", "font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        diagrams = evaluation["diagrams"]
        # A corpus of single modalities is shown by corpus; its names stand in the text, not in the diagram.
        if diagrams["corpora"]:
            names = [f"{number} {name}" for number, name in enumerate(diagrams["corpora"], 1)]
            yield {
                "title": "Reliability by corpus",
                "text": f"Share of right decisions by confidence, {_SHADE}. Corpora: {', '.join(names)}.",
                "svg": _reliability(dict(enumerate(diagrams["corpora"].values(), 1))),
            }
        else:
            yield {
                "title": "Reliability by what is present",
                "text": f"Share of right decisions by confidence, {_SHADE}.",
                "svg": _reliability(diagrams["reliability"]),
            }
        if "verdict" in diagrams:
            yield {
                "title": "Key missing modality: precision and recall",
                "text": "True: the complete input's decision differs from the available-only one (and is right). "
                "Over one and two missing; the dot is what is reported.",
                "svg": _precision_recall(diagrams["verdict"]),
            }
            yield {
                "title": "Key missing modality: reliability of the score",
                "text": f"Share of true cases by score, {_SHADE}.",
                "svg": _reliability(
                    {_TRUTHS[name]: part["calibration"] for name, part in diagrams["verdict"].items()},
                    "score",
                    "share true",
                ),
            }


_SHADE: Final = "15 bins; the darker a bar, the more cases"


def _reliability(parts: Mapping[Any, Mapping[str, Any]], x: str = "confidence", y: str = "share right") -> str:
    columns = min(_COLUMNS, len(parts))
    rows = -(-len(parts) // columns)
    figure = _canvas(columns, rows)
    for at, (name, bins) in enumerate(parts.items(), 1):
        axes = figure.add_subplot(rows, columns, at)
        total, width = max(1, sum(bins["count"])), 1 / len(bins["count"])
        most = max(1, *bins["count"])
        for number, (count, accuracy) in enumerate(zip(bins["count"], bins["accuracy"], strict=True)):
            if count:
                axes.bar(
                    number * width, accuracy, width, align="edge", color="tab:blue", alpha=0.15 + 0.85 * count / most
                )
        shown = [(c, a) for c, a, n in zip(bins["confidence"], bins["accuracy"], bins["count"], strict=True) if n]
        axes.plot([c for c, _ in shown], [a for _, a in shown], "o-", color="black", markersize=2, linewidth=0.8)
        axes.plot([0, 1], [0, 1], "--", color="grey", linewidth=0.8)
        _square(axes, f"{name} (n = {total})", x, y)
    return _svg(figure)


def _precision_recall(verdict: Mapping[str, Any]) -> str:
    figure = _canvas(len(verdict), 1, 1.5)
    for at, (truth, part) in enumerate(verdict.items(), 1):
        axes = figure.add_subplot(1, len(verdict), at)
        for name, label in _CURVES.items():
            curve = part["precision_recall"].get(name)
            if curve is not None:
                axes.step(curve["recall"], curve["precision"], where="pre", label=label, linewidth=1)
        reported = part["reported"]
        if reported["recall"] is not None and reported["precision"] is not None:
            axes.plot([reported["recall"]], [reported["precision"]], "o", color="black", label="reported")
        _square(axes, _TRUTHS[truth], "recall", "precision")
        if axes.get_legend_handles_labels()[1]:
            axes.legend(frameon=False)
    return _svg(figure)


def _canvas(columns: int, rows: int, scale: float = 1.0) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(_PANEL * scale * columns, _PANEL * scale * rows), layout="constrained")


def _square(axes: "Axes", title: str, x: str, y: str) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1.02), title=title, xlabel=x, ylabel=y)
    axes.set_box_aspect(1)


def _svg(figure: "Figure") -> str:
    """As base64, for an `img` element: identifiers of several SVGs in one page would else collide."""
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    return base64.b64encode(stream.getvalue()).decode("ascii")


def _matrices(evaluation: Evaluation) -> Iterable[dict[str, Any]]:
    corpora = evaluation["corpora"]
    parts = evaluation["patterns"] if corpora is None else corpora["by_corpus"]
    for name, figures in parts.items():
        if not figures["n"]:
            continue
        rows = [
            {
                "label": label,
                "cells": [{"count": count, "shade": f"{0.6 * count / max(1, sum(counts)):.2f}"} for count in counts],
            }
            for label, counts in zip(evaluation["classes"], figures["confusion"], strict=True)
        ]
        yield {"title": name, "rows": rows}


def _table(table: Table) -> dict[str, Any]:
    return {
        "title": str(table.title),
        "headers": [str(column.header) for column in table.columns],
        "rows": [list(map(str, cells)) for cells in zip(*(column.cells for column in table.columns), strict=True)],
    }
