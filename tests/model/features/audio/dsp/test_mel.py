import librosa
import numpy as np
import pytest

from model.features.audio import SAMPLE_RATE
from model.features.audio.dsp.mel import N_MELS, N_MFCC, cepstrum, mel_filters, mel_power
from model.features.audio.dsp.stft import HOP_LENGTH, N_FFT, centred_frames, spectrum
from model.types import FloatArray
from tests.support.speech import speech_of


def coefficients(y: FloatArray) -> FloatArray:
    return cepstrum(mel_power(np.abs(spectrum(centred_frames(y, N_FFT, HOP_LENGTH)))))


def test_mel_filters_equal_librosa() -> None:
    theirs = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=N_FFT, n_mels=N_MELS)
    np.testing.assert_allclose(mel_filters(), theirs, rtol=1e-6, atol=0)


@pytest.mark.parametrize("loudness", [0.0, 1e-6, 1.0, 50.0])
@pytest.mark.parametrize("seconds", [0.2, 3.0])
def test_coefficients_equal_librosa(loudness: float, seconds: float) -> None:
    speech = speech_of(seconds) * np.float32(loudness)
    ours = coefficients(speech)
    assert ours.shape == (1 + speech.size // HOP_LENGTH, N_MFCC)
    theirs = librosa.feature.mfcc(y=speech, sr=SAMPLE_RATE, n_mfcc=N_MFCC, hop_length=HOP_LENGTH)
    np.testing.assert_allclose(ours, theirs.T, rtol=0, atol=1e-4)


def test_range_is_limited_to_eighty_decibels() -> None:
    power = np.full((2, N_MELS), 1.0, dtype=np.float32)
    power[1] = 1e-8
    quieter = power.copy()
    quieter[1] = 1e-10
    np.testing.assert_array_equal(cepstrum(power), cepstrum(quieter))
