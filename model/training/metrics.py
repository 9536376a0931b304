"""Exact figures for decisions: accuracy, F1, recall, log loss, calibration, detection, and bootstrap intervals.

Equal to scikit-learn's where it has the same figure (the tests compare them), but without scikit-learn, which an
install for serving does not have, and vectorised, so that thousands of bootstrap resamples take a second.

Shapes: N items, C classes, S runs (seeds, or patterns of the same items), M rows (items × patterns), R resamples,
B bins, K distinct scores of true rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from scipy.stats import rankdata

from model.types import BoolArray, DoubleArray, IntArray

Metric = Literal["accuracy", "macro_f1"]

RESAMPLES: Final = 2000
CALIBRATION_BINS: Final = 15
_CELLS_AT_ONCE: Final = 500_000  # bounds the (R, N) and (R, M) tables in memory; more is slower: it leaves the cache


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


def unweighted_average_recall(truth: IntArray, predicted: IntArray) -> float:
    """Mean recall over the classes that occur in truth, as scikit-learn's `balanced_accuracy_score`.

    Args:
        truth: `(N,)` class indices.
        predicted: `(N,)` class indices.

    Raises:
        ValueError: there are no items.
    """
    counts = _confusion(truth, predicted)[0]
    occurrences = counts.sum(axis=1)
    occurs = occurrences > 0
    return float((counts.diagonal()[occurs] / occurrences[occurs]).mean())


def confusion_matrix(truth: IntArray, predicted: IntArray, classes: int) -> IntArray:
    """`(C, C)` counts, truth by decision.

    Args:
        truth: `(N,)` class indices below `classes`; N may be 0.
        predicted: `(N,)` class indices below `classes`.
        classes: C.
    """
    counts: IntArray = np.bincount(truth * classes + predicted, minlength=classes * classes).reshape(classes, classes)
    return counts


def log_loss(truth: IntArray, probabilities: DoubleArray) -> float:
    """Mean of −log of the true class's probability, which is taken to be at least the float's epsilon.

    Args:
        truth: `(N,)` class indices.
        probabilities: `(N, C)`.

    Raises:
        ValueError: there are no items, or not one distribution for each.
    """
    if truth.size == 0 or len(probabilities) != truth.size:
        raise ValueError(f"truth {truth.shape} and probabilities {probabilities.shape} must match and not be empty")
    given = probabilities[np.arange(truth.size), truth]
    return float(-np.log(np.clip(given, np.finfo(np.float64).eps, 1.0)).mean())


@dataclass(frozen=True, slots=True)
class Bins:
    """A reliability diagram: equally wide bins of confidence over [0, 1], each closed at its upper end.

    Args:
        count: `(B,)` items in each bin.
        confidence: `(B,)` their mean confidence; 0 where there are none.
        accuracy: `(B,)` share of them that is right; 0 where there are none.
    """

    count: IntArray
    confidence: DoubleArray
    accuracy: DoubleArray

    @property
    def error(self) -> float | None:
        """Expected calibration error: mean of |accuracy − confidence|, weighted by count; None without items.

        Source: Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015.
        """
        if not self.count.sum():
            return None
        return float(np.average(np.abs(self.accuracy - self.confidence), weights=self.count))


def calibration(confidence: DoubleArray, right: BoolArray, bins: int = CALIBRATION_BINS) -> Bins:
    """Sort items into bins of confidence.

    Args:
        confidence: `(N,)` in [0, 1]; N may be 0.
        right: `(N,)` whether what the confidence is in was so.
        bins: B.
    """
    at = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(at, minlength=bins)
    some = np.maximum(count, 1)
    return Bins(
        count,
        np.bincount(at, weights=confidence, minlength=bins) / some,
        np.bincount(at, weights=right.astype(np.float64), minlength=bins) / some,
    )


def average_precision(truth: BoolArray, scores: DoubleArray) -> float | None:
    """Mean precision over recall, stepwise as scikit-learn's; None where nothing is true.

    Args:
        truth: `(N,)`.
        scores: `(N,)`; what is true should score high.
    """
    if not truth.any():
        return None
    return float(_Ranking(truth, scores).figures(np.ones((1, truth.size)))[1][0])


def precision_recall(truth: BoolArray, scores: DoubleArray) -> tuple[DoubleArray, DoubleArray, DoubleArray]:
    """Precision and recall of detecting what scores at least as high as each true item does, from the highest down.

    Args:
        truth: `(N,)`, true of some.
        scores: `(N,)`.

    Returns:
        Precision, recall and score, `(K,)` each, one for each distinct score of true items.

    Raises:
        ValueError: nothing is true.
    """
    if not truth.any():
        raise ValueError("recall is not defined where nothing is true")
    ranking = _Ranking(truth, scores)
    (hits,), (detected,), _, _ = ranking.counts(np.ones((1, truth.size)))
    return hits / detected, hits / hits[-1], ranking.levels


def auroc(truth: BoolArray, scores: DoubleArray) -> float | None:
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


def detection(truth: BoolArray, detected: BoolArray, scores: DoubleArray) -> Detection:
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

    def difference(weights: DoubleArray) -> DoubleArray:
        better, worse = (_over_runs(truth, each, weights, metric, runs) for each in (runs_first, runs_second))
        return better - worse

    differences = [difference(weights) for weights in _resamples(truth.size, truth.size, resamples, seed)]
    return _interval(float(difference(_ones(truth))[0]), np.concatenate(differences), confidence)


@dataclass(frozen=True, slots=True)
class RankingIntervals:
    """Differences of two scores of the same rows; a figure is None where one of the kinds, true or false, is absent."""

    auroc: Interval | None
    average_precision: Interval | None


def ranking_bootstrap(
    truth: BoolArray,
    first: DoubleArray,
    second: DoubleArray,
    items: IntArray,
    *,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> RankingIntervals:
    """How much better `first` ranks what is true than `second`, with percentile bootstrap intervals.

    Items are resampled with replacement, each with all its rows; resamples without any true or any false row do not
    count.

    Args:
        truth: `(M,)`.
        first: `(M,)` scores.
        second: `(M,)` scores.
        items: `(M,)` which item each row is of.
        resamples: how many.
        confidence: the intervals' share of the resampled differences.
        seed: of the resampling.

    Raises:
        ValueError: there are no rows, or shapes differ.
    """
    if truth.size == 0 or not truth.shape == first.shape == second.shape == items.shape:
        raise ValueError("every row needs two scores and an item, and there must be rows")
    if truth.all() or not truth.any():
        return RankingIntervals(None, None)
    unique, item = np.unique(items, return_inverse=True)
    rankings = [_Ranking(truth, scores, item) for scores in (first, second)]

    def difference(weights: DoubleArray) -> DoubleArray:
        """`(R, N)` → `(2, R)`."""
        better, worse = (np.stack(ranking.figures(weights)) for ranking in rankings)
        return better - worse

    found = np.concatenate([difference(w) for w in _resamples(unique.size, truth.size, resamples, seed)], axis=1)
    whole = difference(np.ones((1, unique.size)))[:, 0]
    intervals = [
        _interval(float(at), values[np.isfinite(values)], confidence) if np.isfinite(values).any() else None
        for at, values in zip(whole, found, strict=True)
    ]
    return RankingIntervals(intervals[0], intervals[1])


class _Ranking:
    """Rows sorted by score, from the highest down; counts are taken at the K distinct scores of true rows.

    Args:
        truth: `(M,)`, true of some.
        scores: `(M,)`.
        items: `(M,)` position of each row's item among N; by default each row is an item.
    """

    def __init__(self, truth: BoolArray, scores: DoubleArray, items: IntArray | None = None) -> None:
        order = np.argsort(-scores, kind="stable")
        ranked, true = scores[order], truth[order]
        self._items = order if items is None else items[order]
        self._true_items = self._items[true]
        self.levels: DoubleArray = ranked[true][np.append(np.flatnonzero(np.diff(ranked[true])), -1)]
        # How many rows, and true rows, come before each score and up to it.
        self._first = np.searchsorted(-ranked, -self.levels, side="left")
        self._last = np.searchsorted(-ranked, -self.levels, side="right")
        self._last_true = np.searchsorted(-ranked[true], -self.levels, side="right")

    def counts(self, weights: DoubleArray) -> tuple[DoubleArray, DoubleArray, DoubleArray, DoubleArray]:
        """`(R, N)` → true and all rows of at least each score, all rows above it, `(R, K)` each, and all, `(R,)`."""
        hits = np.cumsum(weights[:, self._true_items], axis=1)[:, self._last_true - 1]
        sums = np.zeros((len(weights), len(self._items) + 1))
        np.cumsum(weights[:, self._items], axis=1, out=sums[:, 1:])
        return hits, sums[:, self._last], sums[:, self._first], sums[:, -1]

    def figures(self, weights: DoubleArray) -> tuple[DoubleArray, DoubleArray]:
        """`(R, N)` → AUROC and average precision, `(R,)` each; not finite where a kind is absent."""
        hits, rows, above, total = self.counts(weights)
        new_hits = np.diff(hits, axis=1, prepend=0)
        positives = hits[:, -1]
        negatives = total - positives
        # A true row is above the false rows of lower scores, and half above those of its own.
        alarms = (rows - hits) + (above - (hits - new_hits))
        with np.errstate(invalid="ignore", divide="ignore"):
            pairs = positives * negatives - np.einsum("rk,rk->r", new_hits, alarms) / 2
            precision = np.einsum("rk,rk->r", new_hits, hits / np.maximum(rows, 1))
            return pairs / (positives * negatives), precision / positives


def _resamples(count: int, rows: int, resamples: int, seed: int) -> Iterator[DoubleArray]:
    """Draw `count` items with replacement, `resamples` times: how often each is drawn, `(R, count)`, R a few at a time.

    Args:
        count: of the items.
        rows: to be weighted at once, by which R is chosen.
        resamples: sum of the Rs.
        seed: equal seeds and counts give equal draws, in whatever portions.
    """
    rng = np.random.default_rng(seed)
    portion = max(1, _CELLS_AT_ONCE // max(rows, count))
    for start in range(0, resamples, portion):
        size = min(portion, resamples - start)
        drawn = rng.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count).astype(np.float64)


def _interval(difference: float, resampled: DoubleArray, confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Interval(difference, float(low), float(high))


def _ones(truth: IntArray) -> DoubleArray:
    return np.ones((1, truth.size))


def _over_runs(
    truth: IntArray,
    decisions: IntArray,
    weights: DoubleArray,
    metric: Metric,
    runs: Literal["mean", "pool"],
) -> DoubleArray:
    """`(R,)`: the metric of each weighting over the `(S, N)` decisions."""
    measure = _accuracies if metric == "accuracy" else _macro_f1s
    classes = int(max(truth.max(), decisions.max())) + 1
    by_run = [_confusions(truth, run, weights, classes) for run in decisions]
    if runs == "pool":
        return measure(np.sum(by_run, axis=0, dtype=np.float64))
    means: DoubleArray = np.stack([measure(confusions) for confusions in by_run]).mean(axis=0)
    return means


def _confusions(truth: IntArray, predicted: IntArray, weights: DoubleArray, classes: int) -> DoubleArray:
    """`(R, C, C)` counts, truth by decision, of each of the `(R, N)` weightings."""
    cells = np.zeros((truth.size, classes * classes))
    cells[np.arange(truth.size), truth * classes + predicted] = 1
    counts: DoubleArray = (weights @ cells).reshape(-1, classes, classes)
    return counts


def _confusion(truth: IntArray, predicted: IntArray) -> DoubleArray:
    """`(1, C, C)` counts of one run, each item once."""
    if truth.size == 0 or truth.shape != predicted.shape:
        raise ValueError(f"truth {truth.shape} and decisions {predicted.shape} must be the same and not empty")
    return _confusions(truth, predicted, _ones(truth), int(max(truth.max(), predicted.max())) + 1)


def _accuracies(confusions: DoubleArray) -> DoubleArray:
    right: DoubleArray = np.trace(confusions, axis1=1, axis2=2)
    shares: DoubleArray = right / confusions.sum(axis=(1, 2))
    return shares


def _macro_f1s(confusions: DoubleArray) -> DoubleArray:
    hits = np.diagonal(confusions, axis1=1, axis2=2)  # (R, C)
    occurrences = confusions.sum(axis=1) + confusions.sum(axis=2)  # (R, C): in truth plus in decisions
    f1 = 2 * hits / np.maximum(occurrences, 1)  # a class that occurs at all occurs at least once
    scores: DoubleArray = f1.sum(axis=1) / (occurrences > 0).sum(axis=1)
    return scores
