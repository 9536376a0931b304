"""Packed layers give what the padded ones of training give."""

import pytest
import torch

from model.network.inference.packed_layers import PackedPooling, queried_layer, transformer_layer
from model.network.layers import AttentivePooling, TransformerLayer
from model.packing import Membership, Mixing

CPU = torch.device("cpu")
HIDDEN = 16
LENGTHS = [7, 1, 12]


@pytest.fixture
def padded() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(len(LENGTHS), max(LENGTHS), HIDDEN), torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]


@pytest.fixture
def layer() -> TransformerLayer:
    torch.manual_seed(1)
    return TransformerLayer(HIDDEN, 4, 32, 0.3).eval().requires_grad_(requires_grad=False)


def test_a_transformer_layer_is_the_same_without_padding(
    layer: TransformerLayer, padded: tuple[torch.Tensor, torch.Tensor]
) -> None:
    x, valid = padded
    packed = transformer_layer(layer, x[valid], Mixing(LENGTHS, HIDDEN, CPU))
    torch.testing.assert_close(packed, layer(x, valid)[valid], atol=1e-5, rtol=1e-4)


def test_the_slots_asked_for_are_those_of_the_whole_layer(
    layer: TransformerLayer, padded: tuple[torch.Tensor, torch.Tensor]
) -> None:
    x, valid = padded
    wanted = torch.zeros_like(valid)
    wanted[0, 2:5], wanted[1, 0], wanted[2, :] = True, True, True
    mixing = Mixing(LENGTHS, HIDDEN, CPU, wanted.sum(dim=1).tolist())
    found = queried_layer(layer, x[wanted], x[valid], mixing)
    torch.testing.assert_close(found, layer(x, valid)[wanted], atol=1e-5, rtol=1e-4)


def test_pooling_is_the_same_without_padding(padded: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, valid = padded
    torch.manual_seed(2)
    pooling = AttentivePooling(HIDDEN).requires_grad_(requires_grad=False)
    packed = PackedPooling(pooling)(x[valid], Membership(LENGTHS, CPU))
    torch.testing.assert_close(packed, pooling(x, valid), atol=1e-5, rtol=1e-4)
