import threading
import time

import pytest

from app.engine.admission import FEW, Admission
from app.engine.errors import QueueFull


def test_there_are_as_many_as_were_made_and_one_more_only_for_the_service_itself() -> None:
    places = Admission(2, retry_after=5)
    first, _ = places.take(), places.take()
    for refused in (places.take, places.admit):
        with pytest.raises(QueueFull) as refusal:
            refused()
        assert refusal.value.retry_after == 5
    places.take(extra=True)
    assert places.taken == 3
    places.give_up(first)
    assert places.taken == 2


def test_a_place_is_given_up_once_however_often_it_is_said() -> None:
    places = Admission(2, retry_after=1)
    first, _ = places.take(), places.take()
    for _ in range(3):
        places.give_up(first)
    assert places.taken == 1


def test_who_is_refused_is_told_how_long_those_who_wait_will_take() -> None:
    places = Admission(40, retry_after=1)
    tickets = [places.take() for _ in range(40)]
    for ticket in tickets[:4]:
        time.sleep(0.2)
        places.give_up(ticket)
        places.take()
    with pytest.raises(QueueFull) as refusal:
        places.take()
    assert 8 <= refusal.value.retry_after <= 12  # 40 places, one every 0.2 seconds or a little more


def test_no_place_is_lost_or_given_twice_between_threads() -> None:
    places, most = Admission(3, retry_after=1), []

    def come_and_go() -> None:
        for _ in range(500):
            try:
                ticket = places.take()
            except QueueFull:
                continue
            most.append(places.taken)
            places.give_up(ticket)

    threads = [threading.Thread(target=come_and_go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert places.taken == 0
    assert max(most) <= 3


def served(places: Admission, waiting: int, seconds: float, each: float) -> list[object]:
    """So many wait, one of them leaves each so often and another takes its place; those who then wait."""
    tickets = [places.take() for _ in range(waiting)]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(each)
        places.give_up(tickets.pop(0))
        tickets.append(places.take(extra=True))
    return tickets


def test_one_more_is_refused_when_those_who_wait_will_take_too_long() -> None:
    places = Admission(256, retry_after=1, max_wait=1.0)
    tickets = served(places, 60, seconds=1.5, each=0.025)  # 40 a second at most
    for refused in (places.take, places.admit):
        with pytest.raises(QueueFull, match="longer than 1 seconds") as refusal:
            refused()
        assert refusal.value.retry_after >= 2
    places.give_up(places.take(extra=True))
    while len(tickets) > FEW - 1:
        places.give_up(tickets.pop())
    places.admit()
    assert places.take()


@pytest.mark.parametrize("max_wait", [0.0, 60.0])
def test_no_one_is_refused_for_a_wait_that_is_allowed(max_wait: float) -> None:
    places = Admission(256, retry_after=1, max_wait=max_wait)
    served(places, 100, seconds=1.2, each=0.05)
    for _ in range(156):
        places.take()
    with pytest.raises(QueueFull, match="256 requests"):
        places.take()


def test_a_crowd_that_comes_all_at_once_is_let_in_while_no_rate_is_known() -> None:
    places = Admission(256, retry_after=1, max_wait=0.001)
    for _ in range(20):  # one after the other: this says nothing of a crowd
        ticket = places.take()
        time.sleep(0.06)
        places.give_up(ticket)
    assert all(places.take() for _ in range(256))
    assert places.taken == 256


def test_a_few_are_never_too_many() -> None:
    places = Admission(256, retry_after=1, max_wait=0.001)
    tickets = served(places, FEW, seconds=1.2, each=0.1)
    with pytest.raises(QueueFull, match=r"longer than 0\.001 seconds"):
        places.take()
    places.give_up(tickets.pop())
    places.take()
