"""What a corpus is to training: examples whose modalities name where their content lies.

For: one shape behind which the composite corpus, a manifest of one's own clips, or any later corpus stands.
Does not know: features, caches or networks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from model.modality import Modality, ModalitySet

Split = Literal["train", "val", "test", "ood"]
"""`ood`: corpora that are in no training part; a corpus without one has no such examples."""


@dataclass(frozen=True, slots=True)
class TextSource:
    """A sentence, as it stands in the corpus."""

    text: str


@dataclass(frozen=True, slots=True)
class SoundSource:
    """A sound file.

    Args:
        path: any container `model.features.audio.loading` reads.
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
    """OpenFace action units already averaged over a clip's frames: 17 AU_r then 18 AU_c."""

    clip: str
    values: tuple[float, ...]


Source = TextSource | SoundSource | OpenFaceSource | ActionUnitMeansSource


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled utterance.

    Args:
        id: unique within its corpus.
        label: a class name.
        sources: a source for each modality that the corpus has for this utterance; at least one.
        modality_labels: the polarity one modality carries alone, where the corpus knows it.
        decided_by: which modalities carry the label, where the corpus knows it.
        emotions: the emotion one modality shows, finer than its polarity, where the corpus knows it.
        origins: the corpus one modality's content was recorded for, where several are combined; corpora count equally
            in training, however large, and figures are given for each.
    """

    id: str
    label: str
    sources: Mapping[Modality, Source]
    modality_labels: Mapping[Modality, str] = field(default_factory=dict)
    decided_by: str | None = None
    emotions: Mapping[Modality, str] = field(default_factory=dict)
    origins: Mapping[Modality, str] = field(default_factory=dict)

    @property
    def presence(self) -> ModalitySet:
        """Which modalities the corpus has for this utterance."""
        return ModalitySet(frozenset(self.sources))


@dataclass(frozen=True, slots=True)
class Unclassed:
    """Training content whose emotion goes with none of the corpus's classes.

    It cannot be an example of a class, yet who learns to tell it from the classes' own knows these better.

    Args:
        sources: a source for each modality there is.
        emotions: the emotion each of them shows.
        origins: the corpus each of them was recorded for.
    """

    sources: Mapping[Modality, Source]
    emotions: Mapping[Modality, str]
    origins: Mapping[Modality, str] = field(default_factory=dict)


class Corpus(Protocol):
    """A labelled corpus with fixed training, validation and test parts."""

    name: str
    classes: tuple[str, ...]

    def examples(self, split: Split) -> Sequence[Example]:
        """The fixed examples of a part, in file order."""

    def unclassed(self) -> Sequence[Unclassed]:
        """Training content beside the examples; nothing where a corpus knows of none."""

    def unimodal(self, split: Split) -> Sequence[Example]:
        """Labelled content of a single modality beside the examples, for encoders and experts; nothing where none."""

    def redraw(self, rng: np.random.Generator) -> Sequence[Example]:
        """Training examples for one epoch. A corpus without anything to draw returns `examples("train")`."""
