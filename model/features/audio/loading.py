"""A sound file → a mono 16 kHz waveform, or an error; never a truncated sound.

libsndfile reads WAV, FLAC and Ogg; FFmpeg, through PyAV, MP3, WebM, MP4 and FLAC of unknown length; soxr resamples.
Shapes: S samples, K samples of a block, C channels.
"""

import io
from collections.abc import Iterable, Iterator, Mapping
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
from model.features.audio.containers import check_whole, sniff
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
}
"""Accepted formats of libsndfile; the others (ADPCM, GSM, Speex, …) would only add attack surface."""
FFMPEG: Final[Mapping[str, tuple[str, str, str]]] = {
    "webm": ("matroska", "Opus", "opus,libopus"),
    "m4a": ("mov", "AAC or Opus", "aac,opus,libopus"),
    "mp3": ("mp3", "layer III", "mp3float,mp3"),
    "flac": ("flac", "FLAC", "flac"),
}
"""Container → FFmpeg's demuxer, the accepted codecs, and the only decoders that FFmpeg may open."""
CLIPPED_SHARE: Final = 0.001
"""Warn of clipping from this share of samples at a flat top. Of 500 speech recordings none exceeded an eighth of
it; after clipping by 6 dB, 96 % exceeded it."""
LEAST_PEAK: Final = 0.01  # with a lower one, flat tops are a matter of quantisation
OFFSET_SHARE: Final = 0.1
"""Warn of a constant offset from this share of the sound's power."""
LEAST_OFFSET: Final = 0.01  # eight-bit formats have a smaller one
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
        EmptyModality: `too_short`: a well-formed file without samples, or of less than one at `SAMPLE_RATE`.
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
    warnings: dict[str, str] = {}
    container, start = sniff(data)
    extent = check_whole(container, data, start, warnings)
    rate, samples = _collect(checked_blocks(io.BytesIO(extent.of(data)), container, extent.packets, limits, warnings))
    if not len(samples):
        raise EmptyModality(Modality.AUDIO, "too_short", "the file holds no sample")
    mono, used = mix(samples)
    # soxr's HQ recipe is the default of `librosa.resample`.
    waveform = mono if rate == SAMPLE_RATE else soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
    if not len(waveform):
        raise EmptyModality(Modality.AUDIO, "too_short", f"the file holds less than one sample at {SAMPLE_RATE} Hz")
    if len(used) == 1 < samples.shape[1]:
        used_alone = f"channel {used[0] + 1} alone was used"
        warnings["channel"] = f"The channels cancel each other or one is silent; {used_alone}."
    warnings |= _quality_warnings(mono)
    return np.ascontiguousarray(waveform, dtype=np.float32), warnings


def checked_blocks(
    source: BinaryIO, container: str, packets: int, limits: SoundLimits, warnings: dict[str, str]
) -> Iterator[tuple[int, FloatArray]]:
    """Decode a file within the limits, block by block.

    Args:
        source: the part of the file that `check_whole` returned, at position 0.
        container: of `sniff`.
        packets: of `check_whole`.
        limits: of the file.
        warnings: receives a warning about the file, if there is one.

    Yields:
        Sampling rate and samples `(K, C)` float32; the same rate and C each time.

    Raises:
        UnsupportedFormat, CorruptModality, ModalityTooLarge: see `read_sound`.
    """
    # The length of a FLAC: 36 bits of STREAMINFO, which end at byte 26. libsndfile needs it.
    head = source.read(26)
    source.seek(0)
    by_ffmpeg = container in FFMPEG and not (container == "flac" and int.from_bytes(head[21:26], "big") % 2**36)
    decoded = (
        _decode_with_ffmpeg(source, container, packets, warnings) if by_ffmpeg else _decode_with_libsndfile(source)
    )
    file_rate, channels, samples = 0, 0, 0
    for rate, block in decoded:
        if not limits.min_rate <= rate <= limits.max_rate:
            raise _corrupt(f"a sampling rate of {rate} Hz is not within {limits.min_rate} and {limits.max_rate} Hz")
        if not 1 <= block.shape[1] <= limits.max_channels:
            raise _corrupt(f"{block.shape[1]} channels are not within 1 and {limits.max_channels}")
        if file_rate and (rate, block.shape[1]) != (file_rate, channels):
            raise _corrupt("rate or channels change along the way", f"{samples / file_rate:.3f} s")
        file_rate, channels = rate, block.shape[1]
        # NaN compares false.
        if len(block) and not (block.min() >= -MAX_AMPLITUDE and block.max() <= MAX_AMPLITUDE):
            first = samples + int(np.argmin((np.abs(block) <= MAX_AMPLITUDE).all(axis=1)))
            raise _corrupt("a sample is not a number near [-1, 1]", f"sample {first}, {first / rate:.3f} s")
        samples += len(block)
        if samples > limits.max_seconds * rate:
            raise ModalityTooLarge(Modality.AUDIO, f"a sound may last at most {limits.max_seconds:g} seconds")
        if samples * channels * SAMPLE_BYTES > limits.max_decoded_bytes:
            raise ModalityTooLarge(Modality.AUDIO, f"a sound may decode to at most {limits.max_decoded_bytes} bytes")
        if len(block):
            yield rate, block


