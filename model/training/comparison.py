"""References without a network beside a trained one, on the same parts, so that a user sees whether training pays."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

import numpy as np
import torch

from model.baselines.base import Reference
from model.baselines.systems import TITLES, Network, build_network, decide
from model.config import ModelConfig, System
from model.network.batch import collate
from model.training.datasets.base import Corpus, Source, Split
from model.training.decision_table import Item, items_of
from model.training.metrics import Interval, macro_f1, paired_bootstrap
from model.training.report import ReportTable
from model.types import FloatArray, IntArray

REFERENCES: Final[tuple[System, ...]] = ("late-fusion", "classical")
PARTS: Final[tuple[Split, ...]] = ("val", "test")
BATCH: Final = 256


@dataclass(frozen=True, slots=True)
class Score:
    """Macro-F1 of a system on a part, every utterance with all that it has.

    Args:
        n: utterances.
        macro_f1: over the classes that occur.
        low: lower bound of its 95 % bootstrap interval.
        high: upper bound.
    """

    n: int
    macro_f1: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.macro_f1:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, slots=True)
class Comparison:
    """A trained system and the references.

    Args:
        system: title of the trained system.
        scores: title of a system → part → score, the trained system first; parts without utterances are left out.
        best: the reference with the highest validation macro-F1.
        difference: validation macro-F1 of the trained system minus that of `best`, with its paired bootstrap interval.
        test: the same on the test part; None without one.
        labels: part → class index of each utterance.
        predicted: title of a system → part → predicted class index of each utterance.
    """

    system: str
    scores: Mapping[str, Mapping[Split, Score]]
    best: System
    difference: Interval
    test: Interval | None = None
    labels: Mapping[Split, Sequence[int]] = field(default_factory=dict)
    predicted: Mapping[str, Mapping[Split, Sequence[int]]] = field(default_factory=dict)

    @property
    def below(self) -> bool:
        """Whether the trained system has a lower validation macro-F1 than the best reference."""
        return self.difference.difference < 0

    def as_json(self) -> str:
        """Every figure, and the verdict."""
        return json.dumps({**asdict(self), "below": self.below, "verdict": self.verdict()}, indent=1) + "\n"

    def table(self) -> ReportTable:
        """A row for each system."""
        parts = [part for part in PARTS if part in self.scores[self.system]]
        headers = ["system", *(f"{part}, {self.scores[self.system][part].n} items" for part in parts)]
        rows = [[name, *(str(found[part]) for part in parts)] for name, found in self.scores.items()]
        return ReportTable("Compared with references: macro-F1 [95 % interval]", headers, rows)

    def verdict(self) -> str:
        """Sentences on whether training pays."""
        found = self.difference
        sure = found.low > 0 or found.high < 0
        doubt = "" if sure else " The validation part is too small to tell the two apart."
        figures = f"{_written(found)} macro-F1 on validation"
        if self.test is not None and self.test.difference < 0:
            doubt += f" On the test part it is below that reference: {_written(self.test)}."
        if self.below:
            return (
                f"{self.system} is below the reference {TITLES[self.best]!r}: {figures}.{doubt} "
                f"Prefer `--system {self.best}`, or more data."
            )
        return f"{self.system} is not below the best reference, {TITLES[self.best]!r}: {figures}.{doubt}"


def _written(interval: Interval) -> str:
    return f"{interval.difference:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def compare_with_references(
    network: Network,
    corpus: Corpus,
    features: Mapping[Source, FloatArray],
    config: ModelConfig,
    seed: int,
    device: torch.device,
) -> Comparison:
    """Fit the references to the training part and score them and a network on the validation and test parts.

    The references see the means over slots of the network's features; their penalties and kinds are chosen on the
    validation part, as the network's epoch is.

    Args:
        network: trained, in eval mode and on `device`.
        corpus: what it was trained on.
        features: normalised slots of the corpus.
        config: of the network.
        seed: of the references' draws.
        device: of the network.
    """
    parts = {part: items_of(corpus.examples(part), features, config.classes) for part in ("train", *PARTS)}
    fitted = fit_references(config, parts["train"], parts["val"], seed)
    title = TITLES[config.system]
    systems: dict[str, tuple[Network, torch.device]] = {title: (network, device)}
    systems |= {TITLES[system]: (reference, torch.device("cpu")) for system, reference in fitted.items()}
    truth = {part: np.array([item.label for item in parts[part]], dtype=np.int64) for part in PARTS if parts[part]}
    predicted = {
        name: {part: predict(system, where, parts[part]) for part in truth} for name, (system, where) in systems.items()
    }
    scores = {
        name: {part: _score(truth[part], found, len(config.classes)) for part, found in by_part.items()}
        for name, by_part in predicted.items()
    }
    best = max(REFERENCES, key=lambda system: scores[TITLES[system]]["val"].macro_f1)
    differences = {
        part: paired_bootstrap(truth[part], predicted[title][part], predicted[TITLES[best]][part]) for part in truth
    }
    return Comparison(
        title,
        scores,
        best,
        differences["val"],
        differences.get("test"),
        labels={part: labels.tolist() for part, labels in truth.items()},
        predicted={name: {part: x.tolist() for part, x in by_part.items()} for name, by_part in predicted.items()},
    )


def fit_references(
    config: ModelConfig, training: Sequence[Item], validation: Sequence[Item], seed: int
) -> dict[System, Reference]:
    """Fit each of `REFERENCES`, in eval mode; arguments as of `compare_with_references` and `Reference.fit`."""
    fitted: dict[System, Reference] = {}
    for system in REFERENCES:
        reference = build_network(config.model_copy(update={"system": system}))
        assert isinstance(reference, Reference)
        seen, unseen = ([(item.utterance, item.label) for item in part] for part in (training, validation))
        reference.fit(seen, unseen, seed)
        fitted[system] = reference.eval()
    return fitted


def predict(network: Network, device: torch.device, items: Sequence[Item]) -> IntArray:
    """Class index `(N,)` of each of N items by a network in eval mode on `device`, before calibration."""
    found: list[int] = []
    for start in range(0, len(items), BATCH):
        batch = collate([item.utterance for item in items[start : start + BATCH]], network.config).to(device)
        found += [decision.label_index for decision in decide(network, batch)]
    return np.array(found, dtype=np.int64)


def _score(truth: IntArray, predicted: IntArray, classes: int) -> Score:
    # The interval of one system is that of its difference from one that is always wrong, whose macro-F1 is 0.
    interval = paired_bootstrap(truth, predicted, (truth + 1) % classes)
    return Score(truth.size, macro_f1(truth, predicted), interval.low, interval.high)
