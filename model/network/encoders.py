"""From features to the common sequence X: modality encoders, common space, and what stands for a missing modality.

For: Eqs. 1 and 2, with the common space of the authors' code that the paper leaves out.
Does not know: branches, heads, labels.

Shapes: B batch, T_m slots of modality m in this batch, T = T_text + T_audio + T_visual, d_m features, D hidden.
"""

from collections.abc import Mapping
from itertools import combinations
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig
from model.modality import MODALITIES, Modality
from model.network.layers import SelfAttention, SharedDropout, masked_mean

MODALITY_PAIRS: Final = tuple(combinations(MODALITIES, 2))


class ModalityEncoder(nn.Module):
    """Bias-free projection d_m → D, then self-attention within the modality (Eq. 1).

    Args:
        size: d_m.
        hidden: D.
        heads: of the attention.
        dropout: rate.
        positions: slots to learn an embedding of; 0 for none, which leaves the order of slots unseen.
    """

    def __init__(self, size: int, hidden: int, heads: int, dropout: float, positions: int = 0) -> None:
        super().__init__()
        self.project = nn.Linear(size, hidden, bias=False)
        # As large as a projected slot, or attention would not tell one slot from the next for many epochs.
        self.position = nn.Parameter(torch.randn(positions, hidden) * 0.5) if positions else None
        self.attention = SelfAttention(hidden, heads, dropout)
        self.dropout = SharedDropout(dropout)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """`(B, T_m, d_m)`, `(B, T_m)` → `(B, T_m, D)`."""
        projected = self.project(x)
        if self.position is not None:
            projected = projected + self.position[: x.shape[1]]
        encoded: Tensor = self.attention(self.dropout(projected), valid)
        return encoded


class CommonSpace(nn.Module):
    """Three shared projections D → D/2, one a pair: `C_v = [E_v W_va ‖ E_v W_vt]` and so on."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.pairs = nn.ModuleDict({f"{a}_{b}": nn.Linear(hidden, hidden // 2) for a, b in MODALITY_PAIRS})

    def forward(self, encoded: Tensor, modality: Modality) -> Tensor:
        """`(B, T_m, D)` → `(B, T_m, D)`."""
        own = [self.pairs[f"{a}_{b}"] for a, b in MODALITY_PAIRS if modality in (a, b)]
        return torch.cat([project(encoded) for project in own], dim=-1)


class MissingSlots(nn.Module):
    """A missing modality's slots: a learned token, a position, and a view of what is present.

    Without that view the position-wise autoencoders would have nothing to impute from; `pooled=False` is the ablation.
    """

    def __init__(self, slots: int, hidden: int, *, pooled: bool) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(hidden) * 0.02)
        self.position = nn.Parameter(torch.randn(slots, hidden) * 0.02)
        self.context = nn.Linear(hidden, hidden) if pooled else None

    def forward(self, context: Tensor) -> Tensor:
        """Pooled present modalities `(B, D)` → `(B, slots, D)`."""
        slots = (self.token + self.position).expand(context.shape[0], -1, -1)
        return slots if self.context is None else slots + self.context(context).unsqueeze(1)


class Encoder(nn.Module):
    """Batch features → common sequences, complete and with the missing ones filled in."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        net = config.network
        self.imputed = {m: net.imputed_slots.of(m) for m in MODALITIES}
        self.modalities = nn.ModuleDict(
            {
                m: ModalityEncoder(
                    config.feature_size(m),
                    net.hidden,
                    net.heads,
                    net.dropout,
                    config.slots.of(m) if net.positions and m != Modality.TEXT else 0,
                )
                for m in MODALITIES
            }
        )
        self.common = CommonSpace(net.hidden)
        self.missing = nn.ModuleDict(
            {m: MissingSlots(self.imputed[m], net.hidden, pooled=net.missing_slots == "pooled") for m in MODALITIES}
        )

    def encode(
        self, features: Mapping[Modality, Tensor], valid: Mapping[Modality, Tensor], readable: Tensor
    ) -> dict[Modality, Tensor]:
        """Common-space sequence of each modality, `(B, T_m, D)`; rows where `readable` `(B, 3)` is False mean nothing.

        Unreadable content is replaced before anything is computed from it, so that not even a NaN there can spread.
        """
        common: dict[Modality, Tensor] = {}
        for column, modality in enumerate(MODALITIES):
            seen = valid[modality] & readable[:, column, None]  # (B, T_m)
            x = torch.where(seen.unsqueeze(-1), features[modality], features[modality].new_zeros(()))
            common[modality] = self.common(self.modalities[modality](x, seen), modality)
        return common

    def fill(
        self, common: Mapping[Modality, Tensor], valid: Mapping[Modality, Tensor], present: Tensor
    ) -> tuple[dict[Modality, Tensor], dict[Modality, Tensor]]:
        """Put missing slots in the place of modalities that are not present.

        Returns:
            sequences `(B, T_m, D)` and their valid slots `(B, T_m)`: the true ones where present, else the imputed.
        """
        pooled = torch.stack([masked_mean(common[m], valid[m]) for m in MODALITIES], dim=1)  # (B, 3, D)
        there = present.to(pooled.dtype).unsqueeze(-1)  # (B, 3, 1)
        pooled = torch.where(present.unsqueeze(-1), pooled, pooled.new_zeros(()))
        context = pooled.sum(dim=1) / there.sum(dim=1)  # (B, D): never divides by zero, one is present
        sequences: dict[Modality, Tensor] = {}
        slots: dict[Modality, Tensor] = {}
        for column, modality in enumerate(MODALITIES):
            here = present[:, column]
            sequence, real = common[modality], valid[modality]
            length = sequence.shape[1]
            imputed = torch.arange(length, device=real.device) < self.imputed[modality]  # (T_m,)
            if length >= self.imputed[modality]:  # shorter only where nothing is missing
                room = length - self.imputed[modality]
                guess = F.pad(self.missing[modality](context), (0, 0, 0, room))  # (B, T_m, D)
                sequence = torch.where(here[:, None, None], sequence, guess)
            sequences[modality] = sequence
            slots[modality] = torch.where(here[:, None], real, imputed)
        return sequences, slots
