import time

import pytest

from tools.load.bodies import Sent, endless, text
from tools.load.client import Answer, Client
from tools.load.traffic import bystanders, capacity, open_loop, percentile, run, statuses

REQUEST = text("Hello.")


class Slow(Client):
    """A client of a service that answers everything, a while after it is asked."""

    def __init__(self, seconds: float, status: int = 200) -> None:
        super().__init__(0)
        self.seconds, self.status = seconds, status

    async def ask(self, request: Sent) -> Answer:
        import asyncio

        await asyncio.sleep(self.seconds)
        return Answer(self.status, self.seconds)


def test_an_open_loop_does_not_wait_for_answers() -> None:
    began = time.perf_counter()
    found = run(open_loop(Slow(0.5), endless([REQUEST], 0), rate=200, seconds=0.5))
    assert 60 <= len(found) <= 140  # 100 are to be expected; a closed loop would have sent one
    assert time.perf_counter() - began < 3
    assert all(one.right for one in found)
    assert [one.at for one in found] == sorted(one.at for one in found)


def test_an_open_loop_stops_when_told_to() -> None:
    assert run(open_loop(Slow(0), endless([REQUEST], 0), rate=100, seconds=60, stop=lambda: True)) == []


def test_the_capacity_is_what_is_answered_a_second() -> None:
    assert 30 <= run(capacity(Slow(0.1), [REQUEST], 0.6, warm_up=0.1, workers=4)) <= 41  # 4 workers, 10 requests each


def test_there_is_no_capacity_of_a_service_that_answers_wrongly() -> None:
    with pytest.raises(ExceptionGroup) as raised:
        run(capacity(Slow(0, status=500), [REQUEST], 1))
    assert raised.group_contains(RuntimeError, match="status=500")


def test_bystanders_who_find_nobody_are_not_answered_rightly() -> None:
    async def alone() -> dict[str, int]:
        import asyncio

        async with bystanders(1, [REQUEST], rate=100) as found:
            await asyncio.sleep(0.2)
        assert not any(one.right for one in found)
        return statuses(found)

    assert set(run(alone())) == {"refused"}


def test_a_percentile_is_the_value_that_so_many_do_not_exceed() -> None:
    assert percentile([3.0, 1.0, 2.0, 4.0], 0.5) == 3.0
    assert percentile(range(100), 0.99) == 99
    assert percentile([], 0.5) == 0.0
