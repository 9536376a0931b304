import numpy as np
import pytest

from model.errors import EmptyModality
from model.features.audio import SAMPLE_RATE
from model.features.audio.acoustic import MIN_SAMPLES
from model.features.audio.conditioning import condition
from model.features.audio.raw_features import extract_voice, loudest_frame_dbfs, whisper_encoder
from model.types import FloatArray
from tests.support.speech import speech_of

SPEECH = speech_of(1.0)
FRAMES = 1 + SPEECH.size // 512


def raw(
    waveform: FloatArray,
    *,
    dynamics: bool = False,
    silence_dbfs: float = -60.0,
    conditioned: bool = False,
    encoder: str = "acoustic",
) -> FloatArray:
    return extract_voice(
        waveform, dynamics=dynamics, silence_dbfs=silence_dbfs, conditioned=conditioned, encoder=encoder
    ).array


def tone_at(dbfs: float, samples: int = SAMPLE_RATE) -> FloatArray:
    """A tone whose every hop has this root mean square: 312.5 Hz fits ten whole periods in a hop."""
    time = np.arange(samples) / SAMPLE_RATE
    tone: FloatArray = (10 ** (dbfs / 20) * np.sqrt(2) * np.sin(2 * np.pi * 312.5 * time)).astype(np.float32)
    return tone


@pytest.mark.parametrize("dbfs", [-61.0, -80.0])
def test_clip_below_the_threshold_is_silent(dbfs: float) -> None:
    with pytest.raises(EmptyModality) as caught:
        raw(tone_at(dbfs))
    assert caught.value.reason == "silent"


def test_clip_above_the_threshold_is_not_silent() -> None:
    assert raw(tone_at(-59.0)).shape == (32, 33)


def test_one_loud_hop_is_not_silent() -> None:
    waveform = np.zeros(SAMPLE_RATE, dtype=np.float32)
    waveform[8192 : 8192 + 512] = tone_at(-40.0, 512)
    assert raw(waveform).shape == (32, 33)


@pytest.mark.parametrize("dbfs", [-6.0, -30.0])
def test_level_is_relative_to_full_scale(dbfs: float) -> None:
    assert loudest_frame_dbfs(tone_at(dbfs)) == pytest.approx(dbfs, abs=0.01)


def test_clip_of_one_hop_has_features() -> None:
    assert raw(tone_at(-10.0, MIN_SAMPLES)).shape == (2, 33)


def test_dynamics_append_the_absolute_change_of_each_feature() -> None:
    plain = raw(SPEECH)
    with_change = raw(SPEECH, dynamics=True)
    assert with_change.shape == (FRAMES, 66)
    np.testing.assert_array_equal(with_change[:, :33], plain)
    np.testing.assert_array_equal(with_change[0, 33:], 0)
    np.testing.assert_array_equal(with_change[1:, 33:], np.abs(plain[1:] - plain[:-1]))


def test_silence_threshold_is_configurable() -> None:
    with pytest.raises(EmptyModality, match="-20 dBFS"):
        raw(tone_at(-25.0), silence_dbfs=-20.0)


def test_voice_holds_duration_and_computing_time() -> None:
    voice = extract_voice(SPEECH, dynamics=True, silence_dbfs=-60.0)
    np.testing.assert_array_equal(voice.array, raw(SPEECH, dynamics=True))
    assert (voice.seconds, voice.spoken, voice.frames, voice.warnings) == (1.0, 1.0, FRAMES, {})
    assert 0 < voice.compute_seconds < 60


def test_clip_is_conditioned_before_features_are_computed() -> None:
    padded = np.pad(SPEECH * np.float32(0.1), SAMPLE_RATE)
    voice = extract_voice(padded, dynamics=True, silence_dbfs=-60.0, conditioned=True, warnings={"channel": "one"})
    expected = condition(padded)
    assert (voice.seconds, voice.spoken, voice.warnings) == (3.0, expected.size / SAMPLE_RATE, {"channel": "one"})
    assert voice.frames == 1 + expected.size // 512
    assert 0.8 < voice.spoken < 1.2
    np.testing.assert_array_equal(voice.array, raw(expected, dynamics=True))
    np.testing.assert_array_equal(voice.array, raw(padded, dynamics=True, conditioned=True))


@pytest.mark.parametrize("samples", [MIN_SAMPLES, 600, 1_000])
@pytest.mark.parametrize("place", [0, MIN_SAMPLES - 1])
def test_conditioned_short_clip_has_features(samples: int, place: int) -> None:
    waveform = np.zeros(samples, dtype=np.float32)
    waveform[place] = 0.5
    assert np.isfinite(raw(waveform, conditioned=True)).all()


def test_silence_is_detected_before_conditioning() -> None:
    with pytest.raises(EmptyModality) as caught:
        raw(tone_at(-61.0), conditioned=True)
    assert caught.value.reason == "silent"


@pytest.mark.parametrize(("encoder", "size"), [("whisper", 384), ("both", 483)])
def test_whisper_features_are_one_row_per_clip(encoder: str, size: int) -> None:
    features = raw(SPEECH, encoder=encoder)
    assert features.shape == (1, size)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    np.testing.assert_array_equal(features[0, :384], whisper_encoder()(SPEECH))
    voice = extract_voice(SPEECH, dynamics=True, silence_dbfs=-60.0, encoder=encoder)  # no dynamics without frames
    np.testing.assert_array_equal(voice.array, features)


def test_both_appends_acoustic_means_deviations_and_changes() -> None:
    features = raw(SPEECH, encoder="both")[0, 384:]
    frames = raw(SPEECH, dynamics=True)
    expected = [frames[:, :33].mean(axis=0), frames[:, :33].std(axis=0), frames[:, 33:].mean(axis=0)]
    np.testing.assert_allclose(features, np.concatenate(expected), rtol=1e-5, atol=1e-6)


def test_clip_is_conditioned_before_whisper_encodes_it() -> None:
    padded = np.pad(SPEECH * np.float32(0.1), SAMPLE_RATE)
    features = raw(padded, conditioned=True, encoder="whisper")
    np.testing.assert_array_equal(features[0], whisper_encoder()(condition(padded)))


@pytest.mark.parametrize("encoder", ["whisper", "both"])
def test_shortest_clip_has_whisper_features(encoder: str) -> None:
    features = raw(tone_at(-10.0, MIN_SAMPLES), encoder=encoder)
    assert np.isfinite(features).all()
