"""An EMMR network prepared for answering: fused weights, packed encoders and decoders.

For: `model.network.inference.sparse`, which decides what is computed; this computes it. Built once a checkpoint, since fusing
copies weights: a network that is trained further has to be prepared again.
Does not know: the gate, votes, decisions.

Shapes: N slots of all rows together, R rows, T_m slots of modality m in one row, D hidden, d_m features.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.modality import MODALITIES, Modality, ModalitySet
from model.network.batch import Batch
from model.network.emmr import EMMR
from model.network.encoders import MODALITY_PAIRS, Encoder, ModalityEncoder
from model.network.inference.packed_layers import (
    PackedPooling,
    attended,
    queried_layer,
    self_attention,
    transformer_layer,
)
from model.network.layers import AttentivePooling, TransformerLayer
from model.network.reconstruction import BRANCHES, AutoencoderBranch, CascadeBranch
from model.packing import Membership, Mixing, in_chunks

Missing = tuple[Modality, ...]
Row = dict[Modality, Tensor]
"""One utterance: each modality's sequence `(T_m, D)`, without padding."""


class FusedNetwork:
    """The parts of a network, each on packed slots.

    Args:
        network: in eval mode; shared, not copied, but for the fused weights.

    Raises:
        ValueError: the network is in training mode, where dropout would make answers random.
    """

    def __init__(self, network: EMMR) -> None:
        if network.training:
            raise ValueError("the network must be in eval mode to decide")
        self.network = network
        self.hidden = network.config.network.hidden
        self._encoders = {m: _PackedEncoder(network.encoder, m) for m in MODALITIES}
        self._pool = PackedPooling(network.pool)
        self._subset_pools = {name: PackedPooling(_pooling(pool)) for name, pool in network.subsets.pools.items()}

    def encode(self, batch: Batch) -> list[Row]:
        """Common-space sequences of each row, the missing ones filled in as the branches are to be given them.

        What a batch holds of modalities that are not present is never read.
        """
        rows: list[Row] = [{} for _ in range(batch.size)]
        means: dict[Modality, Tensor] = {}
        complete = bool(batch.present.all())
        for column, modality in enumerate(MODALITIES):
            seen = batch.valid[modality] & batch.present[:, column, None]  # (B, T_m)
            lengths = seen.sum(dim=1).tolist()
            holders = [i for i, length in enumerate(lengths) if length]
            if not holders:
                continue
            own = [lengths[i] for i in holders]
            common = self._encoders[modality](batch.features[modality][seen], own)  # (N, D)
            for i, sequence in zip(holders, common.split(own), strict=True):
                rows[i][modality] = sequence
            if not complete:
                mean = common.new_zeros(batch.size, self.hidden)
                mean[holders] = Membership(own, common.device).mean(common)
                means[modality] = mean  # (B, D)
        if not complete:
            context = sum(means.values(), torch.zeros(())) / batch.present.sum(dim=1, keepdim=True)  # (B, D)
            self._fill(rows, batch.present, context)
        return rows

    def _fill(self, rows: list[Row], present: Tensor, context: Tensor) -> None:
        for column, modality in enumerate(MODALITIES):
            lacking = (~present[:, column]).nonzero()[:, 0]
            if len(lacking):
                guesses: Tensor = self.network.encoder.missing[modality](context[lacking])  # (R, slots, D)
                for i, guess in zip(lacking.tolist(), guesses, strict=True):
                    rows[i][modality] = guess

    def transformer_encode(self, rows: Sequence[Row]) -> tuple[list[Tensor], Tensor]:
        """Each row's F `(T, D)`, and the answers' logits `(R, C)` of the transformer path."""
        x, lengths = join(rows, MODALITIES)
        encoded = transformer_layer(self.network.transformer.encoder, x, Mixing(lengths, self.hidden, x.device))
        pooled = self._pool(encoded, Membership(lengths, x.device))
        return list(encoded.split(lengths)), self.network.classifier(pooled)

    def transformer_decode(
        self, encoded: Sequence[Tensor], rows: Sequence[Row], missing: Sequence[Missing]
    ) -> list[Row]:
        """D of the missing modalities alone: decoding what is present would answer nothing."""
        wanted = [
            part[m]
            for f, row, lacking in zip(encoded, rows, missing, strict=True)
            for part in (dict(zip(MODALITIES, f.split([len(row[o]) for o in MODALITIES]), strict=True)),)
            for m in lacking
        ]
        queries = [sum(len(row[m]) for m in lacking) for row, lacking in zip(rows, missing, strict=True)]
        x = torch.cat(list(encoded))
        mixing = Mixing([len(f) for f in encoded], self.hidden, x.device, queries)
        return _part(queried_layer(self.network.transformer.decoder, torch.cat(wanted), x, mixing), rows, missing)

    def decode(self, branch: str, rows: Sequence[Row], missing: Sequence[Missing]) -> list[Row]:
        """D of a position-wise branch, of the missing modalities alone."""
        x = torch.cat([row[m] for row, lacking in zip(rows, missing, strict=True) for m in lacking])
        module = self.network.branches[branch]
        if isinstance(module, AutoencoderBranch):
            decoded = in_chunks(lambda part: module.to_decoding(module.autoencoder(part)[1]), x)
        else:
            assert isinstance(module, CascadeBranch)
            decoded = in_chunks(lambda part: _cascade(module, part), x)
        return _part(decoded, rows, missing)

    def pool(self, subset: ModalitySet, rows: Sequence[Row]) -> Tensor:
        """Pooled features `(R, D)` of a subset of each row."""
        x, lengths = join(rows, tuple(subset))
        block = self.network.subsets.blocks[subset.name]
        assert isinstance(block, TransformerLayer)
        mixed = transformer_layer(block, x, Mixing(lengths, self.hidden, x.device))
        return self._subset_pools[subset.name](mixed, Membership(lengths, x.device))

    def logits(self, branch: str, subset: ModalitySet, pooled: Tensor) -> Tensor:
        """A branch's vote on pooled features: `(R, D)` → `(R, C)`."""
        return self.network.subsets.logits(branch, subset, pooled)


