"""Voice slots of speech and of generated sounds without speech, for the check of `model.network.reliability`."""

import multiprocessing
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Final

import numpy as np

from model.config import ModelConfig
from model.errors import EmptyModality
from model.features.audio.raw_features import raw_audio_features
from model.features.normalization import reduce_to_slots
from model.modality import Modality
from model.training.datasets.base import Corpus, Example, SoundSource
from model.training.experiment import RunPaths
from model.training.nonspeech import nonspeech
from model.training.prepare import PreparedCorpus
from model.types import FloatArray

SOUNDS: Final = 3_000  # generated
SEED: Final = 7


def speech_slots(
    corpus: Corpus, config: ModelConfig, prepared: PreparedCorpus, place: RunPaths, sounds: int = SOUNDS
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Means over slots of training speech, its variants among them, of validation speech, and of other sounds.

    Args:
        corpus: whose voices count.
        config: of the network.
        prepared: the corpus's features.
        place: how many processes may be used.
        sounds: how many to generate.

    Returns:
        three times `(N, d)`.
    """
    training = _voices([*corpus.examples("train"), *corpus.unimodal("train")])
    unseen = _voices([*corpus.examples("val"), *corpus.unimodal("val")])
    spoken = [
        slots.mean(axis=0)
        for source, slots in prepared.features.items()
        if isinstance(source, SoundSource) and SoundSource(source.path) in training
    ]
    unknown = [prepared.features[source].mean(axis=0) for source in unseen if source in prepared.features]
    statistics = prepared.preprocessing.statistics[Modality.AUDIO]
    raw = nonspeech_features(np.random.default_rng(SEED), sounds, config, place.workers)
    slots = config.slots
    other = [reduce_to_slots(statistics.normalise(x), slots.audio, slots.reduction).mean(axis=0) for x in raw]
    return np.stack(spoken), np.stack(unknown), np.stack(other)


def nonspeech_features(
    rng: np.random.Generator, count: int, config: ModelConfig, workers: int = 1, family: str | None = None
) -> list[FloatArray]:
    """Features `(T, d)`, before normalisation, of generated sounds, each from a stream of its own.

    Args:
        rng: where every choice is drawn from.
        count: of sounds.
        config: says which features.
        workers: processes.
        family: of `model.training.nonspeech.FAMILIES`; all when None.
    """
    compute = partial(_features, config=config, family=family)
    streams = rng.spawn(count)
    if workers == 1:
        return [compute(stream) for stream in streams]
    # Spawned, not forked: the parent may hold threads (torch, BLAS) that a forked child would find half-alive.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(compute, streams, chunksize=16))


def _features(rng: np.random.Generator, config: ModelConfig, family: str | None) -> FloatArray:
    audio = config.audio
    while True:
        try:
            return raw_audio_features(
                nonspeech(rng, family),
                dynamics=audio.dynamics,
                silence_dbfs=audio.silence_dbfs,
                conditioned=audio.conditioned,
                encoder=audio.encoder,
            )
        except EmptyModality:  # drawn too quiet
            continue


def _voices(examples: Iterable[Example]) -> dict[SoundSource, None]:
    sources = (example.sources.get(Modality.AUDIO) for example in examples)
    return {source: None for source in sources if isinstance(source, SoundSource)}
