"""What the network says of one utterance: plain numbers, ready for an answer or a report.

Does not know: tensors, classes' names, HTTP.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from model.modality import Modality

Distribution = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """One utterance's decision; every distribution is over the config's classes, in their order.

    Args:
        probabilities: the answer.
        full: the vote of all three modalities, the missing ones recovered (L_vat).
        available: the vote of what is present (L_P). Complete input: both equal `probabilities`.
        key_modalities: missing modalities whose absence changes the polarity; empty when consistent.
        key_score: how likely the missing ones change the answer, in [0, 1]; 0 where nothing is missing.
        ensemble_used: whether the gate chose the ensemble of the three branches.
        branch_weights: β by branch; the transformer alone has weight 1 where the ensemble was not used.
        votes: with explain: the transformer branch's vote of each pair and of `all`.
        reconstruction: with explain: for each missing modality `slots` and `agreement`, the mean cosine between the
            three branches' reconstructions of it.
        transformer: with both paths: the answer of the transformer path.
        ensemble: with both paths and something missing: the answer of the ensemble path.
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

    @property
    def label_index(self) -> int:
        """Index of the answer's class."""
        return argmax(self.probabilities)


def argmax(distribution: Distribution) -> int:
    """Index of the largest probability, the first of equals."""
    return max(range(len(distribution)), key=distribution.__getitem__)
