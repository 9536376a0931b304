"""Cross-fitting: a network trained without a fold of the corpus decides on that fold, without having seen its content.

From the decisions of all folds `model.training.reliability` fits the calibration and the verdict.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import torch

from model.baselines.systems import Network
from model.modality import MODALITIES, SUBSETS, Modality, ModalitySet, Utterance
from model.network.decision import Decision
from model.network.reliability import RawDecision, Reliability, calibrate_decision, run_network
from model.training.datasets import ravdess
from model.training.datasets.base import Example, Source, Split, TextSource, Unclassed, example_of, unclassed_of
from model.training.datasets.composite import Composite2Corpus
from model.training.datasets.recordings import Recording
from model.training.evaluate_split import NetworkPredictor
from model.types import FloatArray

HELD_OUT_VOICES: Final = (ravdess.ORIGIN, "nemo", "emotiontts_kr")
"""The audio corpus that each fold holds out."""
FOLDS: Final = len(HELD_OUT_VOICES)
BATCH: Final = 256


class CrossFold:
    """One fold of the second composite corpus (0 to `FOLDS` − 1), as a corpus.

    Its training part lacks a third of the sentences (equal ones stay together), one audio corpus, a third of the actors
    of RAVDESS and a third of the photographs. Its test part pairs exactly these. Its validation part pairs the corpus's
    validation sentences with validation recordings of the corpora that are not held out.
    """

    def __init__(self, corpus: Composite2Corpus, fold: int) -> None:
        self._corpus, self._fold = corpus, fold
        self.name = f"{corpus.name}-fold{fold}"
        self.classes = corpus.classes
        rng = np.random.default_rng([fold, 2022])
        training = corpus.examples("train")
        self._known = [e for e in training if fold_of(_sentence(e)) != fold]
        held_out = [e for e in training if fold_of(_sentence(e)) == fold]
        self._splits: dict[Split, Sequence[Example]] = {
            "train": corpus.draw(self._known, self._keeps, "train", rng),
            "val": corpus.draw(corpus.examples("val"), self._keeps_corpus, "val", rng),
            "test": corpus.draw(held_out, lambda recording: not self._keeps(recording), "train", rng),
            "ood": (),
        }

    def examples(self, split: Split) -> Sequence[Example]:
        """Return the pairs of a part, which are drawn once."""
        return self._splits[split]

    def unimodal(self, split: Split) -> Sequence[Example]:
        """Return the recordings of the training or validation part that the fold does not hold out."""
        keeps = self._keeps if split == "train" else self._keeps_corpus
        return [
            example_of(f"{r.signal.modality}:{r.id}", r.signal.polarity, [r.signal])
            for r in self._corpus.recordings()
            if split in ("train", "val") and r.split == split and r.signal.polarity is not None and keeps(r)
        ]

    def unclassed(self) -> Sequence[Unclassed]:
        """Return the training recordings without a polarity that the fold does not hold out."""
        return [
            unclassed_of(r.signal)
            for r in self._corpus.recordings()
            if r.split == "train" and r.signal.polarity is None and self._keeps(r)
        ]

    def redraw(self, rng: np.random.Generator) -> Sequence[Example]:
        """Pair the training sentences anew."""
        return self._corpus.draw(self._known, self._keeps, "train", rng)

    def _keeps_corpus(self, recording: Recording) -> bool:
        signal = recording.signal
        return signal.modality != Modality.AUDIO or signal.origin != HELD_OUT_VOICES[self._fold]

    def _keeps(self, recording: Recording) -> bool:
        signal = recording.signal
        if signal.modality == Modality.AUDIO:
            return self._keeps_corpus(recording)
        # RAVDESS ids end with the actor: all clips of a face are held out together.
        person = recording.id.rpartition("-")[2] if signal.origin == ravdess.ORIGIN else recording.id
        return fold_of(person) != self._fold


def fold_of(name: str) -> int:
    """The fold of a sentence or person, by hash."""
    return hashlib.sha256(name.encode()).digest()[0] % FOLDS


def _sentence(example: Example) -> str:
    source = example.sources[Modality.TEXT]
    return source.text if isinstance(source, TextSource) else example.id


@dataclass(frozen=True, slots=True)
class CrossFitPart:
    """A network, and examples that it was not trained on.

    Args:
        network: in eval mode.
        training: the examples it was trained on, with the unimodal ones.
        unseen: examples it was not trained on, with unimodal ones; for familiarity.
        complete: examples it was not trained on; those with all modalities are used.
        features: normalised slots of all examples.
        weight: of the complete examples in total.
    """

    network: Network
    training: Sequence[Example]
    unseen: Sequence[Example]
    complete: Sequence[Example]
    features: Mapping[Source, FloatArray]
    weight: float = 1.0

    def utterances(self) -> tuple[list[Utterance], list[int]]:
        """The complete utterances and their class indices."""
        used = [e for e in self.complete if all(m in e.sources and e.sources[m] in self.features for m in MODALITIES)]
        return (
            [Utterance({m: self.features[e.sources[m]] for m in MODALITIES}) for e in used],
            [self.network.config.classes.index(e.label) for e in used],
        )


@dataclass(frozen=True, slots=True)
class SubsetDecisions:
    """The decisions of one network on complete utterances, under every subset of their modalities.

    Args:
        raw: subset → a decision for each utterance.
        labels: class indices.
        weight: of the utterances in total.
    """

    raw: Mapping[ModalitySet, Sequence[RawDecision]]
    labels: Sequence[int]
    weight: float

    def calibrated(self, reliability: Reliability, subset: ModalitySet) -> list[Decision]:
        """The decisions under a subset, as the verdict gets them in serving."""
        return [calibrate_decision(reliability, each) for each in self.raw[subset]]


def decide_subsets(
    part: CrossFitPart, reliability: Reliability, device: torch.device, *, both_paths: bool
) -> SubsetDecisions | None:
    """Decide on the complete utterances of a part under every subset; None where it has none.

    `reliability` has the familiarity of this network. `both_paths` also computes the path the gate does not choose.
    """
    utterances, labels = part.utterances()
    if not utterances:
        return None
    decide = partial(NetworkPredictor(part.network, device, reliability).network_decide, both_paths=both_paths)
    raw = {
        subset: [
            decision
            for start in range(0, len(utterances), BATCH)
            for decision in run_network(
                decide, reliability, [u.keep(subset) for u in utterances[start : start + BATCH]]
            )
        ]
        for subset in SUBSETS
    }
    return SubsetDecisions(raw, labels, part.weight)
