"""MELD: dialogue of a television series, with text, sound of the clips, and OpenFace files where there are any.

Poria et al., "MELD: A Multimodal Multi-Party Dataset for Emotion Recognition in Conversations", ACL 2019.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from model.modality import Modality
from model.training.datasets.base import (
    CLASSES,
    Example,
    FixedCorpus,
    OpenFaceSource,
    SoundSource,
    Source,
    Split,
    TextSource,
)
from model.training.datasets.tables import AS_WINDOWS_1252, read_table, repair

COLUMNS: Final = ("Utterance", "Sentiment", "Emotion", "Dialogue_ID", "Utterance_ID")
EMOTION_CLASSES: Final = ("angry", "disgust", "fearful", "happy", "neutral", "sad", "surprised")
PARTS: Final[Mapping[Split, str]] = {"train": "train", "val": "dev", "test": "test"}
CLIP_FOLDERS: Final[Mapping[str, tuple[str, ...]]] = {
    "train": ("train_splits", "train"),
    "dev": ("dev_splits_complete", "dev"),
    "test": ("output_repeated_splits_test", "test"),
}
"""Part → folders of its clips: as released, or a name of your own."""
SUFFIXES: Final = (".wav", ".flac", ".mp4")


class MeldCorpus(FixedCorpus):
    """Utterances of `meld/{train,dev,test}_sent_emo.csv`.

    The sound of an utterance is `dia<D>_utt<U>` with one of `SUFFIXES` in a folder of `CLIP_FOLDERS`, its face
    `openface/<part>/dia<D>_utt<U>.csv`; one that does not exist is a missing modality (some clips of the release are
    not readable and have to be deleted). Without `test_sent_emo.csv` the test part is empty.

    Args:
        data: the folder that holds `meld/`.
        emotions: classify by `EMOTION_CLASSES` instead of the three sentiments.

    Raises:
        CorpusError: a CSV file is missing or has an error; names it and the line.
    """

    name: str = "meld"

    def __init__(self, data: Path, *, emotions: bool = False) -> None:
        self._folder, self._emotions = data / "meld", emotions
        super().__init__({split: list(self._part(part)) for split, part in PARTS.items()})
        if emotions:
            self.name, self.classes = "meld-emotions", EMOTION_CLASSES

    def _part(self, part: str) -> Iterator[Example]:
        path = self._folder / f"{part}_sent_emo.csv"
        if part == "test" and not path.exists():
            return
        ids: set[str] = set()
        for row in read_table(path, COLUMNS, undecodable=AS_WINDOWS_1252):
            clip = f"dia{row.whole_number('Dialogue_ID')}_utt{row.whole_number('Utterance_ID')}"
            if clip in ids:
                raise row.fault(f"utterance {clip} is there twice")
            ids.add(clip)
            sources: dict[Modality, Source] = {Modality.TEXT: TextSource(repair(row.text("Utterance")))}
            sounds = (self._folder / folder / (clip + end) for folder in CLIP_FOLDERS[part] for end in SUFFIXES)
            if (sound := next((file for file in sounds if file.is_file()), None)) is not None:
                sources[Modality.AUDIO] = SoundSource(sound)
            if (face := self._folder / "openface" / part / f"{clip}.csv").is_file():
                sources[Modality.VISUAL] = OpenFaceSource(face)
            sentiment, emotion = row.choice("Sentiment", CLASSES), row.emotion("Emotion")
            if emotion not in EMOTION_CLASSES:
                raise row.fault(f"unknown emotion {row['Emotion']!r}")
            yield Example(f"{part}-{clip}", emotion if self._emotions else sentiment, sources)
