"""A tiny random network and random utterances, at sizes that take milliseconds."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch

from model.config import ModelConfig, NetworkConfig, Slots
from model.modality import MODALITIES, ModalitySet, Utterance
from model.network.emmr import EMMR

ABLATIONS: Final[dict[str, dict[str, object]]] = {
    "tf": {"branches": ("transformer",)},
    "tf+ae": {"branches": ("transformer", "autoencoder")},
    "tf+mmin": {"branches": ("transformer", "cascade")},
    "average": {"ensemble": "average"},
    "maximum": {"ensemble": "maximum"},
}
"""Fields of the network of the ablations of the paper's Table 3."""


def tiny_config(**changes: object) -> ModelConfig:
    """A config of the shipped shape at a tenth of its size."""
    network = NetworkConfig(
        hidden=16,
        feedforward=32,
        heads=4,
        autoencoder=(16, 12, 10, 8, 10, 12, 16),
        imputed_slots=Slots(text=4, audio=5, visual=1),
    )
    given: dict[str, object] = {"slots": Slots(text=12, audio=20, visual=1), "network": network, **changes}
    return ModelConfig.model_validate(given)


def ablation_config(name: str) -> ModelConfig:
    """The tiny config of one of `ABLATIONS`."""
    config = tiny_config()
    network = config.network.model_dump() | ABLATIONS[name]
    return tiny_config(network=network)


def random_network(config: ModelConfig, seed: int = 0) -> EMMR:
    """A network with random weights, in eval mode."""
    torch.manual_seed(seed)
    return EMMR(config).eval()


def random_utterances(
    config: ModelConfig, presences: Sequence[ModalitySet], seed: int = 0, longest: int = 20
) -> list[Utterance]:
    """One utterance for each presence, of random lengths."""
    rng = np.random.default_rng(seed)

    def slots(limit: int) -> int:
        return int(rng.integers(1, min(limit, longest) + 1))

    return [
        Utterance(
            {
                m: rng.standard_normal((slots(config.slots.of(m)), config.feature_size(m))).astype(np.float32)
                for m in MODALITIES
                if m in presence
            }
        )
        for presence in presences
    ]
