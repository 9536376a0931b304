import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    precision_recall_curve,
    precision_recall_fscore_support,
    roc_auc_score,
)
from sklearn.metrics import (
    confusion_matrix as sklearn_confusion_matrix,
)
from sklearn.metrics import (
    log_loss as sklearn_log_loss,
)

from model.training import metrics
from model.training.metrics import (
    Metric,
    accuracy,
    auroc,
    average_precision,
    calibration,
    confusion_matrix,
    detection,
    log_loss,
    macro_f1,
    paired_bootstrap,
    precision_recall,
    ranking_bootstrap,
    unweighted_average_recall,
)


def test_macro_f1_counted_by_hand() -> None:
    truth, predicted = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 1, 1, 2, 0])
    # class 0: 1 hit of 2 + 2; class 1: 2 of 2 + 3; class 2: 1 of 2 + 1.
    assert macro_f1(truth, predicted) == pytest.approx((2 / 4 + 4 / 5 + 2 / 3) / 3)
    assert accuracy(truth, predicted) == pytest.approx(4 / 6)


def test_a_class_that_occurs_nowhere_does_not_count() -> None:
    assert macro_f1(np.array([0, 2, 2]), np.array([0, 2, 2])) == 1.0


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("seed", range(5))
def test_figures_equal_scikit_learns(classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(classes, size=40)
    predicted = np.where(rng.random(40) < 0.5, truth, rng.integers(classes, size=40))
    assert accuracy(truth, predicted) == pytest.approx(accuracy_score(truth, predicted))
    assert macro_f1(truth, predicted) == pytest.approx(f1_score(truth, predicted, average="macro"))
    scores = np.round(rng.random(40), 1)  # with ties
    assert auroc(truth == 0, scores) == pytest.approx(roc_auc_score(truth == 0, scores))
    assert average_precision(truth == 0, scores) == pytest.approx(average_precision_score(truth == 0, scores))
    assert unweighted_average_recall(truth, predicted) == pytest.approx(balanced_accuracy_score(truth, predicted))
    labels = range(classes)
    expected_counts = sklearn_confusion_matrix(truth, predicted, labels=labels)
    assert confusion_matrix(truth, predicted, classes).tolist() == expected_counts.tolist()
    probabilities = rng.dirichlet(np.ones(classes), size=40)
    assert log_loss(truth, probabilities) == pytest.approx(sklearn_log_loss(truth, probabilities, labels=labels))
    found = detection(truth == 0, predicted == 0, scores)
    expected = precision_recall_fscore_support(truth == 0, predicted == 0, average="binary")
    assert (found.precision, found.recall, found.f1) == pytest.approx(expected[:3])


@pytest.mark.parametrize("digits", [1, 2, 8])
def test_the_precision_recall_curve_is_scikit_learns_at_the_scores_of_true_items(digits: int) -> None:
    rng = np.random.default_rng(digits)
    truth, scores = rng.random(60) < 0.3, np.round(rng.random(60), digits)
    precision, recall, levels = precision_recall(truth, scores)
    expected = {level: (p, r) for p, r, level in zip(*precision_recall_curve(truth, scores), strict=False)}
    assert levels.tolist() == sorted(set(scores[truth].tolist()), reverse=True)
    assert list(zip(precision, recall, strict=True)) == [pytest.approx(expected[level]) for level in levels]
    with pytest.raises(ValueError, match="nothing is true"):
        precision_recall(np.zeros(3, dtype=np.bool_), np.zeros(3))


def test_a_probability_of_zero_has_a_finite_log_loss() -> None:
    assert log_loss(np.array([0]), np.array([[0.0, 1.0]])) == pytest.approx(-np.log(np.finfo(np.float64).eps))
    with pytest.raises(ValueError, match="must match"):
        log_loss(np.array([0, 1]), np.array([[0.5, 0.5]]))


def test_calibration_counted_by_hand() -> None:
    # Bins of a quarter, closed above: 0.25 is in the first, 0.3 and 0.5 in the second, 1 in the last.
    confidence, right = np.array([0.0, 0.25, 0.3, 0.5, 1.0]), np.array([False, True, True, True, False])
    bins = calibration(confidence, right, bins=4)
    assert bins.count.tolist() == [2, 2, 0, 1]
    assert bins.confidence.tolist() == pytest.approx([0.125, 0.4, 0, 1])
    assert bins.accuracy.tolist() == pytest.approx([0.5, 1, 0, 0])
    assert bins.error == pytest.approx((2 * 0.375 + 2 * 0.6 + 1) / 5)
    assert calibration(np.array([]), np.array([], dtype=np.bool_)).error is None


def test_perfect_confidence_has_no_calibration_error() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(200_000)
    error = calibration(confidence, rng.random(200_000) < confidence).error
    assert error is not None
    assert error < 0.01


def test_rankings_without_both_kinds_are_undefined() -> None:
    scores = np.array([0.1, 0.2])
    assert average_precision(np.array([False, False]), scores) is None
    assert average_precision(np.array([True, True]), scores) == 1.0
    assert auroc(np.array([True, True]), scores) is None
    never = ranking_bootstrap(np.array([False, False]), scores, scores, np.array([0, 1]))
    assert (never.auroc, never.average_precision) == (None, None)
    with pytest.raises(ValueError, match="two scores and an item"):
        ranking_bootstrap(np.array([True, False]), scores, scores, np.array([0]))


def test_the_ranking_interval_is_that_of_resampling_items_one_by_one() -> None:
    rng = np.random.default_rng(1)
    items = np.repeat(np.arange(40), 3)
    truth = rng.random(120) < 0.3
    first, second = (np.round(rng.random(120) + shift * truth, 1).astype(np.float64) for shift in (0.4, 0.2))
    plain = []
    for _ in range(2000):
        rows = (3 * rng.integers(40, size=40)[:, None] + np.arange(3)).ravel()
        figures = [(auroc(truth[rows], s[rows]), average_precision(truth[rows], s[rows])) for s in (first, second)]
        plain.append([a - b for a, b in zip(*figures, strict=True) if a is not None and b is not None])
    found = ranking_bootstrap(truth, first, second, items)
    for at, (interval, measure) in enumerate(
        ((found.auroc, roc_auc_score), (found.average_precision, average_precision_score))
    ):
        assert interval is not None
        assert interval.difference == pytest.approx(measure(truth, first) - measure(truth, second))
        low, high = np.quantile([differences[at] for differences in plain], [0.025, 0.975])
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.015)


