"""The three branches: shapes, and what their decodings are sums of."""

import pytest
import torch
from torch import nn

from model.config import ModelConfig
from model.network.reconstruction import (
    BRANCHES,
    LEAK,
    Autoencoder,
    AutoencoderBranch,
    CascadeBranch,
    TransformerBranch,
    build_branches,
)
from tests.support.network import tiny_config

NET = tiny_config().network
D = NET.hidden
X = torch.randn(2, 7, D, generator=torch.Generator().manual_seed(0))
VALID = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_every_branch_encodes_and_decodes_to_the_shape_it_was_given() -> None:
    branches = build_branches(NET).eval()
    assert tuple(branches) == BRANCHES
    for branch in branches.values():
        encoded, decoded = branch(X, VALID)
        assert encoded.shape == decoded.shape == X.shape
        assert not torch.equal(encoded, decoded)


def test_the_transformer_decodes_what_it_encoded() -> None:
    branch = TransformerBranch(NET).eval()
    encoded, decoded = branch(X, VALID)
    torch.testing.assert_close(encoded, branch.encode(X, VALID))
    torch.testing.assert_close(decoded, branch.decode(encoded, VALID))


def test_the_autoencoder_narrows_to_its_code_and_widens_again() -> None:
    autoencoder = Autoencoder(NET)
    linears = [m for m in autoencoder.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linears] == [
        (16, 16), (16, 12), (12, 10), (10, 8), (8, 10), (10, 12), (12, 16),
    ]  # fmt: skip
    assert {m.negative_slope for m in autoencoder.modules() if isinstance(m, nn.LeakyReLU)} == {LEAK}
    code, output = autoencoder(X)
    assert (code.shape, output.shape) == ((2, 7, 8), X.shape)


def test_the_published_autoencoder_has_the_published_widths() -> None:
    linears = [m for m in Autoencoder(ModelConfig.paper().network).modules() if isinstance(m, nn.Linear)]
    assert [m.in_features for m in linears] == [300, 300, 300, 256, 128, 64, 128, 256][1:]
    assert [m.out_features for m in linears] == [300, 256, 128, 64, 128, 256, 300]


def test_the_autoencoder_branch_projects_code_and_output() -> None:
    branch = AutoencoderBranch(NET)
    code, output = branch.autoencoder(X)
    encoded, decoded = branch(X, VALID)
    torch.testing.assert_close(encoded, branch.to_encoding(code))
    torch.testing.assert_close(decoded, branch.to_decoding(output))


def test_the_cascade_adds_every_delta_not_only_the_last() -> None:
    branch = CascadeBranch(NET)
    assert len(branch.blocks) == 5
    x, codes, deltas = X, [], []
    for block in branch.blocks:
        code, delta = block(x)
        codes.append(code)
        deltas.append(delta)
        x = x + delta
    encoded, decoded = branch(X, VALID)
    torch.testing.assert_close(decoded, X + torch.stack(deltas).sum(dim=0))
    assert not torch.allclose(decoded, deltas[-1], atol=1e-2)
    torch.testing.assert_close(encoded, branch.to_encoding(torch.cat(codes, dim=-1)))
    assert branch.to_encoding.in_features == 5 * 8


@pytest.mark.parametrize("branch", ["autoencoder", "cascade"])
def test_the_position_wise_branches_see_one_slot_at_a_time(branch: str) -> None:
    module = build_branches(NET)[branch]
    for whole, alone in zip(module(X, VALID), module(X[:, 3:4], VALID[:, 3:4]), strict=True):
        torch.testing.assert_close(whole[:, 3:4], alone)
