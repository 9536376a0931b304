"""The 33 acoustic features of EMMR, one frame every 32 ms.

For: turning a mono 16 kHz waveform into the `(T, 33)` array that training and serving share.
Does not know: files, containers, uploads (see `model.features.sound` and `app.uploads.audio`) or statistics
(see `model.features.preprocessing`).
Source: EMMR (Zeng et al., EMNLP 2022), section 3.3: zero-crossing rate, MFCC and chroma of the constant-Q transform,
all as librosa 0.11 computes them. Harmonic separation is Fitzgerald's median filtering (DAFx 2010), as
`librosa.effects.harmonic`, with the two running medians done by `bottleneck`: exact, and about nine times faster.

Shapes: S samples, T = 1 + S // HOP_LENGTH frames, F = 1 + N_FFT // 2 frequency bins.
"""

import warnings
from typing import Final, cast

import bottleneck
import librosa
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

SAMPLE_RATE: Final = 16_000  # Hz, mono
HOP_LENGTH: Final = 512  # samples between frames: 32 ms
ZCR_FRAME_LENGTH: Final = 512  # samples
N_FFT: Final = 2048  # samples, librosa's default for MFCC and HPSS
N_MFCC: Final = 20
N_CHROMA: Final = 12
BINS_PER_OCTAVE: Final = 12  # pinned: librosa's default for chroma_cqt is 36
HPSS_KERNEL: Final = 31  # frames and bins, librosa's default; odd, so a centred median exists
ACOUSTIC_SIZE: Final = 1 + N_MFCC + N_CHROMA
MIN_SAMPLES: Final = HOP_LENGTH  # one hop: anything shorter holds no frame worth the name

assert ACOUSTIC_SIZE == 33, "the paper's acoustic size"

# Said by librosa of inputs that are welcome here. Filtered once and for the process: `catch_warnings` around each call
# would not be safe in threads.
SHORT_CLIP: Final = r"n_fft=\d+ is too large"  # a clip shorter than a window is padded, as intended
NO_PITCH: Final = "Trying to estimate tuning from empty"  # silence: concert pitch is assumed, as wanted
warnings.filterwarnings("ignore", message=SHORT_CLIP, category=UserWarning)
warnings.filterwarnings("ignore", message=NO_PITCH, category=UserWarning)


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
    zcr = librosa.feature.zero_crossing_rate(y, frame_length=ZCR_FRAME_LENGTH, hop_length=HOP_LENGTH)
    mfcc = librosa.feature.mfcc(y=y, sr=SAMPLE_RATE, n_mfcc=N_MFCC, n_fft=N_FFT, hop_length=HOP_LENGTH)
    chroma = librosa.feature.chroma_cqt(
        y=harmonic_component(y),
        sr=SAMPLE_RATE,
        hop_length=HOP_LENGTH,
        n_chroma=N_CHROMA,
        bins_per_octave=BINS_PER_OCTAVE,
    )
    frames = min(zcr.shape[1], mfcc.shape[1], chroma.shape[1])
    stacked = np.concatenate([zcr[:, :frames], mfcc[:, :frames], chroma[:, :frames]])  # (33, T)
    return np.ascontiguousarray(stacked.T, dtype=np.float32)  # (T, 33)


def harmonic_component(waveform: FloatArray) -> FloatArray:
    """Return the harmonic part of a `(S,)` waveform, equal to `librosa.effects.harmonic(waveform)`."""
    spectrum = librosa.stft(waveform, n_fft=N_FFT)  # (F, T)
    magnitude, phase = librosa.magphase(spectrum)
    harmonic = _running_median(magnitude)  # along time: sustained partials survive
    percussive = _running_median(np.ascontiguousarray(magnitude.T)).T  # along frequency: clicks survive
    mask = librosa.util.softmask(harmonic, percussive, power=2.0, split_zeros=True)
    # This order of products is librosa's. It matters: the tuning estimate behind the chroma is a histogram's mode, and
    # a last-bit difference here can move it to the neighbouring bin.
    return cast(FloatArray, librosa.istft((magnitude * mask) * phase, length=waveform.size, dtype=waveform.dtype))


def _running_median(rows: FloatArray) -> FloatArray:
    """Centred running median of each row, edges mirrored as scipy's `reflect`; shape kept."""
    half = HPSS_KERNEL // 2
    padded = np.pad(rows, ((0, 0), (half, half)), mode="symmetric")
    medians = bottleneck.move_median(padded, window=HPSS_KERNEL, axis=1)  # NaN until the first full window
    return cast(FloatArray, medians[:, HPSS_KERNEL - 1 :])
