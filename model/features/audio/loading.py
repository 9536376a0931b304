"""A sound file → a mono 16 kHz waveform, or an error; never a shorter sound than was recorded.

For: the one way a clip is read, in training, on the command line and behind the service.
Does not know: features (see `model.features.audio.acoustic`), uploads, processes.
Source: libsndfile reads WAV, FLAC, Ogg and MP3; FFmpeg, through PyAV, reads WebM/Opus and M4A/AAC. Resampling is
soxr's `HQ` recipe, as `librosa.resample` has it by default.

Headers are not believed: rate and channels are checked before anything is allocated for them, and length is counted in
decoded blocks. This module imports neither librosa nor torch, so that a decoding process starts fast and stays small.

Shapes: S samples, K samples of a block, C channels.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from model.errors import CorruptModality, EmptyModality, ModalityTooLarge, UnsupportedFormat
from model.features.audio.containers import SNIFF_BYTES, check_whole, sniff
from model.modality import Modality
from model.types import DoubleArray, FloatArray

if TYPE_CHECKING:
    from av import AudioFrame

__all__ = ["SAMPLE_RATE", "Sound", "SoundLimits", "read_sound", "sniff"]


SAMPLE_RATE: Final = 16_000  # Hz, mono
SAMPLE_BYTES: Final = 4  # float32, which everything is decoded to
BLOCK_SAMPLES: Final = 2**16  # decoded at a time, over all channels
MAX_AMPLITUDE: Final = 64.0  # 36 dB above full scale: float files may overshoot 1, but not by the range of an integer
HEADER_BYTES: Final = 2**20  # allowed for tags and tables beside the samples
MAX_SAMPLE_BYTES: Final = 8  # of the widest subtype accepted, DOUBLE
SILENT_CHANNEL_DB: Final = 40.0
"""A channel this much quieter than the loudest holds no speech of its own: an unused input's noise, or leakage."""
CANCELLED_DB: Final = 7.0
"""Channels cancel where their mean is this much quieter than that of as loud but unrelated ones: 10 dB under either of
two equally loud channels, which correlate below -0.8. One voice at two microphones does not, whatever its delay."""

_WAV_SUBTYPES: Final = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")
SUBTYPES: Final[Mapping[str, tuple[str, ...]]] = {
    "WAV": _WAV_SUBTYPES,
    "WAVEX": _WAV_SUBTYPES,
    "FLAC": ("PCM_S8", "PCM_16", "PCM_24"),
    "OGG": ("VORBIS", "OPUS"),
    "MP3": ("MPEG_LAYER_III",),
}
"""What is accepted of libsndfile's formats; the rest (ADPCM, GSM, Speex, …) is attack surface without a use here."""
FFMPEG: Final[Mapping[str, tuple[str, str, str]]] = {
    "webm": ("matroska", "opus", "opus,libopus"),
    "m4a": ("mov", "aac", "aac"),
}
"""Container → FFmpeg's demuxer, the codec accepted, and the decoders it may open at all."""


@dataclass(frozen=True, slots=True)
class SoundLimits:
    """What a sound may cost.

    Args:
        max_seconds: of sound.
        max_decoded_bytes: of float32 samples of all channels at the file's own rate.
        min_rate, max_rate: in Hz.
        max_channels: mixed down to one; see `Sound`.
    """

    max_seconds: float = 300.0
    max_decoded_bytes: int = 64 * 2**20
    min_rate: int = 8_000
    max_rate: int = 192_000
    max_channels: int = 8


@dataclass(frozen=True, slots=True)
class Sound:
    """A decoded sound.

    Args:
        waveform: `(S,)` float32, mono, at `SAMPLE_RATE`: the mean of the file's channels without the silent ones, or
            the loudest channel alone where they cancel each other, as they do where one is inverted.
        seconds: of the file, at its own rate.
        source_rate: in Hz.
        channels: of the file.
        channel: the one taken alone, counted from 0; None where several were averaged or the file has one only.
    """

    waveform: FloatArray
    seconds: float
    source_rate: int
    channels: int
    channel: int | None = None


