"""Processes that are killed, stopped or exceed a limit: each fails one request at most, and is replaced."""

import asyncio
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np
import psutil
import pytest

from app.decoding.parts import audio_job
from app.decoding.pool import DecodePool
from app.decoding.process import Decoder
from app.errors import DecoderFailed, NoDecoder, UploadError
from app.logging import configure_logging
from app.settings import Settings
from model.config import AudioConfig
from model.features.audio.raw_features import AudioFeatures
from tests.support.sound import encode, voice_like
from tests.support.video import make_video

pytestmark = pytest.mark.anyio

Spool = Callable[[bytes], IO[bytes]]
CLIP = encode(voice_like(1.0), "wav")
# Elements of two bytes each: parsing them takes seconds on any machine.
SLOW_FILE = encode(voice_like(0.1, 48_000), "webm", 48_000) + b"\xec\x80" * 10 * 2**20


@pytest.fixture
def own_pool() -> Iterator[Callable[..., DecodePool]]:
    """Makes pools that a test may damage."""
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
        assert time.monotonic() < end, "the condition does not become true"
        await asyncio.sleep(0.02)


def alive(pid: int) -> bool:
    return bool(psutil.pid_exists(pid))


async def decode(pool: DecodePool, file: IO[bytes], **limits: Any) -> float:
    job = audio_job(AudioConfig(), Settings(**limits))
    return (await pool.run(job, file, "audio", AudioFeatures)).seconds


async def decode_bytes(pool: DecodePool, content: bytes) -> float:
    with tempfile.SpooledTemporaryFile(2**20) as file:
        file.write(content)
        return await decode(pool, file)


async def test_a_started_pool_has_all_its_processes(pool: DecodePool) -> None:
    state = pool.state()
    assert (state.workers, state.alive, state.busy, state.ok) == (2, 2, 0, True)
    assert len(set(pool.pids())) == 2


