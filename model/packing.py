"""Attention and pooling on packed sequences: one matrix of all valid slots, without padding. Used at inference only.

Shapes: N slots of all sequences together, S sequences, D hidden, H heads.
"""

# Own code because torch.nn.attention.varlen runs on CUDA in half precision only.

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

CALL_FLOPS: Final = 4e6  # FLOPs of padding that cost as much as one more call on a CPU; measured, 1e6 to 16e6 are alike
CHUNK: Final = 512  # slots of a feed-forward layer at a time, so that its intermediate results stay in the CPU cache


@dataclass(frozen=True, slots=True)
class _Group:
    """Sequences of one attention call: adjacent and of equal length, or padded to the longest.

    Args:
        size: number of sequences.
        query, key: their slots: a slice, or indices `(size, length)` in which padding repeats the first slot.
        mask: `(size, 1, 1, keys)` bool, True on valid keys; None without padding.
        valid: `(size, queries)` bool, True on valid queries; None without padding.
        target: indices of the valid queries, in the order in which `valid` selects them.
    """

    size: int
    query: "slice | Tensor"
    key: "slice | Tensor"
    mask: Tensor | None = None
    valid: Tensor | None = None
    target: Tensor | None = None


class PackedAttention:
    """Scaled dot-product attention of the query slots of each sequence to the key slots of the same sequence.

    Sequences of similar length share a call, where the padding costs less than another call.

    Args:
        keys: number of key slots of each sequence, at least one.
        hidden: D.
        device: on an accelerator all sequences share one padded call.
        queries: number of query slots of each sequence; defaults to `keys` (self-attention).
    """

    def __init__(
        self, keys: Sequence[int], hidden: int, device: torch.device, queries: Sequence[int] | None = None
    ) -> None:
        self._keys, self._queries = list(keys), list(keys if queries is None else queries)
        self._key_starts, self._query_starts = [0, *accumulate(self._keys)], [0, *accumulate(self._queries)]
        self._device = device
        budget = CALL_FLOPS / (4 * hidden) if device.type == "cpu" else float("inf")
        self._groups = [self._group(rows) for rows in self._partition(budget)]

    def _partition(self, budget: float) -> list[list[int]]:
        """Sequences sorted by length, split where padding would cost more than another call."""
        order = sorted(range(len(self._keys)), key=lambda i: (self._keys[i], self._queries[i], i))
        parts: list[list[int]] = []
        exact, widest = 0, 0
        for i in order:
            pairs, queries = self._keys[i] * self._queries[i], self._queries[i]
            if parts:
                size = len(parts[-1]) + 1
                padded = size * self._keys[i] * max(widest, queries)  # keys ascend: this sequence has the most
                if padded - exact - pairs <= budget * (size - 1):
                    parts[-1].append(i)
                    exact, widest = exact + pairs, max(widest, queries)
                    continue
            parts.append([i])
            exact, widest = pairs, queries
        return parts

    def _group(self, rows: list[int]) -> _Group:
        keys, queries = [self._keys[i] for i in rows], [self._queries[i] for i in rows]
        first, last = rows[0], rows[-1]
        if len(set(keys)) == len(set(queries)) == 1 and rows == list(range(first, last + 1)):
            return _Group(
                len(rows),
                slice(self._query_starts[first], self._query_starts[last] + queries[0]),
                slice(self._key_starts[first], self._key_starts[last] + keys[0]),
            )
        query, valid = self._indices([self._query_starts[i] for i in rows], queries)
        key, valid_keys = self._indices([self._key_starts[i] for i in rows], keys)
        return _Group(len(rows), query, key, valid_keys[:, None, None, :], valid, query[valid])

    def _indices(self, starts: list[int], lengths: list[int]) -> tuple[Tensor, Tensor]:
        positions = torch.arange(max(lengths))
        valid = positions < torch.tensor(lengths)[:, None]  # (size, length)
        index = torch.tensor(starts)[:, None] + positions * valid  # (size, length)
        return index.to(self._device), valid.to(self._device)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """Q `(N_q, D)`, k and v `(N_k, D)` → `(N_q, D)`."""
        if len(self._groups) == 1 and self._groups[0].target is None:
            return self._attend(self._groups[0], q, k, v, heads).reshape(q.shape)  # (S, queries, H, D/H) → (N_q, D)
        mixed = q.new_empty(q.shape)
        for group in self._groups:
            part = self._attend(group, q, k, v, heads)  # (size, queries, H, D/H)
            if group.target is None or group.valid is None:
                mixed[group.query] = part.reshape(-1, q.shape[1])  # (size · queries, D)
            else:
                mixed.index_copy_(0, group.target, part[group.valid].flatten(1))  # (valid queries, D)
        return mixed

    @staticmethod
    def _attend(group: _Group, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        def split(x: Tensor, index: "slice | Tensor") -> Tensor:
            return x[index].view(group.size, -1, heads, x.shape[1] // heads).transpose(1, 2)  # (size, H, slots, D/H)

        q, k, v = split(q, group.query), split(k, group.key), split(v, group.key)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=group.mask).transpose(1, 2)  # (size, slots, H, D/H)


class Segments:
    """Reductions over the slots of each sequence, as matrix products.

    Args:
        lengths: slots of each sequence.
        device: of the slots.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self._lengths = torch.tensor(lengths, device=device)  # (S,)
        sequences = torch.arange(len(lengths), device=device)
        self._members = torch.repeat_interleave(sequences, self._lengths) == sequences[:, None]  # (S, N)

    def mean(self, x: Tensor) -> Tensor:
        """`(N, D)` → `(S, D)`."""
        return (self._members.to(x.dtype) @ x) / self._lengths[:, None]

    def softmax_sum(self, scores: Tensor, x: Tensor) -> Tensor:
        """Σ softmax(score) x within each sequence: `(N,)`, `(N, D)` → `(S, D)`."""
        if len(self._lengths) == 1:
            return scores.softmax(dim=0)[None] @ x
        weights = scores.expand_as(self._members).masked_fill(~self._members, float("-inf")).softmax(dim=1)  # (S, N)
        return weights @ x


def in_chunks(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a position-wise function to `(N, D)`, on a CPU in chunks that fit into its cache."""
    if x.device.type != "cpu" or len(x) <= CHUNK * 3 // 2:
        return function(x)
    return torch.cat([function(part) for part in x.split(CHUNK)])
