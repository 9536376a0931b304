"""Masked self-attention, feed-forward layer and attentive pooling (Vaswani et al. 2017, post-norm).

Shapes: B batch, T slots, D hidden, H heads. `valid` is `(B, T)` bool, True on slots that may be attended to.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SharedDropout(nn.Module):
    """Dropout with one mask for all slots of an utterance (Gal & Ghahramani 2016).

    On short sequences it regularises at least as well as a mask per slot, which took a fifth of a CPU training step.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """`(B, T, D)` → `(B, T, D)`."""
        if not self.training or not self.rate:
            return x
        return x * F.dropout(x.new_ones(x.shape[0], 1, x.shape[2]), self.rate)


class SelfAttention(nn.Module):
    """Multi-head self-attention with residual and LayerNorm; invalid slots are never attended to."""

    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.out = nn.Linear(hidden, hidden)
        self.dropout = SharedDropout(dropout)
        self.norm = nn.LayerNorm(hidden)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """`(B, T, D)`, `(B, T)` → `(B, T, D)`. A row without a valid slot yields finite, meaningless values."""
        b, t, d = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)  # 3 × (B, H, T, D/H)
        attend = valid | ~valid.any(dim=1, keepdim=True)  # (B, T); a softmax over no slot would be NaN
        # Dropout on the output only: on the attention weights it cost a third of a CPU training step.
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attend[:, None, None, :])
        mixed = mixed.transpose(1, 2).reshape(b, t, d)  # (B, T, D)
        normed: Tensor = self.norm(x + self.dropout(self.out(mixed)))
        return normed


class FeedForward(nn.Module):
    """Position-wise `W2 ReLU(W1 x)` with residual and LayerNorm (Eq. 7)."""

    def __init__(self, hidden: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(hidden, inner),
            nn.ReLU(),
            SharedDropout(dropout),
            nn.Linear(inner, hidden),
            SharedDropout(dropout),
        )
        self.norm = nn.LayerNorm(hidden)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, T, D)` → `(B, T, D)`."""
        normed: Tensor = self.norm(x + self.layers(x))
        return normed


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward: used as TF encoder, TF decoder and subset blocks (Eqs. 7 to 9)."""

    def __init__(self, hidden: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.attention = SelfAttention(hidden, heads, dropout)
        self.feedforward = FeedForward(hidden, inner, dropout)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """`(B, T, D)`, `(B, T)` → `(B, T, D)`."""
        mixed: Tensor = self.feedforward(self.attention(x, valid))
        return mixed


class AttentivePooling(nn.Module):
    """`Σ_t softmax_t(W_r[(H W_u) ⊙ σ(H W_m)]) H_t` over valid slots (SigmoidAtt of the released code)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.value = nn.Linear(hidden, hidden)
        self.gate = nn.Linear(hidden, hidden)
        self.score = nn.Linear(hidden, 1, bias=False)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """`(B, T, D)`, `(B, T)` → `(B, D)`."""
        scores = self.score(self.value(x) * torch.sigmoid(self.gate(x))).squeeze(-1)  # (B, T)
        weights = scores.masked_fill(~valid, torch.finfo(scores.dtype).min).softmax(dim=1)
        return torch.einsum("bt,btd->bd", weights, x)


def masked_mean(x: Tensor, valid: Tensor) -> Tensor:
    """Mean over valid slots: `(B, T, D)`, `(B, T)` → `(B, D)`; zero for a row without a valid slot."""
    weight = valid.to(x.dtype).unsqueeze(-1)  # (B, T, 1)
    return (x * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1.0)
