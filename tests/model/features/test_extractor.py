from dataclasses import dataclass

import numpy as np
import pytest
import torch

from model.config import AudioConfig, ModelConfig, Slots, TextConfig, VisualConfig
from model.errors import EmptyModality
from model.features.audio import SAMPLE_RATE
from model.features.audio.acoustic import MIN_SAMPLES, acoustic_features
from model.features.audio.conditioning import condition
from model.features.audio.dsp.stft import HOP_LENGTH
from model.features.audio.raw_features import UNLIKELY_SPEECH, extract_voice
from model.features.extractor import NO_SPEECH, FeatureExtractor, raw_visual_features
from model.features.normalization import Preprocessing, Statistics, reduce_to_slots
from model.features.text.encoder import TextEncoder
from model.features.visual.openface import FaceTrack
from model.modality import Modality
from model.types import FloatArray
from tests.support.network import tiny_config
from tests.support.sound import audio_slots
from tests.support.speech import speech_of

SPEECH = speech_of(1.0)
FRAMES = 1 + SPEECH.size // 512
LONG = "well I must say that this was by far the most wonderful evening of the whole long year"


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(TextConfig(), torch.device("cpu"))


def extractor_of(config: ModelConfig, encoder: TextEncoder) -> FeatureExtractor:
    def statistics(modality: Modality) -> Statistics:
        size = config.feature_size(modality)
        return Statistics(np.full(size, 0.5, dtype=np.float32), np.full(size, 4.0, dtype=np.float32))

    return FeatureExtractor(
        config, Preprocessing({m: statistics(m) for m in (Modality.AUDIO, Modality.VISUAL)}), encoder
    )


def track_of(frames: int, size: int = 35) -> FaceTrack:
    values = np.random.default_rng(0).uniform(0, 5, (frames, size)).astype(np.float32)
    return FaceTrack(
        values, frames=frames + 2, kept=frames, skipped_unsuccessful=1, skipped_low_confidence=1, faces=1, face_id=0
    )


def slots_of_ten(reduction: str) -> Slots:
    return Slots.model_validate({"text": 10, "audio": 10, "visual": 10, "reduction": reduction})


def test_speech_becomes_normalised_slots(encoder: TextEncoder) -> None:
    extractor = extractor_of(tiny_config(), encoder)
    audio = audio_slots(extractor, SPEECH)
    expected = reduce_to_slots(((acoustic_features(SPEECH) - 0.5) / 4).clip(-8, 8), 20, "pool")
    np.testing.assert_allclose(audio.array, expected, atol=1e-5)
    assert (audio.seconds, audio.frames, audio.truncated) == (1.0, FRAMES, False)
    assert (audio.spoken, audio.warnings) == (1.0, {})


def test_clip_is_conditioned_if_the_config_says_so(encoder: TextEncoder) -> None:
    config = tiny_config(audio=AudioConfig(conditioned=True))
    padded = np.pad(SPEECH * np.float32(0.1), SAMPLE_RATE)
    audio = audio_slots(extractor_of(config, encoder), padded)
    expected = condition(padded)
    assert (audio.seconds, audio.spoken) == (3.0, expected.size / SAMPLE_RATE)
    assert audio.frames == 1 + expected.size // HOP_LENGTH


@dataclass
class FixedProbability:
    """Returns the same probability of speech for every sound, and records its argument."""

    probability: float | None
    given: FloatArray | None = None

    def speech_probability(self, voice: FloatArray) -> float | None:
        self.given = voice
        return self.probability


@pytest.mark.parametrize(
    ("probability", "likely"),
    [(None, True), (UNLIKELY_SPEECH, True), (UNLIKELY_SPEECH - 0.01, False), (NO_SPEECH, False)],
)
def test_audio_features_hold_the_probability_of_speech(
    encoder: TextEncoder, probability: float | None, likely: bool
) -> None:
    extractor = extractor_of(tiny_config(), encoder)
    extractor.reliability = check = FixedProbability(probability)
    audio = audio_slots(extractor, SPEECH)
    assert (audio.speech, audio.likely_speech) == (probability, likely)
    assert check.given is audio.array


def test_improbable_speech_is_missing_unless_any_sound_is_accepted(encoder: TextEncoder) -> None:
    config = tiny_config()
    extractor = FeatureExtractor(config, extractor_of(config, encoder).preprocessing, encoder, FixedProbability(0.019))
    with pytest.raises(EmptyModality, match="no speech") as caught:
        audio_slots(extractor, SPEECH)
    assert (caught.value.reason, caught.value.modality) == ("no_speech", Modality.AUDIO)
    voice = extract_voice(SPEECH, dynamics=False, silence_dbfs=-60.0)
    assert extractor.audio(voice, any_sound=True).speech == 0.019


def test_every_sound_counts_as_speech_without_a_check(encoder: TextEncoder) -> None:
    audio = audio_slots(extractor_of(tiny_config(), encoder), SPEECH)
    assert (audio.speech, audio.likely_speech) == (None, True)


