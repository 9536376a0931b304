"""Uploads without disk space or file descriptors, simulated by resource limits of this process."""

import json
import os
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES

import pytest
from starlette.testclient import TestClient

from app.errors import NoRoom
from app.logging import configure_logging
from app.settings import Settings
from app.uploads.body import refuse_without_room
from app.uploads.form import close_file, read_form
from app.uploads.spool import SpooledFile, Uploads
from tests.support.forms import MULTIPART, body, in_chunks, part, request

LARGE = 400_000
LIMITS = Settings(spool_bytes=100_000)


@contextmanager
def limited(kind: int, value: int) -> Iterator[None]:
    """Lower a resource limit of this process."""
    before, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (before, hard))


async def upload(size: int, chunk: int) -> int:
    """Upload an audio file of that many bytes; return how many are read."""
    data = body(part("audio", b"x" * size, filename="a"))
    async with read_form(request(in_chunks(data, chunk), [("Content-Type", MULTIPART)]), LIMITS) as form:
        assert form.audio is not None
        return len(form.audio.read())


# The limit is exceeded when the file moves to disk, in a later chunk, or at the last flush of the buffer.
@pytest.mark.anyio
@pytest.mark.parametrize(("most", "chunk"), [(10_000, 10_000), (250_000, 10_000), (LARGE - 1, 1_000)])
async def test_an_upload_without_disk_space_is_refused(most: int, chunk: int) -> None:
    with limited(resource.RLIMIT_FSIZE, most):
        with pytest.raises(NoRoom) as caught:
            await upload(LARGE, chunk)
        assert caught.value.status == 503
        assert await upload(90_000, chunk) == 90_000
    assert await upload(LARGE, chunk) == LARGE


@pytest.mark.anyio
async def test_an_upload_without_a_descriptor_is_refused() -> None:
    os.close(lowest := os.open(os.devnull, os.O_RDONLY))
    with limited(resource.RLIMIT_NOFILE, lowest), pytest.raises(NoRoom):
        await upload(LARGE, 10_000)
    assert await upload(LARGE, 10_000) == LARGE


@pytest.mark.anyio
async def test_a_folder_full_at_the_first_upload_may_have_room_later(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("info")
    monkeypatch.setattr(tempfile, "tempdir", None)  # as in a process that has just started
    with limited(resource.RLIMIT_FSIZE, 0), pytest.raises(NoRoom):
        await upload(LARGE, 10_000)
    assert json.loads(capsys.readouterr().err)["reason"] == "ENOENT"
    assert await upload(LARGE, 10_000) == LARGE


def test_another_os_error_is_not_lack_of_room() -> None:
    with pytest.raises(PermissionError), refuse_without_room():
        raise PermissionError(EACCES, "not allowed")


def test_closing_a_file_on_a_full_disk_raises_nothing() -> None:
    file = SpooledFile(10, Uploads(LIMITS))
    with limited(resource.RLIMIT_FSIZE, 10):
        with pytest.raises(OSError, match="too large"):
            file.write(b"a" * 20)
        close_file(file)
    assert file.closed


def test_lack_of_room_is_a_503_with_retry_after_and_logged(
    client: TestClient, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("info")
    large = {"audio": ("a.wav", b"secret" * 2**19, "audio/wav")}
    with limited(resource.RLIMIT_FSIZE, 2**20):
        refused = client.post("/predict", files=large)
    assert (refused.status_code, refused.json()["type"]) == (503, "/problems/no-room")
    assert (refused.headers["retry-after"], refused.headers["connection"]) == ("5", "close")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (logged,) = [line for line in lines if line["level"] == "error"]
    assert (logged["event"], logged["reason"]) == ("no room for an upload", "EFBIG")
    assert logged["request_id"] == refused.headers["x-request-id"]
    assert client.post("/predict", files=large).json()["type"] == "/problems/unsupported-part"
