import pytest

from app.errors import (
    CorruptPart,
    PartTooLarge,
    TextTooLong,
    UnknownFace,
    UnsupportedPart,
    UploadError,
    from_modality,
)
from model.errors import (
    CorruptModality,
    EmptyModality,
    FaceNotFound,
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
        (FaceNotFound(Modality.VISUAL, "none"), UnknownFace, 422, "openface"),
    ],
)
def test_a_modality_error_becomes_an_error_of_its_part(
    error: ModalityError, kind: type[UploadError], status: int, part: str
) -> None:
    translated = from_modality(error)
    assert type(translated) is kind
    assert (translated.status, translated.part, translated.place, translated.detail) == (
        status,
        part,
        error.place,
        error.detail,
    )


def test_an_empty_modality_is_not_an_error() -> None:
    with pytest.raises(TypeError):
        from_modality(EmptyModality(Modality.AUDIO, "silent", "quiet"))


def test_an_unknown_modality_error_has_no_status() -> None:
    with pytest.raises(TypeError):
        from_modality(ModalityError(Modality.AUDIO, "odd"))


def test_an_upload_error_prints_part_place_and_detail() -> None:
    assert str(CorruptPart("a cell is not a finite number", part="openface", place="line 7")) == (
        "openface: line 7: a cell is not a finite number"
    )
    assert str(CorruptPart("wrong")) == "wrong"
