"""Clips of a person who trains on their own data: voices with sentences of the same polarity, and their list.

Needs `voices/` and `composite2/` of the corpora.
"""

import csv
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from model.modality import Modality
from model.training.datasets.base import CLASSES, Example, SoundSource, Source, Split, TextSource
from model.training.datasets.composite import Composite2Corpus
from model.training.datasets.recordings import Recording, read_voices

CLIPS: Final = 50
"""Of a person."""


def sentences(data: Path, part: Split) -> dict[str, list[str]]:
    """Polarity → distinct sentences of MELD in a part of composite2."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for example in Composite2Corpus(data).examples(part):
        source = example.sources[Modality.TEXT]
        if isinstance(source, TextSource) and example.origins[Modality.TEXT] == "meld":
            found[example.modality_labels[Modality.TEXT]][source.text] = None
    return {polarity: list(texts) for polarity, texts in sorted(found.items())}


def spoken(
    recordings: Iterable[Recording], texts: Mapping[str, Sequence[str]], rng: np.random.Generator
) -> list[tuple[str, Example]]:
    """Each voice that has a polarity, with a sentence of the same polarity, in a random order; the speaker first."""
    shuffled = {polarity: [own[i] for i in rng.permutation(len(own))] for polarity, own in texts.items()}
    used: Counter[str] = Counter()
    clips = [recording for recording in recordings if recording.signal.polarity is not None]
    pairs = []
    for index in rng.permutation(len(clips)):
        signal = clips[index].signal
        assert signal.polarity is not None
        own = shuffled[signal.polarity]
        text = own[used[signal.polarity] % len(own)]
        used[signal.polarity] += 1
        sources: dict[Modality, Source] = {Modality.TEXT: TextSource(text), Modality.AUDIO: signal.source}
        pairs.append((clips[index].speaker or clips[index].id, Example(clips[index].id, signal.polarity, sources)))
    return pairs


def recordings_of(data: Path, corpus: str) -> list[Recording]:
    """The voices of a corpus that have a polarity and a speaker."""
    recordings = read_voices(data / "voices").values()
    return [r for r in recordings if r.signal.origin == corpus and r.signal.polarity and r.speaker]


def few_speakers(recordings: Sequence[Recording], seed: int) -> set[str]:
    """Speakers, drawn until they have `CLIPS` clips with every polarity."""
    names, chosen = sorted({str(r.speaker) for r in recordings}), set[str]()
    for index in np.random.default_rng(seed).permutation(len(names)):
        clips = [r for r in recordings if r.speaker in chosen]
        if len(clips) >= CLIPS and len({r.signal.polarity for r in clips}) == len(CLASSES):
            break
        chosen.add(names[index])
    return chosen


def all_but_one(recordings: Sequence[Recording], seed: int) -> set[str]:
    """All speakers without one of those who have clips of every polarity: that of the number `seed`."""
    polarities: dict[str, set[str | None]] = defaultdict(set)
    for recording in recordings:
        polarities[str(recording.speaker)].add(recording.signal.polarity)
    complete = sorted(name for name, found in polarities.items() if len(found) == len(CLASSES))
    return set(polarities) - {complete[seed % len(complete)]}


def draw_clips(
    data: Path, recordings: Sequence[Recording], speakers: set[str], seed: int
) -> tuple[list[tuple[str, Example]], list[Example]]:
    """`CLIPS` clips of some speakers, and all clips of the others.

    Returns:
        Speaker and example of each clip, with sentences of MELD from the validation part of composite2; the other
        examples, with sentences from its test part.
    """
    rng = np.random.default_rng(seed)
    own = spoken((r for r in recordings if r.speaker in speakers), sentences(data, "val"), rng)[:CLIPS]
    others = spoken((r for r in recordings if r.speaker not in speakers), sentences(data, "test"), rng)
    return own, [example for _, example in others]


def write_clips(folder: Path, clips: Sequence[tuple[str, Example]]) -> Path:
    """Write clips and their list as a spreadsheet program exports it: semicolons, backslashes, names of its own."""
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    names = {"negative": "Negative", "neutral": "neutral ", "positive": "pos"}
    rows = []
    for number, (speaker, example) in enumerate(clips, start=1):
        text, sound = example.sources[Modality.TEXT], example.sources[Modality.AUDIO]
        assert isinstance(text, TextSource)
        assert isinstance(sound, SoundSource)
        file = f"{number:04d}{sound.path.suffix}"
        shutil.copyfile(sound.path, folder / "clips" / file)
        rows.append({"Audio": f"clips\\{file}", "Text": text.text, "Group": speaker, "Label": names[example.label]})
    path = folder / "my.csv"
    write_csv(path, ("Audio", "Text", "Group", "Label"), rows, ";")
    return path


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]], delimiter: str = ",") -> None:
    """Write a table as UTF-8 with a byte-order mark; columns that a row lacks are empty, others are left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore", delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
