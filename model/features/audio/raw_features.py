"""A waveform → the features of a voice, before normalisation; or that there is no voice in it.

For: whoever has a sound, a decoding process among them, which loads this without PyTorch and without a config.
Does not know: files (see `model.features.audio.loading`), statistics, slots.

Shapes: S samples, T = 1 + S // HOP_LENGTH frames, d features.
"""

import time
from dataclasses import dataclass
from functools import cache

import numpy as np

from model.errors import EmptyModality
from model.features.audio.acoustic import HOP_LENGTH, MIN_SAMPLES, SAMPLE_RATE, acoustic_features
from model.features.audio.conditioning import FRAME, MARGIN, condition
from model.features.audio.whisper import WhisperEncoder
from model.modality import Modality
from model.types import FloatArray


@dataclass(frozen=True, slots=True)
class Voice:
    """What was heard of a clip.

    Args:
        features: `(T, d)`, before normalisation.
        seconds: of sound.
        spent: seconds it took to compute them.
        spoken: seconds that the features cover, which are fewer where the clip was trimmed.
        channel: of the file, where one was taken alone (`model.features.audio.loading.Sound`).
    """

    features: FloatArray
    seconds: float
    spent: float
    spoken: float
    channel: int | None = None


def listen(
    waveform: FloatArray,
    *,
    dynamics: bool,
    silence_dbfs: float,
    conditioned: bool = False,
    encoder: str = "acoustic",
    channel: int | None = None,
) -> Voice:
    """Describe a waveform `(S,)`; arguments and errors are `raw_audio_features`', and `channel` is passed on."""
    began = time.perf_counter()
    heard = _audible(waveform, silence_dbfs, conditioned)
    return Voice(
        features=_described(heard, dynamics, encoder),
        seconds=waveform.size / SAMPLE_RATE,
        spent=time.perf_counter() - began,
        spoken=heard.size / SAMPLE_RATE,
        channel=channel,
    )


def raw_audio_features(
    waveform: FloatArray,
    *,
    dynamics: bool,
    silence_dbfs: float,
    conditioned: bool = False,
    encoder: str = "acoustic",
) -> FloatArray:
    """Features of a voice before normalisation, `(T, d)`.

    Args:
        waveform: `(S,)` float32, mono, at `SAMPLE_RATE`.
        dynamics: whether to add how much each acoustic feature has changed since the frame before.
        silence_dbfs: the level below which a hop counts as silence.
        conditioned: whether to trim non-speech at the ends and level loudness first (`model.features.audio.conditioning`).
        encoder: `acoustic`: a row a frame; `whisper` and `both`: one row for the clip (`model.config.AudioConfig`).

    Raises:
        EmptyModality: `too_short` (under one hop) or `silent` (no hop is louder).
        ConfigError, CheckpointError: Whisper's weights are not installed, or not the published ones.
    """
    return _described(_audible(waveform, silence_dbfs, conditioned), dynamics, encoder)


def _audible(waveform: FloatArray, silence_dbfs: float, conditioned: bool) -> FloatArray:
    """What is to be described of a waveform."""
    if waveform.size < MIN_SAMPLES:
        raise EmptyModality(Modality.AUDIO, "too_short", f"shorter than {1000 * MIN_SAMPLES / SAMPLE_RATE:.0f} ms")
    if loudest_frame_dbfs(waveform) < silence_dbfs:
        raise EmptyModality(Modality.AUDIO, "silent", f"never louder than {silence_dbfs:g} dBFS")
    # Trimmed or not, it holds a hop: what is kept of a clip is never less than that.
    return condition(waveform).waveform if conditioned else waveform


def _described(waveform: FloatArray, dynamics: bool, encoder: str) -> FloatArray:
    if encoder == "whisper":
        return whisper_encoder()(waveform)[None]
    features = acoustic_features(waveform)
    change = np.abs(np.diff(features, axis=0, prepend=features[:1]))
    if encoder == "both":
        statistics = np.concatenate([features.mean(axis=0), features.std(axis=0), change.mean(axis=0)])
        return np.concatenate([whisper_encoder()(waveform), statistics])[None].astype(np.float32)
    return np.concatenate([features, change], axis=1) if dynamics else features


@cache
def whisper_encoder() -> WhisperEncoder:
    """The packaged encoder, read once a process.

    Raises:
        ConfigError: the package is not installed.
        CheckpointError: its weights cannot be read.
    """
    return WhisperEncoder.load()


assert (MARGIN + 1) * FRAME >= MIN_SAMPLES, "what conditioning keeps can be described"


def loudest_frame_dbfs(waveform: FloatArray) -> float:
    """Root mean square of the loudest hop, in dB below full scale; -inf for digital silence."""
    whole = waveform.size // HOP_LENGTH * HOP_LENGTH
    power = float(np.square(waveform[:whole].reshape(-1, HOP_LENGTH), dtype=np.float64).mean(axis=1).max())
    return 10.0 * float(np.log10(power)) if power > 0 else float("-inf")
