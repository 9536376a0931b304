"""Features of a corpus as the network takes them, with the normalisation statistics of its training part."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from model.config import ModelConfig
from model.errors import ConfigError
from model.features.audio.loading import read_sound
from model.features.audio.raw_features import extract_voice
from model.features.extractor import FeatureExtractor, raw_visual_features
from model.features.normalization import Preprocessing, Statistics
from model.features.text.encoder import TextEncoder
from model.features.visual.openface import read_openface
from model.modality import Modality
from model.training.augmentation import variant
from model.training.cache import FeatureCache
from model.training.datasets.base import (
    ActionUnitMeansSource,
    Corpus,
    Example,
    OpenFaceSource,
    PrecomputedSource,
    SoundSource,
    Source,
    Split,
    TextSource,
    Unclassed,
)
from model.types import FloatArray

if TYPE_CHECKING:  # evaluation needs no teacher, nor the packages of the `train` extra
    from model.training.teacher import Teacher

TEXT_BATCH = 64
RECIPE_VERSION = "2"  # part of every cache key: raise it when a feature's definition changes


@dataclass(frozen=True, slots=True)
class PreparedCorpus:
    """The input of a training run.

    Args:
        features: source → normalised slots `(T, d)`; a source without any is a missing modality.
        preprocessing: statistics of the training part.
        adapters: of the text encoder; empty if there are none.
        teacher: for soft targets, if the corpus has the polarities of single modalities.
        encoder_id: identifies the text encoder with its adapters in the feature cache.
    """

    features: dict[Source, FloatArray]
    preprocessing: Preprocessing
    adapters: dict[str, Tensor]
    teacher: "Teacher | None" = None
    encoder_id: str = ""


@dataclass(frozen=True, slots=True)
class RawFeatures:
    """Audio and visual features `(T, d)` before normalisation, by source, and precomputed ones of texts."""

    sounds: Mapping[Source, FloatArray]
    faces: Mapping[Source, FloatArray]
    texts: Mapping[Source, FloatArray] = field(default_factory=dict)

    def measure(self, examples: Iterable[Example], config: ModelConfig) -> Preprocessing:
        """Statistics over the distinct sources of examples, with equal weight for each corpus.

        A modality without any has mean 0 and standard deviation 1.
        """
        origins = {
            source: example.origins.get(modality, "")
            for example in examples
            for modality, source in example.sources.items()
        }
        statistics = {}
        for modality, features in ((Modality.AUDIO, self.sounds), (Modality.VISUAL, self.faces)):
            by_origin: dict[str, list[FloatArray]] = {}
            for source, array in features.items():
                if source in origins:
                    by_origin.setdefault(origins[source], []).append(array)
            size = config.feature_size(modality)
            statistics[modality] = (
                Statistics.mixture([Statistics.of(arrays) for arrays in by_origin.values()])
                if by_origin
                else Statistics(np.zeros(size, dtype=np.float32), np.ones(size, dtype=np.float32))
            )
        return Preprocessing(statistics)


def raw_features(
    examples: Sequence[Example | Unclassed],
    config: ModelConfig,
    cache: Path,
    workers: int,
    *,
    varied: Sequence[Example] = (),
    variants: int = 0,
) -> RawFeatures:
    """Compute audio and visual features of examples, or read them from the cache; precomputed ones stay as they are.

    Of the sounds of `varied`, so many augmented `variants` are added.

    Raises:
        CorpusError: content that cannot be read; names the file.
        ConfigError: precomputed features of another size than the config's, or where it has them computed, or none
            where it expects them.
    """
    sources = [source for example in examples for source in example.sources.values()]
    precomputed = _precomputed(examples, config)
    sounds = [source for source in sources if isinstance(source, SoundSource)]
    clips = [source for e in varied if isinstance(source := e.sources.get(Modality.AUDIO), SoundSource)]
    sounds += [SoundSource(clip.path, index) for clip in clips for index in range(1, variants + 1)]
    faces = [source for source in sources if isinstance(source, OpenFaceSource | ActionUnitMeansSource)]
    audio = FeatureCache(cache, f"{RECIPE_VERSION} {config.audio.model_dump_json()}")
    visual = FeatureCache(cache, f"{RECIPE_VERSION} {config.visual.model_dump_json()}")
    audio_features = audio.get_or_compute(
        sounds, partial(_audio_features, config=config), title="Audio features", workers=workers
    )
    face_features = visual.get_or_compute(
        faces, partial(_visual_features, config=config), title="Face features", workers=workers
    )
    return RawFeatures(
        audio_features | precomputed[Modality.AUDIO],
        face_features | precomputed[Modality.VISUAL],
        precomputed[Modality.TEXT],
    )


def _precomputed(
    examples: Sequence[Example | Unclassed], config: ModelConfig
) -> Mapping[Modality, dict[Source, FloatArray]]:
    """The vectors that examples contain, by modality, after a comparison of their size with the config's."""
    found: dict[Modality, dict[Source, FloatArray]] = {modality: {} for modality in Modality}
    expected = config.precomputed.model_dump()
    for example in examples:
        for modality, source in example.sources.items():
            size = source.values.shape[1] if isinstance(source, PrecomputedSource) else None
            if size != expected.get(modality):
                raise ConfigError(
                    f"the corpus has {size or 'no'} precomputed {modality} features, and model.precomputed.{modality} "
                    f"of the configuration is {expected.get(modality) or 'not set'}"
                )
            if isinstance(source, PrecomputedSource):
                found[modality][source] = source.values
    return found


