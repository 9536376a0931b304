"""Classifiers of single modalities (experts), on which the soft targets of `model.training.teacher` are based.

Ensembles of linear models and perceptrons on whole clips, regularised by noise and mixup (Zhang et al. 2018).
"""
# Shapes: B batch, T slots, d features of a slot, N items, W inputs of an expert, E emotions (or classes), C classes.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig
from model.modality import Modality
from model.training.datasets.base import Example, SoundSource, Source, Unclassed
from model.types import BoolArray, DoubleArray, FloatArray, IntArray

StringArray = npt.NDArray[np.str_]

MAX_WIDTH: Final = 2048
"""Modalities with at most this many numbers are flattened; of others the mean over slots is taken."""
PERCEPTRONS: Final = 3  # of different seeds
HIDDEN: Final = {m: ((), *((128,),) * (0 if m is Modality.TEXT else PERCEPTRONS)) for m in Modality}
"""Hidden layers of each member of an expert. Text has one linear model, as its encoder is adapted to the labels."""
STEPS: Final = 2000
BATCH: Final = 128
LEARNING_RATE: Final = 2e-3
WEIGHT_DECAY: Final = 0.1
DROPOUT: Final = 0.3
NOISE: Final = {Modality.TEXT: 0.3, Modality.AUDIO: 0.3, Modality.VISUAL: 0.15}
"""Standard deviation of noise on standardised features."""
BLEND: Final = {Modality.TEXT: 0.5, Modality.AUDIO: 0.5, Modality.VISUAL: 0.2}
"""Maximum share of another item. Visual features are few and need less noise and mixup (validation log loss)."""
CLIP: Final = 6.0  # standard deviations
UNCLASSED: Final = -1
UNCLASSED_WEIGHT: Final = 0.3  # of items without a class, relative to those of one class
TEMPERATURES: Final = (0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.15)
"""Candidate factors on log-probabilities."""
MIN_HELD_OUT: Final = 20  # items of each class that a corpus needs to be held out
MIN_REMAINING: Final = 2  # corpora that must remain if one is held out


@dataclass(frozen=True, slots=True)
class Items:
    """Distinct sources of one modality.

    Args:
        inputs: `(N, W)`.
        polarities: `(N,)` class indices of the modality alone, or `UNCLASSED`.
        emotions: `(N,)` names; the polarity where the corpus has no emotions.
        origins: `(N,)` names of corpora.
        augmented: `(N,)` bool, whether the item is an augmented variant.
    """

    inputs: FloatArray
    polarities: IntArray
    emotions: StringArray
    origins: StringArray
    augmented: BoolArray

    def select(self, rows: BoolArray) -> Self:
        """The rows `(N,)` that are True."""
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))


class Perceptron(nn.Module):
    """Standardisation, linear layers with ReLU between them, and a softmax; one layer is a logistic regression.

    Args:
        widths: W, of each hidden layer, E.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.width = widths[0]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.mean = nn.Buffer(torch.zeros(self.width))
        self.scale = nn.Buffer(torch.ones(self.width))

    def standardise(self, x: Tensor) -> Tensor:
        """`(B, W)` → z-scores, clipped at `CLIP`."""
        return ((x - self.mean) / self.scale).clamp(-CLIP, CLIP)

    def logits(self, x: Tensor) -> Tensor:
        """Standardised `(B, W)` → `(B, E)`."""
        *inner, last = self.layers
        for layer in inner:
            x = F.dropout(F.relu(layer(x)), DROPOUT, self.training)
        logits: Tensor = last(x)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """`(B, W)` → distributions `(B, E)`."""
        return self.logits(self.standardise(x)).softmax(dim=-1)


class Expert(nn.Module):
    """The classifier of one modality: the mean of its members, with a temperature.

    Args:
        members: linear models and perceptrons with the same W and E.
        classes: `(E, C)`, 1 where an emotion belongs to a class; a row of zeros for an emotion of no class.
        prior: `(C,)`, frequencies of the classes in training.
        temperature: scalar factor on the log-probabilities.
    """

    def __init__(self, members: Sequence[Perceptron], classes: Tensor, prior: Tensor, temperature: Tensor) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.width = members[0].width
        self.classes, self.prior = nn.Buffer(classes), nn.Buffer(prior)
        self.temperature = nn.Buffer(temperature)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """`(B, T, d)`, `(B, T)` → posterior of the polarity under the expert's prior, `(B, C)`."""
        return self.classify(expert_input(x, valid, self.width))

    def classify(self, x: Tensor) -> Tensor:
        """`(B, W)` → `(B, C)`, conditional on an emotion that belongs to a class."""
        emotions = torch.stack([member(x) for member in self.members]).mean(dim=0)  # (B, E)
        polarities = (emotions @ self.classes).clamp(min=1e-6).log() * self.temperature
        return polarities.softmax(dim=-1)

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor], modality: Modality) -> Self:
        """Build the expert of a modality from its `state_dict`."""
        width, size = len(state["members.0.mean"]), len(state["classes"])
        members = [Perceptron([width, *hidden, size]) for hidden in HIDDEN[modality]]
        expert = cls(members, *(state[name].clone() for name in ("classes", "prior", "temperature")))
        expert.load_state_dict(dict(state))
        return expert


