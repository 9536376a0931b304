"""The EMMR network: encoder, reconstruction branches, subset heads and ensemble (Zeng et al., EMNLP 2022, 3.2 to 3.6).

Shapes: B batch, T_m slots of modality m, T their sum, D hidden, C classes, K branches.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.config import TRANSFORMER, ModelConfig, NetworkConfig
from model.modality import COMPLETE, MODALITIES, PAIRS, SINGLES, SUBSETS, Modality, ModalitySet
from model.network.batch import Batch
from model.network.consistency import BranchWeights, available_vote, key_feature
from model.network.encoders import Encoder, concatenate, split
from model.network.layers import AttentivePooling, TransformerLayer
from model.network.reconstruction import TransformerBranch, build_branches


@dataclass(frozen=True, slots=True)
class Output:
    """The output of a forward pass.

    Args:
        batch: the input.
        transformer: `(B, C)` logits of the transformer path.
        ensemble: `(B, C)` logits of the ensemble path.
        available: `(B, C)` logits of the transformer branch's vote of the present modalities.
        branch_weights: β `(B, K)`.
        heads: (branch, subset name) → `(B, C)` logits; of a single modality meaningless where it is not held.
        modality_heads: modality → `(B, C)` logits of its own polarity; meaningless where it is not held.
        encodings: branch → F `(B, T, D)`.
        decodings: branch → D `(B, T, D)`.
        common: modality → `(B, T_m, D)`, the sequences of held modalities in the common space.
        filled: `(B, T, D)` input of the branches: `common` with the slots of missing modalities filled.
        slots: `(B, T)` bool, slots that carry content or are imputed.
    """

    batch: Batch
    transformer: Tensor
    ensemble: Tensor
    available: Tensor
    branch_weights: Tensor
    heads: Mapping[tuple[str, str], Tensor]
    modality_heads: Mapping[Modality, Tensor]
    encodings: Mapping[str, Tensor]
    decodings: Mapping[str, Tensor]
    common: Mapping[Modality, Tensor]
    filled: Tensor
    slots: Tensor

    @property
    def complete(self) -> Tensor:
        """`(B, T, D)` common sequence of everything held."""
        return torch.cat([self.common[m] for m in MODALITIES], dim=1)  # 3 × (B, T_m, D) → (B, T, D)

    @property
    def known(self) -> Tensor:
        """`(B, T)` bool, slots whose true content is held, to which a reconstruction can be compared."""
        held = [self.batch.valid[m] & self.batch.held[:, i, None] for i, m in enumerate(MODALITIES)]
        return torch.cat(held, dim=1) & self.slots  # 3 × (B, T_m) → (B, T)

    @property
    def imputed(self) -> Tensor:
        """`(B, T)` bool, slots of missing modalities."""
        lengths = [self.batch.valid[m].shape[1] for m in MODALITIES]
        missing = [~self.batch.present[:, i, None].expand(-1, length) for i, length in enumerate(lengths)]
        return torch.cat(missing, dim=1) & self.slots  # 3 × (B, T_m) → (B, T)


class SubsetHeads(nn.Module):
    """A shared block and pooling for each of the seven subsets, and a linear head for each branch (Eqs. 8, 9)."""

    def __init__(self, config: NetworkConfig, classes: int) -> None:
        super().__init__()
        sizes = (config.hidden, config.heads, config.feedforward, config.dropout)
        self.blocks = nn.ModuleDict({s.name: TransformerLayer(*sizes) for s in SUBSETS})
        self.pools = nn.ModuleDict({s.name: AttentivePooling(config.hidden) for s in SUBSETS})
        self.dropout = nn.Dropout(config.dropout)
        # A single modality is never reconstructed, so its head does not depend on the branch.
        self.heads = nn.ModuleDict(
            {
                branch: nn.ModuleDict(
                    {s.name: nn.Linear(config.hidden, classes) for s in SUBSETS if len(s) > 1 or branch == TRANSFORMER}
                )
                for branch in config.branches
            }
        )

    def pool(
        self, subset: ModalitySet, sequences: Mapping[Modality, Tensor], slots: Mapping[Modality, Tensor]
    ) -> Tensor:
        """Pooled feature `(B, D)` of a subset, from sequences `(B, T_m, D)` and their valid slots `(B, T_m)`."""
        x, valid = concatenate(subset, sequences, slots)
        pooled: Tensor = self.pools[subset.name](self.blocks[subset.name](x, valid), valid)
        return pooled

    def logits(self, branch: str, subset: ModalitySet, pooled: Tensor) -> Tensor:
        """Logits of one branch's head of a subset: `(B, D)` → `(B, C)`."""
        vote: Tensor = self.head(branch, subset)(self.dropout(pooled))
        return vote

    def head(self, branch: str, subset: ModalitySet) -> nn.Linear:
        """One branch's head of a subset."""
        heads = self.heads[branch]
        assert isinstance(heads, nn.ModuleDict)
        head = heads[subset.name]
        assert isinstance(head, nn.Linear)
        return head


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
        self.branch_weights = BranchWeights(net.hidden, net.ensemble)
        self.dropout = nn.Dropout(net.dropout)
        self.classifier = nn.Linear(net.hidden, classes)  # shared by both paths (Eq. 17)
        self.modality_pools = nn.ModuleDict({m: AttentivePooling(net.hidden) for m in MODALITIES})
        self.modality_heads = nn.ModuleDict({m: nn.Linear(net.hidden, classes) for m in MODALITIES})

    @property
    def transformer(self) -> TransformerBranch:
        """The transformer branch, which every answer needs."""
        branch = self.branches[TRANSFORMER]
        assert isinstance(branch, TransformerBranch)
        return branch

    def classify(self, feature: Tensor) -> Tensor:
        """`(B, D)` → `(B, C)` logits."""
        logits: Tensor = self.classifier(self.dropout(feature))
        return logits

    def forward(self, batch: Batch) -> Output:
        """Compute the full graph: all branches and heads of every utterance.

        Args:
            batch: at least as long as a modality's imputed slots wherever it is missing. Held content that is not
                present reaches `Output.common` and the heads of single modalities only.
        """
        names = self.config.network.branches
        common = self.encoder.encode(batch.features, batch.valid, batch.held)
        sequences, slots = self.encoder.fill(common, batch.valid, batch.present)
        x, valid = concatenate(COMPLETE, sequences, slots)
        encodings: dict[str, Tensor] = {}
        decodings: dict[str, Tensor] = {}
        for branch in names:
            encodings[branch], decodings[branch] = self.branches[branch](x, valid)
        recovered = {b: self.recover(sequences, split(decodings[b], slots), batch.present) for b in names}
        heads: dict[tuple[str, str], Tensor] = {}
        pooled: dict[str, list[Tensor]] = {branch: [] for branch in names}  # of the pairs
        for subset in (*PAIRS, COMPLETE):
            features = self._pool_branches(subset, [recovered[b] for b in names], slots, batch.present)
            for branch, feature in zip(names, features, strict=True):
                heads[branch, subset.name] = self.subsets.logits(branch, subset, feature)
                if subset in PAIRS:
                    pooled[branch].append(feature)
        keys = [key_feature(pooled[b], [heads[b, pair.name] for pair in PAIRS]) for b in names]
        for subset in SINGLES:
            feature = self.subsets.pool(subset, common, batch.valid)
            heads[TRANSFORMER, subset.name] = self.subsets.logits(TRANSFORMER, subset, feature)
        described = self.describe(common, batch.valid)
        summary, weights = self.branch_weights(torch.stack(keys, dim=1))  # (B, K, D) → (B, D), (B, K)
        votes = {subset: heads[TRANSFORMER, subset.name] for subset in (COMPLETE, *PAIRS, *SINGLES)}
        return Output(
            batch=batch,
            transformer=self.classify(self.pool(encodings[TRANSFORMER], valid)),
            ensemble=self.classify(summary),
            available=available_vote(votes, batch.present),
            branch_weights=weights,
            heads=heads,
            modality_heads={m: self.modality_heads[m](feature) for m, feature in described.items()},
            encodings=encodings,
            decodings=decodings,
            common=common,
            filled=x,
            slots=valid,
        )

    def _pool_branches(
        self,
        subset: ModalitySet,
        recovered: list[dict[Modality, Tensor]],
        slots: Mapping[Modality, Tensor],
        present: Tensor,
    ) -> list[Tensor]:
        """Features `(B, D)` of a subset, one for each branch's recovered sequences, all pooled in one call.

        Branches differ only in rows with a missing member; the others are pooled for the first branch and shared.
        """
        first, *others = recovered
        members = [MODALITIES.index(m) for m in subset]
        rows = (~present[:, members]).any(dim=1).nonzero().squeeze(-1)  # (N,); below, M = (K - 1) N
        feature = self.subsets.pool(
            subset,
            {m: torch.cat([first[m], *(other[m][rows] for other in others)]) for m in subset},  # (B + M, T_m, D)
            {m: torch.cat([slots[m], *(slots[m][rows] for _ in others)]) for m in subset},  # (B + M, T_m)
        )
        shared, *own = feature.split([len(present), *(len(rows) for _ in others)])  # (B, D), (K - 1) × (N, D)
        return [shared, *(shared.index_copy(0, rows, part) for part in own)]

    def describe(self, common: Mapping[Modality, Tensor], valid: Mapping[Modality, Tensor]) -> dict[Modality, Tensor]:
        """Pooled feature `(B, D)` of each modality on its own, the input of `modality_heads`; used in training only."""
        return {m: self.dropout(self.modality_pools[m](common[m], valid[m])) for m in MODALITIES}

    def recover(
        self, sequences: Mapping[Modality, Tensor], decoded: Mapping[Modality, Tensor], present: Tensor
    ) -> dict[Modality, Tensor]:
        """`I_m = C_m` where m is present, else the decoded slots of m; `(B, T_m, D)` each."""
        return {
            m: torch.where(present[:, column, None, None], sequences[m], decoded[m])
            for column, m in enumerate(MODALITIES)
        }
