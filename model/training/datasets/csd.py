"""CMU-MOSI and CMU-MOSEI as computational sequences (`.csd`) of the CMU-MultimodalSDK, aligned by label intervals.

Zadeh et al., "Multimodal Language Analysis in the Wild", ACL 2018. Reading needs h5py, of the `train` extra.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from model.errors import ConfigError, CorpusError
from model.modality import Modality
from model.training.datasets.base import (
    MAX_SCORE,
    SCORE_CLASSES,
    Example,
    FixedCorpus,
    Source,
    Split,
    TextSource,
    draw_groups,
    scored_example,
)
from model.training.datasets.precomputed import precomputed_source
from model.training.datasets.tables import read_content
from model.types import BoolArray

if TYPE_CHECKING:
    import h5py

LABELS: Final = "labels"
NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    LABELS: ("labels",),
    Modality.TEXT: ("timestampedwords",),
    Modality.AUDIO: ("covarep", "opensmile"),
    Modality.VISUAL: ("facet", "openface"),
}
"""What a file's name contains, in any case: `CMU_MOSI_COVAREP.csd`, `CMU_MOSEI_VisualFacet42.csd`."""
FOLDS: Final = "folds.json"
FOLD_PARTS: Final[Mapping[str, Split]] = {"train": "train", "valid": "val", "test": "test"}
PAUSE: Final = "sp"  # the word of a pause between words
_HELD_OUT: Final = 0.1  # share of the videos in each of the validation and test parts where there is no `folds.json`


class CsdCorpus(FixedCorpus):
    """A folder with one `.csd` file each of labels, timestamped words, audio and visual features.

    Each interval of the labels is an utterance: the words and vectors whose middle lies in it. `folds.json`, if there,
    has the video ids of the parts `train`, `valid` and `test`; videos in none are left out. Without it 80/10/10 of the
    videos are drawn by hash.

    Args:
        folder: of the files.
        regression: keep the scores (the first column of the labels); otherwise their sign is the class.

    Raises:
        CorpusError: a file is missing or has an error; names it, the video and the row.
        ConfigError: h5py is not installed.
    """

    name: str = "csd"

    def __init__(self, folder: Path, *, regression: bool = False) -> None:
        splits: dict[Split, list[Example]] = {"train": [], "val": [], "test": []}
        with ExitStack() as stack:
            sequences = {kind: _Sequence.open(_file_of(folder, kind), stack) for kind in NAMES}
            labels = sequences.pop(LABELS)
            parts = _parts(folder, labels.videos)
            for video in labels.videos:
                if video in parts:
                    splits[parts[video]] += _utterances(video, labels, sequences, regression=regression)
        super().__init__(splits)
        if regression:
            self.name, self.classes = "csd-scores", SCORE_CLASSES


@dataclass(frozen=True, slots=True)
class _Sequence:
    """An open file: `/<name>/data/<video>/features` `(n, d)` and `intervals` `(n, 2)` in seconds."""

    path: Path
    videos: "h5py.Group"

    @classmethod
    def open(cls, path: Path, stack: ExitStack) -> "_Sequence":
        """Open a file until `stack` is closed."""
        try:
            import h5py
        except ImportError as error:
            raise ConfigError("reading .csd files needs h5py: install the train extra") from error

        try:
            file = stack.enter_context(h5py.File(path, "r"))
        except OSError as error:
            raise CorpusError(path, None, f"cannot be read as HDF5: {error}") from error
        (root, *others) = list(file) or [None]
        data = None if root is None or others else file.get(f"{root}/data")
        if not isinstance(data, h5py.Group) or not len(data):
            raise CorpusError(path, None, "holds no computational sequence: /<name>/data is needed")
        return cls(path, data)

    def read(self, video: str) -> tuple[Any, Any]:
        """Features and intervals of a video, as many rows each; two empty arrays where the file lacks the video."""
        import h5py

        if video not in self.videos:
            return np.zeros((0, 1)), np.zeros((0, 2))
        arrays = []
        for key in ("features", "intervals"):
            dataset = self.videos.get(f"{video}/{key}")
            if not isinstance(dataset, h5py.Dataset):
                raise self.fault(video, f"no {key}")
            if dataset.external or dataset.is_virtual or dataset.file.filename != self.videos.file.filename:
                raise self.fault(video, f"{key} are stored in another file")
            try:
                arrays.append(dataset[()])
            except OSError as error:
                raise self.fault(video, f"{key} cannot be read: {error}") from error
        features, intervals = arrays
        if features.ndim != 2 or intervals.shape != (len(features), 2) or intervals.dtype.kind not in "fiu":
            raise self.fault(video, f"features {features.shape} and intervals {intervals.shape} do not match")
        if not np.isfinite(intervals).all():
            row = int(np.flatnonzero(~np.isfinite(intervals).all(axis=1))[0])
            raise self.fault(video, f"row {row} of the intervals is no time")
        return features, intervals

    def fault(self, video: str, detail: str) -> CorpusError:
        """An error that names the file and the video."""
        return CorpusError(self.path, None, f"video {video}: {detail}")


