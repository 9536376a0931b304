"""An evaluation as tables on a screen, as a JSON file, and as Markdown for a model card.

For: people reading figures.
Does not know: how they were measured (`model.training.evaluation`).
"""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from model.training.evaluation import Evaluation, Scores

_NOTHING = "–"


def write_json(evaluation: Evaluation, path: Path) -> None:
    """Write an evaluation, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".partial")
    aside.write_text(json.dumps(evaluation, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    aside.replace(path)


def tables(evaluation: Evaluation) -> Iterable[Table]:
    """The tables of an evaluation, for `rich.console.Console.print`."""
    yield _patterns(evaluation)
    yield _rates(evaluation)
    if evaluation["decided_by"]:
        yield _decided_by(evaluation["decided_by"])
    if evaluation["key_missing"] is not None:
        yield _key_missing(evaluation["key_missing"])
    if evaluation["gate"] is not None:
        yield _gate(evaluation["gate"])


def markdown(evaluations: Sequence[Evaluation]) -> str:
    """Tables by pattern and by rate for a model card: one run's figures, or mean ± standard deviation over several.

    Args:
        evaluations: of the same items, one for each training seed.

    Raises:
        ValueError: there are none, or they are not of the same items.
    """
    if not evaluations:
        raise ValueError("there is no evaluation to show")
    first = evaluations[0]
    if any(other["classes"] != first["classes"] or other["n"] != first["n"] for other in evaluations):
        raise ValueError("the evaluations are not of the same items")
    by_pattern = [
        (name, [evaluation["patterns"][name] for evaluation in evaluations], scores["n"])
        for name, scores in first["patterns"].items()
    ]
    by_rate = [
        (name, [evaluation["rates"][name] for evaluation in evaluations], scores["n"])
        for name, scores in first["rates"].items()
    ]
    return "\n".join((*_markdown_table("Present", by_pattern), "", *_markdown_table("Missing rate", by_rate), ""))


def _markdown_table(first: str, rows: Sequence[tuple[str, Sequence[Mapping[str, Any]], int]]) -> Iterable[str]:
    yield f"| {first} | Macro-F1 | Accuracy | Items |"
    yield "| --- | ---: | ---: | ---: |"
    for name, runs, count in rows:
        shown = (_mean([run[key] for run in runs]) for key in ("macro_f1", "accuracy"))
        yield f"| {name} | {' | '.join(shown)} | {count} |"


def _mean(values: Sequence[float | None]) -> str:
    figures = [value for value in values if value is not None]
    if len(figures) < len(values):
        return _NOTHING
    if len(figures) == 1:
        return f"{figures[0]:.3f}"
    return f"{statistics.fmean(figures):.3f} ± {statistics.stdev(figures):.3f}"


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for other in others:
        table.add_column(other, justify="right")
    return table


def _patterns(evaluation: Evaluation) -> Table:
    table = _table("By what is present", "present", "macro-F1", "accuracy", "items", "left out")
    for name, scores in evaluation["patterns"].items():
        table.add_row(name, *_both(scores), str(scores["n"]), str(scores["left_out"]))
    return table


def _rates(evaluation: Evaluation) -> Table:
    table = _table("By missing rate", "rate", "macro-F1", "accuracy", "items")
    for rate, scores in evaluation["rates"].items():
        table.add_row(rate, *_both(scores), str(scores["n"]))
    return table


def _decided_by(kinds: Mapping[str, Mapping[str, Scores]]) -> Table:
    names = list(next(iter(kinds.values())))
    table = _table("Accuracy by what carries the label", "carried by", *names, "items")
    for kind, patterns in kinds.items():
        most = max(scores["n"] for scores in patterns.values())
        table.add_row(kind, *(_figure(patterns[name]["accuracy"]) for name in names), str(most))
    return table


def _key_missing(report: Mapping[str, Any]) -> Table:
    table = _table("Key missing modality", "over", "AUROC", "precision", "recall", "F1", "detected", "true", "items")
    for name, part in (("all", report), *report["by_pattern"].items(), *report["by_decided_by"].items()):
        figures = (_figure(part[key]) for key in ("auroc", "precision", "recall", "f1"))
        table.add_row(name, *figures, *(str(part[key]) for key in ("detected", "positives", "n")))
    return table


def _gate(report: Mapping[str, Any]) -> Table:
    title = f"Gate: ensemble used for {report['inconsistent']} of {report['n']} ({report['share']:.1%})"
    table = _table(title, "path", "accuracy there", "macro-F1 there", "accuracy over all", "macro-F1 over all")
    for path, there in report["on_inconsistent"].items():
        overall = report["on_all"][path]
        table.add_row(path, *reversed(_both(there)), *reversed(_both(overall)))
    for other, metrics in report["gated_minus"].items():
        shown = (f"{m['difference']:+.4f} [{m['low']:+.4f}, {m['high']:+.4f}]" for m in metrics.values())
        table.add_row(f"gated minus {other}", "", "", *shown)
    return table


def _both(scores: Mapping[str, Any]) -> tuple[str, str]:
    return _figure(scores["macro_f1"]), _figure(scores["accuracy"])


def _figure(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.4f}"
