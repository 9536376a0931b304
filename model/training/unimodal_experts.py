"""Classifiers of one modality alone: the base of the soft targets of `model.training.teacher`.

Linear models and small perceptrons on a whole clip, averaged. Corpora count equally, however large. Blends of examples
(mixup, Zhang et al. 2018) and noise regularise; a temperature is fitted on validation data and on corpora held out.

Shapes: B batch, T slots, d features of a slot, N items, W numbers that describe an item, E emotions (or classes),
C classes.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig
from model.modality import Modality
from model.training.datasets.base import Example, SoundSource, Source, Unclassed
from model.types import BoolArray, DoubleArray, FloatArray, IntArray

MOST_NUMBERS: Final = 2048
"""An item of no more is described slot by slot, in their order; a longer one by the mean over its slots."""
HIDDEN: Final = 128
PERCEPTRONS: Final = 3  # of different seeds
STEPS: Final = 2000
BATCH: Final = 128
LEARNING_RATE: Final = 2e-3
WEIGHT_DECAY: Final = 0.1
DROPOUT: Final = 0.3
NOISE: Final = {Modality.TEXT: 0.3, Modality.AUDIO: 0.3, Modality.VISUAL: 0.15}
"""Standard deviation of noise on standardised features."""
BLEND: Final = {Modality.TEXT: 0.5, Modality.AUDIO: 0.5, Modality.VISUAL: 0.2}
"""Largest share of another item mixed in; less of either for the few numbers of a face (validation log loss)."""
CLIP: Final = 6.0  # standard deviations
UNCLASSED: Final = -1
UNCLASSED_WEIGHT: Final = 0.3  # of items without a class, relative to those of one class
TEMPERATURES: Final = (0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.15)
"""Factors on log-probabilities to choose from."""
MIN_HELD_OUT: Final = 20  # items of each class that a corpus needs to be held out
MIN_REMAINING: Final = 2  # corpora that must remain where one is held out


@dataclass(frozen=True, slots=True)
class Items:
    """Distinct sources of one modality.

    Args:
        described: `(N, W)`.
        polarities: `(N,)` class indices of what each carries alone, `UNCLASSED` where that is none of them.
        emotions: of each the emotion, or its polarity where the corpus does not know it.
        origins: of each the corpus.
        varied: `(N,)` bool, augmented variants.
    """

    described: FloatArray
    polarities: IntArray
    emotions: Sequence[str]
    origins: Sequence[str]
    varied: BoolArray

    def select(self, rows: BoolArray) -> Self:
        """The rows `(N,)` that are True."""
        keep = np.flatnonzero(rows)
        return replace(
            self,
            described=self.described[keep],
            polarities=self.polarities[keep],
            emotions=[self.emotions[i] for i in keep.tolist()],
            origins=[self.origins[i] for i in keep.tolist()],
            varied=self.varied[keep],
        )

    def of(self, origin: str) -> BoolArray:
        """`(N,)` bool: the items of one corpus."""
        return np.array([own == origin for own in self.origins], dtype=np.bool_)


_LAYER: Final = re.compile(r"members\.(\d+)\.layers\.(\d+)\.weight")  # of an expert's state


class Perceptron(nn.Module):
    """Standardisation, linear layers with ReLU between them, and a softmax; a single layer is a logistic regression.

    Args:
        widths: W, of each hidden layer, E.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.width = widths[0]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(widths[0]))
        self.register_buffer("scale", torch.ones(widths[0]))

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
    """One modality's classifier: the mean of its members, with a temperature.

    Args:
        members: linear and perceptrons, all of the same W.
        classes: `(E, C)`, 1 where what a member tells apart goes with a class; a row of zeros goes with none.
        prior: `(C,)`, how often the members were shown each class.
        temperature: scalar factor on the log-probabilities.
    """

    def __init__(self, members: Sequence[Perceptron], classes: Tensor, prior: Tensor, temperature: Tensor) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.width = members[0].width
        self.classes: Tensor
        self.prior: Tensor
        self.temperature: Tensor
        self.register_buffer("classes", classes)
        self.register_buffer("prior", prior)
        self.register_buffer("temperature", temperature)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """`(B, T, d)`, `(B, T)` → the polarity each row carries alone, `(B, C)`, under the expert's prior.

        That it shows nothing that goes with a class is ruled out.
        """
        return self.classify(describe(x, valid, self.width))

    def classify(self, described: Tensor) -> Tensor:
        """Described items `(B, W)` → `(B, C)`."""
        mixed = torch.stack([member(described) for member in self.members]).mean(dim=0)
        polarity = (mixed @ self.classes).clamp(min=1e-6).log() * self.temperature
        return polarity.softmax(dim=-1)

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> Self:
        """An expert from its `state_dict`."""
        weights: dict[int, dict[int, Tensor]] = {}
        for name, value in state.items():
            if match := _LAYER.fullmatch(name):
                weights.setdefault(int(match[1]), {})[int(match[2])] = value
        members = []
        for _, layers in sorted(weights.items()):
            ordered = [weight for _, weight in sorted(layers.items())]
            members.append(Perceptron([ordered[0].shape[1], *(weight.shape[0] for weight in ordered)]))
        expert = cls(members, *(state[name].clone() for name in ("classes", "prior", "temperature")))
        expert.load_state_dict(dict(state))
        return expert


