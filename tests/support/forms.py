"""Form bodies, and requests that deliver them in chunks."""

import asyncio
from collections.abc import Iterable, Sequence

import pytest
from starlette.requests import Request

from app.settings import Settings
from app.uploads.form import RawForm, read_form

pytestmark = pytest.mark.anyio


MULTIPART = "multipart/form-data; boundary=frontier"
URLENCODED = "application/x-www-form-urlencoded"
Headers = Sequence[tuple[str, str]]
DEFAULTS = Settings()
"""Made once: making settings reads the environment, which takes longer than reading a small form."""


def part(name: str, content: bytes, *headers: str, filename: str | None = None) -> bytes:
    """Return a part, preceded by its boundary."""
    disposition = f'Content-Disposition: form-data; name="{name}"'
    if filename is not None:
        disposition += f'; filename="{filename}"'
    head = "".join(f"{line}\r\n" for line in (disposition, *headers))
    return b"--frontier\r\n" + head.encode() + b"\r\n" + content + b"\r\n"


def body(*parts: bytes) -> bytes:
    """Return a whole form."""
    return b"".join(parts) + b"--frontier--\r\n"


def request(chunks: Iterable[bytes], headers: Headers, *, pause: float = 0.0, gone: bool = False) -> Request:
    """Return a request whose body arrives in these chunks, after a pause each; `gone`: disconnects at the end."""
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": "http.disconnect"} if gone else {"type": "http.request", "body": b""})

    async def receive() -> dict[str, object]:
        await asyncio.sleep(pause)
        return messages.pop(0)

    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": raw}, receive)


def in_chunks(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


async def read(
    data: bytes,
    content_type: str = MULTIPART,
    settings: Settings | None = None,
    *,
    chunk: int = 65_536,
    headers: Headers = (),
) -> dict[str, bytes]:
    """Return the contents of the parts."""
    sent = request(in_chunks(data, chunk), [("Content-Type", content_type), *headers])
    async with read_form(sent, settings or DEFAULTS) as form:
        return contents(form)


def contents(form: RawForm) -> dict[str, bytes]:
    found = {} if form.text is None else {"text": form.text}
    if form.audio is not None:
        found["audio"] = form.audio.read()
    if form.openface is not None:
        found["openface"] = form.openface.read()
    return found


GOOD = body(
    part("text", "Grüße".encode()),
    part("audio", b"RIFF\r\n--front\r\n\r\n-" * 40, "Content-Type: audio/wav", filename="a.wav"),
    part("openface", b"frame\r\n1\r\n", "Content-Type: text/csv", filename="a.csv"),
)
