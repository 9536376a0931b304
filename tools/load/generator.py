"""Load generation: closed loops, which measure a capacity, and open loops, which send at a rate of their own.

An open loop does not wait for responses, so a slow service cannot slow down its own measurement (coordinated omission).
"""

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import uvloop

from tools.load.client import Client, Request, Response

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its response, without the bytes of the request and of a 200.

    Args:
        at: when it was sent, in seconds from the start of the load.
        name: of the request.
        expected: statuses that are correct for it.
        response: what came back.
        due: when it was to be sent.
    """

    at: float
    name: str
    expected: frozenset[int]
    response: Response
    due: float = 0.0

    @classmethod
    def of(cls, request: Request, response: Response, at: float = 0.0, due: float = 0.0) -> "Exchange":
        """Record a response."""
        if response.status == 200:
            response = replace(response, body=b"")
        return cls(at, request.name, request.expected, response, due)

    @property
    def correct(self) -> bool:
        """Whether the status is one that a healthy service returns."""
        return self.response.status in self.expected

    @property
    def latency(self) -> float:
        """Seconds from when the request was due to the last byte of its response."""
        return self.at - self.due + self.response.seconds


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on uvloop, which leaves the service more of the processor than asyncio's loop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def drawn(requests: Sequence[Request], seed: int) -> Iterator[Request]:
    """Draw from `requests` without end."""
    rng = random.Random(seed)
    while True:
        yield rng.choice(requests)


def poisson(rate: float, seconds: float, seed: int = 0) -> Iterator[float]:
    """Yield the arrival times of a Poisson process of `rate` a second."""
    rng, at = random.Random(seed), 0.0
    while (at := at + rng.expovariate(rate)) < seconds:
        yield at


def constant(rate: float, seconds: float) -> Iterator[float]:
    """Yield arrival times at a constant rate; at least one."""
    return (number / rate for number in range(max(1, round(rate * seconds))))


class Sender(Protocol):
    """Sends requests: a `Client`, or several."""

    async def send(self, request: Request) -> Response:
        """Send a request and wait for its response."""


async def open_loop(
    client: Sender,
    requests: Iterator[Request],
    arrivals: Iterable[float],
    *,
    stop: Callable[[], bool] = lambda: False,
    patience: float | None = None,
) -> list[Exchange]:
    """Send a request at each of the arrival times; returns when the last response is there.

    Args:
        client: the connections.
        requests: taken one by one.
        arrivals: in seconds from the start, ascending.
        stop: called before each request; True ends the sending.
        patience: seconds to wait, after the last request, for responses; those that take longer are timeouts.
    """
    began = time.perf_counter()
    found: list[Exchange] = []
    running: set[asyncio.Task[None]] = set()

    async def exchange(request: Request, due: float) -> None:
        at = time.perf_counter() - began
        try:
            response = await client.send(request)
        except asyncio.CancelledError:
            response = Response(0, time.perf_counter() - began - at, error="timeout")
        found.append(Exchange.of(request, response, at, due))

    for due in arrivals:
        request = next(requests)
        await asyncio.sleep(max(0.0, due - (time.perf_counter() - began)))
        if stop():
            break
        task = asyncio.create_task(exchange(request, due))
        running.add(task)
        task.add_done_callback(running.discard)
    if running:
        await asyncio.wait(running, timeout=patience)
        for task in running:
            task.cancel()
        await asyncio.gather(*running)
    return sorted(found, key=lambda one: one.at)


async def capacity(
    client: Client, requests: Iterator[Request], seconds: float, warm_up: float = 3.0, workers: int = 48
) -> float:
    """Measure correct responses a second of `workers` clients that send one request after the other.

    Args:
        client: the connections.
        requests: taken one by one.
        seconds: to measure for.
        warm_up: seconds before that, which are not counted.
        workers: requests in flight.

    Raises:
        RuntimeError: a response is not correct, so what is measured is not a healthy service; in an `ExceptionGroup`.
    """
    counted, began = 0.0, time.perf_counter()

    async def worker() -> None:
        nonlocal counted
        while (elapsed := time.perf_counter() - began) < warm_up + seconds:
            request = next(requests)
            response = await client.send(request)
            if response.status not in request.expected:
                raise RuntimeError(f"{request.name}: {response}")
            # Requests in flight at either end count by the part of them that lies inside.
            finished = time.perf_counter() - began
            inside = min(finished, warm_up + seconds) - max(elapsed, warm_up)
            counted += max(0.0, inside) / (finished - elapsed)

    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(worker())
    return counted / seconds


@asynccontextmanager
async def background(port: int, requests: Sequence[Request], rate: float) -> AsyncIterator[list[Exchange]]:
    """Send steady traffic while the block runs; the list is filled when the block ends."""
    client, found = Client(port), list[Exchange]()
    ended = False
    task = asyncio.create_task(open_loop(client, drawn(requests, 2), poisson(rate, 3600), stop=lambda: ended))
    try:
        yield found
    finally:
        ended = True
        found.extend(await task)
        client.close()


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of `values` do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def statuses(exchanges: Sequence[Exchange]) -> dict[str, int]:
    """Count the exchanges by status, or by error where there was no response."""
    return dict(sorted(Counter(one.response.error or str(one.response.status) for one in exchanges).items()))
