"""Processes that are killed, stopped, starved and lied to: each costs one request at most, and is replaced."""

import asyncio
import io
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psutil
import pytest

from app.decoding.audio import decode_audio
from app.decoding.pool import DROPPED_SECONDS, DecodePool
from app.uploads.errors import DecoderFailed, NoDecoder, UploadError
from app.uploads.spool import SpooledFile
from model.features.audio.loading import SoundLimits, read_sound
from model.features.audio.raw_features import listen
from tests.support.sound import encode, voice_like

pytestmark = pytest.mark.anyio

Spool = Callable[[bytes], SpooledFile]
CLIP = encode(voice_like(1.0), "wav")
# Elements of two bytes each: some seconds of walking, whatever the machine.
LONG_WALK = encode(voice_like(0.1, 48_000), "webm", 48_000) + b"\xec\x80" * 10 * 2**20
LIMITS = SoundLimits()


@pytest.fixture
def own_pool() -> Iterator[Callable[..., DecodePool]]:
    """Pools to do harm to."""
    pools = []

    def make(workers: int = 1, timeout: float = 10.0, **options: Any) -> DecodePool:
        pool = DecodePool(workers=workers, timeout=timeout, **options)
        pools.append(pool)
        pool.start()
        return pool

    yield make
    for pool in pools:
        pool.stop()


async def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come true"
        await asyncio.sleep(0.02)


def alive(pid: int) -> bool:
    return bool(psutil.pid_exists(pid))


async def decode(pool: DecodePool, file: SpooledFile, limits: SoundLimits = LIMITS) -> float:
    return (await decode_audio(file, False, -60.0, limits, pool)).seconds


async def decode_bytes(pool: DecodePool, content: bytes) -> float:
    with SpooledFile(2**20) as file:
        file.write(content)
        return await decode(pool, file)


async def test_a_started_pool_has_all_its_processes(pool: DecodePool) -> None:
    state = pool.state()
    assert (state.workers, state.alive, state.busy, state.ok) == (2, 2, 0, True)
    assert len(set(pool.pids())) == 2


async def test_more_files_than_processes_wait_their_turn(pool: DecodePool, spool: Spool) -> None:
    assert await asyncio.gather(*(decode(pool, spool(CLIP)) for _ in range(20))) == [1.0] * 20


async def test_an_idle_process_that_is_killed_is_replaced_unasked(own_pool: Callable[..., DecodePool]) -> None:
    pool = own_pool(workers=2)
    (victim, other) = pool.pids()
    os.kill(victim, signal.SIGKILL)
    await eventually(lambda: pool.state().alive == 2 and victim not in pool.pids())
    assert other in pool.pids()
    assert pool.state().replaced == 1


async def test_a_request_just_after_the_kill_does_not_notice(own_pool: Callable[..., DecodePool], spool: Spool) -> None:
    pool = own_pool()
    os.kill(pool.pids()[0], signal.SIGKILL)
    assert await decode(pool, spool(CLIP)) == 1.0


async def test_a_process_that_was_stopped_while_idle_is_replaced_and_the_request_answered(
    own_pool: Callable[..., DecodePool], spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.decoding.pool.HEARD_SECONDS", 0.2)
    pool = own_pool()
    (victim,) = pool.pids()
    os.kill(victim, signal.SIGSTOP)
    assert await decode(pool, spool(CLIP)) == 1.0
    assert pool.pids() != [victim]


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSEGV])
async def test_a_process_killed_at_work_fails_its_own_request_alone(
    sent: signal.Signals, own_pool: Callable[..., DecodePool], spool: Spool
) -> None:
    pool = own_pool()
    failing = asyncio.create_task(decode(pool, spool(LONG_WALK)))
    waiting = asyncio.create_task(decode(pool, spool(CLIP)))
    await eventually(lambda: pool.state().busy == 1)
    await asyncio.sleep(0.2)
    os.kill(pool.pids()[0], sent)
    with pytest.raises(DecoderFailed, match="broke off") as caught:
        await failing
    assert (caught.value.status, caught.value.part) == (422, "audio")
    assert await waiting == 1.0


async def test_a_process_stopped_at_work_fails_its_request_once_the_time_is_up(
    own_pool: Callable[..., DecodePool], spool: Spool
) -> None:
    pool = own_pool(timeout=1.0)
    failing = asyncio.create_task(decode(pool, spool(LONG_WALK)))
    await eventually(lambda: pool.state().busy == 1)
    await asyncio.sleep(0.1)
    (victim,) = pool.pids()
    os.kill(victim, signal.SIGSTOP)
    with pytest.raises(DecoderFailed, match="longer than the 1 seconds"):
        await failing
    assert await decode(pool, spool(CLIP)) == 1.0
    assert not alive(victim)


async def test_a_file_that_takes_too_long_fails_in_time(own_pool: Callable[..., DecodePool], spool: Spool) -> None:
    pool = own_pool(timeout=0.3)
    began = time.monotonic()
    with pytest.raises(DecoderFailed, match="longer"):
        await decode(pool, spool(LONG_WALK))
    assert time.monotonic() - began < 3.0


