"""Utterances side by side: padded arrays, which slots are real, and which modalities are there.

For: the one value the network takes.
Does not know: where features come from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from model.config import ModelConfig
from model.modality import MODALITIES, Modality, Utterance


@dataclass(frozen=True, slots=True)
class Batch:
    """B utterances. T_m is this batch's padded length of modality m.

    Args:
        features: modality → `(B, T_m, d_m)` float. Where a modality is not held its rows are never read.
        valid: modality → `(B, T_m)` bool, True on slots that carry content.
        held: `(B, 3)` bool in the order of `MODALITIES`: the modality's features are in this batch.
        present: `(B, 3)` bool: the modality may be used. In serving equal to `held`; in training a missing pattern
            hides some of what is held, and only the reconstruction targets may look there.
    """

    features: Mapping[Modality, Tensor]
    valid: Mapping[Modality, Tensor]
    held: Tensor
    present: Tensor

    @property
    def size(self) -> int:
        """B."""
        return int(self.present.shape[0])

    def with_present(self, present: Tensor) -> Self:
        """The same batch under another missing pattern `(B, 3)`.

        Raises:
            ValueError: a modality is to be present that is not held, or an utterance is left with none.
        """
        if bool((present & ~self.held).any()) or not bool(present.any(dim=1).all()):
            raise ValueError("a pattern may only hide held modalities and must leave one")
        return replace(self, present=present)

    def select(self, rows: Tensor) -> Self:
        """The rows `(N,)` of this batch, in that order."""
        return replace(
            self,
            features={m: x[rows] for m, x in self.features.items()},
            valid={m: x[rows] for m, x in self.valid.items()},
            held=self.held[rows],
            present=self.present[rows],
        )

    def to(self, device: torch.device) -> Self:
        """The same batch on a device."""
        return replace(
            self,
            features={m: x.to(device, non_blocking=True) for m, x in self.features.items()},
            valid={m: x.to(device, non_blocking=True) for m, x in self.valid.items()},
            held=self.held.to(device, non_blocking=True),
            present=self.present.to(device, non_blocking=True),
        )


def collate(utterances: Sequence[Utterance], config: ModelConfig, *, room_to_impute: bool = False) -> Batch:
    """Pad utterances to a batch whose every utterance has present what it holds.

    A modality's length is that of its longest array here, and at least the imputed slots where it is missing.

    Args:
        utterances: at least one.
        config: gives feature sizes and imputed slots.
        room_to_impute: leave room for imputed slots even where nothing is missing, for patterns applied later.

    Raises:
        ValueError: no utterance, more slots than the config has, or a feature size that is not the config's.
    """
    if not utterances:
        raise ValueError("nothing to collate")
    features: dict[Modality, Tensor] = {}
    valid: dict[Modality, Tensor] = {}
    held = torch.tensor([u.presence.mask() for u in utterances])
    for column, modality in enumerate(MODALITIES):
        arrays = [u.features.get(modality) for u in utterances]
        length = max((a.shape[0] for a in arrays if a is not None), default=0)
        if length > config.slots.of(modality):
            raise ValueError(f"{modality}: {length} slots, the config has {config.slots.of(modality)}")
        if room_to_impute or not bool(held[:, column].all()):
            length = max(length, config.network.imputed_slots.of(modality))
        size = config.feature_size(modality)
        padded = torch.zeros(len(arrays), length, size)  # (B, T_m, d_m)
        mask = torch.zeros(len(arrays), length, dtype=torch.bool)  # (B, T_m)
        for row, array in enumerate(arrays):
            if array is None:
                continue
            if array.shape[1] != size:
                raise ValueError(f"{modality}: {array.shape[1]} features a slot, the config has {size}")
            padded[row, : array.shape[0]] = torch.from_numpy(array)
            mask[row, : array.shape[0]] = True
        features[modality], valid[modality] = padded, mask
    return Batch(features=features, valid=valid, held=held, present=held)
