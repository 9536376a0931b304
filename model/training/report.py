"""An evaluation as tables on a screen, as a JSON file, and as Markdown for a model card.

How figures are defined is told in `model.training.evaluation`; ECE is the calibration error of 15 bins.
"""

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from model.training.evaluation import Evaluation, Scores, Step

_NOTHING = "–"
_FIGURES: Final = {
    "macro_f1": "macro-F1",
    "accuracy": "accuracy",
    "uar": "UAR",
    "log_loss": "log loss",
    "calibration_error": "ECE",
}
"""Figures of a subset or corpus, and their columns."""
_SCORES: Final = {
    "score": "score",
    "rule": "paper's rule",
    "one_minus_max": "1 − max probability",
    "entropy": "entropy",
    "disagreement": "disagreement of votes",
}
_GATES: Final = {
    "answer": "the answer's",
    "rule": "by the paper's rule",
    "score": "by the score",
    "never": "never",
    "always": "always",
}


def write_json(evaluation: Evaluation, path: Path) -> None:
    """Write an evaluation, whole or not at all; lists are on one line each."""
    write_whole("".join(_json(evaluation, "")) + "\n", path)


def write_whole(content: str, path: Path) -> None:
    """Write a text file, whole or not at all; its folder is made where it does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".partial")
    aside.write_text(content, encoding="utf-8")
    aside.replace(path)


def tables(evaluation: Evaluation) -> Iterable[Table]:
    """The tables of an evaluation, for `rich.console.Console.print`; none for what was not measured."""
    corpora, verdict = evaluation["corpora"], evaluation["key_missing"]
    if corpora is not None:
        yield _corpora(corpora)
        yield _confusions(corpora["by_corpus"], evaluation["classes"])
    else:
        yield _patterns(evaluation)
        yield _rates(evaluation)
    if evaluation["decided_by"]:
        yield _decided_by(evaluation["decided_by"])
    if evaluation["steps"]:
        yield _steps(evaluation["steps"])
    if verdict is not None:
        yield _key_missing(verdict)
        yield _key_changes(verdict)
        yield _key_scores(verdict)
        yield _key_intervals(verdict)
        yield _first_named(verdict["first_named"])
        if verdict["by_modality"]:
            yield _by_modality(verdict["by_modality"])
    if evaluation["gate"] is not None:
        yield _gate(evaluation["gate"])
        yield _gate_intervals(evaluation["gate"])


def markdown(evaluations: Sequence[Evaluation]) -> str:
    """Tables for a model card: one run's figures, or mean ± standard deviation over several.

    By corpus where items hold a single modality; else by pattern, by rate, and of the key-missing verdict.

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
    if first["corpora"] is not None:
        runs = [evaluation["corpora"] for evaluation in evaluations]
        by_corpus = [
            (name, [run["by_corpus"][name] for run in runs if run is not None], scores["n"])
            for name, scores in first["corpora"]["by_corpus"].items()
        ]
        return "\n".join((*_markdown_table("Corpus", by_corpus, CORPUS_COLUMNS), ""))
    by_pattern = [
        (name, [evaluation["patterns"][name] for evaluation in evaluations], scores["n"])
        for name, scores in first["patterns"].items()
    ]
    by_rate = [
        (name, [evaluation["rates"][name] for evaluation in evaluations], scores["n"])
        for name, scores in first["rates"].items()
    ]
    shown = [*_markdown_table("Present", by_pattern, PATTERN_COLUMNS), ""]
    shown += [*_markdown_table("Missing rate", by_rate, RATE_COLUMNS), ""]
    verdicts = [evaluation["key_missing"] for evaluation in evaluations]
    if all(verdict is not None for verdict in verdicts):
        rows = [
            (name, [_verdict_figures(verdict, part) for verdict in verdicts if verdict is not None], None)
            for name, part in (("one or two", None), ("one", "one_missing"), ("two", "two_missing"))
        ]
        shown += [*_markdown_table("Missing", rows, VERDICT_COLUMNS), ""]
    return "\n".join(shown)


Columns = Mapping[str, str]
"""Key of a figure → heading."""

PATTERN_COLUMNS: Final[Columns] = {
    "macro_f1": "Macro-F1",
    "accuracy": "Accuracy",
    "calibration_error": "Calibration error",
}
RATE_COLUMNS: Final[Columns] = {"macro_f1": "Macro-F1", "accuracy": "Accuracy"}
CORPUS_COLUMNS: Final[Columns] = {
    "uar": "Unweighted recall",
    "macro_f1": "Macro-F1",
    "log_loss": "Log loss",
    "calibration_error": "Calibration error",
}
VERDICT_COLUMNS: Final[Columns] = {
    "auroc": "AUROC",
    "one_minus_max auroc": "of 1 − max",
    "average_precision": "Average precision",
    "one_minus_max average_precision": "of 1 − max ",
    "calibration_error": "Calibration error",
    "detected_share": "Reported",
    "true_share": "Key in truth",
    "changes": "Answer changes",
}


