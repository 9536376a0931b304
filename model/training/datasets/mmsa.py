"""CMU-MOSI, CMU-MOSEI and CH-SIMS as the feature pickles of MMSA, with sequences of audio and visual vectors.

Mao et al., "M-SENA: An Integrated Platform for Multimodal Sentiment Analysis", ACL 2022 demonstrations.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from model.errors import CorpusError
from model.modality import Modality
from model.training.datasets.base import (
    MAX_SCORE,
    SCORE_CLASSES,
    Example,
    FixedCorpus,
    Source,
    Split,
    TextSource,
    scored_example,
)
from model.training.datasets.pickles import read_pickle
from model.training.datasets.precomputed import precomputed_source

PARTS: Final[Mapping[str, Split]] = {"train": "train", "valid": "val", "test": "test"}
KEYS: Final = {Modality.AUDIO: "audio", Modality.VISUAL: "vision"}
REQUIRED: Final = ("id", "raw_text", "regression_labels", *KEYS.values())


class MmsaCorpus(FixedCorpus):
    """A file such as `unaligned_50.pkl`; sentences are encoded by the model's own text encoder.

    Sequences end at `audio_lengths` and `vision_lengths` where the file has them; otherwise vectors of zeros at both
    ends are padding. An empty sentence and vectors that are 0 throughout are missing modalities.

    Args:
        path: the pickle: part → key → array or list.
        regression: keep the scores; otherwise their sign is the class.

    Raises:
        CorpusError: the file cannot be read, names code to execute, or has an error; names the part and the utterance.
    """

    name: str = "mmsa"

    def __init__(self, path: Path, *, regression: bool = False) -> None:
        content = read_pickle(path)
        if not isinstance(content, Mapping) or not all(isinstance(content.get(part), Mapping) for part in PARTS):
            raise CorpusError(path, None, f"holds no dictionary of the parts {', '.join(PARTS)}")
        self._path, self._regression, self._ids = path, regression, set[str]()
        super().__init__({split: self._part(part, content[part]) for part, split in PARTS.items()})
        if regression:
            self.name, self.classes = "mmsa-scores", SCORE_CLASSES

    def _part(self, part: str, content: Mapping[Any, Any]) -> Sequence[Example]:
        if absent := [key for key in REQUIRED if key not in content]:
            raise CorpusError(self._path, None, f"{part}: missing key: {', '.join(absent)}")
        count = len(content["id"])
        lengths = [key for modality in KEYS.values() if (key := f"{modality}_lengths") in content]
        for key in (*REQUIRED, *lengths):
            if not hasattr(content[key], "__len__") or len(content[key]) != count:
                raise CorpusError(self._path, None, f"{part}: {key} holds no value for each of {count} ids")
        arrays = {}
        for modality, key in KEYS.items():
            arrays[modality] = np.asarray(content[key])
            if arrays[modality].ndim != 3 or arrays[modality].dtype.kind not in "fiu":
                raise CorpusError(self._path, None, f"{part}: {key} is no array of utterances, time steps and features")
        return [self._example(part, content, arrays, number) for number in range(count)]

    def _example(self, part: str, content: Mapping[Any, Any], arrays: Mapping[Modality, Any], number: int) -> Example:
        id_, text = content["id"][number], content["raw_text"][number]
        place = f"{part}, item {number} ({id_})"
        if not isinstance(id_, str) or not isinstance(text, str):
            raise CorpusError(self._path, None, f"{place}: id and raw_text must be text")
        if id_ in self._ids:
            raise CorpusError(self._path, None, f"{place}: the id is there twice")
        self._ids.add(str(id_))
        score = _number(content["regression_labels"][number])
        if score is None or abs(score) > MAX_SCORE:
            raise CorpusError(self._path, None, f"{place}: regression_labels holds no score in [-3, 3]")
        sources: dict[Modality, Source] = {Modality.TEXT: TextSource(str(text))} if text.strip() else {}
        for modality, key in KEYS.items():
            values = arrays[modality][number]
            if (lengths := content.get(f"{key}_lengths")) is not None:
                length = _number(lengths[number])
                if length is None or not 0 <= length <= len(values) or length % 1:
                    raise CorpusError(self._path, None, f"{place}: {key}_lengths holds no length of {key}")
                values = values[: int(length)]
            elif len(kept := np.flatnonzero(values.any(axis=1))):
                values = values[kept[0] : kept[-1] + 1]
            source = precomputed_source(self._path, str(id_), modality, values, place)
            if source is not None:
                sources[modality] = source
        if not sources:
            raise CorpusError(self._path, None, f"{place}: text, audio and vision are all empty")
        return scored_example(str(id_), score, sources, regression=self._regression)


def _number(value: object) -> float | None:
    """A finite number, whether of Python or an array of one element; else None."""
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        return None
    return float(array.item())
