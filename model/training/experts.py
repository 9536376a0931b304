"""What each modality says by itself, as several small models of another make than the network have it.

For: `model.training.teacher`, whose targets they are the base of. With few speakers a large network trained on labels
learns the speakers; linear models and small perceptrons on a clip as a whole, chosen by validation log loss and
averaged, carry over better, and a network that is taught by them better than either.
Does not know: fusion, missing modalities, the network.
Source: scikit-learn's logistic regression and perceptron, fitted there and evaluated here.

Shapes: B batch, T slots, d features of a slot, N items, W numbers that describe an item, E emotions (or classes),
C classes.
"""

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from torch import Tensor, nn

from model.config import ModelConfig
from model.modality import Modality
from model.training.corpora.base import Example, SoundSource, Source

FloatArray = npt.NDArray[np.float32]

MOST_NUMBERS: Final = 2048
"""An item of no more is described slot by slot, in their order; a longer one by the mean over its slots."""
INVERSE_PENALTIES: Final = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
"""Of the logistic regression (scikit-learn's C)."""
PENALTIES: Final = (3.0, 10.0, 30.0)
"""Of the perceptron (scikit-learn's alpha)."""
HIDDEN: Final = 128
PERCEPTRONS: Final = 2  # of different seeds
SHOWN: Final = 300_000  # items a perceptron is shown in all, each at least 10 and at most 300 times
ITERATIONS: Final = 500  # of the regression, at most


@dataclass(frozen=True, slots=True)
class Items:
    """Distinct sources of one modality.

    Args:
        described: `(N, W)`.
        polarities: `(N,)` class indices of what each carries alone.
        emotions: of each the emotion, or its polarity where the corpus does not know it.
    """

    described: FloatArray
    polarities: npt.NDArray[np.int64]
    emotions: Sequence[str]


class Perceptron(nn.Module):
    """Linear layers with ReLU between them, and a softmax; a single layer is a logistic regression."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, W)` → distributions `(B, E)`."""
        *inner, last = self.layers
        for layer in inner:
            x = F.relu(layer(x))
        distribution: Tensor = last(x).softmax(dim=-1)
        return distribution


