"""EMMR's graph at fixed shapes, for CUDA graphs: without a host synchronisation, and in few kernels.

Shapes: B utterances, T_m slots of modality m (the config's maximum), T their sum, I slots that can be imputed, d_m
features, D hidden, C classes, K branches.
"""

# What depends on lengths and missing modalities only - masks, weights - is computed on the host.

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import TRANSFORMER, ModelConfig
from model.modality import COMPLETE, MODALITIES, PAIRS, SINGLES, SUBSETS, Modality, ModalitySet, Utterance
from model.network.consistency import differs, key_feature, key_score, slot_agreement
from model.network.inference.fused import FusedNetwork, query_layer, transformer_layer
from model.network.inference.results import VOTES, Results

MASKED: Final = -1e30  # added to a score: its softmax is 0, and finite where every slot is masked
ALIGNED: Final = 16  # slots; without this row stride, PyTorch copies the mask of each attention call
ALIGNED_HEAD: Final = 4  # features of a head; with others, PyTorch has no fused kernel for float32
ORDER: Final = (COMPLETE, *PAIRS, *SINGLES)
"""Of subsets in `StaticInput.subset`."""


@dataclass(frozen=True, slots=True)
class StaticInput:
    """B utterances of maximum length in one float32 buffer, so that one copy transfers them.

    Args:
        buffer: `(N,)` float32.
        features: modality → `(B, T_m, d_m)`, zero in slots without content.
        present: `(B, T)` added to attention scores: 0 on valid slots of present modalities, else `MASKED`.
        slots: `(B, T)` the same with the imputed slots of missing modalities.
        missing: `(B, T)` 1 in every slot of a missing modality, else 0.
        weights: `(B, T)` of each slot in the mean over present modalities of their mean slot.
        subset: `(B, 7)` 1 for the subset that is present, in `ORDER`.
    """

    buffer: Tensor
    features: dict[Modality, Tensor]
    present: Tensor
    slots: Tensor
    missing: Tensor
    weights: Tensor
    subset: Tensor

    @staticmethod
    def sizes(config: ModelConfig) -> list[int]:
        """Numbers of an utterance in each part of the buffer."""
        slots = [config.slots.of(m) for m in MODALITIES]
        features = [n * config.feature_size(m) for n, m in zip(slots, MODALITIES, strict=True)]
        return [*features, *[sum(slots)] * 4, len(SUBSETS)]

    @classmethod
    def of(cls, buffer: Tensor, config: ModelConfig, size: int) -> "StaticInput":
        """Views of a buffer of `size` times the sum of `sizes`."""
        ends = [0, *accumulate(size * n for n in cls.sizes(config))]
        *features, present, slots, missing, weights, subset = (buffer[i:j].view(size, -1) for i, j in pairwise(ends))
        return cls(
            buffer,
            {m: x.view(size, -1, config.feature_size(m)) for m, x in zip(MODALITIES, features, strict=True)},
            *(present, slots, missing, weights, subset),
        )

    @classmethod
    def empty(cls, config: ModelConfig, size: int, device: torch.device, *, pinned: bool = False) -> "StaticInput":
        """A new buffer of zeros: complete utterances in which every slot is valid."""
        return cls.of(torch.zeros(size * sum(cls.sizes(config)), device=device, pin_memory=pinned), config, size)


