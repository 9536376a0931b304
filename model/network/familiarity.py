"""How similar the input of a modality is to the content that the network was trained on.

Shapes: N utterances, d features of a slot, K projection directions, G centres.
"""

import math
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from model.modality import Modality, Utterance

FAMILIAR: Final = 0.5
"""From this familiarity on a modality has full weight; 1 % of the input of unseen people is below."""


class Familiarity(nn.Module):
    """Similarity of one modality's input to its training content, in [0, 1].

    The mean over slots is standardised and projected. Its class-conditional Mahalanobis distance δ to the nearest
    centre (Lee et al., NeurIPS 2018) gives `1 / (1 + ((δ - near) / (far - near))²)`, and 1 below `near`.

    Args:
        size: d.
        directions: K.
        centres: G.
    """

    def __init__(self, size: int, directions: int, centres: int) -> None:
        super().__init__()
        self.mean = nn.Buffer(torch.zeros(size))
        self.projection = nn.Buffer(torch.zeros(size, directions))  # whitening
        self.centres = nn.Buffer(torch.zeros(centres, directions))
        self.residual = nn.Buffer(torch.zeros(()))  # 1 / variance outside the projection
        self.bounds = nn.Buffer(torch.tensor([math.inf, math.inf]))  # near, far; infinite: not fitted

    def distances(self, x: Tensor) -> Tensor:
        """Means over slots `(N, d)` → squared distance to the nearest centre per dimension, `(N,)`."""
        centred = x - self.mean
        projected = centred @ self.projection  # (N, K)
        nearest = (projected[:, None] - self.centres).square().sum(dim=-1).amin(dim=1)  # (N, 1, K) - (G, K) → (N,)
        # The part outside the projection has no centre: its energy is compared to that of training content.
        basis = self.projection / self.projection.norm(dim=0).clamp(min=1e-9)
        outside = (centred.square().sum(dim=1) - (centred @ basis).square().sum(dim=1)).clamp(min=0)
        distances: Tensor = (nearest + outside * self.residual) / x.shape[1]
        return distances

    def forward(self, x: Tensor) -> Tensor:
        """Means over slots `(N, d)` → `(N,)`."""
        near, far = self.bounds
        if not bool(torch.isfinite(near)):
            return x.new_ones(len(x))
        excess = ((self.distances(x) - near) / (far - near)).clamp(min=0)
        familiarity: Tensor = 1 / (1 + excess.square())
        return familiarity


def familiar_part(utterance: Utterance, familiarity: Mapping[Modality, float]) -> Utterance | None:
    """The utterance without its unfamiliar modalities; None if it would be empty or unchanged."""
    kept = [m for m in utterance.presence if familiarity.get(m, 1.0) >= FAMILIAR]
    return utterance.keep(kept) if 0 < len(kept) < len(utterance.presence) else None