def describe(x: Tensor, valid: Tensor, width: int) -> Tensor:
    """Slots `(B, T, d)` → `(B, W)`: one after the other, zeros where there is none, or their mean where W is d."""
    x = x * valid.unsqueeze(-1)
    if width > x.shape[-1]:
        slots = x.flatten(1)
        return F.pad(slots, (0, width - slots.shape[1]))
    return x.sum(dim=1) / valid.sum(dim=1, keepdim=True).clamp(min=1)


def described_width(config: ModelConfig, modality: Modality) -> int:
    """W of a modality: all its slots where they are few numbers, else one slot's features, for the mean."""
    size = config.feature_size(modality)
    whole = config.slots.of(modality) * size
    return whole if whole <= MOST_NUMBERS else size


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
    """Fit to the distinct sources of one modality.

    The temperature minimises the mean log loss over the validation part's corpora and, where there are three or more
    and the modality is not text, over each training corpus as seen by an expert that was fitted without it: an unknown
    recording should not be answered with the confidence of a known one. Text, whose encoder was adapted to these labels
    already, gets a linear member alone.

    Args:
        modality: which.
        training: examples with `modality_labels`.
        validation: the same, of the validation part.
        features: normalised slots.
        config: gives classes and sizes.
        unclassed: content that shows something else, which the expert learns to tell from the classes'.
        variants: augmented variants of each sound to use as well.
        steps: of each member.
    """
    items = collect_items(modality, training, features, config, variants, unclassed)
    judged = collect_items(modality, validation, features, config, 0)
    hidden: Sequence[tuple[int, ...]] = [()]
    if modality is not Modality.TEXT:
        hidden = [(), *[(HIDDEN,)] * PERCEPTRONS]
    expert = _fit_members(modality, items, config, hidden, steps)
    groups = [_likelihoods(expert, judged.select(judged.of(origin))) for origin in sorted(set(judged.origins))]
    if modality is not Modality.TEXT:
        for origin in _held_out(items, config):
            rest = _fit_members(modality, items.select(~items.of(origin)), config, hidden[:2], steps)
            groups.append(_likelihoods(rest, items.select(items.of(origin) & ~items.varied)))
    if groups:
        expert.temperature.fill_(min(TEMPERATURES, key=lambda t: float(np.mean([_log_loss(*g, t) for g in groups]))))
    return expert.eval().requires_grad_(requires_grad=False)


def collect_items(
    modality: Modality,
    examples: Sequence[Example],
    features: Mapping[Source, FloatArray],
    config: ModelConfig,
    variants: int,
    unclassed: Sequence[Unclassed] = (),
) -> Items:
    """The distinct sources of one modality that have features, described.

    Args:
        modality: which.
        examples: with `modality_labels`.
        features: normalised slots.
        config: gives classes and sizes.
        variants: augmented variants of each sound to add.
        unclassed: content without a class to add.
    """
    width = described_width(config, modality)
    described: list[FloatArray] = []
    polarities: list[int] = []
    emotions: list[str] = []
    origins: list[str] = []
    varied: list[bool] = []
    seen: set[Source] = set()
    shown: list[Example | Unclassed] = [*examples, *unclassed]
    for example in shown:
        source = example.sources.get(modality)
        if source is None or source in seen or source not in features:
            continue
        seen.add(source)
        polarity = example.modality_labels[modality] if isinstance(example, Example) else None
        versions = [source]
        if isinstance(source, SoundSource):
            versions += [SoundSource(source.path, k) for k in range(1, variants + 1)]
        for version in versions:
            if version in features:
                x = torch.from_numpy(features[version])[None]
                described.append(describe(x, torch.ones(x.shape[:2], dtype=torch.bool), width)[0].numpy())
                polarities.append(UNCLASSED if polarity is None else config.classes.index(polarity))
                emotions.append(example.emotions.get(modality, polarity or str(UNCLASSED)))
                origins.append(example.origins.get(modality, ""))
                varied.append(version is not source)
    return Items(
        np.asarray(described, dtype=np.float32).reshape(-1, width),
        np.asarray(polarities, dtype=np.int64),
        emotions,
        origins,
        np.asarray(varied, dtype=np.bool_),
    )


