import pytest

from tools.load.service import MIB, Resources, Sample, levels, peak, slope


def samples(*mebibytes: float) -> list[Sample]:
    return [Sample(30.0 * n, Resources(int(rss * MIB), 0, 10, 0)) for n, rss in enumerate(mebibytes)]


def test_slope_is_that_of_the_least_squares_line() -> None:
    assert slope(samples(100, 101, 102, 103)) == pytest.approx(2.0)  # one each half minute
    assert slope(samples(100, 103, 100, 103, 100)) == pytest.approx(0.0)
    assert slope(samples(100)) == 0.0


def test_levels_are_medians_of_equal_parts() -> None:
    assert levels(samples(1, 2, 30, 4, 5, 6), 2) == [2, 5]
    assert levels(samples(1), 3) == [1]


def test_peak_is_the_largest_sample() -> None:
    assert peak(samples(100, 250, 120)) == 250
    assert peak([]) == 0
