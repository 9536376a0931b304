"""The second composite corpus: the sentences of `composite` with voices and faces of several corpora.

The pairs are read from `composite2/{train,val,test,ood}.csv`; training pairs may be redrawn by the rule of the training
file.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np

from model.errors import ConfigError
from model.modality import Modality
from model.training.datasets.base import Example, Split, Unclassed
from model.training.datasets.faces import FacesCorpus
from model.training.datasets.pairing import (
    CARRIERS,
    NATIVE,
    PairingRule,
    Sentence,
    paired_example,
    read_pairing,
    read_rows,
    read_sentences,
    read_text,
)
from model.training.datasets.signals import CLASSES, SPLITS, Recording, Signal, example_of
from model.training.datasets.tables import Row
from model.training.datasets.voices import VoicesCorpus

COLUMNS: Final = ("id", "text", "voice", "face", "label", "decided_by", "text_id")
KINDS: Final = frozenset(CARRIERS) - {NATIVE}

FACE_SPLITS: Final[Mapping[Split, Split]] = MappingProxyType(
    {"train": "train", "val": "val", "test": "test", "ood": "test"}
)
"""Part → the split its faces must be of; there are no faces of unseen corpora. Voices are of the part's own split."""


class Composite2Corpus:
    """Sentences with voices and faces of several corpora, in three polarities.

    Args:
        data: the folder that holds `composite2/`, `ravdess/`, `voices/`, `faces/`, `meld/` and `mosi/`.

    Raises:
        CorpusError: a file that is missing or has a fault; names it and the line. A voice or face of another split
            than its row's part is a fault, too.
    """

    name: str = "composite2"
    classes: tuple[str, ...] = CLASSES

    def __init__(self, data: Path) -> None:
        self._voices, self._faces = VoicesCorpus(data), FacesCorpus(data)
        sentences = read_sentences(data)
        ids: set[str] = set()
        self._splits: dict[Split, tuple[Example, ...]] = {}
        for split in SPLITS:
            rows = read_rows(data / "composite2" / f"{split}.csv", COLUMNS, ids)
            self._splits[split] = tuple(self._read_example(row, split, sentences) for row in rows)
        self._rule = PairingRule(self._splits["train"])

    def examples(self, split: Split) -> Sequence[Example]:
        """The fixed pairs of a part, in file order. `ood` has voices of corpora that are in no training part."""
        return self._splits[split]

    def unclassed(self) -> Sequence[Unclassed]:
        """The surprised training voices, then the surprised training faces."""
        return (*self._voices.unclassed(), *self._faces.unclassed())

    def unimodal(self, split: Split) -> Sequence[Example]:
        """Every voice, then every face of a part that has a polarity, each by itself, whether in a pair or not."""
        return (*self._voices.examples(split), *self._faces.examples(split))

    def redraw(self, rng: np.random.Generator) -> Sequence[Example]:
        """Pair every training sentence anew, by the training file's rule.

        For each sentence, who carries the label and the label itself are drawn with the training file's frequencies
        for sentences of its polarity. Voice and face are then drawn independently among the training content of the
        polarity each needs: first a corpus, uniformly among those that have such a voice or face, then one of its
        clips uniformly. All stills together count as one corpus.

        Args:
            rng: the generator to draw from.

        Returns:
            One example for each training sentence, in file order, with the same ids.
        """
        return self.draw(self._splits["train"], lambda _: True, "train", rng)

    def draw(
        self, sentences: Sequence[Example], keep: Callable[[Recording], bool], split: Split, rng: np.random.Generator
    ) -> Sequence[Example]:
        """Pair sentences with some of a part's voices and faces, by the rule of `redraw`.

        Args:
            sentences: examples whose texts are paired.
            keep: whether a recording may be drawn.
            split: of the recordings.
            rng: the generator to draw from.

        Raises:
            ConfigError: a polarity has no recording to draw.
        """
        voices = _Pool(filter(keep, self._voices.recordings.values()), Modality.AUDIO, split)
        faces = _Pool(filter(keep, self._faces.recordings.values()), Modality.VISUAL, split)
        return tuple(self._pair(example, voices, faces, rng) for example in sentences)

    def recordings(self) -> Iterator[Recording]:
        """Every voice, then every face, of all parts."""
        yield from self._voices.recordings.values()
        yield from self._faces.recordings.values()

    def _pair(self, example: Example, voices: "_Pool", faces: "_Pool", rng: np.random.Generator) -> Example:
        pairing = self._rule.draw(example.modality_labels[Modality.TEXT], rng)
        signals = (
            Signal.of(example, Modality.TEXT),
            voices.draw(pairing.polarity(Modality.AUDIO), rng),
            faces.draw(pairing.polarity(Modality.VISUAL), rng),
        )
        return example_of(example.id, pairing.label, signals, pairing.decided_by)

    def _read_example(self, row: Row, split: Split, sentences: Mapping[str, Sentence]) -> Example:
        voice = _recording(row, "voice", self._voices.recordings, split)
        face = _recording(row, "face", self._faces.recordings, FACE_SPLITS[split])
        pairing = read_pairing(row, KINDS)
        return paired_example(row, pairing, (read_text(row, sentences), voice, face))


class _Pool:
    """The content of one modality to draw from.

    Args:
        recordings: of all splits; those of other splits and those without polarity are left out.
        modality: named in errors.
        split: of the recordings to draw from.
    """

    def __init__(self, recordings: Iterable[Recording], modality: Modality, split: Split) -> None:
        self._modality, self._split = modality, split
        signals: dict[str, dict[str, list[Signal]]] = defaultdict(dict)  # polarity → origin → signals
        for recording in recordings:
            signal = recording.signal
            if recording.split == split and signal.polarity is not None:
                signals[signal.polarity].setdefault(signal.origin, []).append(signal)
        self._signals = {polarity: list(by_origin.values()) for polarity, by_origin in signals.items()}

    def draw(self, polarity: str, rng: np.random.Generator) -> Signal:
        """Draw an origin, then a signal of it, each uniformly.

        Raises:
            ConfigError: there is no signal of this polarity.
        """
        if polarity not in self._signals:
            raise ConfigError(f"no {polarity} {self._modality} in the {self._split} split to draw from")
        origins = self._signals[polarity]
        signals = origins[int(rng.integers(len(origins)))]
        return signals[int(rng.integers(len(signals)))]


def _recording(row: Row, column: str, recordings: Mapping[str, Recording], split: Split) -> Signal:
    try:
        recording = recordings[row[column]]
    except KeyError:
        raise row.fault(f"{column} {row[column]!r} is in no corpus") from None
    if recording.split != split:
        raise row.fault(f"{column} {row[column]!r} is of the {recording.split} split, where {split} is needed")
    return recording.signal
