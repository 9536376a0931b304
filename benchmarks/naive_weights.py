"""One network's weights under the naive port's names.

For: comparing the two on equal terms; nothing is trained here.
Does not know: what either computes.
"""

from collections.abc import Iterator
from typing import Final

from torch import Tensor

from benchmarks.naive import NaivePort
from model.network.emmr import EMMR

_MODULES: Final = {
    "branches.transformer.encoder": "encoder",
    "branches.transformer.decoder": "decoder",
    "branches.autoencoder.autoencoder": "autoencoder",
    "branches.autoencoder.to_encoding": "autoencoder_encoding",
    "branches.autoencoder.to_decoding": "autoencoder_decoding",
    "branches.cascade.blocks": "cascade",
    "branches.cascade.to_encoding": "cascade_encoding",
    "encoder.common.pairs": "common",
    "subsets.blocks": "blocks",
    "subsets.pools": "pools",
    "branch_weights.w": "beta",
    "pool": "pool",
    "classifier": "classifier",
}
_LAYER: Final = {
    "attention.qkv.weight": "self_attn.in_proj_weight",
    "attention.qkv.bias": "self_attn.in_proj_bias",
    "attention.out": "self_attn.out_proj",
    "attention.norm": "norm1",
    "feedforward.layers.0": "linear1",
    "feedforward.layers.3": "linear2",
    "feedforward.norm": "norm2",
}
_ATTENTION: Final = {"qkv.weight": "in_proj_weight", "qkv.bias": "in_proj_bias", "out": "out_proj"}
_TRAINING_ONLY: Final = ("modality_pools.", "modality_heads.")


def naive_port(network: EMMR) -> NaivePort:
    """The naive port with a network's weights, in eval mode.

    Raises:
        RuntimeError: a weight of either has no counterpart.
    """
    port = NaivePort(network.config)
    port.load_state_dict(dict(_renamed(network)))
    return port.eval().requires_grad_(requires_grad=False)


def _renamed(network: EMMR) -> Iterator[tuple[str, Tensor]]:
    for name, value in network.state_dict().items():
        if not name.startswith(_TRAINING_ONLY):
            yield _rename(name), value


def _rename(name: str) -> str:
    if name.startswith("encoder.modalities."):
        modality, _, rest = name.removeprefix("encoder.modalities.").partition(".")
        if rest.startswith("attention.norm"):
            return f"norm.{modality}{rest.removeprefix('attention.norm')}"
        if rest == "position":
            return f"place.{modality}"
        part, _, rest = rest.partition(".")
        return f"{part}.{modality}.{_first(rest, _ATTENTION)}"
    if name.startswith("encoder.missing."):
        modality, _, rest = name.removeprefix("encoder.missing.").partition(".")
        part, dot, rest = rest.partition(".")
        return f"{part}.{modality}{dot}{rest}"
    if name.startswith("subsets.heads."):
        branch, subset, rest = name.removeprefix("subsets.heads.").split(".")
        return f"heads.{branch} {subset}.{rest}"
    name = _first(name, _MODULES)
    for ours, theirs in (*_LAYER.items(), (".encoder.", ".down."), (".decoder.", ".up.")):
        name = name.replace(ours, theirs)
    return name


def _first(name: str, table: dict[str, str]) -> str:
    """`name` with the first prefix of the table that it has replaced."""
    for prefix, other in table.items():
        if name == prefix or name.startswith(f"{prefix}."):
            return other + name.removeprefix(prefix)
    return name
