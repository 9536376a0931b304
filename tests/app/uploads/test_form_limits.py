"""Limits of a body, and that arbitrary bodies raise only the documented errors."""

import asyncio
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from app.errors import (
    BodyTooLarge,
    PartTooLarge,
    SlowBody,
    TextTooLong,
    UnknownPart,
    UploadError,
)
from app.settings import Settings
from app.uploads.form import read_form
from tests.support import virtual_time
from tests.support.forms import GOOD, MULTIPART, URLENCODED, body, in_chunks, part, read, request

pytestmark = pytest.mark.anyio


# ---- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "streamed"])
@pytest.mark.parametrize(
    ("data", "content_type"), [(GOOD, MULTIPART), (b"text=" + b"a" * 500, URLENCODED)], ids=["multipart", "urlencoded"]
)
async def test_the_limit_of_the_body_applies(data: bytes, content_type: str, declared: bool) -> None:
    headers = [("Content-Length", str(len(data)))] if declared else []
    for allowance in (0, 1):
        limits = Settings(max_body_bytes=len(data) + allowance)
        assert await read(data, content_type, limits, chunk=50, headers=headers)
    with pytest.raises(BodyTooLarge) as caught:
        await read(data, content_type, Settings(max_body_bytes=len(data) - 1), chunk=50, headers=headers)
    assert caught.value.status == 413


async def test_a_content_length_past_the_limit_is_refused_unread() -> None:
    sent = request([], [("Content-Type", MULTIPART), ("Content-Length", str(Settings().max_body_bytes + 1))])
    with pytest.raises(BodyTooLarge):
        async with read_form(sent, Settings()):
            pytest.fail("the form was accepted")


async def test_a_body_longer_than_its_content_length_is_counted() -> None:
    with pytest.raises(BodyTooLarge):
        await read(GOOD, settings=Settings(max_body_bytes=100), headers=[("Content-Length", "50")], chunk=20)


@pytest.mark.parametrize("as_file", [True, False])
async def test_the_limit_of_the_text_applies(as_file: bool) -> None:
    limits = Settings(max_text_bytes=100)
    filename = "t.txt" if as_file else None
    for size in (99, 100):
        assert await read(body(part("text", b"a" * size, filename=filename)), settings=limits) == {"text": b"a" * size}
    with pytest.raises(TextTooLong) as caught:
        await read(body(part("text", b"a" * 101, filename=filename)), settings=limits, chunk=30)
    assert caught.value.status == 422


async def test_the_limit_of_the_text_applies_to_decoded_urlencoded_text() -> None:
    limits = Settings(max_text_bytes=100)
    assert await read(b"text=" + b"%61" * 100, URLENCODED, limits) == {"text": b"a" * 100}
    with pytest.raises(TextTooLong):
        await read(b"text=" + b"%61" * 101, URLENCODED, limits)


async def test_an_urlencoded_body_is_kept_only_up_to_the_text_limit() -> None:
    limits, chunks = Settings(max_text_bytes=1000), [b"text=", *[b"a" * 10_000] * 2000]
    headers = [("Content-Type", URLENCODED)]
    tracemalloc.start()
    try:
        with pytest.raises(TextTooLong):
            async with read_form(request(chunks, headers), limits):
                raise AssertionError("a text past its limit is read")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20


async def test_the_limit_of_the_body_applies_to_discarded_bytes() -> None:
    limits = Settings(max_text_bytes=100, max_body_bytes=50_000)
    with pytest.raises(TextTooLong):
        await read(b"text=" + b"a" * 49_995, URLENCODED, limits, chunk=1000)
    with pytest.raises(BodyTooLarge):
        await read(b"text=" + b"a" * 49_996, URLENCODED, limits, chunk=1000)


async def test_an_unknown_part_is_reported_before_its_length() -> None:
    with pytest.raises(UnknownPart):
        await read(b"video=" + b"a" * 5000, URLENCODED, Settings(max_text_bytes=100))


async def test_the_limit_of_the_openface_part_applies() -> None:
    limits = Settings(max_openface_bytes=1000)
    for size in (999, 1000):
        assert len((await read(body(part("openface", b"1" * size)), settings=limits))["openface"]) == size
    with pytest.raises(PartTooLarge) as caught:
        await read(body(part("openface", b"1" * 1001)), settings=limits, chunk=100)
    assert (caught.value.status, caught.value.part) == (413, "openface")


