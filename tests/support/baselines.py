"""Batches and losses for tests of the baselines."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from model.baselines.base import AnswerLoss, Baseline, LabelledUtterance, NeuralBaseline, Reference
from model.baselines.systems import BASELINES, build_network
from model.config import ModelConfig, System
from model.modality import COMPLETE, MODALITIES, ModalitySet
from model.network.batch import Batch, collate
from model.network.losses import LossSettings, Targets
from tests.support.network import random_utterances, tiny_config

CONFIG = tiny_config(text={"size": 24})  # a tenth of the encoder's
NEURAL: Sequence[System] = ("ae", "cra", "mctn", "transm", "mmin", "tate")
REFERENCES: Sequence[System] = ("late-fusion", "classical")


def config_of(system: System, **changes: object) -> ModelConfig:
    """The tiny config of a system, with short vectors for text."""
    return tiny_config(**{"system": system, "text": CONFIG.text, **changes})


def neural(system: System, seed: int = 0) -> NeuralBaseline:
    """A baseline with random weights, in eval mode."""
    torch.manual_seed(seed)
    network = build_network(config_of(system))
    assert isinstance(network, NeuralBaseline)
    return network.eval()


def labelled(config: ModelConfig, count: int, seed: int = 0) -> list[LabelledUtterance]:
    """Complete utterances of short random content, whose label every modality shows; all classes in turn."""
    generator = torch.Generator().manual_seed(9)
    centres = {m: torch.randn(len(config.classes), config.feature_size(m), generator=generator) for m in MODALITIES}
    utterances = random_utterances(config, [COMPLETE] * count, seed=seed, longest=6)
    labels = [number % len(config.classes) for number in range(count)]
    return [
        (replace(u, features={m: x + centres[m][label].numpy() for m, x in u.features.items()}), label)
        for u, label in zip(utterances, labels, strict=True)
    ]


def fitted(system: System) -> Baseline:
    """A baseline of any kind in eval mode; a reference is fitted to a few utterances."""
    return neural(system) if system in NEURAL else _fitted_reference(system)


@cache
def _fitted_reference(system: System) -> Reference:
    network = BASELINES[system](config_of(system))
    assert isinstance(network, Reference)
    network.fit(labelled(CONFIG, 30), labelled(CONFIG, 15, seed=1), seed=0)
    return network.eval()


def batch_of(utterances: Sequence[LabelledUtterance], config: ModelConfig = CONFIG) -> tuple[Batch, AnswerLoss]:
    """A batch in which everything is present, and the loss of its answers."""
    labels = torch.tensor([label for _, label in utterances])
    batch = collate([utterance for utterance, _ in utterances], config, room_to_impute=True)
    return batch, AnswerLoss(Targets(labels, {}), LossSettings())


def hide(batch: Batch, subsets: Sequence[ModalitySet]) -> Batch:
    """The batch with the modalities of each subset present, by row."""
    return batch.with_present(torch.tensor([subset.mask() for subset in subsets]))


def with_content(batch: Batch, rows: Tensor, value: Callable[[Tensor], Tensor]) -> Batch:
    """The batch with the features replaced where `rows` `(B, 3)` is True, in every slot, which all count as valid."""
    features = {
        m: torch.where(rows[:, i, None, None], value(batch.features[m]), batch.features[m])
        for i, m in enumerate(MODALITIES)
    }
    valid = {m: batch.valid[m] | rows[:, i, None] for i, m in enumerate(MODALITIES)}
    return replace(batch, features=features, valid=valid)
