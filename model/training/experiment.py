"""Everything that precedes the training of a network: adapters, features, statistics and teacher of a corpus.

Adapters and teacher are stored in the folder of the run and reused by later calls.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from model.checkpoint import Checkpoint, read_adapters
from model.config import ModelConfig
from model.features.extractor import FeatureExtractor
from model.features.text.encoder import TextEncoder
from model.modality import Modality
from model.training.adapters import train_adapters
from model.training.datasets.base import Corpus, Example, PrecomputedSource, Source, Split, Unclassed
from model.training.datasets.manifest import ManifestCorpus
from model.training.prepare import PreparedCorpus, raw_features, slots_of
from model.training.settings import Recipe
from model.training.teacher import Teacher, fit_teacher
from model.training.trainer import RunPaths
from model.types import FloatArray


def prepare(corpus: Corpus, recipe: Recipe, paths: RunPaths, initial: Checkpoint | None = None) -> PreparedCorpus:
    """Compute adapters, features, statistics and teacher, or read them if an earlier call or the main process did.

    Adapters and statistics are those of the `initial` weights where training starts from some.

    Raises:
        CorpusError: content that cannot be read; names the file.
        ConfigError: the text encoder cannot be loaded.
    """
    config = recipe.model
    splits: tuple[Split, ...] = ("train", "val", "test")
    parts: list[Example | Unclassed] = [e for s in splits for e in (*corpus.examples(s), *corpus.unimodal(s))]
    parts += corpus.unclassed()
    measured = [*corpus.examples("train"), *corpus.unimodal("train")]
    with paths.distributed.main_process_first():
        if initial is None:
            adapters, encoder_id = _adapters(corpus, recipe, paths)
        else:
            adapters, encoder_id = read_adapters(initial.folder), f"checkpoint {initial.version}"
        encoder = TextEncoder(config.text, paths.device)
        encoder.merge({name: value.to(paths.device) for name, value in adapters.items()})
        variants = recipe.training.audio_variants
        raw = raw_features(parts, config, paths.cache, paths.workers, varied=measured, variants=variants)
        preprocessing = raw.measure(measured, config) if initial is None else initial.preprocessing
        extractor = FeatureExtractor(config, preprocessing, encoder)
        slots = slots_of(parts, raw, extractor, paths.cache, encoder_id)
        teacher = _teacher(corpus, recipe, slots, encoder_id, paths) if recipe.training.teacher else None
    return PreparedCorpus(slots, preprocessing, adapters, teacher, encoder_id)


def _adapters(corpus: Corpus, recipe: Recipe, paths: RunPaths) -> tuple[dict[str, Tensor], str]:
    """The adapters, and an identifier of the encoder with them for the feature cache."""
    text, settings, training = recipe.model.text, recipe.training.adapters, corpus.examples("train")
    path = _store(
        paths.folder,
        "adapters",
        [corpus.name, text.model_dump(), settings.model_dump(), _content(training)],
        lambda: train_adapters(TextEncoder(text, paths.device), training, corpus.classes, settings),
    )
    assert path is not None
    with path.open("rb") as file:
        return load_file(path), f"{text.encoder} {hashlib.file_digest(file, 'sha256').hexdigest()}"


def _teacher(
    corpus: Corpus, recipe: Recipe, features: Mapping[Source, FloatArray], encoder_id: str, paths: RunPaths
) -> Teacher | None:
    config, settings = recipe.model, recipe.training
    # Of the user's own utterances only the label is known, and it is what each modality is taken for.
    shared = isinstance(corpus, ManifestCorpus)

    def compute() -> dict[str, Tensor] | None:
        steps, variants = settings.expert_steps, settings.audio_variants
        teacher = fit_teacher(corpus, features, config, variants=variants, steps=steps, shared_labels=shared)
        return None if teacher is None else teacher.state_dict()

    content = [
        corpus.name,
        config.model_dump(exclude={"name", "network", "system"}),
        settings.audio_variants,
        settings.expert_steps,
        encoder_id,
        _content(corpus.examples("train")),
        _content(corpus.examples("val")),
        [_content(corpus.unimodal("train")), _content(corpus.unimodal("val"))],
        [(str(other.sources), sorted(other.emotions.items())) for other in corpus.unclassed()],
    ]
    if shared:  # files of a manifest may change under the same names
        content.append(_digest([*corpus.examples("train"), *corpus.examples("val")], features))
    path = _store(paths.folder, "teacher", content, compute)
    return None if path is None else Teacher.of_state(load_file(path)).eval().to(paths.device)


def _content(examples: Sequence[Example]) -> list[object]:
    """Texts and labels of examples, which identify them wherever their files are stored."""
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


def _digest(examples: Sequence[Example], features: Mapping[Source, FloatArray]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        for source in example.sources.values():
            digest.update(features[source].tobytes() if source in features else b"absent")
    return digest.hexdigest()


def _store(
    folder: Path, name: str, content: Sequence[object], compute: Callable[[], dict[str, Tensor] | None]
) -> Path | None:
    """The file of tensors computed from some content; computed if it does not exist; None if there are none."""
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    path = folder / f"{digest}-{name}.safetensors"
    if not path.is_file():
        tensors = compute()
        if tensors is None:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".partial")
        save_file(tensors, temporary)
        temporary.replace(path)
    return path


def adapted_config(config: ModelConfig, corpus: Corpus, name: str) -> ModelConfig:
    """The config with another name, and with the classes, task and sizes of precomputed features of a corpus."""
    examples = corpus.examples("train")
    sizes = {m: s.values.shape[1] for e in examples for m, s in e.sources.items() if isinstance(s, PrecomputedSource)}
    task = "regression" if any(example.score is not None for example in examples) else "classification"
    changes = {"classes": corpus.classes, "name": name, "task": task, "precomputed": sizes}
    return ModelConfig.model_validate({**config.model_dump(), **changes})
