import librosa
import numpy as np
import pytest
from scipy.ndimage import median_filter

from model.features.audio import SAMPLE_RATE
from model.features.audio.acoustic import harmonic_component
from model.features.audio.dsp import hpss
from model.features.audio.dsp.hpss import WINDOW, rows_needed, running_median
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


def rows_of(windows: int, columns: int, seed: int = 0) -> FloatArray:
    """Rows enough, with the padding full of values larger than any other."""
    rng = np.random.default_rng(seed)
    rows = np.full((rows_needed(windows), columns), 9e9, dtype=np.float32)
    rows[: windows + WINDOW - 1] = rng.gamma(1.0, 1.0, (windows + WINDOW - 1, columns))
    return rows


@pytest.mark.parametrize("windows", [1, 2, 15, 16, 17, 31, 32, 33, 188])
@pytest.mark.parametrize("columns", [1, 7, 1025])
def test_medians_equal_scipy(windows: int, columns: int) -> None:
    rows = rows_of(windows, columns)
    used = rows[: windows + WINDOW - 1]
    expected = median_filter(used, size=(WINDOW, 1), mode="constant")[WINDOW // 2 : WINDOW // 2 + windows]
    np.testing.assert_array_equal(running_median(rows, windows), expected)


def test_arrays_wider_than_a_chunk_are_filtered() -> None:
    rows = rows_of(40, 5000)
    np.testing.assert_array_equal(running_median(rows, 40)[:, ::999], running_median(rows[:, ::999].copy(), 40))


def test_equal_values_are_filtered() -> None:
    rows = np.round(rows_of(100, 5))
    expected = [np.median(rows[first : first + WINDOW], axis=0) for first in range(100)]
    np.testing.assert_array_equal(running_median(rows, 100), expected)


@pytest.mark.parametrize("order", [1, -1])
def test_median_of_a_sorted_series_is_the_window_s_centre(order: int) -> None:
    rows = np.arange(rows_needed(64), dtype=np.float32)[::order, None]
    np.testing.assert_array_equal(running_median(rows, 64), rows[WINDOW // 2 : WINDOW // 2 + 64])


def test_running_median_does_not_modify_its_input() -> None:
    rows = rows_of(20, 3)
    before = rows.copy()
    running_median(rows, 20)
    np.testing.assert_array_equal(rows, before)


def test_strided_view_and_its_copy_have_equal_medians() -> None:
    rows = rows_of(20, 8)[:, ::2]
    np.testing.assert_array_equal(running_median(rows, 20), running_median(rows.copy(), 20))


def test_too_few_rows_are_an_error() -> None:
    with pytest.raises(ValueError, match="17 windows need 63 rows, got 62"):
        running_median(rows_of(17, 2)[:-1], 17)
