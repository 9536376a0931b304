"""Bodies as they arrive: in chunks of any size, cut, doubled, too large, too slow."""

import asyncio
import logging
import logging.config
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from app.uploads.errors import (
    BodyTooLarge,
    ClientGone,
    DuplicatePart,
    EmptyForm,
    MalformedBody,
    PartTooLarge,
    SlowBody,
    TextTooLong,
    UnknownPart,
    UnsupportedContentType,
    UnsupportedPart,
    UploadError,
)
from app.uploads.form import RawForm, UploadLimits, read_form

pytestmark = pytest.mark.anyio

MULTIPART = "multipart/form-data; boundary=frontier"
URLENCODED = "application/x-www-form-urlencoded"
Headers = Sequence[tuple[str, str]]


def part(name: str, content: bytes, *headers: str, filename: str | None = None) -> bytes:
    """One part with its boundary before it."""
    disposition = f'Content-Disposition: form-data; name="{name}"'
    if filename is not None:
        disposition += f'; filename="{filename}"'
    head = "".join(f"{line}\r\n" for line in (disposition, *headers))
    return b"--frontier\r\n" + head.encode() + b"\r\n" + content + b"\r\n"


def body(*parts: bytes) -> bytes:
    """A whole form."""
    return b"".join(parts) + b"--frontier--\r\n"


def request(chunks: Iterable[bytes], headers: Headers, *, pause: float = 0.0, gone: bool = False) -> Request:
    """A request whose body arrives in these chunks, a pause before each; `gone` hangs up instead of ending."""
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
    limits: UploadLimits | None = None,
    *,
    chunk: int = 65_536,
    headers: Headers = (),
) -> dict[str, bytes]:
    """The parts' contents."""
    sent = request(in_chunks(data, chunk), [("Content-Type", content_type), *headers])
    async with read_form(sent, limits or UploadLimits()) as form:
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


# ---- what is accepted -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1_000_000])
async def test_the_three_parts_are_read_whatever_the_chunks(chunk: int) -> None:
    assert await read(GOOD, chunk=chunk) == {
        "text": "Grüße".encode(),
        "audio": b"RIFF\r\n--front\r\n\r\n-" * 40,
        "openface": b"frame\r\n1\r\n",
    }


@pytest.mark.parametrize("names", [("text",), ("audio",), ("openface",), ("openface", "text"), ("audio", "openface")])
async def test_any_subset_in_any_order_is_a_form(names: tuple[str, ...]) -> None:
    found = await read(body(*(part(name, name.encode(), filename=None if name == "text" else "f") for name in names)))
    assert found == {name: name.encode() for name in names}


async def test_an_empty_part_is_there_and_empty() -> None:
    assert await read(body(part("text", b""), part("audio", b"", filename=""))) == {"text": b"", "audio": b""}


@pytest.mark.parametrize("ending", [b"", b"\r\n", b"\r\n\r\n"])
async def test_a_body_may_end_with_or_without_a_line_end(ending: bytes) -> None:
    assert await read(GOOD.removesuffix(b"\r\n") + ending) == await read(GOOD)


@pytest.mark.parametrize("content_type", ['Multipart/Form-Data; charset=utf-8; boundary="frontier"', MULTIPART + " "])
async def test_the_content_type_may_be_written_in_other_ways(content_type: str) -> None:
    assert await read(GOOD, content_type) == await read(GOOD)


@pytest.mark.parametrize("kind", ["text/plain", "text/plain; charset=utf-8", 'text/plain; charset="US-ASCII"'])
async def test_the_text_may_be_a_plain_text_file(kind: str) -> None:
    assert await read(body(part("text", b"hi", f"Content-Type: {kind}", filename="note.txt"))) == {"text": b"hi"}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"text=hello", b"hello"),
        (b"text=a+b%20c%26d%3De", b"a b c&d=e"),
        (b"%74ext=x", b"x"),
        (b"text=Gr%C3%BC%C3%9Fe&", "Grüße".encode()),
        (b"text=1=1", b"1=1"),
        (b"text=", b""),
        (b"text", b""),
    ],
)
@pytest.mark.parametrize("content_type", [URLENCODED, URLENCODED + "; charset=UTF-8"])
async def test_text_alone_may_come_urlencoded(data: bytes, text: bytes, content_type: str) -> None:
    assert await read(data, content_type, chunk=3) == {"text": text}


async def test_files_stand_at_their_beginning_and_are_closed_afterwards() -> None:
    async with read_form(request([GOOD], [("Content-Type", MULTIPART)]), UploadLimits()) as form:
        audio, openface = form.audio, form.openface
        assert audio is not None
        assert openface is not None
        assert (audio.tell(), openface.tell()) == (0, 0)
    assert audio.closed
    assert openface.closed


