"""Missing patterns: the modalities each item keeps, drawn anew every training epoch, and once for an evaluation.

At rate η an item loses one modality with probability η (Zeng et al., EMNLP 2022, 4.1), here drawn uniformly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from model.modality import ModalitySet

RATES: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)


def draw_training_patterns(
    presences: Sequence[ModalitySet], shares: Sequence[float], rng: np.random.Generator
) -> list[ModalitySet]:
    """Draw the modalities each item keeps for one epoch, at least one; those lost are uniformly distributed.

    `shares` are the probabilities of losing 0, 1 and 2 modalities.

    Raises:
        ValueError: a share is negative, or the shares do not add up to one.
    """
    losses = rng.choice(3, size=len(presences), p=shares)
    return [_remove(presence, int(count), rng) for presence, count in zip(presences, losses, strict=True)]


def draw_rate_patterns(presences: Sequence[ModalitySet], rate: float, rng: np.random.Generator) -> list[ModalitySet]:
    """Draw the modalities each item keeps at a missing rate η in [0, 1]; an item with one modality keeps it.

    Raises:
        ValueError: the rate is outside [0, 1].
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"a missing rate lies in [0, 1], got {rate}")
    losses = rng.random(len(presences)) < rate
    return [_remove(presence, int(lost), rng) for presence, lost in zip(presences, losses, strict=True)]


def _remove(presence: ModalitySet, count: int, rng: np.random.Generator) -> ModalitySet:
    count = min(count, len(presence) - 1)
    if count == 0:
        return presence
    present = tuple(presence)
    lost = rng.choice(len(present), size=count, replace=False)
    return ModalitySet(presence.present - {present[index] for index in lost})


@dataclass(frozen=True, slots=True)
class RatePatterns:
    """The modalities each item of an evaluation keeps at each missing rate, the same for every system compared.

    Args:
        seed: of the draw.
        ids: the items, in order.
        kept: rate → the modalities each item keeps, aligned with `ids`.
    """

    seed: int
    ids: tuple[str, ...]
    kept: Mapping[float, tuple[ModalitySet, ...]]

    @classmethod
    def draw(
        cls, ids: Sequence[str], presences: Sequence[ModalitySet], seed: int, rates: Sequence[float] = RATES
    ) -> Self:
        """Draw; the same seed and items give the same patterns."""
        streams = np.random.SeedSequence(seed).spawn(len(rates))
        kept = {
            rate: tuple(draw_rate_patterns(presences, rate, np.random.default_rng(stream)))
            for rate, stream in zip(rates, streams, strict=True)
        }
        return cls(seed, tuple(ids), kept)