async def test_a_file_that_takes_too_much_processor_time_fails(
    own_pool: Callable[..., DecodePool], spool: Spool
) -> None:
    pool = own_pool(timeout=60.0, cpu_seconds=0.0)
    with pytest.raises(DecoderFailed, match="processor"):
        await decode(pool, spool(LONG_WALK))
    assert await decode(pool, spool(CLIP)) == 1.0


async def test_the_processor_time_of_one_file_is_not_that_of_the_next(
    own_pool: Callable[..., DecodePool], spool: Spool
) -> None:
    pool = own_pool(cpu_seconds=1.0)
    before = pool.pids()
    music = encode(voice_like(60.0, 48_000), "opus", 48_000)
    for _ in range(12):
        assert await decode(pool, spool(music)) == pytest.approx(60.0)
    assert pool.pids() == before


async def test_a_file_that_takes_too_much_memory_fails_and_the_next_does_not(
    own_pool: Callable[..., DecodePool], spool: Spool
) -> None:
    pool = own_pool(memory_bytes=512 * 2**20)
    # Small to send, and 183 MiB once decoded, twice: a process has 380 MiB of address space to begin with.
    large = encode(np.zeros(1_000 * 48_000, dtype=np.float32), "flac", 48_000)
    with pytest.raises(DecoderFailed, match="memory"):
        await decode(pool, spool(large), SoundLimits(max_seconds=1_000, max_decoded_bytes=2**28))
    assert await decode(pool, spool(CLIP)) == 1.0


async def test_a_dropped_request_that_takes_long_gives_its_process_up(
    own_pool: Callable[..., DecodePool], spool: Spool
) -> None:
    pool = own_pool()
    before = pool.pids()
    dropped = asyncio.create_task(decode(pool, spool(LONG_WALK)))
    never_begun = asyncio.create_task(decode(pool, spool(LONG_WALK)))
    await eventually(lambda: pool.state().busy == 1)
    await asyncio.sleep(0.1)
    for task in (never_begun, dropped):
        task.cancel()
    for task in (never_begun, dropped):
        with pytest.raises(asyncio.CancelledError):
            await task
    began = time.monotonic()
    assert await decode(pool, spool(CLIP)) == 1.0
    assert time.monotonic() - began < DROPPED_SECONDS + 4.0
    assert pool.pids() != before


@pytest.mark.parametrize("content", [CLIP, CLIP + bytes(8 * 2**20)], ids=["small", "large"])
async def test_dropped_requests_cost_the_pool_no_process_whenever_they_are_dropped(
    content: bytes, own_pool: Callable[..., DecodePool]
) -> None:
    pool = own_pool(workers=2)
    before = pool.pids()
    for number in range(40):
        with SpooledFile(2**20) as file:  # closed as soon as the request is gone, as a form's are
            file.write(content)
            task = asyncio.create_task(decode(pool, file))
            await asyncio.sleep(0.0005 * number)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert [await decode_bytes(pool, CLIP) for _ in range(4)] == [1.0] * 4
    assert pool.pids() == before
    assert pool.state().replaced == 0


async def test_a_file_closed_under_way_harms_nobody_else(own_pool: Callable[..., DecodePool], spool: Spool) -> None:
    pool = own_pool()
    file = spool(CLIP)
    file.close()
    with pytest.raises(DecoderFailed):
        await decode(pool, file)
    assert await decode(pool, spool(CLIP)) == 1.0


async def test_a_stopped_pool_takes_nothing_and_leaves_nothing_behind(
    own_pool: Callable[..., DecodePool], spool: Spool
) -> None:
    pool = own_pool(workers=2)
    pids = pool.pids()
    working = asyncio.create_task(decode(pool, spool(LONG_WALK)))
    await eventually(lambda: pool.state().busy == 1)
    await asyncio.to_thread(pool.stop)
    # Lost with its process, or stopped on its way to one: which of the two is the machine's speed.
    with pytest.raises((DecoderFailed, NoDecoder)):
        await working
    assert pool.state().alive == 0
    assert not pool.state().ok
    assert not any(map(alive, pids))
    with pytest.raises(UploadError):
        await decode(pool, spool(CLIP))


async def test_a_pool_that_was_never_started_takes_nothing(spool: Spool) -> None:
    pool = DecodePool(workers=1)
    with pytest.raises(NoDecoder) as caught:
        await decode(pool, spool(CLIP))
    assert (caught.value.status, caught.value.retry_after) == (503, 2)  # the service's trouble, not the file's
    pool.stop()


async def test_a_process_knows_nothing_of_the_service_s_secrets(
    own_pool: Callable[..., DecodePool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMMR_API_KEYS", '["secret"]')
    (pid,) = own_pool().pids()
    assert "EMMR_API_KEYS" not in psutil.Process(pid).environ()


async def test_isolation_costs_a_small_upload_at_most_five_milliseconds(pool: DecodePool, spool: Spool) -> None:
    clip = encode(voice_like(2.5), "wav")
    here, there = [], []
    for _ in range(40):
        began = time.perf_counter()
        listen(read_sound(io.BytesIO(clip)).waveform, dynamics=False, silence_dbfs=-60.0)
        here.append(time.perf_counter() - began)
        file = spool(clip)
        began = time.perf_counter()
        await decode(pool, file)
        there.append(time.perf_counter() - began)
    # The quickest of many, turn by turn: this machine may be busy. `benchmarks.isolation` gives medians.
    assert min(there) - min(here) < 0.005
