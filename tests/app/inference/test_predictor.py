from pathlib import Path

import numpy as np
import pytest

from app.inference.errors import NothingUsable
from app.inference.predictor import Inputs, Predictor
from model.errors import CheckpointError, ConfigError, EmptyModality
from model.features.openface import FaceTrack
from model.features.sound import Sound
from model.modality import SUBSETS, Modality, Presence

T, A, V = Modality


@pytest.fixture(scope="module")
def predictor(tiny_weights: Path) -> Predictor:
    return Predictor.load(tiny_weights, "cpu")


def sound(level: float = 0.3) -> Sound:
    t = np.arange(16_000) / 16_000
    waveform = (level * np.sin(2 * np.pi * 220 * t)).astype(np.float32)
    return Sound(waveform=waveform, seconds=1.0, source_rate=16_000, channels=1)


def track() -> FaceTrack:
    values = np.full((3, 35), 0.5, dtype=np.float32)
    return FaceTrack(
        values=values, frames=3, kept=3, skipped_unsuccessful=0, skipped_low_confidence=0, faces=1, face_id=0
    )


def inputs(subset: Presence, explain: bool = False) -> Inputs:
    return Inputs(
        text="What a lovely surprise!" if T in subset else None,
        sound=sound() if A in subset else None,
        track=track() if V in subset else None,
        explain=explain,
    )


def test_a_batch_of_every_subset_explained_or_not_is_answered_in_order_and_as_alone(predictor: Predictor) -> None:
    batch = [predictor.prepare(inputs(subset, explain)) for subset in SUBSETS for explain in (False, True)]
    outcomes = predictor.decide(batch)
    for prepared, outcome in zip(batch, outcomes, strict=True):
        (alone,) = predictor.decide([prepared])
        assert outcome.decision.probabilities == pytest.approx(alone.decision.probabilities, abs=1e-4)
        assert (outcome.decision.votes is not None) is prepared.explain
        assert (outcome.text is not None) is (T in prepared.presence)


@pytest.mark.parametrize("subset", SUBSETS, ids=lambda s: s.name)
def test_presence_is_what_was_given(predictor: Predictor, subset: Presence) -> None:
    assert predictor.prepare(inputs(subset)).presence == subset


def test_silence_counts_as_missing_with_its_reason(predictor: Predictor) -> None:
    prepared = predictor.prepare(Inputs(text="Hello.", sound=sound(level=0.0)))
    assert prepared.presence == Presence.of(T)
    assert prepared.empty[A].reason == "silent"
    assert prepared.audio is None


def test_what_was_empty_before_stays_missing(predictor: Predictor) -> None:
    nobody = EmptyModality(V, "no_face", "nobody in it")
    prepared = predictor.prepare(Inputs(text="Hello.", empty={V: nobody}))
    assert prepared.empty == {V: nobody}


def test_nothing_usable_is_an_error_that_names_every_empty_modality(predictor: Predictor) -> None:
    with pytest.raises(NothingUsable) as refusal:
        predictor.prepare(Inputs(sound=sound(level=0.0), empty={V: EmptyModality(V, "no_face", "nobody in it")}))
    assert set(refusal.value.empty) == {A, V}


def test_the_check_runs_what_is_known_to_work_and_shows_when_it_no_longer_does(tiny_weights: Path) -> None:
    broken = Predictor.load(tiny_weights, "cpu")
    broken.remember([broken.prepare(inputs(subset)) for subset in SUBSETS])
    broken.check()
    broken.pipeline.checkpoint.network.to("meta")  # weights without numbers: a device that lost its memory
    with pytest.raises((RuntimeError, NotImplementedError)):
        broken.check()


def test_the_device_is_told_and_a_cpu_has_no_memory_of_its_own(predictor: Predictor) -> None:
    assert (predictor.device, predictor.device_memory()) == ("cpu", 0)


def test_a_device_that_is_not_there_is_a_config_error(tiny_weights: Path) -> None:
    with pytest.raises(ConfigError, match="abacus"):
        Predictor.load(tiny_weights, "abacus")


def test_a_folder_without_weights_is_a_checkpoint_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        Predictor.load(tmp_path, "cpu")
