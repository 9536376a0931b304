"""Faces alone: the stills of `faces/stills.csv` and the clip means of RAVDESS, in one corpus labelled by polarity.

The figures of the face alone are computed from it, for each corpus (`Example.origins`) apart.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from model.modality import Modality
from model.training.datasets import ravdess
from model.training.datasets.base import ActionUnitMeansSource
from model.training.datasets.signals import (
    Recording,
    Signal,
    SingleModalityCorpus,
    read_emotion,
    read_name,
    read_polarity,
    read_split,
)
from model.training.datasets.tables import read_table

ORIGIN: Final = "stills"
"""Photographs of all sources are one corpus: ExpW has negative ones alone."""

COLUMNS: Final = ("id", "source", "emotion", "polarity", "split", *ravdess.ACTION_UNITS)


def read_stills(path: Path) -> Mapping[str, Recording]:
    """Read the action units of photographs.

    Returns:
        `stills/<id>` → still, in file order. Values of its source: 17 AU_r then 18 AU_c, as in `ravdess.ACTION_UNITS`;
        its origin is `ORIGIN`.

    Raises:
        CorpusError: the file is missing or has a fault: an unknown emotion, polarity or split, an empty id or source,
            an id that is there twice, an action unit that is not a finite number.
    """
    stills: dict[str, Recording] = {}
    for row in read_table(path, COLUMNS):
        id_ = f"stills/{read_name(row, 'id')}"
        if id_ in stills:
            raise row.fault(f"id {row['id']!r} is there twice")
        read_name(row, "source")  # must be told, though all sources count as one corpus
        units = tuple(row.number(column) for column in ravdess.ACTION_UNITS)
        signal = Signal(
            Modality.VISUAL,
            ActionUnitMeansSource(id_, units),
            origin=ORIGIN,
            polarity=read_polarity(row),
            emotion=read_emotion(row),
        )
        stills[id_] = Recording(id_, read_split(row), signal)
    return stills


class FacesCorpus(SingleModalityCorpus[Recording]):
    """Faces without text and voice. RAVDESS clips come first, then the stills, in file order.

    Args:
        data: the folder that holds `faces/` and `ravdess/`.

    Raises:
        CorpusError: a file that is missing or has a fault; names it and the line.
    """

    name: str = "faces"

    def __init__(self, data: Path) -> None:
        super().__init__([*_ravdess_faces(data / "ravdess"), *read_stills(data / "faces" / "stills.csv").values()])


def _ravdess_faces(folder: Path) -> Iterator[Recording]:
    for stem, clip in ravdess.read_clips(folder).items():
        if clip.name.split is not None:
            yield Recording(f"ravdess/{stem}", clip.name.split, clip.face_signal)