class Expert(nn.Module):
    """One modality's: a logistic regression, and perceptrons that together count as much where there are some.

    Args:
        members: the regression first.
        classes: `(E, C)`, 1 where what a member tells apart goes with a class.
        prior: `(C,)`, how frequent the classes were among the items it was fitted to.
        slots: T of a full item if items are described slot by slot; 0 if by their mean.
    """

    def __init__(self, members: Sequence[Perceptron], classes: Tensor, prior: Tensor, slots: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.classes: Tensor
        self.prior: Tensor
        self.slots: Tensor
        self.register_buffer("classes", classes)
        self.register_buffer("prior", prior)
        self.register_buffer("slots", torch.tensor(slots))
        self._slots = slots

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """`(B, T, d)`, `(B, T)` → the polarity each row carries alone, `(B, C)`, under the expert's prior."""
        described = describe(x, valid, self._slots)
        regression, *others = [member(described) for member in self.members]
        mixed = 0.5 * (regression + torch.stack(others).mean(dim=0)) if others else regression
        distribution: Tensor = mixed @ self.classes
        return distribution

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
        expert = cls(members, state["classes"], state["prior"], int(state["slots"]))
        expert.load_state_dict(dict(state))
        return expert


_LAYER: Final = re.compile(r"members\.(\d+)\.layers\.(\d+)\.weight")


def describe(x: Tensor, valid: Tensor, slots: int) -> Tensor:
    """Slots `(B, T, d)` → `(B, slots · d)` in their order, zeros where there is none, or their mean `(B, d)`."""
    x = x * valid.unsqueeze(-1)
    if slots:
        return F.pad(x, (0, 0, 0, slots - x.shape[1])).flatten(1)
    return x.sum(dim=1) / valid.sum(dim=1, keepdim=True).clamp(min=1)


def slots_described(config: ModelConfig, modality: Modality) -> int:
    """How many slots of a modality are described one by one; 0 for none."""
    slots = config.slots.of(modality)
    return slots if slots * config.feature_size(modality) <= MOST_NUMBERS else 0


def fit_expert(
    modality: Modality,
    training: Sequence[Example],
    validation: Sequence[Example],
    features: Mapping[Source, FloatArray],
    config: ModelConfig,
    *,
    variants: int,
) -> Expert:
    """Fit to the distinct sources of one modality, the penalties chosen by log loss on the validation part's.

    Text, whose encoder was adapted to these labels already, gets a regression alone.

    Args:
        modality: which.
        training: examples with `modality_labels`.
        validation: the same, of the validation part.
        features: normalised slots.
        config: gives classes and sizes.
        variants: augmented variants of each sound to use as well.
    """
    items = _items(modality, training, features, config, variants)
    judged = _items(modality, validation, features, config, 0)
    told, emotions = np.unique(items.emotions, return_inverse=True)  # what a model tells apart, in its order
    classes = np.zeros((len(told), len(config.classes)), dtype=np.float32)
    classes[emotions, items.polarities] = 1
    if (classes.sum(axis=1) > 1).any():  # an emotion that goes with two polarities would tell less than they do
        told, emotions = np.unique(items.polarities, return_inverse=True)
        classes = np.eye(len(config.classes), dtype=np.float32)[told]
    mean, scale = items.described.mean(axis=0), items.described.std(axis=0)
    scale = np.where(scale > 0, scale, 1)
    x = (items.described - mean) / scale

    def loss(member: Perceptron) -> float:
        with torch.no_grad():
            polarity = (member(torch.from_numpy(judged.described)).numpy() @ classes)[
                np.arange(len(judged.polarities)), judged.polarities
            ]
        return -float(np.log(np.maximum(polarity, 1e-9)).mean())

    def best(fits: Iterator[Any]) -> tuple[Any, Perceptron]:
        made = [(fit, _perceptron(fit, mean, scale)) for fit in fits]
        return min(made, key=lambda pair: loss(pair[1])) if len(judged.polarities) else made[len(made) // 2]

    _, regression = best(_regression(x, emotions, c) for c in INVERSE_PENALTIES)
    members = [regression]
    if modality is not Modality.TEXT:
        chosen, perceptron = best(_multilayer(x, emotions, alpha, 0) for alpha in PENALTIES)
        members.append(perceptron)
        members += [
            _perceptron(_multilayer(x, emotions, chosen.alpha, seed), mean, scale) for seed in range(1, PERCEPTRONS)
        ]
    prior = np.bincount(items.polarities, minlength=len(config.classes)) + 1.0
    return Expert(
        members,
        torch.from_numpy(classes),
        torch.from_numpy((prior / prior.sum()).astype(np.float32)),
        slots_described(config, modality),
    )


def _items(
    modality: Modality,
    examples: Sequence[Example],
    features: Mapping[Source, FloatArray],
    config: ModelConfig,
    variants: int,
) -> Items:
    slots, size = slots_described(config, modality), config.feature_size(modality)
    described: list[FloatArray] = []
    polarities: list[int] = []
    emotions: list[str] = []
    seen: set[Source] = set()
    for example in examples:
        source = example.sources.get(modality)
        if source is None or source in seen or source not in features:
            continue
        seen.add(source)
        polarity = example.modality_labels[modality]
        versions = [source]
        if isinstance(source, SoundSource):
            versions += [SoundSource(source.path, k) for k in range(1, variants + 1)]
        for version in versions:
            if version in features:
                x = torch.from_numpy(features[version])[None]
                described.append(describe(x, torch.ones(x.shape[:2], dtype=torch.bool), slots)[0].numpy())
                polarities.append(config.classes.index(polarity))
                emotions.append(example.emotions.get(modality, polarity))
    width = slots * size if slots else size
    return Items(
        np.asarray(described, dtype=np.float32).reshape(-1, width),
        np.asarray(polarities, dtype=np.int64),
        emotions,
    )


def _regression(x: FloatArray, y: npt.NDArray[np.int64], inverse_penalty: float) -> Any:
    return _fitted(lambda: LogisticRegression(C=inverse_penalty, max_iter=ITERATIONS, tol=1e-3).fit(x, y))


def _multilayer(x: FloatArray, y: npt.NDArray[np.int64], alpha: float, seed: int) -> Any:
    epochs = max(10, min(300, SHOWN // len(x)))
    return _fitted(lambda: MLPClassifier((HIDDEN,), alpha=alpha, max_iter=epochs, random_state=seed).fit(x, y))


def _fitted(fit: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=ConvergenceWarning)  # stopped early on purpose
        return fit()


def _perceptron(fitted: Any, mean: FloatArray, scale: FloatArray) -> Perceptron:
    """scikit-learn's weights, with the standardisation before them taken into the first layer."""
    if isinstance(fitted, MLPClassifier):
        layers = list(zip([w.T for w in fitted.coefs_], fitted.intercepts_, strict=True))
    else:
        layers = [(fitted.coef_, fitted.intercept_)]
    weight, bias = layers[0]
    layers[0] = (weight / scale, bias - (weight / scale) @ mean)
    if layers[-1][0].shape[0] == 1:  # of two classes scikit-learn keeps one logit
        weight, bias = layers[-1]
        layers[-1] = (np.concatenate([np.zeros_like(weight), weight]), np.concatenate([np.zeros_like(bias), bias]))
    made = Perceptron([layers[0][0].shape[1], *(w.shape[0] for w, _ in layers)])
    with torch.no_grad():
        for layer, (weight, bias) in zip(made.layers, layers, strict=True):
            assert isinstance(layer, nn.Linear)
            layer.weight.copy_(torch.from_numpy(np.asarray(weight, dtype=np.float32)))
            layer.bias.copy_(torch.from_numpy(np.asarray(bias, dtype=np.float32)))
    return made.requires_grad_(requires_grad=False)
