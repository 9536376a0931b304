"""Preparation of a corpus for training, with stored adapters and teacher, and a whole run."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from model.config import PrecomputedConfig, TextConfig
from model.modality import SUBSETS, Modality
from model.network.reliability import Reliability
from model.training.datasets.base import Example, SoundSource, TextSource
from model.training.datasets.composite import CompositeCorpus
from model.training.datasets.manifest import ManifestCorpus
from model.training.datasets.mosi import MosiCorpus
from model.training.evaluate_split import evaluate_split
from model.training.experiment import adapted_config, prepare
from model.training.settings import Recipe
from model.training.trainer import RunPaths, Trainer
from tests.support.corpus import write_manifest, write_tone
from tests.support.native_corpora import write_meld, write_mosi
from tests.support.network import tiny_config
from tests.support.training import Toy, tiny_recipe, tiny_training

ADAPTED = Recipe(
    model=tiny_config(text=TextConfig(adapter_rank=2)),
    training=tiny_training(adapters={"epochs": 1, "batch_size": 4, "learning_rate": 1e-2}),
)


@pytest.fixture(scope="module")
def corpus(composite_data: Path) -> CompositeCorpus:
    return CompositeCorpus(composite_data)


def adapter_files(paths: RunPaths) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in paths.folder.glob("*adapters.safetensors")}


def test_every_source_of_every_part_is_prepared(corpus: CompositeCorpus, paths: RunPaths) -> None:
    prepared = prepare(corpus, tiny_recipe(), paths)
    for split in ("train", "val", "test"):
        for example in corpus.examples(split):
            assert set(example.sources.values()) <= prepared.features.keys()
    for other in corpus.unclassed():
        assert set(other.sources.values()) <= prepared.features.keys()
    assert prepared.adapters == {}
    assert set(prepared.preprocessing.statistics) == {Modality.AUDIO, Modality.VISUAL}


def test_adapters_are_trained_once_and_then_read(corpus: CompositeCorpus, paths: RunPaths) -> None:
    first = prepare(corpus, ADAPTED, paths)
    written = adapter_files(paths)
    assert len(written) == 1
    again = prepare(corpus, ADAPTED, paths)
    assert adapter_files(paths) == written
    assert again.adapters.keys() == first.adapters.keys() == load_file(paths.folder / next(iter(written))).keys()
    assert len(first.adapters) > 0
    assert all(np.array_equal(again.features[source], array) for source, array in first.features.items())


def test_other_emotions_give_other_adapters(corpus: CompositeCorpus, paths: RunPaths) -> None:
    prepare(corpus, ADAPTED, paths)
    before = adapter_files(paths)
    unlabelled = copy.copy(corpus)
    unlabelled._splits = {
        split: tuple(replace(e, emotions={}) for e in examples) for split, examples in corpus._splits.items()
    }
    prepare(unlabelled, ADAPTED, paths)
    assert len(adapter_files(paths)) == len(before) + 1


def test_a_teacher_is_fitted_once_and_only_if_requested(
    corpus: CompositeCorpus, paths: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(corpus, tiny_recipe(teacher=True), paths)
    written = {p.name: p.stat().st_mtime_ns for p in paths.folder.glob("*teacher.safetensors")}
    assert len(written) == 1
    again = prepare(corpus, tiny_recipe(teacher=True), paths)
    assert {p.name: p.stat().st_mtime_ns for p in paths.folder.glob("*teacher.safetensors")} == written
    assert first.teacher is not None
    assert again.teacher is not None
    assert all(
        torch.equal(value, again.teacher.state_dict()[name]) for name, value in first.teacher.state_dict().items()
    )
    assert prepare(corpus, tiny_recipe(teacher=False), paths).teacher is None
    without = copy.copy(corpus)
    monkeypatch.setattr(without, "unclassed", lambda: ())
    other = prepare(without, tiny_recipe(teacher=True), paths).teacher
    assert other is not None
    assert len(other.experts["visual"].state_dict()["classes"]) + 1 == len(
        first.teacher.experts["visual"].state_dict()["classes"]
    )


def test_a_manifest_has_a_teacher_that_follows_its_files(tmp_path: Path, paths: RunPaths) -> None:
    def teachers(pitches: tuple[float, float]) -> int:
        sounds = [write_tone(tmp_path / f"{n}.wav", pitches[n % 2], seed=n) for n in range(4)]
        rows: list[dict[str, object]] = [
            {"id": f"{split}-{n}", "split": split, "label": "ab"[n % 2], "audio": sound}
            for split in ("train", "val")
            for n, sound in enumerate(sounds)
        ]
        corpus = ManifestCorpus(write_manifest(tmp_path, rows))
        recipe = tiny_recipe(teacher=True, expert_steps=3)
        recipe = recipe.model_copy(update={"model": adapted_config(recipe.model, corpus, "mine")})
        assert prepare(corpus, recipe, paths).teacher is not None
        return len(list(paths.folder.glob("*teacher.safetensors")))

    assert [teachers((150.0, 300.0)), teachers((150.0, 300.0)), teachers((150.0, 350.0))] == [1, 1, 2]


def test_a_teacher_depends_on_its_steps_but_not_the_network_size(corpus: CompositeCorpus, paths: RunPaths) -> None:
    def files() -> int:
        return len(list(paths.folder.glob("*teacher.safetensors")))

    recipe = tiny_recipe(teacher=True, expert_steps=3)
    prepare(corpus, recipe, paths)
    network = recipe.model.network.model_copy(update={"feedforward": 64})
    prepare(corpus, recipe.model_copy(update={"model": recipe.model.model_copy(update={"network": network})}), paths)
    assert files() == 1
    prepare(corpus, tiny_recipe(teacher=True, expert_steps=4), paths)
    assert files() == 2


def test_unimodal_content_is_prepared_and_measured_too(
    corpus: CompositeCorpus, tmp_path: Path, paths: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    tones = [SoundSource(write_tone(tmp_path / f"{number}.wav", 900.0, seed=number)) for number in range(2)]
    audio = Modality.AUDIO
    beside = [Example(s.path.name, "neutral", {audio: s}, {audio: "neutral"}, origins={audio: "tones"}) for s in tones]
    richer = copy.copy(corpus)
    monkeypatch.setattr(richer, "unimodal", lambda split: beside if split == "train" else [])
    plain, prepared = prepare(corpus, tiny_recipe(), paths), prepare(richer, tiny_recipe(audio_variants=1), paths)
    for tone in tones:
        assert {tone, SoundSource(tone.path, 1)} <= prepared.features.keys()
    before, after = (p.preprocessing.statistics[audio].mean for p in (plain, prepared))
    assert not np.allclose(before, after, rtol=1e-2)
    assert prepared.encoder_id == plain.encoder_id != ""


def test_texts_are_encoded_with_the_adapters(corpus: CompositeCorpus, paths: RunPaths) -> None:
    plain, adapted = prepare(corpus, tiny_recipe(), paths), prepare(corpus, ADAPTED, paths)
    example = corpus.examples("train")[0]
    text, sound = example.sources[Modality.TEXT], example.sources[Modality.AUDIO]
    assert not np.allclose(plain.features[text], adapted.features[text], atol=1e-4)
    np.testing.assert_array_equal(plain.features[sound], adapted.features[sound])


def test_other_adapter_settings_give_other_adapters(corpus: CompositeCorpus, paths: RunPaths) -> None:
    prepare(corpus, ADAPTED, paths)
    other = ADAPTED.training.adapters.model_copy(update={"seed": 1})
    prepare(
        corpus, Recipe(model=ADAPTED.model, training=ADAPTED.training.model_copy(update={"adapters": other})), paths
    )
    assert len(adapter_files(paths)) == 2


def test_a_finished_run_is_resumed_without_training(corpus: CompositeCorpus, paths: RunPaths) -> None:
    recipe = tiny_recipe()
    prepared = prepare(corpus, recipe, paths)
    quiet = Console(quiet=True)
    network, report = Trainer(corpus, prepared, recipe, 3, paths, quiet).fit()
    assert (paths.folder / "seed-3" / "state.json").is_file()
    again, same = Trainer(corpus, prepared, recipe, 3, paths, quiet).fit(resume=True)
    assert report == same
    evaluations = [
        evaluate_split(n, Reliability(n.config), corpus, "test", prepared.features, paths.device)
        for n in (network, again)
    ]
    assert evaluations[0] == evaluations[1]
    assert evaluations[0]["patterns"].keys() == {s.name for s in SUBSETS}
    assert evaluations[0]["n"] == len(corpus.examples("test"))
    assert evaluations[0]["gate"] is not None


def test_an_empty_part_cannot_be_evaluated(corpus: CompositeCorpus, paths: RunPaths) -> None:
    recipe = tiny_recipe(epochs=1, guidance_epochs=0)
    network, _ = Trainer(corpus, prepare(corpus, recipe, paths), recipe, 0, paths, Console(quiet=True)).fit()
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate_split(network, Reliability(network.config), corpus, "test", {}, paths.device)


def test_a_config_is_adapted_to_classes_and_name() -> None:
    examples = [Example("a", "sad", {Modality.TEXT: TextSource("oh")})]
    corpus = Toy({"train": examples})
    corpus.classes = ("sad", "glad")
    config = adapted_config(tiny_config(precomputed={"audio": 4}), corpus, "mine")
    assert (config.classes, config.name, config.task) == (("sad", "glad"), "mine", "classification")
    assert config.precomputed == PrecomputedConfig()
    assert config.network == tiny_config().network


def test_a_config_is_adapted_to_precomputed_features_and_scores(tmp_path: Path) -> None:
    config = adapted_config(tiny_config(), MosiCorpus(write_mosi(tmp_path), regression=True), "mine")
    assert config.precomputed == PrecomputedConfig(audio=73, visual=100)
    assert (config.task, config.class_values) == ("regression", (-3, -2, -1, 0, 1, 2, 3))
    static = adapted_config(tiny_config(), MosiCorpus(write_meld(tmp_path), words="static"), "mine")
    assert static.precomputed == PrecomputedConfig(text=100, audio=73, visual=100)