def expert_input(x: Tensor, valid: Tensor, width: int) -> Tensor:
    """Slots `(B, T, d)` → `(B, W)`: their mean if W is d, else flattened and padded with zeros."""
    x = x * valid.unsqueeze(-1)
    if width > x.shape[-1]:
        slots = x.flatten(1)  # (B, T d)
        return F.pad(slots, (0, width - slots.shape[1]))
    return x.sum(dim=1) / valid.sum(dim=1, keepdim=True).clamp(min=1)


def expert_width(config: ModelConfig, modality: Modality) -> int:
    """W of a modality: all slots if they have at most `MAX_WIDTH` numbers, else d."""
    size = config.feature_size(modality)
    flattened = config.slots.of(modality) * size
    return flattened if flattened <= MAX_WIDTH else size


def fit_expert(
    modality: Modality,
    training: Sequence[Example],
    validation: Sequence[Example],
    features: Mapping[Source, FloatArray],
    config: ModelConfig,
    *,
    unclassed: Sequence[Unclassed] = (),
    variants: int,
    steps: int = STEPS,
) -> Expert:
    """Fit an expert to the distinct sources of one modality.

    The temperature minimises the mean log loss over the corpora of the validation part and, for audio and visual, over
    each large training corpus under an expert fitted without it: confidence has to hold for unknown recordings.

    `training` and `validation` have `modality_labels`. The emotions of `unclassed` content have no class; members learn
    them as additional emotions. So many augmented `variants` of each sound are added. `steps` are those of one member.
    """
    items = collect_items(modality, training, features, config, variants, unclassed)
    unseen = collect_items(modality, validation, features, config, 0)
    hidden = HIDDEN[modality]
    expert = _fit_members(modality, items, config, hidden, steps)
    groups = [_log_posteriors(expert, unseen.select(unseen.origins == o)) for o in sorted(set(unseen.origins))]
    for origin in () if modality is Modality.TEXT else _held_out_corpora(items, config):
        own = items.origins == origin
        others = _fit_members(modality, items.select(~own), config, hidden[:2], steps)
        groups.append(_log_posteriors(others, items.select(own & ~items.augmented)))
    if groups:
        losses = {t: np.mean([float(F.cross_entropy(log * t, y)) for log, y in groups]) for t in TEMPERATURES}
        expert.temperature.fill_(min(TEMPERATURES, key=losses.__getitem__))
    return expert.eval().requires_grad_(requires_grad=False)


def uniform_expert(modality: Modality, config: ModelConfig) -> Expert:
    """An expert without training content: every class is equally probable, whatever the input."""
    classes = len(config.classes)
    members = [Perceptron([expert_width(config, modality), *hidden, classes]) for hidden in HIDDEN[modality]]
    for member in members:
        for parameter in member.parameters():
            nn.init.zeros_(parameter)
    expert = Expert(members, torch.eye(classes), torch.full((classes,), 1 / classes), torch.ones(()))
    return expert.eval().requires_grad_(requires_grad=False)


def collect_items(
    modality: Modality,
    examples: Sequence[Example],
    features: Mapping[Source, FloatArray],
    config: ModelConfig,
    variants: int,
    unclassed: Sequence[Unclassed] = (),
) -> Items:
    """Collect the distinct sources of one modality that have features, with augmented variants of sounds."""
    width = expert_width(config, modality)
    sources: dict[Source, Example | Unclassed] = {}
    content: list[Example | Unclassed] = [*examples, *unclassed]
    for example in content:
        source = example.sources.get(modality)
        if source is not None and source in features:
            sources.setdefault(source, example)
    inputs, polarities, emotions, origins, augmented = [], [], [], [], []
    for source, example in sources.items():
        polarity = example.modality_labels[modality] if isinstance(example, Example) else None
        copies = (
            [SoundSource(source.path, k) for k in range(1, variants + 1)] if isinstance(source, SoundSource) else []
        )
        for version in (source, *(copy for copy in copies if copy in features)):
            x = torch.from_numpy(features[version])[None]  # (1, T, d)
            inputs.append(expert_input(x, torch.ones(x.shape[:2], dtype=torch.bool), width)[0].numpy())
            polarities.append(UNCLASSED if polarity is None else config.classes.index(polarity))
            emotions.append(example.emotions.get(modality, polarity or str(UNCLASSED)))
            origins.append(example.origins.get(modality, ""))
            augmented.append(version is not source)
    return Items(
        np.array(inputs, dtype=np.float32).reshape(-1, width),
        np.array(polarities, dtype=np.int64),
        np.array(emotions, dtype=np.str_),
        np.array(origins, dtype=np.str_),
        np.array(augmented, dtype=np.bool_),
    )


