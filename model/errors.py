"""The exceptions that `model` raises on purpose.

`app.errors` maps them to HTTP problems. All of them can be pickled: decoder processes send them back.
"""

from model.modality import Modality


class EMMRError(Exception):
    """Base class of all errors below."""


class ConfigError(EMMRError):
    """A configuration that cannot be built."""


class CheckpointError(EMMRError):
    """A weights folder that is missing, altered, or does not fit its own config."""


class CorpusError(EMMRError):
    """Invalid training or evaluation data.

    Args:
        path: the file with the error.
        row: its line, counted from 1 with the header as line 1; None where the error concerns the whole file.
        detail: what is wrong.
    """

    def __init__(self, path: object, row: int | None, detail: str) -> None:
        self.path, self.row, self.detail = str(path), row, detail
        super().__init__(self.path, row, detail)

    def __str__(self) -> str:
        """`path, line row: detail`."""
        return f"{self.path}{'' if self.row is None else f', line {self.row}'}: {self.detail}"


class ModalityError(EMMRError):
    """An error in the content of one modality.

    Args:
        modality: whose content it is.
        detail: what is wrong; never quotes the content.
        place: where ("line 7, column AU12_r", "byte 1042"); None where the error concerns the whole.
    """

    def __init__(self, modality: Modality, detail: str, place: str | None = None) -> None:
        self.modality, self.detail, self.place = modality, detail, place
        super().__init__(modality, detail, place)

    def __str__(self) -> str:
        """`modality: detail (place)`."""
        return f"{self.modality}: {self.detail}" + (f" ({self.place})" if self.place else "")


class CorruptModality(ModalityError):
    """Content that is not of the declared kind, or that cannot be read to its end."""


class ModalityTooLarge(ModalityError):
    """Content that exceeds a limit of size, duration, rows or columns."""


class UnsupportedFormat(ModalityError):
    """A container, codec or column set that is not accepted."""


class FaceNotFound(ModalityError):
    """The face that was asked for is not in the file."""


class EmptyModality(ModalityError):
    """Well-formed content with nothing in it; the modality counts as missing.

    Args:
        modality: whose content it is.
        reason: a code for the response: `silent`, `too_short`, `no_speech`, `no_face`.
        detail: what is wrong.
    """

    def __init__(self, modality: Modality, reason: str, detail: str) -> None:
        super().__init__(modality, detail)
        self.reason = reason
        self.args = (modality, reason, detail)
