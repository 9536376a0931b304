"""A predictor whose metrics can be computed by hand, and items for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from model.modality import MODALITIES, Modality, Utterance
from model.network.decision import Decision
from model.training.decision_table import Item

T, A, V = MODALITIES
CLASSES = ("negative", "neutral", "positive")


def one_hot(label: int) -> tuple[float, ...]:
    return tuple(0.8 if index == label else 0.1 for index in range(3))


def item(name: str, label: int, signs: Mapping[Modality, int], decided_by: str | None = None) -> Item:
    """Return an item whose modalities each vote for a class."""
    return Item(name, label, Utterance({m: np.full((1, 1), v, dtype=np.float32) for m, v in signs.items()}), decided_by)


@dataclass
class Strongest:
    """Decides for the largest vote; the ensemble path adds one, and is used where only text is missing."""

    with_paths: bool = True
    calls: int = 0
    decided: int = 0

    def decide(self, utterances: Sequence[Utterance], *, both_paths: bool = False) -> Sequence[Decision]:
        self.calls += 1
        self.decided += len(utterances)
        return [self._decide(utterance, both_paths and self.with_paths) for utterance in utterances]

    def _decide(self, utterance: Utterance, both_paths: bool) -> Decision:
        vote = max(int(array[0, 0]) for array in utterance.features.values())
        presence = utterance.presence
        used = presence.missing == (T,)
        ensemble = min(vote + 1, 2)
        return Decision(
            probabilities=one_hot(ensemble if used else vote),
            full=one_hot(ensemble),
            available=one_hot(vote),
            key_modalities=(T,) if used else (),
            key_score=0.9 if used else 0.1 * len(presence.missing),
            ensemble_used=used,
            branch_weights={"transformer": 1.0},
            transformer=one_hot(vote) if both_paths else None,
            ensemble=one_hot(ensemble) if both_paths and presence.missing else None,
        )


@dataclass
class Judged(Strongest):
    """Decisions as `model.network.reliability.finalize` returns them; missing text is the most likely key modality."""

    def _decide(self, utterance: Utterance, both_paths: bool) -> Decision:
        decision = super()._decide(utterance, both_paths)
        return replace(
            decision,
            transformer=decision.available,
            vote_full=decision.full,
            vote_available=decision.available,
            rule=decision.key_modalities,
            key_by_modality={m: {T: 0.6, A: 0.1, V: 0.3}[m] for m in utterance.presence.missing},
        )


ITEMS = (
    item("text-carries", 2, {T: 2, A: 1, V: 1}, "text"),
    item("all-carry", 2, {T: 2, A: 2, V: 2}, "congruent"),
    item("all-neutral", 1, {T: 1, A: 1, V: 1}, "congruent"),
    item("wrong", 0, {T: 1, A: 0, V: 0}, "voice+face"),
)
