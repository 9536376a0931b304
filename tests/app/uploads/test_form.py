"""Reading forms: valid bodies in chunks of any size, and every kind of invalid body."""

import logging
import logging.config
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.errors import (
    ClientGone,
    DuplicatePart,
    EmptyForm,
    MalformedBody,
    UnknownPart,
    UnsupportedContentType,
    UnsupportedPart,
    UploadError,
)
from app.settings import Settings
from app.uploads.form import read_form
from tests.support.forms import GOOD, MULTIPART, URLENCODED, body, contents, in_chunks, part, read, request

pytestmark = pytest.mark.anyio


# ---- accepted -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1_000_000])
async def test_the_three_parts_are_read_from_chunks_of_any_size(chunk: int) -> None:
    assert await read(GOOD, chunk=chunk) == {
        "text": "Grüße".encode(),
        "audio": b"RIFF\r\n--front\r\n\r\n-" * 40,
        "openface": b"frame\r\n1\r\n",
    }


@pytest.mark.parametrize("names", [("text",), ("audio",), ("openface",), ("openface", "text"), ("audio", "openface")])
async def test_any_subset_of_parts_in_any_order_is_read(names: tuple[str, ...]) -> None:
    found = await read(body(*(part(name, name.encode(), filename=None if name == "text" else "f") for name in names)))
    assert found == {name: name.encode() for name in names}


async def test_an_empty_part_is_empty_not_missing() -> None:
    assert await read(body(part("text", b""), part("audio", b"", filename="a"))) == {"text": b"", "audio": b""}


@pytest.mark.parametrize("name", ["text", "audio", "openface"])
async def test_an_untouched_file_input_is_not_sent(name: str) -> None:
    untouched = part(name, b"", "Content-Type: application/octet-stream", filename="")
    other = "audio" if name == "text" else "text"
    assert await read(body(untouched, part(other, b"x"))) == {other: b"x"}
    # A page may have an input for a recording and one for a file of the same name.
    assert await read(body(untouched, part(name, b"x"), untouched)) == {name: b"x"}
    with pytest.raises(EmptyForm) as caught:
        await read(body(untouched))
    assert caught.value.status == 422


@pytest.mark.parametrize("name", ["audio", "openface"])
async def test_a_file_without_a_name_is_read(name: str) -> None:
    assert await read(body(part(name, b"x", filename=""))) == {name: b"x"}


async def test_a_text_file_without_a_name_must_be_plain_text() -> None:
    with pytest.raises(UnsupportedPart) as caught:
        await read(body(part("text", b"x", "Content-Type: application/octet-stream", filename="")))
    assert caught.value.part == "text"


@pytest.mark.parametrize("ending", [b"", b"\r\n", b"\r\n\r\n"])
async def test_a_body_may_end_with_line_ends(ending: bytes) -> None:
    assert await read(GOOD.removesuffix(b"\r\n") + ending) == await read(GOOD)


@pytest.mark.parametrize("content_type", ['Multipart/Form-Data; charset=utf-8; boundary="frontier"', MULTIPART + " "])
async def test_the_content_type_may_be_written_differently(content_type: str) -> None:
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
async def test_text_alone_may_be_urlencoded(data: bytes, text: bytes, content_type: str) -> None:
    assert await read(data, content_type, chunk=3) == {"text": text}


async def test_files_are_at_position_0_and_closed_afterwards() -> None:
    async with read_form(request([GOOD], [("Content-Type", MULTIPART)]), Settings()) as form:
        audio, openface = form.audio, form.openface
        assert audio is not None
        assert openface is not None
        assert (audio.tell(), openface.tell()) == (0, 0)
    assert audio.closed
    assert openface.closed


def open_files(folder: Path) -> list[str]:
    """Files of `folder` that this process has open; a spooled file has no name on disk."""
    found = (link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink())
    return [*(target.name for target in found if target.is_relative_to(folder)), *(p.name for p in folder.iterdir())]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to see the files a process holds open")
