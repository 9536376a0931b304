"""Modalities and which of them are there: the one way absence is expressed, from upload to network.

For: naming the three modalities, their seven non-empty subsets, and an utterance's features.
Does not know: how features are made or used.

An absent modality has no array at all (`Utterance`), and in a batch it has `present == False` (`Batch`); what its
slots of the batch hold is never read. There are no zeros standing for absence and no None.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from types import MappingProxyType
from typing import Final, Self

from model.types import FloatArray


class Modality(StrEnum):
    """One channel of an utterance. The order of declaration is the order everywhere."""

    TEXT = "text"
    AUDIO = "audio"
    VISUAL = "visual"


MODALITIES: Final = tuple(Modality)


@dataclass(frozen=True, slots=True)
class ModalitySet:
    """A non-empty set of modalities, in the order of `Modality`.

    Raises:
        ValueError: on construction without any modality.
    """

    present: frozenset[Modality]

    def __post_init__(self) -> None:
        if not self.present:
            raise ValueError("no modality is present")

    @classmethod
    def of(cls, *modalities: Modality) -> Self:
        """Build from modalities in any order."""
        return cls(frozenset(modalities))

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read what `name` writes, `text+visual` for example.

        Raises:
            ValueError: an unknown modality.
        """
        return cls(frozenset(Modality(part) for part in name.split("+")))

    @property
    def name(self) -> str:
        """`text+audio+visual`, `audio`, …: the names of reports, metrics and answers."""
        return "+".join(self)

    @property
    def missing(self) -> tuple[Modality, ...]:
        """What is not there, in order."""
        return tuple(m for m in MODALITIES if m not in self.present)

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return len(self.present) == len(MODALITIES)

    def mask(self) -> tuple[bool, ...]:
        """One flag for each of `MODALITIES`."""
        return tuple(m in self.present for m in MODALITIES)

    def __iter__(self) -> Iterator[Modality]:
        return (m for m in MODALITIES if m in self.present)

    def __contains__(self, modality: object) -> bool:
        return modality in self.present

    def __len__(self) -> int:
        return len(self.present)


COMPLETE: Final = ModalitySet(frozenset(MODALITIES))

SUBSETS: Final = tuple(
    ModalitySet(frozenset(subset)) for size in (3, 2, 1) for subset in combinations(MODALITIES, size)
)
"""The seven non-empty subsets, largest first."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """One utterance's features: an array for each modality that is there, nothing for one that is not.

    Args:
        features: modality → `(T, d)` float32, normalised, at most as many slots as the config has, T ≥ 1.

    Raises:
        ValueError: no modality, or an array that is not `(T ≥ 1, d)`.
    """

    features: Mapping[Modality, FloatArray]

    def __post_init__(self) -> None:
        for modality, array in self.features.items():
            if array.ndim != 2 or array.shape[0] < 1:
                raise ValueError(f"{modality} features must be (T, d) with T at least 1, got {array.shape}")
        if not self.features:
            raise ValueError("an utterance needs at least one modality")
        object.__setattr__(self, "features", MappingProxyType(dict(self.features)))

    @property
    def presence(self) -> ModalitySet:
        """Which modalities are there."""
        return ModalitySet(frozenset(self.features))

    def keep(self, modalities: Iterable[Modality]) -> "Utterance":
        """The same utterance with only `modalities`.

        Raises:
            KeyError: one of them is not there to keep.
        """
        return Utterance({m: self.features[m] for m in modalities})
