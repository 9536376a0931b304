"""Every figure of the cells of a grid, as rows of a table, and their means over seeds."""

import csv
import io
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any, Final

import numpy as np
from sklearn.metrics import f1_score

from model.experiments.results import CellResult
from model.modality import SUBSETS
from model.training.evaluation import Evaluation
from model.training.metrics import METRICS
from model.training.missing_patterns import RATES
from model.types import FloatArray, IntArray

NOT_RUN: Final = "not run"
POLARITY: Final = ("negative", "neutral", "positive")
"""The classes with which the two-class figures of later methods can be computed."""
LOSSES: Final = ("total", "ensemble", "forward", "backward")
"""The parts of EMMR's training loss that are kept."""
_DIGITS: Final = 6  # significant ones, in the file and in every figure computed from it


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure of one cell.

    Args:
        corpus: of the cell.
        variant: a system, or EMMR with something altered.
        seed: of the training.
        config_hash: of the cell's recipe.
        commit: of the code, twelve digits.
        split: part of the corpus; empty where the figure concerns none.
        protocol: `rates`, `subsets`, `validation`, `key-missing`, `reconstruction`, `gate`, `losses`, `time` or `cost`.
        condition: rate, subset, epoch, …; empty where there is one figure only.
        metric: its name.
        value: rounded to six significant digits.
    """

    corpus: str
    variant: str
    seed: int
    config_hash: str
    commit: str
    split: str
    protocol: str
    condition: str
    metric: str
    value: float


Key = tuple[str, str, str, str, str, str]  # corpus, variant, split, protocol, condition, metric


class Measures:
    """All figures of a grid.

    Args:
        results: the finished cells; a corpus, variant and seed occur once.
    """

    def __init__(self, results: Sequence[CellResult]) -> None:
        self.rows: Final = [row for result in results for row in measures(result)]
        self._values: dict[Key, list[float]] = {}
        for row in self.rows:
            key = (row.corpus, row.variant, row.split, row.protocol, row.condition, row.metric)
            self._values.setdefault(key, []).append(row.value)

    def values(
        self, corpus: str, variant: str, split: str, protocol: str, condition: object, metric: str
    ) -> list[float]:
        """One figure of each seed; empty where nothing was run."""
        return self._values.get((corpus, variant, split, protocol, str(condition), metric), [])

    def mean(
        self, corpus: str, variant: str, split: str, protocol: str, condition: object, metric: str
    ) -> float | None:
        """The mean over seeds; None where nothing was run."""
        values = self.values(corpus, variant, split, protocol, condition, metric)
        return statistics.fmean(values) if values else None

    def conditions(self, corpus: str, variant: str, split: str, protocol: str, metric: str) -> list[str]:
        """The conditions that have a figure, in order of the rows."""
        return [key[4] for key in self._values if (*key[:4], key[5]) == (corpus, variant, split, protocol, metric)]

    def csv(self) -> str:
        """All rows as CSV with a header."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(field.name for field in fields(Measure))
        writer.writerows(astuple(row) for row in self.rows)
        return stream.getvalue()


def spread(values: Sequence[float], scale: float = 100.0, digits: int = 2) -> str:
    """`mean ± sample standard deviation` over seeds; the value alone for one seed, `not run` for none."""
    if not values:
        return NOT_RUN
    deviation = f" ± {scale * statistics.stdev(values):,.{digits}f}" if len(values) > 1 else ""
    return f"{scale * statistics.fmean(values):,.{digits}f}{deviation}"


def measures(result: CellResult) -> Iterator[Measure]:
    """The figures of one cell; none for what is not defined."""
    for split, protocol, condition, metric, value in _figures(result):
        if value is not None:
            yield Measure(
                result.corpus,
                result.variant,
                result.seed,
                result.config_hash,
                result.commit[:12],
                split,
                protocol,
                condition,
                metric,
                float(f"{value:.{_DIGITS}g}"),
            )


_Figures = Iterator[tuple[str, str, str, str, float | None]]  # split, protocol, condition, metric, value


def _figures(result: CellResult) -> _Figures:
    answers = result.answers()
    for split, evaluation in result.evaluations.items():
        yield from _evaluation(split, evaluation)
        if tuple(evaluation["classes"]) == POLARITY:
            yield from _two_classes(split, answers)
        for part, scores in result.doubt[split].items():
            for score, ranking in scores.items():
                for metric in ("auroc", "average_precision", "positives", "n"):
                    yield split, "key-missing", f"{part} {score}", metric, ranking[metric]
    for modality, similarities in (result.reconstruction or {}).items():
        for metric, similarity in similarities.items():
            yield "test", "reconstruction", modality, metric, similarity
    yield from _training(result)
    for metric in ("parameters", "operations", "ms"):
        yield "", "cost", "", metric, result.cost[metric]


def _evaluation(split: str, evaluation: Evaluation) -> _Figures:
    gate = evaluation["gate"]
    parts: dict[str, tuple[dict[str, dict[str, Any]], tuple[str, ...]]] = {
        "rates": (evaluation["rates"], METRICS),
        "subsets": (evaluation["patterns"], (*METRICS, "uar", "log_loss", "calibration_error")),
        "gate": ({} if gate is None else gate["gates"], ("share", *METRICS)),
    }
    for protocol, (conditions, metrics) in parts.items():
        for condition, figures in conditions.items():
            for metric in metrics:
                yield split, protocol, condition, metric, figures[metric]


def _training(result: CellResult) -> _Figures:
    for subset, score in result.validation.items():
        yield "val", "validation", subset, "macro_f1", score
    for epoch, losses in enumerate(result.losses, 1):
        for name in LOSSES:
            yield "train", "losses", str(epoch), name, losses.get(name)
    for phase, seconds in result.seconds.items():
        yield "", "time", phase, "seconds", seconds
    yield "", "time", "", "epochs", result.epochs


def _two_classes(split: str, answers: Mapping[str, Any]) -> _Figures:
    """F1 of negative against positive, without neutral items and weighted by class frequency."""
    labels: IntArray = answers[f"{split}_labels"]
    table: FloatArray = answers[f"{split}_answers"]  # (7, N, 3)
    kept: IntArray = answers[f"{split}_rates"]  # (6, N)
    columns = np.arange(labels.size)
    rows: dict[tuple[str, str], FloatArray] = {
        **{("subsets", subset.name): table[row] for row, subset in enumerate(SUBSETS)},
        **{("rates", str(rate)): table[row, columns] for rate, row in zip(RATES, kept, strict=True)},
    }
    for (protocol, condition), given in rows.items():
        used = (labels != POLARITY.index("neutral")) & ~np.isnan(given[:, 0])
        if used.any():
            truth, predicted = labels[used] == POLARITY.index("positive"), given[used, 2] > given[used, 0]
            yield split, protocol, condition, "two_class_f1", float(f1_score(truth, predicted, average="weighted"))