def corpus_weights(origins: Sequence[str], polarities: IntArray) -> DoubleArray:
    """`(N,)` weights under which corpora count equally, and within each its classes; their sum is 1.

    Args:
        origins: of each item the corpus.
        polarities: `(N,)` class indices; items `UNCLASSED` weigh `UNCLASSED_WEIGHT` of a class.
    """
    weights = np.zeros(len(polarities))
    names = np.asarray(origins)
    for origin in set(origins):
        for polarity in set(polarities[names == origin].tolist()):
            here = (names == origin) & (polarities == polarity)
            weights[here] = (UNCLASSED_WEIGHT if polarity == UNCLASSED else 1.0) / here.sum()
    weights /= weights.sum()
    return weights


def _held_out(items: Items, config: ModelConfig) -> list[str]:
    """Corpora large enough, in every class, to be held out, where at least `MIN_REMAINING` others remain."""
    origins = sorted(set(items.origins))
    counts = {o: np.bincount(items.polarities[items.of(o) & (items.polarities >= 0) & ~items.varied]) for o in origins}
    fit = [o for o in origins if len(counts[o]) == len(config.classes) and counts[o].min() >= MIN_HELD_OUT]
    return fit if len(fit) > MIN_REMAINING else []


def _fit_members(
    modality: Modality, items: Items, config: ModelConfig, hidden: Sequence[tuple[int, ...]], steps: int
) -> Expert:
    told, emotions = np.unique(items.emotions, return_inverse=True)  # what a member tells apart, in its order
    classed = items.polarities != UNCLASSED
    classes = np.zeros((len(told), len(config.classes)), dtype=np.float32)
    classes[emotions[classed], items.polarities[classed]] = 1
    if (classes.sum(axis=1) > 1).any():  # an emotion that goes with two polarities would tell less than they do
        items = items.select(classed)
        told, emotions = np.unique(items.polarities, return_inverse=True)
        classes = np.eye(len(config.classes), dtype=np.float32)[told]
    weights = corpus_weights(items.origins, items.polarities)
    members = [
        _fit_member(modality, items.described, emotions, len(told), weights, widths, seed, steps)
        for seed, widths in enumerate(hidden)
    ]
    shown = np.array([weights[items.polarities == k].sum() for k in range(len(config.classes))]) + 1e-3
    return Expert(
        members,
        torch.from_numpy(classes),
        torch.from_numpy((shown / shown.sum()).astype(np.float32)),
        torch.ones(()),
    ).eval()


def _fit_member(
    modality: Modality,
    described: FloatArray,
    targets: IntArray,
    size: int,
    weights: DoubleArray,
    hidden: Sequence[int],
    seed: int,
    steps: int,
) -> Perceptron:
    """Minimise the cross-entropy of blended, noisy items drawn by their weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        member = Perceptron([described.shape[1], *hidden, size])
        mean = weights @ described
        scale = np.sqrt(weights @ np.square(described - mean))
        member.mean.copy_(torch.from_numpy(mean.astype(np.float32)))
        member.scale.copy_(torch.from_numpy(np.where(scale > 0, scale, 1).astype(np.float32)))
        x = member.standardise(torch.from_numpy(described))
        y = F.one_hot(torch.from_numpy(targets), size).float()
        drawn = torch.from_numpy(weights)
        optimiser = torch.optim.AdamW(member.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps, pct_start=0.1)
        member.train()
        for _ in range(steps):
            rows = torch.multinomial(drawn, BATCH, replacement=True, generator=generator)
            order = torch.randperm(BATCH, generator=generator)
            share = torch.rand(BATCH, 1, generator=generator) * BLEND[modality]
            noise = torch.randn(BATCH, x.shape[1], generator=generator) * NOISE[modality]
            shown = torch.lerp(x[rows], x[rows][order], share) + noise
            loss = F.cross_entropy(member.logits(shown), torch.lerp(y[rows], y[rows][order], share))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
    return member.eval()


def _likelihoods(expert: Expert, items: Items) -> tuple[Tensor, Tensor]:
    """Log-probabilities `(N, C)` at temperature 1, and the classes `(N,)`, of the items that have one."""
    items = items.select(items.polarities != UNCLASSED)
    with torch.no_grad():
        posterior = expert.classify(torch.from_numpy(items.described))
    return posterior.clamp(min=1e-9).log(), torch.from_numpy(items.polarities)


def _log_loss(log_posterior: Tensor, classes: Tensor, temperature: float) -> float:
    return float(F.cross_entropy(log_posterior * temperature, classes))
