"""The rule by which composite corpora pair a sentence with a voice and a face, and the sentences themselves.

Sentences are those of MELD (Poria et al. 2019) and CMU-MOSI (Zadeh et al. 2016).
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np

from model.modality import Modality
from model.training.datasets.base import Example, TextSource
from model.training.datasets.signals import CLASSES, Signal, example_of, read_emotion
from model.training.datasets.tables import Row, read_table

NATIVE: Final = "native"
"""RAVDESS's own sentence, spoken by the very clip; never redrawn."""

CARRIERS: Final[Mapping[str, frozenset[Modality]]] = MappingProxyType(
    {
        "congruent": frozenset(Modality),
        "text": frozenset({Modality.TEXT}),
        "voice+face": frozenset({Modality.AUDIO, Modality.VISUAL}),
        "voice": frozenset({Modality.AUDIO}),
        "face": frozenset({Modality.VISUAL}),
        NATIVE: frozenset({Modality.AUDIO, Modality.VISUAL}),
    }
)
"""`decided_by` → the modalities that carry the label; the others are neutral."""

_MOSI_POLARITY: Final = MappingProxyType({"neg": "negative", "neu": "neutral", "pos": "positive"})


@dataclass(frozen=True, slots=True)
class Sentence:
    """The labels of a sentence by itself; `emotion` is None for CMU-MOSI, which knows none."""

    polarity: str
    origin: str
    emotion: str | None = None


@dataclass(frozen=True, slots=True)
class Pairing:
    """Which modalities carry the label of a row (a key of `CARRIERS`), and the label."""

    decided_by: str
    label: str

    def polarity(self, modality: Modality) -> str:
        """The polarity that the modality must have."""
        return self.label if modality in CARRIERS[self.decided_by] else "neutral"


class PairingRule:
    """How often sentences of each polarity are paired in each way.

    Args:
        examples: those to count over; `native` ones are left out.
    """

    def __init__(self, examples: Iterable[Example]) -> None:
        counts: dict[str, Counter[Pairing]] = defaultdict(Counter)
        for example in examples:
            if example.decided_by is not None and example.decided_by != NATIVE:
                counts[example.modality_labels[Modality.TEXT]][Pairing(example.decided_by, example.label)] += 1
        self._pairings: dict[str, tuple[Pairing, ...]] = {}
        self._frequencies: dict[str, tuple[float, ...]] = {}
        for polarity, counter in counts.items():
            pairings = tuple(sorted(counter, key=lambda pairing: (pairing.decided_by, pairing.label)))
            self._pairings[polarity] = pairings
            self._frequencies[polarity] = tuple(counter[pairing] / counter.total() for pairing in pairings)

    def draw(self, polarity: str, rng: np.random.Generator) -> Pairing:
        """Draw a pairing for a sentence of this polarity.

        Raises:
            KeyError: no counted sentence has this polarity.
        """
        return self._pairings[polarity][_choose(self._frequencies[polarity], rng)]


def read_sentences(data: Path) -> Mapping[str, Sentence]:
    """Read the labels of MELD and CMU-MOSI.

    Args:
        data: the folder that holds `meld/` and `mosi/`.

    Returns:
        `meld-<part>-<dialogue>-<utterance>` and `mosi-<id>` → labels.

    Raises:
        CorpusError: a file that is missing, or a label or emotion that is unknown.
    """
    sentences: dict[str, Sentence] = {}
    for part in ("train", "dev"):
        # Only ASCII cells are used here; the sentences hold stray Windows-1252 punctuation.
        path = data / "meld" / f"{part}_sent_emo.csv"
        for row in read_table(path, ("Sentiment", "Emotion", "Dialogue_ID", "Utterance_ID"), undecodable="replace"):
            if row["Sentiment"] not in CLASSES:
                raise row.fault(f"unknown sentiment {row['Sentiment']!r}")
            key = f"meld-{part}-{row['Dialogue_ID']}-{row['Utterance_ID']}"
            sentences[key] = Sentence(row["Sentiment"], "meld", read_emotion(row, "Emotion"))
    for row in read_table(data / "mosi" / "utterances.csv", ("id", "label3")):
        if row["label3"] not in _MOSI_POLARITY:
            raise row.fault(f"unknown label3 {row['label3']!r}")
        sentences[f"mosi-{row['id']}"] = Sentence(_MOSI_POLARITY[row["label3"]], "mosi")
    return sentences


def read_rows(path: Path, columns: Sequence[str], ids: set[str]) -> Iterator[Row]:
    """The rows of one part of a composite corpus.

    Args:
        path: the part's file.
        columns: names its header must have, `id` among them.
        ids: ids of the parts read before; those of this part are added.

    Raises:
        CorpusError: as `read_table`, and an id that is there twice.
    """
    for row in read_table(path, columns):
        if row["id"] in ids:
            raise row.fault(f"id {row['id']!r} is there twice")
        ids.add(row["id"])
        yield row


def read_pairing(row: Row, kinds: Collection[str] = CARRIERS) -> Pairing:
    """The `label` and `decided_by` of a row.

    Args:
        row: a row with a `text` as well.
        kinds: what `decided_by` may be.

    Raises:
        CorpusError: an empty sentence, an unknown label or `decided_by`.
    """
    if not row["text"].strip():
        raise row.fault("the sentence is empty")
    if row["label"] not in CLASSES:
        raise row.fault(f"unknown label {row['label']!r}")
    if row["decided_by"] not in kinds:
        raise row.fault(f"unknown decided_by {row['decided_by']!r}")
    return Pairing(row["decided_by"], row["label"])


def read_text(row: Row, sentences: Mapping[str, Sentence]) -> Signal:
    """The sentence of a row, with the labels that belong to its `text_id`.

    Raises:
        CorpusError: an unknown `text_id`.
    """
    try:
        sentence = sentences[row["text_id"]]
    except KeyError:
        raise row.fault(f"text_id {row['text_id']!r} is in neither MELD nor CMU-MOSI") from None
    return Signal(Modality.TEXT, TextSource(row["text"]), sentence.origin, sentence.polarity, sentence.emotion)


def paired_example(row: Row, pairing: Pairing, signals: Sequence[Signal]) -> Example:
    """The example of a row.

    Args:
        row: a row with an `id`.
        pairing: its label and what decides it.
        signals: its sentence, voice and face.

    Raises:
        CorpusError: a signal without polarity, or with one that does not fit the pairing.
    """
    for signal in signals:
        needed = pairing.polarity(signal.modality)
        if signal.polarity is None:
            raise row.fault(f"the {signal.modality} shows an emotion without polarity")
        if signal.polarity != needed:
            raise row.fault(
                f"{signal.modality} is {signal.polarity}, but a {pairing.label} row decided by {pairing.decided_by} "
                f"needs it {needed}"
            )
    return example_of(row["id"], pairing.label, signals, pairing.decided_by)


def _choose(frequencies: Sequence[float], rng: np.random.Generator) -> int:
    """Draw an index; `Generator.choice` does the same at fifty times the cost for so few."""
    point = float(rng.random())
    for index, frequency in enumerate(frequencies):
        point -= frequency
        if point < 0:
            return index
    return len(frequencies) - 1  # frequencies sum to slightly less than one
