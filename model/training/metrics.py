"""Figures of classification and detection, reliability diagrams, and paired bootstrap intervals.

Single figures are scikit-learn's. The bootstraps are vectorised here: SciPy's call a statistic once per resample.
"""

# Shapes: N items, C classes, S runs (training seeds, or missing patterns of the same items), M rows (items × patterns),
# R resamples, B bins, K distinct scores.

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    precision_recall_curve,
    recall_score,
    roc_auc_score,
)

from model.types import BoolArray, DoubleArray, IntArray

Metric = Literal["accuracy", "macro_f1"]
METRICS: Final[tuple[Metric, ...]] = get_args(Metric)

RESAMPLES: Final = 2000
CONFIDENCE: Final = 0.95  # of every interval
CALIBRATION_BINS: Final = 15
CURVE_POINTS: Final = 101
_CELLS_AT_ONCE: Final = 500_000  # bounds the (R, N) and (R, M) arrays; larger ones leave the processor's cache


def macro_f1(truth: IntArray, predicted: IntArray) -> float:
    """Mean F1 over the classes that occur in `truth` or `predicted`, both `(N,)` class indices.

    Raises:
        ValueError: there are no items, or the shapes differ.
    """
    return float(f1_score(truth, predicted, average="macro"))


def class_scores(truth: IntArray, predicted: IntArray) -> dict[str, Any]:
    """`accuracy` and `macro_f1` of `(N,)` predictions, None without items, and their number `n`."""
    if not truth.size:
        return {"accuracy": None, "macro_f1": None, "n": 0}
    return {"accuracy": float(np.mean(truth == predicted)), "macro_f1": macro_f1(truth, predicted), "n": truth.size}


def class_figures(truth: IntArray, predicted: IntArray, probabilities: DoubleArray) -> dict[str, Any]:
    """Every figure of `(N,)` predictions and their `(N, C)` distributions; figures are None without items.

    Returns:
        `accuracy`, `macro_f1` and `n`; `uar`: mean recall over the classes that occur in `truth`; `log_loss`: mean −ln
        of the true class's probability; `calibration_error`: of the predicted class's probability; `confusion`:
        `(C, C)` counts, truth by prediction.
    """
    uar, log_loss, classes = None, None, probabilities.shape[1]
    if truth.size:
        uar = float(recall_score(truth, predicted, average="macro", labels=np.unique(truth)))
        # scikit-learn's log_loss warns of distributions that are rounded to float32.
        given = probabilities[np.arange(truth.size), truth]
        log_loss = float(-np.log(np.clip(given, np.finfo(np.float64).eps, 1.0)).mean())
    confusion = np.bincount(truth * classes + predicted, minlength=classes * classes).reshape(classes, classes)
    return {
        **class_scores(truth, predicted),
        "uar": uar,
        "log_loss": log_loss,
        "calibration_error": reliability(truth, predicted, probabilities).error,
        "confusion": confusion.tolist(),
    }


def score_figures(truth: DoubleArray, predicted: DoubleArray) -> dict[str, Any]:
    """Figures of `(N,)` predicted sentiment scores in [-3, 3], as MMSA computes them (Mao et al., ACL 2022).

    Returns:
        `mae`; `pearson`: None where it is not defined; `accuracy2_non_negative` and its `f1_non_negative`: negative
        against non-negative, all items; `accuracy2_positive` and its `f1_positive`: negative against positive, without
        items of score 0; `accuracy5` and `accuracy7`: of scores rounded half to even and cut to [-2, 2] and [-3, 3];
        `n`. Both F1 are means over the classes weighted by their frequency. Figures are None without items.
    """
    figures: dict[str, Any] = {"mae": None, "pearson": None}
    if truth.size:
        figures["mae"] = float(np.abs(truth - predicted).mean())
        if truth.std() > 0 and predicted.std() > 0:
            figures["pearson"] = float(np.corrcoef(truth, predicted)[0, 1])
    signed = truth != 0
    binary = {"non_negative": (truth >= 0, predicted >= 0), "positive": (truth[signed] > 0, predicted[signed] > 0)}
    for name, (true, given) in binary.items():
        figures[f"accuracy2_{name}"] = float(np.mean(true == given)) if true.size else None
        figures[f"f1_{name}"] = float(f1_score(true, given, average="weighted")) if true.size else None
    for classes in (5, 7):
        most = classes // 2
        true, given = (np.rint(np.clip(scores, -most, most)) for scores in (truth, predicted))
        figures[f"accuracy{classes}"] = float(np.mean(true == given)) if truth.size else None
    return {**figures, "n": truth.size}


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

    def points(self) -> dict[str, list[float]]:
        """The arrays as lists, rounded to four digits."""
        return {name: getattr(self, name).round(4).tolist() for name in ("count", "confidence", "accuracy")}


