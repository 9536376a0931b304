"""EMMR's layers on packed slots, in eval mode: what `model.network.layers` computes, without padding.

For: `model.network.inference.fused`.
Does not know: modalities, branches, heads, training.

Shapes: N slots of all sequences together, S sequences, D hidden.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from model.network.layers import AttentivePooling, FeedForward, SelfAttention, TransformerLayer
from model.packing import Membership, Mixing, in_chunks


class PackedPooling:
    """`AttentivePooling` with its two projections in one."""

    def __init__(self, pooling: AttentivePooling) -> None:
        self._weight = torch.cat([pooling.value.weight, pooling.gate.weight]).detach()  # (2 D, D)
        self._bias = torch.cat([pooling.value.bias, pooling.gate.bias]).detach()
        self._score = pooling.score.weight.detach()[0]  # (D,)

    def __call__(self, x: Tensor, members: Membership) -> Tensor:
        """`(N, D)` → `(S, D)`."""
        value, gate = F.linear(x, self._weight, self._bias).chunk(2, dim=-1)  # 2 × (N, D)
        return members.weigh((value * torch.sigmoid(gate)) @ self._score, x)


def self_attention(layer: SelfAttention, x: Tensor, mixing: Mixing) -> Tensor:
    """`SelfAttention` in eval mode on `(N, D)`."""
    q, k, v = layer.qkv(x).chunk(3, dim=-1)
    return attended(layer, x, mixing(q, k, v, layer.heads))


def attended(layer: SelfAttention, x: Tensor, mixed: Tensor) -> Tensor:
    """What follows the mixing: `LayerNorm(x + W_o mixed)`."""
    normed: Tensor = layer.norm(layer.out(mixed).add_(x))
    return normed


def transformer_layer(layer: TransformerLayer, x: Tensor, mixing: Mixing) -> Tensor:
    """`TransformerLayer` in eval mode on `(N, D)`."""
    return feed_forward(layer.feedforward, self_attention(layer.attention, x, mixing))


def queried_layer(layer: TransformerLayer, queries: Tensor, x: Tensor, mixing: Mixing) -> Tensor:
    """The rows of a `TransformerLayer` that are asked for, `(N_q, D)`, which attend to all of `x` `(N_k, D)`."""
    attention, hidden = layer.attention, x.shape[1]
    weight, bias = attention.qkv.weight, attention.qkv.bias
    k, v = F.linear(x, weight[hidden:], bias[hidden:]).chunk(2, dim=-1)
    mixed = mixing(F.linear(queries, weight[:hidden], bias[:hidden]), k, v, attention.heads)
    return feed_forward(layer.feedforward, attended(attention, queries, mixed))


def feed_forward(layer: FeedForward, x: Tensor) -> Tensor:
    """`FeedForward` in eval mode on `(N, D)`, in pieces that stay in the cache."""
    return in_chunks(lambda part: layer.norm(layer.layers(part).add_(part)), x)
