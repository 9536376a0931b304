"""A sound file → a mono 16 kHz waveform, or an error; never a truncated sound.

libsndfile reads WAV, FLAC, Ogg and MP3; FFmpeg, through PyAV, reads WebM/Opus and M4A/AAC; soxr resamples.
Shapes: S samples, K samples of a block, C channels.
"""

import io
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from model.errors import CorruptModality, EmptyModality, ModalityTooLarge, UnsupportedFormat
from model.features.audio import SAMPLE_RATE
from model.features.audio.containers import SNIFF_BYTES, check_whole, sniff
from model.modality import Modality
from model.types import FloatArray

if TYPE_CHECKING:
    from av import AudioFrame

SAMPLE_BYTES: Final = 4  # float32, the format of all decoded samples
BLOCK_SAMPLES: Final = 2**16  # decoded at once, over all channels
MAX_AMPLITUDE: Final = 64.0  # 36 dB above full scale: float files may exceed 1, but not by the range of an integer
HEADER_BYTES: Final = 2**20  # allowed for tags and tables in addition to the samples
MAX_SAMPLE_BYTES: Final = 8  # of the widest subtype accepted, DOUBLE
SILENT_CHANNEL_DB: Final = 40.0
"""A channel this far below the loudest one is not used: it is an unused input's noise, or crosstalk."""
CANCELLED_DB: Final = 7.0
"""Channels cancel if their mean is this far below the mean of equally loud, unrelated channels. For two equally loud
channels that is a correlation below -0.8. One voice at two microphones does not cancel, whatever its delay."""

_WAV_SUBTYPES: Final = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")
SUBTYPES: Final[Mapping[str, tuple[str, ...]]] = {
    "WAV": _WAV_SUBTYPES,
    "WAVEX": _WAV_SUBTYPES,
    "FLAC": ("PCM_S8", "PCM_16", "PCM_24"),
    "OGG": ("VORBIS", "OPUS"),
    "MP3": ("MPEG_LAYER_III",),
}
"""Accepted formats of libsndfile; the others (ADPCM, GSM, Speex, …) would only add attack surface."""
FFMPEG: Final[Mapping[str, tuple[str, str, str]]] = {
    "webm": ("matroska", "opus", "opus,libopus"),
    "m4a": ("mov", "aac", "aac"),
}
"""Container → FFmpeg's demuxer, the accepted codec, and the only decoders that FFmpeg may open."""
_corrupt: Final = partial(CorruptModality, Modality.AUDIO)


@dataclass(frozen=True, slots=True)
class SoundLimits:
    """Limits of a sound file.

    Args:
        max_seconds: duration.
        max_decoded_bytes: float32 samples of all channels at the file's own rate.
        min_rate, max_rate: sampling rate in Hz.
        max_channels: number of channels.
    """

    max_seconds: float = 300.0
    max_decoded_bytes: int = 64 * 2**20
    min_rate: int = 8_000
    max_rate: int = 192_000
    max_channels: int = 8


def read_sound(source: Path | BinaryIO, limits: SoundLimits | None = None) -> tuple[FloatArray, dict[str, str]]:
    """Decode a whole file.

    Rate and channels are checked before memory is allocated, and the duration is counted in decoded samples, whatever
    the header says.

    Args:
        source: a path, or a binary file at its current position.
        limits: `SoundLimits()` if not given.

    Returns:
        `(S,)` float32, mono, at `SAMPLE_RATE`: the mean of the file's channels without the silent ones, or the loudest
        channel if they cancel each other, for example because one is inverted. Warnings: code → detail.

    Raises:
        UnsupportedFormat: a container or codec that is not accepted.
        CorruptModality: not readable to its end, rate or channels out of range, or a sample that is not finite.
        ModalityTooLarge: a limit is exceeded.
        EmptyModality: `too_short`: a well-formed file without samples.
        OSError: the path cannot be read.
    """
    limits = limits or SoundLimits()
    most = limits.max_decoded_bytes // SAMPLE_BYTES * MAX_SAMPLE_BYTES + HEADER_BYTES
    with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ModalityTooLarge(Modality.AUDIO, f"a sound file may hold at most {most} bytes")
    if not data:
        raise _corrupt("the file is empty")
    container = sniff(data[:SNIFF_BYTES])
    if container is None:
        raise UnsupportedFormat(Modality.AUDIO, "accepted are WAV, FLAC, Ogg, MP3, WebM (Opus) and M4A (AAC)")
    check_whole(container, data)
    rate, samples = _collect(data, container, limits)
    if not len(samples):
        raise EmptyModality(Modality.AUDIO, "too_short", "the file holds no sample")
    mono, used = _mix(samples)
    # soxr's HQ recipe is the default of `librosa.resample`.
    waveform = mono if rate == SAMPLE_RATE else soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
    warnings = {}
    if len(used) == 1 < samples.shape[1]:
        used_alone = f"channel {used[0] + 1} alone was used"
        warnings["channel"] = f"The channels cancel each other or one is silent; {used_alone}."
    return np.ascontiguousarray(waveform, dtype=np.float32), warnings


