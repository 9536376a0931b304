"""The parts of an EMMR network on packed slots, in eval mode, with fused weights: what the sparse path computes with.

Shapes: N slots of all rows together, R rows, T_m slots of modality m in one row, D hidden, d_m features, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import TRANSFORMER
from model.modality import MODALITIES, Modality, ModalitySet
from model.network.batch import Batch
from model.network.emmr import EMMR
from model.network.encoders import MODALITY_PAIRS, Encoder, ModalityEncoder
from model.network.layers import AttentivePooling, FeedForward, SelfAttention, TransformerLayer
from model.network.reconstruction import AutoencoderBranch, CascadeBranch
from model.packing import PackedAttention, Segments, in_chunks


class Attention(Protocol):
    """Attention of query slots to the key slots of the same utterance, such as `PackedAttention`."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """As `PackedAttention`."""
        ...


class SoftmaxSum(Protocol):
    """Reduction over the slots of each utterance, such as `Segments`."""

    def softmax_sum(self, scores: Tensor, x: Tensor) -> Tensor:
        """As `Segments.softmax_sum`."""
        ...


Missing = tuple[Modality, ...]
Row = dict[Modality, Tensor]
"""One utterance: each modality's sequence `(T_m, D)`, without padding."""


class FusedNetwork:
    """The parts of a network, each on packed slots.

    Fused weights are copies: after further training a new instance is needed.

    Args:
        network: in eval mode; shared, not copied, apart from the fused weights.

    Raises:
        ValueError: the network is in training mode, where dropout would make answers random.
    """

    def __init__(self, network: EMMR) -> None:
        if network.training:
            raise ValueError("the network must be in eval mode to decide")
        self.network = network
        self.hidden = network.config.network.hidden
        self.encoders = {m: FusedEncoder(network.encoder, m) for m in MODALITIES}
        self.pooling = FusedPooling(network.pool)
        self._subset_pools = {}
        for name, pool in network.subsets.pools.items():
            assert isinstance(pool, AttentivePooling)
            self._subset_pools[name] = FusedPooling(pool)

    def encode(self, batch: Batch) -> list[Row]:
        """Common-space sequences of each row, those of missing modalities filled as input of the branches.

        What the batch contains of missing modalities is never read.
        """
        rows: list[Row] = [{} for _ in range(batch.size)]
        means: dict[Modality, Tensor] = {}
        complete = bool(batch.present.all())
        for column, modality in enumerate(MODALITIES):
            valid = batch.valid[modality] & batch.present[:, column, None]  # (B, T_m)
            all_lengths = valid.sum(dim=1).tolist()
            indices = [i for i, length in enumerate(all_lengths) if length]
            if not indices:
                continue
            lengths = [all_lengths[i] for i in indices]
            attention = PackedAttention(lengths, self.hidden, batch.present.device)
            common = self.encoders[modality](batch.features[modality][valid], attention, lengths)  # (N, D)
            for i, sequence in zip(indices, common.split(lengths), strict=True):
                rows[i][modality] = sequence
            if not complete:
                means[modality] = common.new_zeros(batch.size, self.hidden)  # (B, D)
                means[modality][indices] = Segments(lengths, common.device).mean(common)
        if not complete:
            context = sum(means.values(), torch.zeros(())) / batch.present.sum(dim=1, keepdim=True)  # (B, D)
            self._fill(rows, batch.present, context)
        return rows

    def _fill(self, rows: list[Row], present: Tensor, context: Tensor) -> None:
        for column, modality in enumerate(MODALITIES):
            missing = (~present[:, column]).nonzero()[:, 0]  # (R,)
            if len(missing):
                fillers: Tensor = self.network.encoder.missing[modality](context[missing])  # (R, slots, D)
                for i, filler in zip(missing.tolist(), fillers, strict=True):
                    rows[i][modality] = filler

    def transformer_encode(self, rows: Sequence[Row]) -> tuple[list[Tensor], Tensor]:
        """Each row's F `(T, D)`, and the logits `(R, C)` of the transformer path."""
        x, lengths = pack(rows, MODALITIES)
        attention = PackedAttention(lengths, self.hidden, x.device)
        encoded = transformer_layer(self.network.transformer.encoder, x, attention)
        pooled = self.pooling(encoded, Segments(lengths, x.device))
        return list(encoded.split(lengths)), self.network.classifier(pooled)  # (N, D) → R × (T, D)

    def decode(
        self, branch: str, rows: Sequence[Row], encoded: Sequence[Tensor], missing: Sequence[Missing]
    ) -> list[Row]:
        """D of the missing modalities only.

        Args:
            branch: name of a branch.
            rows: sequences of `encode`.
            encoded: F of the same rows, of `transformer_encode`.
            missing: the modalities to decode in each row.
        """
        parts = [(i, m) for i, modalities in enumerate(missing) for m in modalities]
        if branch == TRANSFORMER:
            by_modality = [_split(f, row) for f, row in zip(encoded, rows, strict=True)]
            queries = [sum(len(row[m]) for m in modalities) for row, modalities in zip(rows, missing, strict=True)]
            x = torch.cat(list(encoded))  # (N, D)
            attention = PackedAttention([len(f) for f in encoded], self.hidden, x.device, queries)
            wanted = torch.cat([by_modality[i][m] for i, m in parts])
            decoded = query_layer(self.network.transformer.decoder, wanted, x, attention)
        else:
            decoded = self.decode_by_position(branch, torch.cat([rows[i][m] for i, m in parts]))
        found: list[Row] = [{} for _ in rows]
        for (i, m), part in zip(parts, decoded.split([len(rows[i][m]) for i, m in parts]), strict=True):
            found[i][m] = part
        return found

    def decode_by_position(self, branch: str, x: Tensor) -> Tensor:
        """D of the slots `x` `(…, D)` by one of the position-wise branches."""
        module = self.network.branches[branch]
        if isinstance(module, AutoencoderBranch):
            return in_chunks(lambda part: module.to_decoding(module.autoencoder(part)[1]), x)
        assert isinstance(module, CascadeBranch)

        def cascade(x: Tensor) -> Tensor:
            for block in module.blocks:
                x = x + block(x)[1]
            return x

        return in_chunks(cascade, x)

    def pool(self, subset: ModalitySet, rows: Sequence[Row]) -> Tensor:
        """Pooled features `(R, D)` of a subset of each row."""
        x, lengths = pack(rows, tuple(subset))
        attention, segments = PackedAttention(lengths, self.hidden, x.device), Segments(lengths, x.device)
        return self.pool_slots(subset, x, attention, segments)

    def pool_slots(self, subset: ModalitySet, x: Tensor, attention: Attention, segments: SoftmaxSum) -> Tensor:
        """Pooled features `(R, D)` of the slots of a subset, `(N, D)` or as the two functions take them."""
        block = self.network.subsets.blocks[subset.name]
        assert isinstance(block, TransformerLayer)
        return self._subset_pools[subset.name](transformer_layer(block, x, attention), segments)


