"""Soft targets for any subset of modalities: one expert per modality, combined by Bayes' rule (see `Teacher`).

Sources: Hinton et al. 2015 (distillation); Beyer et al., CVPR 2022 (a teacher on the student's augmented input).
"""
# Shapes: B batch, C classes.

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Self

import numpy as np
import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.modality import MODALITIES, SUBSETS, Modality, Utterance
from model.network.batch import Batch, collate
from model.network.losses import SoftTargets
from model.training.datasets.base import Corpus, Example, Source
from model.training.metrics import macro_f1
from model.training.training_state import with_prefix
from model.training.unimodal_experts import STEPS, Expert, fit_expert, uniform_expert
from model.types import FloatArray

BALANCES: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Candidates for γ: 0 keeps the prior of the training part, 1 makes the classes equally likely."""
SMOOTHING: Final = 1e-3  # share of the joint distribution spread evenly: no combination has probability 0


class Teacher(nn.Module):
    """Unimodal experts, and the joint distribution of the label and the polarities of the modalities.

    If the label depends on the modalities through their polarities only, then with each expert's posterior p(y_m | x_m)

        p(label | present x) ∝ p(label)^-γ Σ p(label, y_t, y_a, y_v) Π p(y_m | x_m) / p(y_m)

    with frequencies of the training part. γ flattens the prior of the label: with a prior of one in six for neutral, a
    single weak modality would never predict neutral.

    Args:
        experts: one per modality.
        joint: `(C, C, C, C)` of the polarities in the order of `MODALITIES`, then the label.
        balance: `(8,)`, γ by `ModalitySet.number`; 0 by default.
    """

    def __init__(self, experts: Mapping[Modality, Expert], joint: Tensor, balance: Tensor | None = None) -> None:
        super().__init__()
        self.experts = nn.ModuleDict({str(m): expert for m, expert in experts.items()})
        self.joint = nn.Buffer(joint)
        self.balance = nn.Buffer(torch.zeros(2 ** len(MODALITIES)) if balance is None else balance)

    @torch.no_grad()
    def forward(self, batch: Batch) -> SoftTargets:
        """Soft targets of each row, from its present modalities, and for a single modality from its content if held."""
        likelihoods, alone = [], {}
        for column, modality in enumerate(MODALITIES):
            expert = self.experts[modality]
            assert isinstance(expert, Expert)
            held = batch.held[:, column, None]  # (B, 1)
            x = torch.where(held.unsqueeze(-1), batch.features[modality], torch.zeros_like(batch.features[modality]))
            posterior = expert(x.float(), batch.valid[modality] & held)
            likelihood = torch.where(held, posterior / expert.prior, torch.ones_like(posterior))  # (B, C)
            polarity = likelihood * self.joint.sum(dim=[d for d in range(4) if d != column])
            likelihoods.append(likelihood)
            alone[modality] = polarity / polarity.sum(dim=1, keepdim=True)
        subsets = {}
        for subset in SUBSETS:
            members = torch.tensor(subset.mask(), device=batch.present.device)  # (3,)
            if len(subset) == 1:  # its true content, even if it is not present
                given = members.expand_as(batch.present)
            elif subset.complete:  # the answer on the complete utterance
                given = batch.held
            else:  # all present modalities, if a member of the subset has to be reconstructed
                contained = (batch.present | ~members).all(dim=1, keepdim=True)  # (B, 1)
                given = torch.where(contained, batch.present & members, batch.present)
            subsets[subset.name] = self._label(likelihoods, given)
        return SoftTargets(answer=self._label(likelihoods, batch.present), subsets=subsets, alone=alone)

    def _label(self, likelihoods: Sequence[Tensor], given: Tensor) -> Tensor:
        """Distribution `(B, C)` of the label from the modalities of a mask `(B, 3)`."""
        t, a, v = (torch.where(given[:, i, None], x, torch.ones_like(x)) for i, x in enumerate(likelihoods))
        weight = torch.einsum("bt,ba,bv,tavl->bl", t, a, v, self.joint)
        bits = torch.tensor([1 << column for column in range(len(MODALITIES))], device=given.device)
        balance = self.balance[(given.long() * bits).sum(dim=1), None]  # (B, 1), by `ModalitySet.number`
        weight = weight * self.joint.sum(dim=(0, 1, 2)) ** -balance
        return weight / weight.sum(dim=1, keepdim=True)

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> Self:
        """Build a teacher from its `state_dict`."""
        experts = {m: Expert.of_state(with_prefix(state, f"experts.{m}."), m) for m in MODALITIES}
        return cls(experts, state["joint"].clone(), state["balance"].clone())


def fit_teacher(
    corpus: Corpus,
    features: Mapping[Source, FloatArray],
    config: ModelConfig,
    *,
    variants: int,
    steps: int = STEPS,
    shared_labels: bool = False,
) -> Teacher | None:
    """Fit the experts and count the joint distribution; None if the corpus lacks polarities of single modalities.

    Temperatures and γ are selected on the validation part. So many augmented `variants` of each sound are added;
    `steps` are those of each member of an expert.

    With `shared_labels` the label of an example is also that of each of its modalities, and examples may lack some:
    given the label the modalities are then independent (naive Bayes). A modality without examples of several classes
    has no influence. Their validation part may be of a few utterances, which cannot show that a rare class is missed:
    γ then is the largest within the standard error of the best, instead of the smallest.
    """
    training, validation = corpus.examples("train"), corpus.examples("val")
    if shared_labels:
        training, validation = _with_shared_labels(training), _with_shared_labels(validation)
    elif not (has_modality_labels(training, features) and has_modality_labels(validation, features)):
        return None
    experts = {}
    for m in MODALITIES:
        own = [e for e in (*training, *corpus.unimodal("train")) if m in e.sources]
        if len({e.modality_labels[m] for e in own if e.sources[m] in features}) < 2:
            experts[m] = uniform_expert(m, config)
            continue
        experts[m] = fit_expert(
            m,
            own,
            [e for e in (*validation, *corpus.unimodal("val")) if m in e.sources],
            features,
            config,
            unclassed=corpus.unclassed(),
            variants=variants,
            steps=steps,
        )
    counts = np.zeros((len(config.classes),) * (len(MODALITIES) + 1))
    for example in training:
        cell = [config.classes.index(example.modality_labels.get(m, example.label)) for m in MODALITIES]
        counts[(*cell, config.classes.index(example.label))] += 1
    joint = (1 - SMOOTHING) * counts / counts.sum() + SMOOTHING / counts.size
    teacher = Teacher(experts, torch.from_numpy(joint.astype(np.float32))).eval()
    prefer = max if shared_labels else min
    _select_balance(teacher, validation, corpus.unimodal("val"), features, config, prefer)
    return teacher


def _with_shared_labels(examples: Sequence[Example]) -> list[Example]:
    return [replace(e, modality_labels={m: e.modality_labels.get(m, e.label) for m in e.sources}) for e in examples]


def _select_balance(
    teacher: Teacher,
    validation: Sequence[Example],
    alone: Sequence[Example],
    features: Mapping[Source, FloatArray],
    config: ModelConfig,
    prefer: Callable[[Iterable[float]], float],
) -> None:
    """Select γ of each subset by the macro-F1 of the validation examples.

    For a single modality, half of the criterion is the mean macro-F1 of its corpora of unimodal examples. `prefer`
    chooses among values within the standard error of the best: validation data cannot resolve smaller differences.
    """
    for subset in SUBSETS:
        groups = [[e for e in validation if all(m in e.sources and e.sources[m] in features for m in subset)]]
        if not groups[0]:
            teacher.balance[subset.number] = prefer(BALANCES)
            continue
        if len(subset) == 1:
            (modality,) = subset
            own = [e for e in alone if set(e.sources) == {modality} and e.sources[modality] in features]
            origins = sorted({e.origins.get(modality, "") for e in own})
            groups += [[e for e in own if e.origins.get(modality, "") == origin] for origin in origins]
        batches = [collate([Utterance({m: features[e.sources[m]] for m in subset}) for e in g], config) for g in groups]
        labels = [np.array([config.classes.index(e.label) for e in g], dtype=np.int64) for g in groups]
        scores = {}
        for balance in BALANCES:
            teacher.balance[subset.number] = balance
            f1s = [macro_f1(y, teacher(b).answer.argmax(dim=1).numpy()) for b, y in zip(batches, labels, strict=True)]
            scores[balance] = f1s[0] + float(np.mean(f1s[1:])) if len(f1s) > 1 else f1s[0]
        error = sum(0.5 / np.sqrt(sum(map(len, part))) for part in (labels[:1], labels[1:]) if part)
        teacher.balance[subset.number] = prefer([b for b, s in scores.items() if s >= max(scores.values()) - error])


def has_modality_labels(examples: Sequence[Example], features: Mapping[Source, FloatArray]) -> bool:
    """Whether all examples have the polarities of all modalities, and each modality several with features."""
    labelled = all(m in e.sources and m in e.modality_labels for e in examples for m in MODALITIES)
    return labelled and all(
        len({e.modality_labels[m] for e in examples if e.sources[m] in features}) > 1 for m in MODALITIES
    )
