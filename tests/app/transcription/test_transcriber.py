import asyncio
import io
import os
import signal
from pathlib import Path

import psutil
import pytest

from app.decoding.sandbox import PARTS
from app.errors import NotTranscribed
from app.settings import Settings
from app.transcription.transcriber import LocalTranscriber, Sound, TranscriptionPool
from app.transcription.transcription import Transcription
from model.errors import CheckpointError
from model.types import FloatArray
from tests.support.sound import encode

pytestmark = pytest.mark.anyio


async def refused(pool: TranscriptionPool, sound: Sound) -> str:
    with pytest.raises(NotTranscribed) as caught:
        await pool.transcribe(sound)
    assert caught.value.status == 503
    return caught.value.detail


async def test_samples_and_a_file_are_transcribed(transcriber: TranscriptionPool, sentence: FloatArray) -> None:
    file = io.BytesIO(encode(sentence, "wav"))
    samples, read = await asyncio.gather(transcriber.transcribe(sentence), transcriber.transcribe(file))
    assert "talking by the door" in samples.text
    assert (samples.text, samples.refused) == (read.text, None)
    assert not file.closed
    assert transcriber.waiting == 0


async def test_the_process_is_confined_and_yields(transcriber: TranscriptionPool) -> None:
    (pid,) = (await transcriber.start()).pids()
    assert transcriber.state == "running"
    assert set(transcriber.sandbox) == set(PARTS)
    assert psutil.Process(pid).nice() == min(19, os.nice(0) + 1)


async def test_a_full_queue_refuses_at_once(transcriber: TranscriptionPool, sentence: FloatArray) -> None:
    queue = Settings().transcribe_queue
    transcriber.waiting += queue
    try:
        assert "as many sounds" in await refused(transcriber, sentence)
    finally:
        transcriber.waiting -= queue


async def test_a_file_that_is_not_accepted_is_not_transcribed(transcriber: TranscriptionPool) -> None:
    assert await refused(transcriber, io.BytesIO(b"RIFF"))
    assert transcriber.waiting == 0


async def test_a_killed_process_is_replaced(transcriber: TranscriptionPool, sentence: FloatArray) -> None:
    (pid,) = (await transcriber.start()).pids()
    os.kill(pid, signal.SIGKILL)
    assert "door" in (await transcriber.transcribe(sentence)).text
    assert (await transcriber.start()).pids() != [pid]


async def test_a_transcription_out_of_time_is_given_up(sentence: FloatArray, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck:
        async def run(self, *_: object) -> Transcription:
            await asyncio.Event().wait()
            raise AssertionError

    pool = TranscriptionPool(Settings(transcribe_timeout=0.01))

    async def start() -> Stuck:
        return Stuck()

    monkeypatch.setattr(pool, "start", start)
    assert "0.01 seconds" in await refused(pool, sentence)
    assert pool.waiting == 0


async def test_a_process_that_does_not_start_is_not_tried_again(tmp_path: Path, sentence: FloatArray) -> None:
    pool = TranscriptionPool(Settings(transcribe_model=tmp_path))
    assert pool.state == "idle"
    for _ in range(2):
        assert "does not start" in await refused(pool, sentence)
    assert pool.state == "stopped"
    with pytest.raises(CheckpointError) as caught:
        await pool.start()
    assert "config.json" in str(caught.value)
    await pool.stop()


async def test_the_command_line_transcribes_in_its_own_process(sentence: FloatArray, found: Transcription) -> None:
    local = LocalTranscriber(Settings(transcribe_threads=1))
    for sound in (sentence, io.BytesIO(encode(sentence, "flac"))):
        assert (await local.transcribe(sound)).text == found.text
