"""The 33 acoustic features of EMMR, one frame every 32 ms.

For: turning a mono 16 kHz waveform into the `(T, 33)` array that training and serving share.
Does not know: files, containers, uploads (see `model.features.audio.loading` and `app.decoding.audio`) or statistics
(see `model.features.normalization`).
Source: EMMR (Zeng et al., EMNLP 2022), section 3.3: zero-crossing rate, MFCC and chroma of the constant-Q transform of
the harmonic part, all as librosa 0.11 computes them, to the last bit, but without it: one transform serves MFCC and
harmonic separation, filters are built once, medians share their sorting, peaks are sought where they count
(`model.features.audio.dsp.stft`, `mel`, `harmonic`, `running_median`, `tuning`, `constant_q`). `python -m benchmarks.audio` says
what that saves.

Of clips under four frames (1,536 samples) librosa's medians are not defined: SciPy's filter reads past so short an
array. Here they are, as everywhere, those of the clip mirrored at its ends.

Shapes: S samples, T = 1 + S // HOP_LENGTH frames.
"""

from typing import Final

import numpy as np

from model.features.audio.dsp.cqt import N_CHROMA, chroma
from model.features.audio.dsp.hpss import keep_harmonic, stretches
from model.features.audio.dsp.mel import N_MELS, N_MFCC, cepstrum, mel_power
from model.features.audio.dsp.stft import HOP_LENGTH, SAMPLE_RATE, OverlapAdd, frame_count
from model.features.audio.dsp.tuning import estimate_tuning
from model.types import FloatArray

__all__ = [
    "ACOUSTIC_SIZE",
    "HOP_LENGTH",
    "MIN_SAMPLES",
    "N_CHROMA",
    "N_MFCC",
    "SAMPLE_RATE",
    "FloatArray",
    "acoustic_features",
    "harmonic_component",
]

ZCR_FRAME_LENGTH: Final = 512  # samples
ACOUSTIC_SIZE: Final = 1 + N_MFCC + N_CHROMA
MIN_SAMPLES: Final = HOP_LENGTH  # one hop: anything shorter holds no frame worth the name
_ZERO: Final = np.float32(1e-10)  # librosa's: what is no larger has no sign

assert ACOUSTIC_SIZE == 33, "the paper's acoustic size"
assert ZCR_FRAME_LENGTH == HOP_LENGTH, "frames of the zero-crossing rate lie side by side"


def acoustic_features(waveform: FloatArray) -> FloatArray:
    """Compute zero-crossing rate (1), MFCC (20) and harmonic chroma (12), in this order.

    Args:
        waveform: `(S,)` float32 samples in [-1, 1], mono, at `SAMPLE_RATE`.

    Returns:
        `(T, 33)` float32, `T = 1 + S // HOP_LENGTH`.

    Raises:
        ValueError: not one-dimensional, shorter than `MIN_SAMPLES`, or holding a sample that is not finite.
    """
    if waveform.ndim != 1:
        raise ValueError(f"waveform must be one-dimensional, got shape {waveform.shape}")
    if waveform.size < MIN_SAMPLES:
        raise ValueError(f"waveform holds {waveform.size} samples, at least {MIN_SAMPLES} are needed")
    if not np.isfinite(waveform).all():
        raise ValueError("waveform holds a sample that is not finite")
    y = np.ascontiguousarray(waveform, dtype=np.float32)
    frames = frame_count(y.size)
    power = np.empty((frames, N_MELS), dtype=np.float32)
    harmonic = _harmonic(y, power)
    features = np.empty((frames, ACOUSTIC_SIZE), dtype=np.float32)
    features[:, 0] = zero_crossing_rate(y)
    features[:, 1 : 1 + N_MFCC] = cepstrum(power)
    features[:, 1 + N_MFCC :] = chroma(harmonic, estimate_tuning(harmonic))
    return features


def harmonic_component(waveform: FloatArray) -> FloatArray:
    """Return the harmonic part of a `(S,)` waveform, equal to `librosa.effects.harmonic(waveform)`."""
    return _harmonic(waveform)


def zero_crossing_rate(waveform: FloatArray) -> FloatArray:
    """Share of a frame's samples that differ in sign from the one before, `(S,)` → `(T,)`."""
    half = ZCR_FRAME_LENGTH // 2
    padded = np.pad(waveform, half, mode="edge")
    frames = padded[: frame_count(waveform.size) * HOP_LENGTH].reshape(-1, HOP_LENGTH)
    negative = frames < -_ZERO
    crossed = negative[:, 1:] != negative[:, :-1]
    rate: FloatArray = crossed.sum(axis=1, dtype=np.float32) / np.float32(ZCR_FRAME_LENGTH)
    return rate


def _harmonic(waveform: FloatArray, mel: FloatArray | None = None) -> FloatArray:
    """The harmonic part, `(S,)`; on the way, the power in each mel band goes into `mel`, `(T, N_MELS)`."""
    inverse = OverlapAdd(waveform.size)
    for stretch in stretches(waveform):
        if mel is not None:
            mel[stretch.first : stretch.first + len(stretch.magnitude)] = mel_power(stretch.magnitude)
        inverse.add(keep_harmonic(stretch))
    return inverse.waveform()
