"""Modality encoders, the common space, and the slots of missing modalities (Eqs. 1 and 2).

Shapes: B batch, T_m slots of modality m in this batch, d_m features of a slot, D hidden.
"""

from collections.abc import Mapping
from itertools import combinations
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig
from model.modality import MODALITIES, Modality, ModalitySet
from model.network.layers import SelfAttention, SharedDropout, masked_mean

MODALITY_PAIRS: Final = tuple(combinations(MODALITIES, 2))


class ModalityEncoder(nn.Module):
    """Bias-free projection d_m → D, then self-attention within the modality (Eq. 1).

    Args:
        size: d_m.
        hidden: D.
        heads: of the attention.
        dropout: rate.
        positions: number of learned position embeddings; 0 for none.
    """

    def __init__(self, size: int, hidden: int, heads: int, dropout: float, positions: int = 0) -> None:
        super().__init__()
        self.project = nn.Linear(size, hidden, bias=False)
        # Of the scale of a projected slot: with smaller values attention ignores positions for many epochs.
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
    """Three shared projections D → D/2, one per pair: `C_v = [E_v W_va ‖ E_v W_vt]` etc. (released code)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.pairs = nn.ModuleDict({f"{a}_{b}": nn.Linear(hidden, hidden // 2) for a, b in MODALITY_PAIRS})

    def forward(self, encoded: Tensor, modality: Modality) -> Tensor:
        """`(B, T_m, D)` → `(B, T_m, D)`."""
        projections = [self.pairs[f"{a}_{b}"] for a, b in MODALITY_PAIRS if modality in (a, b)]
        return torch.cat([project(encoded) for project in projections], dim=-1)  # 2 × (B, T_m, D/2) → (B, T_m, D)


class MissingSlots(nn.Module):
    """The slots of a missing modality: a learned token, a position, and a projection of the pooled present modalities.

    Without that context the position-wise autoencoders have no input to impute from; `pooled=False` is the ablation.
    """

    def __init__(self, slots: int, hidden: int, *, pooled: bool) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(hidden) * 0.02)
        self.position = nn.Parameter(torch.randn(slots, hidden) * 0.02)
        self.context = nn.Linear(hidden, hidden) if pooled else None

    def forward(self, context: Tensor) -> Tensor:
        """Pooled present modalities `(B, D)` → `(B, slots, D)`."""
        slots = (self.token + self.position).expand(context.shape[0], -1, -1)  # (B, slots, D)
        return slots if self.context is None else slots + self.context(context).unsqueeze(1)  # (B, 1, D)


def modality_encoders(config: ModelConfig) -> nn.ModuleDict:
    """Return an encoder for each modality; text hidden states contain positions already."""
    net = config.network
    return nn.ModuleDict(
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


class Encoder(nn.Module):
    """Features of a batch → sequences in the common space, with the slots of missing modalities filled."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        net = config.network
        self.imputed = {m: net.imputed_slots.of(m) for m in MODALITIES}
        self.modalities = modality_encoders(config)
        self.common = CommonSpace(net.hidden)
        self.missing = nn.ModuleDict(
            {m: MissingSlots(self.imputed[m], net.hidden, pooled=net.missing_slots == "pooled") for m in MODALITIES}
        )

    def slots_of(self, modality: Modality) -> MissingSlots:
        """The slots of a modality where it is missing."""
        slots = self.missing[modality]
        assert isinstance(slots, MissingSlots)
        return slots

    def encode(
        self, features: Mapping[Modality, Tensor], valid: Mapping[Modality, Tensor], readable: Tensor
    ) -> dict[Modality, Tensor]:
        """Common-space sequence of each modality, `(B, T_m, D)`; meaningless where `readable` `(B, 3)` is False.

        Unreadable content is replaced by zeros first, so that not even a NaN in it can spread.
        """
        common: dict[Modality, Tensor] = {}
        for column, modality in enumerate(MODALITIES):
            slots = valid[modality] & readable[:, column, None]  # (B, T_m)
            x = torch.where(slots.unsqueeze(-1), features[modality], features[modality].new_zeros(()))
            common[modality] = self.common(self.modalities[modality](x, slots), modality)
        return common

    def fill(
        self, common: Mapping[Modality, Tensor], valid: Mapping[Modality, Tensor], present: Tensor
    ) -> tuple[dict[Modality, Tensor], dict[Modality, Tensor]]:
        """Replace the sequences of missing modalities by their learned slots.

        Returns:
            sequences `(B, T_m, D)` and their valid slots `(B, T_m)`: the true ones where present, else the imputed.
        """
        pooled = torch.stack([masked_mean(common[m], valid[m]) for m in MODALITIES], dim=1)  # (B, 3, D)
        weights = present.to(pooled.dtype).unsqueeze(-1)  # (B, 3, 1)
        pooled = torch.where(present.unsqueeze(-1), pooled, pooled.new_zeros(()))
        context = pooled.sum(dim=1) / weights.sum(dim=1)  # (B, D); at least one modality is present
        sequences: dict[Modality, Tensor] = {}
        slots: dict[Modality, Tensor] = {}
        for column, modality in enumerate(MODALITIES):
            is_present, sequence = present[:, column], common[modality]
            length = sequence.shape[1]
            imputed = torch.arange(length, device=sequence.device) < self.imputed[modality]  # (T_m,)
            if length >= self.imputed[modality]:  # shorter only where nothing is missing
                padding = length - self.imputed[modality]
                filler = F.pad(self.missing[modality](context), (0, 0, 0, padding))  # (B, T_m, D)
                sequence = torch.where(is_present[:, None, None], sequence, filler)
            sequences[modality] = sequence
            slots[modality] = torch.where(is_present[:, None], valid[modality], imputed)  # (B, T_m)
        return sequences, slots


def concatenate(
    subset: ModalitySet, sequences: Mapping[Modality, Tensor], slots: Mapping[Modality, Tensor]
) -> tuple[Tensor, Tensor]:
    """Concatenate the sequences of a subset over time (Eq. 2): `(B, T, D)` and `(B, T)`."""
    return torch.cat([sequences[m] for m in subset], dim=1), torch.cat([slots[m] for m in subset], dim=1)


def split(x: Tensor, slots: Mapping[Modality, Tensor]) -> dict[Modality, Tensor]:
    """Invert `concatenate` over all modalities: `(B, T, D)` → modality → `(B, T_m, D)`."""
    lengths = [mask.shape[1] for mask in slots.values()]
    return dict(zip(slots, x.split(lengths, dim=1), strict=True))
