"""References without a network: late fusion by Bayes' rule, and the best classical classifier of each subset.

Both read means over slots. scikit-learn fits them; their coefficients are tensors, so that a checkpoint holds them.
"""
# Shapes: B batch, N and M utterances, d features, C classes, S support vectors, K trees, J nodes of a tree.

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.baselines.base import LabelledUtterance, Reference, mean_features
from model.config import ModelConfig
from model.modality import MODALITIES, SINGLES, SUBSETS, ModalitySet
from model.network.batch import Batch
from model.types import FloatArray, IntArray

PENALTIES: Final = (0.001, 0.01, 0.1, 1.0)  # inverse strength C of the logistic regression's penalty
SVM_PENALTIES: Final = (1.0, 10.0)
SVM_ROWS: Final = 2000  # training utterances drawn for a support vector machine, whose time grows with their square
TREES: Final = 100
LEAVES: Final = 128  # of a tree at most
FACTORS: Final = tuple(np.geomspace(0.1, 30.0, 60).tolist())
"""Candidate factors on logits for calibration."""
ABSENT: Final = -20.0  # logit of a class without training utterances


class Linear(nn.Module):
    """Logistic regression: `x W + b`."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Buffer(weight), nn.Buffer(bias)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, d)` → `(B, C)`."""
        return x @ self.weight + self.bias


