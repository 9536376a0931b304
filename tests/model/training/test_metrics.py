import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support, roc_auc_score

from model.training.metrics import Metric, accuracy, auroc, detection, macro_f1, paired_bootstrap


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
    found = detection(truth == 0, predicted == 0, scores)
    expected = precision_recall_fscore_support(truth == 0, predicted == 0, average="binary")
    assert (found.precision, found.recall, found.f1) == pytest.approx(expected[:3])


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