@pytest.mark.parametrize("fault", [None, "cut", "unknown", "gone"])
async def test_a_large_part_is_on_disk_and_always_removed(
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
    limits = Settings(spool_bytes=100_000)
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


# ---- errors ---------------------------------------------------------------------------------------------------------


async def test_a_body_cut_before_its_closing_boundary_is_an_error() -> None:
    end = GOOD.rindex(b"--frontier--") + len(b"--frontier--")
    for cut in range(end):
        with pytest.raises(MalformedBody):
            await read(GOOD[:cut])


async def test_a_client_that_disconnects_has_its_own_error() -> None:
    with pytest.raises(ClientGone):
        async with read_form(request([GOOD[:50]], [("Content-Type", MULTIPART)], gone=True), Settings()):
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


async def test_no_content_type_or_two_are_errors() -> None:
    for headers in ([], [("Content-Type", MULTIPART), ("Content-Type", MULTIPART)]):
        with pytest.raises(UnsupportedContentType):
            async with read_form(request([GOOD], headers), Settings()):
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
async def test_an_invalid_boundary_is_an_error(boundary: str) -> None:
    with pytest.raises(MalformedBody, match="boundary"):
        await read(GOOD, "multipart/form-data" + boundary)


@pytest.mark.parametrize("name", ["Text", "video", "text ", "", "audio[]", "_charset_", "téxt"])
async def test_an_unknown_part_is_an_error_without_its_name(name: str) -> None:
    with pytest.raises(UnknownPart) as caught:
        await read(body(part("text", b"hi"), part(name, b"x")))
    assert caught.value.part is None
    assert len(name) < 4 or name not in str(caught.value)


@pytest.mark.parametrize("data", [b"video=1", b"text=a&video=1", b"=a", b"audio=RIFF"])
async def test_an_unknown_urlencoded_part_is_an_error(data: bytes) -> None:
    with pytest.raises(UnknownPart):
        await read(data, URLENCODED)


@pytest.mark.parametrize("name", ["text", "audio", "openface"])
async def test_a_part_given_twice_is_an_error(name: str) -> None:
    with pytest.raises(DuplicatePart) as caught:
        await read(body(part(name, b"1"), part("text" if name != "text" else "audio", b"2"), part(name, b"1")))
    assert (caught.value.part, caught.value.status) == (name, 422)


async def test_an_urlencoded_text_given_twice_is_an_error() -> None:
    with pytest.raises(DuplicatePart):
        await read(b"text=a&text=b", URLENCODED)


@pytest.mark.parametrize("data", [b"--frontier--", b"--frontier--\r\n"])
async def test_a_form_without_a_part_is_an_error(data: bytes) -> None:
    for chunk in (1, 100):
        with pytest.raises(EmptyForm):
            await read(data, chunk=chunk)


@pytest.mark.parametrize("data", [b"", b"&", b"&&&"])
async def test_an_urlencoded_form_without_a_part_is_an_error(data: bytes) -> None:
    with pytest.raises(EmptyForm):
        await read(data, URLENCODED)


@pytest.mark.parametrize(
    "rest", [b"x", part("openface", b"late") + b"--frontier--\r\n", b"\r\n" + GOOD, b"-", b"\r\n\0"], ids=repr
)
async def test_content_after_the_closing_boundary_is_an_error(rest: bytes) -> None:
    for chunk in (1, 5, 100_000):
        with pytest.raises(MalformedBody):
            await read(body(part("text", b"hi")) + rest, chunk=chunk)


@pytest.mark.parametrize("start", [b"preamble\r\n", b" \r\n", b"\n-\n", b"\r\nlost--"])
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
async def test_a_part_in_another_transfer_encoding_is_an_error(name: str) -> None:
    with pytest.raises(UnsupportedPart):
        await read(body(part(name, b"aGk=", "Content-Transfer-Encoding: base64")))
    assert await read(body(part(name, b"hi", "Content-Transfer-Encoding: 8BIT"))) == {name: b"hi"}


async def test_a_malformed_body_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})  # as uvicorn does at start
    with pytest.raises(MalformedBody):
        await read(body(part("text", b"hi", "xylophone\x7f: x")))
    assert [record for record in caplog.records if "multipart" in record.name or "uploads" in record.name] == []


# ---- what clients and readers disagree on


@pytest.mark.parametrize("start", [b"\r\n", b"\r\n\r\n"])
@pytest.mark.parametrize("chunk", [1, 2, 3, 100_000])
async def test_line_breaks_before_the_first_boundary_are_accepted(start: bytes, chunk: int) -> None:
    assert await read(start + GOOD, chunk=chunk) == await read(GOOD)


async def test_a_body_of_line_breaks_alone_has_no_boundary() -> None:
    with pytest.raises(MalformedBody):
        await read(b"\r\n" * 10, chunk=3)


@pytest.mark.parametrize(
    "disposition",
    [
        b'form-data; name="text"; name="audio"',
        b'form-data; name="text"; name="text"',
        b'form-data; NAME=text; name="audio"',
        b'form-data; name="text"; filename="a"; name = "audio"',
        b"form-data; name=\"text\"; name*=UTF-8''audio",
    ],
)
async def test_a_part_with_two_names_is_an_error(disposition: bytes) -> None:
    data = b"--frontier\r\nContent-Disposition: " + disposition + b"\r\n\r\nhi\r\n--frontier--\r\n"
    with pytest.raises(MalformedBody) as caught:
        await read(data)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "disposition",
    [
        b'form-data; name="text"; filename="a; name=b.txt"',
        b'form-data; name="text"; filename="a\\"; name=b.txt"',
        b'form-data; name="text"; filename="a.txt"; filename*=UTF-8\'\'a.txt',
    ],
)
async def test_a_file_name_may_look_like_a_parameter(disposition: bytes) -> None:
    data = b"--frontier\r\nContent-Disposition: " + disposition + b"\r\n\r\nhi\r\n--frontier--\r\n"
    assert await read(data) == {"text": b"hi"}


@pytest.mark.parametrize(
    "content_type", [f"{MULTIPART}; boundary=other", f"{URLENCODED}; charset=utf-8; charset=latin-1"]
)
async def test_a_content_type_with_a_parameter_twice_is_an_error(content_type: str) -> None:
    with pytest.raises(MalformedBody):
        await read(GOOD, content_type)