def _file_of(folder: Path, kind: str) -> Path:
    found = [path for path in sorted(folder.glob("*.csd")) if any(name in path.name.lower() for name in NAMES[kind])]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "there is none"
        raise CorpusError(folder, None, f"needs one .csd file of {kind} ({' or '.join(NAMES[kind])}): {names}")
    return found[0]


def _parts(folder: Path, videos: Iterable[str]) -> Mapping[str, Split]:
    """The part of each video that has one."""
    path = folder / FOLDS
    if not path.exists():
        test = draw_groups(videos, _HELD_OUT, "csd test")
        validation = draw_groups(set(videos) - test, _HELD_OUT / (1 - _HELD_OUT), "csd validation")
        return {v: "test" if v in test else "val" if v in validation else "train" for v in videos}
    try:
        folds = json.loads(read_content(path))
    except ValueError as error:
        raise CorpusError(path, None, f"is not JSON: {error}") from error
    if not isinstance(folds, dict) or not all(isinstance(folds.get(name), list) for name in FOLD_PARTS):
        raise CorpusError(path, None, f"needs a list of video ids for each of {', '.join(FOLD_PARTS)}")
    parts: dict[str, Split] = {}
    for name, split in FOLD_PARTS.items():
        for video in folds[name]:
            if parts.setdefault(str(video), split) != split:
                raise CorpusError(path, None, f"video {video!r} is in two parts")
    return parts


def _utterances(
    video: str, labels: _Sequence, sequences: Mapping[str, _Sequence], *, regression: bool
) -> Iterator[Example]:
    scores, intervals = labels.read(video)
    contents = {kind: sequence.read(video) for kind, sequence in sequences.items()}
    for number, (start, end) in enumerate(intervals):
        place = f"row {number}"
        if scores.dtype.kind not in "fiu" or not abs(float(scores[number, 0])) <= MAX_SCORE:
            raise labels.fault(video, f"{place} holds no score in [-3, 3]")
        sources: dict[Modality, Source] = {}
        for kind, (features, times) in contents.items():
            modality, chosen = Modality(kind), features[_within(times, start, end)]
            source: Source | None = None
            if modality == Modality.TEXT:
                sentence = _sentence(chosen)
                source = TextSource(sentence) if sentence else None
            elif features.dtype.kind not in "fiu":
                raise sequences[kind].fault(video, "the features are no numbers")
            else:
                key = f"{video}[{number}]"
                source = precomputed_source(sequences[kind].path, key, modality, chosen, f"video {video}, {place}")
            if source is not None:
                sources[modality] = source
        if sources:
            yield scored_example(f"{video}[{number}]", float(scores[number, 0]), sources, regression=regression)


def _within(times: Any, start: float, end: float) -> BoolArray:
    """Whether the middle of each interval `(n, 2)` lies between two times."""
    middle = times.mean(axis=1)
    return np.asarray((start <= middle) & (middle < end))


def _sentence(words: Any) -> str:
    """The words `(n, 1)` of an utterance, as bytes or text, without pauses."""
    texts = (word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word) for word in words[:, 0])
    return " ".join(text for text in texts if text != PAUSE)
