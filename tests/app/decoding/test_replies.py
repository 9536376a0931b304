import json
from typing import NoReturn

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.decoding.frames import BrokenFrame, Json
from app.decoding.replies import Decoded, DecoderStopped, dismantle, restore
from model.errors import CorruptModality, EmptyModality, ModalityError, ModalityTooLarge, UnsupportedFormat
from model.features.audio.raw_features import Voice
from model.features.visual.openface import FaceTrack
from model.modality import Modality

VOICE = Voice(np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4), seconds=0.5, spent=0.25, spoken=0.375, channel=1)
TRACK = FaceTrack(np.arange(6, dtype=np.float32).reshape(2, 3), 5, 2, 1, 2, faces=2, face_id=4)


def across(decoded: Decoded) -> Decoded:
    """Through a frame and back."""
    message, content = dismantle(lambda: decoded)
    return restore(json.loads(json.dumps(message)), bytearray(content))


def raising(error: Exception) -> tuple[Json, bytes]:
    def decode() -> NoReturn:
        raise error

    return dismantle(decode)


def test_a_voice_comes_across_whole_and_may_be_written_to() -> None:
    voice = across(VOICE)
    assert isinstance(voice, Voice)
    assert np.array_equal(voice.features, VOICE.features)
    assert (voice.seconds, voice.spent, voice.spoken, voice.channel) == (0.5, 0.25, 0.375, 1)
    assert voice.features.dtype == np.float32
    assert voice.features.flags.writeable


@pytest.mark.parametrize("face_id", [4, None])
def test_a_face_track_comes_across_whole(face_id: int | None) -> None:
    track = across(FaceTrack(TRACK.values, 5, 2, 1, 2, faces=2, face_id=face_id, out_of_scale=1, all_zero=True))
    assert isinstance(track, FaceTrack)
    assert np.array_equal(track.values, TRACK.values)
    assert (track.frames, track.kept, track.skipped_unsuccessful, track.skipped_low_confidence) == (5, 2, 1, 2)
    assert (track.faces, track.face_id, track.out_of_scale, track.all_zero) == (2, face_id, 1, True)


@pytest.mark.parametrize(
    "error",
    [
        CorruptModality(Modality.VISUAL, "a cell is not a finite number", "line 7, column AU12_r"),
        ModalityTooLarge(Modality.AUDIO, "too long"),
        UnsupportedFormat(Modality.AUDIO, "no", None),
    ],
)
def test_a_fault_comes_across_with_its_place(error: ModalityError) -> None:
    message, content = raising(error)
    with pytest.raises(ModalityError) as caught:
        restore(message, bytearray(content))
    assert type(caught.value) is type(error)
    assert (caught.value.modality, caught.value.detail, caught.value.place) == (
        error.modality,
        error.detail,
        error.place,
    )


def test_an_empty_modality_comes_across_with_its_reason() -> None:
    message, content = raising(EmptyModality(Modality.VISUAL, "no_face", "nobody"))
    with pytest.raises(EmptyModality, match="nobody") as caught:
        restore(message, bytearray(content))
    assert caught.value.reason == "no_face"


def test_running_out_of_memory_is_no_verdict_on_the_file() -> None:
    message, content = raising(MemoryError())
    with pytest.raises(DecoderStopped, match="memory"):
        restore(message, bytearray(content))


def test_a_decoder_s_own_fault_is_not_taken_for_the_file_s() -> None:
    with pytest.raises(ZeroDivisionError):
        raising(ZeroDivisionError())


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"kind": "Unheard"},
        {"kind": "EMMRError"},
        {"kind": 7},
        {"kind": "empty"},
        {"kind": "stopped", "reason": 1},
        {"kind": "CorruptModality", "modality": "smell", "detail": "x"},
        {"kind": "CorruptModality", "modality": "audio", "detail": None},
        {"kind": "CorruptModality", "modality": "audio", "detail": "x", "place": 3},
        {"kind": "Voice"},
        {"kind": "Voice", "about": [], "shape": [1, 2]},
        {"kind": "Voice", "about": {}, "shape": [1, 2]},
        {"kind": "Voice", "about": {"seconds": 1, "spent": 1}, "shape": [1, 3]},
        {"kind": "Voice", "about": {"seconds": 1, "spent": 1}, "shape": [2]},
        {"kind": "Voice", "about": {"seconds": 1, "spent": 1}, "shape": "2"},
        {"kind": "Voice", "about": {"seconds": 1, "spent": 1, "features": 1}, "shape": [1, 2]},
        {"kind": "FaceTrack", "about": {"seconds": 1}, "shape": [1, 2]},
    ],
)
def test_a_reply_that_does_not_fit_together_is_an_error(message: Json) -> None:
    with pytest.raises(BrokenFrame):
        restore(message, bytearray(8))


json_values = st.recursive(
    st.none() | st.integers(-3, 9) | st.sampled_from(["Voice", "FaceTrack", "empty", "audio", "CorruptModality", "x"]),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=3,
)


@given(
    message=st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("kind", "modality", "detail", "reason", "place", "shape", "about"), json_values)
    ),
    size=st.integers(0, 12),
)
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_whatever_the_reply_only_what_is_declared_is_raised(message: Json, size: int) -> None:
    with pytest.raises((BrokenFrame, ModalityError, DecoderStopped)):
        restore(message, bytearray(size))