def _verdict_figures(verdict: Mapping[str, Any], part: str | None) -> dict[str, float | None]:
    """Figures of the key-missing verdict in a row; the calibration error is of what the score says: a change."""
    own = verdict if part is None else verdict[part]
    other = own["scores"]["one_minus_max"]
    return {
        **{name: own[name] for name in ("auroc", "average_precision", "detected_share", "true_share")},
        "one_minus_max auroc": other["auroc"],
        "one_minus_max average_precision": other["average_precision"],
        "calibration_error": own["changes"]["calibration_error"],
        "changes": own["changes"]["true_share"],
    }


def _markdown_table(
    first: str, rows: Sequence[tuple[str, Sequence[Mapping[str, Any]], int | None]], columns: Columns
) -> Iterable[str]:
    counted = any(count is not None for _, _, count in rows)
    headings = [first, *columns.values(), *(["Items"] if counted else [])]
    yield "| " + " | ".join(headings) + " |"
    yield "| --- |" + " ---: |" * (len(headings) - 1)
    for name, runs, count in rows:
        shown = [_mean([run[key] for run in runs]) for key in columns]
        yield f"| {name} | " + " | ".join([*shown, *([str(count)] if counted else [])]) + " |"


def _mean(values: Sequence[float | None]) -> str:
    figures = [value for value in values if value is not None]
    if len(figures) < len(values):
        return _NOTHING
    if len(figures) == 1:
        return f"{figures[0]:.3f}"
    return f"{statistics.fmean(figures):.3f} ± {statistics.stdev(figures):.3f}"


def _json(value: object, indent: str) -> Iterator[str]:
    """As `json.dumps`, a line for each member of an object and each object of a list."""
    deeper = indent + "  "
    if isinstance(value, Mapping) and value:
        yield "{"
        for number, (key, member) in enumerate(value.items()):
            yield f"{',' if number else ''}\n{deeper}{json.dumps(key)}: "
            yield from _json(member, deeper)
        yield f"\n{indent}}}"
    elif isinstance(value, list) and any(isinstance(member, Mapping) for member in value):
        yield "["
        for number, member in enumerate(value):
            yield f"{',' if number else ''}\n{deeper}"
            yield from _json(member, deeper)
        yield f"\n{indent}]"
    else:
        yield json.dumps(value, allow_nan=False)


def _table(title: str, first: str, *others: str | Text) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for other in others:
        table.add_column(other, justify="right")
    return table


def _patterns(evaluation: Evaluation) -> Table:
    table = _table("By what is present", "present", *_FIGURES.values(), "items", "left out")
    for name, scores in evaluation["patterns"].items():
        table.add_row(name, *_each(scores, _FIGURES), str(scores["n"]), str(scores["left_out"]))
    return table


def _rates(evaluation: Evaluation) -> Table:
    table = _table("By missing rate", "rate", "macro-F1", "accuracy", "items")
    for rate, scores in evaluation["rates"].items():
        table.add_row(rate, *_both(scores), str(scores["n"]))
    return table


def _corpora(corpora: Mapping[str, Any]) -> Table:
    table = _table("By corpus, a single modality", "corpus", "modality", *_FIGURES.values(), "items")
    for name, figures in corpora["by_corpus"].items():
        table.add_row(Text(name), figures["modality"], *_each(figures, _FIGURES), str(figures["n"]))
    table.add_row("mean of corpora", "", *_each(corpora["mean"], _FIGURES), "")
    return table


def _confusions(corpora: Mapping[str, Any], classes: Sequence[str]) -> Table:
    table = _table("Decisions by corpus and true class", "corpus", "true class", *map(Text, classes))
    for name, figures in corpora.items():
        for label, counts in zip(classes, figures["confusion"], strict=True):
            table.add_row(Text(name), Text(label), *map(str, counts))
    return table


def _decided_by(kinds: Mapping[str, Mapping[str, Scores]]) -> Table:
    names = list(next(iter(kinds.values())))
    table = _table("Accuracy by what carries the label", "carried by", *names, "items")
    for kind, patterns in kinds.items():
        most = max(scores["n"] for scores in patterns.values())
        table.add_row(Text(kind), *(_figure(patterns[name]["accuracy"]) for name in names), str(most))
    return table


def _steps(steps: Sequence[Step]) -> Table:
    lowering = sum(step["lowers"] for step in steps)
    title = f"A modality added: macro-F1 is lower in {lowering} of {len(steps)} steps"
    table = _table(title, "from", "added", "without", "with", "difference", "lower", "items")
    for step in steps:
        figures = (_figure(step["macro_f1_before"]), _figure(step["macro_f1_after"]), _interval(step))
        table.add_row(step["before"], step["added"], *figures, "yes" if step["lowers"] else "no", str(step["n"]))
    return table


