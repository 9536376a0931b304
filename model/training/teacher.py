"""Soft targets for any subset of modalities: experts of each modality alone, joined by Bayes' rule.

Source: Hinton et al. 2015 (distillation); Beyer et al., CVPR 2022, for a teacher on the student's augmented input.

Where a corpus knows the polarity each modality carries alone (`Example.modality_labels`), the label depends on the
modalities through their polarities only, so that with each expert's posterior p(y_m | x_m)

    p(label | x of the modalities that are there) ∝ p(label)^-γ Σ p(label, y_t, y_a, y_v) Π p(y_m | x_m) / p(y_m)

with frequencies counted in the training part. γ flattens the prior of the label. It is chosen for each subset on
validation data: a voice alone says little against a prior of one in six for neutral, and would never be called neutral.

Shapes: B batch, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Self

import numpy as np
import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.modality import MODALITIES, SUBSETS, Modality, ModalitySet, Utterance
from model.network.batch import Batch, collate
from model.network.losses import SoftTargets
from model.training.datasets.base import Example, Source, Unclassed
from model.training.metrics import macro_f1
from model.training.unimodal_experts import STEPS, Expert, fit_expert
from model.types import FloatArray, IntArray

BALANCES: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
"""γ to choose from: 0 keeps the prior of the training part, 1 makes the classes equally likely."""
_BITS: Final = (1, 2, 4)  # of a subset's number, one a modality
SMOOTHING: Final = 1e-3  # share of the joint distribution that is spread evenly: nothing is impossible


class Teacher(nn.Module):
    """Experts and the joint distribution of label and polarities.

    Args:
        experts: one of each modality.
        joint: `(C, C, C, C)` of the polarities in the order of `MODALITIES`, then the label.
        balance: `(8,)`, γ by the number of a subset, its modalities' bits of 1, 2 and 4 added up.
    """

    def __init__(self, experts: Mapping[Modality, Expert], joint: Tensor, balance: Tensor | None = None) -> None:
        super().__init__()
        self.experts = nn.ModuleDict({str(m): expert for m, expert in experts.items()})
        self.joint: Tensor
        self.balance: Tensor
        self.register_buffer("joint", joint)
        self.register_buffer("balance", torch.zeros(2 ** len(MODALITIES)) if balance is None else balance)

    @torch.no_grad()
    def forward(self, batch: Batch) -> SoftTargets:
        """What is to be learnt about each row, from what is present and, of a modality alone, from what is held."""
        likelihoods, alone = [], {}
        for column, modality in enumerate(MODALITIES):
            expert = self.experts[modality]
            assert isinstance(expert, Expert)
            there = batch.held[:, column, None]
            x = torch.where(there.unsqueeze(-1), batch.features[modality], torch.zeros_like(batch.features[modality]))
            posterior = expert(x.float(), batch.valid[modality] & there)
            likelihood = torch.where(there, posterior / expert.prior, torch.ones_like(posterior))  # (B, C)
            own = likelihood * self.joint.sum(dim=[d for d in range(4) if d != column])
            likelihoods.append(likelihood)
            alone[modality] = own / own.sum(dim=1, keepdim=True)
        subsets = {}
        for subset in SUBSETS:
            members = torch.tensor(subset.mask(), device=batch.present.device)  # (3,)
            if len(subset) == 1:  # of its true content, whether it is present or not
                seen = members.expand_as(batch.present)
            elif subset.complete:  # the vote on what the complete utterance would be taken for
                seen = batch.held
            else:  # where a member has to be recovered, from all that is there
                whole = (batch.present | ~members).all(dim=1, keepdim=True)  # (B, 1)
                seen = torch.where(whole, batch.present & members, batch.present)
            subsets[subset.name] = self._label(likelihoods, seen)
        return SoftTargets(answer=self._label(likelihoods, batch.present), subsets=subsets, alone=alone)

    def _label(self, likelihoods: Sequence[Tensor], seen: Tensor) -> Tensor:
        t, a, v = (torch.where(seen[:, i, None], x, torch.ones_like(x)) for i, x in enumerate(likelihoods))
        weight = torch.einsum("bt,ba,bv,tavl->bl", t, a, v, self.joint)
        balance = self.balance[(seen.long() * torch.tensor(_BITS, device=seen.device)).sum(dim=1), None]  # (B, 1)
        weight = weight * self.joint.sum(dim=(0, 1, 2)) ** -balance
        return weight / weight.sum(dim=1, keepdim=True)

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> Self:
        """A teacher from its `state_dict`."""
        parts: dict[Modality, dict[str, Tensor]] = {m: {} for m in MODALITIES}
        for name, value in state.items():
            _, _, rest = name.partition("experts.")
            if rest:
                modality, _, own = rest.partition(".")
                parts[Modality(modality)][own] = value
        return cls(
            {m: Expert.of_state(part) for m, part in parts.items()}, state["joint"].clone(), state["balance"].clone()
        )


def fit_teacher(
    training: Sequence[Example],
    validation: Sequence[Example],
    features: Mapping[Source, FloatArray],
    config: ModelConfig,
    *,
    alone: tuple[Sequence[Example], Sequence[Example]] = ((), ()),
    unclassed: Sequence[Unclassed] = (),
    variants: int,
    steps: int = STEPS,
) -> Teacher | None:
    """Fit experts and count; None where the corpus does not say, of every modality, what each carries alone.

    Args:
        training: the training part.
        validation: the part by which temperatures and γ are chosen.
        features: normalised slots.
        config: gives classes and sizes.
        alone: content of a single modality beside the examples of both parts.
        unclassed: training content beside the examples.
        variants: augmented variants of each sound to use as well.
        steps: of each member of an expert.
    """
    if not can_be_taught(training, features) or not can_be_taught(validation, features):
        return None
    experts = {
        m: fit_expert(
            m,
            [e for e in (*training, *alone[0]) if m in e.sources],
            [e for e in (*validation, *alone[1]) if m in e.sources],
            features,
            config,
            unclassed=unclassed,
            variants=variants,
            steps=steps,
        )
        for m in MODALITIES
    }
    size = len(config.classes)
    counts = np.zeros((size,) * (len(MODALITIES) + 1))
    for example in training:
        cell = [config.classes.index(example.modality_labels[m]) for m in MODALITIES]
        counts[(*cell, config.classes.index(example.label))] += 1
    joint = (1 - SMOOTHING) * counts / counts.sum() + SMOOTHING / counts.size
    teacher = Teacher(experts, torch.from_numpy(joint.astype(np.float32))).eval()
    _choose_balance(teacher, validation, alone[1], features, config)
    return teacher


def _choose_balance(
    teacher: Teacher,
    validation: Sequence[Example],
    alone: Sequence[Example],
    features: Mapping[Source, FloatArray],
    config: ModelConfig,
) -> None:
    """Choose γ of each subset by the macro-F1 of the validation examples.

    For a modality alone, the mean of that and the macro-F1 of each corpus of that modality counts: who sends a voice
    alone asks for what the voice says.
    """
    for subset in SUBSETS:
        groups = [[e for e in validation if all(m in e.sources and e.sources[m] in features for m in subset)]]
        if len(subset) == 1:
            (modality,) = subset
            own = [e for e in alone if set(e.sources) == {modality} and e.sources[modality] in features]
            origins = sorted({e.origins.get(modality, "") for e in own})
            groups += [[e for e in own if e.origins.get(modality, "") == origin] for origin in origins]
        if not groups[0]:
            continue
        groups = [group for group in groups if group]
        batches = [(_batch(group, subset, features, config), _labels(group, config)) for group in groups]
        number = sum(bit for bit, here in zip(_BITS, subset.mask(), strict=True) if here)
        scores = {}
        for balance in BALANCES:
            teacher.balance[number] = balance
            f1s = [macro_f1(labels, teacher(batch).answer.argmax(dim=1).numpy()) for batch, labels in batches]
            scores[balance] = f1s[0] + float(np.mean(f1s[1:])) if len(f1s) > 1 else f1s[0]
        # The least flattening that is not worse than the best by more than the figure's own error: validation data
        # does not tell finer differences, and the prior is worth keeping.
        error = sum(
            0.5 / np.sqrt(sum(len(labels) for _, labels in part)) for part in (batches[:1], batches[1:]) if part
        )
        teacher.balance[number] = min(b for b, score in scores.items() if score >= max(scores.values()) - error)


def _batch(
    examples: Sequence[Example], subset: ModalitySet, features: Mapping[Source, FloatArray], config: ModelConfig
) -> Batch:
    return collate([Utterance({m: features[e.sources[m]] for m in subset}) for e in examples], config)


def _labels(examples: Sequence[Example], config: ModelConfig) -> IntArray:
    return np.array([config.classes.index(e.label) for e in examples], dtype=np.int64)


def can_be_taught(examples: Sequence[Example], features: Mapping[Source, FloatArray]) -> bool:
    """Whether each example has all modalities and says what each carries, and none always carries the same.

    Args:
        examples: of one part.
        features: normalised slots; a source without any tells nothing.
    """
    known = all(m in e.sources and m in e.modality_labels for e in examples for m in MODALITIES)
    return known and all(
        len({e.modality_labels[m] for e in examples if e.sources[m] in features}) > 1 for m in MODALITIES
    )