class InputWriter:
    """Writes utterances to a buffer on the host.

    Args:
        target: in memory of the host.
        config: of the network.
    """

    def __init__(self, target: StaticInput, config: ModelConfig) -> None:
        self._features = {m: x.numpy() for m, x in target.features.items()}
        self._present, self._slots, self._missing, self._weights, self._subset = (
            part.numpy() for part in (target.present, target.slots, target.missing, target.weights, target.subset)
        )
        lengths = [config.slots.of(m) for m in MODALITIES]
        self._modality = np.repeat(np.arange(len(MODALITIES)), lengths)  # (T,)
        self._position = np.concatenate([np.arange(n) for n in lengths])  # (T,) within the modality
        imputed = np.array([config.network.imputed_slots.of(m) for m in MODALITIES])
        self._imputed = self._position < imputed[self._modality]  # (T,)
        self._bits = np.array([subset.number for subset in ORDER])  # (7,)

    def write(self, utterances: Sequence[Utterance]) -> None:
        """Write the first rows; the others keep their content.

        Raises:
            ValueError: one has more slots than the config allows.
        """
        lengths = np.zeros((len(utterances), len(MODALITIES)), dtype=np.int64)
        for column, (modality, features) in enumerate(self._features.items()):
            for row, utterance in enumerate(utterances):
                own, length = features[row], 0
                array = utterance.features.get(modality)
                if array is not None:
                    length = len(array)
                    if length > len(own):
                        raise ValueError(f"{modality}: {length} slots, the config has {len(own)}")
                    own[:length] = array
                    lengths[row, column] = length
                if length < len(own):
                    own[length:] = 0.0
        present = lengths > 0  # (B, 3)
        valid = self._position < lengths[:, self._modality]  # (B, T)
        missing = ~present[:, self._modality]  # (B, T)
        of_mean = 1.0 / (lengths.clip(1) * present.sum(axis=1, keepdims=True))  # (B, 3)
        rows = slice(len(utterances))
        self._present[rows] = np.where(valid, 0.0, MASKED)
        self._slots[rows] = np.where(valid | (missing & self._imputed), 0.0, MASKED)
        self._missing[rows] = missing
        self._weights[rows] = valid * of_mean[:, self._modality]
        self._subset[rows] = (present @ [1, 2, 4])[:, None] == self._bits


