"""The end of a body does not depend on how the body is cut into chunks."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import EmptyForm, MalformedBody, UploadError
from app.uploads.form import read_form
from tests.support.forms import DEFAULTS, GOOD, MULTIPART, body, contents, in_chunks, part, read, request

HEAD = b'--frontier\r\nContent-Disposition: form-data; name="text"\r\n\r\n'
# The empty line that ends the header, and then what looks like the closing boundary but is the first line of the text.
BOUNDARY_AS_CONTENT = HEAD + b"--frontier--\r\na\r\n--frontier--\r\n"

Parsed = dict[str, bytes] | type[UploadError]


async def result_of(chunks: Sequence[bytes]) -> Parsed:
    try:
        async with read_form(request(chunks, [("Content-Type", MULTIPART)]), DEFAULTS) as form:
            return contents(form)
    except UploadError as error:
        return type(error)


@pytest.mark.anyio
@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 65_536])
async def test_content_may_contain_a_line_like_the_closing_boundary(chunk: int) -> None:
    assert await read(BOUNDARY_AS_CONTENT, chunk=chunk) == {"text": b"--frontier--\r\na"}
    with pytest.raises(MalformedBody):
        await read(BOUNDARY_AS_CONTENT + b"b", chunk=chunk)


@pytest.mark.anyio
async def test_a_valid_body_is_read_wherever_it_is_cut() -> None:
    whole = await result_of([GOOD])
    assert isinstance(whole, dict)
    for cut in range(1, len(GOOD)):
        assert await result_of([GOOD[:cut], GOOD[cut:]]) == whole


@pytest.mark.anyio
async def test_content_after_the_closing_boundary_is_found_wherever_it_is_cut() -> None:
    data = body(part("text", b"hi")) + b"--frontier--"
    for cut in range(1, len(data)):
        assert await result_of([data[:cut], data[cut:]]) is MalformedBody


@pytest.mark.anyio
@pytest.mark.parametrize("rest", [b"", b"\r\n", b" \t"])
async def test_a_closing_boundary_alone_is_an_empty_form(rest: bytes) -> None:
    for size in range(1, 16):
        assert await result_of(in_chunks(b"--frontier--" + rest, size)) is EmptyForm


PIECES = [
    HEAD, b"--frontier", b"\r\n--frontier", b"--", b"-", b"\r\n", b"\r", b"\n", b"a", b" ", b"--frontier--\r\n",
    b"\r\n--frontier--", part("audio", b"x", filename="a"), part("text", b""), b"X-Other: 1\r\n", b": ", b"\0",
]  # fmt: skip


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Fragments of bodies in any order, most of them with a valid beginning and end."""
    middle = b"".join(draw(st.lists(st.sampled_from(PIECES), max_size=8)))
    return draw(st.sampled_from([HEAD, HEAD, b""])) + middle + draw(st.sampled_from([b"\r\n--frontier--\r\n", b""]))


@given(data=bodies(), cuts=st.lists(st.integers(1, 200), max_size=12))
@settings(max_examples=400, deadline=None, derandomize=True, database=None)
def test_the_result_does_not_depend_on_the_chunks(data: bytes, cuts: list[int]) -> None:
    places = [0, *sorted({cut for cut in cuts if cut < len(data)}), len(data)]
    pieces = [data[start:end] for start, end in pairwise(places)]

    async def all_results() -> list[Parsed]:
        return [await result_of(chunks) for chunks in ([data], pieces, in_chunks(data, 1))]

    whole, cut, bytewise = asyncio.run(all_results())
    assert cut == whole
    assert bytewise == whole
