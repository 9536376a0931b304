"""Decoding of long files in decoder processes of their own."""

import asyncio
from dataclasses import asdict

import numpy as np
import pytest

from app.decoding.stream import stream
from app.errors import DecoderFailed
from app.settings import MIB
from model.errors import CorruptModality
from model.features.audio.loading import SoundLimits
from model.features.visual.table import OpenFaceLimits
from tests.support.openface import simulate_openface_csv
from tests.support.recordings import on_disk
from tests.support.sound import encode, voice_like

pytestmark = pytest.mark.anyio

SOUND = {"kind": "sound", "limits": asdict(SoundLimits())}
FRAMES = {
    "kind": "frames",
    "config": {"columns": "action_units", "min_confidence": 0.5},
    "limits": asdict(OpenFaceLimits()),
}
MEMORY = 1024 * MIB


async def test_a_confined_process_sends_the_samples_in_blocks() -> None:
    blocks: list[np.ndarray[tuple[int, ...], np.dtype[np.int16]]] = []

    def collect(columns: int, content: bytearray) -> None:
        blocks.append(np.frombuffer(content, dtype="<i2").reshape(-1, columns))

    with on_disk(encode(voice_like(6.0, 48_000), "mp3", 48_000)) as file:
        found = await stream(SOUND, file, "audio", memory_bytes=MEMORY, seconds=60, on_block=collect)
    assert found == {}
    assert len(blocks) > 1
    assert sum(map(len, blocks)) == pytest.approx(6 * 16_000, abs=2_000)


async def test_a_file_that_is_not_accepted_is_an_error() -> None:
    content = simulate_openface_csv(3, "action_units") + b"1,2\n"
    with on_disk(content) as file, pytest.raises(CorruptModality) as caught:
        await stream(FRAMES, file, "openface", memory_bytes=MEMORY, seconds=60, on_block=lambda *_: None)
    assert caught.value.place == "line 5"


async def test_too_little_memory_is_an_error() -> None:
    with on_disk(encode(voice_like(1.0), "wav")) as file, pytest.raises(DecoderFailed) as caught:
        await stream(SOUND, file, "audio", memory_bytes=1 * MIB, seconds=60, on_block=lambda *_: None)
    assert caught.value.part == "audio"


async def test_cancelling_ends_the_process() -> None:
    began = asyncio.Event()
    loop = asyncio.get_running_loop()

    def begin(columns: int, content: bytearray) -> None:
        loop.call_soon_threadsafe(began.set)

    with on_disk(encode(voice_like(6.0), "wav")) as file:
        work = asyncio.create_task(
            stream(
                SOUND,
                file,
                "audio",
                memory_bytes=MEMORY,
                seconds=60,
                on_block=begin,
            )
        )
        await began.wait()
        work.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await work
    assert caught.value is not None
