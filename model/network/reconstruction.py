"""The three reconstruction branches: transformer, autoencoder and cascaded residual autoencoder (Eqs. 4 to 7).

Shapes: B batch, T slots, D hidden. A branch maps the common sequence X to its encoding F and decoding D, `(B, T, D)`.
"""

# Widths are from Fig. 8 (b, c) of the paper. The decoding of the cascade is the whole sum of Eq. 6; the released code
# returns only its last term.

from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn

from model.config import BRANCHES, NetworkConfig
from model.network.layers import TransformerLayer

LEAK: Final = 0.2  # slope of the leaky ReLU


class TransformerBranch(nn.Module):
    """TF: one transformer layer as encoder, one as decoder (Eq. 7)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        sizes = (config.hidden, config.heads, config.feedforward, config.dropout)
        self.encoder = TransformerLayer(*sizes)
        self.decoder = TransformerLayer(*sizes)

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """X → (F, D)."""
        encoded = self.encoder(x, valid)
        return encoded, self.decoder(encoded, valid)


class Autoencoder(nn.Module):
    """Position-wise 300 → 300 → 256 → 128 → 64 → 128 → 256 → 300 with leaky ReLU (Eq. 5)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        widths = (config.hidden, *config.autoencoder)
        layers = [nn.Sequential(nn.Linear(a, b), nn.LeakyReLU(LEAK)) for a, b in pairwise(widths)]
        self.encoder = nn.Sequential(*layers[:4])
        self.decoder = nn.Sequential(*layers[4:])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`(…, D)` → code h4 `(…, W_4)` and output h7 `(…, D)`."""
        code = self.encoder(x)
        return code, self.decoder(code)


class AutoencoderBranch(nn.Module):
    """AE: `F = Linear(h4)`, `D = Linear(h7)`."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.autoencoder = Autoencoder(config)
        self.to_encoding = nn.Linear(config.autoencoder[3], config.hidden)
        self.to_decoding = nn.Linear(config.hidden, config.hidden)

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """X → (F, D)."""
        del valid  # position-wise
        code, output = self.autoencoder(x)
        return self.to_encoding(code), self.to_decoding(output)


class CascadeBranch(nn.Module):
    """MMIN's cascade of residual autoencoders: `X_{k+1} = X_k + RA_k(X_k)`, `D = X_6`, `F = Linear` of all codes."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Autoencoder(config) for _ in range(config.residual_blocks))
        self.to_encoding = nn.Linear(config.residual_blocks * config.autoencoder[3], config.hidden)

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """X → (F, D)."""
        del valid  # position-wise
        codes = []
        for block in self.blocks:
            code, delta = block(x)
            codes.append(code)
            x = x + delta
        return self.to_encoding(torch.cat(codes, dim=-1)), x  # codes: 5 × (B, T, W_4) → (B, T, 5 W_4)


def build_branches(config: NetworkConfig) -> nn.ModuleDict:
    """The branches of the config, by the names of `BRANCHES`."""
    kinds = dict(zip(BRANCHES, (TransformerBranch, AutoencoderBranch, CascadeBranch), strict=True))
    return nn.ModuleDict({name: kinds[name](config) for name in config.branches})
