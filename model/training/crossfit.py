"""Folds of the second composite corpus, each without some sentences, people and a whole corpus of voices.

A network trained on one fold's training part gives answers on what it never met; from those of all folds the
calibration and the key-missing verdict are fitted (`model.training.reliability`).
"""

import hashlib
from collections.abc import Sequence
from typing import Final

import numpy as np

from model.modality import Modality
from model.training.datasets import ravdess
from model.training.datasets.base import Example, Split, TextSource, Unclassed
from model.training.datasets.composite2 import Composite2Corpus
from model.training.datasets.signals import Recording, example_of, unclassed_of

HELD_OUT_VOICES: Final = (ravdess.ORIGIN, "nemo", "emotiontts_kr")
"""The corpus of voices that each fold leaves out."""
FOLDS: Final = len(HELD_OUT_VOICES)


class CrossFold:
    """One fold as a corpus.

    Its training part lacks a third of the sentences (equal ones stay together), one corpus of voices, a third of
    RAVDESS's faces (whole actors) and a third of the photographs. Its test part pairs just these. Its validation part
    pairs the corpus's validation sentences with validation voices and faces of corpora that are not left out.

    Args:
        corpus: the whole.
        fold: 0 to `FOLDS` − 1.
    """

    def __init__(self, corpus: Composite2Corpus, fold: int) -> None:
        self._corpus, self._fold = corpus, fold
        self.name = f"{corpus.name}-fold{fold}"
        self.classes = corpus.classes
        rng = np.random.default_rng([fold, 2022])
        self._known = [e for e in corpus.examples("train") if not self._holds_out_sentence(e)]
        held_out = [e for e in corpus.examples("train") if self._holds_out_sentence(e)]
        self._splits: dict[Split, Sequence[Example]] = {
            "train": corpus.draw(self._known, self._keeps, "train", rng),
            "val": corpus.draw(corpus.examples("val"), self._keeps_corpus, "val", rng),
            "test": corpus.draw(held_out, lambda recording: not self._keeps(recording), "train", rng),
            "ood": (),
        }

    def examples(self, split: Split) -> Sequence[Example]:
        """The pairs of a part, drawn once."""
        return self._splits[split]

    def unimodal(self, split: Split) -> Sequence[Example]:
        """Voices and faces of the training and validation parts that the fold does not leave out."""
        keeps = self._keeps if split == "train" else self._keeps_corpus
        return [
            example_of(f"{r.signal.modality}:{r.id}", r.signal.polarity, [r.signal])
            for r in self._corpus.recordings()
            if split in ("train", "val") and r.split == split and r.signal.polarity is not None and keeps(r)
        ]

    def unclassed(self) -> Sequence[Unclassed]:
        """The surprised training voices and faces that the fold does not leave out."""
        return [
            unclassed_of(r.signal)
            for r in self._corpus.recordings()
            if r.split == "train" and r.signal.polarity is None and self._keeps(r)
        ]

    def redraw(self, rng: np.random.Generator) -> Sequence[Example]:
        """Pair the training sentences anew."""
        return self._corpus.draw(self._known, self._keeps, "train", rng)

    def _holds_out_sentence(self, example: Example) -> bool:
        return part_of(_sentence(example)) == self._fold

    def _keeps_corpus(self, recording: Recording) -> bool:
        signal = recording.signal
        return signal.modality != Modality.AUDIO or signal.origin != HELD_OUT_VOICES[self._fold]

    def _keeps(self, recording: Recording) -> bool:
        signal = recording.signal
        if signal.modality == Modality.AUDIO:
            return self._keeps_corpus(recording)
        # RAVDESS names end with the actor: all clips of a face are held out together.
        person = recording.id.rpartition("-")[2] if signal.origin == ravdess.ORIGIN else recording.id
        return part_of(person) != self._fold


def part_of(name: str) -> int:
    """The fold that something named belongs to: the same on every machine."""
    return hashlib.sha256(name.encode()).digest()[0] % FOLDS


def _sentence(example: Example) -> str:
    source = example.sources[Modality.TEXT]
    return source.text if isinstance(source, TextSource) else example.id
