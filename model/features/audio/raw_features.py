"""Features of a voice before normalisation, or `EmptyModality` if the waveform is too short or silent.

Runs in the decoder process too, without PyTorch and without the checkpoint's config object.
Shapes: S samples, T = 1 + S // HOP_LENGTH frames, d features.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Final

import numpy as np

from model.errors import EmptyModality
from model.features.audio import SAMPLE_RATE
from model.features.audio.acoustic import MIN_SAMPLES, acoustic_features
from model.features.audio.conditioning import FRAME, MARGIN, condition
from model.features.audio.dsp.stft import HOP_LENGTH, frame_count
from model.features.audio.whisper import WhisperEncoder
from model.modality import Modality
from model.types import FloatArray

UNLIKELY_SPEECH: Final = 0.5
"""Below this probability of speech a sound is used with a warning."""

assert (MARGIN + 1) * FRAME >= MIN_SAMPLES, "a conditioned clip is long enough for acoustic_features"


@dataclass(frozen=True, slots=True)
class AudioFeatures:
    """Features of one clip: raw features of `extract_voice`, or slots of `model.features.extractor.FeatureExtractor`.

    Args:
        array: `(T, d)` raw features, one row if the encoder describes the whole clip; or normalised slots.
        seconds: duration of the clip.
        spoken: duration of the part that the features describe, shorter than `seconds` if the clip was trimmed.
        frames: number of acoustic frames described.
        compute_seconds: time taken to compute the raw features.
        warnings: code → detail, of `model.features.audio.loading.read_sound`.
        truncated: whether frames were cut to fit the slots.
        speech: probability that the clip is speech; None if it is not known.
    """

    array: FloatArray
    seconds: float
    spoken: float
    frames: int
    compute_seconds: float
    warnings: Mapping[str, str] = field(default_factory=dict)
    truncated: bool = False
    speech: float | None = None

    @property
    def likely_speech(self) -> bool:
        """Whether no warning is due; True if the probability is not known."""
        return self.speech is None or self.speech >= UNLIKELY_SPEECH


def extract_voice(
    waveform: FloatArray,
    *,
    dynamics: bool,
    silence_dbfs: float,
    conditioned: bool = False,
    encoder: str = "acoustic",
    warnings: Mapping[str, str] | None = None,
) -> AudioFeatures:
    """Compute the features of a voice before normalisation.

    Args:
        waveform: `(S,)` float32, mono, at `SAMPLE_RATE`.
        dynamics: whether to append the absolute change of each acoustic feature since the previous frame.
        silence_dbfs: level in dB below full scale under which a hop counts as silence.
        conditioned: whether to apply `model.features.audio.conditioning` first.
        encoder: `acoustic` (one row per frame), `whisper` or `both` (one row per clip); see `model.config.AudioConfig`.
        warnings: copied to the result.

    Raises:
        EmptyModality: `too_short` (less than one hop) or `silent` (every hop is below `silence_dbfs`).
        ConfigError: the package with Whisper's weights is not installed.
        CheckpointError: Whisper's weights cannot be read.
    """
    began = time.perf_counter()
    if waveform.size < MIN_SAMPLES:
        raise EmptyModality(Modality.AUDIO, "too_short", f"shorter than {1000 * MIN_SAMPLES / SAMPLE_RATE:.0f} ms")
    if loudest_frame_dbfs(waveform) < silence_dbfs:
        raise EmptyModality(Modality.AUDIO, "silent", f"never louder than {silence_dbfs:g} dBFS")
    speech = condition(waveform) if conditioned else waveform
    return AudioFeatures(
        array=_features(speech, dynamics, encoder),
        seconds=waveform.size / SAMPLE_RATE,
        spoken=speech.size / SAMPLE_RATE,
        frames=frame_count(speech.size),
        compute_seconds=time.perf_counter() - began,
        warnings=warnings or {},
    )


def _features(waveform: FloatArray, dynamics: bool, encoder: str) -> FloatArray:
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
    """Return the packaged encoder, loaded once per process; raises as `WhisperEncoder.load`."""
    return WhisperEncoder.load()


def loudest_frame_dbfs(waveform: FloatArray) -> float:
    """Root mean square of the loudest hop, in dB below full scale; -inf for digital silence."""
    whole = waveform.size // HOP_LENGTH * HOP_LENGTH
    power = float(np.square(waveform[:whole].reshape(-1, HOP_LENGTH), dtype=np.float64).mean(axis=1).max())
    return 10.0 * float(np.log10(power)) if power > 0 else float("-inf")
