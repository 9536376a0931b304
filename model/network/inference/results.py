"""The results of a forward pass that a decision depends on, and the decisions that follow from them (Eqs. 8 to 13).

Shapes: B utterances, C classes, K branches.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Final, NamedTuple, Self

from torch import Tensor

from model.config import BRANCHES, ModelConfig
from model.modality import COMPLETE, MODALITIES, PAIRS, Modality, ModalitySet
from model.network.consistency import key_modalities
from model.network.decision import Decision, Distribution, argmax

VOTES: Final = (*PAIRS, COMPLETE)


class Results(NamedTuple):
    """Columns of one float matrix, so that one transfer takes them to the host. Votes and answers are distributions.

    Args:
        transformer: `(B, C)` answer of the transformer path.
        ensemble: `(B, C)` answer of the ensemble path.
        available: `(B, C)` vote of the present modalities.
        votes: `(B, 4 C)` the transformer branch's votes of `VOTES`.
        inconsistent: `(B, 1)` 1 where the vote of all three modalities differs from `available`.
        score: `(B, 1)` of `key_score`.
        branch_weights: β `(B, K)`.
        agreement: `(B, 3)` of `agreement` for each modality, were it missing.
    """

    transformer: Tensor
    ensemble: Tensor
    available: Tensor
    votes: Tensor
    inconsistent: Tensor
    score: Tensor
    branch_weights: Tensor
    agreement: Tensor

    @staticmethod
    def widths(config: ModelConfig) -> tuple[int, ...]:
        """Columns of each field."""
        classes = len(config.classes)
        return classes, classes, classes, len(VOTES) * classes, 1, 1, len(config.network.branches), len(MODALITIES)

    @classmethod
    def of(cls, matrix: Tensor, config: ModelConfig) -> Self:
        """Views of the columns of a matrix `(B, sum of widths)`."""
        return cls(*matrix.split(cls.widths(config), dim=1))

    def vote(self, subset: ModalitySet) -> Tensor:
        """View of one of `VOTES`, `(B, C)`."""
        return self.votes.chunk(len(VOTES), dim=1)[VOTES.index(subset)]  # (B, 4 C) → (B, C)


def decisions(
    matrix: Tensor, presences: Sequence[ModalitySet], config: ModelConfig, *, explain: bool, both_paths: bool
) -> list[Decision]:
    """Decide on the results of a static graph or of the sparse path.

    Args:
        matrix: `(B or more, columns of Results)` on the host; rows beyond the presences are ignored.
        presences: the present modalities of each of B utterances.
        config: of the network.
        explain: also give every vote of `VOTES` and the agreement of the branches' reconstructions.
        both_paths: also give the answer of the path that the gate did not select.
    """
    ends = [0, *accumulate(Results.widths(config))]
    classes, first_only = len(config.classes), dict.fromkeys(BRANCHES, 0.0) | {config.network.branches[0]: 1.0}
    found = []
    for presence, row in zip(presences, matrix[: len(presences)].tolist(), strict=True):
        if presence.complete and not explain:  # there is an answer and nothing else; of a large batch half the time
            answer = tuple(row[:classes])
            found.append(
                Decision(
                    probabilities=answer,
                    full=answer,
                    available=answer,
                    key_modalities=(),
                    key_score=0.0,
                    ensemble_used=False,
                    branch_weights=first_only,
                    transformer=answer,
                )
            )
        else:
            fields = dict(zip(Results._fields, (row[i:j] for i, j in pairwise(ends)), strict=True))
            found.append(_decision(presence, fields, config, explain, both_paths))
    return found


def _decision(
    presence: ModalitySet, row: Mapping[str, list[float]], config: ModelConfig, explain: bool, both_paths: bool
) -> Decision:
    classes, incomplete = len(config.classes), not presence.complete

    def vote(subset: ModalitySet) -> Distribution:
        start = VOTES.index(subset) * classes
        return tuple(row["votes"][start : start + classes])

    key: tuple[Modality, ...] = ()
    if row["inconsistent"][0]:
        # Where two are missing, the full vote is also compared with the votes without each of them.
        pairs = {m: ModalitySet(COMPLETE.present - {m}) for m in presence.missing if len(presence) == 1}
        without = {m: argmax(vote(pair)) != argmax(vote(COMPLETE)) for m, pair in pairs.items()}
        key = tuple(key_modalities(presence.missing, without))
    transformer, ensemble = tuple(row["transformer"]), tuple(row["ensemble"])
    answer = ensemble if key else transformer
    reconstruction = {
        m: {"slots": float(config.network.imputed_slots.of(m)), "agreement": row["agreement"][MODALITIES.index(m)]}
        for m in presence.missing
        if explain
    }
    weights = row["branch_weights"] if key else (1.0,)
    return Decision(
        probabilities=answer,
        full=vote(COMPLETE) if incomplete else answer,
        available=tuple(row["available"]) if incomplete else answer,
        key_modalities=key,
        key_score=row["score"][0] if incomplete else 0.0,
        ensemble_used=bool(key),
        branch_weights=dict.fromkeys(BRANCHES, 0.0) | dict(zip(config.network.branches, weights, strict=False)),
        votes={"all" if s.complete else s.name: vote(s) for s in VOTES} if explain else None,
        reconstruction=reconstruction or None,
        transformer=transformer,
        ensemble=ensemble if key or (both_paths and incomplete) else None,
    )
