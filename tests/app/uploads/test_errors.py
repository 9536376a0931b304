import pytest

from app.uploads.errors import (
    CorruptPart,
    PartTooLarge,
    TextTooLong,
    UnsupportedPart,
    UploadError,
    from_modality,
)
from model.errors import (
    CorruptModality,
    EmptyModality,
    ModalityError,
    ModalityTooLarge,
    UnsupportedFormat,
)
from model.modality import Modality


@pytest.mark.parametrize(
    ("error", "kind", "status", "part"),
    [
        (CorruptModality(Modality.AUDIO, "cut", "byte 7"), CorruptPart, 422, "audio"),
        (CorruptModality(Modality.VISUAL, "cut", "line 7"), CorruptPart, 422, "openface"),
        (CorruptModality(Modality.TEXT, "cut"), CorruptPart, 422, "text"),
        (ModalityTooLarge(Modality.AUDIO, "long"), PartTooLarge, 413, "audio"),
        (ModalityTooLarge(Modality.VISUAL, "long"), PartTooLarge, 413, "openface"),
        (ModalityTooLarge(Modality.TEXT, "long"), TextTooLong, 422, "text"),
        (UnsupportedFormat(Modality.AUDIO, "kind"), UnsupportedPart, 415, "audio"),
        (UnsupportedFormat(Modality.VISUAL, "columns"), CorruptPart, 422, "openface"),
    ],
)
def test_a_fault_of_a_modality_becomes_a_fault_of_its_part(
    error: ModalityError, kind: type[UploadError], status: int, part: str
) -> None:
    said = from_modality(error)
    assert type(said) is kind
    assert (said.status, said.part, said.place, said.detail) == (status, part, error.place, error.detail)


def test_an_empty_modality_is_no_fault() -> None:
    with pytest.raises(TypeError):
        from_modality(EmptyModality(Modality.AUDIO, "silent", "quiet"))


def test_a_fault_that_nobody_thought_of_is_not_given_a_status() -> None:
    with pytest.raises(TypeError):
        from_modality(ModalityError(Modality.AUDIO, "odd"))


def test_an_upload_error_reads_as_part_place_and_detail() -> None:
    assert str(CorruptPart("a cell is not a finite number", part="openface", place="line 7")) == (
        "openface: line 7: a cell is not a finite number"
    )
    assert str(CorruptPart("wrong")) == "wrong"