def slots_of(
    examples: Iterable[Example | Unclassed], raw: RawFeatures, extractor: FeatureExtractor, cache: Path, encoder_id: str
) -> dict[Source, FloatArray]:
    """Normalised slots of every source of the examples; texts are encoded or, by `encoder_id`, read from the cache."""
    texts = [s for example in examples for s in example.sources.values() if isinstance(s, TextSource)]
    recipe = f"{RECIPE_VERSION} {encoder_id} {extractor.config.text.max_tokens}"
    encoded = FeatureCache(cache, recipe).get_or_compute(
        texts,
        lambda batch: [f.array for f in extractor.text_encoder([source.text for source in batch])],
        title="Text features",
        batch_size=TEXT_BATCH,
    )
    features = ((Modality.TEXT, encoded | dict(raw.texts)), (Modality.AUDIO, raw.sounds), (Modality.VISUAL, raw.faces))
    return {s: extractor.slots(modality, array) for modality, arrays in features for s, array in arrays.items()}


def prepare_split(
    corpus: Corpus,
    split: Split,
    config: ModelConfig,
    preprocessing: Preprocessing,
    text_encoder: TextEncoder,
    encoder_id: str,
    cache: Path,
    workers: int,
) -> dict[Source, FloatArray]:
    """Normalised slots of one part of a corpus for a trained checkpoint.

    Raises:
        CorpusError: content that cannot be read; names the file.
    """
    examples = corpus.examples(split)
    extractor = FeatureExtractor(config, preprocessing, text_encoder)
    return slots_of(examples, raw_features(examples, config, cache, workers), extractor, cache, encoder_id)


def _audio_features(batch: Sequence[SoundSource], config: ModelConfig) -> list[FloatArray]:
    waveforms = (variant(read_sound(source.path)[0], source.augmentation) for source in batch)
    return [extract_voice(waveform, **config.audio.model_dump()).array for waveform in waveforms]


def _visual_features(batch: Sequence[OpenFaceSource | ActionUnitMeansSource], config: ModelConfig) -> list[FloatArray]:
    visual = config.visual
    return [
        raw_visual_features(
            np.asarray([source.values], dtype=np.float32)
            if isinstance(source, ActionUnitMeansSource)
            else read_openface(source.path, visual.columns, visual.min_confidence).values,
            config,
        )
        for source in batch
    ]
