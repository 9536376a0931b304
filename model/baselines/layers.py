"""Layers that several baselines share: perceptron, bottleneck autoencoders, masked LSTM, text CNN, attention decoder.

Shapes: B batch, T slots, d features, H hidden. `valid` is `(B, T)` bool, True on slots that carry content.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

LEAK: Final = 0.2  # slope of the leaky ReLU, as in EMMR's branches


def perceptron(size: int, hidden: Sequence[int], out: int, dropout: float) -> nn.Sequential:
    """Linear layers with ReLU and dropout after each but the last."""
    widths = (size, *hidden)
    inner = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU(), nn.Dropout(dropout))]
    return nn.Sequential(*inner, nn.Linear(widths[-1], out))


class BottleneckAutoencoder(nn.Module):
    """size → widths → size, with leaky ReLU between the layers.

    Args:
        size: of input and output.
        widths: of the encoder, the last one that of the code; the decoder mirrors them.
    """

    def __init__(self, size: int, widths: Sequence[int]) -> None:
        super().__init__()
        down = [layer for a, b in pairwise((size, *widths)) for layer in (nn.Linear(a, b), nn.LeakyReLU(LEAK))]
        up = [layer for a, b in pairwise((*reversed(widths), size)) for layer in (nn.Linear(a, b), nn.LeakyReLU(LEAK))]
        self.encoder = nn.Sequential(*down)
        self.decoder = nn.Sequential(*up[:-1])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, size)` → code `(B, widths[-1])` and reconstruction `(B, size)`."""
        code = self.encoder(x)
        return code, self.decoder(code)


class ResidualCascade(nn.Module):
    """Residual autoencoders in cascade, `x_{k+1} = x_k + f_k(x_k)` (Tran et al. 2017).

    Args:
        size: of input and output.
        widths: as of `BottleneckAutoencoder`.
        blocks: number of autoencoders.
    """

    def __init__(self, size: int, widths: Sequence[int], blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(BottleneckAutoencoder(size, widths) for _ in range(blocks))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, size)` → all codes `(B, blocks · widths[-1])` and the final sum `(B, size)`."""
        codes = []
        for block in self.blocks:
            code, delta = block(x)
            codes.append(code)
            x = x + delta
        return torch.cat(codes, dim=-1), x  # blocks × (B, W) → (B, blocks · W)


class MaskedLSTM(nn.Module):
    """LSTM over the valid slots of each row, as if the others did not exist.

    Args:
        size: d.
        hidden: H.
        bidirectional: add the states of a second LSTM that reads from the end.
    """

    def __init__(self, size: int, hidden: int, *, bidirectional: bool = False) -> None:
        super().__init__()
        self.lstm = nn.LSTM(size, hidden, batch_first=True, bidirectional=bidirectional)

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, T, d)`, `(B, T)` → states `(B, T, H)` with those of valid slots in front, and their mask `(B, T)`."""
        x, front = move_to_front(x, valid)
        lengths = front.sum(dim=1).clamp(min=1).cpu()  # a row without content runs over one slot of zeros
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=x.shape[1])
        if self.lstm.bidirectional:
            states = torch.stack(states.chunk(2, dim=-1)).sum(dim=0)  # (B, T, 2 H) → (B, T, H)
        return torch.where(front.unsqueeze(-1), states, states.new_zeros(())), front


class TextCNN(nn.Module):
    """Convolutions over time, each pooled by its maximum (Kim 2014).

    Args:
        size: d.
        out: channels of each convolution, and size of the result.
        kernels: slots that each convolution reads.
        dropout: rate.
    """

    def __init__(self, size: int, out: int, kernels: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv1d(size, out, kernel) for kernel in kernels)
        self.project = nn.Sequential(nn.Dropout(dropout), nn.Linear(len(kernels) * out, out), nn.ReLU())

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """`(B, T, d)`, `(B, T)` → `(B, out)`."""
        x, front = move_to_front(x, valid)
        pooled = []
        for convolution in self.convolutions:
            assert isinstance(convolution, nn.Conv1d)
            # A window starts at every valid slot and reads zeros beyond the last, whatever the padding is.
            padded = F.pad(x.transpose(1, 2), (0, convolution.kernel_size[0] - 1))  # (B, d, T + kernel - 1)
            pooled.append(masked_max(convolution(padded).relu().transpose(1, 2), front))  # (B, out, T) → (B, T, out)
        projected: Tensor = self.project(torch.cat(pooled, dim=-1))  # 3 × (B, out) → (B, 3 out)
        return projected


class AttentionDecoder(nn.Module):
    """LSTM that writes a sequence slot by slot, with additive attention to encoder states (Bahdanau et al. 2015).

    Args:
        hidden: H, of states and decoder.
        out: features of a written slot.
    """

    def __init__(self, hidden: int, out: int) -> None:
        super().__init__()
        self.key = nn.Linear(hidden, hidden)
        self.query = nn.Linear(hidden, hidden, bias=False)
        self.score = nn.Linear(hidden, 1, bias=False)
        self.cell = nn.LSTMCell(out + hidden, hidden)
        self.write = nn.Linear(hidden, out)

    def forward(self, states: Tensor, valid: Tensor, steps: int) -> Tensor:
        """States `(B, T, H)` and their mask → `(B, steps, out)`."""
        keys = self.key(states)
        attend = valid | ~valid.any(dim=1, keepdim=True)  # (B, T); a softmax over no slot would be NaN
        hidden = cell = states.new_zeros(states.shape[0], states.shape[2])
        slot = states.new_zeros(states.shape[0], self.write.out_features)
        written = []
        for _ in range(steps):
            scores = self.score(torch.tanh(keys + self.query(hidden).unsqueeze(1))).squeeze(-1)  # (B, T)
            weights = scores.masked_fill(~attend, torch.finfo(scores.dtype).min).softmax(dim=1)
            context = torch.einsum("bt,bth->bh", weights.to(states.dtype), states)
            hidden, cell = self.cell(torch.cat([slot, context], dim=-1), (hidden, cell))
            slot = self.write(hidden)
            written.append(slot)
        return torch.stack(written, dim=1)  # steps × (B, out) → (B, steps, out)


def move_to_front(x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Valid slots of `(B, T, d)` in front, in their order, then zeros; and the mask `(B, T)` of where they are now."""
    order = (~valid).to(torch.uint8).argsort(dim=1, stable=True)  # (B, T)
    front = valid.gather(1, order)
    moved = x.gather(1, order.unsqueeze(-1).expand_as(x))
    return torch.where(front.unsqueeze(-1), moved, moved.new_zeros(())), front


def masked_max(x: Tensor, valid: Tensor) -> Tensor:
    """Maximum over valid slots: `(B, T, d)`, `(B, T)` → `(B, d)`; zero for a row without a valid slot."""
    largest = x.masked_fill(~valid.unsqueeze(-1), torch.finfo(x.dtype).min).amax(dim=1)
    return torch.where(valid.any(dim=1, keepdim=True), largest, largest.new_zeros(()))
