import warnings
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import bootstrap, pearsonr
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_recall_curve,
    precision_recall_fscore_support,
    roc_auc_score,
)

from model.training import metrics
from model.training.metrics import (
    Metric,
    auroc,
    average_precision,
    calibration,
    calibration_bootstrap,
    class_figures,
    class_scores,
    detection,
    macro_f1,
    paired_bootstrap,
    precision_recall_points,
    ranking_bootstrap,
    reliability,
    score_figures,
)
from model.types import DoubleArray, IntArray


def test_macro_f1_counted_by_hand() -> None:
    truth, predicted = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 1, 1, 2, 0])
    # class 0: 1 hit of 2 + 2; class 1: 2 of 2 + 3; class 2: 1 of 2 + 1.
    assert macro_f1(truth, predicted) == pytest.approx((2 / 4 + 4 / 5 + 2 / 3) / 3, abs=1e-12)
    assert class_scores(truth, predicted)["accuracy"] == pytest.approx(4 / 6)


def test_a_class_that_occurs_nowhere_does_not_count() -> None:
    assert macro_f1(np.array([0, 2, 2]), np.array([0, 2, 2])) == 1.0


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("seed", range(5))
def test_figures_equal_scikit_learns(classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(classes, size=40)
    predicted = np.where(rng.random(40) < 0.5, truth, rng.integers(classes, size=40))
    probabilities, labels = rng.dirichlet(np.ones(classes), size=40), range(classes)
    figures = class_figures(truth, predicted, probabilities)
    assert figures == {
        "accuracy": pytest.approx(accuracy_score(truth, predicted), abs=1e-12),
        "macro_f1": pytest.approx(f1_score(truth, predicted, average="macro"), abs=1e-12),
        "n": 40,
        "uar": pytest.approx(balanced_accuracy_score(truth, predicted), abs=1e-12),
        "log_loss": pytest.approx(log_loss(truth, probabilities, labels=labels), abs=1e-12),
        "calibration_error": reliability(truth, predicted, probabilities).error,
        "confusion": confusion_matrix(truth, predicted, labels=labels).tolist(),
    }
    scores = np.round(rng.random(40), 1)  # with ties
    found = detection(truth == 0, predicted == 0, scores)
    assert (found["auroc"], found["average_precision"]) == pytest.approx(
        (roc_auc_score(truth == 0, scores), average_precision_score(truth == 0, scores)), abs=1e-12
    )
    expected = precision_recall_fscore_support(truth == 0, predicted == 0, average="binary")
    assert (found["precision"], found["recall"], found["f1"]) == pytest.approx(expected[:3])


def test_classes_without_true_items_do_not_count_for_recall() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = class_figures(np.array([0, 0, 2]), np.array([0, 1, 2]), np.full((3, 3), 1 / 3))
    assert figures["uar"] == (1 / 2 + 1) / 2


def test_figures_without_items_are_none() -> None:
    nothing = np.array([], dtype=np.int64)
    assert class_figures(nothing, nothing, np.zeros((0, 2))) == {
        "accuracy": None, "macro_f1": None, "n": 0, "uar": None, "log_loss": None, "calibration_error": None,
        "confusion": [[0, 0], [0, 0]],
    }  # fmt: skip
    with pytest.raises(ValueError, match="empty"):
        macro_f1(nothing, nothing)
    with pytest.raises(ValueError, match="inconsistent"):
        macro_f1(np.array([0, 1]), np.array([0]))


@pytest.mark.parametrize("digits", [1, 2, 8])
def test_curve_points_have_the_highest_threshold_of_each_recall(digits: int) -> None:
    rng = np.random.default_rng(digits)
    truth, scores = rng.random(60) < 0.3, np.round(rng.random(60), digits)
    curve = precision_recall_points(truth, scores, 10_001)
    expected = {level: (p, r) for p, r, level in zip(*precision_recall_curve(truth, scores), strict=False)}
    levels = sorted(set(scores[truth].tolist()), reverse=True)
    assert curve["threshold"] == pytest.approx(levels, abs=1e-4)
    points = list(zip(curve["precision"], curve["recall"], strict=True))
    assert points == [pytest.approx(expected[level], abs=1e-4) for level in levels]


def test_a_probability_of_zero_has_a_finite_log_loss() -> None:
    figures = class_figures(np.array([0]), np.array([1]), np.array([[0.0, 1.0]]))
    assert figures["log_loss"] == pytest.approx(-np.log(np.finfo(np.float64).eps))


def test_probabilities_rounded_to_float32_raise_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = class_figures(np.array([0]), np.array([0]), np.array([[0.6000001, 0.4]]))
    assert figures["log_loss"] == pytest.approx(-np.log(0.6), abs=1e-6)


def test_calibration_counted_by_hand() -> None:
    # Bins of a quarter, closed above: 0.25 is in the first, 0.3 and 0.5 in the second, 1 in the last.
    confidence, right = np.array([0.0, 0.25, 0.3, 0.5, 1.0]), np.array([False, True, True, True, False])
    bins = calibration(confidence, right, bins=4)
    assert bins.points() == {"count": [2, 2, 0, 1], "confidence": [0.125, 0.4, 0, 1], "accuracy": [0.5, 1, 0, 0]}
    assert bins.error == pytest.approx((2 * 0.375 + 2 * 0.6 + 1) / 5)
    assert calibration(np.array([]), np.array([], dtype=np.bool_)).error is None


def test_perfect_confidence_has_no_calibration_error() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(200_000)
    error = calibration(confidence, rng.random(200_000) < confidence).error
    assert error is not None
    assert error < 0.01


def test_rankings_without_true_and_false_rows_are_undefined() -> None:
    scores = np.array([0.1, 0.2])
    assert average_precision(np.array([False, False]), scores) is None
    assert average_precision(np.array([True, True]), scores) == 1.0
    assert auroc(np.array([True, True]), scores) is None
    undefined = ranking_bootstrap(np.array([False, False]), scores, scores, np.array([0, 1]))
    assert undefined == {"auroc": None, "average_precision": None}
    with pytest.raises(ValueError, match="two scores and an item"):
        ranking_bootstrap(np.array([True, False]), scores, scores, np.array([0]))


@pytest.mark.parametrize(
    ("name", "measure"), [("auroc", roc_auc_score), ("average_precision", average_precision_score)]
)
def test_ranking_intervals_equal_resampling_items_one_by_one(name: str, measure: Callable[..., float]) -> None:
    rng = np.random.default_rng(1)
    items = np.repeat(np.arange(40), 3)
    truth = rng.random(120) < 0.3
    first, second = (np.round(rng.random(120) + shift * truth, 1).astype(np.float64) for shift in (0.4, 0.2))

    def difference(drawn: IntArray) -> float:
        rows = (3 * drawn[:, None] + np.arange(3)).ravel()
        return measure(truth[rows], first[rows]) - measure(truth[rows], second[rows])

    interval = ranking_bootstrap(truth, first, second, items)[name]
    assert interval is not None
    assert interval.difference == pytest.approx(difference(np.arange(40)), abs=1e-12)
    low, high = np.quantile([difference(rng.integers(40, size=40)) for _ in range(300)], [0.025, 0.975])
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.03)


