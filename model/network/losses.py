"""What EMMR is trained to minimise.

For: Eqs. 14 to 18 with the auxiliary cross-entropies that make every head learn.
Does not know: optimisers, epochs, corpora.

Shapes: B batch, T slots, D hidden, C classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from model.modality import COMPLETE, MODALITIES, Modality, ModalitySet
from model.network.emmr import Output
from model.network.reconstruction import BRANCHES

IGNORED = -100  # cross_entropy's own mark for "no label"

Similarity = Literal["kl", "mae", "cosine"]


class LossSettings(BaseModel):
    """Weights and switches of the total loss; defaults are the paper's where it names one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    forward_weight: float = Field(default=0.1, ge=0)
    """λ1 of Eq. 14."""
    backward_weight: float = Field(default=0.1, ge=0)
    """λ2 of Eq. 14."""
    auxiliary_weight: float = Field(default=0.5, ge=0)
    """Weight of the mean cross-entropy of the subset heads."""
    modality_weight: float = Field(default=0.5, ge=0)
    """Weight of the cross-entropy on the polarity each modality carries alone, where a corpus knows it."""
    missing_slot_weight: float = Field(default=4.0, ge=1)
    """How much more a missing slot counts than a present one in the backward loss."""
    key_weight: float = Field(default=10.0, ge=1)
    """How much more an utterance counts for the votes over all three, where a teacher takes all that is held for
    another class than what is present votes for. The check compares two votes' first choices, and the likeliest answer
    of a complete utterance is, seen from what is present, nearly always what that says itself: with equal weights the
    check hardly ever fires. Chosen by the F1 of detected key missing modalities on validation data."""
    similarity: Similarity = "kl"
    """The paper's Fig. 5 compares the three."""
    backward_target: Literal["complete", "input"] = "complete"
    """`complete`: the common sequence of all that is held; `input`: the paper's, the sequence with slots missing."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Of labels; what a teacher says is taken as it is."""


@dataclass(frozen=True, slots=True)
class Targets:
    """What a batch should have been.

    Args:
        labels: `(B,)` class indices.
        modality_labels: modality → `(B,)` class indices, `IGNORED` where unknown.
        class_weights: `(C,)` weights of the classes, or None for equal ones.
    """

    labels: Tensor
    modality_labels: Mapping[Modality, Tensor]
    class_weights: Tensor | None = None


@dataclass(frozen=True, slots=True)
class SoftTargets:
    """What a batch should have been taken for, as distributions, from a teacher who saw the same content.

    Args:
        answer: `(B, C)`, from what is present.
        subsets: subset name → `(B, C)`, what its heads should say: those of all three, what all that is held says.
        alone: modality → `(B, C)`, the polarity it carries alone; means nothing where it is not held.
    """

    answer: Tensor
    subsets: Mapping[str, Tensor]
    alone: Mapping[Modality, Tensor]


