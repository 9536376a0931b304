from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.engine.predictor import PreparedRequest
from app.offline import LocalModel
from app.recordings.levels import MAX_SPEAKERS, PRIOR, SHARE, SpeakerLevels
from app.settings import Settings
from model.features.audio.raw_features import AudioFeatures
from model.features.normalization import Preprocessing
from model.features.visual.openface import FaceTrack
from model.modality import Modality
from model.types import FloatArray

A, V = Modality.AUDIO, Modality.VISUAL


@pytest.fixture(scope="module")
def local(tiny_weights: Path) -> LocalModel:
    return LocalModel.load(Settings(weights=tiny_weights, device="cpu"))


def prepared(local: LocalModel, voice: FloatArray | None = None, face: FloatArray | None = None) -> PreparedRequest:
    request = PreparedRequest(local.predictor)
    request.audio = None if voice is None else AudioFeatures(voice, 1.0, 1.0, frames=30, compute_seconds=0.0)
    request.visual = None if face is None else FaceTrack(face, 1, 1, 0, 0, 1, None)
    return request


def slots(seed: int, offset: float = 0.0) -> FloatArray:
    return (np.random.default_rng(seed).normal(size=(3, 4)) + offset).astype(np.float32)


def test_a_constant_offset_of_a_speaker_is_reduced_to_a_share() -> None:
    levels = SpeakerLevels()
    found = [levels.relative("Anna", A, slots(seed, 4.0)) for seed in range(200)]
    assert found[-1].mean(axis=0) - slots(199).mean(axis=0) == pytest.approx(np.full(4, 4.0 * (1 - SHARE)), abs=0.25)


def test_the_level_includes_the_utterance_and_its_prior() -> None:
    levels = SpeakerLevels()
    first, second = np.ones((2, 4), dtype=np.float32), np.full((1, 4), 3.0, dtype=np.float32)
    assert levels.relative("Anna", A, first) == pytest.approx(1 - SHARE * 1 / (1 + PRIOR))
    assert levels.relative("Anna", A, second) == pytest.approx(3 - SHARE * 4 / (2 + PRIOR))


def test_speakers_and_modalities_have_levels_of_their_own() -> None:
    levels = SpeakerLevels()
    alone = levels.relative("Anna", A, slots(1))
    levels.relative("Anna", V, slots(2, 9.0))
    assert np.array_equal(levels.relative("Ben", A, slots(1)), alone)


def test_voice_and_face_of_a_known_speaker_are_normalized(local: LocalModel) -> None:
    request = prepared(local, slots(1), slots(2))
    assert SpeakerLevels().normalize(request, "Anna") == {A, V}
    assert request.audio is not None
    assert request.visual is not None
    assert np.array_equal(request.audio.array, SpeakerLevels().relative("Anna", A, slots(1)))
    assert np.array_equal(request.visual.values, SpeakerLevels().relative("Anna", V, slots(2)))


def test_an_unknown_speaker_is_unchanged(local: LocalModel) -> None:
    request = prepared(local, slots(1), slots(2))
    audio, visual = request.audio, request.visual
    assert SpeakerLevels().normalize(request, None) == frozenset()
    assert (request.audio, request.visual) == (audio, visual)


def test_doubtful_content_is_unchanged_and_not_counted(local: LocalModel) -> None:
    levels = SpeakerLevels()
    request = prepared(local, slots(1), slots(2))
    assert request.visual is not None
    request.visual = replace(request.visual, all_zero=True)
    assert levels.normalize(request, "Anna") == {A}
    assert np.array_equal(levels.relative("Anna", V, slots(3)), SpeakerLevels().relative("Anna", V, slots(3)))


def test_features_without_statistics_are_unchanged(local: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = local.predictor.pipeline.extractor
    of_faces = Preprocessing({V: extractor.preprocessing.statistics[V]})
    monkeypatch.setattr(extractor, "preprocessing", of_faces)
    assert SpeakerLevels().normalize(prepared(local, slots(1), slots(2)), "Anna") == {V}


def test_speakers_past_the_limit_are_unchanged(local: LocalModel) -> None:
    levels = SpeakerLevels()
    for number in range(MAX_SPEAKERS):
        levels.normalize(prepared(local, slots(number)), f"speaker {number}")
    assert levels.normalize(prepared(local, slots(1)), "one more") == frozenset()
    assert levels.normalize(prepared(local, slots(1)), "speaker 0") == {A}