def corpus_weights(origins: Sequence[str] | StringArray, polarities: IntArray) -> DoubleArray:
    """`(N,)` weights with sum 1: corpora have equal weight, and the classes `(N,)` within each.

    `UNCLASSED` has `UNCLASSED_WEIGHT` of the weight of a class.
    """
    weights = np.zeros(len(polarities))
    names = np.asarray(origins)
    for origin in set(origins):
        for polarity in set(polarities[names == origin].tolist()):
            rows = (names == origin) & (polarities == polarity)
            weights[rows] = (UNCLASSED_WEIGHT if polarity == UNCLASSED else 1.0) / rows.sum()
    weights /= weights.sum()
    return weights


def _held_out_corpora(items: Items, config: ModelConfig) -> list[str]:
    """Corpora with enough items of every class to be held out, if at least `MIN_REMAINING` others remain."""
    origins, usable = sorted(set(items.origins)), (items.polarities >= 0) & ~items.augmented
    counts = {o: np.bincount(items.polarities[(items.origins == o) & usable]) for o in origins}
    large = [o for o in origins if len(counts[o]) == len(config.classes) and counts[o].min() >= MIN_HELD_OUT]
    return large if len(large) > MIN_REMAINING else []


def _fit_members(
    modality: Modality, items: Items, config: ModelConfig, hidden: Sequence[tuple[int, ...]], steps: int
) -> Expert:
    names, targets = np.unique(items.emotions, return_inverse=True)
    classed = items.polarities != UNCLASSED
    classes = np.zeros((len(names), len(config.classes)), dtype=np.float32)  # (E, C)
    classes[targets[classed], items.polarities[classed]] = 1
    if (classes.sum(axis=1) > 1).any():  # an emotion of two polarities carries less information than the polarities
        items = items.select(classed)
        polarities, targets = np.unique(items.polarities, return_inverse=True)
        classes = np.eye(len(config.classes), dtype=np.float32)[polarities]
    weights = corpus_weights(items.origins, items.polarities)
    members = [
        _fit_member(modality, items.inputs, targets, len(classes), weights, widths, seed, steps)
        for seed, widths in enumerate(hidden)
    ]
    prior = np.array([weights[items.polarities == k].sum() for k in range(len(config.classes))]) + 1e-3
    return Expert(
        members,
        torch.from_numpy(classes),
        torch.from_numpy((prior / prior.sum()).astype(np.float32)),
        torch.ones(()),
    ).eval()


def _fit_member(
    modality: Modality,
    inputs: FloatArray,
    targets: IntArray,
    size: int,
    weights: DoubleArray,
    hidden: Sequence[int],
    seed: int,
    steps: int,
) -> Perceptron:
    """Minimise the cross-entropy of blended, noisy items, drawn by their weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        member = Perceptron([inputs.shape[1], *hidden, size])
        mean = weights @ inputs
        scale = np.sqrt(weights @ np.square(inputs - mean))
        member.mean.copy_(torch.from_numpy(mean.astype(np.float32)))
        member.scale.copy_(torch.from_numpy(np.where(scale > 0, scale, 1).astype(np.float32)))
        x = member.standardise(torch.from_numpy(inputs))
        y = F.one_hot(torch.from_numpy(targets), size).float()
        probabilities = torch.from_numpy(weights)
        optimiser = torch.optim.AdamW(member.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps, pct_start=0.1)
        member.train()
        for _ in range(steps):
            rows = torch.multinomial(probabilities, BATCH, replacement=True, generator=generator)
            order = torch.randperm(BATCH, generator=generator)
            share = torch.rand(BATCH, 1, generator=generator) * BLEND[modality]
            noise = torch.randn(BATCH, x.shape[1], generator=generator) * NOISE[modality]
            blended = torch.lerp(x[rows], x[rows][order], share) + noise
            loss = F.cross_entropy(member.logits(blended), torch.lerp(y[rows], y[rows][order], share))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
    return member.eval()


def _log_posteriors(expert: Expert, items: Items) -> tuple[Tensor, Tensor]:
    """Log-probabilities `(N, C)` at temperature 1 and class indices `(N,)` of the items with a class."""
    items = items.select(items.polarities != UNCLASSED)
    with torch.no_grad():
        posterior = expert.classify(torch.from_numpy(items.inputs))
    return posterior.clamp(min=1e-9).log(), torch.from_numpy(items.polarities)
