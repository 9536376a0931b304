"""The items of an evaluation and the decision on each, with every subset of the modalities it has."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np

from model.modality import SUBSETS, Modality, ModalitySet, Utterance
from model.network.decision import Decision
from model.training.datasets.base import Example, Source
from model.types import DoubleArray, FloatArray, IntArray

BATCH_SIZE: Final = 128  # utterances in one call of the predictor

Case = tuple[int, ModalitySet]  # position of an item, and the modalities it keeps


class Predictor(Protocol):
    """A network with its calibration, a baseline, or a test's stand-in."""

    def decide(self, utterances: Sequence[Utterance], *, both_paths: bool = False) -> Sequence[Decision]:
        """One decision for each utterance, in order and independent of the others.

        Args:
            utterances: to decide on.
            both_paths: also compute the ensemble path where the gate does not choose it.
        """


@dataclass(frozen=True, slots=True)
class Item:
    """One labelled utterance.

    Args:
        id: unique among the items.
        label: index of its class.
        utterance: its features, as the predictor takes them.
        decided_by: which modalities carry the label, where that is known.
        origins: modality → the corpus its content was recorded for, where that is known.
        score: of a regression.
    """

    id: str
    label: int
    utterance: Utterance
    decided_by: str | None = None
    origins: Mapping[Modality, str] = field(default_factory=dict)
    score: float | None = None


def items_of(examples: Iterable[Example], features: Mapping[Source, FloatArray], classes: Sequence[str]) -> list[Item]:
    """Join examples and their features; an example without any features is left out.

    Args:
        examples: of one part of a corpus.
        features: source → `(T, d)`, as the predictor takes them; an absent source is a missing modality.
        classes: the predictor's.

    Raises:
        ValueError: an example's label is not among `classes`.
    """
    positions = {name: index for index, name in enumerate(classes)}
    items = []
    for example in examples:
        if example.label not in positions:
            raise ValueError(f"label {example.label!r} of {example.id} is not among the classes {', '.join(classes)}")
        arrays = {m: features[source] for m, source in example.sources.items() if source in features}
        if arrays:
            label, utterance = positions[example.label], Utterance(arrays)
            items.append(Item(example.id, label, utterance, example.decided_by, example.origins, example.score))
    return items


class DecisionTable:
    """The decision on every item with every subset of what it has, each computed once, on construction.

    Args:
        predictor: computes the decisions.
        items: N.
        classes: C.
    """

    def __init__(self, predictor: Predictor, items: Sequence[Item], classes: int) -> None:
        self.items, self.classes = items, classes
        self._decisions: dict[Case, Decision] = {}
        presences = [item.utterance.presence for item in items]
        self._cases = {
            subset: [(i, subset) for i, presence in enumerate(presences) if subset.present <= presence.present]
            for subset in SUBSETS
        }
        for subset, cases in self._cases.items():
            for complete in (True, False):
                chosen = [case for case in cases if presences[case[0]].complete is complete]
                # The gate is measured on complete items that lack something: only there are both paths needed.
                both_paths = complete and not subset.complete
                for start in range(0, len(chosen), BATCH_SIZE):
                    batch = chosen[start : start + BATCH_SIZE]
                    utterances = [items[i].utterance.keep(subset) for i, _ in batch]
                    decisions = predictor.decide(utterances, both_paths=both_paths)
                    self._decisions.update(zip(batch, decisions, strict=True))

    def __getitem__(self, case: Case) -> Decision:
        return self._decisions[case]

    def cases(self, subset: ModalitySet) -> Sequence[Case]:
        """The items that have all of a subset's modalities, each with these alone."""
        return self._cases[subset]

    def arrays(self, cases: Iterable[Case]) -> tuple[IntArray, IntArray, DoubleArray]:
        """True classes `(M,)`, predicted classes `(M,)` and probabilities `(M, C)` of M cases."""
        chosen = list(cases)
        decisions = [self[case] for case in chosen]
        return (
            np.array([self.items[index].label for index, _ in chosen], dtype=np.int64),
            np.array([decision.label_index for decision in decisions], dtype=np.int64),
            np.array([decision.probabilities for decision in decisions], dtype=np.float64).reshape(-1, self.classes),
        )
