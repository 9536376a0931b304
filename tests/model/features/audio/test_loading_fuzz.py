"""Arbitrary and damaged sounds, and a genuine recording."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import ModalityError
from model.features.audio.loading import SoundLimits, read_sound
from tests.support.sound import CONTAINERS
from tests.support.sound_files import FILES, read


def arbitrary_sounds() -> st.SearchStrategy[bytes]:
    """Bytes that begin like a sound, and sounds with something wrong in them."""
    heads = st.sampled_from(
        [
            b"RIFF\0\0\0\0WAVE",
            b"fLaC",
            b"OggS",
            b"ID3",
            b"\xff\xfb\x90\x64",
            b"\x1a\x45\xdf\xa3",
            b"\0\0\0\x18ftypM4A ",
            b"",
        ]
    )

    @st.composite
    def damaged(draw: Callable[[st.SearchStrategy[int]], int]) -> bytes:
        data = bytearray(FILES[CONTAINERS[draw(st.integers(0, len(CONTAINERS) - 1))]])
        for _ in range(draw(st.integers(1, 4))):
            # Headers matter most.
            end = len(data) if draw(st.integers(0, 1)) else 200
            start = draw(st.integers(0, end - 1))
            data[start : start + draw(st.integers(0, 4))] = draw(st.integers(0, 2**32 - 1)).to_bytes(4, "big")
        return bytes(data)

    return st.one_of(st.tuples(heads, st.binary(max_size=300)).map(b"".join), damaged())


@given(data=arbitrary_sounds())
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_whatever_the_bytes_only_a_sound_or_a_fault_comes_out(data: bytes) -> None:
    try:
        sound = read(data, SoundLimits(max_seconds=5.0, max_decoded_bytes=2**21))
    except ModalityError:
        return
    assert np.isfinite(sound.waveform).all()
    assert sound.seconds <= 5.0


def test_a_genuine_recording_is_read_whole() -> None:
    named = os.environ.get("EMMR_DATA")
    folder = Path(named) if named else Path(__file__).parents[3].parent / "shared" / "data"
    samples = sorted(folder.glob("openface_samples/*.wav"))
    if not samples:
        pytest.skip("no recording here: set EMMR_DATA to the folder that holds openface_samples/")
    about = soundfile.info(samples[0])
    sound = read_sound(samples[0])
    assert (sound.source_rate, sound.channels) == (about.samplerate, about.channels)
    assert sound.seconds == about.frames / about.samplerate