def total_loss(
    output: Output,
    targets: Targets,
    held: Tensor,
    guidance: Tensor | None,
    settings: LossSettings,
    lesson: SoftTargets | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Eq. 14 with auxiliary terms.

    Args:
        output: the network's.
        targets: of the same batch.
        held: `(B, 3)` bool, modalities whose content is in the batch: their own heads may be judged.
        guidance: E_pre `(B, T, D)` of the guidance network on complete inputs; None leaves the forward loss out.
        settings: weights and switches.
        lesson: takes the place of the labels, where there is a teacher.

    Returns:
        The scalar to minimise, and its parts by name, detached, for the record.
    """

    def cross_entropy(logits: Tensor, labels: Tensor, taught: Tensor | None, here: Tensor | None = None) -> Tensor:
        if taught is not None:
            return taught_cross_entropy(logits, taught, targets.class_weights, here)
        if here is not None:
            labels = labels.masked_fill(~here, IGNORED)
        return F.cross_entropy(
            logits, labels, targets.class_weights, ignore_index=IGNORED, label_smoothing=settings.label_smoothing
        )

    answer = None if lesson is None else lesson.answer
    parts = {
        "transformer": cross_entropy(output.transformer, targets.labels, answer),
        "ensemble": cross_entropy(output.ensemble, targets.labels, answer),
        "auxiliary": _auxiliary(output, targets.labels, held, lesson, cross_entropy, settings.key_weight),
        "forward": output.transformer.new_zeros(()),
        "backward": _backward(output, settings),
    }
    own = []
    for m, labels in targets.modality_labels.items():
        here = held[:, MODALITIES.index(m)] & (labels != IGNORED)
        if bool(here.any()):
            taught = None if lesson is None else lesson.alone[m]
            own.append(cross_entropy(output.modality_heads[m], labels, taught, here))
    parts["modality"] = torch.stack(own).mean() if own else output.transformer.new_zeros(())
    if guidance is not None:
        weights = output.known.to(guidance.dtype)
        parts["forward"] = torch.stack(
            [_similarity(output.encodings[b], guidance, weights, settings.similarity) for b in BRANCHES]
        ).mean()
    total = (
        0.5 * (parts["transformer"] + parts["ensemble"])
        + settings.auxiliary_weight * parts["auxiliary"]
        + settings.modality_weight * parts["modality"]
        + settings.forward_weight * parts["forward"]
        + settings.backward_weight * parts["backward"]
    )
    return total, {name: part.detach() for name, part in parts.items()}


def symmetric_kl(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """Half of `KL(p‖q) + KL(q‖p)` for softmax over features, summed over them (Eqs. 15, 16).

    Args:
        a: `(B, T, D)`.
        b: `(B, T, D)`.
        weights: `(B, T)`, 0 for slots left out.

    Returns:
        The weighted mean over slots, a scalar.
    """
    log_p, log_q = a.log_softmax(dim=-1), b.log_softmax(dim=-1)
    divergence = 0.5 * ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(dim=-1)  # (B, T)
    return _weighted_mean(divergence, weights)


def _similarity(a: Tensor, b: Tensor, weights: Tensor, kind: Similarity) -> Tensor:
    if kind == "kl":
        return symmetric_kl(a, b, weights)
    if kind == "mae":
        return _weighted_mean((a - b).abs().mean(dim=-1), weights)
    return _weighted_mean(1.0 - F.cosine_similarity(a, b, dim=-1), weights)


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    # A clamp instead of a test for zero: a test would wait for the device.
    return (values * weights).sum() / weights.sum().clamp(min=1.0)


def _backward(output: Output, settings: LossSettings) -> Tensor:
    """Decodings against the complete common sequence, which is detached so that it is not pulled towards them."""
    weights = output.known.to(output.complete.dtype)
    weights = weights * torch.where(output.imputed, settings.missing_slot_weight, 1.0)
    target = output.complete if settings.backward_target == "complete" else output.filled
    return torch.stack(
        [_similarity(output.decodings[b], target.detach(), weights, settings.similarity) for b in BRANCHES]
    ).mean()


def _auxiliary(
    output: Output,
    labels: Tensor,
    held: Tensor,
    lesson: SoftTargets | None,
    cross_entropy: Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Tensor],
    key_weight: float,
) -> Tensor:
    weights = None if lesson is None else _key_weights(output, lesson, key_weight)
    losses = []
    for (_, name), logits in output.heads.items():
        subset = ModalitySet.parse(name)
        here = None
        if len(subset) == 1:  # a single head sees true content only: no label where there is none
            (modality,) = subset
            here = held[:, MODALITIES.index(modality)]
            if not bool(here.any()):
                continue
        if subset.complete:
            here = weights
        losses.append(cross_entropy(logits, labels, None if lesson is None else lesson.subsets[name], here))
    return torch.stack(losses).mean()


def _key_weights(output: Output, lesson: SoftTargets, key_weight: float) -> Tensor:
    """`(B,)`: `key_weight` where something is missing that would have changed the vote, else 1."""
    lacking = output.imputed.any(dim=1)
    changed = lesson.subsets[COMPLETE.name].argmax(dim=1) != output.available.argmax(dim=1)
    return torch.where(lacking & changed, key_weight, 1.0)


def taught_cross_entropy(
    logits: Tensor, distributions: Tensor, class_weights: Tensor | None = None, row_weights: Tensor | None = None
) -> Tensor:
    """Weighted mean cross-entropy of `(B, C)` logits against distributions `(B, C)`.

    Args:
        logits: of a head.
        distributions: what it should say.
        class_weights: `(C,)`.
        row_weights: `(B,)`, how much each row counts, or whether it does.
    """
    each = F.cross_entropy(logits, distributions, class_weights, reduction="none")  # (B,)
    return each.mean() if row_weights is None else _weighted_mean(each, row_weights.to(each.dtype))
