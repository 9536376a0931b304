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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
from model.training.corpora.base import Example, SoundSource, Source, Unclassed

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
UNCLASSED: Final = -1


@dataclass(frozen=True, slots=True)
class Items:
    """Distinct sources of one modality.

    Args:
        described: `(N, W)`.
        polarities: `(N,)` class indices of what each carries alone, `UNCLASSED` where that is none of them.
        emotions: of each the emotion, or its polarity where the corpus does not know it.
    """

    described: FloatArray
    polarities: npt.NDArray[np.int64]
    emotions: Sequence[str]

    def select(self, rows: npt.NDArray[np.bool_]) -> Self:
        """The rows `(N,)` that are True."""
        emotions = [emotion for emotion, here in zip(self.emotions, rows, strict=True) if here]
        return replace(self, described=self.described[rows], polarities=self.polarities[rows], emotions=emotions)


_LAYER: Final = re.compile(r"members\.(\d+)\.layers\.(\d+)\.weight")  # of an expert's state


class Perceptron(nn.Module):
    """Linear layers with ReLU between them, and a softmax; a single layer is a logistic regression.

    Args:
        widths: W, of each hidden layer, E.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.width = widths[0]
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
        members: the regression first, all of the same W.
        classes: `(E, C)`, 1 where what a member tells apart goes with a class; a row of zeros goes with none.
        prior: `(C,)`, how frequent the classes were among the items it was fitted to.
    """

    def __init__(self, members: Sequence[Perceptron], classes: Tensor, prior: Tensor) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.width = members[0].width
        self.classes: Tensor
        self.prior: Tensor
        self.register_buffer("classes", classes)
        self.register_buffer("prior", prior)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """`(B, T, d)`, `(B, T)` → the polarity each row carries alone, `(B, C)`, under the expert's prior.

        That it shows nothing that goes with a class is ruled out.
        """
        described = describe(x, valid, self.width)
        regression, *others = [member(described) for member in self.members]
        mixed = 0.5 * (regression + torch.stack(others).mean(dim=0)) if others else regression
        return _polarity(mixed, self.classes)

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
        expert = cls(members, state["classes"], state["prior"])
        expert.load_state_dict(dict(state))
        return expert


def _polarity(told: Tensor, classes: Tensor) -> Tensor:
    """What members tell apart `(B, E)`, and `(E, C)` → distributions over the classes `(B, C)`."""
    polarity = told @ classes
    return polarity / polarity.sum(dim=-1, keepdim=True).clamp(min=1e-9)


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
) -> Expert:
    """Fit to the distinct sources of one modality, the penalties chosen by log loss on the validation part's.

    Text, whose encoder was adapted to these labels already, gets a regression alone.

    Args:
        modality: which.
        training: examples with `modality_labels`.
        validation: the same, of the validation part.
        features: normalised slots.
        config: gives classes and sizes.
        unclassed: content that shows something else, which the expert learns to tell from the classes'.
        variants: augmented variants of each sound to use as well.
    """
    items = _items(modality, training, features, config, variants, unclassed)
    judged = _items(modality, validation, features, config, 0)
    told, emotions = np.unique(items.emotions, return_inverse=True)  # what a model tells apart, in its order
    classed = items.polarities != UNCLASSED
    classes = np.zeros((len(told), len(config.classes)), dtype=np.float32)
    classes[emotions[classed], items.polarities[classed]] = 1
    if (classes.sum(axis=1) > 1).any():  # an emotion that goes with two polarities would tell less than they do
        items = items.select(classed)
        told, emotions = np.unique(items.polarities, return_inverse=True)
        classes = np.eye(len(config.classes), dtype=np.float32)[told]
    mean, scale = items.described.mean(axis=0), items.described.std(axis=0)
    scale = np.where(scale > 0, scale, 1)
    x = (items.described - mean) / scale

    def loss(member: Perceptron) -> float:
        with torch.no_grad():
            distributions = _polarity(member(torch.from_numpy(judged.described)), torch.from_numpy(classes)).numpy()
        right = distributions[np.arange(len(judged.polarities)), judged.polarities]
        return -float(np.log(np.maximum(right, 1e-9)).mean())

    def best(fit: Callable[[float], Perceptron], penalties: Sequence[float]) -> tuple[float, Perceptron]:
        made = [(penalty, fit(penalty)) for penalty in penalties]
        return min(made, key=lambda pair: loss(pair[1])) if len(judged.polarities) else made[len(made) // 2]

    def regression(inverse_penalty: float) -> Perceptron:
        model = LogisticRegression(C=inverse_penalty, max_iter=ITERATIONS, tol=1e-3)
        return _perceptron(_fitted(model, x, emotions), mean, scale)

    def perceptron(penalty: float, seed: int = 0) -> Perceptron:
        epochs = max(10, min(300, SHOWN // len(x)))
        model = MLPClassifier((HIDDEN,), alpha=penalty, max_iter=epochs, random_state=seed)
        return _perceptron(_fitted(model, x, emotions), mean, scale)

    _, member = best(regression, INVERSE_PENALTIES)
    members = [member]
    if modality is not Modality.TEXT:
        penalty, member = best(perceptron, PENALTIES)
        members += [member, *(perceptron(penalty, seed) for seed in range(1, PERCEPTRONS))]
    prior = np.bincount(items.polarities[items.polarities != UNCLASSED], minlength=len(config.classes)) + 1.0
    return Expert(
        members,
        torch.from_numpy(classes),
        torch.from_numpy((prior / prior.sum()).astype(np.float32)),
    )


def _items(
    modality: Modality,
    examples: Sequence[Example],
    features: Mapping[Source, FloatArray],
    config: ModelConfig,
    variants: int,
    unclassed: Sequence[Unclassed] = (),
) -> Items:
    width = described_width(config, modality)
    described: list[FloatArray] = []
    polarities: list[int] = []
    emotions: list[str] = []
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
    return Items(
        np.asarray(described, dtype=np.float32).reshape(-1, width),
        np.asarray(polarities, dtype=np.int64),
        emotions,
    )


def _fitted(model: Any, x: FloatArray, y: npt.NDArray[np.int64]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=ConvergenceWarning)  # stopped early on purpose
        return model.fit(x, y)


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