class FusedEncoder:
    """The encoder of one modality: projection and attention, then both common projections in one product."""

    def __init__(self, encoder: Encoder, modality: Modality) -> None:
        module = encoder.modalities[modality]
        assert isinstance(module, ModalityEncoder)
        self._attention = module.attention
        self._project = module.project.weight.detach()  # (D, d_m)
        pairs = [encoder.common.pairs[f"{a}_{b}"] for a, b in MODALITY_PAIRS if modality in (a, b)]
        self._common = torch.cat([pair.get_parameter("weight") for pair in pairs]).detach()  # (D, D)
        self._common_bias = torch.cat([pair.get_parameter("bias") for pair in pairs]).detach()
        hidden, size = self._project.shape
        # W_qkv (W x) = (W_qkv W) x: for d_m <= D that is fewer operations, and one product instead of two.
        self._fused: Tensor | None = None
        if size <= hidden:
            qkv = module.attention.qkv
            self._fused = torch.cat([self._project, (qkv.weight @ self._project).detach()])  # (4 D, d_m)
            self._fused_bias = torch.cat([qkv.bias.new_zeros(hidden), qkv.bias]).detach()
        self._position: Tensor | None = None  # what the position of a slot adds to the product
        if module.position is not None:
            position = module.position.detach()  # (T_m, D)
            if self._fused is not None:
                position = torch.cat([position, position @ module.attention.qkv.weight.detach().T], dim=1)  # (T_m, 4 D)
            self._position = position

    def __call__(self, features: Tensor, attention: Attention, lengths: Sequence[int] | None = None) -> Tensor:
        """`(N, d_m)` → `(N, D)`, or without lengths `(B, T_m, d_m)` → `(B, T_m, D)`."""
        if self._fused is None:
            x = self._add_positions(F.linear(features, self._project), lengths)
            encoded = self_attention(self._attention, x, attention)
        else:
            fused = self._add_positions(F.linear(features, self._fused, self._fused_bias), lengths)
            x, q, k, v = fused.chunk(4, dim=-1)  # (N, 4 D) → 4 × (N, D)
            encoded = attention_output(self._attention, x, attention(q, k, v, self._attention.heads))
        return F.linear(encoded, self._common, self._common_bias)

    def _add_positions(self, projected: Tensor, lengths: Sequence[int] | None) -> Tensor:
        if self._position is None:
            return projected
        if lengths is None:
            return projected + self._position
        return projected + torch.cat([self._position[:length] for length in lengths])


