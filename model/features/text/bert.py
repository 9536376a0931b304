"""BERT's encoder on packed tokens, straight from a folder of safetensors.

For: `model.features.text.encoder`, wherever sentences are encoded and nothing is trained: no padding, the three projections of
attention in one product, and neither the seconds nor the memory that importing transformers takes.
Does not know: tokenizers, hubs, adapters' training.
Source: Devlin et al., NAACL 2019; names of tensors as transformers writes them.

Shapes: N tokens of all sentences together, D hidden, I inner.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from model.packing import Mixing

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
_PLAIN: Final = {"model_type": "bert", "hidden_act": "gelu", "is_decoder": False, "add_cross_attention": False}
_PROJECTIONS: Final = ("query", "key", "value")
TYPICAL_TOKENS: Final = 64  # that weights are laid out for; other numbers work as well
ROWS: Final = 4  # that products are rounded up to at least


class _Linear:
    """`x W' + b`, on a CPU with the weight laid out once as oneDNN multiplies it.

    One sentence is some twenty rows: laying the weight out anew for each product, as `F.linear` does, costs as much as
    the product.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight, bias
        self._laid_out: Tensor | None = None

    def lay_out(self) -> None:
        """Prepare for the weight as it now is."""
        if self.weight.device.type == "cpu" and torch.backends.mkldnn.is_available():
            self._laid_out = torch.ops.mkldnn._reorder_linear_weight(self.weight, TYPICAL_TOKENS)

    def __call__(self, x: Tensor, after: str = "none") -> Tensor:
        """`(N, in)` → `(N, out)`, then `after`: nothing or `gelu`."""
        if self._laid_out is None:
            y = F.linear(x, self.weight, self.bias)
            return F.gelu(y) if after == "gelu" else y
        made: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._laid_out, self.bias, after, [], "none")
        return made


@dataclass(frozen=True, slots=True)
class _Norm:
    """A layer normalisation over D."""

    weight: Tensor
    bias: Tensor
    epsilon: float

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)


@dataclass(frozen=True, slots=True)
class _Layer:
    """One transformer layer; `qkv` is `(3 D, D)`."""

    qkv: _Linear
    output: _Linear
    output_norm: _Norm
    inner: _Linear
    outer: _Linear
    outer_norm: _Norm


def rounded(rows: int) -> int:
    """So many rows that products are made of, a sixteenth more than asked for at most.

    oneDNN compiles code for each number of rows it meets and keeps it: a megabyte for each here, without end.
    """
    step = max(ROWS, 2 ** (rows.bit_length() - 5) if rows >= 32 else 1)
    return -(-rows // step) * step


class PackedBert:
    """The encoder.

    Args:
        config: of `config.json`.
        tensors: of `model.safetensors`.
        device: where to compute.

    Raises:
        KeyError: a tensor or a figure is not there.
    """

    def __init__(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device) -> None:
        self.size = int(config["hidden_size"])
        self.heads = int(config["num_attention_heads"])
        self.device = device
        self._epsilon = float(config["layer_norm_eps"])
        held = {name: tensor.to(device) for name, tensor in tensors.items()}
        self._words = held["embeddings.word_embeddings.weight"]  # (vocabulary, D)
        # Every token is of the first segment, so a position's vector and that segment's are one.
        self._places = (
            held["embeddings.position_embeddings.weight"] + held["embeddings.token_type_embeddings.weight"][0]
        )
        self._norm = self._normalisation("embeddings.LayerNorm", held)
        self._weights = {name.removesuffix(".weight"): w for name, w in held.items() if name.endswith(".weight")}
        self._layers = [self._layer(f"encoder.layer.{i}", held) for i in range(int(config["num_hidden_layers"]))]
        self._ready = False

    @classmethod
    def read(cls, folder: Path, device: torch.device) -> "PackedBert | None":
        """The encoder of a folder; None where the folder holds something else than a plain BERT.

        Raises:
            OSError, ValueError: a file is there and cannot be read.
        """
        if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
            return None
        config = json.loads((folder / CONFIG).read_bytes())
        absolute = config.get("position_embedding_type", "absolute") == "absolute"
        if not absolute or any(config.get(name, plain) != plain for name, plain in _PLAIN.items()):
            return None
        try:
            tensors = load_file(folder / WEIGHTS)
            return cls(config, {name.removeprefix("bert."): t.float() for name, t in tensors.items()}, device)
        except SafetensorError as error:
            raise ValueError(f"{WEIGHTS}: {error}") from error
        except KeyError as error:
            raise ValueError(f"{WEIGHTS} or {CONFIG} lacks {error}") from error

    def weight(self, module: str) -> Tensor:
        """A module's weight, under transformers' name, to be changed in place; the next call uses what it then is.

        Raises:
            KeyError: there is no such module.
        """
        self._ready = False
        return self._weights[module]

    @torch.inference_mode()
    def __call__(self, sentences: Sequence[Sequence[int]]) -> list[Tensor]:
        """Last hidden states `(T, D)`, on the CPU, of sentences given as token numbers."""
        if not self._ready:
            for layer in self._layers:
                for linear in (layer.qkv, layer.output, layer.inner, layer.outer):
                    linear.lay_out()
            self._ready = True
        lengths = [len(ids) for ids in sentences]
        tokens = torch.tensor([token for ids in sentences for token in ids], device=self.device)  # (N,)
        x = self._norm(self._words[tokens] + torch.cat([self._places[:length] for length in lengths]))  # (N, D)
        mixing, real = Mixing(lengths, self.size, self.device), len(x)
        empty = (0, 0, 0, rounded(real) - real)  # rows that nobody attends to
        x = F.pad(x, empty)
        for layer in self._layers:
            q, k, v = layer.qkv(x)[:real].chunk(3, dim=-1)
            x = layer.output_norm(layer.output(F.pad(mixing(q, k, v, self.heads), empty)).add_(x))
            x = layer.outer_norm(layer.outer(layer.inner(x, "gelu")).add_(x))
        return list(x[:real].cpu().split(lengths))  # one transfer for all

    def _layer(self, name: str, held: Mapping[str, Tensor]) -> _Layer:
        def linear(part: str) -> _Linear:
            return _Linear(held[f"{name}.{part}.weight"], held[f"{name}.{part}.bias"])

        parts = [linear(f"attention.self.{projection}") for projection in _PROJECTIONS]
        qkv = _Linear(torch.cat([p.weight for p in parts]), torch.cat([p.bias for p in parts]))
        for projection, own in zip(_PROJECTIONS, qkv.weight.split(self.size), strict=True):
            self._weights[f"{name}.attention.self.{projection}"] = own  # a view of the one that is used
        return _Layer(
            qkv=qkv,
            output=linear("attention.output.dense"),
            output_norm=self._normalisation(f"{name}.attention.output.LayerNorm", held),
            inner=linear("intermediate.dense"),
            outer=linear("output.dense"),
            outer_norm=self._normalisation(f"{name}.output.LayerNorm", held),
        )

    def _normalisation(self, name: str, held: Mapping[str, Tensor]) -> _Norm:
        return _Norm(held[f"{name}.weight"], held[f"{name}.bias"], self._epsilon)
