"""Clips of RAVDESS, named `modality-channel-emotion-intensity-statement-repetition-actor`, two digits each.

Livingstone & Russo, "The Ryerson Audio-Visual Database of Emotional Speech and Song", PLoS ONE 13(5), 2018.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from model.errors import CorpusError
from model.features.visual.table import ACTION_UNIT_COLUMNS
from model.modality import Modality
from model.training.datasets.base import (
    ActionUnitMeansSource,
    Example,
    FixedCorpus,
    OpenFaceSource,
    Signal,
    SoundSource,
    Source,
    Split,
    TextSource,
)
from model.training.datasets.tables import read_table

ORIGIN: Final = "ravdess"
"""The origin of its voices and faces."""

EMOTIONS: Final[Mapping[int, str]] = dict(
    enumerate(("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"), start=1)
)
"""Emotion code → its name, one of `base.EMOTIONS`."""

POLARITIES: Final[Mapping[int, str]] = {1: "neutral", 2: "neutral", 3: "positive"} | dict.fromkeys(
    (4, 5, 6, 7), "negative"
)
"""Emotion code → polarity. Surprise has none: it is positive as often as negative."""

ACTORS: Final[Mapping[Split, range]] = {"train": range(1, 17), "val": range(17, 19), "test": range(19, 21)}
"""Part → its actors. Actors 21 to 24 are in none."""

STATEMENTS: Final[Mapping[int, str]] = {1: "Kids are talking by the door.", 2: "Dogs are sitting by the door."}
"""Statement code → the sentence spoken."""

EMOTION_CLASSES: Final = ("angry", "disgust", "fearful", "happy", "neutral", "sad", "surprised")
"""The emotions as classes; calm counts as neutral."""

_NAME: Final = re.compile(r"03-01-(0[1-8])-(0[12])-(0[12])-(0[12])-(\d\d)")


@dataclass(frozen=True, slots=True)
class ClipName:
    """The fields of a speech clip's name.

    Args:
        emotion: a key of `EMOTIONS`.
        intensity: 1 normal, 2 strong.
        statement: 1 "Kids are talking by the door", 2 "Dogs are sitting by the door".
        repetition: 1 or 2.
        actor: odd for men, even for women.
    """

    emotion: int
    intensity: int
    statement: int
    repetition: int
    actor: int

    @property
    def polarity(self) -> str | None:
        """The polarity that the emotion maps to; None for surprise."""
        return POLARITIES.get(self.emotion)

    @property
    def split(self) -> Split | None:
        """The part that the actor belongs to; None for an actor of no part."""
        return next((split for split, actors in ACTORS.items() if self.actor in actors), None)


def parse_clip_name(name: str) -> ClipName:
    """Parse a clip's name.

    Args:
        name: without folder and suffix, `03-01-06-01-02-01-12` for example.

    Raises:
        ValueError: not the name of a RAVDESS audio-only speech clip.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is not the name of a RAVDESS speech clip")
    return ClipName(*map(int, match.groups()))


@dataclass(frozen=True, slots=True)
class Clip:
    """One acted clip: its name, and the voice and face with its polarity and emotion."""

    name: ClipName
    voice: Signal
    face: Signal


def read_clips(folder: Path) -> Mapping[str, Clip]:
    """Read `au_mean.csv` and find `Actor_NN/<clip>.flac` or `.wav` in the same folder.

    Returns:
        clip name → clip, in file order; only clips that have both a voice and a face.

    Raises:
        CorpusError: `au_mean.csv` is missing or has an error.
    """
    sounds = _sounds(folder)
    clips: dict[str, Clip] = {}
    for stem, face in _faces(folder).items():
        if stem in sounds:
            name = parse_clip_name(stem)
            labels = (ORIGIN, name.polarity, EMOTIONS[name.emotion])
            voice = Signal(Modality.AUDIO, SoundSource(sounds[stem]), *labels)
            clips[stem] = Clip(name, voice, Signal(Modality.VISUAL, face, *labels))
    return clips


class RavdessCorpus(FixedCorpus):
    """The clips of `Actor_NN/` with what is spoken in them, split by actor.

    The face of a clip is its row of `au_mean.csv`, if that file is there, or else `openface/<clip>.csv`; one that does
    not exist is a missing modality.

    Args:
        data: the folder that holds `ravdess/`.
        emotions: classify by `EMOTION_CLASSES` instead of the three polarities, to which surprise does not belong.

    Raises:
        CorpusError: there is no clip, a clip has another name than RAVDESS gives, or `au_mean.csv` has an error.
    """

    name: str = "ravdess"

    def __init__(self, data: Path, *, emotions: bool = False) -> None:
        folder = data / "ravdess"
        sounds = _sounds(folder)
        if not sounds:
            raise CorpusError(folder, None, "holds no Actor_NN/*.wav or *.flac")
        faces = _faces(folder) if (folder / "au_mean.csv").exists() else {}
        splits: dict[Split, list[Example]] = {split: [] for split in ACTORS}
        for stem, sound in sounds.items():
            try:
                clip = parse_clip_name(stem)
            except ValueError as error:
                raise CorpusError(sound, None, str(error)) from error
            label = _emotion_class(clip) if emotions else clip.polarity
            if clip.split is None or label is None:
                continue
            sources: dict[Modality, Source] = {
                Modality.TEXT: TextSource(STATEMENTS[clip.statement]),
                Modality.AUDIO: SoundSource(sound),
            }
            if stem in faces:
                sources[Modality.VISUAL] = faces[stem]
            elif (face := folder / "openface" / f"{stem}.csv").is_file():
                sources[Modality.VISUAL] = OpenFaceSource(face)
            splits[clip.split].append(Example(stem, label, sources))
        super().__init__(splits)
        if emotions:
            self.name, self.classes = "ravdess-emotions", EMOTION_CLASSES


def _emotion_class(clip: ClipName) -> str:
    return "neutral" if EMOTIONS[clip.emotion] == "calm" else EMOTIONS[clip.emotion]


def _sounds(folder: Path) -> Mapping[str, Path]:
    """Clip name → file."""
    files = folder.glob("Actor_[0-9][0-9]/*")
    return {path.stem: path for path in sorted(files) if path.suffix in (".flac", ".wav")}


def _faces(folder: Path) -> Mapping[str, ActionUnitMeansSource]:
    """Clip name → action units, in the order of `au_mean.csv`."""
    faces: dict[str, ActionUnitMeansSource] = {}
    for row in read_table(folder / "au_mean.csv", ("clip", *ACTION_UNIT_COLUMNS)):
        try:
            parse_clip_name(row["clip"])
        except ValueError as error:
            raise row.fault(str(error)) from error
        if row["clip"] in faces:
            raise row.fault(f"clip {row['clip']} is there twice")
        values = tuple(row.number(column) for column in ACTION_UNIT_COLUMNS)
        faces[row["clip"]] = ActionUnitMeansSource(row["clip"], values)
    return faces
