"""Voice slots of speech and of generated sounds without speech, for the check of `model.network.reliability`."""

from collections.abc import Iterable
from functools import partial
from typing import Final

import numpy as np

from model.config import ModelConfig
from model.errors import EmptyModality
from model.features.audio.raw_features import extract_voice
from model.features.normalization import reduce_to_slots
from model.modality import Modality
from model.training.cache import process_pool
from model.training.datasets.base import Corpus, Example, SoundSource
from model.training.nonspeech import nonspeech
from model.training.prepare import PreparedCorpus
from model.training.trainer import RunPaths
from model.types import FloatArray

SOUNDS: Final = 3_000
SEED: Final = 7


def speech_slots(
    corpus: Corpus, config: ModelConfig, prepared: PreparedCorpus, paths: RunPaths, sounds: int = SOUNDS
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Means over slots of training speech with its variants, of validation speech, and of generated sounds.

    Args:
        corpus: source of the speech.
        config: of the network.
        prepared: the corpus's features.
        paths: gives the number of processes.
        sounds: number of generated sounds.

    Returns:
        Three arrays `(N, d)`.
    """
    features, slots = prepared.features, config.slots
    training = _voices([*corpus.examples("train"), *corpus.unimodal("train")])
    validation = _voices([*corpus.examples("val"), *corpus.unimodal("val")])
    seen = [s for s in features if isinstance(s, SoundSource) and SoundSource(s.path) in training]
    unseen = [s for s in validation if s in features]
    statistics = prepared.preprocessing.statistics[Modality.AUDIO]
    raw = nonspeech_features(np.random.default_rng(SEED), sounds, config, paths.workers)
    other = [reduce_to_slots(statistics.normalise(x), slots.audio, slots.reduction) for x in raw]
    return _means(features[s] for s in seen), _means(features[s] for s in unseen), _means(other)


def _means(arrays: Iterable[FloatArray]) -> FloatArray:
    return np.stack([array.mean(axis=0) for array in arrays])


def nonspeech_features(
    rng: np.random.Generator, count: int, config: ModelConfig, workers: int = 1, family: str | None = None
) -> list[FloatArray]:
    """Features `(T, d)`, before normalisation, of generated sounds, each from its own random stream.

    Args:
        rng: source of the streams.
        count: number of sounds.
        config: which features.
        workers: processes.
        family: one of `model.training.nonspeech.FAMILIES`; a random one for each sound when None.
    """
    compute = partial(_features, config=config, family=family)
    streams = rng.spawn(count)
    if workers == 1:
        return [compute(stream) for stream in streams]
    with process_pool(workers) as pool:
        return list(pool.map(compute, streams, chunksize=16))


def _features(rng: np.random.Generator, config: ModelConfig, family: str | None) -> FloatArray:
    while True:
        try:
            return extract_voice(nonspeech(rng, family), **config.audio.model_dump()).array
        except EmptyModality:  # the sound drawn is too quiet
            continue


def _voices(examples: Iterable[Example]) -> dict[SoundSource, None]:
    sources = (example.sources.get(Modality.AUDIO) for example in examples)
    return {source: None for source in sources if isinstance(source, SoundSource)}
