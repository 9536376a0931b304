"""The optimiser of a run, and its learning rate as a function of the step.

For: pretraining, guidance network and EMMR alike.
Does not know: batches or losses.
"""

import math

import torch
from torch import nn

from model.training.pretraining import PRETRAINED
from model.training.settings import TrainingSettings


def build_optimiser(network: nn.Module, settings: TrainingSettings, *, encoder_rate: float = 1.0) -> torch.optim.AdamW:
    """AdamW; what pretraining has shaped gets its own factor on the rate, so that few clips do not reshape it.

    Args:
        network: whose trainable parameters to optimise.
        settings: rate and weight decay.
        encoder_rate: the factor of what pretraining shapes.
    """
    trained = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in trained if not name.startswith(PRETRAINED)], "factor": 1.0},
        {"params": [p for name, p in trained if name.startswith(PRETRAINED)], "factor": encoder_rate},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def set_rate(optimiser: torch.optim.Optimizer, settings: TrainingSettings, step: int, total: int) -> None:
    """Linear warm-up, then a cosine to zero; a function of the step alone, so nothing of it needs to be stored."""
    warm = max(1, int(settings.warmup * total))
    factor = (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))
    for group in optimiser.param_groups:
        group["lr"] = settings.learning_rate * factor * group["factor"]
