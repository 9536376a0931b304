"""One training run from a corpus to a network, in steps that a repeated call finds done.

For: `emmr train` and the shipped weights alike.
Does not know: what is made of the network afterwards (`commands`, `weights`).
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.config import ModelConfig
from model.features.extractor import FeatureExtractor
from model.features.text.encoder import TextEncoder
from model.modality import Modality
from model.network.emmr import EMMR
from model.training.adapters import train_adapters
from model.training.datasets.base import Corpus, Example, Source, Split, Unclassed
from model.training.distributed import ALONE, DistributedContext
from model.training.prepare import PreparedCorpus, raw_features, slots_of
from model.training.progress import FitReport
from model.training.settings import Recipe
from model.training.teacher import Teacher, fit_teacher
from model.training.trainer import Trainer
from model.types import FloatArray

SPLITS: tuple[Split, ...] = ("train", "val", "test")
ADAPTERS = "adapters.safetensors"
TEACHER = "teacher.safetensors"


@dataclass(frozen=True, slots=True)
class RunPaths:
    """Where a run works.

    Args:
        folder: of the run: adapters, state of each seed, TensorBoard scalars.
        cache: of features, shared by runs.
        workers: processes for features that are not cached.
        device: of encoder and network.
        world: the processes that train together.
    """

    folder: Path
    cache: Path
    workers: int
    device: torch.device
    world: DistributedContext = ALONE


def prepare(corpus: Corpus, recipe: Recipe, place: RunPaths) -> PreparedCorpus:
    """Adapters, features and statistics; what an earlier call, or the process that leads, did is read, not done again.

    Raises:
        CorpusError: content that cannot be read; names the file.
        ConfigError: the text encoder cannot be loaded.
    """
    with place.world.in_turn():
        return _prepare(corpus, recipe, place)


def _prepare(corpus: Corpus, recipe: Recipe, place: RunPaths) -> PreparedCorpus:
    config, training = recipe.model, corpus.examples("train")
    parts: list[Example | Unclassed] = [
        example for split in SPLITS for example in (*corpus.examples(split), *corpus.unimodal(split))
    ]
    parts += corpus.unclassed()
    shown = [*training, *corpus.unimodal("train")]
    adapters, encoder_id = _adapters(corpus, training, recipe, place)
    encoder = TextEncoder(config.text, place.device)
    encoder.merge({name: value.to(place.device) for name, value in adapters.items()})
    raw = raw_features(parts, config, place.cache, place.workers, varied=shown, variants=recipe.training.audio_variants)
    preprocessing = raw.measure(shown, config)
    extractor = FeatureExtractor(config, preprocessing, encoder)
    slots = slots_of(parts, raw, extractor, place.cache, encoder_id)
    teacher = _teacher(corpus, recipe, slots, encoder_id, place) if recipe.training.teacher else None
    return PreparedCorpus(slots, preprocessing, adapters, teacher, encoder_id)


def fit(
    corpus: Corpus,
    prepared: PreparedCorpus,
    recipe: Recipe,
    seed: int,
    place: RunPaths,
    *,
    resume: bool,
    console: Console | None = None,
) -> tuple[EMMR, FitReport]:
    """Train one seed.

    Raises:
        ConfigError: nothing to train or select on, or a run to resume that had another recipe.
    """
    trainer = Trainer(
        corpus,
        prepared.features,
        recipe.model,
        recipe.training,
        seed=seed,
        device=place.device,
        folder=place.folder / f"seed-{seed}",
        console=console,
        world=place.world,
        teacher=prepared.teacher,
    )
    return trainer.fit(resume=resume)


def _adapters(
    corpus: Corpus, training: Sequence[Example], recipe: Recipe, place: RunPaths
) -> tuple[dict[str, Tensor], str]:
    """The adapters, and a name under which features made with them are cached."""
    text, settings = recipe.model.text, recipe.training.adapters
    path = _kept(place, ADAPTERS, corpus.name, text.model_dump(), settings.model_dump(), _told(training))
    if not path.is_file():
        _save(train_adapters(TextEncoder(text, place.device), training, corpus.classes, settings), path)
    return load_file(path), f"{text.encoder} {_digest(path)}"


def _teacher(
    corpus: Corpus, recipe: Recipe, features: dict[Source, FloatArray], encoder_id: str, place: RunPaths
) -> Teacher | None:
    """The teacher, fitted once for a folder, corpus and recipe."""
    training, validation = corpus.examples("train"), corpus.examples("val")
    alone = corpus.unimodal("train"), corpus.unimodal("val")
    variants = recipe.training.audio_variants
    path = _kept(
        place,
        TEACHER,
        corpus.name,
        recipe.model.model_dump(exclude={"name", "network"}),
        variants,
        recipe.training.expert_steps,
        encoder_id,
        _told(training),
        _told(validation),
        [_told(examples) for examples in alone],
        [(str(other.sources), sorted(other.emotions.items())) for other in corpus.unclassed()],
    )
    if not path.is_file():
        teacher = fit_teacher(
            training,
            validation,
            features,
            recipe.model,
            alone=alone,
            unclassed=corpus.unclassed(),
            variants=variants,
            steps=recipe.training.expert_steps,
        )
        if teacher is None:
            return None
        _save(teacher.state_dict(), path)
    return Teacher.of_state(load_file(path)).eval().to(place.device)


def _told(examples: Sequence[Example]) -> list[object]:
    """What examples say in words, which tells one set of them from another wherever their files lie."""
    return [
        (
            example.id,
            example.label,
            getattr(example.sources.get(Modality.TEXT), "text", ""),
            sorted(example.modality_labels.items()),
            sorted(example.emotions.items()),
        )
        for example in examples
    ]


def _kept(place: RunPaths, name: str, *content: object) -> Path:
    """Where a run keeps what it made of some content."""
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    return place.folder / f"{digest}-{name}"


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".partial")
    save_file(tensors, aside)
    aside.replace(path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def adapted_config(config: ModelConfig, classes: Sequence[str], name: str) -> ModelConfig:
    """A config under another name, for a corpus's classes."""
    return ModelConfig.model_validate({**config.model_dump(), "classes": tuple(classes), "name": name})