async def test_a_slow_body_of_fast_chunks_is_an_error() -> None:
    sent = request(in_chunks(GOOD, 100), [("Content-Type", MULTIPART)], pause=0.03)
    with pytest.raises(SlowBody) as caught:
        async with read_form(sent, Settings(body_timeout=0.1)):
            pytest.fail("the form was accepted")
    assert caught.value.status == 408


async def test_a_body_that_stalls_is_an_error() -> None:
    arrived = [{"type": "http.request", "body": GOOD[:100], "more_body": True}]

    async def receive() -> dict[str, object]:
        if not arrived:
            await asyncio.Event().wait()
        return arrived.pop()

    sent = Request({"type": "http", "headers": [(b"content-type", MULTIPART.encode())]}, receive)
    with pytest.raises(SlowBody, match="at 1024 bytes a second"):
        async with read_form(sent, Settings(body_stall_timeout=0.05)):
            pytest.fail("the form was accepted")


@pytest.mark.parametrize(
    ("rate", "pause", "accepted"), [(1000, 0.09, True), (1000, 0.2, False), (0, 0.2, True), (1000, 1.1, False)]
)
def test_every_stretch_of_a_body_has_a_lowest_rate(rate: int, pause: float, accepted: bool) -> None:
    data = body(part("audio", b"x" * 3000, filename="a"))
    pieces = [data[:1000], *in_chunks(data[1000:], 100)]  # the first counts for the first second alone

    async def send() -> bool:
        async def receive() -> dict[str, object]:
            await asyncio.sleep(pause)
            return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

        sent = Request({"type": "http", "headers": [(b"content-type", MULTIPART.encode())]}, receive)
        try:
            async with read_form(sent, Settings(min_body_rate=rate, body_stall_timeout=1)):
                return True
        except SlowBody:
            return False

    assert virtual_time.run(send()) is accepted


def test_the_time_limit_ends_with_the_body() -> None:
    async def read_and_wait() -> bytes | None:
        sent = request([GOOD], [("Content-Type", MULTIPART)])
        async with read_form(sent, Settings(body_timeout=10)) as form:
            await asyncio.sleep(20)
            return form.text

    assert virtual_time.run(read_and_wait()) == "Grüße".encode()


async def test_another_timeout_error_is_not_a_slow_body() -> None:
    async def receive() -> dict[str, object]:
        raise TimeoutError("another timeout")

    sent = Request({"type": "http", "headers": [(b"content-type", MULTIPART.encode())]}, receive)
    with pytest.raises(TimeoutError, match="another timeout"):
        async with read_form(sent, Settings()):
            pytest.fail("the form was accepted")


# ---- arbitrary bodies -----------------------------------------------------------------------------------------------


@st.composite
def damaged(draw: Callable[[st.SearchStrategy[int]], int]) -> bytes:
    """A valid body with a few bytes changed."""
    data = bytearray(GOOD)
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, len(data) - 1))
        data[start : start + draw(st.integers(0, 8))] = bytes(
            draw(st.sampled_from(list(b'\r\n-:;="\0 frontie\xff'))) for _ in range(3)
        )
    return bytes(data)


@given(data=st.one_of(damaged(), st.binary(max_size=100).map(b"--frontier\r\n".__add__)), chunk=st.integers(1, 40))
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_a_damaged_body_gives_a_form_or_an_upload_error(data: bytes, chunk: int) -> None:
    try:
        found = asyncio.run(read(data, chunk=chunk))
    except UploadError:
        return
    assert found
    assert sum(map(len, found.values())) < len(data)


@given(data=st.binary(max_size=60), content_type=st.sampled_from([URLENCODED, MULTIPART, "text/plain"]))
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_arbitrary_bytes_raise_only_upload_errors(data: bytes, content_type: str) -> None:
    try:
        asyncio.run(read(data, content_type))
    except UploadError as error:
        status = error.status
    else:
        status = 200
    assert status in {200, 400, 415, 422}
