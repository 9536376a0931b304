"""The 33 acoustic features of EMMR (Zeng et al., EMNLP 2022, section 3.3) per 32 ms frame, equal to librosa 0.11.

Own code in `dsp`: librosa repeats transforms and filters for each feature; `python -m benchmarks.audio` compares both.
Shapes: S samples, T = 1 + S // HOP_LENGTH frames.
"""

from typing import Final

import numpy as np

from model.features.audio.dsp.cqt import N_CHROMA, chroma, estimate_tuning
from model.features.audio.dsp.hpss import blocks, keep_harmonic
from model.features.audio.dsp.mel import N_MELS, N_MFCC, cepstrum, mel_power
from model.features.audio.dsp.stft import HOP_LENGTH, OverlapAdd, frame_count
from model.types import FloatArray

ZCR_FRAME_LENGTH: Final = 512  # samples
ACOUSTIC_SIZE: Final = 1 + N_MFCC + N_CHROMA
MIN_SAMPLES: Final = HOP_LENGTH  # the shortest clip that has features
_ZERO: Final = np.float32(1e-10)  # librosa's threshold: smaller samples count as zero

assert ACOUSTIC_SIZE == 33, "the paper's acoustic size"
assert ZCR_FRAME_LENGTH == HOP_LENGTH, "frames of the zero-crossing rate do not overlap"


def acoustic_features(waveform: FloatArray) -> FloatArray:
    """Compute zero-crossing rate (1), MFCC (20) and harmonic chroma (12), in this order.

    Args:
        waveform: `(S,)` float32 samples in [-1, 1], mono, at `SAMPLE_RATE`.

    Returns:
        `(T, 33)` float32.

    Raises:
        ValueError: not one-dimensional, shorter than `MIN_SAMPLES`, or with a sample that is not finite.
    """
    y = checked_waveform(waveform)
    frames = frame_count(y.size)
    power = np.empty((frames, N_MELS), dtype=np.float32)
    harmonic = harmonic_component(y, power)
    features = np.empty((frames, ACOUSTIC_SIZE), dtype=np.float32)
    features[:, 0] = zero_crossing_rate(y)
    features[:, 1 : 1 + N_MFCC] = cepstrum(power)
    features[:, 1 + N_MFCC :] = chroma(harmonic, estimate_tuning(harmonic))
    return features


def checked_waveform(waveform: FloatArray) -> FloatArray:
    """Return a `(S,)` waveform as contiguous float32.

    Raises:
        ValueError: not one-dimensional, shorter than `MIN_SAMPLES`, or with a sample that is not finite.
    """
    if waveform.ndim != 1:
        raise ValueError(f"waveform must be one-dimensional, got shape {waveform.shape}")
    if waveform.size < MIN_SAMPLES:
        raise ValueError(f"waveform holds {waveform.size} samples, at least {MIN_SAMPLES} are needed")
    if not np.isfinite(waveform).all():
        raise ValueError("waveform holds a sample that is not finite")
    return np.ascontiguousarray(waveform, dtype=np.float32)


def harmonic_component(waveform: FloatArray, mel: FloatArray | None = None) -> FloatArray:
    """Return the harmonic part of a `(S,)` waveform, equal to `librosa.effects.harmonic(waveform)`.

    Args:
        waveform: `(S,)`.
        mel: `(T, N_MELS)`, receives the mel power of the same spectrogram.
    """
    inverse = OverlapAdd(waveform.size)
    for block in blocks(waveform):
        if mel is not None:
            mel[block.first : block.first + len(block.magnitude)] = mel_power(block.magnitude)
        inverse.add(keep_harmonic(block))
    return inverse.waveform()


def zero_crossing_rate(waveform: FloatArray) -> FloatArray:
    """Share of a frame's samples whose sign differs from the previous sample's, `(S,)` → `(T,)`."""
    half = ZCR_FRAME_LENGTH // 2
    padded = np.pad(waveform, half, mode="edge")
    frames = padded[: frame_count(waveform.size) * HOP_LENGTH].reshape(-1, HOP_LENGTH)
    negative = frames < -_ZERO
    crossed = negative[:, 1:] != negative[:, :-1]
    rate: FloatArray = np.count_nonzero(crossed, axis=1).astype(np.float32) / np.float32(ZCR_FRAME_LENGTH)
    return rate
