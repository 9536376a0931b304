"""Examples of a corpus, whose modalities name where their content is stored, and the interface of a corpus."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, Protocol, Self, get_args

import numpy as np

from model.modality import Modality, ModalitySet
from model.types import FloatArray

Split = Literal["train", "val", "test", "ood"]
"""`ood`: examples of corpora that have no training part; empty where there are none."""

SPLITS: Final[tuple[Split, ...]] = get_args(Split)

CLASSES: Final = ("negative", "neutral", "positive")
"""The polarities, in the order of the class indices."""

MAX_SCORE: Final = 3.0
"""Sentiment scores lie between minus this value and this value."""
SCORE_CLASSES: Final = tuple(str(score) for score in range(-int(MAX_SCORE), int(MAX_SCORE) + 1))
"""The classes of corpora with scores: the nearest whole number, in ascending order."""

EMOTIONS: Final = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
"""The emotion names used in every corpus."""

SYNONYMS: Final[Mapping[str, str]] = MappingProxyType(
    {"joy": "happy", "sadness": "sad", "anger": "angry", "fear": "fearful", "surprise": "surprised"}
)
"""Emotion names of corpus files that are not in `EMOTIONS` → the name used here."""


@dataclass(frozen=True, slots=True)
class TextSource:
    """A sentence, as the corpus has it."""

    text: str


@dataclass(frozen=True, slots=True)
class SoundSource:
    """A sound file.

    Args:
        path: any container that `model.features.audio.loading` reads.
        augmentation: 0 for the clip as recorded; k > 0 for its k-th augmented variant (training only).
    """

    path: Path
    augmentation: int = 0


@dataclass(frozen=True, slots=True)
class OpenFaceSource:
    """An OpenFace 2 CSV of one utterance."""

    path: Path


@dataclass(frozen=True, slots=True)
class ActionUnitMeansSource:
    """OpenFace action units averaged over the frames of a clip: 17 AU_r, then 18 AU_c."""

    clip: str
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class PrecomputedSource:
    """Feature vectors that a corpus contains in place of recordings.

    Args:
        path: the file they are stored in.
        key: of the utterance, unique in that file.
        modality: of the vectors; one file may store several.
        values: `(T, d)` float32. Sources are compared by the other fields.
    """

    path: Path
    key: str
    modality: Modality
    values: FloatArray = field(compare=False, repr=False)


ComputedSource = TextSource | SoundSource | OpenFaceSource | ActionUnitMeansSource
"""Sources whose features are computed, and cached."""

Source = ComputedSource | PrecomputedSource


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled utterance.

    Args:
        id: unique within its corpus.
        label: a class name.
        sources: a source for each modality that the corpus has for this utterance; at least one.
        modality_labels: the polarity of each modality alone, where the corpus has it.
        decided_by: which modalities carry the label, where the corpus has it.
        emotions: the emotion of each modality, finer than its polarity, where the corpus has it.
        origins: the corpus that each modality was recorded for, where several are combined. Origins have equal weight
            in training, whatever their size, and metrics are reported for each.
        score: the sentiment, from -`MAX_SCORE` to `MAX_SCORE`, in corpora with scores; `label` is its class.
    """

    id: str
    label: str
    sources: Mapping[Modality, Source]
    modality_labels: Mapping[Modality, str] = field(default_factory=dict)
    decided_by: str | None = None
    emotions: Mapping[Modality, str] = field(default_factory=dict)
    origins: Mapping[Modality, str] = field(default_factory=dict)
    score: float | None = None

    @property
    def presence(self) -> ModalitySet:
        """The modalities that the corpus has for this utterance."""
        return ModalitySet(frozenset(self.sources))


def scored_example(example_id: str, score: float, sources: Mapping[Modality, Source], *, regression: bool) -> Example:
    """Return an example with a sentiment score in [-`MAX_SCORE`, `MAX_SCORE`].

    Args:
        example_id: unique within its corpus.
        score: the sentiment.
        sources: at least one.
        regression: keep the score, with the nearest of `SCORE_CLASSES` as label (half to even, as the field rounds);
            otherwise the label is the sign of the score, one of `CLASSES` (paper, 4.1).
    """
    if regression:
        return Example(example_id, SCORE_CLASSES[round(score) + int(MAX_SCORE)], sources, score=score)
    return Example(example_id, CLASSES[1 + (score > 0) - (score < 0)], sources)


def draw_groups(groups: Iterable[str], share: float, purpose: str) -> frozenset[str]:
    """Draw a share of groups (videos, dialogues) by hash: the same ones on every run and machine.

    Args:
        groups: names; repeated ones count once.
        share: of the groups to draw; at least one is drawn.
        purpose: different purposes draw different groups.
    """
    ordered = sorted(set(groups), key=lambda name: hashlib.sha256(f"{purpose} {name}".encode()).digest())
    return frozenset(ordered[: max(1, round(share * len(ordered)))])


@dataclass(frozen=True, slots=True)
class Unclassed:
    """Training content whose emotion belongs to none of the classes; a negative example for emotion classifiers.

    Args:
        sources: a source for each modality that is present.
        emotions: the emotion of each.
        origins: the corpus that each was recorded for.
    """

    sources: Mapping[Modality, Source]
    emotions: Mapping[Modality, str]
    origins: Mapping[Modality, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Signal:
    """The content of one modality, with its own labels.

    Args:
        modality: of the content.
        source: where it is stored.
        origin: the corpus it was recorded for.
        polarity: one of `CLASSES`; None where the emotion has no polarity.
        emotion: one of `EMOTIONS`; None where the corpus has no emotions.
    """

    modality: Modality
    source: Source
    origin: str
    polarity: str | None
    emotion: str | None = None

    @classmethod
    def of(cls, example: Example, modality: Modality) -> Self:
        """Return one modality of an example.

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
    """Return a signal whose emotion has no polarity as unclassed content."""
    emotions = {} if signal.emotion is None else {signal.modality: signal.emotion}
    return Unclassed({signal.modality: signal.source}, emotions, {signal.modality: signal.origin})


class Corpus(Protocol):
    """A labelled corpus with fixed training, validation and test parts."""

    name: str
    classes: tuple[str, ...]

    def examples(self, split: Split) -> Sequence[Example]:
        """Return the fixed examples of a part, in file order."""

    def unclassed(self) -> Sequence[Unclassed]:
        """Return training content without a class; empty where there is none."""

    def unimodal(self, split: Split) -> Sequence[Example]:
        """Return labelled content of a single modality, beside the examples, for encoders and experts."""

    def redraw(self, rng: np.random.Generator) -> Sequence[Example]:
        """Return the training examples of one epoch; `examples("train")` where nothing is drawn."""


class FixedCorpus:
    """A corpus of fixed examples and nothing else; subclasses override what they have in addition.

    Args:
        splits: part → examples; parts that are left out are empty.
    """

    name: str
    classes: tuple[str, ...] = CLASSES

    def __init__(self, splits: Mapping[Split, Sequence[Example]]) -> None:
        self._splits = {split: tuple(splits.get(split, ())) for split in SPLITS}

    def examples(self, split: Split) -> Sequence[Example]:
        """Return the fixed examples of a part, in file order."""
        return self._splits[split]

    def unclassed(self) -> Sequence[Unclassed]:
        """Return nothing."""
        return ()

    def unimodal(self, split: Split) -> Sequence[Example]:
        """Return nothing."""
        del split
        return ()

    def redraw(self, rng: np.random.Generator) -> Sequence[Example]:
        """Return the training examples, in file order."""
        del rng
        return self._splits["train"]
