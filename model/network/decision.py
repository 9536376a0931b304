"""The decision on one utterance, as plain numbers. Importing this module does not import PyTorch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from model.modality import Modality

Distribution = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """One utterance's decision; every distribution is over the config's classes, in their order.

    A baseline (`model.baselines`) gives `probabilities` alone: its `full` and `available` equal them, `key_score` and,
    finalized, `threshold` are None, and `branch_weights` is empty.

    The network's own decision has no fitted calibration; `model.network.reliability.finalize` replaces some fields.

    Args:
        probabilities: the answer.
        full: the network's vote of all three modalities, the missing ones reconstructed (L_vat). Finalized: the answer.
        available: the network's vote of the present modalities (L_P). Finalized: the answer of the transformer path if
            a key modality is missing, else the answer. For complete input both equal `probabilities`.
        key_modalities: missing modalities that are key by the paper's rule (Eqs. 9, 13). Finalized: those reported, in
            descending order of probability; empty unless the score reaches the threshold.
        key_score: of `model.network.consistency.key_score`. Finalized: probability that providing everything missing
            would change the answer; 0 if nothing is missing.
        ensemble_used: whether the gate selected the ensemble of the three branches.
        branch_weights: β by branch; the transformer has weight 1 if the ensemble was not used.
        votes: with explain: the transformer branch's vote of each pair and of `all`.
        reconstruction: with explain: for each missing modality `slots` and `agreement`, the mean cosine similarity of
            the three branches' reconstructions.
        transformer: the answer of the transformer path.
        ensemble: the answer of the ensemble path, if the gate selected it or both paths were requested.
        vote_full, vote_available: finalized: the network's `full` and `available`.
        rule: finalized: the network's `key_modalities`.
        key_by_modality: finalized: for each missing modality the probability that providing it would change the answer.
        familiarity: finalized: of each present modality, in [0, 1].
        threshold: finalized: of `key_score`.
    """

    probabilities: Distribution
    full: Distribution
    available: Distribution
    key_modalities: tuple[Modality, ...]
    key_score: float | None
    ensemble_used: bool
    branch_weights: Mapping[str, float]
    votes: Mapping[str, Distribution] | None = None
    reconstruction: Mapping[Modality, Mapping[str, float]] | None = None
    transformer: Distribution | None = None
    ensemble: Distribution | None = None
    vote_full: Distribution | None = None
    vote_available: Distribution | None = None
    rule: tuple[Modality, ...] = ()
    key_by_modality: Mapping[Modality, float] = field(default_factory=dict)
    familiarity: Mapping[Modality, float] = field(default_factory=dict)
    threshold: float | None = 0.5

    @classmethod
    def of_answer(cls, answer: Distribution) -> Self:
        """The decision of a baseline, which has an answer and nothing else."""
        return cls(answer, answer, answer, key_modalities=(), key_score=None, ensemble_used=False, branch_weights={})

    @property
    def label_index(self) -> int:
        """Index of the most probable class."""
        return argmax(self.probabilities)


def argmax(distribution: Distribution) -> int:
    """Index of the largest probability, the first of equals."""
    return max(range(len(distribution)), key=distribution.__getitem__)
