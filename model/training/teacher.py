"""Soft targets for what any subset of modalities says: experts of each modality alone, joined by Bayes' rule.

For: corpora that know the polarity each modality carries alone (`Example.modality_labels`). There the label depends on
the modalities through their polarities only, so that with each expert's posterior p(y_m | x_m)

    p(label | x of the modalities that are there) ∝ Σ p(label, y_t, y_a, y_v) Π p(y_m | x_m) / p(y_m)

and how often the polarities and the label go together is counted in the training part. The network is taught this for
whatever it is shown, blends of clips included, instead of the label of a pair: a target that says how sure one can be.
Does not know: how experts are made (`model.training.experts`), the network, losses.
Source: Hinton et al. 2015 (distillation); Beyer et al., CVPR 2022, for matching a teacher on heavily augmented input.

Shapes: B batch, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.emmr.batch import Batch
from model.emmr.losses import Lesson
from model.modality import MODALITIES, SUBSETS, Modality
from model.training.corpora.base import Example, Source, Unclassed
from model.training.experts import Expert, fit_expert

FloatArray = npt.NDArray[np.float32]
SMOOTHING: Final = 1e-3  # share of the joint distribution that is spread evenly: nothing is impossible


class Teacher(nn.Module):
    """Experts and the joint distribution of label and polarities.

    Args:
        experts: one of each modality.
        joint: `(C, C, C, C)` of the polarities in the order of `MODALITIES`, then the label.
    """

    def __init__(self, experts: Mapping[Modality, Expert], joint: Tensor) -> None:
        super().__init__()
        self.experts = nn.ModuleDict({str(m): expert for m, expert in experts.items()})
        self.joint: Tensor
        self.register_buffer("joint", joint)

    @torch.no_grad()
    def forward(self, batch: Batch) -> Lesson:
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
        return Lesson(answer=self._label(likelihoods, batch.present), subsets=subsets, alone=alone)

    def _label(self, likelihoods: Sequence[Tensor], seen: Tensor) -> Tensor:
        t, a, v = (torch.where(seen[:, i, None], x, torch.ones_like(x)) for i, x in enumerate(likelihoods))
        weight = torch.einsum("bt,ba,bv,tavl->bl", t, a, v, self.joint)
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
        return cls({m: Expert.of_state(part) for m, part in parts.items()}, state["joint"])


def fit_teacher(
    training: Sequence[Example],
    validation: Sequence[Example],
    features: Mapping[Source, FloatArray],
    config: ModelConfig,
    *,
    unclassed: Sequence[Unclassed] = (),
    variants: int,
) -> Teacher | None:
    """Fit experts and count; None where the corpus does not say, of every modality, what each carries alone.

    Args:
        training: the training part.
        validation: the part by which the experts' penalties are chosen.
        features: normalised slots.
        config: gives classes and sizes.
        unclassed: training content beside the examples.
        variants: augmented variants of each sound to use as well.
    """
    if not can_be_taught(training, features) or not can_be_taught(validation, features):
        return None
    experts = {
        m: fit_expert(m, training, validation, features, config, unclassed=unclassed, variants=variants)
        for m in MODALITIES
    }
    size = len(config.classes)
    counts = np.zeros((size,) * (len(MODALITIES) + 1))
    for example in training:
        cell = [config.classes.index(example.modality_labels[m]) for m in MODALITIES]
        counts[(*cell, config.classes.index(example.label))] += 1
    joint = (1 - SMOOTHING) * counts / counts.sum() + SMOOTHING / counts.size
    return Teacher(experts, torch.from_numpy(joint.astype(np.float32))).eval()


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
