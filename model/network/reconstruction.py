"""The three encoder-decoders that reconstruct a missing modality: transformer, autoencoder, cascade.

For: Eqs. 4 to 7. Each takes the common sequence X and returns its encoding F and its decoding D, both `(B, T, D)`.
Does not know: which slots are missing, heads, the gate.
Source: paper 3.5; layer widths from its Fig. 8 (b, c). The cascade's decoding is the whole sum of Eq. 6, of which the
released code returns the last term only.
"""

from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn

from model.config import NetworkConfig
from model.network.layers import TransformerLayer

BRANCHES: Final = ("transformer", "autoencoder", "cascade")
LEAK: Final = 0.2  # slope of the leaky ReLU


class TransformerBranch(nn.Module):
    """TF: one transformer layer encodes, one decodes (Eq. 7)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        sizes = (config.hidden, config.heads, config.feedforward, config.dropout)
        self.encoder = TransformerLayer(*sizes)
        self.decoder = TransformerLayer(*sizes)

    def encode(self, x: Tensor, valid: Tensor) -> Tensor:
        """X → F, `(B, T, D)`."""
        encoded: Tensor = self.encoder(x, valid)
        return encoded

    def decode(self, encoded: Tensor, valid: Tensor) -> Tensor:
        """F → D, `(B, T, D)`."""
        decoded: Tensor = self.decoder(encoded, valid)
        return decoded

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """X → (F, D)."""
        encoded = self.encode(x, valid)
        return encoded, self.decode(encoded, valid)


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
        del valid  # position-wise: no slot sees another
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
        del valid  # position-wise: no slot sees another
        codes = []
        for block in self.blocks:
            code, delta = block(x)
            codes.append(code)
            x = x + delta
        return self.to_encoding(torch.cat(codes, dim=-1)), x


def build_branches(config: NetworkConfig) -> nn.ModuleDict:
    """The three branches under their names of `BRANCHES`."""
    return nn.ModuleDict(
        {
            "transformer": TransformerBranch(config),
            "autoencoder": AutoencoderBranch(config),
            "cascade": CascadeBranch(config),
        }
    )
