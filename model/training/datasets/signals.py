"""What one modality of an utterance holds and shows by itself, in names that every corpus shares.

Polarities, emotions and splits of corpus files are checked here; an emotion has the same name in every corpus.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Generic, Self, TypeVar, get_args

import numpy as np

from model.modality import Modality
from model.training.datasets.base import Example, Source, Split, Unclassed
from model.training.datasets.tables import Row

CLASSES: Final = ("negative", "neutral", "positive")
"""The polarities, in the order of the class indices."""

SPLITS: Final[tuple[Split, ...]] = get_args(Split)

EMOTIONS: Final = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
"""The emotion names used in every corpus."""

SYNONYMS: Final[Mapping[str, str]] = MappingProxyType(
    {"joy": "happy", "sadness": "sad", "anger": "angry", "fear": "fearful", "surprise": "surprised"}
)
"""Emotion names of corpus files that differ from `EMOTIONS`, and what they are there."""


@dataclass(frozen=True, slots=True)
class Signal:
    """The content of one modality, with its own labels.

    Args:
        modality: the modality it is of.
        source: where the content lies.
        origin: the corpus it was recorded for.
        polarity: one of `CLASSES`; None where the emotion has no polarity.
        emotion: one of `EMOTIONS`; None where the corpus does not tell.
    """

    modality: Modality
    source: Source
    origin: str
    polarity: str | None
    emotion: str | None = None

    @classmethod
    def of(cls, example: Example, modality: Modality) -> Self:
        """One modality of an example.

        Raises:
            KeyError: the example does not have the modality.
        """
        return cls(
            modality,
            example.sources[modality],
            example.origins[modality],
            example.modality_labels.get(modality),
            example.emotions.get(modality),
        )


def example_of(example_id: str, label: str, signals: Sequence[Signal], decided_by: str | None = None) -> Example:
    """Combine signals of different modalities into an example."""
    return Example(
        id=example_id,
        label=label,
        sources={signal.modality: signal.source for signal in signals},
        modality_labels={signal.modality: signal.polarity for signal in signals if signal.polarity is not None},
        decided_by=decided_by,
        emotions={signal.modality: signal.emotion for signal in signals if signal.emotion is not None},
        origins={signal.modality: signal.origin for signal in signals},
    )


def unclassed_of(signal: Signal) -> Unclassed:
    """Content whose emotion has no polarity."""
    emotions = {} if signal.emotion is None else {signal.modality: signal.emotion}
    return Unclassed({signal.modality: signal.source}, emotions, {signal.modality: signal.origin})


@dataclass(frozen=True, slots=True)
class Recording:
    """A clip or picture of a single modality.

    Args:
        id: how composite files refer to it, `stills/<id>` for example; unique within its modality.
        split: the part it belongs to.
        signal: its content and labels.
    """

    id: str
    split: Split
    signal: Signal


R = TypeVar("R", bound=Recording)


class SingleModalityCorpus(Generic[R]):
    """Recordings of one modality as a corpus. The label of an example is its polarity.

    Args:
        recordings: the recordings of all parts, in the order in which examples are returned; ids are unique.

    Attributes:
        recordings: id → recording, with those that have no polarity.
    """

    name: str
    classes: tuple[str, ...] = CLASSES

    def __init__(self, recordings: Iterable[R]) -> None:
        self.recordings: Mapping[str, R] = {recording.id: recording for recording in recordings}
        splits: dict[Split, list[Example]] = {split: [] for split in SPLITS}
        unclassed: list[Unclassed] = []
        for recording in self.recordings.values():
            signal = recording.signal
            if signal.polarity is not None:
                example_id = f"{signal.modality}:{recording.id}"
                splits[recording.split].append(example_of(example_id, signal.polarity, [signal]))
            elif recording.split == "train":
                unclassed.append(unclassed_of(signal))
        self._splits = {split: tuple(examples) for split, examples in splits.items()}
        self._unclassed = tuple(unclassed)

    def examples(self, split: Split) -> Sequence[Example]:
        """The recordings of a part that have a polarity, in file order; ids are `<modality>:<recording id>`."""
        return self._splits[split]

    def unclassed(self) -> Sequence[Unclassed]:
        """The training recordings whose emotion (surprise) has no polarity."""
        return self._unclassed

    def unimodal(self, split: Split) -> Sequence[Example]:
        """Nothing: all examples are of a single modality already."""
        del split
        return ()

    def redraw(self, rng: np.random.Generator) -> Sequence[Example]:
        """The training examples: there is nothing to draw."""
        del rng
        return self._splits["train"]


def read_emotion(row: Row, column: str = "emotion") -> str:
    """The emotion of a record, as one of `EMOTIONS`.

    Raises:
        CorpusError: an emotion that is neither in `EMOTIONS` nor in `SYNONYMS`.
    """
    emotion = SYNONYMS.get(row[column], row[column])
    if emotion not in EMOTIONS:
        raise row.fault(f"unknown emotion {row[column]!r}")
    return emotion


def read_polarity(row: Row, column: str = "polarity") -> str | None:
    """The polarity of a record, as one of `CLASSES`; None where the cell is empty.

    Raises:
        CorpusError: any other cell.
    """
    if not row[column]:
        return None
    if row[column] not in CLASSES:
        raise row.fault(f"unknown polarity {row[column]!r}")
    return row[column]


def read_split(row: Row, column: str = "split") -> Split:
    """The part that a record belongs to.

    Raises:
        CorpusError: not one of `SPLITS`.
    """
    for split in SPLITS:
        if split == row[column]:
            return split
    raise row.fault(f"unknown split {row[column]!r}; known are {', '.join(SPLITS)}")


def read_name(row: Row, column: str) -> str:
    """A cell that must not be empty.

    Raises:
        CorpusError: it is.
    """
    if not row[column].strip():
        raise row.fault(f"the {column} is empty")
    return row[column]
