"""Synthetic sounds and their encoding in every accepted container."""

import io
import struct
from fractions import Fraction
from typing import Final, Literal, TypeAlias, get_args

import av
import numpy as np
import soundfile

from model.features.audio.raw_features import AudioFeatures, extract_voice
from model.features.extractor import FeatureExtractor
from model.types import FloatArray

Container: TypeAlias = Literal["wav", "flac", "vorbis", "opus", "mp3", "webm", "m4a"]
CONTAINERS: Final[tuple[Container, ...]] = get_args(Container)
SAMPLE_RATE: Final = 16_000  # Hz

_SOUNDFILE: Final = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
_FFMPEG: Final = {"webm": ("webm", "libopus", 48_000), "m4a": ("ipod", "aac", 16_000)}


def voice_like(seconds: float, rate: int = SAMPLE_RATE, seed: int = 0) -> FloatArray:
    """Return harmonics of a gliding pitch, in syllables, with a little noise: `(S,)` float32, peak about 0.5."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(140 + 30 * np.sin(2 * np.pi * 0.7 * t)) / rate
    harmonics = sum(np.sin(k * phase) / k for k in range(1, 12) if 180 * k < rate / 2)
    syllables = 0.55 - 0.45 * np.cos(2 * np.pi * 4 * t)
    return np.asarray(0.2 * harmonics * syllables + 0.003 * rng.standard_normal(t.size), dtype=np.float32)


_LAYOUTS: Final = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}


def encode(waveform: FloatArray, container: Container, rate: int = SAMPLE_RATE, subtype: str | None = None) -> bytes:
    """Encode `(S,)` or `(S, C)` samples as a file."""
    file = io.BytesIO()
    if container in _SOUNDFILE:
        major, usual = _SOUNDFILE[container]
        soundfile.write(file, waveform, rate, format=major, subtype=subtype or usual)
    else:
        muxer, codec, _ = _FFMPEG[container]
        with av.open(file, "w", format=muxer) as output:
            stream = output.add_stream(codec, rate=rate)
            assert isinstance(stream, av.AudioStream)
            channels = waveform.reshape(len(waveform), -1)  # (S, C)
            stream.layout = layout = _LAYOUTS[channels.shape[1]]
            resampler = av.AudioResampler(format=stream.format, layout=layout, rate=rate, frame_size=stream.frame_size)
            whole = av.AudioFrame.from_ndarray(np.ascontiguousarray(channels).reshape(1, -1), "flt", layout)
            whole.sample_rate = rate
            whole.pts, whole.time_base = 0, Fraction(1, rate)
            for frame in (*resampler.resample(whole), *resampler.resample(None)):
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
    return file.getvalue()


def wav_header(rate: int, channels: int, data_bytes: int, bits: int = 16) -> bytes:
    """Return a WAV header with these values, whether or not they fit the data."""
    width = channels * bits // 8
    return b"".join(
        (
            b"RIFF" + struct.pack("<I", 36 + data_bytes & 0xFFFFFFFF) + b"WAVE",
            b"fmt " + struct.pack("<IHHIIHH", 16, 1, channels, rate, rate * width & 0xFFFFFFFF, width & 0xFFFF, bits),
            b"data" + struct.pack("<I", data_bytes),
        )
    )


def audio_slots(extractor: FeatureExtractor, waveform: FloatArray) -> AudioFeatures:
    """Compute the slots of a `(S,)` waveform at 16 kHz."""
    return extractor.audio(extract_voice(waveform, **extractor.config.audio.model_dump()))


def remuxed(content: bytes, container: str) -> bytes:
    """Return a file's sound in another container, not coded anew."""
    file = io.BytesIO()
    with av.open(io.BytesIO(content), "r") as source, av.open(file, "w", format=container) as output:
        stream = output.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    return file.getvalue()