def test_ranking_intervals_depend_on_the_seed_not_on_item_numbers() -> None:
    rng = np.random.default_rng(2)
    truth, first, second = rng.random(60) < 0.5, rng.random(60), rng.random(60)
    items = np.arange(60) // 2
    found = ranking_bootstrap(truth, first, second, items, seed=4)
    assert found == ranking_bootstrap(truth, first, second, 100 + 7 * items, seed=4)
    assert found != ranking_bootstrap(truth, first, second, items, seed=5)


def test_resamples_without_a_true_row_do_not_count() -> None:
    truth = np.array([True, False, False])
    found = ranking_bootstrap(truth, np.array([3.0, 2.0, 1.0]), np.array([1.0, 2.0, 3.0]), np.arange(3))
    assert found["auroc"] is not None
    assert (found["auroc"].low, found["auroc"].high) == (1.0, 1.0)


def test_resamples_do_not_depend_on_how_many_are_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    truth, first, second = (rng.integers(3, size=50) for _ in range(3))
    whole = paired_bootstrap(truth, first, second, resamples=100)
    monkeypatch.setattr(metrics, "_CELLS_AT_ONCE", 350)
    assert paired_bootstrap(truth, first, second, resamples=100) == whole


def test_detection_without_true_items_leaves_figures_undefined() -> None:
    nothing = np.zeros(3, dtype=np.bool_)
    found = detection(nothing, nothing, np.zeros(3))
    assert (found["n"], found["positives"], found["detected"]) == (3, 0, 0)
    assert {found[name] for name in ("precision", "recall", "f1", "auroc", "average_precision", "ratio")} == {None}
    assert (found["detected_share"], found["true_share"], found["calibration_error"]) == (0, 0, 0)
    empty = np.array([], dtype=np.bool_)
    assert detection(empty, empty, np.array([]))["detected_share"] is None