async def test_a_part_of_the_sandbox_that_is_missing_is_logged_once(
    own_pool: Callable[..., DecodePool], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("info")
    monkeypatch.setattr("app.decoding.process.WORKER", "tests.support.half_confined")
    pool = own_pool(workers=2)
    line = json.loads(capsys.readouterr().err)
    assert (line["level"], line["event"]) == ("warning", "decoders are not fully confined")
    assert line["missing"] == [part for part, in_effect in pool.state().sandbox.items() if not in_effect]
    assert "landlock" in line["missing"]


async def test_more_files_than_processes_wait_their_turn(pool: DecodePool, spool: Spool) -> None:
    assert await asyncio.gather(*(decode(pool, spool(CLIP)) for _ in range(20))) == [1.0] * 20


async def test_a_video_with_subtitles_is_read_as_sound(pool: DecodePool, spool: Spool) -> None:
    job = audio_job(AudioConfig(), Settings())
    features = await pool.run(job, spool(make_video()), "audio", AudioFeatures)
    assert "picture" in features.warnings


async def test_an_idle_process_that_is_killed_is_replaced(own_pool: Callable[..., DecodePool]) -> None:
    pool = own_pool(workers=2)
    (victim, other) = pool.pids()
    os.kill(victim, signal.SIGKILL)
    await eventually(lambda: pool.state().alive == 2 and victim not in pool.pids())
    assert other in pool.pids()
    assert pool.state().replaced == 1


async def test_a_request_just_after_a_kill_is_answered(own_pool: Callable[..., DecodePool], spool: Spool) -> None:
    pool = own_pool()
    os.kill(pool.pids()[0], signal.SIGKILL)
    assert await decode(pool, spool(CLIP)) == 1.0


async def test_a_stopped_idle_process_is_replaced_and_the_request_answered(
    own_pool: Callable[..., DecodePool], spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.decoding.pool.CONFIRM_SECONDS", 0.2)
    pool = own_pool()
    (victim,) = pool.pids()
    os.kill(victim, signal.SIGSTOP)
    assert await decode(pool, spool(CLIP)) == 1.0
    assert pool.pids() != [victim]


@pytest.fixture
def signal_decoders(monkeypatch: pytest.MonkeyPatch) -> Callable[[signal.Signals, int], None]:
    """Makes the next processes that are sent a file get a signal just before."""

    def make(sent: signal.Signals, times: int) -> None:
        remaining, send_file = iter(range(times)), Decoder.send_file

        def send_after_signal(decoder: Decoder, file: IO[bytes], deadline: float) -> None:
            if next(remaining, None) is not None:
                assert decoder.pid is not None
                os.kill(decoder.pid, sent)
            send_file(decoder, file, deadline)

        monkeypatch.setattr(Decoder, "send_file", send_after_signal)

    return make


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_file_whose_decoder_is_killed_is_decoded_by_another(
    workers: int,
    own_pool: Callable[..., DecodePool],
    spool: Spool,
    signal_decoders: Callable[[signal.Signals, int], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    pool = own_pool(workers)
    configure_logging("info")
    signal_decoders(signal.SIGKILL, 1)
    assert await decode(pool, spool(CLIP)) == 1.0
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["ended_by"], line["part"]) == ("decoder ended while decoding", "SIGKILL", "audio")
    assert pool.state().replaced == 1


async def test_a_file_whose_decoder_is_killed_twice_may_be_sent_again(
    own_pool: Callable[..., DecodePool], spool: Spool, signal_decoders: Callable[[signal.Signals, int], None]
) -> None:
    pool = own_pool(2)
    signal_decoders(signal.SIGKILL, 2)
    with pytest.raises(NoDecoder, match="twice") as caught:
        await decode(pool, spool(CLIP))
    assert (caught.value.status, caught.value.part, caught.value.retry_after) == (503, "audio", 2)
    assert await decode(pool, spool(CLIP)) == 1.0


@pytest.mark.parametrize("sent", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
async def test_a_crash_of_a_decoder_fails_only_its_own_request(
    sent: signal.Signals,
    own_pool: Callable[..., DecodePool],
    spool: Spool,
    signal_decoders: Callable[[signal.Signals, int], None],
) -> None:
    pool = own_pool()
    signal_decoders(sent, 1)
    with pytest.raises(DecoderFailed, match="broke off") as caught:
        await decode(pool, spool(CLIP))
    assert (caught.value.status, caught.value.part) == (422, "audio")
    assert await decode(pool, spool(CLIP)) == 1.0


async def test_a_process_stopped_while_decoding_fails_its_request_in_time(
    own_pool: Callable[..., DecodePool], spool: Spool, signal_decoders: Callable[[signal.Signals, int], None]
) -> None:
    pool = own_pool(timeout=1.0)
    (victim,) = pool.pids()
    signal_decoders(signal.SIGSTOP, 1)
    with pytest.raises(DecoderFailed, match="longer than the 1 seconds"):
        await decode(pool, spool(CLIP))
    assert await decode(pool, spool(CLIP)) == 1.0
    assert not alive(victim)


async def test_a_file_that_takes_too_long_fails(own_pool: Callable[..., DecodePool], spool: Spool) -> None:
    pool = own_pool(timeout=0.3)
    with pytest.raises(DecoderFailed, match="longer"):
        await decode(pool, spool(SLOW_FILE))


async def test_a_file_that_takes_too_much_processor_time_fails(
    own_pool: Callable[..., DecodePool], spool: Spool
) -> None:
    pool = own_pool(timeout=60.0, cpu_seconds=0.0)
    with pytest.raises(DecoderFailed, match="processor"):
        await decode(pool, spool(SLOW_FILE))
    assert await decode(pool, spool(CLIP)) == 1.0


async def test_the_processor_time_limit_applies_to_each_file_separately(
    own_pool: Callable[..., DecodePool], spool: Spool
) -> None:
    pool = own_pool(cpu_seconds=1.0)
    (pid,) = pool.pids()
    used, music = psutil.Process(pid).cpu_times, encode(voice_like(20.0, 48_000), "opus", 48_000)
    before = used().user
    while used().user < before + 2.1:
        assert await decode(pool, spool(music)) == pytest.approx(20.0)
    assert pool.pids() == [pid]


async def test_only_a_file_that_takes_too_much_memory_fails(own_pool: Callable[..., DecodePool], spool: Spool) -> None:
    pool = own_pool(memory_bytes=512 * 2**20)
    # Small to send, and 183 MiB once decoded, twice: a process has 380 MiB of address space to begin with.
    large = encode(np.zeros(1_000 * 48_000, dtype=np.float32), "flac", 48_000)
    with pytest.raises(DecoderFailed, match="memory"):
        await decode(pool, spool(large), max_audio_seconds=1_000, max_audio_decoded_bytes=2**28)
    assert await decode(pool, spool(CLIP)) == 1.0


async def test_a_cancelled_request_that_takes_long_costs_its_process(
    own_pool: Callable[..., DecodePool], spool: Spool
) -> None:
    pool = own_pool(timeout=60.0)
    before = pool.pids()
    cancelled = asyncio.create_task(decode(pool, spool(SLOW_FILE)))
    never_begun = asyncio.create_task(decode(pool, spool(SLOW_FILE)))
    await eventually(lambda: pool.state().busy == 1)
    await asyncio.sleep(0.1)
    for task in (never_begun, cancelled):
        task.cancel()
    for task in (never_begun, cancelled):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await decode(pool, spool(CLIP)) == 1.0
    assert pool.pids() != before


@pytest.mark.parametrize("content", [CLIP, CLIP + bytes(8 * 2**20)], ids=["small", "large"])
async def test_cancelled_requests_cost_no_process_whenever_they_are_cancelled(
    content: bytes, own_pool: Callable[..., DecodePool]
) -> None:
    pool = own_pool(workers=2)
    before = pool.pids()
    for number in range(40):
        with tempfile.SpooledTemporaryFile(2**20) as file:  # closed after the cancellation, as the files of a form are
            file.write(content)
            task = asyncio.create_task(decode(pool, file))
            await asyncio.sleep(0.0005 * number)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert [await decode_bytes(pool, CLIP) for _ in range(4)] == [1.0] * 4
    assert pool.pids() == before
    assert pool.state().replaced == 0


async def test_a_closed_file_fails_only_its_own_request(own_pool: Callable[..., DecodePool], spool: Spool) -> None:
    pool = own_pool()
    file = spool(CLIP)
    file.close()
    with pytest.raises(DecoderFailed):
        await decode(pool, file)
    assert await decode(pool, spool(CLIP)) == 1.0


async def test_a_stopped_pool_refuses_files_and_leaves_no_process(
    own_pool: Callable[..., DecodePool], spool: Spool
) -> None:
    pool = own_pool(workers=2)
    pids = pool.pids()
    working = asyncio.create_task(decode(pool, spool(SLOW_FILE)))
    await eventually(lambda: pool.state().busy == 1)
    await asyncio.to_thread(pool.stop)
    # Which of the two depends on whether the process has the file yet.
    with pytest.raises((DecoderFailed, NoDecoder)):
        await working
    assert pool.state().alive == 0
    assert not pool.state().ok
    assert not any(map(alive, pids))
    with pytest.raises(UploadError):
        await decode(pool, spool(CLIP))


async def test_a_pool_that_was_never_started_refuses_files(spool: Spool) -> None:
    pool = DecodePool(workers=1)
    with pytest.raises(NoDecoder) as caught:
        await decode(pool, spool(CLIP))
    assert (caught.value.status, caught.value.retry_after) == (503, 2)
    pool.stop()
