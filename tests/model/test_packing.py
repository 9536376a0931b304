"""Packed attention and segment reductions equal those of each sequence."""

import pytest
import torch
import torch.nn.functional as F

from model.packing import CHUNK, PackedAttention, Segments, in_chunks

CPU = torch.device("cpu")
HEADS = 2
LENGTHS = ([5], [4, 4, 4], [1, 7, 3], [300, 2, 290, 1, 299], [2] * 40 + [9], [600, 600, 3])


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("hidden", [8, 300])
def test_each_sequence_attends_to_itself(lengths: list[int], hidden: int) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, sum(lengths), hidden)
    mixed = PackedAttention(lengths, hidden, CPU)(q, k, v, HEADS)
    torch.testing.assert_close(mixed, one_by_one(q, k, v, lengths, lengths), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("queries", [[2, 1, 5], [3, 3, 3], [1, 400, 2]], ids=str)
def test_queries_may_be_fewer_or_more_than_keys(queries: list[int]) -> None:
    torch.manual_seed(0)
    keys = [4, 250, 4]
    q = torch.randn(sum(queries), 16)
    k, v = torch.randn(2, sum(keys), 16)
    mixed = PackedAttention(keys, 16, CPU, queries)(q, k, v, HEADS)
    torch.testing.assert_close(mixed, one_by_one(q, k, v, queries, keys), atol=1e-5, rtol=1e-4)


def one_by_one(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, queries: list[int], keys: list[int]) -> torch.Tensor:
    def split(x: torch.Tensor, lengths: list[int]) -> list[torch.Tensor]:
        return [part.view(len(part), HEADS, -1).transpose(0, 1) for part in x.split(lengths)]

    parts = zip(split(q, queries), split(k, keys), split(v, keys), strict=True)
    return torch.cat([F.scaled_dot_product_attention(a, b, c).transpose(0, 1).flatten(1) for a, b, c in parts])


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_means_and_weighted_sums_are_by_sequence(lengths: list[int]) -> None:
    torch.manual_seed(0)
    x, scores = torch.randn(sum(lengths), 6), torch.randn(sum(lengths))
    segments = Segments(lengths, CPU)
    parts = list(zip(x.split(lengths), scores.split(lengths), strict=True))
    torch.testing.assert_close(segments.mean(x), torch.stack([own.mean(dim=0) for own, _ in parts]))
    torch.testing.assert_close(
        segments.softmax_sum(scores, x), torch.stack([s.softmax(dim=0) @ own for own, s in parts])
    )


@pytest.mark.parametrize("slots", [1, CHUNK, 2 * CHUNK + 7])
def test_chunking_changes_nothing(slots: int) -> None:
    x = torch.randn(slots, 3)
    assert torch.equal(in_chunks(lambda part: part * 2, x), x * 2)
