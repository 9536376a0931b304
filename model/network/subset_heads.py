"""What each subset of modalities says: a shared block and pooling per subset, a linear head per branch.

For: L_vat of Eq. 8, L_mn of Eq. 9, and the single-modality heads that the check of two missing modalities needs.
Does not know: which sequences are true and which recovered.

Shapes: B batch, T slots, D hidden, C classes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from model.config import NetworkConfig
from model.modality import SUBSETS, Modality, ModalitySet
from model.network.layers import AttentivePooling, TransformerLayer
from model.network.reconstruction import BRANCHES


class SubsetHeads(nn.Module):
    """Blocks, poolings and heads of the seven subsets."""

    def __init__(self, config: NetworkConfig, classes: int) -> None:
        super().__init__()
        sizes = (config.hidden, config.heads, config.feedforward, config.dropout)
        self.blocks = nn.ModuleDict({s.name: TransformerLayer(*sizes) for s in SUBSETS})
        self.pools = nn.ModuleDict({s.name: AttentivePooling(config.hidden) for s in SUBSETS})
        self.dropout = nn.Dropout(config.dropout)
        # One modality alone is never recovered, so its head belongs to no branch; it is kept under the first.
        self.heads = nn.ModuleDict(
            {
                branch: nn.ModuleDict(
                    {s.name: nn.Linear(config.hidden, classes) for s in SUBSETS if len(s) > 1 or branch == BRANCHES[0]}
                )
                for branch in BRANCHES
            }
        )

    def pool(
        self, subset: ModalitySet, sequences: Mapping[Modality, Tensor], slots: Mapping[Modality, Tensor]
    ) -> Tensor:
        """Pooled feature `(B, D)` of a subset, from each modality's `(B, T_m, D)` and its valid slots `(B, T_m)`."""
        x, valid = concatenate(subset, sequences, slots)
        pooled: Tensor = self.pools[subset.name](self.blocks[subset.name](x, valid), valid)
        return pooled

    def logits(self, branch: str, subset: ModalitySet, pooled: Tensor) -> Tensor:
        """A branch's vote on a pooled feature: `(B, D)` → `(B, C)`."""
        heads = self.heads[branch]
        assert isinstance(heads, nn.ModuleDict)
        vote: Tensor = heads[subset.name](self.dropout(pooled))
        return vote


def concatenate(
    subset: ModalitySet, sequences: Mapping[Modality, Tensor], slots: Mapping[Modality, Tensor]
) -> tuple[Tensor, Tensor]:
    """Join the sequences of a subset over time (Eq. 2): `(B, T, D)` and `(B, T)`."""
    return torch.cat([sequences[m] for m in subset], dim=1), torch.cat([slots[m] for m in subset], dim=1)


def split(x: Tensor, slots: Mapping[Modality, Tensor]) -> dict[Modality, Tensor]:
    """Undo `concatenate` over all modalities: `(B, T, D)` → modality → `(B, T_m, D)`."""
    lengths = [mask.shape[1] for mask in slots.values()]
    return dict(zip(slots, x.split(lengths, dim=1), strict=True))
