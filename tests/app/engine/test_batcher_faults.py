"""Deadlines, failing jobs, a device that breaks or hangs, lack of memory."""

import asyncio
import time
from collections.abc import Sequence

import pytest

from app.engine.batcher import Batcher
from app.errors import DeadlinePassed, DeviceLost, ShortOfMemory, Unprocessable
from tests.support.device import Doubler, hold, run_job, until, wait_together, working

pytestmark = pytest.mark.anyio


async def test_a_deadline_passed_on_entry_is_refused_without_running() -> None:
    device = Doubler()
    with working(device) as batcher:
        with pytest.raises(DeadlinePassed):
            await run_job(batcher, 1, seconds=-0.001)
        assert batcher.depth == 0
    assert device.batches == []


async def test_a_deadline_passed_while_waiting_is_refused_without_running() -> None:
    device = Doubler()
    with working(device) as batcher:
        held = await hold(batcher, device)
        late = asyncio.create_task(run_job(batcher, 1, seconds=0.02))
        on_time = asyncio.create_task(run_job(batcher, 2))
        await until(lambda: batcher.depth == 2)
        await asyncio.sleep(0.05)
        device.free.set()
        with pytest.raises(DeadlinePassed):
            await late
        assert list(await asyncio.gather(held, on_time)) == [0, 4]
    assert device.batches == [[0], [2]]


async def test_expired_and_cancelled_jobs_take_no_room_in_a_batch() -> None:
    device = Doubler()
    with working(device, max_batch=2) as batcher:
        held = await hold(batcher, device)
        late, cancelled = (asyncio.create_task(run_job(batcher, job, seconds=0.02)) for job in (1, 2))
        on_time = [asyncio.create_task(run_job(batcher, job)) for job in (3, 4)]
        await until(lambda: batcher.depth == 4)
        cancelled.cancel()
        await asyncio.sleep(0.05)
        device.free.set()
        assert await asyncio.gather(held, *on_time) == [0, 6, 8]
        results = await asyncio.gather(late, cancelled, return_exceptions=True)
    assert [type(result) for result in results] == [DeadlinePassed, asyncio.CancelledError]
    assert device.batches == [[0], [3, 4]]


@pytest.mark.parametrize("failing", range(7))
async def test_only_the_job_that_fails_its_batch_fails(failing: int) -> None:
    device = Doubler()
    jobs = [-1 if job == failing else job for job in range(7)]
    with working(device, max_batch=7) as batcher:
        tasks = await wait_together(batcher, device, jobs)
        _, *results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results.pop(failing), Unprocessable)
    assert results == [2 * job for job in range(7) if job != failing]
    assert device.fatal == []
    assert (batcher.failures, batcher.shortages) == (len([b for b in device.batches if -1 in b]), 0)


async def test_a_failing_job_among_many_is_found_by_halving() -> None:
    device, jobs = Doubler(), [*range(1, 32), -1]
    with working(device, capacity=40, max_batch=32) as batcher:
        tasks = await wait_together(batcher, device, jobs)
        *_, failing = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(failing, Unprocessable)
    assert len(device.batches) == 1 + 1 + 2 * 5  # the held one, all, and two halves of 32, 16, 8, 4 and 2
    assert device.checks == 2  # after the first failure, and before the job is blamed


async def test_of_several_failing_jobs_each_fails_alone() -> None:
    device, jobs = Doubler(), [-1, 2, -3, -4, 5, 6, 7, -8]
    with working(device, capacity=10, max_batch=8) as batcher:
        tasks = await wait_together(batcher, device, jobs)
        _, *results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(result, Unprocessable) for result in results] == [job < 0 for job in jobs]
    assert [result for result in results if isinstance(result, int)] == [4, 10, 12, 14]


async def test_a_job_whose_deadline_passes_during_halving_is_not_run_again() -> None:
    class Slow(Doubler):
        def run(self, jobs: Sequence[int]) -> list[int]:
            time.sleep(0.4 if -1 in jobs else 0)
            return super().run(jobs)

    device = Slow()
    with working(device) as batcher:
        held = await hold(batcher, device)
        bad = asyncio.create_task(run_job(batcher, -1))
        brief = asyncio.create_task(run_job(batcher, 2, seconds=0.3))
        await until(lambda: batcher.depth == 2)
        device.free.set()
        await held
        results = await asyncio.gather(bad, brief, return_exceptions=True)
    assert [type(result) for result in results] == [Unprocessable, DeadlinePassed]
    assert device.batches == [[0], [-1, 2], [-1]]


