"""A straightforward PyTorch port of the authors' graph: the peer of `benchmarks.network` (Zeng et al., EMNLP 2022).

Shapes: B utterances, T_m the most slots of modality m, T their sum, D hidden, C classes.
"""

# It is not slow by design: `nn.TransformerEncoderLayer` and `nn.MultiheadAttention` take PyTorch's fused inference
# path, masks are boolean, and nothing is computed in a Python loop over utterances. But every branch, every pair's
# heads and every single modality's are computed for all utterances, each padded to the most slots.

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Final

import torch
from torch import Tensor, nn

from model.config import ModelConfig, NetworkConfig
from model.modality import MODALITIES, SUBSETS, Modality, ModalitySet, Utterance
from model.network.emmr import EMMR

BRANCHES = ("transformer", "autoencoder", "cascade")
PAIRS = [s for s in SUBSETS if len(s) == 2]
COMPLETE = SUBSETS[0]


@dataclass(frozen=True, slots=True)
class NaiveAnswer:
    """Distributions `(B, C)`, and `(B,)` whether the ensemble is the answer."""

    probabilities: Tensor
    full: Tensor
    available: Tensor
    ensemble_used: Tensor


@dataclass(frozen=True, slots=True)
class NaiveBatch:
    """Features `(B, T_m, d_m)` padded to the most slots, the mask of their slots, and presence `(B, 3)`."""

    features: Mapping[Modality, Tensor]
    valid: Mapping[Modality, Tensor]
    present: Tensor


def pad(utterances: Sequence[Utterance], config: ModelConfig) -> NaiveBatch:
    """Pad utterances to the most slots of each modality; a missing one is zeros."""
    features, valid = {}, {}
    for modality in MODALITIES:
        most = config.slots.of(modality)
        x = torch.zeros(len(utterances), most, config.feature_size(modality))
        mask = torch.zeros(len(utterances), most, dtype=torch.bool)
        for row, utterance in enumerate(utterances):
            if modality in utterance.features:
                array = utterance.features[modality]
                x[row, : len(array)] = torch.from_numpy(array)
                mask[row, : len(array)] = True
        features[modality], valid[modality] = x, mask
    return NaiveBatch(features, valid, torch.tensor([u.presence.mask() for u in utterances]))


class NaivePooling(nn.Module):
    """SigmoidAtt of the released code."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.value = nn.Linear(hidden, hidden)
        self.gate = nn.Linear(hidden, hidden)
        self.score = nn.Linear(hidden, 1, bias=False)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """`(B, T, D)` → `(B, D)`."""
        scores = self.score(self.value(x) * torch.sigmoid(self.gate(x)))  # (B, T, 1)
        weights = torch.softmax(scores.masked_fill(~valid.unsqueeze(-1), -1e9), dim=1)
        return (weights * x).sum(dim=1)


class NaiveAutoencoder(nn.Module):
    """Position-wise 300 → … → 64 → … → 300."""

    def __init__(self, net: NetworkConfig) -> None:
        super().__init__()
        widths = [net.hidden, *net.autoencoder]
        self.down = nn.Sequential(*(_leaky(a, b) for a, b in pairwise(widths[:5])))
        self.up = nn.Sequential(*(_leaky(a, b) for a, b in pairwise(widths[4:])))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, T, D)` → code and output."""
        code = self.down(x)
        return code, self.up(code)