def reliability(truth: IntArray, predicted: IntArray, probabilities: DoubleArray) -> Bins:
    """The reliability diagram of `(N,)` predictions by the predicted class's probability, of `(N, C)`."""
    return calibration(probabilities[np.arange(truth.size), predicted], truth == predicted)


def calibration(confidence: DoubleArray, right: BoolArray, bins: int = CALIBRATION_BINS) -> Bins:
    """Sort items into bins of confidence.

    Args:
        confidence: `(N,)` in [0, 1]; N may be 0.
        right: `(N,)` whether the event that `confidence` is the probability of occurred.
        bins: B.
    """
    at = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(at, minlength=bins)
    sums = [np.bincount(at, weights=values, minlength=bins) for values in (confidence, right.astype(np.float64))]
    return Bins(count, *(values / np.maximum(count, 1) for values in sums))


def auroc(truth: BoolArray, scores: DoubleArray) -> float | None:
    """Area under the ROC curve of `(N,)` scores; None unless some are true and some are false."""
    return float(roc_auc_score(truth, scores)) if truth.any() and not truth.all() else None


def average_precision(truth: BoolArray, scores: DoubleArray) -> float | None:
    """Average precision of `(N,)` scores; None where nothing is true."""
    return float(average_precision_score(truth, scores)) if truth.any() else None


def detection(truth: BoolArray, detected: BoolArray, scores: DoubleArray) -> dict[str, Any]:
    """Figures of a detector over `(N,)` items; a figure is None where it is not defined.

    Returns:
        `n`; `positives`: true items; `detected`: reported ones; `precision`, `recall` and `f1` of the report; `auroc`
        and `average_precision` of the score; `detected_share`, `true_share` and `ratio`, the one over the other;
        `calibration_error`: of the score as a probability of the truth.
    """
    n, hits, positives, reported = truth.size, int((truth & detected).sum()), int(truth.sum()), int(detected.sum())
    return {
        "n": n,
        "positives": positives,
        "detected": reported,
        "precision": hits / reported if reported else None,
        "recall": hits / positives if positives else None,
        "f1": 2 * hits / (positives + reported) if positives + reported else None,
        "auroc": auroc(truth, scores),
        "average_precision": average_precision(truth, scores),
        "detected_share": reported / n if n else None,
        "true_share": positives / n if n else None,
        "ratio": reported / positives if positives else None,
        "calibration_error": calibration(scores, truth).error,
    }


def precision_recall_points(truth: BoolArray, scores: DoubleArray, count: int = CURVE_POINTS) -> dict[str, list[float]]:
    """Points of the precision–recall curve of `(N,)` scores, rounded to four digits.

    Returns:
        `recall` above 0 and rising, at most `count` values evenly spaced; `precision` and `threshold` at the highest
        threshold of each.
    """
    precision, recall, threshold = precision_recall_curve(truth, scores)
    levels, at = np.unique(recall[-2::-1], return_index=True)  # without the curve's end, which has no threshold
    levels, at = levels[levels > 0], at[levels > 0]
    at = at[np.unique(np.searchsorted(levels, np.linspace(0, 1, count)).clip(max=len(levels) - 1))]
    curve = {"recall": recall[-2::-1], "precision": precision[-2::-1], "threshold": threshold[::-1]}
    return {name: values[at].round(4).tolist() for name, values in curve.items()}


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
    seed: int = 0,
) -> Interval:
    """How much better the predictions `first` are than `second`.

    Items are resampled with replacement, each with its predictions by both systems in all runs. Source: the percentile
    interval of Efron & Tibshirani, "An Introduction to the Bootstrap", 1993.

    Args:
        truth: `(N,)` class indices.
        first: `(N,)`, or `(S, N)` for several runs.
        second: `(N,)`, or `(S', N)`.
        metric: what is compared.
        runs: whether the metric is averaged over runs (training seeds), or counted once over all their predictions
            (missing patterns of the same items).
        resamples: R.
        seed: of the resampling.

    Raises:
        ValueError: there are no items, or predictions do not match `truth`.
    """
    systems = {"first": first, "second": second}
    pair = ("first", "second")
    return paired_bootstraps(truth, systems, [pair], metrics=(metric,), runs=runs, resamples=resamples, seed=seed)[
        pair
    ][metric]


