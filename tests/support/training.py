"""A toy corpus in memory that a network learns in seconds, with recipes of that size."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from model.config import ModelConfig
from model.features.normalization import Preprocessing
from model.modality import COMPLETE, MODALITIES, SUBSETS, Modality, ModalitySet
from model.network.decision import Decision, Distribution
from model.network.emmr import EMMR
from model.network.reliability import provided_sets
from model.training.crossfit import CrossFitPart
from model.training.datasets.base import (
    CLASSES,
    ActionUnitMeansSource,
    Corpus,
    Example,
    FixedCorpus,
    SoundSource,
    Source,
    Split,
    TextSource,
)
from model.training.distributed import SINGLE_PROCESS, DistributedContext
from model.training.prepare import PreparedCorpus
from model.training.settings import Recipe, TrainingSettings
from model.training.teacher import Teacher
from model.training.trainer import RunPaths, Trainer
from model.types import FloatArray
from tests.support.network import random_network, tiny_config

CONFIG = tiny_config(network=tiny_config().network.model_dump() | {"residual_blocks": 2})
"""Two blocks instead of five: the time of a step is that of its calls, not of the sizes."""


class Toy(FixedCorpus):
    """A corpus in memory; `redraws` counts calls of `redraw`, of which number `fail_at` raises `KeyboardInterrupt`."""

    name = "toy"

    def __init__(self, parts: Mapping[Split, Sequence[Example]], fail_at: int | None = None) -> None:
        super().__init__(parts)
        self.parts, self.fail_at, self.redraws = parts, fail_at, 0

    def redraw(self, rng: np.random.Generator) -> Sequence[Example]:
        if self.redraws == self.fail_at:
            raise KeyboardInterrupt
        self.redraws += 1
        return self.parts["train"]


def toy(
    train: int = 48, val: int = 21, *, mixed: bool = False, config: ModelConfig = CONFIG
) -> tuple[Toy, dict[Source, FloatArray]]:
    """A corpus with well separated classes in every modality, and its features.

    Args:
        train: training examples.
        val: validation examples.
        mixed: let examples lack modalities, each of the seven subsets in turn.
        config: gives the feature sizes.
    """
    rng = np.random.default_rng(0)
    centres = {m: 2 * rng.standard_normal((3, config.feature_size(m))) for m in MODALITIES}
    features: dict[Source, FloatArray] = {}

    def example(split: str, number: int, presence: ModalitySet) -> Example:
        label = number % 3
        sources: dict[Modality, Source] = {}
        for modality in presence:
            slots = 1 if modality == Modality.VISUAL else int(rng.integers(2, 9))
            noise = rng.standard_normal((slots, config.feature_size(modality)))
            sources[modality] = source_of(modality, f"{split}-{number}")
            features[sources[modality]] = (centres[modality][label] + noise).astype(np.float32)
        return Example(f"{split}-{number}", CLASSES[label], sources)

    def part(split: Split, count: int) -> list[Example]:
        return [example(split, n, SUBSETS[n % 7] if mixed else COMPLETE) for n in range(count)]

    return Toy({"train": part("train", train), "val": part("val", val)}), features


def source_of(modality: Modality, name: str) -> Source:
    """A source of a modality, without content."""
    if modality == Modality.TEXT:
        return TextSource(name)
    if modality == Modality.AUDIO:
        return SoundSource(Path(name))
    return ActionUnitMeansSource(name, (0.0,))


def confident_network(factor: float = 30.0, seed: int = 0) -> EMMR:
    """A random network with extreme probabilities, for inference."""
    network = random_network(CONFIG, seed)
    with torch.no_grad():
        network.classifier.weight.mul_(factor)
    return network.requires_grad_(requires_grad=False)


def part_of(network: EMMR, corpus: Corpus, features: Mapping[Source, FloatArray]) -> CrossFitPart:
    """A network with the training and validation examples of a corpus."""
    return CrossFitPart(network, corpus.examples("train"), corpus.examples("val"), corpus.examples("val"), features)


def transformer_path(decision: Decision) -> Distribution:
    """The answer of the transformer path, from the present modalities."""
    assert decision.transformer is not None
    return decision.transformer


def tiny_training(**changes: Any) -> TrainingSettings:
    """A schedule of seconds: two epochs, one of pretraining and of guidance, and mild augmentation."""
    quick: dict[str, Any] = {
        "epochs": 2,
        "pretraining_epochs": 1,
        "taught_pretraining_epochs": 1,
        "guidance_epochs": 1,
        "batch_size": 16,
        "average_decay": 0.5,
        "audio_variants": 0,
        "audio_noise": 0.2,
        "visual_noise": 0.2,
        "blend": 0.0,
        "taught_blend": 0.5,
        "text_exchange": 0.0,
        "audio_exchange": 0.0,
        "visual_exchange": 0.0,
        "expert_steps": 40,
        "verdict_steps": 40,
        "teacher": False,
        "adapters": {"epochs": 0},
    }
    return TrainingSettings.model_validate(quick | changes)


def tiny_recipe(**changes: Any) -> Recipe:
    """A recipe over `tiny_config`."""
    return Recipe(model=CONFIG, training=tiny_training(**changes))


def make_trainer(
    folder: Path,
    corpus: Corpus,
    features: dict[Source, FloatArray],
    *,
    config: ModelConfig = CONFIG,
    seed: int = 0,
    device: str = "cpu",
    console: Console | None = None,
    distributed: DistributedContext = SINGLE_PROCESS,
    teacher: Teacher | None = None,
    **settings: Any,
) -> Trainer:
    """A trainer of a run in a folder, quiet by default; `settings` are those of `tiny_training`."""
    return Trainer(
        corpus,
        PreparedCorpus(features, Preprocessing({}), {}, teacher),
        Recipe(model=config, training=tiny_training(**settings)),
        seed,
        RunPaths(folder, folder / "cache", 1, torch.device(device), distributed),
        console or Console(quiet=True),
    )


CROSSFIT_TOY = toy(train=48, val=24)
"""Corpus and features of the cross-fit part that tests of reliability and verdict share."""
CASES = sum(len(provided_sets(subset)) for subset in SUBSETS)
"""Cases of the verdict for each complete utterance."""
