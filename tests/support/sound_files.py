"""A file of each container, and reading one from memory."""

import io

from model.features.audio import SAMPLE_RATE
from model.features.audio.loading import SoundLimits, read_sound
from model.types import FloatArray
from tests.support.sound import CONTAINERS, Container, encode, voice_like

MAGIC = {"wav": "wav", "flac": "flac", "vorbis": "ogg", "opus": "ogg", "mp3": "mp3", "webm": "webm", "m4a": "m4a"}
RATES = {"webm": 48_000}


def file_of(container: Container, seconds: float = 1.0) -> bytes:
    rate = RATES.get(container, SAMPLE_RATE)
    return encode(voice_like(seconds, rate), container, rate)


def read(data: bytes, limits: SoundLimits | None = None) -> FloatArray:
    """The waveform at `SAMPLE_RATE`."""
    return read_sound(io.BytesIO(data), limits)[0]


FILES = {container: file_of(container) for container in CONTAINERS}


def forged_flac(samples: int) -> bytes:
    """The header of a real file with another count of samples, and 90 bytes of nothing: 132 bytes."""
    header = bytearray(FILES["flac"][:42])
    header[4] |= 0x80  # no further metadata
    header[21] = header[21] & 0xF0 | samples >> 32
    header[22:26] = (samples & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(header) + b"\0" * 90
