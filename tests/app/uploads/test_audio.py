import io
from collections.abc import Callable

import numpy as np
import pytest

from app.uploads.audio import decode_audio
from app.uploads.decode_pool import DecodePool
from app.uploads.errors import CorruptPart, PartTooLarge, UnsupportedPart, UploadError
from app.uploads.spool import SpooledFile
from model.errors import EmptyModality
from model.features.sound import SoundLimits, read_sound
from tests.support.sound import CONTAINERS, Container, encode, voice_like, wav_header

pytestmark = pytest.mark.anyio

Spool = Callable[[bytes], SpooledFile]


@pytest.mark.parametrize("container", CONTAINERS)
async def test_a_file_decodes_there_as_it_would_here(container: Container, spool: Spool, pool: DecodePool) -> None:
    rate = 48_000 if container == "webm" else 16_000
    data = encode(voice_like(2.0, rate), container, rate)
    there, here = await decode_audio(spool(data), SoundLimits(), pool), read_sound(io.BytesIO(data))
    assert np.array_equal(there.waveform, here.waveform)
    assert (there.seconds, there.source_rate, there.channels) == (here.seconds, here.source_rate, here.channels)


async def test_the_whole_file_is_read_wherever_it_stands(spool: Spool, pool: DecodePool) -> None:
    file = spool(encode(voice_like(1.0), "wav"))
    file.seek(1000)
    assert (await decode_audio(file, SoundLimits(), pool)).seconds == 1.0


@pytest.mark.parametrize(
    ("data", "kind", "status"),
    [
        (b"", CorruptPart, 422),
        (b"hello, this is text", UnsupportedPart, 415),
        (encode(voice_like(0.2), "wav", subtype="IMA_ADPCM"), UnsupportedPart, 415),
        (encode(voice_like(0.2), "flac")[:-20], CorruptPart, 422),
        (wav_header(1, 1, 4) + b"\0" * 4, CorruptPart, 422),
        (wav_header(16_000, 1_024, 2048) + b"\0" * 2048, CorruptPart, 422),
        (encode(voice_like(1.1), "wav"), PartTooLarge, 413),
    ],
    ids=["nothing", "no sound", "codec", "cut", "1 Hz", "1024 channels", "too long"],
)
async def test_each_fault_has_its_status(
    data: bytes, kind: type[UploadError], status: int, spool: Spool, pool: DecodePool
) -> None:
    with pytest.raises(kind) as caught:
        await decode_audio(spool(data), SoundLimits(max_seconds=1.0), pool)
    assert (caught.value.status, caught.value.part) == (status, "audio")


async def test_a_file_without_a_sample_is_empty(spool: Spool, pool: DecodePool) -> None:
    with pytest.raises(EmptyModality) as caught:
        await decode_audio(spool(encode(np.zeros(0, dtype=np.float32), "wav")), SoundLimits(), pool)
    assert caught.value.reason == "too_short"


async def test_a_refused_file_costs_the_pool_no_process(spool: Spool, pool: DecodePool) -> None:
    before = pool.pids()
    for _ in range(4):
        with pytest.raises(CorruptPart):
            await decode_audio(spool(encode(voice_like(0.2), "flac")[:-20]), SoundLimits(), pool)
    assert pool.pids() == before
