import librosa
import numpy as np
import pytest

from model.features.audio.dsp.stft import (
    HOP_LENGTH,
    N_BINS,
    N_FFT,
    OverlapAdd,
    centred_frames,
    frame_count,
    periodic_hann,
    spectrum,
)
from model.types import FloatArray

# Shorter than a window, whole hops, one sample more, one sample less, many blocks of frames.
SIZES = (1_536, 2_048, 5_000, 16_384, 16_385, 16_895, 100_000)


def noise(samples: int) -> FloatArray:
    return np.random.default_rng(samples).normal(0.0, 0.1, samples).astype(np.float32)


def frames_of(y: FloatArray) -> FloatArray:
    return centred_frames(y, N_FFT, HOP_LENGTH)


@pytest.mark.parametrize("samples", SIZES)
@pytest.mark.filterwarnings("ignore:n_fft")
def test_spectrum_is_bit_equal_to_librosa(samples: int) -> None:
    y = noise(samples)
    ours = spectrum(frames_of(y))
    assert ours.shape == (frame_count(samples), N_BINS)
    assert ours.dtype == np.complex64
    np.testing.assert_array_equal(ours.T, librosa.stft(y, n_fft=N_FFT, hop_length=HOP_LENGTH))


def test_spectrum_of_a_frame_is_independent_of_other_frames() -> None:
    frames = frames_of(noise(40_000))
    alone = np.concatenate([spectrum(frames[number : number + 1]) for number in range(len(frames))])
    np.testing.assert_array_equal(alone, spectrum(frames))


@pytest.mark.parametrize("samples", SIZES)
@pytest.mark.parametrize("block", [1, 7, 1_000])
def test_inverse_is_bit_equal_to_librosa_for_any_block_size(samples: int, block: int) -> None:
    # Random spectra: overlapping frames are inconsistent, so that the order of summation matters.
    rng = np.random.default_rng(samples)
    shape = (frame_count(samples), N_BINS)
    spectra = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)
    inverse = OverlapAdd(samples)
    for first in range(0, len(spectra), block):
        inverse.add(spectra[first : first + block])
    theirs = librosa.istft(spectra.T, hop_length=HOP_LENGTH, length=samples, dtype=np.float32)
    np.testing.assert_array_equal(inverse.waveform(), theirs)


def test_inverse_of_the_spectrum_is_the_waveform() -> None:
    y = noise(30_000)
    inverse = OverlapAdd(y.size)
    inverse.add(spectrum(frames_of(y)))
    np.testing.assert_allclose(inverse.waveform(), y, rtol=0, atol=1e-6)


def test_missing_frame_is_an_error() -> None:
    inverse = OverlapAdd(10_000)
    inverse.add(spectrum(frames_of(noise(10_000))[:-1]))
    with pytest.raises(AssertionError, match="every frame"):
        inverse.waveform()


def test_frames_are_centred_on_hops_and_zero_padded() -> None:
    frames = centred_frames(np.arange(1.0, 8.0, dtype=np.float32), 4, 3)
    np.testing.assert_array_equal(frames, [[0, 0, 1, 2], [2, 3, 4, 5], [5, 6, 7, 0]])


@pytest.mark.parametrize("length", [2, 3, 129, N_FFT])
def test_window_equals_librosa(length: int) -> None:
    np.testing.assert_allclose(periodic_hann(length), librosa.filters.get_window("hann", length), rtol=0, atol=1e-15)
