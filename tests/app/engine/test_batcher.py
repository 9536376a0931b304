import asyncio
import math
import time
from collections.abc import Sequence

import pytest

from app.engine.batcher import Batcher
from app.errors import NotReady, QueueFull
from tests.support.device import Doubler, hold, run_job, until, wait_together, working

pytestmark = pytest.mark.anyio


def padded(jobs: Sequence[int]) -> float:
    """Cost of a padded batch whose jobs have as many tokens as their number."""
    return len(jobs) * max(jobs)


@pytest.fixture
def heartbeat(monkeypatch: pytest.MonkeyPatch) -> float:
    """Seconds between heartbeats, fewer than usual."""
    monkeypatch.setattr("app.engine.batcher.HEARTBEAT", 0.01)
    return 0.01


async def await_heartbeat(batcher: Batcher[int, int]) -> None:
    last = batcher.silence

    def shorter() -> bool:
        nonlocal last
        before, last = last, batcher.silence
        return last < before

    await until(shorter)


async def seen(batcher: Batcher[int, int]) -> None:
    """Wait until the worker has looked at a queue of one job."""
    await until(lambda: batcher.depth == 1)
    for _ in range(2):  # the first may have come before the job
        await await_heartbeat(batcher)


async def test_every_job_gets_its_own_result() -> None:
    with working(Doubler()) as batcher:
        assert await asyncio.gather(*(run_job(batcher, job) for job in range(8))) == [2 * job for job in range(8)]


async def test_waiting_jobs_run_together_up_to_the_maximum_batch() -> None:
    device = Doubler()
    with working(device) as batcher:
        await asyncio.gather(*await wait_together(batcher, device, range(1, 7)))
    assert device.batches == [[0], [1, 2, 3, 4], [5, 6]]


async def test_a_batch_ends_before_a_job_that_exceeds_its_budget() -> None:
    device = Doubler()
    with working(device, max_batch=8, cost=padded, budget=12) as batcher:
        await asyncio.gather(*await wait_together(batcher, device, [3, 4, 2, 2, 12, 1, 5]))
    assert device.batches == [[0], [3, 4, 2], [2], [12], [1, 5]]


async def test_a_job_over_the_budget_runs_alone_in_order() -> None:
    device = Doubler()
    with working(device, max_batch=8, cost=padded, budget=12) as batcher:
        await asyncio.gather(*await wait_together(batcher, device, [1, 99, 1, 1]))
    assert device.batches == [[0], [1], [99], [1, 1]]


async def test_jobs_run_in_order_of_arrival_whatever_they_cost() -> None:
    device, jobs = Doubler(), [7, 1, 1, 9, 1, 30, 1, 1, 1, 8, 2, 2]
    with working(device, capacity=20, max_batch=3, cost=padded, budget=10) as batcher:
        await asyncio.gather(*await wait_together(batcher, device, jobs))
    assert [job for batch in device.batches for job in batch] == [0, *jobs]


async def test_jobs_that_cannot_run_together_run_separately_in_order() -> None:
    device = Doubler()
    with working(device, together=lambda first, other: first % 2 == other % 2) as batcher:
        await asyncio.gather(*await wait_together(batcher, device, [1, 3, 2, 4, 5]))
    assert device.batches == [[0], [1, 3], [2, 4], [5]]


@pytest.mark.usefixtures("heartbeat")
async def test_a_delay_lets_a_batch_wait_for_more_jobs() -> None:
    device = Doubler()
    with working(device, delay=60.0, max_batch=2) as batcher:
        first = asyncio.create_task(run_job(batcher, 1))
        await seen(batcher)
        assert device.batches == []
        assert list(await asyncio.gather(first, run_job(batcher, 2))) == [2, 4]
    assert device.batches == [[1, 2]]


async def test_a_delayed_batch_runs_once_the_next_job_does_not_fit() -> None:
    device = Doubler()
    with working(device, delay=60.0, max_batch=8, cost=padded, budget=12) as batcher:
        first = asyncio.create_task(run_job(batcher, 6))
        await until(lambda: batcher.depth == 1)
        second = asyncio.create_task(run_job(batcher, 9))
        assert await first == 12
        assert device.batches == [[6]]
        second.cancel()


@pytest.mark.usefixtures("heartbeat")
async def test_a_batch_smaller_than_the_one_before_waits_for_more_jobs() -> None:
    device = Doubler()
    with working(device, linger=60.0) as batcher:
        await asyncio.gather(*await wait_together(batcher, device, [1, 2]))
        third = asyncio.create_task(run_job(batcher, 3))
        await seen(batcher)
        assert device.batches == [[0], [1, 2]]
        assert list(await asyncio.gather(third, run_job(batcher, 4))) == [6, 8]
    assert device.batches == [[0], [1, 2], [3, 4]]


async def test_a_batch_that_lingered_in_vain_sets_the_size_of_the_next() -> None:
    device = Doubler()
    with working(device, linger=0.2) as batcher:
        await asyncio.gather(*await wait_together(batcher, device, [1, 2]))
        began = time.monotonic()
        assert await run_job(batcher, 3) == 6
        assert time.monotonic() - began >= 0.2
        batcher.linger = math.inf
        for job in range(4, 8):  # of one client, whose every request would wait in vain
            assert await run_job(batcher, job) == 2 * job


