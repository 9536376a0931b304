"""Corpora of a single modality, labelled by polarity: voices alone and faces alone, those of RAVDESS first.

Metrics of the voice alone and of the face alone are computed from them, for each corpus (`Example.origins`) apart.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final

from model.features.visual.table import ACTION_UNIT_COLUMNS
from model.modality import Modality
from model.training.datasets import ravdess
from model.training.datasets.base import (
    SPLITS,
    ActionUnitMeansSource,
    Example,
    FixedCorpus,
    Signal,
    SoundSource,
    Split,
    Unclassed,
    example_of,
    unclassed_of,
)
from model.training.datasets.tables import Row, read_table

STILLS: Final = "stills"
"""The origin of all photographs: they count as one corpus, because the photographs of ExpW are all negative."""

VOICE_COLUMNS: Final = ("corpus", "file", "speaker", "language", "emotion", "polarity", "split")
STILL_COLUMNS: Final = ("id", "source", "emotion", "polarity", "split", *ACTION_UNIT_COLUMNS)


@dataclass(frozen=True, slots=True)
class Recording:
    """A clip or picture of a single modality.

    Args:
        id: its name in the composite corpora: `ravdess/<clip>`, `voices/<file>` or `stills/<id>`.
        split: the part it belongs to.
        signal: its content and labels.
        speaker: unique over all corpora, and in one split only; None where the corpus does not name it.
    """

    id: str
    split: Split
    signal: Signal
    speaker: str | None = None


class SingleModalityCorpus(FixedCorpus):
    """Recordings of one modality as a corpus. The label of an example is its polarity, its id `<modality>:<id>`.

    Args:
        recordings: those of all parts, in the order in which examples are returned; ids are unique.

    Attributes:
        recordings: id → recording, with those that have no polarity.
    """

    def __init__(self, recordings: Iterable[Recording]) -> None:
        self.recordings: Mapping[str, Recording] = {recording.id: recording for recording in recordings}
        splits: dict[Split, list[Example]] = {split: [] for split in SPLITS}
        for recording in self.recordings.values():
            if (polarity := recording.signal.polarity) is not None:
                example_id = f"{recording.signal.modality}:{recording.id}"
                splits[recording.split].append(example_of(example_id, polarity, [recording.signal]))
        super().__init__(splits)

    def unclassed(self) -> Sequence[Unclassed]:
        """Return the training recordings whose emotion (surprise) has no polarity."""
        return tuple(
            unclassed_of(recording.signal)
            for recording in self.recordings.values()
            if recording.split == "train" and recording.signal.polarity is None
        )


class VoicesCorpus(SingleModalityCorpus):
    """Voices without text and face: the clips of RAVDESS, then those of `voices/index.csv`, in file order.

    Args:
        data: the folder that holds `voices/` and `ravdess/`.

    Raises:
        CorpusError: a file is missing or has an error; names it and the line.
    """

    name: str = "voices"

    def __init__(self, data: Path) -> None:
        acted = [
            Recording(name, split, clip.voice, f"ravdess_{clip.name.actor:02d}")
            for name, split, clip in _ravdess_clips(data)
        ]
        super().__init__([*acted, *read_voices(data / "voices").values()])


class FacesCorpus(SingleModalityCorpus):
    """Faces without text and voice: the clips of RAVDESS, then the photographs of `faces/stills.csv`, in file order.

    Args:
        data: the folder that holds `faces/` and `ravdess/`.

    Raises:
        CorpusError: a file is missing or has an error; names it and the line.
    """

    name: str = "faces"

    def __init__(self, data: Path) -> None:
        acted = [Recording(name, split, clip.face) for name, split, clip in _ravdess_clips(data)]
        super().__init__([*acted, *read_stills(data / "faces" / "stills.csv").values()])


def read_voices(folder: Path) -> Mapping[str, Recording]:
    """Read `index.csv`; its `file` cells are relative to `folder`.

    Returns:
        `voices/<file>` → clip, in file order. Its origin is the corpus.

    Raises:
        CorpusError: the index is missing or has an error: an unknown emotion, polarity or split, an empty corpus or
            speaker, a file that does not exist, lies outside `folder` or is listed twice, a speaker in two splits, a
            corpus that is `ood` in some rows only.
    """
    clips: dict[str, Recording] = {}
    speakers: dict[str, Split] = {}
    corpora: dict[str, Split] = {}
    for row in read_table(folder / "index.csv", VOICE_COLUMNS):
        id_, split = f"voices/{row['file']}", row.split()
        source = SoundSource(_sound_file(folder, row))
        corpus, polarity, emotion = row.text("corpus"), row.polarity(), row.emotion()
        speaker = row.text("speaker")
        if id_ in clips:
            raise row.fault(f"file {row['file']!r} is there twice")
        if split != (first := speakers.setdefault(speaker, split)):
            raise row.fault(f"speaker {speaker!r} is in the {split} split here, in {first} before")
        if (split == "ood") != ((first := corpora.setdefault(corpus, split)) == "ood"):
            raise row.fault(f"corpus {corpus!r} is {split} here, but {first} before")
        clips[id_] = Recording(id_, split, Signal(Modality.AUDIO, source, corpus, polarity, emotion), speaker)
    return clips


def read_stills(path: Path) -> Mapping[str, Recording]:
    """Read the action units of photographs.

    Returns:
        `stills/<id>` → photograph, in file order. Its origin is `STILLS`.

    Raises:
        CorpusError: the file is missing or has an error: an unknown emotion, polarity or split, an empty id or source,
            an id that is listed twice, an action unit that is not a finite number.
    """
    stills: dict[str, Recording] = {}
    for row in read_table(path, STILL_COLUMNS):
        id_ = f"stills/{row.text('id')}"
        if id_ in stills:
            raise row.fault(f"id {row['id']!r} is there twice")
        row.text("source")  # required, though all sources count as one corpus
        source = ActionUnitMeansSource(id_, tuple(row.number(column) for column in ACTION_UNIT_COLUMNS))
        signal = Signal(Modality.VISUAL, source, STILLS, row.polarity(), row.emotion())
        stills[id_] = Recording(id_, row.split(), signal)
    return stills


def _sound_file(folder: Path, row: Row) -> Path:
    name = PurePath(row.text("file"))
    if name.is_absolute() or ".." in name.parts:
        raise row.fault(f"file {row['file']!r} lies outside the folder of the index")
    if not (folder / name).is_file():
        raise row.fault(f"file {row['file']!r} does not exist")
    return folder / name


def _ravdess_clips(data: Path) -> Iterator[tuple[str, Split, ravdess.Clip]]:
    """Names, parts and clips of RAVDESS; clips of actors in no part are left out."""
    for stem, clip in ravdess.read_clips(data / "ravdess").items():
        if clip.name.split is not None:
            yield f"ravdess/{stem}", clip.name.split, clip
