"""A corpus's content → normalised slots in memory, with the statistics and adapters that serving will need.

For: everything that happens once, before the first training step, or once before an evaluation.
Does not know: networks, losses, epochs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from model.config import ModelConfig
from model.features.audio.loading import read_sound
from model.features.audio.raw_features import raw_audio_features
from model.features.extractor import FeatureExtractor, raw_visual_features
from model.features.normalization import Preprocessing, Statistics
from model.features.text.encoder import TextEncoder
from model.features.visual.openface import read_openface
from model.modality import Modality
from model.training.augmentation import variant
from model.training.cache import FeatureCache, Features
from model.training.datasets.base import (
    ActionUnitMeansSource,
    Corpus,
    Example,
    OpenFaceSource,
    SoundSource,
    Source,
    Split,
    TextSource,
    Unclassed,
)
from model.types import FloatArray

if TYPE_CHECKING:  # measuring needs no teacher, nor the packages behind it
    from model.training.teacher import Teacher

RECIPE_VERSION = "2"  # part of every cache key: raise it when a feature's definition changes


@dataclass(frozen=True, slots=True)
class PreparedCorpus:
    """A corpus as the network takes it.

    Args:
        features: source → normalised slots `(T, d)`; a source without any is a missing modality.
        preprocessing: the training split's statistics.
        adapters: of the text encoder; empty when there are none.
        teacher: who gives soft targets, where the corpus allows it.
        encoder_id: tells the text encoder with its adapters from every other in the cache.
    """

    features: dict[Source, FloatArray]
    preprocessing: Preprocessing
    adapters: dict[str, Tensor]
    teacher: "Teacher | None" = None
    encoder_id: str = ""


@dataclass(frozen=True, slots=True)
class RawFeatures:
    """Sound and face features before normalisation."""

    sounds: Features
    faces: Features

    def measure(self, examples: Iterable[Example], config: ModelConfig) -> Preprocessing:
        """Statistics over the given examples' clips, each counted once; unit statistics for a modality without any.

        Corpora count equally, however large.
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
    """Compute, or read from the cache, sound and face features of examples.

    Args:
        examples: of any part, and what is beside them.
        config: which features.
        cache: folder of the cache.
        workers: processes for what is not cached.
        varied: examples whose clips are wanted in augmented variants as well.
        variants: how many of each.

    Raises:
        CorpusError: content that cannot be read; names the file.
    """
    sources = [source for example in examples for source in example.sources.values()]
    sounds = [source for source in sources if isinstance(source, SoundSource)]
    sounds += [
        SoundSource(source.path, index)
        for example in varied
        for source in example.sources.values()
        if isinstance(source, SoundSource)
        for index in range(1, variants + 1)
    ]
    faces = [source for source in sources if isinstance(source, OpenFaceSource | ActionUnitMeansSource)]
    recipe = f"{RECIPE_VERSION} {config.audio.model_dump_json()}"
    computed = FeatureCache(cache, recipe).prepare(
        sounds, partial(_sound_features, config=config), workers=workers, title="Acoustic features"
    )
    recipe = f"{RECIPE_VERSION} {config.visual.model_dump_json()}"
    return RawFeatures(
        computed,
        FeatureCache(cache, recipe).prepare(
            faces, partial(_face_features, config=config), workers=workers, title="Face features"
        ),
    )


def slots_of(
    examples: Iterable[Example | Unclassed], raw: RawFeatures, extractor: FeatureExtractor, cache: Path, encoder_id: str
) -> dict[Source, FloatArray]:
    """Normalised slots of every source the examples use, texts encoded.

    Args:
        examples: of any part, and what is beside them.
        raw: their sound and face features.
        extractor: with the statistics and the encoder to use.
        cache: folder of the cache.
        encoder_id: tells this encoder, adapters included, from every other in the cache.
    """
    texts = [s for example in examples for s in example.sources.values() if isinstance(s, TextSource)]
    encoded = FeatureCache(cache, f"{RECIPE_VERSION} {encoder_id} {extractor.config.text.max_tokens}").prepare_batches(
        texts,
        lambda batch: [f.array for f in extractor.text_encoder([source.text for source in batch])],
        title="Text features",
    )
    slots: dict[Source, FloatArray] = {s: extractor.slots(Modality.TEXT, array) for s, array in encoded.items()}
    slots |= {s: extractor.slots(Modality.AUDIO, array) for s, array in raw.sounds.items()}
    slots |= {s: extractor.slots(Modality.VISUAL, array) for s, array in raw.faces.items()}
    return slots


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
    """Normalised slots of one part of a corpus, as a trained checkpoint wants them.

    Raises:
        CorpusError: content that cannot be read; names the file.
    """
    examples = corpus.examples(split)
    extractor = FeatureExtractor(config, preprocessing, text_encoder)
    return slots_of(examples, raw_features(examples, config, cache, workers), extractor, cache, encoder_id)


def _sound_features(source: SoundSource, config: ModelConfig) -> FloatArray:
    waveform = variant(read_sound(source.path).waveform, source.augmentation)
    audio = config.audio
    return raw_audio_features(
        waveform,
        dynamics=audio.dynamics,
        silence_dbfs=audio.silence_dbfs,
        conditioned=audio.conditioned,
        encoder=audio.encoder,
    )


def _face_features(source: OpenFaceSource | ActionUnitMeansSource, config: ModelConfig) -> FloatArray:
    if isinstance(source, ActionUnitMeansSource):
        return raw_visual_features(np.asarray([source.values], dtype=np.float32), config)
    track = read_openface(source.path, config.visual.columns, config.visual.min_confidence)
    return raw_visual_features(track.values, config)
