"""Exact figures for decisions: accuracy, macro-F1, detection scores, and how sure a difference is.

For: every table of a report. Equal to scikit-learn's where it has the same figure (the tests compare them), but counted
from confusion matrices, so that thousands of bootstrap resamples take a second, and without scikit-learn, which an
install for serving does not have.
Does not know: models, modalities or corpora.

Shapes: N items, C classes, S runs (seeds, or patterns of the same items), R resamples.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

IntArray = npt.NDArray[np.int64]
Metric = Literal["accuracy", "macro_f1"]

RESAMPLES: Final = 2000
_RESAMPLES_AT_ONCE: Final = 256  # bounds the (R, N) table of counts in memory


def accuracy(truth: IntArray, predicted: IntArray) -> float:
    """Share of `(N,)` decisions that are right.

    Raises:
        ValueError: there are no items.
    """
    return float(_accuracies(_confusion(truth, predicted))[0])


def macro_f1(truth: IntArray, predicted: IntArray) -> float:
    """Mean F1 over the classes that occur in truth or decisions, as scikit-learn's default.

    Args:
        truth: `(N,)` class indices.
        predicted: `(N,)` class indices.

    Raises:
        ValueError: there are no items.
    """
    return float(_macro_f1s(_confusion(truth, predicted))[0])


def auroc(truth: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]) -> float | None:
    """Probability that a true item scores above a false one, ties counting half; None where either kind is absent."""
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        return None
    ranks = rankdata(scores)
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


@dataclass(frozen=True, slots=True)
class Detection:
    """How well a yes-or-no check finds what is true; a figure is None where nothing defines it.

    Args:
        n: items.
        positives: items for which it is true.
        detected: items for which the check says so.
        precision: share of `detected` that is true.
        recall: share of `positives` that is detected.
        f1: harmonic mean of the two.
        auroc: of the check's score.
    """

    n: int
    positives: int
    detected: int
    precision: float | None
    recall: float | None
    f1: float | None
    auroc: float | None


def detection(
    truth: npt.NDArray[np.bool_], detected: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]
) -> Detection:
    """Score a check over `(N,)` items."""
    hits, positives, alarms = int((truth & detected).sum()), int(truth.sum()), int(detected.sum())
    return Detection(
        n=truth.size,
        positives=positives,
        detected=alarms,
        precision=hits / alarms if alarms else None,
        recall=hits / positives if positives else None,
        f1=2 * hits / (positives + alarms) if positives + alarms else None,
        auroc=auroc(truth, scores),
    )


@dataclass(frozen=True, slots=True)
class Interval:
    """A difference and its percentile bootstrap interval."""

    difference: float
    low: float
    high: float


def paired_bootstrap(
    truth: IntArray,
    first: IntArray,
    second: IntArray,
    *,
    metric: Metric = "macro_f1",
    runs: Literal["mean", "pool"] = "mean",
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """How much better `first` decides than `second`, and between what and what that lies.

    Items are resampled with replacement, each with its decisions by both systems in all runs. Source: the percentile
    interval of Efron & Tibshirani, "An Introduction to the Bootstrap", 1993.

    Args:
        truth: `(N,)` class indices.
        first: `(N,)`, or `(S, N)` for several runs.
        second: `(N,)`, or `(S', N)`.
        metric: what is compared.
        runs: whether the metric is averaged over runs (training seeds), or counted once over all their decisions
            (missing patterns of the same items).
        resamples: how many.
        confidence: the interval's share of the resampled differences.
        seed: of the resampling.

    Raises:
        ValueError: there are no items, or decisions do not match `truth`.
    """
    runs_first, runs_second = np.atleast_2d(first), np.atleast_2d(second)
    if truth.size == 0 or runs_first.shape[1] != truth.size or runs_second.shape[1] != truth.size:
        raise ValueError("every run needs one decision for each item, and there must be items")

    def difference(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        better, worse = (_over_runs(truth, each, weights, metric, runs) for each in (runs_first, runs_second))
        return better - worse

    rng = np.random.default_rng(seed)
    uniform = np.full(truth.size, 1 / truth.size)
    differences = []
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        count = min(_RESAMPLES_AT_ONCE, resamples - start)
        weights = rng.multinomial(truth.size, uniform, size=count).astype(np.float64)  # (R, N): how often each is drawn
        differences.append(difference(weights))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(differences), [tail, 1 - tail])
    return Interval(float(difference(_ones(truth))[0]), float(low), float(high))


def _ones(truth: IntArray) -> npt.NDArray[np.float64]:
    return np.ones((1, truth.size))


def _over_runs(
    truth: IntArray,
    decisions: IntArray,
    weights: npt.NDArray[np.float64],
    metric: Metric,
    runs: Literal["mean", "pool"],
) -> npt.NDArray[np.float64]:
    """`(R,)`: the metric of each weighting over the `(S, N)` decisions."""
    measure = _accuracies if metric == "accuracy" else _macro_f1s
    classes = int(max(truth.max(), decisions.max())) + 1
    by_run = [_confusions(truth, run, weights, classes) for run in decisions]
    if runs == "pool":
        return measure(np.sum(by_run, axis=0, dtype=np.float64))
    means: npt.NDArray[np.float64] = np.stack([measure(confusions) for confusions in by_run]).mean(axis=0)
    return means


def _confusions(
    truth: IntArray, predicted: IntArray, weights: npt.NDArray[np.float64], classes: int
) -> npt.NDArray[np.float64]:
    """`(R, C, C)` counts, truth by decision, of each of the `(R, N)` weightings."""
    cells = np.zeros((truth.size, classes * classes))
    cells[np.arange(truth.size), truth * classes + predicted] = 1
    counts: npt.NDArray[np.float64] = (weights @ cells).reshape(-1, classes, classes)
    return counts


def _confusion(truth: IntArray, predicted: IntArray) -> npt.NDArray[np.float64]:
    """`(1, C, C)` counts of one run, each item once."""
    if truth.size == 0 or truth.shape != predicted.shape:
        raise ValueError(f"truth {truth.shape} and decisions {predicted.shape} must be the same and not empty")
    return _confusions(truth, predicted, _ones(truth), int(max(truth.max(), predicted.max())) + 1)


def _accuracies(confusions: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    right: npt.NDArray[np.float64] = np.trace(confusions, axis1=1, axis2=2)
    shares: npt.NDArray[np.float64] = right / confusions.sum(axis=(1, 2))
    return shares


def _macro_f1s(confusions: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    hits = np.diagonal(confusions, axis1=1, axis2=2)  # (R, C)
    occurrences = confusions.sum(axis=1) + confusions.sum(axis=2)  # (R, C): in truth plus in decisions
    f1 = 2 * hits / np.maximum(occurrences, 1)  # a class that occurs at all occurs at least once
    scores: npt.NDArray[np.float64] = f1.sum(axis=1) / (occurrences > 0).sum(axis=1)
    return scores