def read_sound(source: Path | BinaryIO, limits: SoundLimits | None = None) -> Sound:
    """Decode a whole file.

    Args:
        source: a path, or a binary file read from where it stands.
        limits: `SoundLimits()` when not given.

    Raises:
        UnsupportedFormat: a container or codec that is not accepted.
        CorruptModality: not readable to its end, rate or channels out of range, or a sample that is no number.
        ModalityTooLarge: too long.
        EmptyModality: `too_short`: a well-formed file without a sample.
        OSError: the path cannot be read.
    """
    limits = limits or SoundLimits()
    data = _contents(source, limits)
    container = sniff(data[:SNIFF_BYTES])
    if container is None:
        raise UnsupportedFormat(Modality.AUDIO, "accepted are WAV, FLAC, Ogg, MP3, WebM (Opus) and M4A (AAC)")
    check_whole(container, data)
    tape = _decode(data, container, _Tape(limits))
    chosen = tape.channels_worth_hearing()
    if chosen is not None:
        # That shows only at the end. Few files need it, so these are decoded again rather than all channels kept.
        tape = _decode(data, container, _Tape(limits, chosen))
    return tape.sound()


def _contents(source: Path | BinaryIO, limits: SoundLimits) -> bytes:
    most = limits.max_decoded_bytes // SAMPLE_BYTES * MAX_SAMPLE_BYTES + HEADER_BYTES
    if isinstance(source, Path):
        with source.open("rb") as file:
            data = file.read(most + 1)
    else:
        data = source.read(most + 1)
    if len(data) > most:
        raise ModalityTooLarge(Modality.AUDIO, f"a sound file may hold at most {most} bytes")
    if not data:
        raise CorruptModality(Modality.AUDIO, "the file is empty")
    return data


class _Tape:
    """Collects decoded blocks, mixed down, and keeps the limits.

    Args:
        limits: of the sound.
        chosen: the channels to average; all when None.
    """

    def __init__(self, limits: SoundLimits, chosen: Sequence[int] | None = None) -> None:
        self._limits = limits
        self._chosen = chosen
        self._blocks: list[FloatArray] = []
        self._energies: DoubleArray = np.zeros(0)  # (C,), of each channel so far
        self._mean_energy = 0.0
        self._rate = self._channels = 0
        self.samples = 0

    def begin(self, rate: int, channels: int) -> None:
        """Check what the file says of itself; again when it changes its mind."""
        limits = self._limits
        if not limits.min_rate <= rate <= limits.max_rate:
            raise CorruptModality(
                Modality.AUDIO, f"a sampling rate of {rate} Hz is not within {limits.min_rate} and {limits.max_rate} Hz"
            )
        if not 1 <= channels <= limits.max_channels:
            raise CorruptModality(Modality.AUDIO, f"{channels} channels are not within 1 and {limits.max_channels}")
        if self._rate and (rate, channels) != (self._rate, self._channels):
            raise CorruptModality(Modality.AUDIO, "rate or channels change along the way", self._place(0))
        if not self._rate:
            self._energies = np.zeros(channels)
        self._rate, self._channels = rate, channels

    def add(self, block: FloatArray) -> None:
        """Take a `(K, C)` block."""
        # A NaN is not at most anything, so this one comparison finds it too.
        sane = np.abs(block) <= MAX_AMPLITUDE
        if not sane.all():
            first = int(np.argmin(sane.all(axis=1)))
            raise CorruptModality(Modality.AUDIO, "a sample is not a number near [-1, 1]", self._place(first))
        samples = self.samples + len(block)
        if samples > self._limits.max_seconds * self._rate:
            raise ModalityTooLarge(Modality.AUDIO, f"a sound may last at most {self._limits.max_seconds:g} seconds")
        if samples * self._channels * SAMPLE_BYTES > self._limits.max_decoded_bytes:
            raise ModalityTooLarge(
                Modality.AUDIO, f"a sound may decode to at most {self._limits.max_decoded_bytes} bytes"
            )
        self.samples = samples
        self._blocks.append(self._mixed(block))

    def _mixed(self, block: FloatArray) -> FloatArray:
        if self._channels == 1:
            return block[:, 0].copy()
        if self._chosen is not None:
            return cast(FloatArray, block[:, list(self._chosen)].mean(axis=1, dtype=np.float32))
        mean = cast(FloatArray, block.mean(axis=1, dtype=np.float32))
        self._energies += np.square(block, dtype=np.float64).sum(axis=0)
        self._mean_energy += float(np.square(mean, dtype=np.float64).sum())
        return mean

    def channels_worth_hearing(self) -> tuple[int, ...] | None:
        """The channels whose mean is to be taken instead of that of all; None where that one is right."""
        if not self._energies.any():  # one channel, digital silence or no sample
            return None
        loudest = int(self._energies.argmax())
        audible = np.flatnonzero(self._energies > self._energies[loudest] * 10 ** (-SILENT_CHANNEL_DB / 10))
        unrelated = float(self._energies.sum()) / self._channels**2  # the mean's energy if no channel knew of another
        if len(audible) > 1 and self._mean_energy < unrelated * 10 ** (-CANCELLED_DB / 10):
            return (loudest,)
        return None if len(audible) == self._channels else tuple(int(channel) for channel in audible)

    def _place(self, offset: int) -> str:
        return f"{(self.samples + offset) / self._rate:.3f} s"

    def sound(self) -> Sound:
        """What was collected, resampled."""
        if not self.samples:
            raise EmptyModality(Modality.AUDIO, "too_short", "the file holds no sample")
        mono = np.concatenate(self._blocks)
        self._blocks.clear()
        waveform = mono if self._rate == SAMPLE_RATE else soxr.resample(mono, self._rate, SAMPLE_RATE, quality="HQ")
        return Sound(
            waveform=np.ascontiguousarray(waveform, dtype=np.float32),
            seconds=self.samples / self._rate,
            source_rate=self._rate,
            channels=self._channels,
            channel=self._chosen[0] if self._chosen is not None and len(self._chosen) == 1 else None,
        )


