"""The three reconstruction branches against their equations."""

import pytest
import torch
from torch import nn

from model.config import BRANCHES, ModelConfig
from model.network.reconstruction import (
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


def test_every_branch_keeps_the_shape_of_its_input() -> None:
    branches = build_branches(NET).eval()
    assert tuple(branches) == BRANCHES
    for branch in branches.values():
        encoded, decoded = branch(X, VALID)
        assert encoded.shape == decoded.shape == X.shape
        assert not torch.equal(encoded, decoded)


def test_only_the_branches_of_the_config_are_built() -> None:
    net = NET.model_copy(update={"branches": ("transformer", "cascade")})
    assert {name: type(module) for name, module in build_branches(net).items()} == {
        "transformer": TransformerBranch,
        "cascade": CascadeBranch,
    }


def test_transformer_branch_decodes_its_encoding() -> None:
    branch = TransformerBranch(NET).eval()
    encoded, decoded = branch(X, VALID)
    torch.testing.assert_close(encoded, branch.encoder(X, VALID))
    torch.testing.assert_close(decoded, branch.decoder(encoded, VALID))


def test_autoencoder_has_the_widths_of_the_config() -> None:
    autoencoder = Autoencoder(NET)
    linears = [m for m in autoencoder.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linears] == [
        (16, 16), (16, 12), (12, 10), (10, 8), (8, 10), (10, 12), (12, 16),
    ]  # fmt: skip
    assert {m.negative_slope for m in autoencoder.modules() if isinstance(m, nn.LeakyReLU)} == {LEAK}
    code, output = autoencoder(X)
    assert (code.shape, output.shape) == ((2, 7, 8), X.shape)


def test_paper_autoencoder_has_the_published_widths() -> None:
    linears = [m for m in Autoencoder(ModelConfig.paper().network).modules() if isinstance(m, nn.Linear)]
    assert [m.in_features for m in linears] == [300, 300, 300, 256, 128, 64, 128, 256][1:]
    assert [m.out_features for m in linears] == [300, 256, 128, 64, 128, 256, 300]


def test_autoencoder_branch_projects_code_and_output() -> None:
    branch = AutoencoderBranch(NET)
    code, output = branch.autoencoder(X)
    encoded, decoded = branch(X, VALID)
    torch.testing.assert_close(encoded, branch.to_encoding(code))
    torch.testing.assert_close(decoded, branch.to_decoding(output))


def test_cascade_adds_the_deltas_of_all_blocks() -> None:
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
def test_autoencoder_branches_are_position_wise(branch: str) -> None:
    module = build_branches(NET)[branch]
    for whole, alone in zip(module(X, VALID), module(X[:, 3:4], VALID[:, 3:4]), strict=True):
        torch.testing.assert_close(whole[:, 3:4], alone)