async def test_a_full_queue_refuses_with_retry_after() -> None:
    device = Doubler()
    with working(device, capacity=2, retry_after=7) as batcher:
        held = await hold(batcher, device)
        waiting = [asyncio.create_task(run_job(batcher, job)) for job in (1, 2)]
        await until(lambda: batcher.depth == 2)
        with pytest.raises(QueueFull) as refusal:
            await run_job(batcher, 3)
        assert refusal.value.retry_after == 7
        device.free.set()
        assert await asyncio.gather(held, *waiting) == [0, 2, 4]
        assert await run_job(batcher, 3) == 6
        assert batcher.depth == 0


async def test_a_ticket_counts_before_its_job_is_submitted() -> None:
    with working(Doubler(), capacity=1) as batcher:
        with batcher.reserve():
            assert batcher.depth == 1
            with pytest.raises(QueueFull):
                await run_job(batcher, 1)
            with batcher.reserve(extra=True):
                assert batcher.depth == 2
        assert await run_job(batcher, 1) == 2


async def test_a_cancelled_job_is_dropped_before_it_runs() -> None:
    device = Doubler()
    with working(device) as batcher:
        held = await hold(batcher, device)
        cancelled, stays = (asyncio.create_task(run_job(batcher, job)) for job in (1, 2))
        await until(lambda: batcher.depth == 2)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        assert batcher.depth == 1
        device.free.set()
        assert list(await asyncio.gather(held, stays)) == [0, 4]
    assert device.batches == [[0], [2]]


async def test_stopping_finishes_accepted_jobs_and_refuses_new_ones() -> None:
    device = Doubler()
    with working(device) as batcher:
        held = await hold(batcher, device)
        accepted = asyncio.create_task(run_job(batcher, 1))
        await until(lambda: batcher.depth == 1)
        stopped = asyncio.create_task(asyncio.to_thread(batcher.stop, 10))
        await until(lambda: batcher.stopping)
        with pytest.raises(NotReady):
            await run_job(batcher, 2)
        device.free.set()
        assert list(await asyncio.gather(held, accepted, stopped)) == [0, 2, True]


async def hold_both(batcher: Batcher[int, int], device: Doubler) -> "list[asyncio.Task[int]]":
    """Block both workers with the jobs 0 and 1 until the device is released."""
    first = await hold(batcher, device, 0)
    second = asyncio.create_task(run_job(batcher, 1))
    await until(lambda: len(device.batches) == 2)
    return [first, second]


async def test_two_workers_run_batches_at_the_same_time() -> None:
    device = Doubler()
    with working(device, workers=2) as batcher:
        held = await hold_both(batcher, device)
        assert device.batches == [[0], [1]]
        device.free.set()
        assert await asyncio.gather(*held) == [0, 2]
        assert batcher.workers == 2


async def test_an_idle_worker_takes_what_a_batch_has_no_room_for() -> None:
    device = Doubler()
    with working(device, workers=2) as batcher:
        held = await hold_both(batcher, device)
        waiting = [asyncio.create_task(run_job(batcher, job)) for job in range(2, 8)]
        await until(lambda: batcher.depth == 6)
        device.free.set()
        assert await asyncio.gather(*held, *waiting) == [2 * job for job in range(8)]
    assert sorted(device.batches[2:]) == [[2, 3, 4, 5], [6, 7]]


async def test_a_delayed_batch_of_two_workers_runs_once_it_is_full() -> None:
    device = Doubler()
    with working(device, workers=2, delay=60.0, max_batch=2) as batcher:
        assert await asyncio.gather(*(run_job(batcher, job) for job in range(6))) == [2 * job for job in range(6)]
    assert sorted(device.batches) == [[0, 1], [2, 3], [4, 5]]


async def test_stopping_finishes_the_jobs_of_both_workers() -> None:
    device = Doubler()
    with working(device, workers=2) as batcher:
        held = await hold_both(batcher, device)
        waiting = asyncio.create_task(run_job(batcher, 2))
        await until(lambda: batcher.depth == 1)
        stopped = asyncio.create_task(asyncio.to_thread(batcher.stop, 10))
        await until(lambda: batcher.stopping)
        device.free.set()
        assert await asyncio.gather(*held, waiting, stopped) == [0, 2, 4, True]
        assert not batcher.alive


async def test_an_idle_worker_has_heartbeats_and_a_stuck_one_has_none(heartbeat: float) -> None:
    device = Doubler()
    with working(device) as batcher:
        for _ in range(3):
            await await_heartbeat(batcher)
        held = await hold(batcher, device)
        await until(lambda: batcher.silence > 20 * heartbeat)
        device.free.set()
        await held
        await await_heartbeat(batcher)
        assert batcher.alive


async def test_one_stuck_worker_of_two_is_noticed(heartbeat: float) -> None:
    device = Doubler()
    with working(device, workers=2) as batcher:
        held = await hold(batcher, device)
        await until(lambda: batcher.silence > 20 * heartbeat)
        assert batcher.alive
        device.free.set()
        await held
        await until(lambda: batcher.silence < 10 * heartbeat)


async def test_a_worker_that_delays_a_batch_has_heartbeats(heartbeat: float) -> None:
    with working(Doubler(), delay=60.0) as batcher:
        waiting = asyncio.create_task(run_job(batcher, 1))
        await until(lambda: batcher.depth == 1)
        for _ in range(3):
            await await_heartbeat(batcher)
        assert not waiting.done()
        waiting.cancel()
