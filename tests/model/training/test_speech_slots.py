from pathlib import Path

import numpy as np
import pytest

from model.config import AudioConfig
from model.features.normalization import reduce_to_slots
from model.modality import Modality
from model.training import speech_slots as module
from model.training.datasets.base import SoundSource
from model.training.datasets.composite import CompositeCorpus
from model.training.experiment import prepare
from model.training.speech_slots import nonspeech_features, speech_slots
from model.training.trainer import RunPaths
from tests.support.network import tiny_config
from tests.support.training import CONFIG, tiny_recipe

A = Modality.AUDIO


@pytest.fixture(scope="module")
def corpus(composite_data: Path) -> CompositeCorpus:
    return CompositeCorpus(composite_data)


def voices(corpus: CompositeCorpus, split: str) -> set[SoundSource]:
    examples = corpus.examples("train") if split == "train" else corpus.examples("val")
    return {source for e in examples if isinstance(source := e.sources[A], SoundSource)}


def test_slots_hold_corpus_speech_with_variants_and_generated_sounds(corpus: CompositeCorpus, paths: RunPaths) -> None:
    prepared = prepare(corpus, tiny_recipe(audio_variants=1), paths)
    speech, unseen, other = speech_slots(corpus, CONFIG, prepared, paths, sounds=3)
    training, validation = voices(corpus, "train"), voices(corpus, "val")
    assert speech.shape == (2 * len(training), 33)
    assert unseen.shape == (len(validation), 33)
    assert other.shape == (3, 33)
    wanted = np.stack([prepared.features[source].mean(axis=0) for source in validation])
    assert {x.tobytes() for x in unseen} == {x.tobytes() for x in wanted}
    expected = {prepared.features[SoundSource(s.path, k)].mean(axis=0).tobytes() for s in training for k in (0, 1)}
    assert {x.tobytes() for x in speech} == expected
    raw = nonspeech_features(np.random.default_rng(module.SEED), 3, CONFIG)
    statistics = prepared.preprocessing.statistics[A]
    slots = [reduce_to_slots(statistics.normalise(x), CONFIG.slots.audio, "pool").mean(axis=0) for x in raw]
    np.testing.assert_array_equal(other, np.stack(slots))


def test_each_sound_has_its_own_random_stream() -> None:
    few, more = (nonspeech_features(np.random.default_rng(1), count, CONFIG, family="noise") for count in (2, 3))
    for one, other in zip(few, more, strict=False):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(few[0], few[1])


def test_generated_sounds_have_the_features_of_the_config() -> None:
    config = tiny_config(audio=AudioConfig(dynamics=True, conditioned=True))
    (features,) = nonspeech_features(np.random.default_rng(1), 1, config, family="noise")
    assert features.shape[1] == 66


def test_a_sound_that_is_too_quiet_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    loud = np.sin(np.arange(16_000) / 5).astype(np.float32)
    drawn = iter([np.zeros(16_000, dtype=np.float32), loud])
    monkeypatch.setattr(module, "nonspeech", lambda rng, family: next(drawn))
    (features,) = nonspeech_features(np.random.default_rng(0), 1, CONFIG)
    assert features.shape == (32, 33)