def _collect(data: bytes, container: str, limits: SoundLimits) -> tuple[int, FloatArray]:
    """Decode within the limits; returns the sampling rate and all samples `(S, C)` at that rate."""
    blocks: list[FloatArray] = []
    file_rate, channels, samples = 0, 0, 0
    for rate, block in _decode_with_ffmpeg(data, container) if container in FFMPEG else _decode_with_libsndfile(data):
        if not limits.min_rate <= rate <= limits.max_rate:
            raise _corrupt(f"a sampling rate of {rate} Hz is not within {limits.min_rate} and {limits.max_rate} Hz")
        if not 1 <= block.shape[1] <= limits.max_channels:
            raise _corrupt(f"{block.shape[1]} channels are not within 1 and {limits.max_channels}")
        if blocks and (rate, block.shape[1]) != (file_rate, channels):
            raise _corrupt("rate or channels change along the way", f"{samples / file_rate:.3f} s")
        file_rate, channels = rate, block.shape[1]
        # One comparison for large samples and NaN, which compares false.
        valid = np.abs(block) <= MAX_AMPLITUDE
        if not valid.all():
            first = samples + int(np.argmin(valid.all(axis=1)))
            raise _corrupt("a sample is not a number near [-1, 1]", f"{first / rate:.3f} s")
        samples += len(block)
        if samples > limits.max_seconds * rate:
            raise ModalityTooLarge(Modality.AUDIO, f"a sound may last at most {limits.max_seconds:g} seconds")
        if samples * channels * SAMPLE_BYTES > limits.max_decoded_bytes:
            raise ModalityTooLarge(Modality.AUDIO, f"a sound may decode to at most {limits.max_decoded_bytes} bytes")
        blocks.append(block)
    return file_rate, np.concatenate(blocks) if blocks else np.empty((0, 1), dtype=np.float32)


def _mix(samples: FloatArray) -> tuple[FloatArray, list[int]]:
    """Average the channels that hold sound and do not cancel, `(S, C)` → `(S,)`; returns their indices as well."""
    channels = samples.shape[1]
    if channels == 1:
        return samples[:, 0], [0]
    mean: FloatArray = samples.mean(axis=1, dtype=np.float32)
    energies = np.einsum("sc,sc->c", samples, samples, dtype=np.float64)
    loudest = int(energies.argmax())
    used: list[int] = np.flatnonzero(energies >= energies[loudest] * 10 ** (-SILENT_CHANNEL_DB / 10)).tolist()
    mean_energy = np.einsum("s,s->", mean, mean, dtype=np.float64)
    uncorrelated = energies.sum() / channels**2  # the mean's energy for uncorrelated channels
    if len(used) > 1 and mean_energy < uncorrelated * 10 ** (-CANCELLED_DB / 10):
        used = [loudest]
    return mean if len(used) == channels else samples[:, used].mean(axis=1, dtype=np.float32), used


def _decode_with_libsndfile(data: bytes) -> Iterator[tuple[int, FloatArray]]:
    """Yield sampling rate and `(K, C)` blocks; the first block is empty, so that the format is checked first."""
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            if file.subtype not in SUBTYPES.get(file.format, ()):
                raise UnsupportedFormat(Modality.AUDIO, f"{file.format} with {file.subtype} is not accepted")
            samples = 0
            yield file.samplerate, np.empty((0, file.channels), dtype=np.float32)
            while len(block := file.read(BLOCK_SAMPLES // file.channels, dtype="float32", always_2d=True)):
                samples += len(block)
                yield file.samplerate, block
            if samples < file.frames:
                raise _corrupt("the file ends before its content does")
    except soundfile.LibsndfileError:
        raise _corrupt("the file cannot be decoded to its end") from None


def _decode_with_ffmpeg(data: bytes, container: str) -> Iterator[tuple[int, FloatArray]]:
    """Yield sampling rate and `(K, C)` blocks."""
    # Deferred: FFmpeg takes 60 ms to load, and most files do not need it.
    import av

    demuxer, codec, decoders = FFMPEG[container]
    options = {"codec_whitelist": decoders}
    try:
        # PyAV decodes tags, which are not used, so bytes in them that are not text must not be an error.
        with av.open(io.BytesIO(data), "r", format=demuxer, options=options, metadata_errors="replace") as file:
            streams = file.streams.audio
            # A stream of a codec unknown to FFmpeg has no context, in spite of PyAV's type annotations.
            names = [getattr(stream.codec_context, "name", None) for stream in streams]
            if len(names) != 1 or names[0] not in decoders.split(","):
                raise UnsupportedFormat(Modality.AUDIO, f"the file must hold one sound stream, coded as {codec}")
            (stream,) = streams
            stream.codec_context.thread_count = 1
            stream.codec_context.options = {"err_detect": "explode"}
            packets = 0
            for packet in file.demux(stream):
                if packet.is_corrupt:
                    raise _corrupt("the file cannot be decoded to its end")
                packets += packet.size > 0
                for frame in packet.decode():
                    yield frame.sample_rate, _as_floats(frame)
            if packets < stream.frames:
                raise _corrupt("the file ends before its content does")
    except av.FFmpegError:
        raise _corrupt("the file cannot be decoded to its end") from None


def _as_floats(frame: "AudioFrame") -> FloatArray:
    """Samples of a frame as `(K, C)` float32; integers are scaled to [-1, 1]."""
    from av.audio.frame import format_dtypes
    from av.audio.plane import AudioPlane

    channels, dtype = frame.layout.nb_channels, np.dtype(format_dtypes[frame.format.name])
    # `frame.to_ndarray` counts planes up to a null pointer. With eight channels or more there is none, and it reads
    # beyond the array of pointers.
    planes, values = (channels, frame.samples) if frame.format.is_planar else (1, frame.samples * channels)
    array: npt.NDArray[Any] = np.stack(
        [np.frombuffer(memoryview(AudioPlane(frame, plane)), dtype, count=values) for plane in range(planes)]
    )
    samples = array.T if frame.format.is_planar else array.reshape(-1, channels)  # (K, C)
    if array.dtype.kind == "i":
        return cast(FloatArray, samples.astype(np.float32) / -float(np.iinfo(array.dtype).min))
    return samples.astype(np.float32)
