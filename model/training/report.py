"""An evaluation as tables for a screen, an HTML page and a model card, and as a JSON file."""

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from model.training.evaluation import Evaluation

_NOTHING = "–"
Columns = Mapping[str, str]
"""Heading → what `str.format` takes within braces: the field of a row, and a format where it is not the usual one."""

_SCORES: Final = {
    "score": "score",
    "rule": "paper's rule",
    "one_minus_max": "1 − max probability",
    "entropy": "entropy",
    "disagreement": "disagreement of votes",
}
GATES: Final = {
    "answer": "the answer's",
    "rule": "by the paper's rule",
    "score": "by the score",
    "never": "never",
    "always": "always",
}
"""Gate of `model.training.key_missing.gate` → its name in tables."""
_NAMED: Final = {"reported": "reported", "all": "likeliest of all", "decidable": "likeliest where one alone decides"}
_BOTH: Final[Columns] = {"macro-F1": "macro_f1", "accuracy": "accuracy"}
_ECE: Final[Columns] = {"ECE": "calibration_error"}  # expected calibration error, 15 bins
_FIGURES: Final[Columns] = {**_BOTH, "UAR": "uar", "log loss": "log_loss", **_ECE}
_RANKING: Final[Columns] = {"AUROC": "auroc", "AP": "average_precision"}
_SHARES: Final[Columns] = {"reported": "detected_share:.1%", "true": "true_share:.1%", "ratio": "ratio:.2f"}
_DETECTION: Final[Columns] = {**_RANKING, "precision": "precision", "recall": "recall", "F1": "f1", **_ECE, **_SHARES}
_ORDINAL: Final[Columns] = {
    "MAE": "mae",
    "r": "pearson",
    "Acc-2 (−/0+)": "accuracy2_non_negative",
    "F1 (−/0+)": "f1_non_negative",
    "Acc-2 (−/+)": "accuracy2_positive",
    "F1 (−/+)": "f1_positive",
    "Acc-5": "accuracy5",
    "Acc-7": "accuracy7",
}
# Of the Markdown tables.
_ITEMS: Final = {"Calibration error": "calibration_error", "Items": "n"}
_RATE_COLUMNS: Final = {"Macro-F1": "macro_f1", "Accuracy": "accuracy", "Items": "n"}
_PATTERN_COLUMNS: Final = {"Macro-F1": "macro_f1", "Accuracy": "accuracy", **_ITEMS}
_CORPUS_COLUMNS: Final = {"Unweighted recall": "uar", "Macro-F1": "macro_f1", "Log loss": "log_loss", **_ITEMS}
_VERDICT_COLUMNS: Final[Columns] = {
    "AUROC": "auroc",
    "of 1 − max": "scores[one_minus_max][auroc]",
    "Average precision": "average_precision",
    "of 1 − max ": "scores[one_minus_max][average_precision]",  # the space makes the heading unique
    "Calibration error": "changes[calibration_error]",  # the score is the probability of a change
    "Reported": "detected_share",
    "Key in truth": "true_share",
    "Answer changes": "changes[true_share]",
}


class _CellFormatter(Formatter):
    """`str.format` with a dash for None, four decimals by default, and a difference with its interval for a mapping."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if value is None:
            return _NOTHING
        if isinstance(value, Mapping):
            return f"{value['difference']:+.3f} [{value['low']:+.3f}, {value['high']:+.3f}]"
        return format(value, format_spec or (".4f" if isinstance(value, float) else ""))


_FORMATTER: Final = _CellFormatter()


@dataclass(frozen=True, slots=True)
class ReportTable:
    """A table of formatted cells; `rich.console.Console.print` shows it.

    Args:
        title: of the table.
        headers: of the columns, the first of which names the row.
        rows: as many cells each.
    """

    title: str
    headers: list[str]
    rows: list[list[str]]

    @classmethod
    def of(cls, title: str, columns: Columns, rows: Iterable[Mapping[str, Any]]) -> "ReportTable":
        """Format every column's field of every row."""
        cells = [[_FORMATTER.vformat(f"{{{field}}}", (), row) for field in columns.values()] for row in rows]
        return cls(title, list(columns), cells)

    def __rich__(self) -> Table:
        """The table for a screen."""
        # Names of corpora, classes and kinds are data: as `Text` they are not parsed as markup.
        table = Table(title=Text(self.title, style="table.title"), title_justify="left")
        for number, header in enumerate(self.headers):
            table.add_column(Text(header), justify="right" if number else "left")
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table

    def markdown(self, alignment: str = "---") -> Iterator[str]:
        """Lines of a Markdown table.

        Args:
            alignment: of the columns after the first, as Markdown writes it.
        """
        yield "| " + " | ".join(self.headers) + " |"
        yield "| --- |" + f" {alignment} |" * (len(self.headers) - 1)
        for row in self.rows:
            yield "| " + " | ".join(row) + " |"