def test_equal_systems_have_a_difference_of_zero() -> None:
    truth = np.arange(30) % 3
    interval = paired_bootstrap(truth, truth[::-1].copy(), truth[::-1].copy())
    assert (interval.difference, interval.low, interval.high) == (0.0, 0.0, 0.0)


def test_a_clearly_better_system_has_an_interval_above_zero() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=500)
    good = np.where(rng.random(500) < 0.8, truth, (truth + 1) % 3)
    poor = np.where(rng.random(500) < 0.6, truth, (truth + 1) % 3)
    interval = paired_bootstrap(truth, good, poor)
    assert interval.difference == pytest.approx(macro_f1(truth, good) - macro_f1(truth, poor))
    assert 0.1 < interval.low < interval.difference < interval.high < 0.3


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_paired_intervals_equal_scipys(metric: Metric) -> None:
    rng = np.random.default_rng(1)
    truth, first, second = (rng.integers(3, size=80) for _ in range(3))

    def measure(truth: IntArray, predicted: IntArray) -> DoubleArray:
        """`(R, N)` → `(R,)`."""
        if metric == "accuracy":
            return np.asarray((truth == predicted).mean(axis=-1))
        by_class = [
            2 * ((truth == k) & (predicted == k)).sum(axis=-1) / ((truth == k).sum(axis=-1) + (predicted == k).sum(-1))
            for k in range(3)
        ]
        return np.asarray(np.mean(by_class, axis=0))

    def difference(truth: IntArray, first: IntArray, second: IntArray, axis: int = -1) -> DoubleArray:
        return measure(truth, first) - measure(truth, second)

    expected = bootstrap(
        (truth, first, second), difference, paired=True, n_resamples=3000, method="percentile", rng=rng
    ).confidence_interval
    interval = paired_bootstrap(truth, first, second, metric=metric, resamples=3000)
    assert interval.difference == pytest.approx(float(difference(truth, first, second)), abs=1e-12)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=0.015)


def test_accuracy_interval_covers_the_binomial_one() -> None:
    truth = np.zeros(400, dtype=np.int64)
    half = (np.arange(400) % 2).astype(np.int64)
    interval = paired_bootstrap(truth, truth, half, metric="accuracy", resamples=4000)
    spread = 1.96 * (0.25 / 400) ** 0.5
    assert (interval.low, interval.high) == pytest.approx((0.5 - spread, 0.5 + spread), abs=0.006)


def test_several_runs_are_averaged_before_they_are_compared() -> None:
    truth = np.arange(12) % 3
    wrong = (truth + 1) % 3
    interval = paired_bootstrap(truth, np.stack([truth, wrong]), wrong, metric="accuracy")
    assert (interval.difference, interval.low, interval.high) == (0.5, 0.5, 0.5)


