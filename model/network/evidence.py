"""What the network found out about one utterance, and the decision that follows from it.

For: every way of running the network, which all decide alike.
Does not know: tensors, how a vote comes about.
Source: paper 3.6 (Eqs. 9 and 13).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from model.modality import Modality, ModalitySet
from model.network.consistency import key_modalities
from model.network.decision import Decision, Distribution, argmax
from model.network.reconstruction import BRANCHES

TRANSFORMER: Final = BRANCHES[0]


@dataclass(slots=True)
class DecisionBuilder:
    """What is known of one utterance so far.

    Args:
        transformer: the transformer path's answer.
        presence: what is there.
        full, available: the votes that the check compares; None of a complete utterance.
        key: missing modalities that are key.
        score: of `key_score`.
        ensemble: the ensemble path's answer, where it was computed.
        branch_weights: β by branch, with it.
        votes, reconstruction: as in `Decision`.
    """

    transformer: Distribution
    presence: ModalitySet
    full: Distribution | None = None
    available: Distribution | None = None
    key: tuple[Modality, ...] = ()
    score: float = 0.0
    ensemble: Distribution | None = None
    branch_weights: dict[str, float] = field(default_factory=dict)
    votes: dict[str, Distribution] | None = None
    reconstruction: dict[Modality, dict[str, float]] | None = None

    def compare(
        self,
        full: Distribution,
        available: Distribution,
        without: Mapping[Modality, Distribution],
        *,
        inconsistent: bool,
        score: float,
    ) -> None:
        """Take in the consistency check.

        Args:
            full: the vote of all three modalities.
            available: that of what is present.
            without: where two are missing, the vote of all but each of them.
            inconsistent: whether the two votes name different classes.
            score: of `key_score`.
        """
        self.full, self.available, self.score = full, available, score
        alone = {m: argmax(vote) != argmax(full) for m, vote in without.items()}
        self.key = tuple(key_modalities(inconsistent, self.presence.missing, alone))

    def decision(self, *, both_paths: bool) -> Decision:
        """Pass the gate (Eq. 13)."""
        ensemble = self.ensemble if self.key else None
        gated, answer = ensemble is not None, ensemble or self.transformer
        return Decision(
            probabilities=answer,
            full=self.full or answer,
            available=self.available or answer,
            key_modalities=self.key,
            key_score=self.score,
            ensemble_used=gated,
            branch_weights=self.branch_weights if gated else {b: float(b == TRANSFORMER) for b in BRANCHES},
            votes=self.votes,
            reconstruction=self.reconstruction,
            transformer=self.transformer,
            ensemble=self.ensemble if gated or both_paths else None,
        )
