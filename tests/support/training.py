"""A toy corpus a network can learn in seconds, and recipes as small as it.

For: tests of training that need no files.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.modality import COMPLETE, MODALITIES, SUBSETS, Modality, ModalitySet
from model.training.datasets.base import (
    ActionUnitMeansSource,
    Example,
    SoundSource,
    Source,
    Split,
    TextSource,
    Unclassed,
)
from model.training.settings import Recipe, TrainingSettings
from model.types import FloatArray
from tests.support.network import tiny_config

CLASSES = ("negative", "neutral", "positive")
CONFIG = tiny_config()


class Toy:
    """A corpus in memory; `redraws` counts how often it was drawn from, and `fail_at` stops a run there."""

    name: str = "toy"
    classes: tuple[str, ...] = CLASSES

    def __init__(self, parts: Mapping[Split, Sequence[Example]], fail_at: int | None = None) -> None:
        self.parts, self.fail_at, self.redraws = parts, fail_at, 0

    def examples(self, split: Split) -> Sequence[Example]:
        return self.parts.get(split, ())

    def unclassed(self) -> Sequence[Unclassed]:
        """Nothing."""
        return ()

    def unimodal(self, split: Split) -> Sequence[Example]:
        """Nothing."""
        return ()

    def redraw(self, rng: np.random.Generator) -> Sequence[Example]:
        if self.redraws == self.fail_at:
            raise KeyboardInterrupt
        self.redraws += 1
        return self.parts["train"]


def toy(train: int = 48, val: int = 21, *, mixed: bool = False) -> tuple[Toy, dict[Source, FloatArray]]:
    """A corpus whose classes lie far apart in every modality, and its features.

    Args:
        train: training examples.
        val: validation examples.
        mixed: let examples lack modalities, each of the seven subsets in turn.
    """
    rng = np.random.default_rng(0)
    centres = {m: 2 * rng.standard_normal((3, CONFIG.feature_size(m))) for m in MODALITIES}
    features: dict[Source, FloatArray] = {}

    def example(split: str, number: int, presence: ModalitySet) -> Example:
        label = number % 3
        sources: dict[Modality, Source] = {}
        for modality in presence:
            slots = 1 if modality == Modality.VISUAL else int(rng.integers(2, 9))
            noise = rng.standard_normal((slots, CONFIG.feature_size(modality)))
            sources[modality] = source_of(modality, f"{split}-{number}")
            features[sources[modality]] = (centres[modality][label] + noise).astype(np.float32)
        return Example(f"{split}-{number}", CLASSES[label], sources)

    def part(split: Split, count: int) -> list[Example]:
        return [example(split, n, SUBSETS[n % 7] if mixed else COMPLETE) for n in range(count)]

    return Toy({"train": part("train", train), "val": part("val", val)}), features


def source_of(modality: Modality, name: str) -> Source:
    """A source of a modality; nothing lies behind it."""
    if modality == Modality.TEXT:
        return TextSource(name)
    if modality == Modality.AUDIO:
        return SoundSource(Path(name))
    return ActionUnitMeansSource(name, (0.0,))


def tiny_training(**changes: Any) -> TrainingSettings:
    """A schedule of seconds: two epochs, one of pretraining and guidance, mild augmentation, adapters on request."""
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