def test_pooled_runs_are_counted_as_one() -> None:
    rng = np.random.default_rng(3)
    truth, other = rng.integers(3, size=40), rng.integers(3, size=40)
    runs = rng.integers(3, size=(2, 40))
    interval = paired_bootstrap(truth, runs, np.stack([other, other]), runs="pool")
    expected = macro_f1(np.tile(truth, 2), runs.ravel()) - macro_f1(truth, other)
    assert interval.difference == pytest.approx(expected)
    assert interval.low < interval.difference < interval.high


def test_the_interval_repeats_with_the_seed() -> None:
    rng = np.random.default_rng(2)
    truth, first, second = (rng.integers(3, size=50) for _ in range(3))
    assert paired_bootstrap(truth, first, second, seed=4) == paired_bootstrap(truth, first, second, seed=4)
    assert paired_bootstrap(truth, first, second, seed=4) != paired_bootstrap(truth, first, second, seed=5)


def test_runs_with_another_number_of_items_are_refused() -> None:
    with pytest.raises(ValueError, match="one prediction for each item"):
        paired_bootstrap(np.array([0, 1]), np.array([0, 1]), np.array([0, 1, 2]))


def test_score_figures_equal_those_computed_by_hand() -> None:
    truth = np.array([-3, -1, 0, 0.4, 2, 3])
    predicted = np.array([-1.6, 0.5, -0.2, 0.6, 1.4, 2.8])
    figures = score_figures(truth, predicted)
    assert figures == {
        "mae": pytest.approx((1.4 + 1.5 + 0.2 + 0.2 + 0.6 + 0.2) / 6),
        "pearson": pytest.approx(pearsonr(truth, predicted).statistic),
        "accuracy2_non_negative": pytest.approx(4 / 6),  # 0 counts as not negative
        "f1_non_negative": pytest.approx((2 * 2 / 4 + 4 * 6 / 8) / 6),
        "accuracy2_positive": pytest.approx(4 / 5),  # without the item of score 0
        "f1_positive": pytest.approx((2 * 2 / 3 + 3 * 6 / 7) / 5),
        "accuracy5": pytest.approx(3 / 6),  # -3 and -1.6 both become -2
        "accuracy7": pytest.approx(2 / 6),  # 0.5 rounds to 0, half to even
        "n": 6,
    }


@pytest.mark.parametrize(("predicted", "r"), [([3, 5, 7], 1.0), ([1, 3, 2], 0.5), ([3, 2, 1], -1.0), ([2, 2, 2], None)])
def test_the_correlation_is_that_of_pearson(predicted: list[float], r: float | None) -> None:
    figure = score_figures(np.array([1.0, 2.0, 3.0]), np.array(predicted, dtype=np.float64))["pearson"]
    assert figure == (None if r is None else pytest.approx(r))


def test_scores_that_are_all_zero_have_no_positive_accuracy() -> None:
    figures = score_figures(np.zeros(3), np.array([0.1, 0.2, -0.1]))
    assert (figures["accuracy2_positive"], figures["f1_positive"], figures["pearson"]) == (None, None, None)
    assert figures["accuracy2_non_negative"] == pytest.approx(2 / 3)


def test_no_scores_have_no_figures() -> None:
    figures = score_figures(np.zeros(0), np.zeros(0))
    assert figures.pop("n") == 0
    assert set(figures.values()) == {None}


def test_calibration_intervals_equal_resampling_items_one_by_one() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=60)
    first, second = rng.dirichlet(np.ones(3), size=(2, 60))
    intervals = calibration_bootstrap(truth, first, second, resamples=40, seed=5)

    def differences(items: IntArray) -> dict[str, float]:
        better, worse = (class_figures(truth[items], p[items].argmax(axis=1), p[items]) for p in (first, second))
        return {score: better[score] - worse[score] for score in ("log_loss", "calibration_error")}

    drawn = [differences(items) for items in np.random.default_rng(5).integers(60, size=(40, 60))]
    for score, whole in differences(np.arange(60)).items():
        low, high = np.quantile([found[score] for found in drawn], [0.025, 0.975])
        found = intervals[score]
        assert (found.difference, found.low, found.high) == pytest.approx((whole, low, high))