def _collect(decoded: Iterable[tuple[int, FloatArray]]) -> tuple[int, FloatArray]:
    """Return the sampling rate and all samples `(S, C)`; 0 and none of a file without samples."""
    rate, blocks = 0, []
    for file_rate, block in decoded:
        rate = file_rate
        blocks.append(block)
    if len(blocks) == 1:
        return rate, blocks[0]
    return rate, np.concatenate(blocks) if blocks else np.empty((0, 1), dtype=np.float32)


def mix(samples: FloatArray) -> tuple[FloatArray, list[int]]:
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


def _quality_warnings(mono: FloatArray) -> Iterator[tuple[str, str]]:
    """Yield code and detail of each warning about `(S,)` samples."""
    level = np.abs(mono)
    peak = level.max()
    tops = np.flatnonzero(level[1:] >= 0.999 * peak)
    flat = np.count_nonzero(mono[tops] == mono[tops + 1])
    if peak > 1:  # a lossy codec's tops are not flat
        flat += np.count_nonzero(level > 1)
    if peak >= LEAST_PEAK and flat >= CLIPPED_SHARE * mono.size:
        yield "clipped", f"The recording is overdriven: {100 * flat / mono.size:.1f} % of its samples are cut off."
    offset = float(np.einsum("s->", mono)) / mono.size
    if abs(offset) >= LEAST_OFFSET and offset**2 >= OFFSET_SHARE * float(np.square(mono, dtype=np.float64).mean()):
        yield "dc_offset", f"The samples have a constant offset of {offset:.3f}."


def _decode_with_libsndfile(source: BinaryIO) -> Iterator[tuple[int, FloatArray]]:
    """Yield sampling rate and `(K, C)` blocks; the first block is empty, so that the format is checked first."""
    try:
        with soundfile.SoundFile(source) as file:
            if file.subtype not in SUBTYPES.get(file.format, ()):
                raise UnsupportedFormat(Modality.AUDIO, f"{file.format} with {file.subtype} is not accepted")
            samples = 0
            yield file.samplerate, np.empty((0, file.channels), dtype=np.float32)
            while samples < file.frames:
                block = file.read(BLOCK_SAMPLES // file.channels, dtype="float32", always_2d=True)
                if not len(block):
                    raise _corrupt("the file ends before its content does", f"{samples / file.samplerate:.3f} s")
                samples += len(block)
                yield file.samplerate, block
    except soundfile.LibsndfileError:
        raise _corrupt("the file cannot be decoded to its end") from None


def _decode_with_ffmpeg(
    source: BinaryIO, container: str, packets: int, warnings: dict[str, str]
) -> Iterator[tuple[int, FloatArray]]:
    """Yield sampling rate and `(K, C)` blocks; at least `packets` are decoded, and pictures are a warning."""
    # Deferred: FFmpeg takes 60 ms to load, and most files do not need it.
    import av
    from av.stream import Disposition

    demuxer, codec, decoders = FFMPEG[container]
    options = {"codec_whitelist": decoders}
    try:
        # PyAV decodes tags, which are not used, so bytes in them that are not text must not be an error.
        with av.open(source, "r", format=demuxer, options=options, metadata_errors="replace") as file:
            streams = file.streams.audio
            # A stream of a codec unknown to FFmpeg has no context, in spite of PyAV's type annotations.
            names = [getattr(stream.codec_context, "name", "an unknown codec") for stream in streams]
            if len(names) != 1 or names[0] not in decoders.split(","):
                found = " and ".join(names) or "no sound"
                detail = f"the file holds {found}; it must hold one sound stream, coded as {codec}"
                raise UnsupportedFormat(Modality.AUDIO, detail)
            if any(not picture.disposition & Disposition.attached_pic for picture in file.streams.video):
                warnings["picture"] = "The file holds pictures too, which are not used; only its sound is."
            (stream,) = streams
            stream.codec_context.thread_count = 1
            stream.codec_context.options = {"err_detect": "crccheck+explode"}
            missing, samples = max(packets, stream.frames), 0
            for packet in file.demux(stream):
                if packet.is_corrupt:
                    raise _corrupt("the file cannot be decoded to its end")
                missing -= packet.size > 0
                for frame in packet.decode():
                    # FFmpeg skips a damaged FLAC frame without an error; the next one is numbered by its samples.
                    if container == "flac" and frame.time is not None and round(frame.time * frame.rate) != samples:
                        raise _corrupt("a part of the file is damaged", f"{samples / frame.rate:.3f} s")
                    samples += frame.samples
                    yield frame.rate, _as_floats(frame)
            if missing > 0 or (container == "flac" and not samples):
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
