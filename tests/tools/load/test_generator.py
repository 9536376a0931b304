import asyncio

import pytest

from tests.support.virtual_time import run
from tools.load.client import Client, Request, Response
from tools.load.generator import background, capacity, constant, drawn, open_loop, percentile, poisson, statuses
from tools.load.generator import run as run_in_real_time
from tools.load.payloads import text, valid

REQUEST = text("Hello.")


class Slow(Client):
    """A client of a service that responds `seconds` after each request."""

    def __init__(self, seconds: float, status: int = 200) -> None:
        super().__init__(0)
        self.seconds, self.status = seconds, status

    async def send(self, request: Request) -> Response:
        await asyncio.sleep(self.seconds)
        return Response(self.status, self.seconds, body=b"{}")


def test_open_loops_do_not_wait_for_responses() -> None:
    found = run(open_loop(Slow(0.3), drawn([REQUEST], 0), poisson(200, 0.3)))
    assert len(found) > 30  # 60 are expected; a closed loop would have sent one
    assert all(one.correct for one in found)
    assert [one.at for one in found] == pytest.approx(list(poisson(200, 0.3)))


def test_poisson_arrivals_are_reproducible_and_have_the_rate() -> None:
    arrivals = list(poisson(100, 50, seed=1))
    assert arrivals == list(poisson(100, 50, seed=1))
    assert arrivals == sorted(arrivals)
    assert len(arrivals) == pytest.approx(5000, rel=0.1)


def test_constant_arrivals_are_evenly_spaced() -> None:
    assert list(constant(4, 1)) == [0.0, 0.25, 0.5, 0.75]
    assert list(constant(0.1, 1)) == [0.0]


def test_open_loops_end_when_stopped() -> None:
    assert run(open_loop(Slow(0), drawn([REQUEST], 0), poisson(100, 60), stop=lambda: True)) == []


def test_latency_counts_from_when_a_request_was_due() -> None:
    class OneAtATime(Slow):
        lock = asyncio.Lock()

        async def send(self, request: Request) -> Response:
            loop = asyncio.get_running_loop()
            began = loop.time()
            async with self.lock:
                await asyncio.sleep(self.seconds)
            return Response(200, loop.time() - began)

    found = run(open_loop(OneAtATime(0.02), drawn([REQUEST], 0), constant(250, 0.08)))  # five times the capacity
    assert [one.latency for one in found] == pytest.approx([0.02 * (n + 1) - n / 250 for n in range(20)])


def test_responses_after_the_patience_are_timeouts() -> None:
    found = run(open_loop(Slow(30), drawn([REQUEST], 0), constant(20, 0.1), patience=0.05))
    assert statuses(found) == {"timeout": 2}


def test_exchanges_keep_the_body_of_errors_only() -> None:
    for status, body in ((200, b""), (503, b"{}")):
        (found,) = run(open_loop(Slow(0, status), drawn([REQUEST], 0), constant(1, 1)))
        assert (found.response.body, found.correct) == (body, status == 200)


def test_capacity_is_the_rate_of_a_closed_loop() -> None:
    measured = run(capacity(Slow(0.1), drawn([REQUEST], 0), 0.6, warm_up=0.1, workers=4))
    assert measured == pytest.approx(40)  # 4 workers, 10 requests each


def test_capacity_is_not_measured_with_wrong_responses() -> None:
    with pytest.raises(ExceptionGroup) as raised:
        run(capacity(Slow(0, status=500), drawn([REQUEST], 0), 1))
    assert raised.group_contains(RuntimeError, match="status=500")


def test_background_traffic_without_a_service_is_not_correct() -> None:
    async def send() -> dict[str, int]:
        async with background(1, [REQUEST], rate=100) as found:
            await asyncio.sleep(0.2)
        assert not any(one.correct for one in found)
        return statuses(found)

    assert set(run_in_real_time(send())) == {"refused"}


def test_the_same_seed_draws_the_same_requests() -> None:
    first, second = drawn(valid(), 3), drawn(valid(), 3)
    assert [next(first).name for _ in range(20)] == [next(second).name for _ in range(20)]


def test_percentiles_are_values_of_the_sample() -> None:
    assert percentile([3.0, 1.0, 2.0, 4.0], 0.5) == 2.0
    assert [percentile(range(1, 101), share) for share in (0.5, 0.95, 0.99, 1.0)] == [50, 95, 99, 100]
    assert percentile([], 0.5) == 0.0
