import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.decoding.text import decode_text
from app.uploads.errors import CorruptPart, TextTooLong, UploadError

LIMIT = 64 * 1024


@pytest.mark.parametrize("text", ["Hello.", "  spaced  ", "日本語", "é\n\tè", "🙂", "\U0010fffd"])
def test_a_sentence_comes_out_as_it_went_in(text: str) -> None:
    assert decode_text(text.encode(), LIMIT) == text


def test_a_byte_order_mark_at_the_start_is_dropped() -> None:
    assert decode_text(b"\xef\xbb\xbfHello.", LIMIT) == "Hello."


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT])
def test_a_text_up_to_the_limit_is_taken(size: int) -> None:
    assert len(decode_text(b"a" * size, LIMIT)) == size


def test_a_text_past_the_limit_is_refused() -> None:
    with pytest.raises(TextTooLong) as caught:
        decode_text(b"a" * (LIMIT + 1), LIMIT)
    assert caught.value.status == 422


def test_the_limit_is_of_bytes_not_of_letters() -> None:
    with pytest.raises(TextTooLong):
        decode_text("é".encode() * 6, 11)


@pytest.mark.parametrize(
    ("raw", "place"),
    [(b"caf\xe9", "byte 3"), (b"\xff\xfeh\0i\0", "byte 0"), (b"ab\xed\xa0\x80", "byte 2"), (b"ab\xc0\xaf", "byte 2")],
    ids=["latin-1", "utf-16", "surrogate", "overlong"],
)
def test_what_is_not_utf_8_is_an_error_naming_the_byte(raw: bytes, place: str) -> None:
    with pytest.raises(CorruptPart) as caught:
        decode_text(raw, LIMIT)
    assert (caught.value.part, caught.value.place) == ("text", place)


def test_a_nul_is_an_error_naming_the_byte() -> None:
    with pytest.raises(CorruptPart) as caught:
        decode_text("é\0a".encode(), LIMIT)
    assert caught.value.place == "byte 2"


@pytest.mark.parametrize("text", ["", " ", "\r\n\t", "\u00a0\u2003", "\u200b", "\ufeff", "\u200e \x01"])
def test_a_blank_text_is_an_error(text: str) -> None:
    with pytest.raises(CorruptPart, match="blank"):
        decode_text(text.encode(), LIMIT)


@given(raw=st.binary(max_size=40))
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_whatever_the_bytes_only_a_text_or_a_fault_comes_out(raw: bytes) -> None:
    try:
        text = decode_text(raw, 32)
    except UploadError:
        return
    assert text.encode() in (raw, raw[3:])
    assert text.strip()
