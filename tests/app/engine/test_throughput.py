import pytest

from app.engine.throughput import HALF_LIFE, ThroughputMeter


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def drain(rate: ThroughputMeter, clock: Clock, seconds: float, count: int) -> None:
    """So many leave, so many seconds apart; enough still wait."""
    rate.entered()
    for _ in range(count):
        clock.now += seconds
        rate.departed(on=True)


def test_before_anything_is_measured_the_least_is_told(clock: Clock) -> None:
    rate = ThroughputMeter(clock)
    rate.entered()
    assert rate.seconds_for(100) == 0
    assert rate.retry_after(100, soonest=4) == 4


@pytest.mark.parametrize(("apart", "waiting", "expected"), [(0.1, 95, 10), (0.25, 10, 3), (0.01, 256, 3)])
def test_those_who_wait_take_as_long_as_those_before_them(
    clock: Clock, apart: float, waiting: int, expected: int
) -> None:
    rate = ThroughputMeter(clock)
    drain(rate, clock, apart, 100)
    assert rate.seconds_for(waiting) == pytest.approx(apart * waiting)
    assert rate.retry_after(waiting, soonest=1) == expected


def test_a_pause_does_not_count(clock: Clock) -> None:
    rate = ThroughputMeter(clock)
    drain(rate, clock, 0.1, 50)
    rate.departed(on=False)
    before = rate.seconds_for(10)
    clock.now += 3600
    assert rate.seconds_for(10) == before
    drain(rate, clock, 0.1, 50)
    assert rate.seconds_for(10) == pytest.approx(before, rel=0.05)


def test_what_happens_now_counts_more_than_what_happened(clock: Clock) -> None:
    rate = ThroughputMeter(clock)
    drain(rate, clock, 0.1, 1000)
    drain(rate, clock, 1.0, int(HALF_LIFE))
    after_one_half_life = rate.seconds_for(1)
    drain(rate, clock, 1.0, int(5 * HALF_LIFE))
    assert 0.15 < after_one_half_life < 0.25
    assert rate.seconds_for(1) > 0.7


def test_after_a_pause_what_happens_now_counts_for_more(clock: Clock) -> None:
    rate = ThroughputMeter(clock)
    drain(rate, clock, 1.0, 50)
    rate.departed(on=False)
    clock.now += 3 * HALF_LIFE
    drain(rate, clock, 0.1, 50)
    assert rate.seconds_for(1) < 0.3


@pytest.mark.parametrize(("apart", "count", "known"), [(0.1, 9, False), (0.1, 12, True), (2, 2, False), (2, 3, True)])
def test_a_rate_is_known_once_enough_has_been_seen_for_long_enough(
    clock: Clock, apart: float, count: int, known: bool
) -> None:
    rate = ThroughputMeter(clock)
    drain(rate, clock, apart, count)
    assert rate.known is known


def test_a_rate_of_long_ago_is_not_known_and_still_told(clock: Clock) -> None:
    rate = ThroughputMeter(clock)
    drain(rate, clock, 1.0, 100)
    rate.departed(on=False)
    clock.now += 600
    rate.entered()
    assert not rate.known
    assert rate.seconds_for(5) == pytest.approx(5, rel=0.1)


def test_a_stall_makes_a_rate_no_less_known(clock: Clock) -> None:
    rate = ThroughputMeter(clock)
    drain(rate, clock, 0.3, 5)
    clock.now += 3 * HALF_LIFE
    assert rate.known


def test_a_stall_is_told_while_it_lasts(clock: Clock) -> None:
    rate = ThroughputMeter(clock)
    drain(rate, clock, 0.1, 100)
    assert rate.retry_after(19, soonest=1) == 2
    told = []
    for _ in range(90):
        clock.now += 1
        told.append(rate.retry_after(19, soonest=1))
    assert told == sorted(told)
    assert told[-1] == 60


@pytest.mark.parametrize(("apart", "soonest", "expected"), [(1e-6, 1, 1), (1e-6, 0, 1), (1e-6, 9, 9), (30, 1, 60)])
def test_what_is_told_lies_between_a_second_and_a_minute(
    clock: Clock, apart: float, soonest: int, expected: int
) -> None:
    rate = ThroughputMeter(clock)
    drain(rate, clock, apart, 20)
    assert rate.retry_after(10, soonest) == expected