class NaivePort(nn.Module):
    """The whole graph."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        net, classes = config.network, len(config.classes)
        hidden = net.hidden
        self.config = config
        self.project = nn.ModuleDict({m: nn.Linear(config.feature_size(m), hidden, bias=False) for m in MODALITIES})
        self.attention = nn.ModuleDict(
            {m: nn.MultiheadAttention(hidden, net.heads, batch_first=True) for m in MODALITIES}
        )
        self.norm = nn.ModuleDict({m: nn.LayerNorm(hidden) for m in MODALITIES})
        placed = [m for m in MODALITIES if net.positions and m != Modality.TEXT]
        self.place = nn.ParameterDict({m: torch.zeros(config.slots.of(m), hidden) for m in placed})
        self.common = nn.ModuleDict(
            {_pair(a, b): nn.Linear(hidden, hidden // 2) for a, b in combinations(MODALITIES, 2)}
        )
        self.token = nn.ParameterDict({m: torch.zeros(hidden) for m in MODALITIES})
        self.position = nn.ParameterDict({m: torch.zeros(net.imputed_slots.of(m), hidden) for m in MODALITIES})
        self.context = nn.ModuleDict({m: nn.Linear(hidden, hidden) for m in MODALITIES})
        self.encoder, self.decoder = _layer(net), _layer(net)
        self.pool = NaivePooling(hidden)
        self.autoencoder = NaiveAutoencoder(net)
        self.autoencoder_encoding = nn.Linear(net.autoencoder[3], hidden)
        self.autoencoder_decoding = nn.Linear(hidden, hidden)
        self.cascade = nn.ModuleList(NaiveAutoencoder(net) for _ in range(net.residual_blocks))
        self.cascade_encoding = nn.Linear(net.residual_blocks * net.autoencoder[3], hidden)
        self.blocks = nn.ModuleDict({s.name: _layer(net) for s in SUBSETS})
        self.pools = nn.ModuleDict({s.name: NaivePooling(hidden) for s in SUBSETS})
        self.heads = nn.ModuleDict(
            {
                f"{b} {s.name}": nn.Linear(hidden, classes)
                for b in BRANCHES
                for s in SUBSETS
                if len(s) > 1 or b == BRANCHES[0]
            }
        )
        self.beta = nn.Linear(hidden, 1, bias=False)
        self.classifier = nn.Linear(hidden, classes)

    @torch.no_grad()
    def forward(self, batch: NaiveBatch) -> NaiveAnswer:
        """Compute the whole graph, then the decision of the gate."""
        present = batch.present
        common = {m: self._encode(m, batch.features[m], batch.valid[m]) for m in MODALITIES}
        sequences, slots = self._fill(common, batch.valid, present)
        x = torch.cat([sequences[m] for m in MODALITIES], dim=1)  # (B, T, D)
        valid = torch.cat([slots[m] for m in MODALITIES], dim=1)  # (B, T)

        encodings, decodings = {}, {}
        encodings["transformer"] = self.encoder(x, src_key_padding_mask=~valid)
        decodings["transformer"] = self.decoder(encodings["transformer"], src_key_padding_mask=~valid)
        code, output = self.autoencoder(x)
        encodings["autoencoder"], decodings["autoencoder"] = (
            self.autoencoder_encoding(code),
            self.autoencoder_decoding(output),
        )
        codes, summed = [], x
        for block in self.cascade:
            code, delta = block(summed)
            codes.append(code)
            summed = summed + delta
        encodings["cascade"], decodings["cascade"] = self.cascade_encoding(torch.cat(codes, dim=-1)), summed

        keys, votes = [], {}
        for branch in BRANCHES:
            recovered = self._recover(sequences, decodings[branch], present)
            pooled = {s: self._pool(s, recovered, slots) for s in SUBSETS if len(s) > 1}
            for subset, feature in pooled.items():
                votes[branch, subset.name] = self.heads[f"{branch} {subset.name}"](feature)
            strength = torch.stack([votes[branch, p.name].softmax(-1).amax(-1) for p in PAIRS], dim=1)  # (B, 3)
            alpha = strength.softmax(dim=1)
            keys.append((alpha.unsqueeze(-1) * torch.stack([pooled[p] for p in PAIRS], dim=1)).sum(dim=1))
        for subset in SUBSETS:
            if len(subset) == 1:
                feature = self._pool(subset, common, {m: v | ~v.any(1, keepdim=True) for m, v in batch.valid.items()})
                votes["transformer", subset.name] = self.heads[f"transformer {subset.name}"](feature)
        stacked = torch.stack(keys, dim=1)  # (B, 3, D)
        beta = self.beta(torch.tanh(stacked)).softmax(dim=1)  # (B, 3, 1)
        ensemble = self.classifier((beta * stacked).sum(dim=1)).softmax(-1)
        transformer = self.classifier(self.pool(encodings["transformer"], valid)).softmax(-1)
        return self._gate(votes, transformer, ensemble, present)

    def _encode(self, modality: Modality, features: Tensor, valid: Tensor) -> Tensor:
        x = self.project[modality](features)  # (B, T_m, D)
        if modality in self.place:
            x = x + self.place[modality]
        padding = ~(valid | ~valid.any(dim=1, keepdim=True))
        mixed, _ = self.attention[modality](x, x, x, key_padding_mask=padding, need_weights=False)
        x = self.norm[modality](x + mixed)
        own = [self.common[_pair(a, b)] for a, b in combinations(MODALITIES, 2) if modality in (a, b)]
        return torch.cat([project(x) for project in own], dim=-1)

    def _fill(
        self, common: Mapping[Modality, Tensor], valid: Mapping[Modality, Tensor], present: Tensor
    ) -> tuple[dict[Modality, Tensor], dict[Modality, Tensor]]:
        means = []
        for modality in MODALITIES:
            weight = valid[modality].unsqueeze(-1).float()
            means.append((common[modality] * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1))
        there = present.unsqueeze(-1).float()  # (B, 3, 1)
        context = (torch.stack(means, dim=1) * there).sum(dim=1) / there.sum(dim=1)  # (B, D)
        sequences, slots = {}, {}
        for column, modality in enumerate(MODALITIES):
            here = present[:, column]
            guess = self.token[modality] + self.position[modality] + self.context[modality](context).unsqueeze(1)
            imputed, most = guess.shape[1], common[modality].shape[1]
            guess = nn.functional.pad(guess, (0, 0, 0, most - imputed))  # (B, T_m, D)
            sequences[modality] = torch.where(here[:, None, None], common[modality], guess)
            slots[modality] = torch.where(here[:, None], valid[modality], torch.arange(most) < imputed)
        return sequences, slots

    def _recover(
        self, sequences: Mapping[Modality, Tensor], decoded: Tensor, present: Tensor
    ) -> dict[Modality, Tensor]:
        parts = decoded.split([self.config.slots.of(m) for m in MODALITIES], dim=1)
        return {
            m: torch.where(present[:, i, None, None], sequences[m], part)
            for i, (m, part) in enumerate(zip(MODALITIES, parts, strict=True))
        }

    def _pool(
        self, subset: ModalitySet, sequences: Mapping[Modality, Tensor], slots: Mapping[Modality, Tensor]
    ) -> Tensor:
        x = torch.cat([sequences[m] for m in subset], dim=1)
        valid = torch.cat([slots[m] for m in subset], dim=1)
        pooled: Tensor = self.pools[subset.name](self.blocks[subset.name](x, src_key_padding_mask=~valid), valid)
        return pooled

    def _gate(
        self, votes: Mapping[tuple[str, str], Tensor], transformer: Tensor, ensemble: Tensor, present: Tensor
    ) -> NaiveAnswer:
        """Apply Eq. 13: the ensemble where the full vote and the available one disagree."""
        every = torch.stack([votes["transformer", s.name].softmax(-1) for s in SUBSETS], dim=1)  # (B, 7, C)
        masks = torch.tensor([s.mask() for s in SUBSETS])  # (7, 3)
        which = (present[:, None, :] == masks).all(dim=-1).int().argmax(dim=1)  # (B,)
        full, available = every[:, 0], every[torch.arange(len(which)), which]
        inconsistent = full.argmax(-1) != available.argmax(-1)
        answer = torch.where(inconsistent[:, None], ensemble, transformer)
        complete = present.all(dim=1)[:, None]  # consistent by definition: both votes are the answer
        return NaiveAnswer(
            answer, torch.where(complete, answer, full), torch.where(complete, answer, available), inconsistent
        )


def _layer(net: NetworkConfig) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(net.hidden, net.heads, net.feedforward, net.dropout, batch_first=True)


def _leaky(a: int, b: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(a, b), nn.LeakyReLU(0.2))


def _pair(a: Modality, b: Modality) -> str:
    return f"{a}_{b}"


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
    """Return the port with the weights of a network, in eval mode.

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
        return f"{part}.{modality}.{_replace_prefix(rest, _ATTENTION)}"
    if name.startswith("encoder.missing."):
        modality, _, rest = name.removeprefix("encoder.missing.").partition(".")
        part, dot, rest = rest.partition(".")
        return f"{part}.{modality}{dot}{rest}"
    if name.startswith("subsets.heads."):
        branch, subset, rest = name.removeprefix("subsets.heads.").split(".")
        return f"heads.{branch} {subset}.{rest}"
    name = _replace_prefix(name, _MODULES)
    for ours, theirs in (*_LAYER.items(), (".encoder.", ".down."), (".decoder.", ".up.")):
        name = name.replace(ours, theirs)
    return name


def _replace_prefix(name: str, table: dict[str, str]) -> str:
    """Replace the first prefix of the table that the name has."""
    for prefix, other in table.items():
        if name == prefix or name.startswith(f"{prefix}."):
            return other + name.removeprefix(prefix)
    return name
