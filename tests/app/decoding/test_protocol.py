import json
from typing import NoReturn

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.decoding.protocol import (
    PREFIX,
    Decoded,
    DecodingStopped,
    Json,
    ProtocolError,
    decode_reply,
    encode_reply,
    pack,
    parse,
)
from model.errors import (
    CorruptModality,
    EmptyModality,
    FaceNotFound,
    ModalityError,
    ModalityTooLarge,
    UnsupportedFormat,
)
from model.features.audio.raw_features import AudioFeatures
from model.features.visual.openface import FaceTrack
from model.modality import Modality

VOICE = AudioFeatures(
    np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4),
    seconds=0.5,
    spoken=0.375,
    frames=2,
    compute_seconds=0.25,
    warnings={"channel": "channel 1 alone was used"},
)
TRACK = FaceTrack(np.arange(6, dtype=np.float32).reshape(2, 3), 5, 2, 1, 2, faces=2, face_id=4)


def test_a_frame_has_the_lengths_of_its_message_and_its_content() -> None:
    frame = pack({"kind": "audio"}, 7)
    message_bytes, content_bytes = PREFIX.unpack(frame[: PREFIX.size])
    assert content_bytes == 7
    assert parse(frame[PREFIX.size :][:message_bytes]) == {"kind": "audio"}
    assert len(frame) == PREFIX.size + message_bytes


