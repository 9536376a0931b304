"""Start of a training from the weights of another: which of its tensors the new network takes over."""

from typing import Final

import torch

from model.baselines.systems import Network
from model.checkpoint import Checkpoint
from model.config import EMMR, ModelConfig
from model.errors import ConfigError

CLASS_LAYERS: Final = ("classifier.", "modality_heads.", "subsets.heads.")
"""Prefixes of the tensors of EMMR that have a row for each class."""


def fine_tuned_config(checkpoint: Checkpoint, classes: tuple[str, ...], name: str) -> ModelConfig:
    """The config of weights, with other classes and another name.

    Raises:
        ConfigError: the weights are not of EMMR, or read features that a corpus has to contain.
    """
    config = checkpoint.config
    if config.system != EMMR:
        raise ConfigError(
            f"{checkpoint.folder}: training can start from weights of emmr, and these are {config.system}"
        )
    if any(config.precomputed.model_dump().values()) or config.task != "classification":
        raise ConfigError(
            f"{checkpoint.folder}: training cannot start from weights of precomputed features or of scores"
        )
    return ModelConfig.model_validate({**config.model_dump(), "classes": classes, "name": name})


@torch.no_grad()
def take_over(network: Network, checkpoint: Checkpoint) -> None:
    """Copy the tensors of a checkpoint of the same sizes into a network.

    Of the layers with a row for each class, the rows of classes that both have are copied, by name; the others keep
    their random start.
    """
    rows = [
        (network.config.classes.index(name), position)
        for position, name in enumerate(checkpoint.config.classes)
        if name in network.config.classes
    ]
    state = network.state_dict()  # its tensors are those of the network
    for name, value in checkpoint.network.state_dict().items():
        if name.startswith(CLASS_LAYERS):
            for own, theirs in rows:
                state[name][own] = value[theirs]
        else:
            state[name].copy_(value)
