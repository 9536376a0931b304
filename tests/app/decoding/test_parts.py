import io
from collections.abc import Callable
from typing import IO, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.decoding.parts import audio_job, decode_text, openface_job
from app.decoding.pool import DecodePool
from app.errors import CorruptPart, PartTooLarge, TextTooLong, UnsupportedPart, UploadError
from app.settings import Settings
from model.config import AudioConfig, VisualConfig
from model.errors import EmptyModality
from model.features.audio.loading import read_sound
from model.features.audio.raw_features import AudioFeatures, extract_voice
from model.features.visual.openface import FaceTrack, read_openface
from model.features.visual.table import ColumnSet
from tests.support.openface import simulate_openface_csv
from tests.support.sound import CONTAINERS, Container, encode, voice_like, wav_header

Spool = Callable[[bytes], IO[bytes]]

LIMIT = 64 * 1024
FACE = simulate_openface_csv(3, "action_units")


# ---- text -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["Hello.", "  spaced  ", "日本語", "é\n\tè", "🙂", "\U0010fffd"])
def test_a_sentence_is_decoded_unchanged(text: str) -> None:
    assert decode_text(text.encode(), LIMIT) == text


def test_a_byte_order_mark_at_the_start_is_dropped() -> None:
    assert decode_text(b"\xef\xbb\xbfHello.", LIMIT) == "Hello."


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT])
def test_a_text_up_to_the_limit_is_accepted(size: int) -> None:
    assert len(decode_text(b"a" * size, LIMIT)) == size


def test_a_text_past_the_limit_is_refused() -> None:
    with pytest.raises(TextTooLong) as caught:
        decode_text(b"a" * (LIMIT + 1), LIMIT)
    assert caught.value.status == 422


def test_the_limit_is_of_bytes_not_of_characters() -> None:
    with pytest.raises(TextTooLong):
        decode_text("é".encode() * 6, 11)


@pytest.mark.parametrize(
    ("raw", "place"),
    [(b"caf\xe9", "byte 3"), (b"\xff\xfeh\0i\0", "byte 0"), (b"ab\xed\xa0\x80", "byte 2"), (b"ab\xc0\xaf", "byte 2")],
    ids=["latin-1", "utf-16", "surrogate", "overlong"],
)
def test_text_that_is_not_utf8_is_an_error_naming_the_byte(raw: bytes, place: str) -> None:
    with pytest.raises(CorruptPart) as caught:
        decode_text(raw, LIMIT)
    assert (caught.value.part, caught.value.place) == ("text", place)


def test_a_nul_is_an_error_naming_the_byte() -> None:
    with pytest.raises(CorruptPart) as caught:
        decode_text("é\0a".encode(), LIMIT)
    assert caught.value.place == "byte 2"


@pytest.mark.parametrize("text", ["", " ", "\r\n\t", "\u00a0\u2003", "\ufeff", "\ufeff \ufeff"])
def test_a_blank_text_is_an_error(text: str) -> None:
    with pytest.raises(CorruptPart, match="blank"):
        decode_text(text.encode(), LIMIT)


@given(raw=st.binary(max_size=40))
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_arbitrary_bytes_give_a_text_or_an_upload_error(raw: bytes) -> None:
    try:
        text = decode_text(raw, 32)
    except UploadError:
        return
    assert text.encode() in (raw, raw[3:])
    assert text.strip()


# ---- audio ----------------------------------------------------------------------------------------------------------


async def decode_audio(file: IO[bytes], pool: DecodePool, **limits: Any) -> AudioFeatures:
    return await pool.run(audio_job(AudioConfig(dynamics=True), Settings(**limits)), file, "audio", AudioFeatures)


@pytest.mark.anyio
@pytest.mark.parametrize("container", CONTAINERS)
async def test_the_pool_decodes_audio_as_this_process_does(
    container: Container, spool: Spool, pool: DecodePool
) -> None:
    rate = 48_000 if container == "webm" else 16_000
    data = encode(voice_like(2.0, rate), container, rate)
    there, (here, _) = await decode_audio(spool(data), pool), read_sound(io.BytesIO(data))
    expected = extract_voice(here, dynamics=True, silence_dbfs=-60.0).array
    # Not bit-equal: a decoder multiplies matrices on one thread, and this process perhaps on several.
    np.testing.assert_allclose(there.array, expected, atol=1e-4)
    assert there.seconds == here.size / 16_000
    assert there.compute_seconds > 0


