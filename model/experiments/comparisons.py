"""Paired comparisons of the systems of a grid over the same items, with bootstrap intervals."""

# Shapes: S seeds, N items, C classes, P subsets of a condition.

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from model.config import EMMR, SYSTEMS
from model.errors import ConfigError
from model.experiments.grid import ABLATIONS, PARTIAL
from model.experiments.measures import Measures
from model.experiments.results import CellResult
from model.modality import SUBSETS
from model.training.metrics import RESAMPLES, Interval, Metric, paired_bootstraps
from model.training.missing_patterns import RATES
from model.types import FloatArray, IntArray

TRANSFORMER_PATH: Final = "transformer path"
ENSEMBLE_PATH: Final = "ensemble path"
GATE_PAIRS: Final = ((EMMR, TRANSFORMER_PATH), (EMMR, ENSEMBLE_PATH), (ENSEMBLE_PATH, TRANSFORMER_PATH))
"""The comparisons of the gate: on minus off, on minus always, always minus off."""
_SUBSETS: Final = {"one missing": (1, 2, 3), "two missing": (4, 5, 6)}  # rows of `SUBSETS`
CONDITIONS: Final = (*map(str, RATES), *_SUBSETS)
"""Missing rates, and the incomplete subsets of one size together."""


@dataclass(frozen=True, slots=True)
class SplitAnswers:
    """What every system decides on the complete items of one part of a corpus.

    Args:
        corpus: its name.
        split: the part.
        classes: names.
        ids: `(N,)`, of the items.
        labels: `(N,)` true classes.
        kept: `(6, N)` row of `SUBSETS` that each item keeps at each of `RATES`.
        decisions: variant, or one of EMMR's two paths → `(S, 7, N)` classes.
        probabilities: variant → seed → `(7, N, C)`.
    """

    corpus: str
    split: str
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    labels: IntArray
    kept: IntArray
    decisions: Mapping[str, IntArray]
    probabilities: Mapping[str, Mapping[int, FloatArray]]

    def at(self, name: str, condition: str) -> IntArray:
        """`(S × P, N)` decisions of a system under one of `CONDITIONS`."""
        decisions = self.decisions[name]
        if (rows := _SUBSETS.get(condition)) is not None:
            return decisions[:, rows].reshape(-1, self.labels.size)
        return decisions[:, self.kept[RATES.index(float(condition))], np.arange(self.labels.size)]


def read_answers(results: Sequence[CellResult], corpus: str, split: str) -> SplitAnswers | None:
    """The answers of all cells of a corpus on one of its parts; None without complete items.

    Cells that were given some modalities alone are left out.

    Raises:
        ConfigError: two cells were evaluated on different items or missing patterns; names both folders.
    """
    cells = [r for r in results if r.corpus == corpus and split in r.evaluations and r.variant not in PARTIAL]
    if not cells:
        return None
    decisions: dict[str, list[IntArray]] = {}
    probabilities: dict[str, dict[int, FloatArray]] = {}
    names, first = ("ids", "labels", "rates"), cells[0].answers()
    complete = ~np.isnan(first[f"{split}_answers"]).any(axis=(0, 2))
    if not complete.any():
        return None
    for cell in cells:
        answers = cell.answers()
        if not all(np.array_equal(answers[f"{split}_{name}"], first[f"{split}_{name}"]) for name in names):
            raise ConfigError(f"{cell.folder} and {cells[0].folder} were evaluated on different items")
        given: FloatArray = answers[f"{split}_answers"][:, complete]
        probabilities.setdefault(cell.variant, {})[cell.seed] = given
        decisions.setdefault(cell.variant, []).append(given.argmax(axis=-1))
        if cell.variant == EMMR:
            for name in (TRANSFORMER_PATH, ENSEMBLE_PATH):
                path = answers[f"{split}_{name.removesuffix(' path')}"][:, complete]
                decisions.setdefault(name, []).append(path.argmax(axis=-1))
    ids, labels, kept = (first[f"{split}_{name}"][..., complete] for name in names)
    return SplitAnswers(
        corpus=corpus,
        split=split,
        classes=tuple(cells[0].evaluations[split]["classes"]),
        ids=tuple(map(str, ids)),
        labels=labels,
        kept=kept,
        decisions={name: np.stack(runs) for name, runs in decisions.items()},
        probabilities=probabilities,
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference of two systems under one condition.

    Args:
        first: what is compared, a key of `SplitAnswers.decisions`.
        second: what it is compared with.
        condition: one of `CONDITIONS`.
        metric: of the difference.
        interval: of the metric of `first`, averaged over its seeds, minus that of `second`.
    """

    first: str
    second: str
    condition: str
    metric: Metric
    interval: Interval

    @property
    def outcome(self) -> int:
        """1 where `first` is higher, -1 where it is lower, 0 where the interval contains 0."""
        return int(self.interval.low > 0) - int(self.interval.high < 0)


def compare(answers: SplitAnswers, resamples: int = RESAMPLES) -> Iterator[Comparison]:
    """EMMR minus every other system and each of its ablations, and the comparisons of the gate; both metrics.

    Items are resampled, each with the answers of all seeds, and of all subsets of a condition.

    Args:
        answers: of all systems on the same items.
        resamples: of each interval.
    """
    others = [name for name in (*SYSTEMS, *ABLATIONS) if name != EMMR]
    pairs = [*((EMMR, other) for other in others), *GATE_PAIRS]
    pairs = [pair for pair in pairs if set(pair) <= answers.decisions.keys()]
    for condition in CONDITIONS if pairs else ():
        systems = {name: answers.at(name, condition) for name in sorted({name for pair in pairs for name in pair})}
        found = paired_bootstraps(answers.labels, systems, pairs, resamples=resamples)
        for (first, second), metrics in found.items():
            for metric, interval in metrics.items():
                yield Comparison(first, second, condition, metric, interval)


def best_baseline(measures: Measures, corpus: str) -> str | None:
    """The system with the highest mean validation macro-F1 over subsets and seeds, EMMR aside; None without any."""
    scores = {}
    for system in SYSTEMS:
        subsets = [measures.mean(corpus, system, "val", "validation", subset.name, "macro_f1") for subset in SUBSETS]
        figures = [score for score in subsets if score is not None]
        if system != EMMR and figures:
            scores[system] = float(np.mean(figures))
    return max(scores, key=lambda system: scores[system], default=None)
