"""The exceptions `model` raises on purpose, drawn as a tree.

For: letting a caller (the service, the command line, a test) tell bad data from a bad program by type alone.
Does not know: HTTP; `app.api.problems` maps these to answers.

    EMMRError
    ├── ConfigError            a configuration that cannot be built
    ├── CheckpointError        a weights folder that is missing, altered or does not fit
    ├── CorpusError            training or evaluation data; names the file and the row
    └── ModalityError          one modality's content; names the modality and the place
        ├── CorruptModality    not what it claims to be, or not readable to its end
        ├── ModalityTooLarge   past a limit
        ├── UnsupportedFormat  readable perhaps, but not accepted here
        └── EmptyModality      well-formed with nothing in it: it counts as missing, with this reason
"""

from typing import Self

from model.modality import Modality


class EMMRError(Exception):
    """Base of everything below."""


class ConfigError(EMMRError):
    """A configuration that cannot be built."""


class CheckpointError(EMMRError):
    """A weights folder that is missing, altered, or does not fit its own config."""


class CorpusError(EMMRError):
    """Bad training or evaluation data.

    Args:
        path: the file the fault lies in.
        row: its line, counted from 1 with the header as line 1; None where the fault is the whole file's.
        detail: what is wrong.
    """

    def __init__(self, path: object, row: int | None, detail: str) -> None:
        self.path, self.row, self.detail = str(path), row, detail
        super().__init__(f"{path}{'' if row is None else f', line {row}'}: {detail}")

    def __reduce__(self) -> tuple[type[Self], tuple[object, ...]]:
        """Travel between processes by what it was made of."""
        return type(self), (self.path, self.row, self.detail)


class ModalityError(EMMRError):
    """A fault in one modality's content.

    Args:
        modality: whose content it is.
        detail: what is wrong; never quotes the content.
        place: where, in words a person can use ("line 7, column AU12_r", "byte 1042"); None where it is the whole.
    """

    def __init__(self, modality: Modality, detail: str, place: str | None = None) -> None:
        self.modality, self.detail, self.place = modality, detail, place
        super().__init__(f"{modality}: {detail}" + (f" ({place})" if place else ""))

    def __reduce__(self) -> tuple[type[Self], tuple[object, ...]]:
        """Travel between processes by what it was made of."""
        return type(self), (self.modality, self.detail, self.place)


class CorruptModality(ModalityError):
    """Not what it claims to be, or not readable to its end."""


class ModalityTooLarge(ModalityError):
    """Past a limit of size, duration, rows or columns."""


class UnsupportedFormat(ModalityError):
    """A container, codec or column set that is not accepted."""


class EmptyModality(ModalityError):
    """Well-formed, with nothing in it.

    Args:
        reason: a short code for the answer: `silent`, `too_short`, `no_speech`, `no_face`.
    """

    def __init__(self, modality: Modality, reason: str, detail: str) -> None:
        self.reason = reason
        super().__init__(modality, detail)

    def __reduce__(self) -> tuple[type[Self], tuple[object, ...]]:
        """Travel between processes by what it was made of."""
        return type(self), (self.modality, self.reason, self.detail)