def tables(evaluation: Evaluation) -> Iterator[ReportTable]:
    """The tables of an evaluation; none for what was not measured."""
    classes, corpora, steps = evaluation["classes"], evaluation["corpora"], evaluation["steps"]
    if corpora is not None:
        columns = {"corpus": "name", "modality": "modality", **_FIGURES, "items": "n"}
        mean = {"name": "mean of corpora", "modality": "", "n": "", **corpora["mean"]}
        yield ReportTable.of("By corpus, a single modality", columns, [*_named(corpora["by_corpus"]), mean])
        cells = [
            [name, label, *map(str, counts)]
            for name, part in corpora["by_corpus"].items()
            for label, counts in zip(classes, part["confusion"], strict=True)
        ]
        yield ReportTable("Decisions by corpus and true class", ["corpus", "true class", *classes], cells)
    else:
        columns = {"present": "name", **_FIGURES, "items": "n", "left out": "left_out"}
        yield ReportTable.of("By what is present", columns, _named(evaluation["patterns"]))
        if evaluation["scores"] is not None:
            columns = {"present": "name", **_ORDINAL, "items": "n"}
            yield ReportTable.of("Scores, by what is present", columns, _named(evaluation["scores"]))
        columns = {"rate": "name", **_BOTH, "items": "n"}
        yield ReportTable.of("By missing rate", columns, _named(evaluation["rates"]))
    if kinds := evaluation["decided_by"]:
        columns = {"carried by": "name", **{subset: f"{subset}[accuracy]" for subset in evaluation["patterns"]}}
        rows = ({**row, "n": max(row[subset]["n"] for subset in evaluation["patterns"])} for row in _named(kinds))
        yield ReportTable.of("Accuracy by what carries the label", {**columns, "items": "n"}, rows)
    if steps:
        title = f"A modality added: macro-F1 is lower in {sum(s['lowers'] for s in steps)} of {len(steps)} steps"
        columns = {"from": "before", "added": "added", "without": "macro_f1_before", "with": "macro_f1_after"}
        columns |= {"difference": "interval", "lower": "lower", "items": "n"}
        rows = ({**step, "interval": step, "lower": "yes" if step["lowers"] else "no"} for step in steps)
        yield ReportTable.of(title, columns, rows)
    if evaluation["key_missing"] is not None:
        yield from _key_missing(evaluation["key_missing"])
    if evaluation["gate"] is not None:
        yield from _gate(evaluation["gate"]["gates"])


def _named(parts: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{"name": name, **part} for name, part in parts.items()]


