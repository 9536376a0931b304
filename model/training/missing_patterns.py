"""Which modalities an item is left with: drawn for training, drawn once and kept for evaluation.

For: the missing rates and the missing patterns of training and evaluation.
Does not know: features or networks; it only takes modalities away, and never the last one.
Source: EMMR (Zeng et al., EMNLP 2022), section 4.1, for the rates: at rate η each item loses, with probability η,
exactly one modality. Drawn uniformly here; the published code's draw drops text twice as often.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np

from model.errors import CorpusError
from model.modality import SUBSETS, ModalitySet

RATES: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)


@dataclass(frozen=True, slots=True)
class TrainingMix:
    """How many modalities items lose in training.

    Args:
        complete: share of items that lose none.
        one_missing: share that lose one.
        two_missing: share that lose two.

    Raises:
        ValueError: a share under zero, or shares that do not add up to one.
    """

    complete: float = 0.3
    one_missing: float = 0.4
    two_missing: float = 0.3

    def __post_init__(self) -> None:
        if min(self.shares) < 0 or abs(sum(self.shares) - 1) > 1e-9:
            raise ValueError("the shares of a training mix must be at least zero and add up to one")

    @property
    def shares(self) -> tuple[float, float, float]:
        """Probability of losing 0, 1 and 2 modalities."""
        return self.complete, self.one_missing, self.two_missing


def draw_training_patterns(
    presences: Sequence[ModalitySet], mix: TrainingMix, rng: np.random.Generator
) -> list[ModalitySet]:
    """Draw what each item keeps for one epoch.

    Args:
        presences: what each item has.
        mix: how many modalities to lose; an item that has too few loses all but one.
        rng: drawn from afresh each epoch.

    Returns:
        a non-empty part of each item's presence; which modalities are lost is uniform.
    """
    losses = rng.choice(3, size=len(presences), p=mix.shares)
    return [_lose(presence, int(count), rng) for presence, count in zip(presences, losses, strict=True)]


def draw_rate_patterns(presences: Sequence[ModalitySet], rate: float, rng: np.random.Generator) -> list[ModalitySet]:
    """Draw what each item keeps at a missing rate.

    Args:
        presences: what each item has.
        rate: η in [0, 1], the probability of losing exactly one modality, drawn uniformly among those the item has; an
            item with one modality keeps it.
        rng: where to draw from.

    Raises:
        ValueError: the rate is outside [0, 1].
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"a missing rate lies in [0, 1], got {rate}")
    losses = rng.random(len(presences)) < rate
    return [_lose(presence, int(lost), rng) for presence, lost in zip(presences, losses, strict=True)]


def subsets_of(presence: ModalitySet) -> tuple[ModalitySet, ...]:
    """The non-empty subsets of what an item has, largest first."""
    return tuple(subset for subset in SUBSETS if subset.present <= presence.present)


def _lose(presence: ModalitySet, count: int, rng: np.random.Generator) -> ModalitySet:
    count = min(count, len(presence) - 1)
    if count == 0:
        return presence
    has = tuple(presence)
    lost = rng.choice(len(has), size=count, replace=False)
    return ModalitySet(presence.present - {has[index] for index in lost})


@dataclass(frozen=True, slots=True)
class RatePatterns:
    """What each item of an evaluated part keeps at each missing rate, drawn once for every system compared.

    Args:
        seed: what it was drawn with.
        ids: the items, in the part's order.
        kept: rate → what each item keeps, aligned with `ids`.
    """

    seed: int
    ids: tuple[str, ...]
    kept: Mapping[float, tuple[ModalitySet, ...]]

    @classmethod
    def draw(
        cls, ids: Sequence[str], presences: Sequence[ModalitySet], seed: int, rates: Sequence[float] = RATES
    ) -> Self:
        """Draw; the same seed and items always give the same patterns."""
        streams = np.random.SeedSequence(seed).spawn(len(rates))
        kept = {
            rate: tuple(draw_rate_patterns(presences, rate, np.random.default_rng(stream)))
            for rate, stream in zip(rates, streams, strict=True)
        }
        return cls(seed, tuple(ids), kept)

    def save(self, path: Path) -> None:
        """Write as JSON."""
        content = {
            "seed": self.seed,
            "ids": self.ids,
            "rates": {str(rate): [presence.name for presence in kept] for rate, kept in self.kept.items()},
        }
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            CorpusError: the file is missing or does not hold patterns for every item.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            ids = tuple(map(str, content["ids"]))
            kept = {
                float(rate): tuple(ModalitySet.parse(name) for name in names)
                for rate, names in content["rates"].items()
            }
            if any(len(presences) != len(ids) for presences in kept.values()):
                raise ValueError("a rate has not one pattern for each id")
            return cls(int(content["seed"]), ids, kept)
        except OSError as error:
            raise CorpusError(path, None, f"cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorpusError(path, None, f"holds no missing patterns: {error}") from error
