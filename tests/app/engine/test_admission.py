import threading
from contextlib import ExitStack

import pytest

from app.engine.admission import HALF_LIFE, MIN_QUEUE, Admission, ThroughputMeter
from app.errors import QueueFull


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_requests_past_the_capacity_are_refused_unless_extra() -> None:
    admission = Admission(2, retry_after=5)
    first, _ = admission.acquire(), admission.acquire()
    for refused in (admission.acquire, admission.check):
        with pytest.raises(QueueFull) as refusal:
            refused()
        assert refusal.value.retry_after == 5
    admission.acquire(extra=True)
    assert admission.waiting == 3
    admission.release(first)
    assert admission.waiting == 2


def test_releasing_a_ticket_twice_does_nothing() -> None:
    admission = Admission(2, retry_after=1)
    first, _ = admission.acquire(), admission.acquire()
    for _ in range(3):
        admission.release(first)
    assert admission.waiting == 1


def test_a_refusal_names_the_expected_wait(clock: Clock) -> None:
    admission = Admission(40, retry_after=1, clock=clock)
    tickets = [admission.acquire() for _ in range(40)]
    for ticket in tickets[:4]:
        clock.now += 0.2
        admission.release(ticket)
        admission.acquire()
    with pytest.raises(QueueFull) as refusal:
        admission.acquire()
    # 40 requests, one departure every 0.2 seconds
    assert refusal.value.retry_after in range(8, 13)


