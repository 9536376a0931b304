"""Voices alone: the clips of `voices/index.csv` and of RAVDESS, in one corpus labelled by polarity.

The figures of the voice alone are computed from it, for each corpus (`Example.origins`) apart.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final

from model.modality import Modality
from model.training.datasets import ravdess
from model.training.datasets.base import SoundSource
from model.training.datasets.signals import (
    Recording,
    Signal,
    SingleModalityCorpus,
    read_emotion,
    read_name,
    read_polarity,
    read_split,
)
from model.training.datasets.tables import Row, read_table

COLUMNS: Final = ("corpus", "file", "speaker", "language", "emotion", "polarity", "split")


@dataclass(frozen=True, slots=True)
class VoiceClip(Recording):
    """A clip of one speaker.

    Args:
        id: `voices/<corpus>/<file>` or `ravdess/<clip>`.
        split: the part it belongs to; all clips of a speaker are in the same one.
        signal: the sound with its polarity and emotion; the origin is the corpus.
        speaker: unique over all corpora.
        language: ISO 639-1 code.
    """

    speaker: str
    language: str


def read_voices(folder: Path) -> Mapping[str, VoiceClip]:
    """Read `index.csv`; its `file` cells are relative to `folder`.

    Returns:
        `voices/<file>` → clip, in file order.

    Raises:
        CorpusError: the index is missing or has a fault: an unknown emotion, polarity or split, an empty corpus or
            speaker, a file that is not there, lies outside `folder` or is listed twice, a speaker in two splits, a
            corpus that is `ood` in some rows only.
    """
    clips: dict[str, VoiceClip] = {}
    speakers: dict[str, VoiceClip] = {}
    corpora: dict[str, VoiceClip] = {}
    for row in read_table(folder / "index.csv", COLUMNS):
        clip = VoiceClip(
            id=f"voices/{row['file']}",
            split=read_split(row),
            signal=Signal(
                Modality.AUDIO,
                SoundSource(_sound_file(folder, row)),
                origin=read_name(row, "corpus"),
                polarity=read_polarity(row),
                emotion=read_emotion(row),
            ),
            speaker=read_name(row, "speaker"),
            language=row["language"],
        )
        if clip.id in clips:
            raise row.fault(f"file {row['file']!r} is there twice")
        clips[clip.id] = clip
        first = speakers.setdefault(clip.speaker, clip)
        if clip.split != first.split:
            raise row.fault(f"speaker {clip.speaker!r} is in the {clip.split} split here, in {first.split} before")
        first = corpora.setdefault(clip.signal.origin, clip)
        if (clip.split == "ood") != (first.split == "ood"):
            raise row.fault(f"corpus {clip.signal.origin!r} is {clip.split} here, but {first.split} before")
    return clips


class VoicesCorpus(SingleModalityCorpus[VoiceClip]):
    """Voices without text and face. RAVDESS clips come first, then those of `voices/index.csv`, in file order.

    Args:
        data: the folder that holds `voices/` and `ravdess/`.

    Raises:
        CorpusError: a file that is missing or has a fault; names it and the line.
    """

    name: str = "voices"

    def __init__(self, data: Path) -> None:
        super().__init__([*_ravdess_voices(data / "ravdess"), *read_voices(data / "voices").values()])


def _ravdess_voices(folder: Path) -> Iterator[VoiceClip]:
    for stem, clip in ravdess.read_clips(folder).items():
        if clip.name.split is not None:
            speaker = f"ravdess_{clip.name.actor:02d}"
            yield VoiceClip(f"ravdess/{stem}", clip.name.split, clip.voice_signal, speaker, "en")


def _sound_file(folder: Path, row: Row) -> Path:
    name = PurePath(read_name(row, "file"))
    if name.is_absolute() or ".." in name.parts:
        raise row.fault(f"file {row['file']!r} lies outside the folder of the index")
    if not (folder / name).is_file():
        raise row.fault(f"file {row['file']!r} does not exist")
    return folder / name