class StaticNetwork:
    """The full graph, and that of complete utterances, as functions of a `StaticInput`.

    Args:
        fused: on the device of the inputs.
        streams: of CUDA, on which parts that do not depend on each other run side by side.
    """

    def __init__(self, fused: FusedNetwork, streams: Sequence[torch.cuda.Stream] = ()) -> None:
        self.fused, self.config, self._streams = fused, fused.network.config, streams
        device = next(fused.network.parameters()).device
        lengths = [self.config.slots.of(m) for m in MODALITIES]
        imputed = [self.config.network.imputed_slots.of(m) for m in MODALITIES]
        starts = [0, *accumulate(lengths)]
        own = {m: list(range(*ends)) for m, ends in zip(MODALITIES, pairwise(starts), strict=True)}
        # (I, 3): the mean over the imputed slots of each modality
        self._means = torch.block_diag(*(torch.full((n, 1), 1 / n, device=device) for n in imputed))
        self._imputed = _indices(
            [t for (m, slots), n in zip(own.items(), imputed, strict=True) for t in slots[:n]], device
        )
        self._of_subset = {s: _indices([t for m in s for t in own[m]], device) for s in SUBSETS}
        self._aligned = {
            s: _indices([t for m in s for t in own[m]] + [0] * (-sum(len(own[m]) for m in s) % ALIGNED), device)
            for s in SUBSETS
        }
        self._modality = _indices([k for k, n in enumerate(lengths) for _ in range(n)], device)
        heads = {pair: [fused.network.subsets.head(b, pair) for b in self.config.network.branches] for pair in PAIRS}
        self._heads = {
            pair: (
                torch.stack([head.weight.T for head in own]).detach(),  # (K, D, C)
                torch.stack([head.bias for head in own]).detach()[:, None],  # (K, 1, C)
            )
            for pair, own in heads.items()
        }
        # Token and position of each slot (T, D), and the projections of the context, one below the other.
        missing = [fused.network.encoder.slots_of(m) for m in MODALITIES]
        tokens = [(x.token + x.position).detach() for x in missing]
        self._tokens = torch.cat([F.pad(x, (0, 0, 0, n - len(x))) for x, n in zip(tokens, lengths, strict=True)])
        context = [x.context for x in missing if x.context is not None]
        self._context: tuple[Tensor, Tensor] | None = None
        if context:
            weight = torch.cat([x.weight for x in context]).detach()  # (3 D, D)
            self._context = weight, torch.cat([x.bias for x in context]).detach()

    def complete(self, inputs: StaticInput) -> Tensor:
        """Compute the answers of complete utterances: `(B, columns of Results)`, of which only the first are not 0."""
        common = self._encode(inputs)
        _, logits = self._answer(common, self._slots(COMPLETE, inputs.present))
        answer = logits.softmax(dim=-1)
        return F.pad(answer, (0, sum(Results.widths(self.config)) - answer.shape[1]))

    def full(self, inputs: StaticInput) -> Tensor:
        """Compute everything for every utterance: `(B, columns of Results)`."""
        network, branches = self.fused.network, self.config.network.branches
        count, size = len(branches), len(inputs.present)
        common = self._encode(inputs)
        filled = self._fill(common, inputs)
        imputed = filled[:, self._imputed]  # (B, I, D)
        (transformer, decoded), others, singles = self._side_by_side(
            lambda: self._answer_and_decode(filled, inputs.slots),
            lambda: [self.fused.decode_by_position(b, imputed) for b in branches if b != TRANSFORMER],
            lambda: [self._vote(s, self._pool(s, common, inputs.present)) for s in SINGLES],
        )
        stacked = torch.stack([decoded, *others])  # (K, B, I, D)
        missing = inputs.missing[:, self._imputed, None] > 0  # (B, I, 1)
        recovered = filled.repeat(count, 1, 1)  # (K B, T, D)
        recovered.index_copy_(1, self._imputed, torch.where(missing, stacked, imputed).flatten(0, 1))
        masks = inputs.slots.repeat(count, 1)  # (K B, T)
        first, second, third, full = self._side_by_side(
            *(partial(self._pool, pair, recovered, masks) for pair in PAIRS),  # (K B, D)
            lambda: self._vote(COMPLETE, self._pool(COMPLETE, recovered[:size], inputs.slots)),
        )
        pooled = (first, second, third)
        pairs = [self._votes(pair, features) for pair, features in zip(PAIRS, pooled, strict=True)]  # 3 × (K B, C)
        keys = key_feature(pooled, pairs)  # (K B, D)
        summary, weights = network.branch_weights(keys.view(count, size, -1).transpose(0, 1))  # (B, D), (B, K)
        votes = torch.stack([full, *(vote[:size] for vote in pairs), *singles], dim=1)  # (B, 7, C), as `ORDER`
        available = (inputs.subset[:, None] @ votes).squeeze(1)  # (B, 1, 7) @ (B, 7, C) → (B, C)
        p_votes, p_available = votes.softmax(dim=-1), available.softmax(dim=-1)
        results = Results(
            transformer=transformer.softmax(dim=-1),
            ensemble=network.classify(summary).softmax(dim=-1),
            available=p_available,
            votes=torch.cat([p_votes[:, ORDER.index(subset)] for subset in VOTES], dim=1),
            inconsistent=differs(full, available)[:, None].to(weights.dtype),
            score=key_score(p_votes[:, 0], p_available)[:, None],
            branch_weights=weights,
            agreement=slot_agreement(stacked) @ self._means,  # (B, I) @ (I, 3)
        )
        return torch.cat(results, dim=1)

    def _side_by_side(self, *functions: Callable[[], Any]) -> list[Any]:
        """Call functions, all but the first on streams of their own; the caller keeps what they return."""
        if not self._streams:
            return [function() for function in functions]
        current = torch.cuda.current_stream()
        streams = self._streams[: len(functions) - 1]
        others = []
        for stream, function in zip(streams, functions[1:], strict=True):
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                others.append(function())
        found = [functions[0](), *others]
        for stream in streams:
            current.wait_stream(stream)
        return found

    def _encode(self, inputs: StaticInput) -> Tensor:
        """Common-space sequences `(B, T, D)`, meaningless where a modality is missing."""

        def encode(modality: Modality) -> Tensor:
            slots = self._slots(ModalitySet.of(modality), inputs.present)
            return self.fused.encoders[modality](inputs.features[modality], slots)

        encoded = self._side_by_side(*(partial(encode, m) for m in MODALITIES))
        return torch.cat(encoded, dim=1)

    def _fill(self, common: Tensor, inputs: StaticInput) -> Tensor:
        """Replace the slots of missing modalities by their learned ones."""
        filler = self._tokens  # (T, D)
        if self._context is not None:
            context = (inputs.weights[:, None] @ common).squeeze(1)  # (B, 1, T) @ (B, T, D) → (B, D)
            projected = F.linear(context, *self._context).view(len(context), len(MODALITIES), -1)  # (B, 3, D)
            filler = filler + projected[:, self._modality]  # (B, T, D)
        return torch.where(inputs.missing[:, :, None] > 0, filler, common)

    def _answer(self, x: Tensor, slots: "_Slots") -> tuple[Tensor, Tensor]:
        """F `(B, T, D)` and the logits of the transformer path `(B, C)`."""
        encoded = transformer_layer(self.fused.network.transformer.encoder, x, slots)
        return encoded, self.fused.network.classify(self.fused.pooling(encoded, slots))

    def _answer_and_decode(self, filled: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the transformer path `(B, C)` and D of the slots that can be imputed `(B, I, D)`."""
        slots = self._slots(COMPLETE, mask)
        encoded, logits = self._answer(filled, slots)
        decoder = self.fused.network.transformer.decoder
        return logits, query_layer(decoder, encoded[:, self._imputed], encoded, slots)

    def _pool(self, subset: ModalitySet, x: Tensor, mask: Tensor) -> Tensor:
        """Pooled features of a subset: `(R, T, D)`, `(R, T)` → `(R, D)`."""
        own = x if subset.complete else x[:, self._of_subset[subset]]
        slots = self._slots(subset, mask)
        return self.fused.pool_slots(subset, own, slots, slots)

    def _vote(self, subset: ModalitySet, pooled: Tensor) -> Tensor:
        vote: Tensor = self.fused.network.subsets.logits(TRANSFORMER, subset, pooled)
        return vote

    def _votes(self, pair: ModalitySet, pooled: Tensor) -> Tensor:
        """Logits of a pair by the head of each branch: `(K B, D)` → `(K B, C)`."""
        weight, bias = self._heads[pair]
        return torch.baddbmm(bias, pooled.view(len(weight), -1, pooled.shape[1]), weight).flatten(0, 1)

    def _slots(self, subset: ModalitySet, mask: Tensor) -> "_Slots":
        return _Slots(mask[:, self._aligned[subset]], len(self._of_subset[subset]))


class _Slots:
    """Attention and pooling over padded slots, in place of `PackedAttention` and `Segments`.

    Args:
        mask: `(B, T or more)` added to the scores of slots.
        length: T.
    """

    def __init__(self, mask: Tensor, length: int) -> None:
        self._mask = mask[:, :length]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """Attention: q `(B, T_q, D)`, k and v `(B, T, D)` → `(B, T_q, D)`."""
        size = q.shape[-1] // heads
        padding = -size % ALIGNED_HEAD if len(q) > 1 else 0  # a single utterance is bound by the number of kernels

        def split(x: Tensor) -> Tensor:
            x = x.view(*x.shape[:2], heads, size)
            return (F.pad(x, (0, padding)) if padding else x).transpose(1, 2)  # (B, H, T, D/H or more)

        mask = self._mask[:, None, None].expand(-1, -1, q.shape[1], -1)
        mixed = F.scaled_dot_product_attention(
            split(q), split(k), split(v), attn_mask=mask, scale=size**-0.5
        )  # (B, H, T_q, D/H or more)
        return mixed.transpose(1, 2)[..., :size].flatten(2)  # (B, T_q, D)

    def softmax_sum(self, scores: Tensor, x: Tensor) -> Tensor:
        """Σ softmax(score) x over the slots of each row: `(B, T)`, `(B, T, D)` → `(B, D)`."""
        return ((scores + self._mask).softmax(dim=-1)[:, None] @ x).squeeze(1)


def _indices(values: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device)
