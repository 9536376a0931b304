"""Reading JSON bodies: valid ones in chunks of any size, and every kind of invalid one."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import (
    BodyTooLarge,
    CorruptPart,
    DuplicatePart,
    EmptyForm,
    MalformedBody,
    PartTooLarge,
    TextTooLong,
    TooManyItems,
    UnexpectedJson,
    UnknownPart,
    UnsupportedContentType,
    UploadError,
)
from app.settings import Settings
from app.uploads.json_body import MAX_ID, is_json, read_items, read_json
from app.uploads.spool import Uploads
from tests.support.forms import DEFAULTS, contents, in_chunks, request
from tests.support.virtual_time import run

pytestmark = pytest.mark.anyio

JSON = "application/json"
SOUND = bytes(range(256)) * 40
FACE = b"frame\r\n1\r\n"


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


WHOLE = json.dumps({"text": "Grüße 🙂", "audio": encoded(SOUND), "openface": encoded(FACE)}).encode()
PARTS = {"text": "Grüße 🙂".encode(), "audio": SOUND, "openface": FACE}


async def read(
    data: bytes, settings: Settings | None = None, *, chunk: int = 65_536, kind: str = JSON
) -> dict[str, bytes]:
    """Return the contents of the parts."""
    async with read_json(request(in_chunks(data, chunk), [("Content-Type", kind)]), settings or DEFAULTS) as form:
        return contents(form)


async def items(data: bytes, settings: Settings | None = None, *, chunk: int = 65_536) -> list[tuple[str, Any]]:
    """Return id and content, or error, of each item."""
    settings = settings or DEFAULTS
    sent = request(in_chunks(data, chunk), [("Content-Type", JSON)])
    async with read_items(sent, settings, Uploads(settings)) as found:
        return [(item.id, item.error or contents(item.form)) for item in found]


def batch(*members: Mapping[str, object]) -> bytes:
    return json.dumps({"items": members}).encode()


# ---- accepted


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1_000_000])
async def test_the_three_parts_are_read_from_chunks_of_any_size(chunk: int) -> None:
    assert await read(WHOLE, chunk=chunk) == PARTS


@pytest.mark.parametrize("names", [("text",), ("audio",), ("openface",), ("openface", "text"), ("audio", "openface")])
async def test_any_subset_of_parts_in_any_order_is_read(names: tuple[str, ...]) -> None:
    sent = json.loads(WHOLE)
    assert await read(json.dumps({name: sent[name] for name in names}).encode()) == {
        name: PARTS[name] for name in names
    }


@pytest.mark.parametrize("chunk", [1, 5, 1000])
@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (b' \r\n\t{ "text" : "a" } \n', {"text": b"a"}),
        (b'{"text":"a","audio":null,"openface":null}', {"text": b"a"}),
        (b'{"t\\u0065xt":"\\ud83d\\ude42\\n\\u00e9\\/\\""}', {"text": '🙂\né/"'.encode()}),
        (b'{"text":""}', {"text": b""}),
        (b'{"audio":""}', {"audio": b""}),
        (b'{"audio":"\\/\\u002B\\u002b\\u003d"}', {"audio": base64.b64decode("/++=")}),
        (b'{"audio":"QQ==","text":"b"}', {"audio": b"A", "text": b"b"}),
        ('{"text":"é"}'.encode(), {"text": "é".encode()}),
    ],
)
async def test_every_way_to_write_a_value_is_read(data: bytes, parts: dict[str, bytes], chunk: int) -> None:
    assert await read(data, chunk=chunk) == parts


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(content=st.binary(max_size=200), cut=st.integers(1, 20))
def test_base64_is_read_as_written(content: bytes, cut: int) -> None:
    sent = json.dumps({"audio": encoded(content)}).encode()
    assert run(read(sent, chunk=cut)) == {"audio": content}


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(text=st.text(max_size=50), cut=st.integers(1, 9), ascii_only=st.booleans())
def test_a_text_is_read_as_written(text: str, cut: int, ascii_only: bool) -> None:
    sent = json.dumps({"text": text}, ensure_ascii=ascii_only)
    try:
        data = sent.encode()
    except UnicodeEncodeError:
        return
    if any("\ud800" <= character <= "\udfff" for character in text):
        with pytest.raises(CorruptPart):
            run(read(data, chunk=cut))
    else:
        assert run(read(data, chunk=cut)) == {"text": text.encode()}


@pytest.mark.parametrize(
    ("kind", "found"),
    [(JSON, True), ("Application/JSON; charset=UTF-8", True), ("application/jsonp", False), ("text/json", False)],
)
def test_json_is_recognised_by_its_media_type(kind: str, found: bool) -> None:
    assert is_json(request([], [("Content-Type", kind)])) is found
    assert not is_json(request([], [("Content-Type", kind)] * 2))


# ---- errors of a body


@pytest.mark.parametrize(
    ("data", "error", "place"),
    [
        (b"[]", UnexpectedJson, None),
        (b'"text"', UnexpectedJson, None),
        (b"null", UnexpectedJson, None),
        (b"7", UnexpectedJson, None),
        (b"{}", EmptyForm, None),
        (b'{"text":null}', EmptyForm, None),
        (b'{"text":1}', UnexpectedJson, "/text"),
        (b'{"text":true}', UnexpectedJson, "/text"),
        (b'{"audio":["QQ=="]}', UnexpectedJson, "/audio"),
        (b'{"openface":{"a":1}}', UnexpectedJson, "/openface"),
        (b'{"text":"a","text":"a"}', DuplicatePart, "/text"),
        (b'{"text":"a","te\\u0078t":null}', DuplicatePart, "/text"),
        (b'{"video":"a"}', UnknownPart, None),
        (b'{"id":"a","text":"a"}', UnknownPart, None),
        (b'{"Text":"a"}', UnknownPart, None),
        (b'{"%s":"a"}' % (b"a" * 100), UnexpectedJson, None),
        (b'{"text":"\xff"}', CorruptPart, "/text"),
        (b'{"text":"\xed\xa0\x80"}', CorruptPart, "/text"),
        (b'{"text":"\\ud83d"}', CorruptPart, "/text"),
        (b'{"text":"\\ude42\\ud83d"}', CorruptPart, "/text"),
        (b'{"text":"\\udcc3\\udca9"}', CorruptPart, "/text"),
        (b'{"audio":"QQ"}', CorruptPart, "/audio"),
        (b'{"audio":"QQ="}', CorruptPart, "/audio"),
        (b'{"audio":"QQ==QQ=="}', CorruptPart, "/audio"),
        (b'{"audio":"====", "text":"a"}', CorruptPart, "/audio"),
        (b'{"audio":"Q=Q="}', CorruptPart, "/audio"),
        (b'{"audio":"QUJD\\nQUJD"}', CorruptPart, "/audio, character 4"),
        (b'{"audio":"QUJDQUJD-_=="}', CorruptPart, "/audio, character 8"),
        (b'{"audio":"data:audio/wav;base64,QQ=="}', CorruptPart, "/audio, character 4"),
        ('{"audio":"QUJé"}'.encode(), CorruptPart, "/audio, character 3"),
        (b'{"audio":"QUJD\xff"}', CorruptPart, "/audio, character 4"),
    ],
)
@pytest.mark.parametrize("chunk", [1, 1000])
async def test_an_error_names_its_place(data: bytes, error: type[UploadError], place: str | None, chunk: int) -> None:
    with pytest.raises(UploadError) as caught:
        await read(data, chunk=chunk)
    assert type(caught.value) is error
    assert caught.value.status == 422
    found = caught.value.place
    if place is not None and "character" in place and chunk == 1:
        assert found is not None
        assert found.startswith("/audio, character ")
    else:
        assert found == place


@pytest.mark.parametrize(
    "data",
    [
        b"", b" ", b"hello", b"{", b'{"text"', b'{"text"}', b'{"text":', b'{"text":}', b'{"text":"a"', b'{"text":"a',
        b'{"text":"a",}', b'{"text":"a"}}', b'{"text":"a"} {}', b'{"text":"a"}x', b'{"text":"a" "audio":""}',
        b'{text:"a"}', b"{'text':'a'}", b'{"text":"\n"}', b'{"text":"\0"}', b'{"text":"\\x41"}', b'{"text":"\\u00g0"}',
        b'{"text":nul}', b'{"text":nulll}', b'{"text":undefined}', b'{"text":"a"/**/}', b'{,"text":"a"}',
        b'{"\xff":"a"}', b'{"\\ud800":"a"}', b"\xef\xbb\xbf{}", '{"text":"a"}'.encode("utf-16"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("chunk", [1, 1000])
async def test_a_body_that_is_not_json_is_malformed(data: bytes, chunk: int) -> None:
    with pytest.raises(MalformedBody) as caught:
        await read(data, chunk=chunk)
    assert caught.value.status == 400


async def test_a_deep_value_is_refused_at_its_first_byte() -> None:
    with pytest.raises(UnexpectedJson) as caught:
        await read(b'{"text":' + b"[" * 1_000_000)
    assert (caught.value.part, caught.value.place) == ("text", "/text")


@pytest.mark.parametrize("kind", ["application/json; charset=latin-1", "application/json; charset=utf-16"])
async def test_another_charset_is_refused(kind: str) -> None:
    with pytest.raises(UnsupportedContentType) as caught:
        await read(b'{"text":"a"}', kind=kind)
    assert caught.value.status == 415


async def test_the_limits_are_those_of_a_form() -> None:
    limits = Settings(max_text_bytes=10, max_openface_bytes=10, max_body_bytes=200)
    assert await read(json.dumps({"text": "é" * 5, "openface": encoded(b"x" * 10)}).encode(), limits)
    refused = {
        TextTooLong: {"text": "é" * 5 + "a"},
        PartTooLarge: {"openface": encoded(b"x" * 11)},
        BodyTooLarge: {"audio": encoded(b"x" * 200)},
    }
    for error, sent in refused.items():
        with pytest.raises(error) as caught:
            await read(json.dumps(sent).encode(), limits)
        assert type(caught.value) is error


# ---- batches


@pytest.mark.parametrize("chunk", [1, 50, 100_000])
async def test_the_items_of_a_batch_are_read_in_order(chunk: int) -> None:
    sent = batch({"id": "b", "text": "x"}, {"audio": encoded(SOUND), "id": "é"}, {"id": "1", "openface": encoded(FACE)})
    expected = [("b", {"text": b"x"}), ("é", {"audio": SOUND}), ("1", {"openface": FACE})]
    assert await items(sent, chunk=chunk) == expected


@pytest.mark.parametrize("chunk", [1, 3, 1000])
async def test_an_item_may_choose_a_face(chunk: int) -> None:
    sent: list[Mapping[str, object]] = [
        {"id": "a", "face_id": 12, "openface": encoded(FACE)},
        {"id": "b", "openface": encoded(FACE)},
        {"id": "c", "openface": encoded(FACE), "face_id": None},
        {"id": "d", "face_id": 0, "text": "x"},
    ]
    form = request(in_chunks(batch(*sent), chunk), [("Content-Type", JSON)])
    async with read_items(form, DEFAULTS, Uploads(DEFAULTS)) as found:
        assert [item.face_id for item in found] == [12, None, None, 0]
        assert [item.error for item in found[:3]] == [None] * 3
        assert isinstance(found[3].error, UnexpectedJson)
        assert (found[3].error.part, found[3].error.place) == ("openface", "/items/3/face_id")


async def test_content_that_is_not_accepted_fails_its_item_alone() -> None:
    sent = batch(
        {"id": "a", "text": "\ud800"},
        {"id": "b", "audio": "no base64", "text": "x"},
        {"id": "c", "text": "y" * 50},
        {"id": "d"},
        {"id": "e", "openface": encoded(b"z" * 50)},
        {"id": "f", "text": None},
        {"id": "g", "text": "good"},
    )
    found = dict(await items(sent, Settings(max_text_bytes=10, max_openface_bytes=40)))
    kinds = {name: type(result) for name, result in found.items()}
    assert kinds == {
        "a": CorruptPart, "b": CorruptPart, "c": TextTooLong, "d": EmptyForm, "e": PartTooLarge, "f": EmptyForm,
        "g": dict,
    }  # fmt: skip
    assert found["g"] == {"text": b"good"}
    assert found["b"].place == "/items/1/audio, character 2"


@pytest.mark.parametrize(
    ("data", "error", "place"),
    [
        (b"{}", EmptyForm, "/items"),
        (batch(), EmptyForm, "/items"),
        (b'[{"id":"a","text":"b"}]', UnexpectedJson, None),
        (b'{"items":{}}', UnexpectedJson, "/items"),
        (b'{"items":null}', UnexpectedJson, "/items"),
        (b'{"items":[],"items":[]}', UnexpectedJson, "/items"),
        (b'{"things":[]}', UnexpectedJson, None),
        (b'{"items":["a"]}', UnexpectedJson, "/items/0"),
        (batch({"text": "a"}), UnexpectedJson, "/items/0"),
        (batch({"id": "a", "text": "x"}, {"id": 7, "text": "a"}), UnexpectedJson, "/items/1/id"),
        (batch({"id": None, "text": "a"}), UnexpectedJson, "/items/0/id"),
        (batch({"id": "", "text": "a"}), UnexpectedJson, "/items/0/id"),
        (batch({"id": "a" * (MAX_ID + 1), "text": "a"}), UnexpectedJson, "/items/0/id"),
        (b'{"items":[{"id":"a","id":"b","text":"c"}]}', UnexpectedJson, "/items/0/id"),
        (batch({"id": "a", "text": "x"}, {"id": "a", "text": "y"}), UnexpectedJson, "/items/1/id"),
        (batch({"id": "a", "text": 7}), UnexpectedJson, "/items/0/text"),
        (batch({"id": "a", "video": "x"}), UnknownPart, "/items/0"),
        *(
            (b'{"items":[{"id":"a","face_id":%s,"text":"c"}]}' % value, UnexpectedJson, "/items/0/face_id")
            for value in (b"-1", b"1.0", b"1e3", b"1000000001", b"9" * 9000, b'"1"', b"true", b"[1]")
        ),
        (b'{"items":[{"id":"a","face_id":null,"face_id":1}]}', UnexpectedJson, "/items/0/face_id"),
        (b'{"items":[{"id":"a","text":"c","text":"d"}]}', DuplicatePart, "/items/0/text"),
    ],
)
async def test_a_batch_of_another_form_is_refused(data: bytes, error: type[UploadError], place: str | None) -> None:
    with pytest.raises(UploadError) as caught:
        await items(data)
    assert (type(caught.value), caught.value.status, caught.value.place) == (error, 422, place)


@pytest.mark.parametrize(
    "data",
    [b"", b'{"items":[', b'{"items":[{}', b'{"items":[,]}', b'{"items":[{"id":"a"},]}', b'{"items":[{"face_id":01}]}'],
)
async def test_a_batch_that_is_not_json_is_malformed(data: bytes) -> None:
    with pytest.raises(UploadError) as caught:
        await items(data)
    assert isinstance(caught.value, MalformedBody | UnexpectedJson)


async def test_the_number_of_items_is_limited() -> None:
    sent = [{"id": str(number), "text": "x"} for number in range(4)]
    limits = Settings(batch_max_items=3)
    assert len(await items(batch(*sent[:3]), limits)) == 3
    with pytest.raises(TooManyItems) as caught:
        await items(batch(*sent), limits)
    assert (caught.value.status, caught.value.place) == (413, "/items/3")


async def test_the_files_of_a_batch_share_the_memory_of_a_form() -> None:
    limits = Settings(spool_bytes=1000)
    uploads = Uploads(limits)
    sent = batch(*({"id": str(number), "audio": encoded(bytes(600))} for number in range(10)))
    async with read_items(request([sent], [("Content-Type", JSON)]), limits, uploads) as found:
        # Two files of 600 bytes, and one that has no room beside them, and so on.
        assert uploads.spooled_bytes == 7 * 600
        assert [len(contents(item.form)["audio"]) for item in found] == [600] * 10
    assert uploads.spooled_bytes == 0


async def test_a_batch_of_another_content_type_is_refused() -> None:
    with pytest.raises(UnsupportedContentType) as caught:
        async with read_items(request([WHOLE], [("Content-Type", "text/json")]), DEFAULTS, Uploads(DEFAULTS)):
            pytest.fail("the batch was accepted")
    assert caught.value.status == 415