def open_files(folder: Path) -> list[str]:
    """What this process holds open in `folder`; a spooled file has no name on disk."""
    found = (link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink())
    return [*(target.name for target in found if target.is_relative_to(folder)), *(p.name for p in folder.iterdir())]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to see the files a process holds open")
@pytest.mark.parametrize("fault", [None, "cut", "unknown", "gone"])
async def test_a_large_part_goes_to_disk_and_is_removed_whatever_happens(
    fault: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    whole = body(part("audio", b"x" * 300_000, filename="a"), part("other" if fault == "unknown" else "text", b"hi"))
    chunks = in_chunks(whole, 10_000)
    held: list[int] = []

    sent = request(chunks[: -1 if fault == "cut" else None], [("Content-Type", MULTIPART)], gone=fault == "gone")
    stream = sent.stream

    async def watched() -> AsyncIterator[bytes]:
        async for chunk in stream():
            held.append(len(open_files(tmp_path)))
            yield chunk

    monkeypatch.setattr(sent, "stream", watched)
    limits = UploadLimits(spool_bytes=100_000)
    if fault is None:
        async with read_form(sent, limits) as form:
            assert len(open_files(tmp_path)) == 1
            assert contents(form)["audio"] == b"x" * 300_000
    else:
        with pytest.raises(UploadError):
            async with read_form(sent, limits):
                pytest.fail("the form was accepted")
    assert held[5] == 0
    assert max(held) == 1
    assert open_files(tmp_path) == []


# ---- what is an error, never a missing part -------------------------------------------------------------------------


async def test_a_body_cut_anywhere_before_its_closing_boundary_is_an_error() -> None:
    end = GOOD.rindex(b"--frontier--") + len(b"--frontier--")
    for cut in range(end):
        with pytest.raises(MalformedBody):
            await read(GOOD[:cut])


async def test_a_client_that_hangs_up_is_told_apart() -> None:
    with pytest.raises(ClientGone):
        async with read_form(request([GOOD[:50]], [("Content-Type", MULTIPART)], gone=True), UploadLimits()):
            pytest.fail("the form was accepted")


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "text/plain",
        "",
        "multipart/mixed; boundary=frontier",
        "multipart/form-datax",
        "audio/wav",
        ";",
    ],
)
async def test_another_content_type_is_an_error(content_type: str) -> None:
    with pytest.raises(UnsupportedContentType):
        await read(b'{"text": "hello"}', content_type)


async def test_no_content_type_and_two_of_them_are_errors() -> None:
    for headers in ([], [("Content-Type", MULTIPART), ("Content-Type", MULTIPART)]):
        with pytest.raises(UnsupportedContentType):
            async with read_form(request([GOOD], headers), UploadLimits()):
                pytest.fail("the form was accepted")


async def test_a_compressed_body_is_an_error() -> None:
    with pytest.raises(UnsupportedContentType):
        await read(GOOD, headers=[("Content-Encoding", "gzip")])
    assert await read(GOOD, headers=[("Content-Encoding", "identity")])


@pytest.mark.parametrize("content_type", [URLENCODED + "; charset=latin-1", URLENCODED + "; charset=utf-16"])
async def test_another_charset_is_an_error(content_type: str) -> None:
    with pytest.raises(UnsupportedContentType):
        await read(b"text=hello", content_type)


@pytest.mark.parametrize("boundary", ["", "; boundary=", "; boundary=" + "b" * 71, '; boundary=""'])
async def test_a_boundary_that_cannot_be_is_an_error(boundary: str) -> None:
    with pytest.raises(MalformedBody, match="boundary"):
        await read(GOOD, "multipart/form-data" + boundary)


@pytest.mark.parametrize("name", ["Text", "video", "text ", "", "audio[]", "_charset_", "téxt"])
async def test_an_unknown_part_is_an_error_that_does_not_repeat_its_name(name: str) -> None:
    with pytest.raises(UnknownPart) as caught:
        await read(body(part("text", b"hi"), part(name, b"x")))
    assert caught.value.part is None
    assert len(name) < 4 or name not in str(caught.value)


@pytest.mark.parametrize("data", [b"video=1", b"text=a&video=1", b"=a", b"audio=RIFF"])
async def test_an_unknown_part_is_an_error_urlencoded_too(data: bytes) -> None:
    with pytest.raises(UnknownPart):
        await read(data, URLENCODED)


