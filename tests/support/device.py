"""A device that doubles numbers, and a batcher that runs on it, for tests of batching without a model."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from app.engine.batcher import Batcher


class Doubler:
    """Doubles numbers; fails on negative ones and on more than `room` at a time; can be held or broken."""

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
def working(
    device: Doubler, *, workers: int = 1, capacity: int = 8, max_batch: int = 4, **given: Any
) -> Iterator[Batcher[int, int]]:
    """Run a batcher with the given options."""
    batcher: Batcher[int, int] = Batcher(
        device.run,
        check=device.check,
        on_fatal=device.fatal.append,
        capacity=capacity,
        max_batch=max_batch,
        **given,
    )
    batcher.start(workers)
    try:
        yield batcher
    finally:
        device.free.set()
        assert batcher.stop(10)


async def run_job(batcher: Batcher[int, int], job: int, seconds: float = 30) -> int:
    with batcher.reserve() as ticket:
        result, _ = await batcher.submit(ticket, job, time.monotonic() + seconds)
        return result


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("the condition did not hold within ten seconds")


async def hold(batcher: Batcher[int, int], device: Doubler, job: int = 0) -> "asyncio.Task[int]":
    """Block the worker with `job` until the device is released."""
    device.free.clear()
    task = asyncio.create_task(run_job(batcher, job))
    await until(device.began.is_set)
    return task


async def wait_together(batcher: Batcher[int, int], device: Doubler, jobs: Sequence[int]) -> "list[asyncio.Task[int]]":
    """Queue jobs in that order behind one that blocks, then release the device."""
    held = await hold(batcher, device)
    tasks = [held, *(asyncio.create_task(run_job(batcher, job)) for job in jobs)]
    await until(lambda: batcher.depth == len(jobs))
    device.free.set()
    return tasks
