"""Which weights folder a reload may take.

For: keeping whoever may reload from having any folder of the machine read.
Does not know: what is in one (`model.checkpoint`).
"""

from pathlib import Path
from typing import Final

from app.settings import Settings
from model.errors import CheckpointError

NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
"""A folder's own name: no separator, and neither `.` nor `..`."""


def weights_folder(settings: Settings, name: str | None) -> Path:
    """The folder of that name beside the configured one, or the configured one itself where there is no name.

    Args:
        settings: which folder is configured, and where the others are.
        name: as `NAME` has it.

    Raises:
        CheckpointError: there is no such folder there; a link that leads elsewhere counts as none.
    """
    if name is None:
        return settings.weights
    root = (settings.weights_root or settings.weights.absolute().parent).resolve()
    folder = (root / name).resolve()
    if folder.parent != root or not folder.is_dir():
        raise CheckpointError(f"there is no weights folder {name!r}")
    return folder
