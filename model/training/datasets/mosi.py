"""CMU-MOSI with one audio and one visual vector for each utterance, in the split of bc-LSTM.

Zadeh et al., IEEE Intelligent Systems 31(6), 2016. Vectors: Poria et al., ACL 2017.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

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
from model.training.datasets.meld import MeldCorpus
from model.training.datasets.precomputed import precomputed_source, read_array
from model.training.datasets.tables import Row, read_table
from model.training.datasets.word_vectors import (
    WordVectors,
    read_word_vectors,
    sentence_vectors,
    split_words,
    train_word_vectors,
)
from model.types import FloatArray

COLUMNS: Final = ("row", "id", "video_id", "bclstm_split", "label", "text")
TABLE: Final = "utterances.csv"
VECTORS: Final = {Modality.AUDIO: "audio_is73.npy", Modality.VISUAL: "video_3dcnn100.npy"}
GLOVE: Final = "glove.txt"
Words = Literal["static", "glove"]
VALIDATION_SHARE: Final = 1 / 6  # of the training videos; about the 229 utterances of the standard validation fold


class MosiCorpus(FixedCorpus):
    """Utterances of `mosi/utterances.csv`, with the vectors of the same row of each file of `VECTORS`.

    The test part is that of bc-LSTM; the validation part is `VALIDATION_SHARE` of its training videos, drawn by hash.
    The standard folds cannot be used: the visual vectors were trained on the labels of bc-LSTM's training videos, some
    of which are test videos of the standard folds.

    Args:
        data: the folder that holds `mosi/`.
        regression: keep the scores in [-3, 3]; otherwise their sign is the class.
        words: replace sentences by static word vectors, a slot for each word: `static` trains them on the sentences of
            the training part and of MELD's (`meld/` in `data`), `glove` reads them from `mosi/glove.txt`. None keeps
            the sentences, for the text encoder.

    Raises:
        CorpusError: a file is missing or has an error; names it and the line.
    """

    name: str = "mosi"

    def __init__(self, data: Path, *, regression: bool = False, words: Words | None = None) -> None:
        folder = data / "mosi"
        rows = list(read_table(folder / TABLE, COLUMNS))
        vectors = {modality: read_array(folder / file, len(rows)) for modality, file in VECTORS.items()}
        videos: dict[str, str] = {}
        for row in rows:
            split = row.choice("bclstm_split", ("train", "test"))
            if videos.setdefault(row.text("video_id"), split) != split:
                raise row.fault(f"video {row['video_id']!r} is in {split} here, in {videos[row['video_id']]} before")
        training = [video for video, split in videos.items() if split == "train"]
        validation = draw_groups(training, VALIDATION_SHARE, "mosi validation") if training else frozenset()
        word_vectors = None if words is None else _word_vectors(data, words, rows, set(training) - validation)
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
            text = row.text("text")
            given = {modality: vectors[modality][number : number + 1] for modality in VECTORS}
            if word_vectors is not None:
                given[Modality.TEXT] = sentence_vectors(text, word_vectors)
            sources: dict[Modality, Source] = {Modality.TEXT: TextSource(text)} if word_vectors is None else {}
            sources |= _precomputed_sources(folder, id_, given, f"row {number} ({id_})")
            part: Split = "test" if videos[row["video_id"]] == "test" else "train"
            if row["video_id"] in validation:
                part = "val"
            splits[part].append(scored_example(id_, score, sources, regression=regression))
        super().__init__(splits)
        if regression:
            self.name, self.classes = "mosi-scores", SCORE_CLASSES
        elif words is not None:
            self.name = f"mosi-{words}"


def _precomputed_sources(
    folder: Path, key: str, given: Mapping[Modality, FloatArray], place: str
) -> dict[Modality, Source]:
    """The vectors of an utterance as sources, without those that are missing."""
    found = {
        modality: precomputed_source(folder / VECTORS.get(modality, TABLE), key, modality, values, place)
        for modality, values in given.items()
    }
    return {modality: source for modality, source in found.items() if source is not None}


def _word_vectors(data: Path, words: Words, rows: Sequence[Row], training: Collection[str]) -> WordVectors:
    """The vectors of words, for `MosiCorpus`; `training` are videos."""
    if words == "glove":
        return read_word_vectors(data / "mosi" / GLOVE, {word for row in rows for word in split_words(row["text"])})
    others = (example.sources[Modality.TEXT] for example in MeldCorpus(data).examples("train"))
    return train_word_vectors(
        [
            *(row["text"] for row in rows if row["video_id"] in training),
            *(source.text for source in others if isinstance(source, TextSource)),
        ]
    )
