import io
import mmap
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pytest

from model.errors import CorruptModality, EmptyModality, ModalityTooLarge
from model.features.audio.containers import Extent
from model.features.audio.loading import SoundLimits, read_sound
from model.features.audio.streaming import FULL_SCALE, ExtentFile, map_file, stream_sound
from tests.support.sound import CONTAINERS, Container, encode, voice_like

VOICE = voice_like(3.0, 48_000)


@contextmanager
def on_disk(content: bytes) -> Iterator[BinaryIO]:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        file.seek(0)
        yield file


def stream(content: bytes, limits: SoundLimits | None = None) -> npt.NDArray[np.int16]:
    with on_disk(content) as file:
        return np.concatenate(list(stream_sound(file, map_file(file), limits or SoundLimits(), {})))


@pytest.mark.parametrize("container", CONTAINERS)
def test_streamed_samples_equal_those_read_at_once(container: Container) -> None:
    content = encode(VOICE, container, 48_000)
    whole, _ = read_sound(io.BytesIO(content))
    streamed = stream(content)
    assert streamed.shape == (len(whole), 1)
    assert np.abs(streamed[:, 0] / FULL_SCALE - whole).max() <= 1.01 / FULL_SCALE


def test_channels_are_kept() -> None:
    stereo = np.stack([VOICE, -VOICE], axis=1)
    streamed = stream(encode(stereo, "wav", 48_000))
    assert streamed.shape[1] == 2
    assert np.abs(streamed.astype(int).sum(axis=1)).max() <= 2


def test_samples_beyond_full_scale_are_cut_off() -> None:
    streamed = stream(encode(8 * VOICE, "wav", 48_000, "FLOAT"))
    assert (streamed.min(), streamed.max()) == (-FULL_SCALE, FULL_SCALE - 1)


def test_tags_before_the_samples_are_left_out() -> None:
    content = encode(VOICE, "wav", 16_000)
    tagged = content[:36] + b"LIST\x04\0\0\0abcd" + content[36:]
    assert np.array_equal(stream(tagged), stream(content))


def test_the_mapping_is_closed_once_the_file_is_checked() -> None:
    with on_disk(encode(VOICE, "wav", 16_000)) as file:
        data = map_file(file)
        next(stream_sound(file, data, SoundLimits(), {}))
        assert isinstance(data, mmap.mmap)
        assert data.closed


def test_a_truncated_file_is_an_error() -> None:
    with pytest.raises(CorruptModality) as caught:
        stream(encode(VOICE, "flac", 48_000)[:-2_000])
    assert caught.value.detail


def test_an_empty_file_is_an_error() -> None:
    with pytest.raises(CorruptModality) as caught:
        stream(b"")
    assert caught.value.detail == "the file is empty"


def test_a_file_without_samples_is_empty() -> None:
    with pytest.raises(EmptyModality) as caught:
        stream(encode(VOICE[:0], "wav", 16_000))
    assert caught.value.reason == "too_short"


def test_the_duration_is_limited() -> None:
    with pytest.raises(ModalityTooLarge) as caught:
        stream(encode(VOICE, "wav", 48_000), SoundLimits(max_seconds=2.9))
    assert "2.9 seconds" in caught.value.detail


def test_an_extent_reads_like_a_file_of_its_own() -> None:
    file = ExtentFile(io.BytesIO(b"0123456789"), Extent(b"head", 3, 8))
    reader = io.BufferedReader(file)
    assert reader.read() == b"head34567"
    assert (reader.seek(-2, io.SEEK_END), reader.read()) == (7, b"67")
    assert (reader.seek(2), reader.read(3)) == (2, b"ad3")