def test_digital_silence_is_silent(encoder: TextEncoder) -> None:
    with pytest.raises(EmptyModality, match="never louder than -60 dBFS") as caught:
        audio_slots(extractor_of(tiny_config(), encoder), np.zeros(SAMPLE_RATE, dtype=np.float32))
    assert (caught.value.reason, caught.value.modality) == ("silent", Modality.AUDIO)


def test_threshold_and_dynamics_are_the_config_s(encoder: TextEncoder) -> None:
    config = tiny_config(audio=AudioConfig(dynamics=True, silence_dbfs=-20.0))
    extractor = extractor_of(config, encoder)
    with pytest.raises(EmptyModality, match="-20 dBFS"):
        audio_slots(extractor, SPEECH / np.float32(100))
    assert audio_slots(extractor, SPEECH).array.shape[1] == 66


def test_clip_shorter_than_one_hop_is_too_short(encoder: TextEncoder) -> None:
    extractor = extractor_of(tiny_config(), encoder)
    with pytest.raises(EmptyModality, match="shorter than 32 ms") as caught:
        audio_slots(extractor, SPEECH[: MIN_SAMPLES - 1])
    assert caught.value.reason == "too_short"
    with pytest.raises(EmptyModality) as caught:
        audio_slots(extractor, SPEECH[:0])
    assert caught.value.reason == "too_short"


def test_visual_features_are_the_mean_or_every_frame(encoder: TextEncoder) -> None:
    track = track_of(8)
    mean = extractor_of(tiny_config(), encoder).visual(track)
    assert (mean.values.shape, mean.kept, mean.truncated) == ((1, 35), 8, False)
    np.testing.assert_allclose(mean.values[0], (track.values.mean(axis=0) - 0.5) / 4, atol=1e-6)
    config = tiny_config(slots=slots_of_ten("pool"), visual=VisualConfig(reduce="frames"))
    frames = extractor_of(config, encoder).visual(track)
    assert (frames.values.shape, frames.kept, frames.truncated) == ((8, 35), 8, False)
    np.testing.assert_allclose(frames.values, (track.values - 0.5) / 4, atol=1e-6)


@pytest.mark.parametrize("reduce", ["mean", "frames"])
def test_square_root_is_taken_of_action_units_only(reduce: str) -> None:
    values = track_of(3, size=709).values - 1
    values[:, -35:] += 1
    values[0, -1] = -0.25  # OpenFace writes none, but a file may hold one
    visual = {"columns": "all", "reduce": reduce, "root": True}
    config = tiny_config(slots=Slots(text=12, audio=20, visual=3 if reduce == "frames" else 1), visual=visual)
    plain = values.mean(axis=0, keepdims=True) if reduce == "mean" else values
    taken = raw_visual_features(values, config)
    assert taken.dtype == np.float32
    np.testing.assert_array_equal(taken[:, :-35], plain[:, :-35])
    np.testing.assert_allclose(taken[:, -35:], np.sqrt(np.maximum(plain[:, -35:], 0)))
    assert np.isfinite(taken).all()


@pytest.mark.parametrize(("reduction", "cut"), [("truncate", True), ("pool", False)])
def test_truncated_is_set_only_if_frames_are_cut(encoder: TextEncoder, reduction: str, cut: bool) -> None:
    config = tiny_config(slots=slots_of_ten(reduction), visual=VisualConfig(reduce="frames"))
    extractor = extractor_of(config, encoder)
    audio, visual, (text,) = audio_slots(extractor, SPEECH), extractor.visual(track_of(11)), extractor.text([LONG])
    assert (audio.truncated, visual.truncated, text.truncated) == (cut, cut, cut)
    assert [len(a) for a in (audio.array, visual.values, text.array)] == [10, 10, 10]
    assert (audio.frames, visual.kept, text.tokens) == (FRAMES, 11, len(LONG.split()) + 2)


@pytest.mark.parametrize("reduction", ["truncate", "pool"])
def test_exact_fit_is_not_truncated(encoder: TextEncoder, reduction: str) -> None:
    config = tiny_config(slots=slots_of_ten(reduction), visual=VisualConfig(reduce="frames"))
    extractor = extractor_of(config, encoder)
    audio = audio_slots(extractor, SPEECH[: 9 * 512])
    (text,) = extractor.text(["one two three four five six seven eight"])
    assert (len(audio.array), audio.truncated) == (10, False)
    assert (len(text.array), text.truncated) == (10, False)
    assert not extractor.visual(track_of(10)).truncated


def test_tokens_cut_by_the_encoder_are_reported() -> None:
    config = tiny_config(text=TextConfig(max_tokens=8))
    encoder = TextEncoder(config.text, torch.device("cpu"))
    (text,) = extractor_of(config, encoder).text([LONG])
    assert (len(text.array), text.truncated) == (8, True)


def test_text_is_not_normalised(encoder: TextEncoder) -> None:
    (ours,), (raw,) = extractor_of(tiny_config(), encoder).text(["A fine day."]), encoder(["A fine day."])
    np.testing.assert_array_equal(ours.array, raw.array)