@pytest.mark.anyio
async def test_the_pool_trims_audio_if_the_config_says_so(spool: Spool, pool: DecodePool) -> None:
    file = spool(encode(np.pad(voice_like(1.0), 16_000), "wav"))
    voice = await pool.run(audio_job(AudioConfig(conditioned=True), Settings()), file, "audio", AudioFeatures)
    assert voice.seconds == 3.0
    assert voice.spoken == pytest.approx(1.1, abs=0.05)


@pytest.mark.anyio
async def test_the_whole_file_is_read_from_any_position(spool: Spool, pool: DecodePool) -> None:
    file = spool(encode(voice_like(1.0), "wav"))
    file.seek(1000)
    assert (await decode_audio(file, pool)).seconds == 1.0


@pytest.mark.anyio
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
async def test_each_audio_error_has_its_status(
    data: bytes, kind: type[UploadError], status: int, spool: Spool, pool: DecodePool
) -> None:
    with pytest.raises(kind) as caught:
        await decode_audio(spool(data), pool, max_audio_seconds=1.0)
    assert (caught.value.status, caught.value.part) == (status, "audio")


@pytest.mark.anyio
@pytest.mark.parametrize(("samples", "reason"), [(0, "too_short"), (100, "too_short"), (16_000, "silent")])
async def test_short_or_silent_audio_is_empty(samples: int, reason: str, spool: Spool, pool: DecodePool) -> None:
    with pytest.raises(EmptyModality) as caught:
        await decode_audio(spool(encode(np.zeros(samples, dtype=np.float32), "wav")), pool)
    assert caught.value.reason == reason


@pytest.mark.anyio
async def test_a_refused_file_does_not_cost_a_process(spool: Spool, pool: DecodePool) -> None:
    before = pool.pids()
    for _ in range(4):
        with pytest.raises(CorruptPart):
            await decode_audio(spool(encode(voice_like(0.2), "flac")[:-20]), pool)
    assert pool.pids() == before


# ---- OpenFace -------------------------------------------------------------------------------------------------------


async def decode_openface(
    file: IO[bytes], pool: DecodePool, columns: ColumnSet = "action_units", confidence: float = 0.5, **limits: Any
) -> FaceTrack:
    config = VisualConfig(columns=columns, min_confidence=confidence)
    return await pool.run(openface_job(config, Settings(**limits)), file, "openface", FaceTrack)


@pytest.mark.anyio
@pytest.mark.parametrize("columns", ["all", "action_units"])
async def test_the_pool_decodes_openface_as_this_process_does(
    columns: ColumnSet, spool: Spool, pool: DecodePool
) -> None:
    data = simulate_openface_csv(40, faces=(0, 1), confidence=(0.7, 0.9))
    there = await decode_openface(spool(data), pool, columns)
    here = read_openface(io.BytesIO(data), columns, 0.5)
    assert np.array_equal(there.values, here.values)
    assert (there.frames, there.kept, there.faces, there.face_id) == (80, 40, 2, 1)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("data", "limits", "kind", "status", "place"),
    [
        (b"", {}, CorruptPart, 422, "line 1"),
        (FACE.replace(b"AU12_r", b"AU99_r"), {}, CorruptPart, 422, "line 1"),
        (FACE.replace(b", 0.98", b", nan", 1), {}, CorruptPart, 422, "line 2, column confidence"),  # one of three
        (FACE, {"max_openface_rows": 2}, PartTooLarge, 413, "line 4"),
        (b"," * 2_000_000, {}, PartTooLarge, 413, "line 1"),
    ],
    ids=["nothing", "columns", "nan", "rows", "commas"],
)
async def test_each_openface_error_has_its_status_and_place(
    data: bytes,
    limits: dict[str, int],
    kind: type[UploadError],
    status: int,
    place: str,
    spool: Spool,
    pool: DecodePool,
) -> None:
    with pytest.raises(kind) as caught:
        await decode_openface(spool(data), pool, "action_units", 0.5, **limits)
    assert (caught.value.status, caught.value.part, caught.value.place) == (status, "openface", place)


@pytest.mark.anyio
async def test_openface_without_a_usable_frame_is_empty(spool: Spool, pool: DecodePool) -> None:
    with pytest.raises(EmptyModality) as caught:
        await decode_openface(spool(FACE), pool, confidence=0.99)
    assert caught.value.reason == "no_face"
