"""CMU-MOSI with one audio and one visual vector for each utterance, in the split of bc-LSTM.

Zadeh et al., IEEE Intelligent Systems 31(6), 2016. Vectors: Poria et al., ACL 2017.
"""

from pathlib import Path
from typing import Final

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
from model.training.datasets.precomputed import precomputed_source, read_array
from model.training.datasets.tables import read_table

COLUMNS: Final = ("row", "id", "video_id", "bclstm_split", "label", "text")
VECTORS: Final = {Modality.AUDIO: "audio_is73.npy", Modality.VISUAL: "video_3dcnn100.npy"}
VALIDATION_SHARE: Final = 1 / 6  # of the training videos; about the 229 utterances of the standard validation fold


class MosiCorpus(FixedCorpus):
    """Utterances of `mosi/utterances.csv`, with the vectors of the same row of each file of `VECTORS`.

    The test part is that of bc-LSTM; the validation part is `VALIDATION_SHARE` of its training videos, drawn by hash.
    The standard folds cannot be used: the visual vectors were trained on the labels of bc-LSTM's training videos, some
    of which are test videos of the standard folds.

    Args:
        data: the folder that holds `mosi/`.
        regression: keep the scores in [-3, 3]; otherwise their sign is the class.

    Raises:
        CorpusError: a file is missing or has an error; names it and the line.
    """

    name: str = "mosi"

    def __init__(self, data: Path, *, regression: bool = False) -> None:
        folder = data / "mosi"
        rows = list(read_table(folder / "utterances.csv", COLUMNS))
        vectors = {modality: read_array(folder / file, len(rows)) for modality, file in VECTORS.items()}
        videos: dict[str, str] = {}
        for row in rows:
            split = row.choice("bclstm_split", ("train", "test"))
            if videos.setdefault(row.text("video_id"), split) != split:
                raise row.fault(f"video {row['video_id']!r} is in {split} here, in {videos[row['video_id']]} before")
        training = [video for video, split in videos.items() if split == "train"]
        validation = draw_groups(training, VALIDATION_SHARE, "mosi validation") if training else frozenset()
        splits: dict[Split, list[Example]] = {"train": [], "val": [], "test": []}
        ids: set[str] = set()
        for number, row in enumerate(rows):
            if row["row"] != str(number):
                raise row.fault(f"row {row['row']!r} where the vectors of row {number} follow")
            if (id_ := row.text("id")) in ids:
                raise row.fault(f"id {id_!r} is there twice")
            ids.add(id_)
            score = row.number("label")
            if abs(score) > MAX_SCORE:
                raise row.fault(f"the label {score:g} is outside [-{MAX_SCORE:g}, {MAX_SCORE:g}]")
            sources: dict[Modality, Source] = {Modality.TEXT: TextSource(row.text("text"))}
            for modality, file in VECTORS.items():
                values = vectors[modality][number : number + 1]
                source = precomputed_source(folder / file, id_, modality, values, f"row {number} ({id_})")
                if source is not None:
                    sources[modality] = source
            part: Split = "test" if videos[row["video_id"]] == "test" else "train"
            if row["video_id"] in validation:
                part = "val"
            splits[part].append(scored_example(id_, score, sources, regression=regression))
        super().__init__(splits)
        if regression:
            self.name, self.classes = "mosi-scores", SCORE_CLASSES
