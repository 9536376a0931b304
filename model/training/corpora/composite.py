"""The composite corpus: real sentences of MELD and CMU-MOSI, each paired with the voice and face of a RAVDESS clip.

For: training and measuring with all three modalities where no public corpus has them all, and where it is known which
modality carries the label (`decided_by`).
Does not know: features; a sound stays a path and a face the means that the corpus ships.
Source: RAVDESS (Livingstone & Russo 2018), MELD (Poria et al. 2019), CMU-MOSI (Zadeh et al. 2016). The pairing is read
from `composite/{train,val,test}.csv`; training pairs may be drawn anew by the rule those files were made with.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np

from model.modality import Modality
from model.training.corpora.base import Example, Split, TextSource, Unclassed
from model.training.corpora.ravdess import POLARITIES, Clip, ClipName, parse_clip_name, read_clips
from model.training.corpora.tables import Row, read_table

__all__ = ["CLASSES", "ClipName", "CompositeCorpus", "parse_clip_name"]

CLASSES: Final = ("negative", "neutral", "positive")

SPLITS: Final[tuple[Split, ...]] = ("train", "val", "test")

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

_COLUMNS: Final = ("id", "text", "audio_clip", "visual_clip", "label", "decided_by", "text_id", "actor")
_MOSI_POLARITY: Final = MappingProxyType({"neg": "negative", "neu": "neutral", "pos": "positive"})


@dataclass(frozen=True, slots=True)
class _Sentence:
    """What a sentence says by itself; CMU-MOSI knows no emotions."""

    polarity: str
    emotion: str | None = None


@dataclass(frozen=True, slots=True)
class _Pairing:
    """What is drawn for a sentence before its clips are: who carries the label, and the label."""

    decided_by: str
    label: str

    def polarity(self, modality: Modality) -> str:
        return self.label if modality in CARRIERS[self.decided_by] else "neutral"


@dataclass(frozen=True, slots=True)
class _PairingRule:
    """How often the training file pairs a sentence of one polarity in each way."""

    pairings: tuple[_Pairing, ...]
    frequencies: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Pair:
    """An example and the clips its voice and face come from."""

    example: Example
    voice: Clip
    face: Clip


class CompositeCorpus:
    """Sentences with acted voices and faces, in three polarities.

    Args:
        data: the folder holding `composite/`, `ravdess/`, `meld/` and `mosi/`.

    Raises:
        CorpusError: a file that is missing or has a fault; names it and the line.
    """

    name: str = "composite"
    classes: tuple[str, ...] = CLASSES

    def __init__(self, data: Path) -> None:
        self._clips = read_clips(data / "ravdess")
        self._sentences = _read_sentences(data)
        ids: set[str] = set()
        parts = {split: self._read_part(data / "composite" / f"{split}.csv", ids) for split in SPLITS}
        self._splits = {split: tuple(pair.example for pair in pairs) for split, pairs in parts.items()}
        # Only clips that the training file uses may be drawn, so that no actor of another part can slip in.
        self._by_polarity: dict[str, list[Clip]] = defaultdict(list)
        self._by_actor: dict[tuple[int, str], list[Clip]] = defaultdict(list)  # (actor, polarity) → clips
        for clip in _clips_used(parts["train"]):
            polarity = POLARITIES[clip.name.emotion]
            self._by_polarity[polarity].append(clip)
            self._by_actor[clip.name.actor, polarity].append(clip)
        self._rules = _measure_rules(self._splits["train"])
        actors = {actor for actor, _ in self._by_actor}
        self._surprised = tuple(
            Unclassed({Modality.VISUAL: clip.face}, {Modality.VISUAL: str(clip.name.emotion)})
            for clip in self._clips.values()
            if clip.name.polarity is None and clip.name.actor in actors
        )

    def examples(self, split: Split) -> Sequence[Example]:
        """The fixed pairs of a part, in file order."""
        return self._splits[split]

    def unclassed(self) -> Sequence[Unclassed]:
        """The surprised faces of the training actors.

        Over the 18 actors that are not of the test part, two left out at a time, experts that know them told the
        polarity of a face with a macro-F1 of .87 instead of .86 and a log loss of .27 instead of .28. Surprised voices
        made no difference.
        """
        return self._surprised

    def redraw(self, rng: np.random.Generator) -> Sequence[Example]:
        """Pair every training sentence anew, by the training file's rule; `native` rows stay as they are.

        For each sentence, who carries the label and the label itself are drawn with the training file's frequencies
        for sentences of its polarity; then a carrying clip uniformly among the training clips of the label's polarity,
        and, where the other channel is not to carry it, a neutral clip of the same actor.
        """
        return tuple(
            example if example.decided_by == NATIVE else self._pair(example, rng) for example in self._splits["train"]
        )

    def _pair(self, example: Example, rng: np.random.Generator) -> Example:
        rule = self._rules[example.modality_labels[Modality.TEXT]]
        pairing = rule.pairings[_choose(rule.frequencies, rng)]
        audio, visual = pairing.polarity(Modality.AUDIO), pairing.polarity(Modality.VISUAL)
        voices = self._by_polarity[audio]
        voice = face = voices[int(rng.integers(len(voices)))]
        if visual != audio:
            faces = self._by_actor[voice.name.actor, visual]
            if not faces:  # an actor without such a clip cannot be paired: the sentence keeps its own pair
                return example
            face = faces[int(rng.integers(len(faces)))]
        return Example(
            id=example.id,
            label=pairing.label,
            sources={
                Modality.TEXT: example.sources[Modality.TEXT],
                Modality.AUDIO: voice.sound,
                Modality.VISUAL: face.face,
            },
            modality_labels={
                Modality.TEXT: example.modality_labels[Modality.TEXT],
                Modality.AUDIO: audio,
                Modality.VISUAL: visual,
            },
            decided_by=pairing.decided_by,
            emotions={**example.emotions, **_emotions(voice, face)},
        )

    def _read_part(self, path: Path, ids: set[str]) -> tuple[_Pair, ...]:
        pairs = []
        for row in read_table(path, _COLUMNS):
            if row["id"] in ids:
                raise row.fault(f"id {row['id']!r} is there twice")
            ids.add(row["id"])
            pairs.append(self._read_pair(row))
        return tuple(pairs)

    def _read_pair(self, row: Row) -> _Pair:
        voice, face = self._clip(row, "audio_clip"), self._clip(row, "visual_clip")
        if not row["text"].strip():
            raise row.fault("the sentence is empty")
        if row["label"] not in CLASSES:
            raise row.fault(f"unknown label {row['label']!r}")
        if row["decided_by"] not in CARRIERS:
            raise row.fault(f"unknown decided_by {row['decided_by']!r}")
        if not voice.name.actor == face.name.actor == _integer(row["actor"]):
            raise row.fault("voice, face and the actor column name different actors")
        polarities = {
            Modality.TEXT: self._text_polarity(row),
            Modality.AUDIO: _polarity(row, voice),
            Modality.VISUAL: _polarity(row, face),
        }
        expected = _Pairing(row["decided_by"], row["label"])
        for modality, polarity in polarities.items():
            if polarity != expected.polarity(modality):
                raise row.fault(
                    f"{modality} is {polarity}, but a {row['label']} row decided by {row['decided_by']} "
                    f"needs it {expected.polarity(modality)}"
                )
        example = Example(
            id=row["id"],
            label=row["label"],
            sources={Modality.TEXT: TextSource(row["text"]), Modality.AUDIO: voice.sound, Modality.VISUAL: face.face},
            modality_labels=polarities,
            decided_by=row["decided_by"],
            emotions={**self._text_emotion(row), **_emotions(voice, face)},
        )
        return _Pair(example, voice, face)

    def _clip(self, row: Row, column: str) -> Clip:
        try:
            return self._clips[row[column]]
        except KeyError:
            raise row.fault(f"{column} {row[column]!r} has no sound file or no action units") from None

    def _text_polarity(self, row: Row) -> str:
        if row["decided_by"] == NATIVE:
            return "neutral"
        try:
            return self._sentences[row["text_id"]].polarity
        except KeyError:
            raise row.fault(f"text_id {row['text_id']!r} is in neither MELD nor CMU-MOSI") from None

    def _text_emotion(self, row: Row) -> dict[Modality, str]:
        sentence = self._sentences.get(row["text_id"])
        return {Modality.TEXT: sentence.emotion} if sentence is not None and sentence.emotion is not None else {}


def _emotions(voice: Clip, face: Clip) -> dict[Modality, str]:
    return {Modality.AUDIO: str(voice.name.emotion), Modality.VISUAL: str(face.name.emotion)}


def _clips_used(pairs: Iterable[_Pair]) -> list[Clip]:
    """Each clip once, in order of first use."""
    return list({clip.face.clip: clip for pair in pairs for clip in (pair.voice, pair.face)}.values())


def _polarity(row: Row, clip: Clip) -> str:
    polarity = clip.name.polarity
    if polarity is None:
        raise row.fault(f"clip {clip.face.clip} shows an emotion without polarity")
    return polarity


def _integer(cell: str) -> int | None:
    return int(cell) if cell.isdecimal() else None


def _choose(frequencies: Sequence[float], rng: np.random.Generator) -> int:
    """Draw an index; `Generator.choice` does the same at fifty times the cost for so few."""
    point = float(rng.random())
    for index, frequency in enumerate(frequencies):
        point -= frequency
        if point < 0:
            return index
    return len(frequencies) - 1  # rounding left a crumb over


def _measure_rules(examples: Sequence[Example]) -> Mapping[str, _PairingRule]:
    """How the training file pairs sentences of each polarity."""
    counts: dict[str, Counter[_Pairing]] = defaultdict(Counter)
    for example in examples:
        if example.decided_by is not None and example.decided_by != NATIVE:
            counts[example.modality_labels[Modality.TEXT]][_Pairing(example.decided_by, example.label)] += 1
    rules = {}
    for polarity, counter in counts.items():
        pairings = tuple(sorted(counter, key=lambda pairing: (pairing.decided_by, pairing.label)))
        total = counter.total()
        rules[polarity] = _PairingRule(pairings, tuple(counter[pairing] / total for pairing in pairings))
    return rules


def _read_sentences(data: Path) -> Mapping[str, _Sentence]:
    """`meld-<part>-<dialogue>-<utterance>` and `mosi-<id>` → what the sentence says by itself."""
    sentences: dict[str, _Sentence] = {}
    for part in ("train", "dev"):
        # Only ASCII cells are used here; the sentences hold stray Windows-1252 punctuation.
        path = data / "meld" / f"{part}_sent_emo.csv"
        for row in read_table(path, ("Sentiment", "Emotion", "Dialogue_ID", "Utterance_ID"), undecodable="replace"):
            if row["Sentiment"] not in CLASSES:
                raise row.fault(f"unknown sentiment {row['Sentiment']!r}")
            key = f"meld-{part}-{row['Dialogue_ID']}-{row['Utterance_ID']}"
            sentences[key] = _Sentence(row["Sentiment"], row["Emotion"])
    for row in read_table(data / "mosi" / "utterances.csv", ("id", "label3")):
        if row["label3"] not in _MOSI_POLARITY:
            raise row.fault(f"unknown label3 {row['label3']!r}")
        sentences[f"mosi-{row['id']}"] = _Sentence(_MOSI_POLARITY[row["label3"]])
    return sentences
