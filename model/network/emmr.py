"""EMMR: encoder, three reconstruction branches, subset heads, gate. The whole graph, as training needs it.

For: `forward`, everything for every utterance. What an answer needs and no more is `model.network.inference.sparse`.
Does not know: losses, features, files.
Source: Zeng et al., EMNLP 2022, sections 3.2 to 3.6.

Shapes: B batch, T_m slots of modality m, T their sum, D hidden, C classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.modality import COMPLETE, MODALITIES, SUBSETS, Modality, ModalitySet
from model.network.batch import Batch
from model.network.consistency import BranchWeights, pair_weights
from model.network.encoders import Encoder
from model.network.layers import AttentivePooling
from model.network.reconstruction import BRANCHES, TransformerBranch, build_branches
from model.network.subset_heads import SubsetHeads, concatenate, split

PAIRS = tuple(s for s in SUBSETS if len(s) == 2)
SINGLES = tuple(s for s in SUBSETS if len(s) == 1)


@dataclass(frozen=True, slots=True)
class Output:
    """Everything the losses look at.

    Args:
        transformer: `(B, C)` logits of the transformer path.
        ensemble: `(B, C)` logits of the ensemble path.
        available: `(B, C)` logits of the transformer branch's vote on what is present.
        heads: (branch, subset name) → `(B, C)` logits. A single modality's head means nothing where it is not held.
        modality_heads: modality → `(B, C)` logits of the polarity it carries alone; means nothing where not held.
        encodings: branch → F `(B, T, D)`.
        decodings: branch → D `(B, T, D)`.
        complete: `(B, T, D)` the common sequence of all that is held.
        filled: `(B, T, D)` the sequence the branches were given, missing slots filled.
        slots: `(B, T)` bool, slots that carry content or are imputed.
        known: `(B, T)` bool, slots whose true content is held: where a reconstruction can be compared.
        imputed: `(B, T)` bool, slots of missing modalities.
    """

    transformer: Tensor
    ensemble: Tensor
    available: Tensor
    heads: Mapping[tuple[str, str], Tensor]
    modality_heads: Mapping[Modality, Tensor]
    encodings: Mapping[str, Tensor]
    decodings: Mapping[str, Tensor]
    complete: Tensor
    filled: Tensor
    slots: Tensor
    known: Tensor
    imputed: Tensor


class EMMR(nn.Module):
    """The Ensemble-based Missing Modality Reconstruction network."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        net, classes = config.network, len(config.classes)
        self.config = config
        self.encoder = Encoder(config)
        self.branches = build_branches(net)
        self.pool = AttentivePooling(net.hidden)
        self.subsets = SubsetHeads(net, classes)
        self.branch_weights = BranchWeights(net.hidden)
        self.dropout = nn.Dropout(net.dropout)
        self.classifier = nn.Linear(net.hidden, classes)  # shared by both paths (Eq. 17)
        self.modality_pools = nn.ModuleDict({m: AttentivePooling(net.hidden) for m in MODALITIES})
        self.modality_heads = nn.ModuleDict({m: nn.Linear(net.hidden, classes) for m in MODALITIES})

    @property
    def transformer(self) -> TransformerBranch:
        """The branch every answer needs."""
        branch = self.branches["transformer"]
        assert isinstance(branch, TransformerBranch)
        return branch

    def classify(self, feature: Tensor) -> Tensor:
        """`(B, D)` → `(B, C)` logits."""
        logits: Tensor = self.classifier(self.dropout(feature))
        return logits

    def forward(self, batch: Batch) -> Output:
        """Run all branches and heads on every utterance. Held content that is not present reaches targets only."""
        common = self.encoder.encode(batch.features, batch.valid, batch.held)
        sequences, slots = self.encoder.fill(common, batch.valid, batch.present)
        x, valid = concatenate(COMPLETE, sequences, slots)
        complete, _ = concatenate(COMPLETE, common, batch.valid)

        encodings: dict[str, Tensor] = {}
        decodings: dict[str, Tensor] = {}
        for branch in BRANCHES:
            encodings[branch], decodings[branch] = self.branches[branch](x, valid)
        heads, keys = self._vote(sequences, slots, decodings, batch.present)
        heads |= self._vote_alone(common, batch)
        described = self.describe(common, batch.valid)
        summary, _ = self.branch_weights(torch.stack(keys, dim=1))
        return Output(
            transformer=self.classify(self.pool(encodings["transformer"], valid)),
            ensemble=self.classify(summary),
            available=self._available(heads, batch.present),
            heads=heads,
            modality_heads={m: self.modality_heads[m](feature) for m, feature in described.items()},
            encodings=encodings,
            decodings=decodings,
            complete=complete,
            filled=x,
            slots=valid,
            known=torch.cat([batch.valid[m] & batch.held[:, i, None] for i, m in enumerate(MODALITIES)], dim=1) & valid,
            imputed=torch.cat(
                [slots[m] & ~batch.present[:, i, None] for i, m in enumerate(MODALITIES)],
                dim=1,
            ),
        )

    def _vote(
        self,
        sequences: Mapping[Modality, Tensor],
        slots: Mapping[Modality, Tensor],
        decodings: Mapping[str, Tensor],
        present: Tensor,
    ) -> tuple[dict[tuple[str, str], Tensor], list[Tensor]]:
        """Votes of all pairs and of all three, and each branch's E_key `(B, D)`.

        A subset without a missing modality holds the same true sequences in every branch, so it is pooled once.
        """
        recovered = {b: self.recover(sequences, split(decodings[b], slots), present) for b in BRANCHES}
        first, *others = BRANCHES
        heads: dict[tuple[str, str], Tensor] = {}
        pooled: dict[str, list[Tensor]] = {branch: [] for branch in BRANCHES}
        for subset in (*PAIRS, COMPLETE):
            members = [MODALITIES.index(m) for m in subset]
            rebuilt = (~present[:, members]).any(dim=1).nonzero().squeeze(-1)  # (N,) rows with a missing member
            feature = self.subsets.pool(
                subset,
                {m: torch.cat([recovered[first][m], *(recovered[b][m][rebuilt] for b in others)]) for m in subset},
                {m: torch.cat([slots[m], *(slots[m][rebuilt] for _ in others)]) for m in subset},
            )  # (B + 2 N, D): everything of the first branch, then what differs in the others
            shared, *own = feature.split([present.shape[0], *(len(rebuilt) for _ in others)])
            features = [shared, *(shared.index_copy(0, rebuilt, part) for part in own)]
            for branch, pooled_feature in zip(BRANCHES, features, strict=True):
                heads[branch, subset.name] = self.subsets.logits(branch, subset, pooled_feature)
                if subset in PAIRS:
                    pooled[branch].append(pooled_feature)
        return heads, [self.key_feature(branch, pooled[branch], heads) for branch in BRANCHES]

    def _vote_alone(self, common: Mapping[Modality, Tensor], batch: Batch) -> dict[tuple[str, str], Tensor]:
        """Votes of each modality alone on the label."""
        heads: dict[tuple[str, str], Tensor] = {}
        for subset in SINGLES:
            feature = self.subsets.pool(subset, common, batch.valid)
            heads[BRANCHES[0], subset.name] = self.subsets.logits(BRANCHES[0], subset, feature)
        return heads

    def _available(self, heads: Mapping[tuple[str, str], Tensor], present: Tensor) -> Tensor:
        """Of each row, the vote of the subset that is present: `(B, C)`."""
        votes = torch.stack([heads[BRANCHES[0], subset.name] for subset in SUBSETS])  # (7, B, C)
        masks = torch.tensor([subset.mask() for subset in SUBSETS], device=present.device)  # (7, 3)
        chosen = (masks[:, None] == present).all(dim=-1).int().argmax(dim=0)  # (B,)
        return votes[chosen, torch.arange(len(present), device=present.device)]

    def describe(self, common: Mapping[Modality, Tensor], valid: Mapping[Modality, Tensor]) -> dict[Modality, Tensor]:
        """One feature of each modality alone, `(B, D)`, for what it carries by itself; only training asks."""
        return {m: self.dropout(self.modality_pools[m](common[m], valid[m])) for m in MODALITIES}

    def recover(
        self, sequences: Mapping[Modality, Tensor], decoded: Mapping[Modality, Tensor], present: Tensor
    ) -> dict[Modality, Tensor]:
        """`I_m = C_m` where m is present, else the decoder's slots of m; `(B, T_m, D)` each."""
        return {
            m: torch.where(present[:, column, None, None], sequences[m], decoded[m])
            for column, m in enumerate(MODALITIES)
        }

    def key_feature(self, branch: str, pooled: list[Tensor], votes: Mapping[tuple[str, str], Tensor]) -> Tensor:
        """`E_key = Σ α · pooled feature` over the pairs (Eqs. 10, 11): three `(B, D)` → `(B, D)`."""
        alpha = pair_weights([votes[branch, p.name] for p in PAIRS])  # (B, 3)
        return torch.einsum("bk,bkd->bd", alpha, torch.stack(pooled, dim=1))


def subset_of(present: Tensor) -> ModalitySet:
    """The subset that a presence row `(3,)` names."""
    return ModalitySet(frozenset(m for m, here in zip(MODALITIES, present.tolist(), strict=True) if here))