def _decode(data: bytes, container: str, tape: _Tape) -> _Tape:
    """Fill a tape with a file, and return it."""
    if container in FFMPEG:
        _decode_with_ffmpeg(data, container, tape)
    else:
        _decode_with_libsndfile(data, tape)
    return tape


def _decode_with_libsndfile(data: bytes, tape: _Tape) -> None:
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            if file.subtype not in SUBTYPES.get(file.format, ()):
                raise UnsupportedFormat(Modality.AUDIO, f"{file.format} with {file.subtype} is not accepted")
            tape.begin(file.samplerate, file.channels)
            while len(block := file.read(BLOCK_SAMPLES // file.channels, dtype="float32", always_2d=True)):
                tape.add(cast(FloatArray, block))
            claimed = file.frames
    except soundfile.LibsndfileError:
        raise CorruptModality(Modality.AUDIO, "the file cannot be decoded to its end") from None
    if tape.samples < claimed:
        raise CorruptModality(Modality.AUDIO, "the file ends before its content does")


def _decode_with_ffmpeg(data: bytes, container: str, tape: _Tape) -> None:
    # FFmpeg takes 60 ms to load and most files do without it.
    import av

    demuxer, codec, decoders = FFMPEG[container]
    try:
        # Tags are of no interest, but PyAV decodes them.
        with av.open(
            io.BytesIO(data),
            mode="r",
            format=demuxer,
            options={"codec_whitelist": decoders},
            metadata_errors="replace",
        ) as file:
            streams = file.streams.audio
            # A stream of a codec that FFmpeg does not know has no context, whatever PyAV's types say.
            names = [getattr(stream.codec_context, "name", None) for stream in streams]
            if len(names) != 1 or names[0] not in decoders.split(","):
                raise UnsupportedFormat(Modality.AUDIO, f"the file must hold one sound stream, coded as {codec}")
            (stream,) = streams
            stream.codec_context.thread_count = 1
            stream.codec_context.options = {"err_detect": "explode"}
            packets = 0
            for packet in file.demux(stream):
                if packet.is_corrupt:
                    raise CorruptModality(Modality.AUDIO, "the file cannot be decoded to its end")
                packets += packet.size > 0
                for frame in packet.decode():
                    tape.begin(frame.sample_rate, frame.layout.nb_channels)
                    tape.add(_as_floats(frame))
            claimed = stream.frames
    except av.FFmpegError:
        raise CorruptModality(Modality.AUDIO, "the file cannot be decoded to its end") from None
    if packets < claimed:
        raise CorruptModality(Modality.AUDIO, "the file ends before its content does")


def _as_floats(frame: "AudioFrame") -> FloatArray:
    """A frame's samples as `(K, C)` float32; integers are scaled to [-1, 1]."""
    from av.audio.frame import format_dtypes
    from av.audio.plane import AudioPlane

    channels, dtype = frame.layout.nb_channels, np.dtype(format_dtypes[frame.format.name])
    # `frame.to_ndarray` takes as many planes as there are pointers before one that is null. From eight channels on no
    # null follows the last, and it reads on from wherever what comes next points to.
    planes, values = (channels, frame.samples) if frame.format.is_planar else (1, frame.samples * channels)
    array: npt.NDArray[Any] = np.stack(
        [np.frombuffer(memoryview(AudioPlane(frame, plane)), dtype, count=values) for plane in range(planes)]
    )
    samples = array.T if frame.format.is_planar else array.reshape(-1, channels)  # (K, C)
    if array.dtype.kind == "i":
        return cast(FloatArray, samples.astype(np.float32) / -float(np.iinfo(array.dtype).min))
    return samples.astype(np.float32)
