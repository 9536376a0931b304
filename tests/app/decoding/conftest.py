"""A pool of two processes shared by the tests that do not damage it, and files as a form holds them."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import IO

import pytest

from app.decoding.pool import DecodePool

Spool = Callable[[bytes], IO[bytes]]


@pytest.fixture(scope="session")
def pool() -> Iterator[DecodePool]:
    pool = DecodePool(workers=2)
    pool.start()
    yield pool
    pool.stop()


@pytest.fixture
def spool() -> Iterator[Spool]:
    with ExitStack() as files:

        def make(content: bytes) -> IO[bytes]:
            file = files.enter_context(tempfile.SpooledTemporaryFile(max_size=2**16))
            file.write(content)
            file.seek(0)
            return file

        yield make
