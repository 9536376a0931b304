"""The sound of a recording, decoded once to 16-bit samples on disk; any stretch of it is read from there.

Shapes: K samples at `SAMPLE_RATE`, C channels.
"""

import io
import math
import os
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import IO, Final

import numpy as np
import numpy.typing as npt
import soundfile

from app.decoding.parts import sound_limits
from app.decoding.protocol import ProtocolError
from app.decoding.stream import stream
from app.settings import Settings
from model.errors import ModalityTooLarge
from model.features.audio import SAMPLE_RATE
from model.features.audio.loading import mix
from model.features.audio.streaming import FULL_SCALE
from model.modality import Modality
from model.types import BoolArray, FloatArray, IntArray

SAMPLE_BYTES: Final = 2
LEVEL_FRAME: Final = 320  # samples, 20 ms: of the level that `Sound.coverage` compares
READ_SECONDS: Final = 60.0  # of sound read at once, a whole number of such frames
_UNLIMITED: Final = 2**62  # bytes: the decoded samples are not kept in memory


class Sound:
    """Samples on disk, 16 kHz, 16 bits, all channels.

    Args:
        file: interleaved samples, which `close` deletes.
        channels: C.
        warnings: of the file it was decoded from: code → detail.
    """

    def __init__(self, file: IO[bytes], channels: int, warnings: dict[str, str]) -> None:
        self._file, self.channels, self.warnings = file, channels, warnings
        self.samples = file.seek(0, os.SEEK_END) // (SAMPLE_BYTES * channels)

    @classmethod
    async def decode(cls, file: IO[bytes], settings: Settings) -> "Sound":
        """Decode a file in a decoder process.

        Raises:
            ModalityError: the file is not accepted, or (`EmptyModality`) holds no sample.
            DecoderFailed, NoDecoder: decoding failed.
            OSError: no space is left on disk for the samples.
        """
        limits = replace(
            sound_limits(settings), max_seconds=settings.recording_max_seconds, max_decoded_bytes=_UNLIMITED
        )
        channels = written = 0

        def write(columns: int, content: bytearray) -> None:
            nonlocal channels, written
            channels = channels or columns
            if columns != channels or len(content) % (SAMPLE_BYTES * columns):
                raise ProtocolError("a block of samples is not valid")
            written += len(content)
            if written > settings.recording_max_sound_bytes:
                detail = f"the sound of a recording may take at most {settings.recording_max_sound_bytes} bytes"
                raise ModalityTooLarge(Modality.AUDIO, f"{detail} as 16-bit samples at {SAMPLE_RATE} Hz")
            samples.write(content)

        with ExitStack() as stack:
            samples = stack.enter_context(tempfile.TemporaryFile())
            warnings = await stream(
                {"kind": "sound", "limits": asdict(limits)},
                file,
                "audio",
                memory_bytes=settings.decode_memory_bytes,
                seconds=settings.recording_decode_timeout,
                on_block=write,
            )
            samples.flush()
            stack.pop_all()
            return cls(samples, channels, warnings)

    def close(self) -> None:
        """Delete the samples."""
        self._file.close()

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.samples / SAMPLE_RATE

    def read(self, start: float, end: float, channel: int | None = None) -> npt.NDArray[np.int16]:
        """Return the samples `(K, C)` of a stretch, or of one channel `(K, 1)`; fewer at the end of the sound."""
        first, last = (min(self.samples, max(0, round(second * SAMPLE_RATE))) for second in (start, end))
        size = SAMPLE_BYTES * self.channels
        data = os.pread(self._file.fileno(), (last - first) * size, first * size)
        samples = np.frombuffer(data, dtype=np.int16).reshape(-1, self.channels)
        return samples if channel is None else samples[:, channel : channel + 1]

    def read_mono(self, start: float, end: float, channel: int | None = None) -> FloatArray:
        """Return a stretch as `(K,)` float32, its channels mixed as those of a file are."""
        samples = self.read(start, end, channel).astype(np.float32) / np.float32(FULL_SCALE)
        return mix(samples)[0] if len(samples) else samples[:, 0]


def silent_stretches(sound: Sound, silence_dbfs: float, shortest: float) -> list[tuple[float, float]]:
    """Return start and end of each stretch in which no frame of `LEVEL_FRAME` samples is louder than silence.

    Args:
        sound: the whole is read.
        silence_dbfs: level of silence in dB below full scale.
        shortest: seconds that a stretch lasts at least.
    """
    edges: list[IntArray] = [np.array([-1])]
    for part in range(math.ceil(sound.duration / READ_SECONDS)):
        loud = np.flatnonzero(_loud(sound.read(part * READ_SECONDS, (part + 1) * READ_SECONDS), silence_dbfs))
        edges.append(loud + round(part * READ_SECONDS * SAMPLE_RATE / LEVEL_FRAME))
    frames = np.concatenate([*edges, [math.ceil(sound.samples / LEVEL_FRAME)]])  # the loud ones, and both ends
    seconds = LEVEL_FRAME / SAMPLE_RATE
    long = np.flatnonzero(np.diff(frames) - 1 >= shortest / seconds)
    return [(float(frames[i] + 1) * seconds, min(sound.duration, float(frames[i + 1]) * seconds)) for i in long]


def _loud(samples: npt.NDArray[np.int16], silence_dbfs: float) -> BoolArray:
    """Whether each frame of `(K, C)` samples is louder than silence, `(K // LEVEL_FRAME,)`."""
    frames = len(samples) // LEVEL_FRAME
    whole = samples[: frames * LEVEL_FRAME].astype(np.float32) / np.float32(FULL_SCALE)
    power = np.square(whole).reshape(frames, LEVEL_FRAME * samples.shape[1]).mean(axis=1)
    return np.asarray(power > 10 ** (silence_dbfs / 10))


def as_wav(samples: npt.NDArray[np.int16]) -> io.BytesIO:
    """Return samples `(K, C)` as a WAV file."""
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    file.seek(0)
    return file


def sounding_share(samples: npt.NDArray[np.int16], duration: float, silence_dbfs: float) -> float:
    """Share of a stretch that is louder than silence, in [0, 1].

    Args:
        samples: `(K, C)` of the stretch; what lies beyond the sound's end is silent.
        duration: of the stretch in seconds.
        silence_dbfs: level under which a frame of `LEVEL_FRAME` samples counts as silent.
    """
    loud = np.count_nonzero(_loud(samples, silence_dbfs))
    return min(1.0, loud * LEVEL_FRAME / SAMPLE_RATE / duration)
