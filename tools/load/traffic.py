"""Traffic: as fast as it is answered, or at a rate of its own whatever is answered.

For: measuring a capacity (closed loop) and loading a service beyond it or short of it (open loop). An open loop does
not wait for answers, so a slow service meets the requests that its slowness would have held back.
Does not know: what the figures mean to a bench.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import uvloop

from tools.load.bodies import Sent, endless
from tools.load.client import Answer, Client

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and what came of it; `at` is seconds into the traffic. The request's bytes are not kept."""

    at: float
    name: str
    expected: frozenset[int]
    answer: Answer

    @property
    def right(self) -> bool:
        """Whether the answer is one that a service at its ease would give."""
        return self.answer.status in self.expected


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run on the leanest event loop there is."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


async def open_loop(
    client: Client,
    requests: Iterator[Sent],
    rate: float,
    seconds: float,
    *,
    seed: int = 0,
    stop: Callable[[], bool] = lambda: False,
) -> list[Exchange]:
    """Send `rate` requests a second, at the times of a Poisson process; returns when the last is answered.

    Args:
        client: the connections.
        requests: where they come from.
        rate: a second, on average.
        seconds: how long to send.
        seed: of the times.
        stop: asked before each request; True ends the sending.
    """
    rng, began = random.Random(seed), time.perf_counter()
    found: list[Exchange] = []
    running: set[asyncio.Task[None]] = set()

    async def exchange(request: Sent, at: float) -> None:
        found.append(Exchange(at, request.name, request.expected, await client.ask(request)))

    at = 0.0
    while (at := at + rng.expovariate(rate)) < seconds:
        if (early := at - (time.perf_counter() - began)) > 0:
            await asyncio.sleep(early)
        if stop():
            break
        task = asyncio.create_task(exchange(next(requests), time.perf_counter() - began))
        running.add(task)
        task.add_done_callback(running.discard)
    while running:
        await asyncio.wait(running)
    return sorted(found, key=lambda one: one.at)


async def capacity(
    client: Client, requests: Sequence[Sent], seconds: float, warm_up: float = 3.0, workers: int = 48
) -> float:
    """Right answers a second when `workers` clients ask one request after the other; `warm_up` seconds do not count.

    Raises:
        RuntimeError: an answer is wrong: what is measured is not a service at its ease.
    """
    drawn, counted = endless(requests, seed=1), 0.0
    began = time.perf_counter()

    async def worker() -> None:
        nonlocal counted
        while (elapsed := time.perf_counter() - began) < warm_up + seconds:
            request = next(drawn)
            answer = await client.ask(request)
            if answer.status not in request.expected:
                raise RuntimeError(f"{request.name}: {answer}")
            # Requests under way at either end count by the part of them that lies inside.
            finished = time.perf_counter() - began
            inside = min(finished, warm_up + seconds) - max(elapsed, warm_up)
            counted += max(0.0, inside) / (finished - elapsed)

    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(worker())
    return counted / seconds


@asynccontextmanager
async def bystanders(port: int, requests: Sequence[Sent], rate: float) -> AsyncIterator[list[Exchange]]:
    """Steady traffic beside what the block does; the list is filled when the block ends."""
    client, found = Client(port), list[Exchange]()
    ended = False
    task = asyncio.create_task(open_loop(client, endless(requests, 2), rate, 3600, stop=lambda: ended))
    try:
        yield found
    finally:
        ended = True
        found.extend(await task)
        client.close()


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of `values` do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def statuses(exchanges: Sequence[Exchange]) -> dict[str, int]:
    """How many of each status, or of each way to be lost."""
    counts = Counter(one.answer.lost or str(one.answer.status) for one in exchanges)
    return dict(sorted(counts.items()))