async def test_too_few_results_fail_the_jobs_and_not_the_worker() -> None:
    batcher: Batcher[int, int] = Batcher(lambda _: [], check=lambda: None, on_fatal=lambda _: None)
    batcher.start()
    with pytest.raises(Unprocessable):
        await run_job(batcher, 1)
    assert batcher.alive
    assert batcher.stop(10)


@pytest.mark.parametrize("room", [1, 2, 3])
async def test_a_batch_too_large_for_the_memory_is_halved_until_it_fits(room: int) -> None:
    device = Doubler(room)
    with working(device, max_batch=8) as batcher:
        tasks = await wait_together(batcher, device, range(1, 8))
        assert await asyncio.gather(*tasks) == [2 * job for job in range(8)]
        assert batcher.shortages == batcher.failures > 0
        assert batcher.alive
    assert device.fatal == []


async def test_a_job_too_large_for_the_memory_is_short_of_memory() -> None:
    device = Doubler(room=0)
    with working(device, retry_after=3) as batcher:
        with pytest.raises(ShortOfMemory) as refusal:
            await run_job(batcher, 1)
        assert refusal.value.retry_after == 3
        device.room = 1
        assert await run_job(batcher, 1) == 2


async def test_a_broken_device_fails_every_job_and_is_reported_once() -> None:
    device = Doubler()
    with working(device) as batcher:
        held = await hold(batcher, device)
        waiting = [asyncio.create_task(run_job(batcher, job)) for job in range(1, 7)]
        await until(lambda: batcher.depth == 6)
        device.broken = True
        device.free.set()
        results = await asyncio.gather(held, *waiting, return_exceptions=True)
        assert all(isinstance(result, DeviceLost) for result in results)
        assert not batcher.alive
        with pytest.raises(DeviceLost):
            await run_job(batcher, 9)
    assert [type(error) for error in device.fatal] == [RuntimeError]


async def test_a_device_that_breaks_during_halving_blames_no_job() -> None:
    class Breaking(Doubler):
        def run(self, jobs: Sequence[int]) -> list[int]:
            self.broken = len(self.batches) >= 2
            return super().run(jobs)

    device = Breaking()
    with working(device) as batcher:
        tasks = await wait_together(batcher, device, [-1, 2, 3, 4])
        _, *results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, DeviceLost) for result in results)


async def test_a_failing_job_leaves_the_other_worker_alone() -> None:
    device = Doubler()
    with working(device, workers=2) as batcher:
        bad = await hold(batcher, device, -1)
        good = asyncio.create_task(run_job(batcher, 2))
        await until(lambda: len(device.batches) == 2)
        device.free.set()
        results = await asyncio.gather(bad, good, return_exceptions=True)
        assert isinstance(results[0], Unprocessable)
        assert results[1] == 4
        assert batcher.alive
    assert (device.fatal, device.checks) == ([], 1)


async def test_a_device_that_breaks_under_two_workers_is_reported_once() -> None:
    device = Doubler()
    with working(device, workers=2) as batcher:
        held = [await hold(batcher, device, 0), asyncio.create_task(run_job(batcher, 1))]
        await until(lambda: len(device.batches) == 2)
        waiting = [asyncio.create_task(run_job(batcher, job)) for job in range(2, 6)]
        await until(lambda: batcher.depth == 4)
        device.broken = True
        device.free.set()
        results = await asyncio.gather(*held, *waiting, return_exceptions=True)
        assert [type(result) for result in results] == [DeviceLost] * 6
        assert not batcher.alive
    assert [type(error) for error in device.fatal] == [RuntimeError]


async def test_abandoning_fails_the_jobs_of_both_workers() -> None:
    device = Doubler()
    with working(device, workers=2) as batcher:
        held = [await hold(batcher, device, 0), asyncio.create_task(run_job(batcher, 1))]
        await until(lambda: len(device.batches) == 2)
        batcher.abandon()
        results = await asyncio.gather(*held, return_exceptions=True)
        assert [type(result) for result in results] == [DeviceLost] * 2
        assert not batcher.stop(60)  # without waiting that long
        device.free.set()


async def test_every_job_of_an_abandoned_worker_fails_at_once() -> None:
    device = Doubler()
    with working(device) as batcher:
        held = await hold(batcher, device)
        waiting = [asyncio.create_task(run_job(batcher, job)) for job in (1, 2)]
        await until(lambda: batcher.depth == 2)
        batcher.abandon()
        results = await asyncio.gather(held, *waiting, return_exceptions=True)
        assert [type(result) for result in results] == [DeviceLost] * 3
        assert not batcher.alive
        assert not batcher.stop(60)  # without waiting that long
        with pytest.raises(DeviceLost):
            await run_job(batcher, 3)
        device.free.set()  # the abandoned worker continues
    assert device.batches == [[0]]
