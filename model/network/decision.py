"""What the network says of one utterance: plain numbers, ready for an answer or a report.

Does not know: tensors, classes' names, HTTP.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from model.modality import Modality

Distribution = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """One utterance's decision; every distribution is over the config's classes, in their order.

    Args:
        probabilities: the answer.
        full: of the network: the vote of all three modalities, the missing ones recovered (L_vat). After
            `model.network.reliability.judge`: the answer.
        available: of the network: the vote of what is present (L_P). After `judge`: the transformer path's answer where
            a key modality is missing, else the answer. Complete input: both equal `probabilities`.
        key_modalities: of the network: missing modalities that are key by the paper's rule (Eqs. 9, 13). After `judge`:
            those reported, the likeliest first; empty unless the score reaches the threshold.
        key_score: of the network: see `model.network.consistency.key_score`. After `judge`: the probability that giving
            all that is missing would change the answer; 0 where nothing is missing.
        ensemble_used: whether the gate chose the ensemble of the three branches.
        branch_weights: β by branch; the transformer alone has weight 1 where the ensemble was not used.
        votes: with explain: the transformer branch's vote of each pair and of `all`.
        reconstruction: with explain: for each missing modality `slots` and `agreement`, the mean cosine between the
            three branches' reconstructions of it.
        transformer: the answer of the transformer path.
        ensemble: the answer of the ensemble path, where it was taken or both paths were asked for.
        vote_full, vote_available: after `judge`: the network's `full` and `available`.
        rule: after `judge`: the network's `key_modalities`.
        key_by_modality: after `judge`: for each missing modality the probability that giving it alone would change the
            answer.
        familiarity: after `judge`: of each modality that is there, in [0, 1].
        threshold: after `judge`: of `key_score`.
    """

    probabilities: Distribution
    full: Distribution
    available: Distribution
    key_modalities: tuple[Modality, ...]
    key_score: float
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
    threshold: float = 0.5

    @property
    def label_index(self) -> int:
        """Index of the answer's class."""
        return argmax(self.probabilities)


def argmax(distribution: Distribution) -> int:
    """Index of the largest probability, the first of equals."""
    return max(range(len(distribution)), key=distribution.__getitem__)
