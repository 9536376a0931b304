"""What an input may be given as, and how it is opened."""

import io
import os
from pathlib import Path
from typing import IO, Literal, TypeAlias

File: TypeAlias = str | os.PathLike[str] | bytes
"""A path, or the content."""
Transcribe: TypeAlias = Literal["never", "auto", "always"]


def open_file(file: File) -> IO[bytes]:
    """Open a file for reading.

    Raises:
        OSError: it cannot be read.
    """
    return io.BytesIO(file) if isinstance(file, bytes) else Path(file).open("rb")


def read_file(file: File) -> bytes:
    """Return the content of a file.

    Raises:
        OSError: it cannot be read.
    """
    return file if isinstance(file, bytes) else Path(file).read_bytes()