def _key_parts(report: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield "all", report
    yield "one missing", report["one_missing"]
    yield "two missing", report["two_missing"]
    yield from report["by_pattern"].items()
    for kind, part in report["by_decided_by"].items():
        yield f"carried by {kind}", part


_VERDICT: Final = {
    "auroc": "AUROC",
    "average_precision": "AP",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "calibration_error": "ECE",
}
_RANKING: Final = {"auroc": "AUROC", "average_precision": "AP"}
_SHARES: Final = {"detected_share": "reported", "true_share": "true"}


def _verdict(title: str, parts: Iterable[tuple[str, Mapping[str, Any]]]) -> Table:
    table = _table(title, "over", *_VERDICT.values(), *_SHARES.values(), "ratio", "cases")
    for name, part in parts:
        shares = ((_NOTHING if part[key] is None else f"{part[key]:.1%}") for key in _SHARES)
        ratio = _NOTHING if part["ratio"] is None else f"{part['ratio']:.2f}"
        table.add_row(Text(name), *_each(part, _VERDICT), *shares, ratio, str(part["n"]))
    return table


def _key_missing(report: Mapping[str, Any]) -> Table:
    title = "Key missing modality; true: the complete input's decision differs from the available-only one and is right"
    return _verdict(title, _key_parts(report))


def _key_changes(report: Mapping[str, Any]) -> Table:
    title = "The decision changes; true: the complete input's decision differs from the available-only one"
    return _verdict(title, ((name, {**part["changes"], "n": part["n"]}) for name, part in _key_parts(report)))


def _key_truths(report: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Mapping[str, Any]]]]:
    """What is true, and its figures of all, one missing and two missing."""
    parts = {"all": report, "one missing": report["one_missing"], "two missing": report["two_missing"]}
    yield "key", parts
    yield "changes", {name: part["changes"] for name, part in parts.items()}


def _key_scores(report: Mapping[str, Any]) -> Table:
    columns = [f"{figure}, {part}" for part in ("all", "one missing", "two missing") for figure in _RANKING.values()]
    table = _table("Scores for a key missing modality, and for a change of the decision", "score", "true", *columns)
    for truth, parts in _key_truths(report):
        for score, title in _SCORES.items():
            figures = (figure for part in parts.values() for figure in _each(part["scores"][score], _RANKING))
            table.add_row(title, truth, *figures)
    return table


def _key_intervals(report: Mapping[str, Any]) -> Table:
    table = _table("Score minus 1 − max probability", "over", "true", *_RANKING.values(), "cases")
    for truth, parts in _key_truths(report):
        for name, part in parts.items():
            intervals = (_interval(part["score_minus_one_minus_max"][figure]) for figure in _RANKING)
            table.add_row(name, truth, *intervals, str(part["n"]))
    return table


def _first_named(report: Mapping[str, Any]) -> Table:
    counts = f"one of them: {report['either']}, both: {report['both']}, neither: {report['neither']}"
    title = f"Named first where two are missing, over {report['n']} true cases (giving alone decides: {counts})"
    table = _table(title, "over", "right", "by chance", "cases")
    names = {"reported": "reported", "all": "likeliest of all", "decidable": "likeliest where one alone decides"}
    for name, told in names.items():
        table.add_row(told, *_each(report[name], ("share", "chance")), str(report[name]["n"]))
    return table


def _by_modality(report: Mapping[str, Any]) -> Table:
    title = "Score of each missing modality; true: giving it alone changes the available-only answer"
    table = _table(title, "modality", "mean score", "true", "AUROC", "ECE", "cases")
    for name, part in report.items():
        table.add_row(name, *_each(part, ("mean_score", "true_share", "auroc", "calibration_error")), str(part["n"]))
    return table


def _gate(report: Mapping[str, Any]) -> Table:
    columns = ("used", "macro-F1", "accuracy", "accuracy where used", "without it there", "cases")
    table = _table("Gate, over one and two missing", "ensemble", *columns)
    for name, gate in report["gates"].items():
        there = [_figure(gate["where_used"][path]["accuracy"]) for path in ("gate", "never")]
        table.add_row(_GATES[name], f"{gate['share']:.1%}", *_both(gate), *there, str(gate["n"]))
    return table


def _gate_intervals(report: Mapping[str, Any]) -> Table:
    table = _table("Gate, differences from never and from always", "ensemble", "minus", "macro-F1", "accuracy")
    for name, gate in report["gates"].items():
        for other in ("never", "always"):
            if (minus := gate.get(f"minus_{other}")) is not None:
                table.add_row(_GATES[name], other, _interval(minus["macro_f1"]), _interval(minus["accuracy"]))
    return table


def _both(scores: Mapping[str, Any]) -> tuple[str, str]:
    return _figure(scores["macro_f1"]), _figure(scores["accuracy"])


def _each(figures: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    return [_figure(figures[name]) for name in names]


def _interval(interval: Mapping[str, Any] | None) -> str:
    if interval is None:
        return _NOTHING
    return f"{interval['difference']:+.3f} [{interval['low']:+.3f}, {interval['high']:+.3f}]"


def _figure(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.4f}"
