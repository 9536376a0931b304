"""A device that doubles numbers, and a batcher that works on it.

For: tests of batching without a model.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from app.engine.batcher import Batcher


class Doubler:
    """Doubles numbers, fails on negative ones, has room for so many at a time, and can be held or broken."""

    def __init__(self, room: int = 1000) -> None:
        self.batches: list[list[int]] = []
        self.room = room
        self.free = threading.Event()
        self.free.set()
        self.began = threading.Event()
        self.broken = False
        self.checks = 0
        self.fatal: list[BaseException] = []

    def run(self, jobs: Sequence[int]) -> list[int]:
        self.batches.append(list(jobs))
        self.began.set()
        assert self.free.wait(10)
        if len(jobs) > self.room:
            raise MemoryError
        if self.broken or any(job < 0 for job in jobs):
            raise ArithmeticError(f"cannot double {jobs}")
        return [2 * job for job in jobs]

    def check(self) -> None:
        self.checks += 1
        if self.broken:
            raise RuntimeError("the device is gone")


@contextmanager
def working(device: Doubler, *, capacity: int = 8, max_batch: int = 4, **given: Any) -> Iterator[Batcher[int, int]]:
    """A batcher at work; what `given` does not say is the default."""
    batcher: Batcher[int, int] = Batcher(
        device.run,
        check=device.check,
        on_fatal=device.fatal.append,
        capacity=capacity,
        max_batch=max_batch,
        **given,
    )
    batcher.start()
    try:
        yield batcher
    finally:
        device.free.set()
        assert batcher.stop(10)


async def ask(batcher: Batcher[int, int], job: int, seconds: float = 30) -> int:
    with batcher.place() as place:
        return (await place.submit(job, time.monotonic() + seconds)).result


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("waited ten seconds in vain")


async def hold(batcher: Batcher[int, int], device: Doubler, job: int = 0) -> "asyncio.Task[int]":
    """Keep the worker busy with `job` until the device is freed."""
    device.free.clear()
    task = asyncio.create_task(ask(batcher, job))
    await until(device.began.is_set)
    return task


async def wait_together(batcher: Batcher[int, int], device: Doubler, jobs: Sequence[int]) -> "list[asyncio.Task[int]]":
    """Have jobs wait in that order behind one that is held, then free the device."""
    held = await hold(batcher, device)
    tasks = [held, *(asyncio.create_task(ask(batcher, job)) for job in jobs)]
    await until(lambda: batcher.depth == len(jobs))
    device.free.set()
    return tasks