@pytest.mark.parametrize("name", ["text", "audio", "openface"])
async def test_a_part_given_twice_is_an_error(name: str) -> None:
    with pytest.raises(DuplicatePart) as caught:
        await read(body(part(name, b"1"), part("text" if name != "text" else "audio", b"2"), part(name, b"1")))
    assert (caught.value.part, caught.value.status) == (name, 422)


async def test_a_text_given_twice_is_an_error_urlencoded_too() -> None:
    with pytest.raises(DuplicatePart):
        await read(b"text=a&text=b", URLENCODED)


@pytest.mark.parametrize("data", [b"--frontier--", b"--frontier--\r\n"])
async def test_a_form_without_a_part_is_an_error(data: bytes) -> None:
    for chunk in (1, 100):
        with pytest.raises(EmptyForm):
            await read(data, chunk=chunk)


@pytest.mark.parametrize("data", [b"", b"&", b"&&&"])
async def test_a_form_without_a_part_is_an_error_urlencoded_too(data: bytes) -> None:
    with pytest.raises(EmptyForm):
        await read(data, URLENCODED)


@pytest.mark.parametrize(
    "rest", [b"x", part("openface", b"late") + b"--frontier--\r\n", b"\r\n" + GOOD, b"-", b"\r\n\0"], ids=repr
)
async def test_content_after_the_closing_boundary_is_an_error(rest: bytes) -> None:
    for chunk in (1, 5, 100_000):
        with pytest.raises(MalformedBody):
            await read(body(part("text", b"hi")) + rest, chunk=chunk)


@pytest.mark.parametrize("start", [b"preamble\r\n", b"\r\n", b"\n-\n", b"\r\nlost--"])
async def test_content_before_the_first_boundary_is_an_error(start: bytes) -> None:
    with pytest.raises(MalformedBody):
        await read(start + GOOD)


@pytest.mark.parametrize(
    "data",
    [
        b"-" * 100,
        b"--frontiex\r\n" + GOOD,
        b"--frontier\r\n\r\nno header\r\n--frontier--\r\n",
        b"--frontier\r\nContent-Type: text/plain\r\n\r\nno name\r\n--frontier--\r\n",
        b'--frontier\r\nContent-Disposition: attachment; name="text"\r\n\r\nhi\r\n--frontier--\r\n',
        b"--frontier\r\nContent-Disposition: form-data\r\n\r\nhi\r\n--frontier--\r\n",
        body(part("text", b"hi", 'content-disposition: form-data; name="audio"')),
        body(part("text", b"hi", "bad header: x")),
        body(part("text", b"hi", "X-Long: " + "x" * 10_000)),
        body(part("text", b"hi", *(f"X-{i}: x" for i in range(50)))),
        GOOD.replace(b"\r\n", b"\n"),
    ],
)
async def test_a_body_that_is_not_well_formed_is_an_error(data: bytes) -> None:
    for chunk in (1, 100_000):
        with pytest.raises(MalformedBody) as caught:
            await read(data, chunk=chunk)
        assert caught.value.status == 400


@pytest.mark.parametrize("kind", ["application/json", "text/html", "text/plain; charset=latin-1", "audio/wav"])
async def test_a_text_of_another_type_or_charset_is_an_error(kind: str) -> None:
    with pytest.raises(UnsupportedPart) as caught:
        await read(body(part("text", b"hi", f"Content-Type: {kind}")))
    assert (caught.value.part, caught.value.status) == ("text", 415)


@pytest.mark.parametrize("name", ["text", "audio"])
async def test_a_part_in_another_transfer_encoding_is_an_error_not_read_as_it_stands(name: str) -> None:
    with pytest.raises(UnsupportedPart):
        await read(body(part(name, b"aGk=", "Content-Transfer-Encoding: base64")))
    assert await read(body(part(name, b"hi", "Content-Transfer-Encoding: 8BIT"))) == {name: b"hi"}


async def test_nothing_of_a_malformed_body_reaches_a_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})  # as a server does when it starts
    with pytest.raises(MalformedBody):
        await read(body(part("text", b"hi", "xylophone\x7f: x")))
    assert [record for record in caplog.records if "multipart" in record.name or "uploads" in record.name] == []


# ---- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "streamed"])
@pytest.mark.parametrize(
    ("data", "content_type"), [(GOOD, MULTIPART), (b"text=" + b"a" * 500, URLENCODED)], ids=["multipart", "urlencoded"]
)
async def test_the_limit_of_the_body(data: bytes, content_type: str, declared: bool) -> None:
    headers = [("Content-Length", str(len(data)))] if declared else []
    for allowance in (0, 1):
        limits = UploadLimits(body_bytes=len(data) + allowance)
        assert await read(data, content_type, limits, chunk=50, headers=headers)
    with pytest.raises(BodyTooLarge) as caught:
        await read(data, content_type, UploadLimits(body_bytes=len(data) - 1), chunk=50, headers=headers)
    assert caught.value.status == 413