def _key_missing(report: Mapping[str, Any]) -> Iterator[ReportTable]:
    sizes = {"all": report, "one missing": report["one_missing"], "two missing": report["two_missing"]}
    kinds = {f"carried by {kind}": part for kind, part in report["by_decided_by"].items()}
    parts = {**sizes, **report["by_pattern"], **kinds}
    columns: Columns = {"over": "name", **_DETECTION, "cases": "n"}
    title = "Key missing modality; true: the complete input's decision differs from the available-only one and is right"
    yield ReportTable.of(title, columns, _named(parts))
    title = "The decision changes; true: the complete input's decision differs from the available-only one"
    yield ReportTable.of(title, columns, _named({name: part["changes"] for name, part in parts.items()}))
    truths = {"key": sizes, "changes": {name: part["changes"] for name, part in sizes.items()}}
    columns = {f"{heading}, {size}": f"{size}[{key}]" for size in sizes for heading, key in _RANKING.items()}
    yield ReportTable.of(
        "Scores for a key missing modality, and for a change of the decision",
        {"score": "name", "true": "truth", **columns},
        (
            {"name": title, "truth": truth, **{size: part["scores"][score] for size, part in by_size.items()}}
            for truth, by_size in truths.items()
            for score, title in _SCORES.items()
        ),
    )
    columns = {heading: f"score_minus_one_minus_max[{key}]" for heading, key in _RANKING.items()}
    yield ReportTable.of(
        "Score minus 1 − max probability",
        {"over": "name", "true": "truth", **columns, "cases": "n"},
        ({**row, "truth": truth} for truth, by_size in truths.items() for row in _named(by_size)),
    )
    first = report["first_named"]
    yield ReportTable.of(
        f"Named first where two are missing, over {first['n']} true cases (giving alone decides: "
        f"one of them: {first['either']}, both: {first['both']}, neither: {first['neither']})",
        {"over": "name", "right": "share", "by chance": "chance", "cases": "n"},
        _named({title: first[key] for key, title in _NAMED.items()}),
    )
    if report["by_modality"]:
        title = "Score of each missing modality; true: giving it alone changes the available-only answer"
        columns = {"modality": "name", "mean score": "mean_score", "true": "true_share", "AUROC": "auroc", **_ECE}
        yield ReportTable.of(title, {**columns, "cases": "n"}, _named(report["by_modality"]))


def _gate(gates: Mapping[str, Any]) -> Iterator[ReportTable]:
    used = {"accuracy where used": "where_used[gate][accuracy]", "without it there": "where_used[never][accuracy]"}
    columns = {"ensemble": "name", "used": "share:.1%", **_BOTH, **used, "cases": "n"}
    rows = _named({GATES[name]: gate for name, gate in gates.items()})
    yield ReportTable.of("Gate, over one and two missing", columns, rows)
    columns = {"ensemble": "name", "minus": "other", **_BOTH}
    differences = (
        {"name": row["name"], "other": other, **row[f"minus_{other}"]}
        for row in rows
        for other in ("never", "always")
        if f"minus_{other}" in row
    )
    yield ReportTable.of("Gate, differences from never and from always", columns, differences)


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
    if corpora := [found["by_corpus"] for evaluation in evaluations if (found := evaluation["corpora"]) is not None]:
        return "\n".join((*_mean_table("Corpus", corpora, _CORPUS_COLUMNS), ""))
    shown = [
        *_mean_table("Present", [evaluation["patterns"] for evaluation in evaluations], _PATTERN_COLUMNS),
        "",
        *_mean_table("Missing rate", [evaluation["rates"] for evaluation in evaluations], _RATE_COLUMNS),
        "",
    ]
    verdicts = [verdict for evaluation in evaluations if (verdict := evaluation["key_missing"]) is not None]
    if len(verdicts) == len(evaluations):
        parts = [{"one or two": v, "one": v["one_missing"], "two": v["two_missing"]} for v in verdicts]
        shown += [*_mean_table("Missing", parts, _VERDICT_COLUMNS), ""]
    return "\n".join(shown)


def _mean_table(first: str, runs: Sequence[Mapping[str, Mapping[str, Any]]], columns: Columns) -> Iterator[str]:
    """Markdown lines of the mean over runs, with a row for each part."""
    rows = [
        [name, *(_mean([_FORMATTER.get_field(path, (), run[name])[0] for run in runs]) for path in columns.values())]
        for name in runs[0]
    ]
    return ReportTable("", [first, *columns], rows).markdown("---:")


def _mean(values: Sequence[float | None]) -> str:
    figures = [value for value in values if value is not None]
    if len(figures) < len(values):
        return _NOTHING
    if isinstance(figures[0], int):  # a number of items, the same in all runs
        return str(figures[0])
    deviation = f" ± {statistics.stdev(figures):.3f}" if len(figures) > 1 else ""
    return f"{statistics.fmean(figures):.3f}{deviation}"


def write_json(evaluation: Evaluation, path: Path) -> None:
    """Write an evaluation, whole or not at all; lists of numbers are on one line each."""
    write_whole("".join(_json(evaluation, "")) + "\n", path)


def write_whole(content: str, path: Path) -> None:
    """Write a text file, whole or not at all; its folder is made where it does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(content, encoding="utf-8")
    partial.replace(path)


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
