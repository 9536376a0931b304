import io
from collections.abc import Callable

import numpy as np
import pytest

from app.decoding.audio import decode_audio
from app.decoding.pool import DecodePool
from app.uploads.errors import CorruptPart, PartTooLarge, UnsupportedPart, UploadError
from app.uploads.spool import SpooledFile
from model.errors import EmptyModality
from model.features.audio.loading import SoundLimits, read_sound
from model.features.audio.raw_features import Voice, raw_audio_features
from tests.support.sound import CONTAINERS, Container, encode, voice_like, wav_header

pytestmark = pytest.mark.anyio

Spool = Callable[[bytes], SpooledFile]


async def decode(file: SpooledFile, pool: DecodePool, limits: SoundLimits | None = None) -> Voice:
    return await decode_audio(file, True, -60.0, limits or SoundLimits(), pool)


@pytest.mark.parametrize("container", CONTAINERS)
async def test_a_file_decodes_there_as_it_would_here(container: Container, spool: Spool, pool: DecodePool) -> None:
    rate = 48_000 if container == "webm" else 16_000
    data = encode(voice_like(2.0, rate), container, rate)
    there, here = await decode(spool(data), pool), read_sound(io.BytesIO(data))
    expected = raw_audio_features(here.waveform, dynamics=True, silence_dbfs=-60.0)
    # Not to the last bit: a process has one thread for a product of matrices, and this one may have several.
    np.testing.assert_allclose(there.features, expected, atol=1e-4)
    assert there.seconds == pytest.approx(here.seconds, abs=1e-3)
    assert there.spent > 0


async def test_a_padded_file_is_trimmed_there_where_that_is_asked_for(spool: Spool, pool: DecodePool) -> None:
    file = spool(encode(np.pad(voice_like(1.0), 16_000), "wav"))
    heard = await decode_audio(file, False, -60.0, SoundLimits(), pool, conditioned=True)
    assert heard.seconds == 3.0
    assert heard.spoken == pytest.approx(1.1, abs=0.05)


async def test_the_whole_file_is_read_wherever_it_stands(spool: Spool, pool: DecodePool) -> None:
    file = spool(encode(voice_like(1.0), "wav"))
    file.seek(1000)
    assert (await decode(file, pool)).seconds == 1.0


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
        await decode(spool(data), pool, SoundLimits(max_seconds=1.0))
    assert (caught.value.status, caught.value.part) == (status, "audio")


@pytest.mark.parametrize(("samples", "reason"), [(0, "too_short"), (100, "too_short"), (16_000, "silent")])
async def test_a_file_with_nothing_to_hear_is_empty(samples: int, reason: str, spool: Spool, pool: DecodePool) -> None:
    with pytest.raises(EmptyModality) as caught:
        await decode(spool(encode(np.zeros(samples, dtype=np.float32), "wav")), pool)
    assert caught.value.reason == reason


async def test_a_refused_file_costs_the_pool_no_process(spool: Spool, pool: DecodePool) -> None:
    before = pool.pids()
    for _ in range(4):
        with pytest.raises(CorruptPart):
            await decode(spool(encode(voice_like(0.2), "flac")[:-20]), pool)
    assert pool.pids() == before
