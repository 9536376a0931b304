"""Start of a training from the weights of another: which of its tensors the new network takes over."""

import math
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from model.baselines.systems import Network
from model.checkpoint import Checkpoint
from model.config import EMMR, ModelConfig
from model.errors import ConfigError

CLASS_LAYERS: Final = ("classifier.", "modality_heads.", "subsets.heads.")
"""Prefixes of the tensors of EMMR that have a row for each class."""
SHARES: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Candidates for the share of the trained parameters in the average with the initial ones."""
DEFAULT_SHARE: Final = 0.5
"""With fewer than `MIN_SELECTED` validation utterances. Chosen on EMOVO and TurEV (docs/training.md)."""
MIN_SELECTED: Final = 30


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


@torch.no_grad()
def average(network: Network, trained: Mapping[str, Tensor], checkpoint: Checkpoint, share: float) -> None:
    """Give a network the average of trained parameters and those of the checkpoint that training started from.

    Source: Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022.

    Args:
        network: with the classes of the checkpoint.
        trained: its state after training.
        checkpoint: see above.
        share: of the trained parameters, in [0, 1].
    """
    initial = checkpoint.network.state_dict()
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.lerp(initial[name].to(value.device), trained[name], share))


def select_share(scores: Mapping[float, float], utterances: int) -> float:
    """The smallest share of the trained parameters within the standard error of the best.

    Validation data cannot resolve smaller differences, and the initial weights had more data.

    Args:
        scores: share → macro-F1 on so many validation `utterances`.
        utterances: with fewer than `MIN_SELECTED`, `DEFAULT_SHARE` is returned.
    """
    if utterances < MIN_SELECTED:
        return DEFAULT_SHARE
    error = 0.5 / math.sqrt(utterances)
    return min(share for share, score in scores.items() if score >= max(scores.values()) - error)
