import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from app.inference.batcher import Batcher
from app.inference.errors import DeadlinePassed, DeviceLost, NotReady, QueueFull, Unprocessable

pytestmark = pytest.mark.anyio


class Doubler:
    """A device that doubles numbers, fails on negative ones, and can be held or broken."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.free = threading.Event()
        self.free.set()
        self.began = threading.Event()
        self.broken = False
        self.fatal: list[BaseException] = []

    def run(self, jobs: Sequence[int]) -> list[int]:
        self.batches.append(list(jobs))
        self.began.set()
        assert self.free.wait(10)
        if self.broken or any(job < 0 for job in jobs):
            raise ArithmeticError(f"cannot double {jobs}")
        return [2 * job for job in jobs]

    def check(self) -> None:
        if self.broken:
            raise RuntimeError("the device is gone")


@contextmanager
def working(
    device: Doubler, *, capacity: int = 8, max_batch: int = 4, delay: float = 0.0, retry_after: int = 1
) -> Iterator[Batcher[int, int]]:
    batcher: Batcher[int, int] = Batcher(
        device.run,
        check=device.check,
        on_fatal=device.fatal.append,
        capacity=capacity,
        max_batch=max_batch,
        delay=delay,
        retry_after=retry_after,
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


async def test_every_job_gets_its_own_result() -> None:
    with working(Doubler()) as batcher:
        assert await asyncio.gather(*(ask(batcher, job) for job in range(8))) == [2 * job for job in range(8)]


async def test_what_waits_together_runs_together_up_to_the_largest_batch() -> None:
    device = Doubler()
    with working(device) as batcher:
        held = await hold(batcher, device)
        waiting = [asyncio.create_task(ask(batcher, job)) for job in range(1, 7)]
        await until(lambda: batcher.depth == 6)
        device.free.set()
        await asyncio.gather(held, *waiting)
    assert device.batches == [[0], [1, 2, 3, 4], [5, 6]]


async def test_a_delay_holds_a_batch_back_for_company() -> None:
    device = Doubler()
    with working(device, delay=5.0, max_batch=2) as batcher:
        first = asyncio.create_task(ask(batcher, 1))
        await asyncio.sleep(0.05)
        assert device.batches == []
        assert list(await asyncio.gather(first, ask(batcher, 2))) == [2, 4]
    assert device.batches == [[1, 2]]


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    device = Doubler()
    with working(device, capacity=2, retry_after=7) as batcher:
        held = await hold(batcher, device)
        waiting = [asyncio.create_task(ask(batcher, job)) for job in (1, 2)]
        await until(lambda: batcher.depth == 2)
        with pytest.raises(QueueFull) as refusal:
            await ask(batcher, 3)
        assert refusal.value.retry_after == 7
        with pytest.raises(QueueFull):
            batcher.admit()
        device.free.set()
        assert await asyncio.gather(held, *waiting) == [0, 2, 4]
        assert await ask(batcher, 3) == 6
        assert batcher.depth == 0


async def test_a_place_counts_before_its_job_is_submitted() -> None:
    with working(Doubler(), capacity=1) as batcher:
        with batcher.place():
            assert batcher.depth == 1
            with pytest.raises(QueueFull):
                await ask(batcher, 1)
        assert await ask(batcher, 1) == 2


async def test_a_deadline_passed_on_entry_is_refused_without_running() -> None:
    device = Doubler()
    with working(device) as batcher:
        with pytest.raises(DeadlinePassed):
            await ask(batcher, 1, seconds=-0.001)
        assert batcher.depth == 0
    assert device.batches == []


async def test_a_deadline_passed_while_waiting_is_refused_without_running() -> None:
    device = Doubler()
    with working(device) as batcher:
        held = await hold(batcher, device)
        late = asyncio.create_task(ask(batcher, 1, seconds=0.02))
        on_time = asyncio.create_task(ask(batcher, 2))
        await until(lambda: batcher.depth == 2)
        await asyncio.sleep(0.05)
        device.free.set()
        with pytest.raises(DeadlinePassed):
            await late
        assert list(await asyncio.gather(held, on_time)) == [0, 4]
    assert device.batches == [[0], [2]]


async def test_a_client_that_left_while_waiting_is_dropped_before_the_forward_pass() -> None:
    device = Doubler()
    with working(device) as batcher:
        held = await hold(batcher, device)
        gone, stays = (asyncio.create_task(ask(batcher, job)) for job in (1, 2))
        await until(lambda: batcher.depth == 2)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert batcher.depth == 1
        device.free.set()
        assert list(await asyncio.gather(held, stays)) == [0, 4]
    assert device.batches == [[0], [2]]


async def test_only_the_culprit_of_a_failing_batch_fails() -> None:
    device = Doubler()
    with working(device) as batcher:
        held = await hold(batcher, device)
        tasks = [asyncio.create_task(ask(batcher, job)) for job in (1, -2, 3)]
        await until(lambda: batcher.depth == 3)
        device.free.set()
        await held
        good, bad, also_good = await asyncio.gather(*tasks, return_exceptions=True)
    assert (good, also_good) == (2, 6)
    assert isinstance(bad, Unprocessable)
    assert device.fatal == []


async def test_too_few_results_fail_their_jobs_and_not_the_worker() -> None:
    batcher: Batcher[int, int] = Batcher(lambda _: [], check=lambda: None, on_fatal=lambda _: None)
    batcher.start()
    with pytest.raises(Unprocessable):
        await ask(batcher, 1)
    assert batcher.alive
    assert batcher.stop(10)


async def test_a_broken_device_fails_everyone_waiting_and_is_reported_once() -> None:
    device = Doubler()
    with working(device) as batcher:
        held = await hold(batcher, device)
        waiting = [asyncio.create_task(ask(batcher, job)) for job in range(1, 7)]
        await until(lambda: batcher.depth == 6)
        device.broken = True
        device.free.set()
        results = await asyncio.gather(held, *waiting, return_exceptions=True)
        assert all(isinstance(result, DeviceLost) for result in results)
        assert not batcher.alive
        with pytest.raises(DeviceLost):
            await ask(batcher, 9)
    assert [type(error) for error in device.fatal] == [RuntimeError]


async def test_stopping_finishes_what_was_accepted_and_takes_nothing_more() -> None:
    device = Doubler()
    with working(device) as batcher:
        held = await hold(batcher, device)
        accepted = asyncio.create_task(ask(batcher, 1))
        await until(lambda: batcher.depth == 1)
        stopped = asyncio.create_task(asyncio.to_thread(batcher.stop, 10))
        await until(lambda: batcher.stopping)
        with pytest.raises(NotReady):
            await ask(batcher, 2)
        device.free.set()
        assert list(await asyncio.gather(held, accepted, stopped)) == [0, 2, True]


async def test_an_idle_worker_keeps_giving_signs_of_life_and_a_stuck_one_does_not() -> None:
    device = Doubler()
    with working(device) as batcher:
        await asyncio.sleep(1.2)
        assert batcher.silence < 1.0
        held = await hold(batcher, device)
        await asyncio.sleep(0.7)
        assert batcher.silence > 0.6
        device.free.set()
        await held
