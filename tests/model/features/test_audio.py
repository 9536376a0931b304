import warnings
from typing import Final

import librosa
import numpy as np
import pytest

from model.features.audio import (
    ACOUSTIC_SIZE,
    HOP_LENGTH,
    MIN_SAMPLES,
    N_CHROMA,
    N_MFCC,
    SAMPLE_RATE,
    FloatArray,
    acoustic_features,
    harmonic_component,
)
from tests.support.speech import speech_of

SECONDS: Final = (0.1, 0.5, 1.0, 3.7, 6.0, 20.0, 60.0)
ZCR: Final = slice(0, 1)
MFCC: Final = slice(1, 1 + N_MFCC)
CHROMA: Final = slice(1 + N_MFCC, ACOUSTIC_SIZE)


def plain_librosa(y: FloatArray) -> FloatArray:
    """The recipe as it is written down, by librosa alone; `(T, 33)`."""
    with warnings.catch_warnings():
        # Clips shorter than a window are padded; librosa says so each time.
        warnings.filterwarnings("ignore", message=r"n_fft=\d+ is too large", category=UserWarning)
        warnings.filterwarnings("ignore", message="Trying to estimate tuning from empty", category=UserWarning)
        parts = [
            librosa.feature.zero_crossing_rate(y, frame_length=512, hop_length=512),
            librosa.feature.mfcc(y=y, sr=16_000, n_mfcc=20, hop_length=512),
            librosa.feature.chroma_cqt(
                y=librosa.effects.harmonic(y), sr=16_000, hop_length=512, n_chroma=12, bins_per_octave=12
            ),
        ]
    return np.concatenate(parts).T.astype(np.float32)


@pytest.mark.parametrize("seconds", SECONDS)
def test_features_of_speech_equal_plain_librosa_calls(seconds: float) -> None:
    speech = speech_of(seconds)
    ours, golden = acoustic_features(speech), plain_librosa(speech)
    assert ours.shape == golden.shape == (1 + speech.size // HOP_LENGTH, ACOUSTIC_SIZE)
    assert ours.dtype == np.float32
    assert np.isfinite(ours).all()
    np.testing.assert_allclose(ours[:, ZCR], golden[:, ZCR], rtol=0, atol=1e-4)
    np.testing.assert_allclose(ours[:, MFCC], golden[:, MFCC], rtol=0, atol=1e-4)
    np.testing.assert_allclose(ours[:, CHROMA], golden[:, CHROMA], rtol=0, atol=1e-3)


def test_the_golden_values_tell_one_stretch_of_speech_from_another() -> None:
    speech = speech_of(6.0)
    first, second = acoustic_features(speech[: 3 * SAMPLE_RATE]), acoustic_features(speech[3 * SAMPLE_RATE :])
    for part in (ZCR, MFCC, CHROMA):
        assert np.abs(first[:, part] - second[:, part]).max() > 0.01


def test_a_steady_note_lands_in_its_pitch_class() -> None:
    time = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    note_a = (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    chroma = acoustic_features(note_a)[:, CHROMA]
    assert chroma.shape[1] == N_CHROMA
    assert (chroma[5:-5].argmax(axis=1) == 9).all()  # C is 0, so A is 9


def test_the_harmonic_part_keeps_the_note_and_drops_the_clicks() -> None:
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    note = (0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    clicks = np.zeros_like(note)
    clicks[1000::4000] = 0.9
    harmonic = harmonic_component(note + clicks)
    assert harmonic.shape == note.shape
    np.testing.assert_allclose(harmonic, librosa.effects.harmonic(note + clicks), rtol=0, atol=1e-5)
    assert np.abs(harmonic - note)[1000::4000].max() < 0.1


def test_silence_has_finite_features_and_no_crossings() -> None:
    features = acoustic_features(np.zeros(SAMPLE_RATE, dtype=np.float32))
    assert np.isfinite(features).all()
    assert not features[:, ZCR].any()


def test_a_strided_view_has_the_features_of_its_copy() -> None:
    stereo = np.stack([speech_of(0.5), np.zeros(SAMPLE_RATE // 2, dtype=np.float32)], axis=1)
    left = stereo[:, 0]
    assert not left.flags.c_contiguous
    np.testing.assert_array_equal(acoustic_features(left), acoustic_features(left.copy()))


def test_the_shortest_allowed_clip_has_two_frames() -> None:
    assert acoustic_features(speech_of(1.0)[:MIN_SAMPLES]).shape == (2, ACOUSTIC_SIZE)


def test_a_clip_one_sample_too_short_is_an_error() -> None:
    with pytest.raises(ValueError, match="holds 511 samples, at least 512 are needed"):
        acoustic_features(np.zeros(MIN_SAMPLES - 1, dtype=np.float32))


def test_two_channels_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"one-dimensional, got shape \(2, 16000\)"):
        acoustic_features(np.zeros((2, SAMPLE_RATE), dtype=np.float32))


@pytest.mark.parametrize("sample", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_not_finite_is_an_error(sample: float) -> None:
    speech = speech_of(0.5)
    speech[100] = sample
    with pytest.raises(ValueError, match="not finite"):
        acoustic_features(speech)
