"""The three modalities, their seven non-empty subsets, and the features of an utterance.

A missing modality has no array in an `Utterance` and `present == False` in a `Batch`; zeros never stand for it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from itertools import combinations
from types import MappingProxyType
from typing import Final, Self

from model.types import FloatArray


class Modality(StrEnum):
    """One channel of an utterance; arrays and masks over modalities have the order of declaration."""

    TEXT = "text"
    AUDIO = "audio"
    VISUAL = "visual"

    __hash__ = str.__hash__  # that of Enum runs in Python, and every lookup by modality calls it


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
    def from_mask(cls, mask: Iterable[bool]) -> Self:
        """Build from one flag for each of `MODALITIES`."""
        return cls(frozenset(m for m, present in zip(MODALITIES, mask, strict=True) if present))

    @classmethod
    def parse(cls, name: str) -> Self:
        """Build from a name such as `text+visual`.

        Raises:
            ValueError: an unknown modality.
        """
        return cls(frozenset(Modality(part) for part in name.split("+")))

    @property
    def name(self) -> str:
        """`text+audio+visual`, `audio`, …, as used in reports, metrics and responses."""
        return "+".join(self)

    @property
    def missing(self) -> tuple[Modality, ...]:
        """The modalities that are not in the set, in order."""
        return _missing(self.present)

    @property
    def complete(self) -> bool:
        """Whether no modality is missing."""
        return len(self.present) == len(MODALITIES)

    @property
    def number(self) -> int:
        """1 to 7: the sum of 1 for text, 2 for audio and 4 for visual."""
        return sum(1 << column for column, present in enumerate(self.mask()) if present)

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


@cache
def _missing(present: frozenset[Modality]) -> tuple[Modality, ...]:
    return tuple(m for m in MODALITIES if m not in present)


SUBSETS: Final = tuple(
    ModalitySet(frozenset(subset)) for size in (3, 2, 1) for subset in combinations(MODALITIES, size)
)
"""The seven non-empty subsets, largest first."""
PAIRS: Final = SUBSETS[1:4]
SINGLES: Final = SUBSETS[4:]


@dataclass(frozen=True, slots=True)
class Utterance:
    """The features of one utterance: one array for each modality that is present.

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
        """The modalities that are present."""
        return ModalitySet(frozenset(self.features))

    def keep(self, modalities: Iterable[Modality]) -> "Utterance":
        """The same utterance with only `modalities`.

        Raises:
            KeyError: one of them is missing.
        """
        return Utterance({m: self.features[m] for m in modalities})