def paired_bootstraps(
    truth: IntArray,
    systems: Mapping[str, IntArray],
    pairs: Sequence[tuple[str, str]],
    *,
    metrics: Sequence[Metric] = METRICS,
    runs: Literal["mean", "pool"] = "mean",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[tuple[str, str], dict[Metric, Interval]]:
    """The same for several pairs of systems at once, over the same resamples.

    Args:
        truth: `(N,)` class indices.
        systems: name → predictions, `(N,)` or `(S, N)`.
        pairs: names of the first and the second system.
        metrics: what is compared.
        runs: as for `paired_bootstrap`.
        resamples: R.
        seed: of the resampling.

    Returns:
        Pair → metric → interval.

    Raises:
        ValueError: there are no items, or predictions do not match `truth`.
    """
    predictions = {name: np.atleast_2d(predicted) for name, predicted in systems.items()}
    if truth.size == 0 or any(predicted.shape[1] != truth.size for predicted in predictions.values()):
        raise ValueError("every run needs one prediction for each item, and there must be items")
    classes = int(max(array.max() for array in (truth, *predictions.values()))) + 1
    one_hot = np.eye(classes * classes)
    cells = {name: one_hot[truth * classes + predicted] for name, predicted in predictions.items()}  # (S, N, C * C)

    def differences(weights: DoubleArray) -> DoubleArray:
        """`(R, N)` → `(pairs × metrics, R)`."""
        scores = {}
        for name, system in cells.items():
            confusions = (weights @ system).reshape(len(system), -1, classes, classes)  # (S, R, C, C)
            if runs == "pool":
                confusions = confusions.sum(axis=0, keepdims=True)
            scores[name] = [_scores_of(confusions, metric).mean(axis=0) for metric in metrics]
        return np.stack([a - b for pair in pairs for a, b in zip(*(scores[name] for name in pair), strict=True)])

    found = iter(_bootstrap(differences, truth.size, truth.size, resamples, seed))
    intervals: dict[tuple[str, str], dict[Metric, Interval]] = {}
    for pair in pairs:
        intervals[pair] = {}
        for metric in metrics:
            interval = next(found)
            assert interval is not None  # defined for every resample
            intervals[pair][metric] = interval
    return intervals


def calibration_bootstrap(
    truth: IntArray, first: DoubleArray, second: DoubleArray, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """How much greater the log loss and the calibration error of `first` are than those of `second`.

    Args:
        truth: `(N,)` class indices, N ≥ 1.
        first: `(N, C)` distributions.
        second: `(N, C)`.
        resamples: R.
        seed: of the resampling.

    Returns:
        `log_loss` and `calibration_error`, as `class_figures` defines them.
    """
    items = np.arange(truth.size)
    losses: list[DoubleArray] = []
    gaps: list[DoubleArray] = []
    for probabilities in (first, second):
        losses.append(-np.log(np.clip(probabilities[items, truth], np.finfo(np.float64).eps, 1.0)))
        predicted = probabilities.argmax(axis=1)
        confidence = probabilities[items, predicted]
        at = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
        gaps.append(np.eye(CALIBRATION_BINS)[at] * ((predicted == truth) - confidence)[:, None])  # (N, B)

    def difference(weights: DoubleArray) -> DoubleArray:
        """`(R, N)` → `(2, R)`."""
        losing = weights @ (losses[0] - losses[1])
        errors = [np.abs(weights @ gap).sum(axis=1) for gap in gaps]
        figures: DoubleArray = np.stack([losing, errors[0] - errors[1]]) / weights.sum(axis=1)
        return figures

    log_loss, error = _bootstrap(difference, truth.size, truth.size, resamples, seed)
    assert log_loss is not None  # defined for every resample
    assert error is not None
    return {"log_loss": log_loss, "calibration_error": error}


def ranking_bootstrap(
    truth: BoolArray,
    first: DoubleArray,
    second: DoubleArray,
    items: IntArray,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval | None]:
    """How much better the scores `first` rank the true rows than `second`.

    Items are resampled with replacement, each with all its rows; resamples without any true or any false row do not
    count.

    Args:
        truth: `(M,)`.
        first: `(M,)` scores.
        second: `(M,)` scores.
        items: `(M,)` number of each row's item.
        resamples: R.
        seed: of the resampling.

    Returns:
        `auroc` and `average_precision`; None unless some rows are true and some are false.

    Raises:
        ValueError: there are no rows, or shapes differ.
    """
    if truth.size == 0 or not truth.shape == first.shape == second.shape == items.shape:
        raise ValueError("every row needs two scores and an item, and there must be rows")
    if truth.all() or not truth.any():
        return {"auroc": None, "average_precision": None}
    unique, item = np.unique(items, return_inverse=True)
    figures = [_weighted_ranking(truth, scores, item) for scores in (first, second)]
    intervals = _bootstrap(lambda w: figures[0](w) - figures[1](w), unique.size, truth.size, resamples, seed)
    return dict(zip(("auroc", "average_precision"), intervals, strict=True))


# How often each item is drawn in each resample, `(R, N)` → figures `(F, R)`, not finite where not defined.
Statistic = Callable[[DoubleArray], DoubleArray]


def _bootstrap(statistic: Statistic, items: int, rows: int, resamples: int, seed: int) -> list[Interval | None]:
    """The interval of each figure of a statistic; equal seeds and item counts give equal resamples.

    Args:
        statistic: called on a few resamples at a time.
        items: N.
        rows: M, by which the number of resamples at a time is chosen.
        resamples: R, of all calls together.
        seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    portion = max(1, _CELLS_AT_ONCE // max(rows, items))
    found = []
    for start in range(0, resamples, portion):
        size = min(portion, resamples - start)
        drawn = rng.integers(items, size=(size, items)) + items * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * items).reshape(size, items)
        found.append(statistic(counts.astype(np.float64)))
    intervals: list[Interval | None] = []
    for whole, values in zip(statistic(np.ones((1, items)))[:, 0], np.concatenate(found, axis=1), strict=True):
        defined = values[np.isfinite(values)]
        bounds = np.quantile(defined, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]) if defined.size else None
        intervals.append(None if bounds is None else Interval(float(whole), float(bounds[0]), float(bounds[1])))
    return intervals


def _scores_of(confusions: DoubleArray, metric: Metric) -> DoubleArray:
    """Confusion matrices `(..., C, C)` → `(...)`."""
    hits = np.diagonal(confusions, axis1=-2, axis2=-1)  # (..., C)
    if metric == "accuracy":
        return np.asarray(hits.sum(axis=-1) / confusions.sum(axis=(-2, -1)))
    occurrences = confusions.sum(axis=-2) + confusions.sum(axis=-1)  # (..., C): in truth plus in predictions
    f1 = 2 * hits / np.maximum(occurrences, 1)  # a class that occurs at all occurs at least once
    return np.asarray(f1.sum(axis=-1) / (occurrences > 0).sum(axis=-1))


def _weighted_ranking(truth: BoolArray, scores: DoubleArray, items: IntArray) -> Statistic:
    """AUROC and average precision of `(M,)` rows, each counted as often as its item was drawn."""
    order = np.argsort(-scores, kind="stable")
    ranked, items, true = -scores[order], items[order], truth[order]
    levels = np.unique(ranked[true])  # (K,) of true rows only, which are few
    # How many rows come before each level, how many up to it, and how many true ones up to it.
    first, last = (np.searchsorted(ranked, levels, side=side) for side in ("left", "right"))
    last_true = np.searchsorted(ranked[true], levels, side="right")

    def figures(weights: DoubleArray) -> DoubleArray:
        """`(R, N)` → `(2, R)`."""
        hits = np.cumsum(weights[:, items[true]], axis=1)[:, last_true - 1]  # (R, K)
        rows = np.zeros((len(weights), len(items) + 1))
        np.cumsum(weights[:, items], axis=1, out=rows[:, 1:])
        new_hits = np.diff(hits, axis=1, prepend=0)
        false_before, false = rows[:, first] - (hits - new_hits), rows[:, last] - hits
        positives, negatives = hits[:, -1], rows[:, -1] - hits[:, -1]
        with np.errstate(invalid="ignore", divide="ignore"):
            area = positives * negatives - np.einsum("rk,rk->r", new_hits, false_before + false) / 2
            precision = np.einsum("rk,rk->r", new_hits, hits / np.maximum(rows[:, last], 1))
            return np.stack([area / (positives * negatives), precision / positives])

    return figures