async def test_a_body_that_declares_too_much_is_refused_unread() -> None:
    sent = request([], [("Content-Type", MULTIPART), ("Content-Length", str(26 * 2**20))])
    with pytest.raises(BodyTooLarge):
        async with read_form(sent, UploadLimits()):
            pytest.fail("the form was accepted")


async def test_a_body_that_declares_less_than_it_sends_is_counted_all_the_same() -> None:
    with pytest.raises(BodyTooLarge):
        await read(GOOD, limits=UploadLimits(body_bytes=100), headers=[("Content-Length", "50")], chunk=20)


@pytest.mark.parametrize("as_file", [True, False])
async def test_the_limit_of_the_text(as_file: bool) -> None:
    limits = UploadLimits(text_bytes=100)
    filename = "t.txt" if as_file else None
    for size in (99, 100):
        assert await read(body(part("text", b"a" * size, filename=filename)), limits=limits) == {"text": b"a" * size}
    with pytest.raises(TextTooLong) as caught:
        await read(body(part("text", b"a" * 101, filename=filename)), limits=limits, chunk=30)
    assert caught.value.status == 422


async def test_the_limit_of_the_text_holds_for_what_is_decoded_urlencoded_too() -> None:
    limits = UploadLimits(text_bytes=100)
    assert await read(b"text=" + b"%61" * 100, URLENCODED, limits) == {"text": b"a" * 100}
    with pytest.raises(TextTooLong):
        await read(b"text=" + b"%61" * 101, URLENCODED, limits)


async def test_the_limit_of_the_openface_part() -> None:
    limits = UploadLimits(openface_bytes=1000)
    for size in (999, 1000):
        assert len((await read(body(part("openface", b"1" * size)), limits=limits))["openface"]) == size
    with pytest.raises(PartTooLarge) as caught:
        await read(body(part("openface", b"1" * 1001)), limits=limits, chunk=100)
    assert (caught.value.status, caught.value.part) == (413, "openface")


async def test_a_body_slower_than_the_limit_in_all_is_an_error_though_each_chunk_is_quick() -> None:
    sent = request(in_chunks(GOOD, 100), [("Content-Type", MULTIPART)], pause=0.03)
    with pytest.raises(SlowBody) as caught:
        async with read_form(sent, UploadLimits(body_seconds=0.1)):
            pytest.fail("the form was accepted")
    assert caught.value.status == 408


async def test_the_time_limit_ends_with_the_body() -> None:
    sent = request([GOOD], [("Content-Type", MULTIPART)])
    async with read_form(sent, UploadLimits(body_seconds=0.05)) as form:
        await asyncio.sleep(0.1)
        assert form.text == "Grüße".encode()


async def test_a_timeout_of_another_is_not_taken_for_a_slow_body() -> None:
    async def receive() -> dict[str, object]:
        raise TimeoutError("of somebody else")

    sent = Request({"type": "http", "headers": [(b"content-type", MULTIPART.encode())]}, receive)
    with pytest.raises(TimeoutError, match="somebody else"):
        async with read_form(sent, UploadLimits()):
            pytest.fail("the form was accepted")


# ---- anything -------------------------------------------------------------------------------------------------------


@st.composite
def damaged(draw: Callable[[st.SearchStrategy[int]], int]) -> bytes:
    """A good body with a few bytes changed."""
    data = bytearray(GOOD)
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, len(data) - 1))
        data[start : start + draw(st.integers(0, 8))] = bytes(
            draw(st.sampled_from(list(b'\r\n-:;="\0 frontie\xff'))) for _ in range(3)
        )
    return bytes(data)


@given(data=st.one_of(damaged(), st.binary(max_size=100).map(b"--frontier\r\n".__add__)), chunk=st.integers(1, 40))
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_whatever_the_body_only_a_form_or_a_fault_comes_out(data: bytes, chunk: int) -> None:
    try:
        found = asyncio.run(read(data, chunk=chunk))
    except UploadError:
        return
    assert found
    assert sum(map(len, found.values())) < len(data)


@given(data=st.binary(max_size=60), content_type=st.sampled_from([URLENCODED, MULTIPART, "text/plain"]))
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_whatever_the_bytes_no_other_error_comes_out(data: bytes, content_type: str) -> None:
    try:
        asyncio.run(read(data, content_type))
    except UploadError as error:
        status = error.status
    else:
        status = 200
    assert status in {200, 400, 415, 422}
