"""What a RAVDESS file name says, and where its sound and its face lie.

Livingstone & Russo, "The Ryerson Audio-Visual Database of Emotional Speech and Song", PLoS ONE 13(5), 2018. A name is
`modality-channel-emotion-intensity-statement-repetition-actor`, two digits each.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from model.modality import Modality
from model.training.datasets.base import ActionUnitMeansSource, SoundSource, Split
from model.training.datasets.signals import Signal
from model.training.datasets.tables import read_table

ORIGIN: Final = "ravdess"
"""The origin of its voices and faces."""

EMOTIONS: Final[Mapping[int, str]] = {
    1: "neutral",
    2: "calm",
    3: "happy",
    4: "sad",
    5: "angry",
    6: "fearful",
    7: "disgust",
    8: "surprised",
}
"""Emotion code → its name, one of `signals.EMOTIONS`."""

POLARITIES: Final[Mapping[int, str]] = {
    1: "neutral",
    2: "neutral",
    3: "positive",
    4: "negative",
    5: "negative",
    6: "negative",
    7: "negative",
}
"""Emotion code → polarity. Surprise has none: it is as often good as bad."""

ACTORS: Final[Mapping[Split, range]] = {"train": range(1, 17), "val": range(17, 19), "test": range(19, 21)}
"""Part → its actors. Actors 21 to 24 are in none."""

ACTION_UNITS: Final = tuple(
    f"AU{unit:02d}_{kind}"
    for kind, units in (
        ("r", (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45)),
        ("c", (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 28, 45)),
    )
    for unit in units
)
"""The 17 intensities then the 18 presences, in OpenFace's order."""

_NAME: Final = re.compile(r"03-01-(0[1-8])-(0[12])-(0[12])-(0[12])-(\d\d)")


@dataclass(frozen=True, slots=True)
class ClipName:
    """A speech clip's name, taken apart; each field is the number its two digits write.

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
        """The polarity the emotion maps to; None for surprise."""
        return POLARITIES.get(self.emotion)

    @property
    def split(self) -> Split | None:
        """The part the actor belongs to; None for an actor of no part."""
        return next((split for split, actors in ACTORS.items() if self.actor in actors), None)


def parse_clip_name(name: str) -> ClipName:
    """Take a clip's name apart.

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
    """One acted clip: its name, its voice and its face."""

    name: ClipName
    sound: SoundSource
    face: ActionUnitMeansSource

    @property
    def voice_signal(self) -> Signal:
        """The voice, with the polarity and emotion of the clip."""
        return Signal(Modality.AUDIO, self.sound, ORIGIN, self.name.polarity, EMOTIONS[self.name.emotion])

    @property
    def face_signal(self) -> Signal:
        """The face, with the polarity and emotion of the clip."""
        return Signal(Modality.VISUAL, self.face, ORIGIN, self.name.polarity, EMOTIONS[self.name.emotion])


def read_clips(folder: Path) -> Mapping[str, Clip]:
    """Read `au_mean.csv` and find `Actor_NN/<clip>.flac` beside it.

    Returns:
        clip name → clip, in file order; only clips that have both a voice and a face.

    Raises:
        CorpusError: `au_mean.csv` is missing or has a fault.
    """
    sounds = {path.stem: path for path in sorted(folder.glob("Actor_[0-9][0-9]/*.flac"))}
    clips: dict[str, Clip] = {}
    for row in read_table(folder / "au_mean.csv", ("clip", *ACTION_UNITS)):
        stem = row["clip"]
        try:
            name = parse_clip_name(stem)
        except ValueError as error:
            raise row.fault(str(error)) from error
        if stem in clips:
            raise row.fault(f"clip {stem} is there twice")
        values = tuple(row.number(column) for column in ACTION_UNITS)
        if stem in sounds:
            clips[stem] = Clip(name, SoundSource(sounds[stem]), ActionUnitMeansSource(stem, values))
    return clips
