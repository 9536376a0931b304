import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import librosa
import numpy as np
import pytest

from model.features.audio import SAMPLE_RATE
from model.features.audio.acoustic import ACOUSTIC_SIZE, MIN_SAMPLES, acoustic_features, harmonic_component
from model.features.audio.dsp.cqt import N_CHROMA
from model.features.audio.dsp.mel import N_MFCC
from model.features.audio.dsp.stft import HOP_LENGTH
from model.features.audio.loading import read_sound
from model.types import FloatArray
from tests.support.corpus import real_data
from tests.support.speech import speech_of

SECONDS: Final = (0.1, 0.5, 1.0, 3.7, 6.0, 20.0, 60.0)
ZCR: Final = slice(0, 1)
MFCC: Final = slice(1, 1 + N_MFCC)
CHROMA: Final = slice(1 + N_MFCC, ACOUSTIC_SIZE)


def librosa_features(y: FloatArray) -> FloatArray:
    """The features by librosa alone, `(T, 33)`."""
    with warnings.catch_warnings():
        # librosa warns of clips shorter than a window.
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
def test_features_of_speech_equal_librosa(seconds: float) -> None:
    speech = speech_of(seconds)
    ours, golden = acoustic_features(speech), librosa_features(speech)
    assert ours.shape == golden.shape == (1 + speech.size // HOP_LENGTH, ACOUSTIC_SIZE)
    assert ours.dtype == np.float32
    assert np.isfinite(ours).all()
    assert_golden(ours, golden)


@pytest.mark.parametrize(
    "kind", ["silence", "silence around", "quiet", "noise", "constant", "fastest", "clipped", "click"]
)
def test_features_of_unusual_sounds_equal_librosa(kind: str) -> None:
    speech = speech_of(1.5)
    samples = np.arange(30_000)
    sound = {
        "silence": np.zeros(20_000),
        "silence around": np.concatenate([np.zeros(9_000), speech, np.zeros(20_000)]),
        "quiet": speech * np.float32(1e-6),
        "noise": np.random.default_rng(0).normal(0, 0.1, 50_001),
        "constant": np.full(20_000, 0.3),
        "fastest": np.where(samples % 2 == 0, 1.0, -1.0),
        "clipped": np.clip(speech * 20, -1, 1),
        "click": np.where(samples == 15_000, 1.0, 0.0),
    }[kind].astype(np.float32)
    assert_golden(acoustic_features(sound), librosa_features(sound))


def test_features_of_recordings_equal_librosa() -> None:
    recordings = sorted(real_data().glob("ravdess/**/*.flac"))
    if not recordings:
        pytest.skip("no recordings here")
    for path in recordings[:: -(-len(recordings) // 8)]:
        waveform = read_sound(path)[0]
        assert_golden(acoustic_features(waveform), librosa_features(waveform))


def assert_golden(ours: FloatArray, golden: FloatArray) -> None:
    # Bit-equal on one machine; another processor may round a filter's cosine differently.
    np.testing.assert_array_equal(ours[:, ZCR], golden[:, ZCR])
    np.testing.assert_allclose(ours[:, MFCC], golden[:, MFCC], rtol=0, atol=1e-4)
    np.testing.assert_allclose(ours[:, CHROMA], golden[:, CHROMA], rtol=0, atol=1e-5)


def test_concurrent_threads_give_equal_features() -> None:
    clips = [speech_of(1.0)[first : first + 9_000] for first in range(0, 7_000, 500)]
    alone = [acoustic_features(clip) for clip in clips]
    with ThreadPoolExecutor(4) as threads:
        for together, expected in zip(threads.map(acoustic_features, clips * 3), alone * 3, strict=True):
            np.testing.assert_array_equal(together, expected)


def test_memory_for_five_minutes_is_less_than_a_spectrogram() -> None:
    waveform = np.resize(speech_of(10.0), 300 * SAMPLE_RATE)
    acoustic_features(waveform[:SAMPLE_RATE])
    tracemalloc.start()
    try:
        acoustic_features(waveform)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 * waveform.nbytes  # the spectrogram alone would be eight times as large


def test_different_speech_has_different_features() -> None:
    speech = speech_of(6.0)
    first, second = acoustic_features(speech[: 3 * SAMPLE_RATE]), acoustic_features(speech[3 * SAMPLE_RATE :])
    for part in (ZCR, MFCC, CHROMA):
        assert np.abs(first[:, part] - second[:, part]).max() > 0.01


def test_chroma_of_a_note_peaks_at_its_pitch_class() -> None:
    time = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    note_a = (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    chroma = acoustic_features(note_a)[:, CHROMA]
    assert chroma.shape[1] == N_CHROMA
    assert (chroma[5:-5].argmax(axis=1) == 9).all()  # C is 0, so A is 9


def test_harmonic_component_removes_clicks() -> None:
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    note = (0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    clicks = np.zeros_like(note)
    clicks[1000::4000] = 0.9
    harmonic = harmonic_component(note + clicks)
    assert harmonic.shape == note.shape
    np.testing.assert_allclose(harmonic, librosa.effects.harmonic(note + clicks), rtol=0, atol=1e-5)
    assert np.abs(harmonic - note)[1000::4000].max() < 0.1


def test_silence_has_finite_features_and_no_zero_crossings() -> None:
    features = acoustic_features(np.zeros(SAMPLE_RATE, dtype=np.float32))
    assert np.isfinite(features).all()
    assert not features[:, ZCR].any()


def test_strided_view_and_its_copy_have_equal_features() -> None:
    stereo = np.stack([speech_of(0.5), np.zeros(SAMPLE_RATE // 2, dtype=np.float32)], axis=1)
    left = stereo[:, 0]
    assert not left.flags.c_contiguous
    np.testing.assert_array_equal(acoustic_features(left), acoustic_features(left.copy()))


def test_shortest_clip_has_two_frames() -> None:
    assert acoustic_features(speech_of(1.0)[:MIN_SAMPLES]).shape == (2, ACOUSTIC_SIZE)


def test_clip_one_sample_too_short_is_an_error() -> None:
    with pytest.raises(ValueError, match="holds 511 samples, at least 512 are needed"):
        acoustic_features(np.zeros(MIN_SAMPLES - 1, dtype=np.float32))


def test_two_channels_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"one-dimensional, got shape \(2, 16000\)"):
        acoustic_features(np.zeros((2, SAMPLE_RATE), dtype=np.float32))


@pytest.mark.parametrize("sample", [np.nan, np.inf, -np.inf])
def test_sample_that_is_not_finite_is_an_error(sample: float) -> None:
    speech = speech_of(0.5)
    speech[100] = sample
    with pytest.raises(ValueError, match="not finite"):
        acoustic_features(speech)
