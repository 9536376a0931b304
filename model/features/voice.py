"""A waveform → the features of a voice, before normalisation; or that there is no voice in it.

For: whoever has a sound, a decoding process among them, which loads this without PyTorch and without a config.
Does not know: files (see `model.features.sound`), statistics, slots.

Shapes: S samples, T = 1 + S // HOP_LENGTH frames, d features.
"""

import time
from dataclasses import dataclass

import numpy as np

from model.errors import EmptyModality
from model.features.audio import HOP_LENGTH, MIN_SAMPLES, SAMPLE_RATE, FloatArray, acoustic_features
from model.modality import Modality


@dataclass(frozen=True, slots=True)
class Voice:
    """What was heard of a clip.

    Args:
        features: `(T, d)`, before normalisation.
        seconds: of sound.
        spent: seconds it took to compute them.
    """

    features: FloatArray
    seconds: float
    spent: float


def listen(waveform: FloatArray, *, dynamics: bool, silence_dbfs: float) -> Voice:
    """Describe a waveform `(S,)`; arguments and errors are `raw_audio_features`'."""
    began = time.perf_counter()
    features = raw_audio_features(waveform, dynamics=dynamics, silence_dbfs=silence_dbfs)
    return Voice(features, waveform.size / SAMPLE_RATE, time.perf_counter() - began)


def raw_audio_features(waveform: FloatArray, *, dynamics: bool, silence_dbfs: float) -> FloatArray:
    """Acoustic features before normalisation, `(T, d)`.

    Args:
        waveform: `(S,)` float32, mono, at `SAMPLE_RATE`.
        dynamics: whether to add how much each feature has changed since the frame before.
        silence_dbfs: the level below which a hop counts as silence.

    Raises:
        EmptyModality: `too_short` (under one hop) or `silent` (no hop is louder).
    """
    if waveform.size < MIN_SAMPLES:
        raise EmptyModality(Modality.AUDIO, "too_short", f"shorter than {1000 * MIN_SAMPLES / SAMPLE_RATE:.0f} ms")
    if loudest_frame_dbfs(waveform) < silence_dbfs:
        raise EmptyModality(Modality.AUDIO, "silent", f"never louder than {silence_dbfs:g} dBFS")
    features = acoustic_features(waveform)
    if not dynamics:
        return features
    change = np.abs(np.diff(features, axis=0, prepend=features[:1]))
    return np.concatenate([features, change], axis=1)


def loudest_frame_dbfs(waveform: FloatArray) -> float:
    """Root mean square of the loudest hop, in dB below full scale; -inf for digital silence."""
    whole = waveform.size // HOP_LENGTH * HOP_LENGTH
    power = float(np.square(waveform[:whole].reshape(-1, HOP_LENGTH), dtype=np.float64).mean(axis=1).max())
    return 10.0 * float(np.log10(power)) if power > 0 else float("-inf")
