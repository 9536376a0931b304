"""What a baseline is to the trainer, the checkpoint and the pipeline, and the inputs that all baselines share.

Shapes: B batch, T_m slots of modality m in this batch, d_m features of a slot, C classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig
from model.modality import MODALITIES, Modality, Utterance
from model.network.batch import Batch
from model.network.layers import masked_mean
from model.network.losses import LossSettings, SoftTargets, Targets, score_distance, soft_cross_entropy

M = TypeVar("M", bound=nn.Module)
LabelledUtterance = tuple[Utterance, int]
"""An utterance and the index of its class."""


class Baseline(nn.Module, ABC):
    """A system that EMMR is compared with.

    Args:
        config: feature sizes, slots and classes. Sizes that a system's source gives are constants of its module.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """`(B, C)` logits, from the present modalities alone."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a training, which starts from the best epoch of the part before it. Adam with a constant rate.

    Args:
        epochs: at most.
        learning_rate: of Adam (Kingma & Ba 2015).
        weight_decay: factor of the L2 penalty's gradient.
        clip_norm: maximum norm of the gradient; None for the recipe's. So with the next two.
        batch_size: utterances in a step.
        patience: epochs without an improvement of the validation macro-F1 before the stage stops.
        complete: nothing is made missing, instead of the missing patterns that all systems share.
    """

    epochs: int
    learning_rate: float
    weight_decay: float = 0.0
    clip_norm: float | None = None
    batch_size: int | None = None
    patience: int | None = None
    complete: bool = False


@dataclass(frozen=True, slots=True)
class AnswerLoss:
    """The loss of a batch's answers, the same for every baseline.

    Args:
        targets: labels of the batch.
        settings: label smoothing, and distance and weight of the scores of a regression.
        soft: replaces the labels if given.
    """

    targets: Targets
    settings: LossSettings
    soft: SoftTargets | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """Cross-entropy of `(B, C)` logits, in a regression with the distance of the expected score; a scalar."""
        targets, settings = self.targets, self.settings
        if self.soft is not None:
            loss = soft_cross_entropy(logits, self.soft.answer, targets.class_weights)
        else:
            weights, smoothing = targets.class_weights, settings.label_smoothing
            loss = F.cross_entropy(logits, targets.labels, weights, label_smoothing=smoothing)
        if targets.scores is not None:
            loss = loss + settings.score_weight * score_distance(logits, targets, settings)
        return loss


class NeuralBaseline(Baseline):
    """A baseline trained by gradient descent.

    Attributes:
        stages: of its training, in order.
        stage: index of the stage being trained; the last one in inference.
    """

    stages: ClassVar[tuple[Stage, ...]]

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.stage = len(self.stages) - 1

    def begin(self, stage: int) -> None:
        """Begin a stage; subclasses copy here what is frozen in it."""
        self.stage = stage

    @abstractmethod
    def loss(self, batch: Batch, answer: AnswerLoss) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a training batch.

        Args:
            batch: held modalities that are not present serve as targets of a reconstruction only.
            answer: loss of the logits.

        Returns:
            The scalar loss, and its parts by name, detached.
        """


class PretrainedBaseline(NeuralBaseline):
    """A baseline whose last stage compares with its encoder of the stage before, frozen.

    Attributes:
        encoder: the encoder that is trained.
        frozen: its copy, see `frozen_copy`.
    """

    encoder: nn.Module
    frozen: nn.Module

    def begin(self, stage: int) -> None:
        """Begin a stage; the last one freezes a copy of the encoder."""
        super().begin(stage)
        if stage == len(self.stages) - 1:
            self.frozen.load_state_dict(self.encoder.state_dict())

    def train(self, mode: bool = True) -> Self:
        """Set the mode; the frozen encoder stays in eval mode."""
        super().train(mode)
        self.frozen.eval()
        return self


def frozen_copy(encoder: M) -> M:
    """Return a copy of an encoder that is not trained."""
    copied = deepcopy(encoder)
    copied.requires_grad_(requires_grad=False)
    return copied


class Reference(Baseline):
    """A baseline without a network, fitted to means over slots in closed form or by scikit-learn."""

    @abstractmethod
    def fit(self, training: Sequence[LabelledUtterance], validation: Sequence[LabelledUtterance], seed: int) -> None:
        """Fit to training utterances; everything chosen is chosen on validation utterances.

        Args:
            training: N utterances, and the class index of each.
            validation: M utterances, and the class index of each.
            seed: of every random draw.
        """


def readable_features(batch: Batch, readable: Tensor) -> dict[Modality, tuple[Tensor, Tensor]]:
    """Features `(B, T_m, d_m)` and valid slots `(B, T_m)` of each modality where it may be read.

    Everything else is replaced by zeros, so that not even a NaN in it can spread.

    Args:
        batch: any.
        readable: `(B, 3)` bool: `batch.present` for inputs, `batch.held` for targets.
    """
    found = {}
    for column, modality in enumerate(MODALITIES):
        x, valid = batch.features[modality], batch.valid[modality] & readable[:, column, None]  # (B, T_m)
        found[modality] = torch.where(valid.unsqueeze(-1), x, x.new_zeros(())), valid
    return found


def mean_features(batch: Batch, readable: Tensor) -> dict[Modality, Tensor]:
    """Means over slots `(B, d_m)`; zero where the modality may not be read. Arguments as `readable_features`."""
    return {m: masked_mean(x, valid) for m, (x, valid) in readable_features(batch, readable).items()}


def masked_mse(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over the places of a mask, 0 where it has none: `(…, d)`, `(…, d)`, `(…)` → scalar."""
    errors = (predicted - target).square().mean(dim=-1)
    # A clamp instead of a test for zero, which would synchronise with the device.
    return (errors * mask).sum() / mask.sum().clamp(min=1)


def total(terms: Mapping[str, tuple[float, Tensor]]) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of terms, and each term by name, detached; `terms` maps a name to a weight and a scalar."""
    summed = torch.stack([weight * term for weight, term in terms.values()]).sum()
    return summed, {name: term.detach() for name, (_, term) in terms.items()}
