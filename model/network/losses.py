"""The training loss of EMMR (Eqs. 14 to 18), with auxiliary cross-entropies that train every head.

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

IGNORED = -100  # `ignore_index` of cross_entropy: no label

Similarity = Literal["kl", "mae", "cosine"]


class LossSettings(BaseModel):
    """Weights and options of the total loss; defaults are the paper's where it gives one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    forward_weight: float = Field(default=0.1, ge=0)
    """λ1 of Eq. 14."""
    backward_weight: float = Field(default=0.1, ge=0)
    """λ2 of Eq. 14."""
    auxiliary_weight: float = Field(default=0.5, ge=0)
    """Weight of the mean cross-entropy of the subset heads."""
    modality_weight: float = Field(default=0.5, ge=0)
    """Weight of the cross-entropy on each modality's own polarity, where a corpus has such labels."""
    missing_slot_weight: float = Field(default=4.0, ge=1)
    """Weight of a missing slot relative to a present one in the backward loss."""
    key_weight: float = Field(default=10.0, ge=1)
    """Weight of an utterance in the loss of the votes over all three modalities where the teacher's class for the
    complete utterance differs from the class of the available vote. Given the present modalities the two are nearly
    always equal, so that with equal weights the consistency check hardly ever detects a key missing modality. Chosen by
    the F1 of that detection on validation data."""
    similarity: Similarity = "kl"
    """The paper's Fig. 5 compares the three."""
    backward_target: Literal["complete", "input"] = "complete"
    """`complete`: the common sequence of everything held; `input`: the paper's, the sequence with missing slots."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Of labels; soft targets are used unchanged."""
    score_loss: Literal["l1", "mse"] = "l1"
    """Distance of the score (the expected value of the class distribution) to the true one, in a regression."""
    score_weight: float = Field(default=0.5, ge=0)
    """Weight of that distance, the mean of both paths."""


@dataclass(frozen=True, slots=True)
class Targets:
    """Labels of a batch.

    Args:
        labels: `(B,)` class indices.
        modality_labels: modality → `(B,)` class indices of its own polarity, `IGNORED` where unknown.
        class_weights: `(C,)` weights of the classes, or None for equal ones.
        scores: `(B,)` of a regression, or None.
        class_values: `(C,)` the classes of a regression as numbers, or None.
    """

    labels: Tensor
    modality_labels: Mapping[Modality, Tensor]
    class_weights: Tensor | None = None
    scores: Tensor | None = None
    class_values: Tensor | None = None


@dataclass(frozen=True, slots=True)
class SoftTargets:
    """Target distributions of a batch, from a teacher with the same input (knowledge distillation).

    Args:
        answer: `(B, C)`, from the present modalities.
        subsets: subset name → `(B, C)` of its heads; of the complete subset from everything held.
        alone: modality → `(B, C)` of its own polarity; meaningless where it is not held.
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
    soft: SoftTargets | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Eq. 14 with auxiliary terms.

    Args:
        output: of the network.
        targets: of the same batch.
        held: `(B, 3)` bool, modalities whose content is in the batch; only their own heads are trained.
        guidance: E_pre `(B, T, D)` of the guidance network on complete inputs; None omits the forward loss.
        settings: weights and options.
        soft: replaces the labels if given.

    Returns:
        The scalar loss, and its parts by name, detached.
    """

    def cross_entropy(logits: Tensor, labels: Tensor, soft: Tensor | None, rows: Tensor | None = None) -> Tensor:
        if soft is not None:
            return soft_cross_entropy(logits, soft, targets.class_weights, rows)
        if rows is not None:
            labels = labels.masked_fill(~rows, IGNORED)
        return F.cross_entropy(
            logits, labels, targets.class_weights, ignore_index=IGNORED, label_smoothing=settings.label_smoothing
        )

    answer = None if soft is None else soft.answer
    parts = {
        "transformer": cross_entropy(output.transformer, targets.labels, answer),
        "ensemble": cross_entropy(output.ensemble, targets.labels, answer),
        "auxiliary": _auxiliary(output, targets.labels, held, soft, cross_entropy, settings.key_weight),
        "forward": output.transformer.new_zeros(()),
        "backward": _backward(output, settings),
    }
    losses = []
    for m, labels in targets.modality_labels.items():
        rows = held[:, MODALITIES.index(m)] & (labels != IGNORED)
        if bool(rows.any()):
            target = None if soft is None else soft.alone[m]
            losses.append(cross_entropy(output.modality_heads[m], labels, target, rows))
    parts["modality"] = torch.stack(losses).mean() if losses else output.transformer.new_zeros(())
    score = output.transformer.new_zeros(())
    if targets.scores is not None:
        parts["score"] = score = score_distance(torch.stack([output.transformer, output.ensemble]), targets, settings)
    if guidance is not None:
        weights = output.known.to(guidance.dtype)
        parts["forward"] = torch.stack(
            [_similarity(encoded, guidance, weights, settings.similarity) for encoded in output.encodings.values()]
        ).mean()
    total = (
        0.5 * (parts["transformer"] + parts["ensemble"])
        + settings.auxiliary_weight * parts["auxiliary"]
        + settings.modality_weight * parts["modality"]
        + settings.forward_weight * parts["forward"]
        + settings.backward_weight * parts["backward"]
        + settings.score_weight * score
    )
    return total, {name: part.detach() for name, part in parts.items()}


