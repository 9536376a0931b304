"""The input of the network: padded features of several utterances, with masks.

Shapes: B utterances, T_m slots of modality m in this batch (padded), d_m features of a slot.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from model.config import ModelConfig
from model.modality import MODALITIES, Modality, Utterance


@dataclass(frozen=True, slots=True)
class Batch:
    """B utterances.

    Args:
        features: modality → `(B, T_m, d_m)` float; never read where the modality is not held.
        valid: modality → `(B, T_m)` bool, True on slots that carry content.
        held: `(B, 3)` bool in the order of `MODALITIES`: the batch contains the modality's features.
        present: `(B, 3)` bool: the network may use the modality; otherwise it is missing. Equal to `held` at inference.
            In training a missing pattern hides some held modalities: they serve as reconstruction targets only.
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
            ValueError: a modality would be present that is not held, or none would be present in an utterance.
        """
        if bool((present & ~self.held).any()) or not bool(present.any(dim=1).all()):
            raise ValueError("a pattern may only hide held modalities and must leave one")
        return replace(self, present=present)

    def select(self, rows: Tensor) -> Self:
        """The rows `(N,)` of this batch, in that order."""
        return self._map(lambda x: x[rows])

    def to(self, device: torch.device) -> Self:
        """The same batch on a device."""
        return self._map(lambda x: x.to(device, non_blocking=True))

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        return replace(
            self,
            features={m: function(x) for m, x in self.features.items()},
            valid={m: function(x) for m, x in self.valid.items()},
            held=function(self.held),
            present=function(self.present),
        )


def collate(utterances: Sequence[Utterance], config: ModelConfig, *, room_to_impute: bool = False) -> Batch:
    """Pad utterances to a batch in which everything held is present.

    T_m is the length of the longest array of modality m, and at least its imputed slots if an utterance lacks it.

    Args:
        utterances: at least one.
        config: gives feature sizes and imputed slots.
        room_to_impute: pad to the imputed slots even if nothing is missing, for patterns applied later.

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