class FusedPooling:
    """`AttentivePooling` with its two projections in one product."""

    def __init__(self, pooling: AttentivePooling) -> None:
        self._weight = torch.cat([pooling.value.weight, pooling.gate.weight]).detach()  # (2 D, D)
        self._bias = torch.cat([pooling.value.bias, pooling.gate.bias]).detach()
        self._score = pooling.score.weight.detach()[0]  # (D,)

    def __call__(self, x: Tensor, segments: SoftmaxSum) -> Tensor:
        """`(N, D)` → `(R, D)`."""
        value, gate = F.linear(x, self._weight, self._bias).chunk(2, dim=-1)  # 2 × (N, D)
        return segments.softmax_sum((value * torch.sigmoid(gate)) @ self._score, x)


def self_attention(layer: SelfAttention, x: Tensor, attention: Attention) -> Tensor:
    """`SelfAttention` on `(N, D)`."""
    q, k, v = layer.qkv(x).chunk(3, dim=-1)  # (N, 3 D) → 3 × (N, D)
    return attention_output(layer, x, attention(q, k, v, layer.heads))


def attention_output(layer: SelfAttention, x: Tensor, mixed: Tensor) -> Tensor:
    """`LayerNorm(x + W_o mixed)`, the last step of `SelfAttention`."""
    normed: Tensor = layer.norm(layer.out(mixed).add_(x))
    return normed


def transformer_layer(layer: TransformerLayer, x: Tensor, attention: Attention) -> Tensor:
    """`TransformerLayer` on `(N, D)`."""
    return feed_forward(layer.feedforward, self_attention(layer.attention, x, attention))


def query_layer(layer: TransformerLayer, queries: Tensor, x: Tensor, attention: Attention) -> Tensor:
    """`TransformerLayer` for some of its slots, `(N_q, D)`, which attend to all of `x` `(N_k, D)`."""
    module, hidden = layer.attention, x.shape[-1]
    weight, bias = module.qkv.weight, module.qkv.bias
    k, v = F.linear(x, weight[hidden:], bias[hidden:]).chunk(2, dim=-1)  # (N_k, 2 D) → 2 × (N_k, D)
    mixed = attention(F.linear(queries, weight[:hidden], bias[:hidden]), k, v, module.heads)
    return feed_forward(layer.feedforward, attention_output(module, queries, mixed))


def feed_forward(layer: FeedForward, x: Tensor) -> Tensor:
    """`FeedForward` on `(N, D)`."""
    return in_chunks(lambda part: layer.norm(layer.layers(part).add_(part)), x)


def pack(rows: Sequence[Mapping[Modality, Tensor]], modalities: Sequence[Modality]) -> tuple[Tensor, list[int]]:
    """Concatenate rows, in each the given modalities in order: `(N, D)`, and the slots of each row."""
    return torch.cat([row[m] for row in rows for m in modalities]), [
        sum(len(row[m]) for m in modalities) for row in rows
    ]


def _split(x: Tensor, row: Row) -> Row:
    """A sequence of all modalities `(T, D)` → modality → `(T_m, D)`."""
    return dict(zip(MODALITIES, x.split([len(row[m]) for m in MODALITIES]), strict=True))
