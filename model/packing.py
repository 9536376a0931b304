"""Sequences end to end instead of side by side: one matrix of real slots, no padding anywhere.

For: inference, of the network as of the text encoder. What is position-wise (four fifths of the work) runs on the slots
that exist; attention runs on groups of sequences of like length, so that the little padding it needs costs less than
the calls it saves.
Does not know: what a slot is; training, which keeps padded batches.

Shapes: N slots of all sequences together, S sequences, D hidden, H heads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

CALL_FLOPS: Final = 4e6  # operations of padding that one more call of attention is worth on a CPU; 1e6 to 16e6 do alike
CHUNK: Final = 512  # slots of a feed-forward layer at a time: what lies between its products stays in the cache


@dataclass(frozen=True, slots=True)
class _Group:
    """Sequences of one call of attention: all of one length and next to each other, or padded to the longest.

    Args:
        size: how many.
        query, key: where their slots are: a slice, or `(size, length)` indices that repeat the first where padded.
        mask: `(size, 1, 1, keys)` bool, True on real keys; None where there is no padding.
        real: `(size, queries)` bool, True on real queries; None where there is no padding.
        target: indices of the real queries, in the order in which `real` picks them.
    """

    size: int
    query: "slice | Tensor"
    key: "slice | Tensor"
    mask: Tensor | None = None
    real: Tensor | None = None
    target: Tensor | None = None


class Mixing:
    """Who attends to whom: query slots of sequence i to the key slots of sequence i, all of them real.

    Args:
        keys: key slots of each sequence, at least one.
        hidden: D.
        device: on an accelerator one padded call is cheaper than any number of exact ones.
        queries: query slots of each sequence; the keys' where not given (self-attention).
    """

    def __init__(
        self, keys: Sequence[int], hidden: int, device: torch.device, queries: Sequence[int] | None = None
    ) -> None:
        self._keys, self._queries = list(keys), list(keys if queries is None else queries)
        self._key_starts, self._query_starts = _starts(self._keys), _starts(self._queries)
        self._device = device
        budget = CALL_FLOPS / (4 * hidden) if device.type == "cpu" else float("inf")
        self._groups = [self._group(rows) for rows in self._batches(budget)]

    def _batches(self, budget: float) -> list[list[int]]:
        """Sequences by length, cut where padding would cost more than another call."""
        order = sorted(range(len(self._keys)), key=lambda i: (self._keys[i], self._queries[i], i))
        batches: list[list[int]] = []
        exact, widest = 0, 0
        for i in order:
            pairs, queries = self._keys[i] * self._queries[i], self._queries[i]
            if batches:
                size = len(batches[-1]) + 1
                padded = size * self._keys[i] * max(widest, queries)  # keys ascend: this one has the most
                if padded - exact - pairs <= budget * (size - 1):
                    batches[-1].append(i)
                    exact, widest = exact + pairs, max(widest, queries)
                    continue
            batches.append([i])
            exact, widest = pairs, queries
        return batches

    def _group(self, rows: list[int]) -> _Group:
        keys, queries = [self._keys[i] for i in rows], [self._queries[i] for i in rows]
        first, last = rows[0], rows[-1]
        if len(set(keys)) == len(set(queries)) == 1 and rows == list(range(first, last + 1)):
            return _Group(
                len(rows),
                slice(self._query_starts[first], self._query_starts[last] + queries[0]),
                slice(self._key_starts[first], self._key_starts[last] + keys[0]),
            )
        query, real = self._padded([self._query_starts[i] for i in rows], queries)
        key, there = self._padded([self._key_starts[i] for i in rows], keys)
        return _Group(len(rows), query, key, there[:, None, None, :], real, query[real])

    def _padded(self, starts: list[int], lengths: list[int]) -> tuple[Tensor, Tensor]:
        places = torch.arange(max(lengths))
        real = places < torch.tensor(lengths)[:, None]  # (size, length)
        index = torch.tensor(starts)[:, None] + places * real  # (size, length)
        return index.to(self._device), real.to(self._device)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """Scaled dot-product attention: q `(N_q, D)`, k and v `(N_k, D)` → `(N_q, D)`."""
        if len(self._groups) == 1 and self._groups[0].target is None:
            return self._mix(self._groups[0], q, k, v, heads).reshape(q.shape)
        mixed = q.new_empty(q.shape)
        for group in self._groups:
            own = self._mix(group, q, k, v, heads)  # (size, queries, H, D/H)
            if group.target is None or group.real is None:
                mixed[group.query] = own.reshape(-1, q.shape[1])
            else:
                mixed.index_copy_(0, group.target, own[group.real].flatten(1))
        return mixed

    @staticmethod
    def _mix(group: _Group, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        def split(x: Tensor, where: "slice | Tensor") -> Tensor:
            return x[where].view(group.size, -1, heads, x.shape[1] // heads).transpose(1, 2)  # (size, H, slots, D/H)

        q, k, v = split(q, group.query), split(k, group.key), split(v, group.key)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=group.mask).transpose(1, 2)


class Membership:
    """Which slots belong to which sequence: sums over sequences as one product of matrices."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self._lengths = torch.tensor(lengths, device=device)  # (S,)
        self._whole = len(lengths) == 1
        owner = torch.repeat_interleave(torch.arange(len(lengths), device=device), self._lengths)  # (N,)
        self._owned = owner == torch.arange(len(lengths), device=device)[:, None]  # (S, N)

    def mean(self, x: Tensor) -> Tensor:
        """`(N, D)` → `(S, D)`."""
        return (self._owned.to(x.dtype) @ x) / self._lengths[:, None]

    def weigh(self, scores: Tensor, x: Tensor) -> Tensor:
        """Σ softmax(score) x within each sequence: `(N,)`, `(N, D)` → `(S, D)`."""
        if self._whole:
            return scores.softmax(dim=0)[None] @ x
        weights = scores.expand_as(self._owned).masked_fill(~self._owned, float("-inf")).softmax(dim=1)  # (S, N)
        return weights @ x


def in_chunks(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A position-wise function of `(N, D)`, on a CPU a cache's worth of slots at a time."""
    if x.device.type != "cpu" or len(x) <= CHUNK * 3 // 2:
        return function(x)
    return torch.cat([function(part) for part in x.split(CHUNK)])


def _starts(lengths: Sequence[int]) -> list[int]:
    return [0, *accumulate(lengths)][: len(lengths)]
