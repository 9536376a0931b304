import librosa
import numpy as np
import pytest

from model.features.audio import SAMPLE_RATE
from model.features.audio.acoustic import harmonic_component
from model.features.audio.dsp import hpss
from model.types import FloatArray
from tests.support.speech import speech_of


@pytest.mark.parametrize("samples", [1_536, 1_600, 2_048, 7_680, 16_000, 59_201, 96_255])
@pytest.mark.filterwarnings("ignore:n_fft")
def test_harmonic_part_is_bit_equal_to_librosa(samples: int) -> None:
    speech = speech_of(6.1)[:samples]
    np.testing.assert_array_equal(harmonic_component(speech), librosa.effects.harmonic(speech))


@pytest.mark.parametrize("loudness", [0.0, 1e-38, 1e-20, 1e-7, 30.0])
def test_harmonic_part_equals_librosa_at_any_level(loudness: float) -> None:
    speech = np.concatenate([np.zeros(9_000), speech_of(1.0), np.zeros(9_000)]).astype(np.float32)
    speech *= np.float32(loudness)
    np.testing.assert_array_equal(harmonic_component(speech), librosa.effects.harmonic(speech))


@pytest.mark.parametrize("frames", [1, 14, 40, 117])
def test_block_size_does_not_change_the_harmonic_part(frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    speech = speech_of(4.0)
    whole = harmonic_component(speech)
    monkeypatch.setattr(hpss, "BLOCK_FRAMES", frames)
    np.testing.assert_array_equal(harmonic_component(speech), whole)


@pytest.mark.parametrize("samples", [512, 700, 1_023, 1_024, 1_535])
def test_clips_shorter_than_half_a_window_are_mirrored(samples: int) -> None:
    speech = speech_of(1.0)[4_000 : 4_000 + samples]
    first = next(hpss.blocks(speech))
    frames = len(first.spectrum)
    np.testing.assert_array_equal(
        first.context[: frames + 30], first.magnitude[np.pad(np.arange(frames), 15, mode="symmetric")]
    )
    assert np.isfinite(harmonic_component(speech)).all()


def test_harmonic_part_keeps_notes_and_removes_clicks() -> None:
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    note: FloatArray = (0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    click = np.zeros_like(note)
    click[8_000] = 1.0
    assert np.abs(harmonic_component(note) - note)[2_000:-2_000].max() < 0.01
    assert np.abs(harmonic_component(click)).max() < 0.1
