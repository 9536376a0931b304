"""Files that hold uploads: in memory while they are small, on disk past that.

For: `app.uploads.form`, and whoever reads such a file afterwards.
Does not know: forms, or what is in a file.
"""

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, TypeAlias

from app.logging import get_logger
from app.uploads.errors import NoRoom

SpooledFile: TypeAlias = tempfile.SpooledTemporaryFile[bytes]

NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOENT})
"""A disk, a quota, a file or a table of open files is full; or there is no folder for temporary files, which is also
what `tempfile` says of those that were full when it looked for one. Any other failure to write is a fault of the
service."""


@contextmanager
def spooled(spool_bytes: int) -> Iterator[SpooledFile]:
    """A file of its own, gone afterwards, from disk too.

    Args:
        spool_bytes: kept in memory; past this it is on disk.
    """
    file = SpooledFile(spool_bytes)
    try:
        yield file
    finally:
        # Closing writes what is still buffered first. Where there is no room for it that is no loss, and must not
        # become the error of a request that has its own; the descriptor is given up all the same.
        with suppress(OSError):
            file.close()


@contextmanager
def finding_room() -> Iterator[None]:
    """Say that there is no room for a file, to the log as well: somebody has to make some.

    Raises:
        NoRoom: there is none.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        get_logger().error("no room for an upload", reason=errno.errorcode[error.errno], detail=error.strerror)
        raise NoRoom("there is no room for the upload at this moment") from None
