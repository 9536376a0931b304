"""BERT (Devlin et al., NAACL 2019) on packed tokens, read from a folder of safetensors, for inference.

Own code: no padding, one product for the three projections of attention, and transformers is not imported.
Shapes: N tokens of all sentences together, T tokens of one, D hidden size, I intermediate size.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from model.packing import PackedAttention

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
# A BERT with another value in its config is not supported.
_SUPPORTED: Final = {"model_type": "bert", "hidden_act": "gelu", "is_decoder": False, "add_cross_attention": False}
_PROJECTIONS: Final = ("query", "key", "value")
TYPICAL_TOKENS: Final = 64  # number of rows that weights are reordered for; others work as well
MIN_ROWS: Final = 4  # least number of rows of a product


class _Linear:
    """Linear layer whose weight is reordered once for oneDNN on a CPU.

    `F.linear` reorders the weight at each call, which for the twenty rows of a sentence takes as long as the product.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight, bias
        self._reordered: Tensor | None = None

    def reorder(self) -> None:
        """Reorder the current weight."""
        if self.weight.device.type == "cpu" and torch.backends.mkldnn.is_available():
            self._reordered = torch.ops.mkldnn._reorder_linear_weight(self.weight, TYPICAL_TOKENS)

    def __call__(self, x: Tensor, activation: str = "none") -> Tensor:
        """`(N, in)` → `(N, out)`; `activation` is `none` or `gelu`."""
        if self._reordered is None:
            y = F.linear(x, self.weight, self.bias)
            return F.gelu(y) if activation == "gelu" else y
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._reordered, self.bias, activation, [], "none")
        return product


@dataclass(frozen=True, slots=True)
class _Layer:
    """One transformer layer."""

    qkv: _Linear  # (N, D) → (N, 3 D)
    attention_output: _Linear  # (N, D) → (N, D)
    attention_norm: Callable[[Tensor], Tensor]
    intermediate: _Linear  # (N, D) → (N, I)
    output: _Linear  # (N, I) → (N, D)
    output_norm: Callable[[Tensor], Tensor]


def padded_rows(rows: int) -> int:
    """Round a number of rows up, by at most a sixteenth from 64 rows on.

    oneDNN compiles and caches code for each number of rows, without a limit: about a megabyte each here.
    """
    step = max(MIN_ROWS, 2 ** (rows.bit_length() - 5) if rows >= 32 else 1)
    return -(-rows // step) * step


class PackedBert:
    """The encoder.

    Args:
        config: content of `config.json`.
        tensors: content of `model.safetensors`, named as by transformers.
        device: to compute on.

    Raises:
        KeyError: a tensor or a config value is missing.
    """

    def __init__(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device) -> None:
        self.size = int(config["hidden_size"])
        self.heads = int(config["num_attention_heads"])
        self.device = device
        self._epsilon = float(config["layer_norm_eps"])
        moved = {name: tensor.to(device) for name, tensor in tensors.items()}
        self._words = moved["embeddings.word_embeddings.weight"]  # (vocabulary, D)
        # All tokens belong to the first segment, so its embedding is added to the positions' once.
        positions = moved["embeddings.position_embeddings.weight"]  # (positions, D)
        self._positions = positions + moved["embeddings.token_type_embeddings.weight"][0]
        self._norm = self._layer_norm("embeddings.LayerNorm", moved)
        self._weights = {name.removesuffix(".weight"): w for name, w in moved.items() if name.endswith(".weight")}
        self._layers = [self._layer(f"encoder.layer.{i}", moved) for i in range(int(config["num_hidden_layers"]))]
        self._reordered = False

    @classmethod
    def read(cls, folder: Path, device: torch.device) -> "PackedBert | None":
        """Read a folder; None if it holds anything but a plain BERT.

        Raises:
            OSError, ValueError: a file exists but cannot be read.
        """
        if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
            return None
        config = json.loads((folder / CONFIG).read_bytes())
        absolute = config.get("position_embedding_type", "absolute") == "absolute"
        if not absolute or any(config.get(name, value) != value for name, value in _SUPPORTED.items()):
            return None
        try:
            tensors = load_file(folder / WEIGHTS)
            return cls(config, {name.removeprefix("bert."): t.float() for name, t in tensors.items()}, device)
        except SafetensorError as error:
            raise ValueError(f"{WEIGHTS}: {error}") from error
        except KeyError as error:
            raise ValueError(f"{WEIGHTS} or {CONFIG} lacks {error}") from error

    def weight(self, module: str) -> Tensor:
        """Return a module's weight by transformers' name, to be changed in place before the next call.

        Raises:
            KeyError: there is no such module.
        """
        self._reordered = False
        return self._weights[module]

    @torch.inference_mode()
    def __call__(self, sentences: Sequence[Sequence[int]]) -> list[Tensor]:
        """Encode sentences given as token ids; returns their last hidden states `(T, D)` on the CPU."""
        if not self._reordered:
            for layer in self._layers:
                for linear in (layer.qkv, layer.attention_output, layer.intermediate, layer.output):
                    linear.reorder()
            self._reordered = True
        lengths = [len(ids) for ids in sentences]
        tokens = torch.tensor([token for ids in sentences for token in ids], device=self.device)  # (N,)
        x = self._norm(self._words[tokens] + torch.cat([self._positions[:length] for length in lengths]))  # (N, D)
        attention, rows = PackedAttention(lengths, self.size, self.device), len(x)
        padding = (0, 0, 0, padded_rows(rows) - rows)  # rows that take no part in attention
        x = F.pad(x, padding)
        for layer in self._layers:
            q, k, v = layer.qkv(x)[:rows].chunk(3, dim=-1)  # (N, D) each
            mixed = F.pad(attention(q, k, v, self.heads), padding)
            x = layer.attention_norm(layer.attention_output(mixed).add_(x))
            x = layer.output_norm(layer.output(layer.intermediate(x, "gelu")).add_(x))
        return list(x[:rows].cpu().split(lengths))  # one transfer for all sentences

    def _layer(self, name: str, tensors: Mapping[str, Tensor]) -> _Layer:
        def linear(part: str) -> _Linear:
            return _Linear(tensors[f"{name}.{part}.weight"], tensors[f"{name}.{part}.bias"])

        parts = [linear(f"attention.self.{projection}") for projection in _PROJECTIONS]
        qkv = _Linear(torch.cat([p.weight for p in parts]), torch.cat([p.bias for p in parts]))
        for projection, view in zip(_PROJECTIONS, qkv.weight.split(self.size), strict=True):
            self._weights[f"{name}.attention.self.{projection}"] = view
        return _Layer(
            qkv=qkv,
            attention_output=linear("attention.output.dense"),
            attention_norm=self._layer_norm(f"{name}.attention.output.LayerNorm", tensors),
            intermediate=linear("intermediate.dense"),
            output=linear("output.dense"),
            output_norm=self._layer_norm(f"{name}.output.LayerNorm", tensors),
        )

    def _layer_norm(self, name: str, tensors: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
        weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        return partial(F.layer_norm, normalized_shape=weight.shape, weight=weight, bias=bias, eps=self._epsilon)