class SupportVectors(nn.Module):
    """One-against-rest support vector machines with a radial basis function: `exp(-γ ‖x - s‖²) W + b`."""

    def __init__(self, support: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor) -> None:
        super().__init__()
        self.support, self.weight, self.bias = nn.Buffer(support), nn.Buffer(weight), nn.Buffer(bias)
        self.gamma = nn.Buffer(gamma)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, d)` → `(B, C)`."""
        products = x @ self.support.T  # (B, S)
        distances = x.square().sum(dim=1, keepdim=True) + self.support.square().sum(dim=1) - 2 * products
        return torch.exp(-self.gamma * distances.clamp(min=0)) @ self.weight + self.bias


class Forest(nn.Module):
    """Random forest: the log of the mean class distribution of the leaves.

    A leaf is its own left and right child, so that every row takes `depth` steps.
    """

    def __init__(self, feature: Tensor, cut: Tensor, left: Tensor, right: Tensor, value: Tensor, depth: Tensor) -> None:
        super().__init__()
        self.feature, self.cut = nn.Buffer(feature), nn.Buffer(cut)  # (K, J)
        self.left, self.right = nn.Buffer(left), nn.Buffer(right)  # (K, J)
        self.value, self.depth = nn.Buffer(value), nn.Buffer(depth)  # (K, J, C), ()

    def forward(self, x: Tensor) -> Tensor:
        """`(B, d)` → `(B, C)`."""
        trees = torch.arange(len(self.feature), device=x.device)  # (K,)
        node = torch.zeros(len(x), len(trees), dtype=torch.int64, device=x.device)  # (B, K)
        for _ in range(int(self.depth)):
            goes_left = x.gather(1, self.feature[trees, node]) <= self.cut[trees, node]  # (B, K)
            node = torch.where(goes_left, self.left[trees, node], self.right[trees, node])
        mean = self.value[trees, node].mean(dim=1)  # (B, K, C) → (B, C)
        return mean.clamp(min=1e-4).log()


KINDS: Final[Mapping[str, Callable[..., nn.Module]]] = {"linear": Linear, "svm": SupportVectors, "forest": Forest}


class Classifier(nn.Module):
    """Standardisation, one classifier of `KINDS`, and a factor on its logits.

    Until it is fitted, or its state loaded, it answers with equal probabilities.

    Args:
        size: d.
        classes: C.
    """

    def __init__(self, size: int, classes: int) -> None:
        super().__init__()
        self.mean, self.scale = nn.Buffer(torch.zeros(size)), nn.Buffer(torch.ones(size))
        self.factor = nn.Buffer(torch.ones(()))
        self.fitted = nn.ModuleDict({"linear": Linear(torch.zeros(size, classes), torch.zeros(classes))})
        nn.Module.register_load_state_dict_pre_hook(self, self._build)

    @staticmethod
    def _build(module: nn.Module, state: Mapping[str, Tensor], prefix: str, *_: object) -> None:
        """Build the classifier that a state is of: its tensors have the shapes of the data it was fitted to."""
        assert isinstance(module, Classifier)
        start = prefix + "fitted."
        tensors = {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}
        kind = next(iter(tensors), "").partition(".")[0]
        if kind in KINDS:
            module.fitted.clear()
            module.fitted[kind] = KINDS[kind](
                **{name.removeprefix(kind + "."): torch.empty_like(value) for name, value in tensors.items()}
            )

    @property
    def kind(self) -> str:
        """Which of `KINDS` it is."""
        (kind,) = self.fitted
        return kind

    def forward(self, x: Tensor) -> Tensor:
        """`(B, d)` → `(B, C)`."""
        logits: Tensor = self.factor * self.fitted[self.kind]((x - self.mean) / self.scale)
        return logits


class LateFusion(Reference):
    """A calibrated logistic regression of each modality, joined by Bayes' rule.

    Given the class the modalities are taken as independent: the log posteriors of the n present ones are added, less
    (n - 1) times the log prior. The penalty and the factor on the logits are chosen by the validation log loss.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        classes = len(config.classes)
        self.log_prior = nn.Buffer(torch.full((classes,), 1 / classes).log())
        self.experts = nn.ModuleDict({m: Classifier(config.feature_size(m), classes) for m in MODALITIES})

    def forward(self, batch: Batch) -> Tensor:
        """`(B, C)` logits."""
        means = mean_features(batch, batch.present)
        posteriors = torch.stack([self.experts[m](means[m]).log_softmax(dim=-1) for m in MODALITIES], dim=1)
        present = batch.present.unsqueeze(-1).to(posteriors.dtype)  # (B, 3, 1)
        return (posteriors * present).sum(dim=1) - (present.sum(dim=1) - 1) * self.log_prior

    def fit(self, training: Sequence[LabelledUtterance], validation: Sequence[LabelledUtterance], seed: int) -> None:
        """Fit one logistic regression a modality, to the utterances that have it."""
        del seed  # nothing is drawn
        classes = len(self.config.classes)
        labels = torch.tensor([label for _, label in training])
        self.log_prior.copy_(((torch.bincount(labels, minlength=classes) + 1) / (len(labels) + classes)).log())
        for subset in SINGLES:
            data = _Data.of(subset, training, validation, self.config)
            self.experts[subset.name] = min(data.linear(), key=data.log_loss, default=data.prior())


class BestClassical(Reference):
    """For each subset, the classifier of its concatenated means that has the best validation macro-F1.

    Candidates are logistic regression, support vector machine with a radial basis function, and random forest. Each is
    calibrated by a factor on its logits. A subset without training or validation utterances gets the prior.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        sizes = {s: sum(config.feature_size(m) for m in s) for s in SUBSETS}
        self.classifiers = nn.ModuleDict({s.name: Classifier(d, len(config.classes)) for s, d in sizes.items()})

    def forward(self, batch: Batch) -> Tensor:
        """`(B, C)` logits."""
        means = mean_features(batch, batch.present)
        logits = means[MODALITIES[0]].new_zeros(batch.size, len(self.config.classes))
        presences = [ModalitySet.from_mask(row) for row in batch.present.tolist()]
        for subset in set(presences):
            rows = torch.tensor([i for i, p in enumerate(presences) if p == subset], device=logits.device)  # (n,)
            logits[rows] = self.classifiers[subset.name](torch.cat([means[m][rows] for m in subset], dim=1))
        return logits

    def fit(self, training: Sequence[LabelledUtterance], validation: Sequence[LabelledUtterance], seed: int) -> None:
        """Fit every candidate of every subset, to the utterances that have all its modalities."""
        for subset in SUBSETS:
            data = _Data.of(subset, training, validation, self.config)
            candidates = (*data.linear(), *data.support_vectors(seed), *data.forest(seed))
            self.classifiers[subset.name] = max(candidates, key=data.macro_f1, default=data.prior())


@dataclass(frozen=True, slots=True)
class _Data:
    """Concatenated means of one subset, standardised by the training part.

    Args:
        x: `(N, d)` training.
        y: `(N,)` its labels.
        unseen: `(M, d)` validation.
        unseen_y: `(M,)` its labels.
        mean, scale: `(d,)` of the training part before standardisation.
        classes: C.
    """

    x: FloatArray
    y: IntArray
    unseen: FloatArray
    unseen_y: IntArray
    mean: FloatArray
    scale: FloatArray
    classes: int

    @classmethod
    def of(
        cls,
        subset: ModalitySet,
        training: Sequence[LabelledUtterance],
        validation: Sequence[LabelledUtterance],
        config: ModelConfig,
    ) -> Self:
        """Collect the utterances that have all modalities of a subset."""
        size = sum(config.feature_size(m) for m in subset)

        def means(utterances: Sequence[LabelledUtterance]) -> tuple[FloatArray, IntArray]:
            used = [(u, label) for u, label in utterances if subset.present <= u.presence.present]
            rows = [np.concatenate([u.features[m].mean(axis=0) for m in subset]) for u, _ in used]
            labels = np.array([label for _, label in used], dtype=np.int64)
            return np.array(rows, dtype=np.float32).reshape(-1, size), labels

        (x, y), (unseen, unseen_y) = means(training), means(validation)
        mean = x.mean(axis=0) if len(x) else np.zeros(size, dtype=np.float32)
        scale = np.maximum(x.std(axis=0), np.float32(1e-3)) if len(x) else np.ones(size, dtype=np.float32)
        return cls((x - mean) / scale, y, unseen, unseen_y, mean, scale, len(config.classes))

    def log_loss(self, classifier: Classifier) -> float:
        """Of the validation part."""
        return float(F.cross_entropy(classifier(torch.from_numpy(self.unseen)), torch.from_numpy(self.unseen_y)))

    def macro_f1(self, classifier: Classifier) -> float:
        """Of the validation part."""
        from sklearn.metrics import f1_score  # of the `train` extra, which serving does not need

        predicted = classifier(torch.from_numpy(self.unseen)).argmax(dim=1).numpy()
        return float(f1_score(self.unseen_y, predicted, average="macro", labels=range(self.classes), zero_division=0))

    def prior(self) -> Classifier:
        """A classifier that answers with the class frequencies of the training part."""
        counts = np.bincount(self.y, minlength=self.classes) + 1
        return self._classifier(
            "linear", _tensors(weight=np.zeros((len(self.mean), self.classes)), bias=np.log(counts))
        )

    def linear(self) -> Iterator[Classifier]:
        """Logistic regressions with different penalties."""
        from sklearn.linear_model import LogisticRegression

        for penalty in PENALTIES if self._usable else ():
            fitted = LogisticRegression(C=penalty, max_iter=1000).fit(self.x, self.y)
            weight, bias = np.zeros((self.x.shape[1], self.classes)), np.full(self.classes, ABSENT)
            # Of two classes scikit-learn gives the log-odds of the second.
            known = fitted.classes_ if len(fitted.classes_) > 2 else fitted.classes_[1:]
            bias[fitted.classes_] = 0.0
            weight[:, known], bias[known] = fitted.coef_.T, fitted.intercept_
            yield self._calibrated("linear", _tensors(weight=weight, bias=bias))

    def support_vectors(self, seed: int) -> Iterator[Classifier]:
        """Support vector machines with different penalties, fitted to at most `SVM_ROWS` rows."""
        from sklearn.svm import SVC

        rows = np.random.default_rng(seed).permutation(len(self.y))[:SVM_ROWS]
        x, y = self.x[rows], self.y[rows]
        for penalty in SVM_PENALTIES if self._usable and len(set(y.tolist())) > 1 else ():
            gamma = 1 / (x.shape[1] * max(float(x.var()), 1e-6))
            weight, bias = np.zeros((len(x), self.classes)), np.full(self.classes, ABSENT)
            for k in set(y.tolist()):
                machine = SVC(C=penalty, gamma=gamma).fit(x, y == k)
                weight[machine.support_, k], bias[k] = machine.dual_coef_[0], machine.intercept_[0]
            used = weight.any(axis=1)
            tensors = _tensors(support=x[used], weight=weight[used], bias=bias, gamma=np.array(gamma))
            yield self._calibrated("svm", tensors)

    def forest(self, seed: int) -> Iterator[Classifier]:
        """A random forest."""
        from sklearn.ensemble import RandomForestClassifier

        if not self._usable:
            return
        settings = {"max_leaf_nodes": LEAVES, "min_samples_leaf": 2, "random_state": seed}
        fitted = RandomForestClassifier(TREES, **settings).fit(self.x, self.y)
        trees = [estimator.tree_ for estimator in fitted.estimators_]
        nodes = np.arange(max(tree.node_count for tree in trees))
        feature, left, right = (np.zeros((len(trees), len(nodes)), dtype=np.int64) for _ in range(3))
        left[:], right[:] = nodes, nodes
        cut, value = np.zeros(feature.shape), np.zeros((*feature.shape, self.classes))
        for k, tree in enumerate(trees):
            inner = np.flatnonzero(tree.children_left >= 0)
            for array, own in (
                (feature, tree.feature),
                (cut, tree.threshold),
                (left, tree.children_left),
                (right, tree.children_right),
            ):
                array[k, inner] = own[inner]
            value[k, : tree.node_count, fitted.classes_] = tree.value[:, 0].T
        depth = np.array(max(tree.max_depth for tree in trees))
        yield self._calibrated(
            "forest", _tensors(feature=feature, cut=cut, left=left, right=right, value=value, depth=depth)
        )

    @property
    def _usable(self) -> bool:
        """Whether a classifier can be fitted, and chosen."""
        return len(set(self.y.tolist())) > 1 and len(self.unseen) > 0

    def _classifier(self, kind: str, tensors: Mapping[str, Tensor]) -> Classifier:
        made = Classifier(len(self.mean), self.classes)
        made.mean.copy_(torch.from_numpy(self.mean))
        made.scale.copy_(torch.from_numpy(self.scale))
        made.fitted.clear()
        made.fitted[kind] = KINDS[kind](**tensors)
        return made

    def _calibrated(self, kind: str, tensors: Mapping[str, Tensor]) -> Classifier:
        """With the factor on the logits that has the least validation log loss."""
        made = self._classifier(kind, tensors)
        logits, labels = made(torch.from_numpy(self.unseen)), torch.from_numpy(self.unseen_y)
        made.factor.fill_(min(FACTORS, key=lambda factor: float(F.cross_entropy(factor * logits, labels))))
        return made


def _tensors(**arrays: npt.NDArray[np.generic]) -> dict[str, Tensor]:
    """Tensors of arrays by name; floats in single precision."""
    return {
        name: torch.from_numpy(x.astype(np.float32 if np.issubdtype(x.dtype, np.floating) else np.int64))
        for name, x in arrays.items()
    }