def test_the_ranking_interval_repeats_with_the_seed_whatever_the_names_of_items() -> None:
    rng = np.random.default_rng(2)
    truth, first, second = rng.random(60) < 0.5, rng.random(60), rng.random(60)
    items = np.arange(60) // 2
    found = ranking_bootstrap(truth, first, second, items, seed=4)
    assert found == ranking_bootstrap(truth, first, second, 100 + 7 * items, seed=4)
    assert found != ranking_bootstrap(truth, first, second, items, seed=5)


def test_resamples_without_a_true_row_do_not_count() -> None:
    truth = np.array([True, False, False])
    found = ranking_bootstrap(truth, np.array([3.0, 2.0, 1.0]), np.array([1.0, 2.0, 3.0]), np.arange(3))
    assert found.auroc is not None
    assert (found.auroc.low, found.auroc.high) == (1.0, 1.0)


def test_draws_do_not_depend_on_how_many_are_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    truth, first, second = (rng.integers(3, size=50) for _ in range(3))
    whole = paired_bootstrap(truth, first, second, resamples=100)
    monkeypatch.setattr(metrics, "_CELLS_AT_ONCE", 350)
    assert paired_bootstrap(truth, first, second, resamples=100) == whole


def test_figures_of_nothing_are_refused() -> None:
    nothing = np.array([], dtype=np.int64)
    with pytest.raises(ValueError, match="not empty"):
        accuracy(nothing, nothing)
    with pytest.raises(ValueError, match="must be the same"):
        macro_f1(np.array([0, 1]), np.array([0]))


def test_detection_without_anything_to_find_leaves_figures_undefined() -> None:
    never = np.zeros(3, dtype=np.bool_)
    found = detection(never, never, np.zeros(3))
    assert (found.n, found.positives, found.detected) == (3, 0, 0)
    assert (found.precision, found.recall, found.f1, found.auroc) == (None, None, None, None)


def test_equal_systems_differ_by_exactly_nothing() -> None:
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
def test_the_interval_is_that_of_resampling_items_one_by_one(metric: Metric) -> None:
    rng = np.random.default_rng(1)
    truth, first, second = (rng.integers(3, size=80) for _ in range(3))
    measure = accuracy if metric == "accuracy" else macro_f1
    plain = []
    for _ in range(3000):
        drawn = rng.integers(80, size=80)
        plain.append(measure(truth[drawn], first[drawn]) - measure(truth[drawn], second[drawn]))
    interval = paired_bootstrap(truth, first, second, metric=metric, resamples=3000)
    assert (interval.low, interval.high) == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.015)


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


def test_runs_of_other_items_are_refused() -> None:
    with pytest.raises(ValueError, match="one decision for each item"):
        paired_bootstrap(np.array([0, 1]), np.array([0, 1]), np.array([0, 1, 2]))