class _PackedEncoder:
    """One modality's way into the common space: projection, attention, and both common projections in one."""

    def __init__(self, encoder: Encoder, modality: Modality) -> None:
        module = encoder.modalities[modality]
        assert isinstance(module, ModalityEncoder)
        self._attention = module.attention
        self._project = module.project.weight.detach()  # (D, d_m)
        own = [_linear(encoder.common.pairs[f"{a}_{b}"]) for a, b in MODALITY_PAIRS if modality in (a, b)]
        self._common = torch.cat([p.weight for p in own]).detach()  # (D, D)
        self._common_bias = torch.cat([p.bias for p in own]).detach()
        hidden, size = self._project.shape
        # W_qkv (W x) = (W_qkv W) x: with few features that is fewer operations, and one product instead of two.
        self._fused: Tensor | None = None
        if size <= hidden:
            qkv = module.attention.qkv
            self._fused = torch.cat([self._project, (qkv.weight @ self._project).detach()])  # (4 D, d_m)
            self._fused_bias = torch.cat([qkv.bias.new_zeros(hidden), qkv.bias]).detach()
        self._position: Tensor | None = None  # of each slot, what it adds to the product
        if module.position is not None:
            position = module.position.detach()  # (T_m, D)
            if self._fused is not None:
                position = torch.cat([position, position @ module.attention.qkv.weight.detach().T], dim=1)  # (T_m, 4 D)
            self._position = position

    def __call__(self, features: Tensor, lengths: Sequence[int]) -> Tensor:
        """`(N, d_m)` → `(N, D)`."""
        hidden = self._project.shape[0]
        mixing = Mixing(lengths, hidden, features.device)
        if self._fused is None:
            encoded = self_attention(self._attention, self._placed(F.linear(features, self._project), lengths), mixing)
        else:
            fused = self._placed(F.linear(features, self._fused, self._fused_bias), lengths)
            x, q, k, v = fused.chunk(4, dim=-1)
            encoded = attended(self._attention, x, mixing(q, k, v, self._attention.heads))
        return F.linear(encoded, self._common, self._common_bias)

    def _placed(self, projected: Tensor, lengths: Sequence[int]) -> Tensor:
        """Add to each slot what its place in its row adds."""
        if self._position is None:
            return projected
        return projected + torch.cat([self._position[:length] for length in lengths])


def join(rows: Sequence[Mapping[Modality, Tensor]], modalities: Sequence[Modality]) -> tuple[Tensor, list[int]]:
    """Rows end to end, in each the given modalities in order: `(N, D)`, and each row's slots."""
    return torch.cat([row[m] for row in rows for m in modalities]), [
        sum(len(row[m]) for m in modalities) for row in rows
    ]


def _part(decoded: Tensor, rows: Sequence[Row], missing: Sequence[Missing]) -> list[Row]:
    """Slots of missing modalities, end to end, back to rows."""
    places = [(i, m) for i, lacking in enumerate(missing) for m in lacking]
    parts = decoded.split([len(rows[i][m]) for i, m in places])
    apart: list[Row] = [{} for _ in rows]
    for (i, m), part in zip(places, parts, strict=True):
        apart[i][m] = part
    return apart


def _pooling(module: nn.Module) -> AttentivePooling:
    assert isinstance(module, AttentivePooling)
    return module


def _linear(module: nn.Module) -> nn.Linear:
    assert isinstance(module, nn.Linear)
    return module


def _cascade(module: CascadeBranch, x: Tensor) -> Tensor:
    for block in module.blocks:
        x = x + block(x)[1]
    return x


assert BRANCHES[0] == "transformer", "the branch with a decoder that attends"
