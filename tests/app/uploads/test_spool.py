"""Files that may not grow and no descriptor left, both of them real: limits of this process for a moment."""

import json
import os
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES

import pytest
from starlette.testclient import TestClient

from app.logging import configure_logging
from app.uploads.errors import NoRoom
from app.uploads.form import UploadLimits, read_form
from app.uploads.spool import finding_room, spooled
from tests.support.forms import MULTIPART, body, in_chunks, part, request

LARGE = 400_000
LIMITS = UploadLimits(spool_bytes=100_000)


@contextmanager
def limited(kind: int, value: int) -> Iterator[None]:
    """Have this process run into a limit of its own."""
    before, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (before, hard))


async def upload(size: int, chunk: int) -> int:
    """Read a form with a sound of that many bytes; how many came out."""
    data = body(part("audio", b"x" * size, filename="a"))
    async with read_form(request(in_chunks(data, chunk), [("Content-Type", MULTIPART)]), LIMITS) as form:
        assert form.audio is not None
        return len(form.audio.read())


# Where the limit is met: when the file goes to disk, in a later chunk, at the last flush of what is buffered.
@pytest.mark.anyio
@pytest.mark.parametrize(("most", "chunk"), [(10_000, 10_000), (250_000, 10_000), (LARGE - 1, 1_000)])
async def test_an_upload_for_which_there_is_no_room_is_told_so(most: int, chunk: int) -> None:
    with limited(resource.RLIMIT_FSIZE, most):
        with pytest.raises(NoRoom) as caught:
            await upload(LARGE, chunk)
        assert caught.value.status == 503
        assert await upload(90_000, chunk) == 90_000
    assert await upload(LARGE, chunk) == LARGE


@pytest.mark.anyio
async def test_an_upload_for_which_there_is_no_descriptor_is_told_so() -> None:
    os.close(lowest := os.open(os.devnull, os.O_RDONLY))
    with limited(resource.RLIMIT_NOFILE, lowest), pytest.raises(NoRoom):
        await upload(LARGE, 10_000)
    assert await upload(LARGE, 10_000) == LARGE


@pytest.mark.anyio
async def test_a_folder_that_is_full_when_the_first_upload_comes_is_told_so_and_may_have_room_later(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("info")
    monkeypatch.setattr(tempfile, "tempdir", None)  # as when the process has just started: none has been looked for
    with limited(resource.RLIMIT_FSIZE, 0), pytest.raises(NoRoom):
        await upload(LARGE, 10_000)
    assert json.loads(capsys.readouterr().err)["reason"] == "ENOENT"
    assert await upload(LARGE, 10_000) == LARGE


def test_another_failure_is_not_taken_for_a_lack_of_room() -> None:
    with pytest.raises(PermissionError), finding_room():
        raise PermissionError(EACCES, "not allowed")


def test_closing_what_could_not_be_written_raises_nothing_and_gives_the_descriptor_up() -> None:
    with limited(resource.RLIMIT_FSIZE, 10), spooled(10) as file, pytest.raises(OSError, match="too large"):
        file.write(b"a" * 20)
    assert file.closed


def test_over_http_it_is_a_503_that_says_when_to_come_back_and_an_error_in_the_log(
    client: TestClient, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("info")
    large = {"audio": ("a.wav", b"secret" * 2**19, "audio/wav")}
    with limited(resource.RLIMIT_FSIZE, 2**20):
        refused = client.post("/predict", files=large)
    assert (refused.status_code, refused.json()["type"]) == (503, "/problems/no-room")
    assert (refused.headers["retry-after"], refused.headers["connection"]) == ("5", "close")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (told,) = [line for line in lines if line["level"] == "error"]
    assert (told["event"], told["reason"]) == ("no room for an upload", "EFBIG")
    assert told["request_id"] == refused.headers["x-request-id"]
    assert client.post("/predict", files=large).json()["type"] == "/problems/unsupported-part"