def test_tickets_are_consistent_across_threads() -> None:
    admission, most = Admission(3, retry_after=1), []

    def acquire_and_release() -> None:
        for _ in range(500):
            try:
                ticket = admission.acquire()
            except QueueFull:
                continue
            most.append(admission.waiting)
            admission.release(ticket)

    threads = [threading.Thread(target=acquire_and_release) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert admission.waiting == 0
    assert max(most) <= 3


def serve(admission: Admission, clock: Clock, waiting: int, seconds: float, each: float) -> list[object]:
    """Keep `waiting` requests waiting, replacing one of them every `each` seconds; return their tickets."""
    tickets = [admission.acquire() for _ in range(waiting)]
    end = clock() + seconds
    while clock() < end:
        clock.now += each
        admission.release(tickets.pop(0))
        tickets.append(admission.acquire(extra=True))
    return tickets


def test_requests_are_refused_if_the_expected_wait_is_too_long(clock: Clock) -> None:
    admission = Admission(256, retry_after=1, max_wait=1.0, clock=clock)
    tickets = serve(admission, clock, 60, seconds=1.5, each=0.025)  # 40 a second
    for refused in (admission.acquire, admission.check):
        with pytest.raises(QueueFull, match="longer than 1 seconds") as refusal:
            refused()
        assert refusal.value.retry_after in range(2, 61)
    admission.release(admission.acquire(extra=True))
    while len(tickets) > MIN_QUEUE - 1:
        admission.release(tickets.pop())
    admission.check()
    assert admission.acquire()


@pytest.mark.parametrize("max_wait", [0.0, 60.0])
def test_no_request_is_refused_within_the_maximum_wait(max_wait: float, clock: Clock) -> None:
    admission = Admission(256, retry_after=1, max_wait=max_wait, clock=clock)
    serve(admission, clock, 100, seconds=1.2, each=0.05)
    for _ in range(156):
        admission.acquire()
    with pytest.raises(QueueFull, match="256 requests"):
        admission.acquire()


def test_a_burst_is_admitted_while_no_throughput_is_known(clock: Clock) -> None:
    admission = Admission(256, retry_after=1, max_wait=0.001, clock=clock)
    for _ in range(20):  # one after the other, which does not measure the throughput
        ticket = admission.acquire()
        clock.now += 0.06
        admission.release(ticket)
    assert all(admission.acquire() for _ in range(256))
    assert admission.waiting == 256


def test_a_short_queue_is_never_refused(clock: Clock) -> None:
    admission = Admission(256, retry_after=1, max_wait=0.001, clock=clock)
    tickets = serve(admission, clock, MIN_QUEUE, seconds=1.2, each=0.1)
    with pytest.raises(QueueFull, match=r"longer than 0\.001 seconds"):
        admission.acquire()
    admission.release(tickets.pop())
    admission.acquire()


# ---- ThroughputMeter -------------------------------------------------------------------------------------------------


def count_departures(meter: ThroughputMeter, clock: Clock, seconds: float, count: int) -> None:
    """`count` departures of a busy queue, that many seconds apart."""
    meter.start()
    for _ in range(count):
        clock.now += seconds
        meter.count(busy=True)


def test_without_observations_retry_after_is_the_minimum(clock: Clock) -> None:
    meter = ThroughputMeter(clock)
    meter.start()
    assert meter.seconds_for(100) == 0
    assert meter.retry_after(100, minimum=4) == 4


@pytest.mark.parametrize(("interval", "waiting", "expected"), [(0.1, 95, 10), (0.25, 10, 3), (0.01, 256, 3)])
def test_the_expected_wait_follows_the_throughput(clock: Clock, interval: float, waiting: int, expected: int) -> None:
    meter = ThroughputMeter(clock)
    count_departures(meter, clock, interval, 100)
    assert meter.seconds_for(waiting) == pytest.approx(interval * waiting)
    assert meter.retry_after(waiting, minimum=1) == expected


def test_idle_time_is_not_counted(clock: Clock) -> None:
    meter = ThroughputMeter(clock)
    count_departures(meter, clock, 0.1, 50)
    meter.count(busy=False)
    before = meter.seconds_for(10)
    clock.now += 3600
    assert meter.seconds_for(10) == before
    count_departures(meter, clock, 0.1, 50)
    assert meter.seconds_for(10) == pytest.approx(before, rel=0.05)


def test_recent_departures_have_more_weight(clock: Clock) -> None:
    meter = ThroughputMeter(clock)
    count_departures(meter, clock, 0.1, 1000)
    count_departures(meter, clock, 1.0, int(HALF_LIFE))
    after_one_half_life = meter.seconds_for(1)
    count_departures(meter, clock, 1.0, int(5 * HALF_LIFE))
    assert 0.15 < after_one_half_life < 0.25
    assert meter.seconds_for(1) > 0.7


def test_departures_before_a_pause_have_less_weight(clock: Clock) -> None:
    meter = ThroughputMeter(clock)
    count_departures(meter, clock, 1.0, 50)
    meter.count(busy=False)
    clock.now += 3 * HALF_LIFE
    count_departures(meter, clock, 0.1, 50)
    assert meter.seconds_for(1) < 0.3


@pytest.mark.parametrize(
    ("interval", "count", "known"), [(0.1, 9, False), (0.1, 12, True), (2, 2, False), (2, 3, True)]
)
def test_a_throughput_is_known_after_enough_observations(
    clock: Clock, interval: float, count: int, known: bool
) -> None:
    meter = ThroughputMeter(clock)
    count_departures(meter, clock, interval, count)
    assert meter.known is known


def test_an_old_throughput_is_not_known_but_still_used(clock: Clock) -> None:
    meter = ThroughputMeter(clock)
    count_departures(meter, clock, 1.0, 100)
    meter.count(busy=False)
    clock.now += 600
    meter.start()
    assert not meter.known
    assert meter.seconds_for(5) == pytest.approx(5, rel=0.1)


def test_a_throughput_stays_known_during_a_stall(clock: Clock) -> None:
    meter = ThroughputMeter(clock)
    count_departures(meter, clock, 0.3, 5)
    clock.now += 3 * HALF_LIFE
    assert meter.known


def test_retry_after_grows_during_a_stall(clock: Clock) -> None:
    meter = ThroughputMeter(clock)
    count_departures(meter, clock, 0.1, 100)
    assert meter.retry_after(19, minimum=1) == 2
    seconds = []
    for _ in range(90):
        clock.now += 1
        seconds.append(meter.retry_after(19, minimum=1))
    assert seconds == sorted(seconds)
    assert seconds[-1] == 60


@pytest.mark.parametrize(("interval", "minimum", "expected"), [(1e-6, 1, 1), (1e-6, 0, 1), (1e-6, 9, 9), (30, 1, 60)])
def test_retry_after_is_between_a_second_and_a_minute(
    clock: Clock, interval: float, minimum: int, expected: int
) -> None:
    meter = ThroughputMeter(clock)
    count_departures(meter, clock, interval, 20)
    assert meter.retry_after(10, minimum) == expected


def test_a_request_set_aside_does_not_count() -> None:
    admission = Admission(1, retry_after=1)
    ticket = admission.acquire()
    with admission.aside(ticket):
        assert admission.waiting == 0
        admission.release(admission.acquire())
        admission.acquire()
    assert admission.waiting == 2
    admission.release(ticket)
    assert admission.waiting == 1


def test_requests_set_aside_do_not_delay_or_refuse_others(clock: Clock) -> None:
    admission = Admission(256, retry_after=1, max_wait=3, clock=clock)
    with ExitStack() as slow:
        for ticket in [admission.acquire() for _ in range(2 * MIN_QUEUE)]:
            slow.enter_context(admission.aside(ticket))
        for _ in range(20):
            clock.now += 1.0
            admission.release(admission.acquire())
        assert admission.waiting == 0
        admission.check()
        assert admission.retry_after == 1
