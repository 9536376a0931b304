"""Messages, attributes and pickling of the errors."""

import pickle

import pytest

from model.errors import (
    CheckpointError,
    ConfigError,
    CorpusError,
    CorruptModality,
    EMMRError,
    EmptyModality,
    FaceNotFound,
    ModalityError,
    ModalityTooLarge,
    UnsupportedFormat,
)
from model.modality import Modality


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("x"),
        CheckpointError("x"),
        CorpusError("file", 1, "x"),
        CorruptModality(Modality.TEXT, "x"),
        ModalityTooLarge(Modality.AUDIO, "x"),
        UnsupportedFormat(Modality.AUDIO, "x"),
        FaceNotFound(Modality.VISUAL, "x"),
        EmptyModality(Modality.VISUAL, "no_face", "x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_error_derives_from_the_base_and_has_its_detail(error: EMMRError) -> None:
    assert isinstance(error, EMMRError)
    assert "x" in str(error)


def test_corpus_error_names_file_and_row() -> None:
    assert str(CorpusError("a.csv", 7, "the label is empty")) == "a.csv, line 7: the label is empty"
    assert str(CorpusError("a.csv", None, "holds no rows")) == "a.csv: holds no rows"


def test_modality_error_names_modality_and_place() -> None:
    error = CorruptModality(Modality.VISUAL, "no number", "line 7, column AU12_r")
    assert str(error) == "visual: no number (line 7, column AU12_r)"
    assert (error.modality, error.detail, error.place) == (Modality.VISUAL, "no number", "line 7, column AU12_r")
    assert str(CorruptModality(Modality.AUDIO, "cut")) == "audio: cut"


def test_empty_modality_has_a_reason_and_is_not_corrupt() -> None:
    error = EmptyModality(Modality.AUDIO, "silent", "never louder than -60 dBFS")
    assert error.reason == "silent"
    assert isinstance(error, ModalityError)
    assert not isinstance(error, CorruptModality)


@pytest.mark.parametrize(
    "error",
    [
        CorpusError("clips.csv", 7, "no label"),
        CorruptModality(Modality.AUDIO, "cut", "byte 10"),
        EmptyModality(Modality.VISUAL, "no_face", "no frame shows a face"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_errors_survive_pickling(error: EMMRError) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), vars(back)) == (type(error), str(error), vars(error))