@pytest.mark.parametrize("encoded", [b"", b"[]", b"1", b'"text"', b"{", b"\xff", b"[" * 60_000])
def test_a_message_that_is_not_an_object_is_an_error(encoded: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse(encoded)


def transmit(decoded: Decoded) -> Decoded:
    """Encode and decode."""
    message, content = encode_reply(lambda: decoded)
    return decode_reply(json.loads(json.dumps(message)), bytearray(content))


def raising(error: Exception) -> tuple[Json, bytes]:
    def decode() -> NoReturn:
        raise error

    return encode_reply(decode)


def test_a_voice_is_transmitted_completely_and_is_writable() -> None:
    voice = transmit(VOICE)
    assert isinstance(voice, AudioFeatures)
    assert np.array_equal(voice.array, VOICE.array)
    assert (voice.seconds, voice.spoken, voice.frames, voice.compute_seconds) == (0.5, 0.375, 2, 0.25)
    assert voice.warnings == VOICE.warnings
    assert voice.array.dtype == np.float32
    assert voice.array.flags.writeable


@pytest.mark.parametrize("face_id", [4, None])
def test_a_face_track_is_transmitted_completely(face_id: int | None) -> None:
    warnings = {"out_of_scale": "in line 3"}
    track = transmit(FaceTrack(TRACK.values, 5, 2, 1, 2, 2, face_id, 1, all_zero=True, warnings=warnings))
    assert isinstance(track, FaceTrack)
    assert np.array_equal(track.values, TRACK.values)
    assert (track.frames, track.kept, track.skipped_unsuccessful, track.skipped_low_confidence) == (5, 2, 1, 2)
    assert (track.faces, track.face_id, track.skipped_unreadable, track.all_zero) == (2, face_id, 1, True)
    assert track.warnings == warnings


@pytest.mark.parametrize(
    "error",
    [
        CorruptModality(Modality.VISUAL, "a cell is not a finite number", "line 7, column AU12_r"),
        ModalityTooLarge(Modality.AUDIO, "too long"),
        UnsupportedFormat(Modality.AUDIO, "no", None),
        FaceNotFound(Modality.VISUAL, "there is no face 7", None),
    ],
)
def test_an_error_is_transmitted_with_its_place(error: ModalityError) -> None:
    message, content = raising(error)
    with pytest.raises(ModalityError) as caught:
        decode_reply(message, bytearray(content))
    assert type(caught.value) is type(error)
    assert (caught.value.modality, caught.value.detail, caught.value.place) == (
        error.modality,
        error.detail,
        error.place,
    )


def test_an_empty_modality_is_transmitted_with_its_reason() -> None:
    message, content = raising(EmptyModality(Modality.VISUAL, "no_face", "no face in it"))
    with pytest.raises(EmptyModality, match="no face in it") as caught:
        decode_reply(message, bytearray(content))
    assert caught.value.reason == "no_face"


def test_lack_of_memory_is_not_an_error_of_the_file() -> None:
    message, content = raising(MemoryError())
    with pytest.raises(DecodingStopped, match="memory"):
        decode_reply(message, bytearray(content))


def test_a_bug_of_the_decoder_is_not_an_error_of_the_file() -> None:
    with pytest.raises(ZeroDivisionError):
        raising(ZeroDivisionError())


@pytest.mark.parametrize(
    "wrong",
    [
        {"fields": {"seconds": "1"}},
        {"fields": {"seconds": None}},
        {"fields": {"seconds": float("nan")}},
        {"fields": {"frames": 1.5}},
        {"fields": {"warnings": {"channel": 1}}},
        {"fields": {"warnings": ["channel"]}},
        {"fields": {"truncated": 2}},
        {"fields": {"array": [[1.0]]}},
        {"fields": {"unknown": 1}},
        {"shape": [4, 2, 1]},
        {"shape": [-1, 2, 3]},
    ],
)
def test_a_field_of_another_type_is_an_error(wrong: Json) -> None:
    message, content = encode_reply(lambda: VOICE)
    decode_reply(message, bytearray(content))
    changed = {**message, **wrong, "fields": {**message["fields"], **wrong.get("fields", {})}}
    with pytest.raises(ProtocolError):
        decode_reply(changed, bytearray(content))


def test_features_that_are_not_finite_are_an_error() -> None:
    message, content = encode_reply(lambda: VOICE)
    with pytest.raises(ProtocolError):
        decode_reply(message, bytearray(content[:-4] + np.float32(np.nan).tobytes()))


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"kind": "Unknown"},
        {"kind": "EMMRError"},
        {"kind": 7},
        {"kind": ["CorruptModality"]},
        {"kind": "EmptyModality"},
        {"kind": "EmptyModality", "arguments": ["audio", "silent"]},
        {"kind": "CorruptModality", "arguments": ["smell", "x", None]},
        {"kind": "CorruptModality", "arguments": ["audio", None, None]},
        {"kind": "CorruptModality", "arguments": ["audio", "x", 3]},
        {"kind": "CorruptModality", "arguments": 3},
        {"kind": "AudioFeatures"},
        {"kind": "AudioFeatures", "fields": [], "shape": [1, 2]},
        {"kind": "AudioFeatures", "fields": {}, "shape": [1, 2]},
        {"kind": "AudioFeatures", "fields": {"seconds": 1, "compute_seconds": 1}, "shape": [1, 3]},
        {"kind": "AudioFeatures", "fields": {"seconds": 1, "compute_seconds": 1}, "shape": [2]},
        {"kind": "AudioFeatures", "fields": {"seconds": 1, "compute_seconds": 1}, "shape": "2"},
        {"kind": "AudioFeatures", "fields": {"seconds": 1, "compute_seconds": 1, "array": 1}, "shape": [1, 2]},
        {"kind": "FaceTrack", "fields": {"seconds": 1}, "shape": [1, 2]},
    ],
)
def test_a_reply_that_is_not_valid_is_an_error(message: Json) -> None:
    with pytest.raises(ProtocolError):
        decode_reply(message, bytearray(8))


json_values = st.recursive(
    st.none()
    | st.integers(-3, 9)
    | st.sampled_from(["AudioFeatures", "FaceTrack", "EmptyModality", "audio", "CorruptModality", "x"]),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=3,
)


@given(
    message=st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("kind", "arguments", "reason", "shape", "fields"), json_values)
    ),
    size=st.integers(0, 12),
)
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_an_arbitrary_reply_raises_only_declared_errors(message: Json, size: int) -> None:
    with pytest.raises((ProtocolError, ModalityError, DecodingStopped)):
        decode_reply(message, bytearray(size))
