"""One pool of two processes for the tests of this folder that do not harm it, and files as a form holds them."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from app.decoding.pool import DecodePool
from app.uploads.spool import SpooledFile

Spool = Callable[[bytes], SpooledFile]


@pytest.fixture(scope="session")
def pool() -> Iterator[DecodePool]:
    pool = DecodePool(workers=2)
    pool.start()
    yield pool
    pool.stop()


@pytest.fixture
def spool() -> Iterator[Spool]:
    with ExitStack() as files:

        def make(content: bytes) -> SpooledFile:
            file = files.enter_context(tempfile.SpooledTemporaryFile(max_size=2**16))
            file.write(content)
            file.seek(0)
            return file

        yield make