def symmetric_kl(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """Half of `KL(p‖q) + KL(q‖p)` for softmax over features, summed over them (Eqs. 15, 16).

    Args:
        a: `(B, T, D)`.
        b: `(B, T, D)`.
        weights: `(B, T)`, 0 for excluded slots.

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
    # A clamp instead of a test for zero, which would synchronise with the device.
    return (values * weights).sum() / weights.sum().clamp(min=1.0)


def _backward(output: Output, settings: LossSettings) -> Tensor:
    """Decodings against the complete common sequence, which is detached so that it gets no gradient (Eq. 16)."""
    weights = output.known.to(output.complete.dtype)
    weights = weights * torch.where(output.imputed, settings.missing_slot_weight, 1.0)
    target = output.complete if settings.backward_target == "complete" else output.filled
    return torch.stack(
        [_similarity(decoded, target.detach(), weights, settings.similarity) for decoded in output.decodings.values()]
    ).mean()


def score_distance(logits: Tensor, targets: Targets, settings: LossSettings) -> Tensor:
    """Mean distance of the expected values of `(…, B, C)` logits to the scores of a regression."""
    assert targets.scores is not None
    assert targets.class_values is not None
    expected = logits.float().softmax(dim=-1) @ targets.class_values  # (…, B)
    distance = F.l1_loss if settings.score_loss == "l1" else F.mse_loss
    return distance(expected, targets.scores.expand_as(expected))


def _auxiliary(
    output: Output,
    labels: Tensor,
    held: Tensor,
    soft: SoftTargets | None,
    cross_entropy: Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Tensor],
    key_weight: float,
) -> Tensor:
    """Mean cross-entropy of the subset heads."""
    weights = None if soft is None else _key_weights(output, soft, key_weight)
    losses = []
    for (_, name), logits in output.heads.items():
        subset = ModalitySet.parse(name)
        rows = weights if subset.complete else None
        if len(subset) == 1:  # its input is never reconstructed, so it is trained only where the modality is held
            (modality,) = subset
            rows = held[:, MODALITIES.index(modality)]
            if not bool(rows.any()):
                continue
        losses.append(cross_entropy(logits, labels, None if soft is None else soft.subsets[name], rows))
    return torch.stack(losses).mean()


def _key_weights(output: Output, soft: SoftTargets, key_weight: float) -> Tensor:
    """`(B,)`: `key_weight` where a missing modality would have changed the vote, else 1."""
    missing = output.imputed.any(dim=1)
    changed = soft.subsets[COMPLETE.name].argmax(dim=1) != output.available.argmax(dim=1)
    return torch.where(missing & changed, key_weight, 1.0)


def soft_cross_entropy(
    logits: Tensor, distributions: Tensor, class_weights: Tensor | None = None, row_weights: Tensor | None = None
) -> Tensor:
    """Weighted mean cross-entropy of `(B, C)` logits against distributions `(B, C)`.

    Args:
        logits: of a head.
        distributions: its soft targets.
        class_weights: `(C,)`.
        row_weights: `(B,)` weights, or a bool mask.
    """
    losses = F.cross_entropy(logits, distributions, class_weights, reduction="none")  # (B,)
    return losses.mean() if row_weights is None else _weighted_mean(losses, row_weights.to(losses.dtype))
