"""What all uploads hold together: bodies arriving from one address, bytes of files on disk."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.testclient import TestClient

from app.errors import BodyTooLarge, ClientGone, MalformedBody, NoRoom, TooManyUploads, UploadError
from app.settings import Settings
from app.uploads.form import read_form
from app.uploads.spool import SpooledFile, Uploads
from tests.support.forms import MULTIPART, body, in_chunks, part, request
from tests.support.service import make_app

pytestmark = pytest.mark.anyio

MIB = 2**20
LIMITS = Settings(spool_bytes=1000, max_spooled_bytes=5000, max_body_bytes=20_000)


def upload(size: int, end: bytes = b"", gone: bool = False) -> Request:
    """A request with an audio file of that many bytes."""
    data = body(part("audio", b"x" * size, filename="a"))
    return request(
        in_chunks(data[: len(data) // 2] if gone else data + end, 100), [("Content-Type", MULTIPART)], gone=gone
    )


async def test_files_on_disk_are_counted_until_they_are_closed() -> None:
    uploads = Uploads(LIMITS)
    async with read_form(upload(1000), LIMITS, uploads):
        assert uploads.spooled_bytes == 0  # in memory
    async with read_form(upload(1001), LIMITS, uploads) as first, read_form(upload(3000), LIMITS, uploads):
        assert uploads.spooled_bytes == 4001
        first.close()  # as soon as it has been decoded
        assert uploads.spooled_bytes == 3000
        first.close()
        assert uploads.spooled_bytes == 3000
    assert uploads.spooled_bytes == 0


async def test_an_upload_past_the_budget_is_refused_and_frees_its_bytes(caplog: pytest.LogCaptureFixture) -> None:
    uploads = Uploads(LIMITS)
    async with read_form(upload(3000), LIMITS, uploads):
        with pytest.raises(NoRoom) as refused:
            async with read_form(upload(2001), LIMITS, uploads):
                pytest.fail("the form was accepted")
        assert (refused.value.status, refused.value.headers["Retry-After"]) == (503, "5")
        assert uploads.spooled_bytes == 3000
        async with read_form(upload(2000), LIMITS, uploads):
            assert uploads.spooled_bytes == 5000
    assert uploads.spooled_bytes == 0


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (lambda: upload(3000, end=b"more"), MalformedBody),
        (lambda: upload(3000, gone=True), ClientGone),
        (lambda: upload(3000, end=b"\r\n" * 10_000), BodyTooLarge),
    ],
    ids=["malformed", "disconnected", "too large"],
)
async def test_a_failed_upload_frees_its_bytes(sent: Callable[[], Request], error: type[UploadError]) -> None:
    uploads = Uploads(LIMITS)
    with pytest.raises(error):
        async with read_form(sent(), LIMITS, uploads):
            pytest.fail("the form was accepted")
    assert uploads.spooled_bytes == 0


async def test_a_cancelled_upload_ends_its_write_before_the_file_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    writing, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def write(self: SpooledFile, data: bytes) -> int:
        writing.set()
        assert go_on.wait(30)
        assert not self.closed
        ended.set()
        return len(data)

    monkeypatch.setattr(SpooledFile, "write", write)
    uploads, limits = Uploads(LIMITS), LIMITS.model_copy(update={"spool_bytes": 10})

    async def receive_form() -> None:
        async with read_form(upload(100), limits, uploads):
            pytest.fail("the form was accepted")

    task = asyncio.create_task(receive_form())
    await asyncio.to_thread(writing.wait, 30)
    task.cancel()
    done, _ = await asyncio.wait((task,), timeout=0)
    assert not done
    assert uploads.spooled_bytes > 0
    go_on.set()
    with suppress(asyncio.CancelledError):
        await task
    assert ended.is_set()
    assert uploads.spooled_bytes == 0


# ---- one address


def waiting_upload(host: str, awaited: asyncio.Semaphore, arrived: asyncio.Event) -> Request:
    """A request whose body is `awaited`, and does not arrive until the client disconnects."""

    async def receive() -> dict[str, object]:
        awaited.release()
        await arrived.wait()
        return {"type": "http.disconnect"}

    headers = [(b"content-type", MULTIPART.encode())]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": headers, "client": (host, 1)}, receive)


async def test_bodies_arriving_from_one_address_are_limited() -> None:
    limits = Settings(max_uploads_per_address=2, retry_after=3)
    uploads, awaited, arrived = Uploads(limits), asyncio.Semaphore(0), asyncio.Event()

    async def send(host: str) -> None:
        async with read_form(waiting_upload(host, awaited, arrived), limits, uploads):
            pytest.fail("the form was accepted")

    stalled = [asyncio.create_task(send(host)) for host in ("192.0.2.1", "192.0.2.1", "192.0.2.2")]
    for _ in stalled:
        await awaited.acquire()
    with pytest.raises(TooManyUploads) as refused:
        await send("192.0.2.1")
    assert (refused.value.status, refused.value.headers) == (429, {"Connection": "close", "Retry-After": "3"})
    arrived.set()
    outcomes = await asyncio.gather(*stalled, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ClientGone] * 3
    with pytest.raises(ClientGone):
        await send("192.0.2.1")  # there is room again


async def test_files_that_wait_to_be_decoded_do_not_count_as_arriving() -> None:
    limits = Settings(max_uploads_per_address=1)
    uploads = Uploads(limits)
    async with AsyncExitStack() as stack:
        for _ in range(3):
            form = await stack.enter_async_context(read_form(upload(10), limits, uploads))
            assert form.audio is not None


# ---- the service


def test_the_service_refuses_past_its_budget_and_reports_it(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app: FastAPI = make_app(tiny_weights, spool_bytes=1000, max_spooled_bytes=2000, metrics_access="open")
    monkeypatch.setattr(app.state.engine, "admit", lambda: None)  # the weights are not loaded
    client = TestClient(app)
    refused = client.post("/predict", files={"audio": ("a", b"x" * 2001)})
    assert (refused.status_code, refused.json()["type"]) == (503, "/problems/no-room")
    assert refused.headers["retry-after"] == "5"
    app.state.uploads.take(1500)
    text = client.get("/metrics").text
    assert "emmr_spooled_bytes 1500.0" in text
    assert 'emmr_rejected_total{reason="no-room"} 1.0' in text
