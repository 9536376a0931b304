import pytest

from app.decoding.frames import PREFIX, BrokenFrame, pack, parse


def test_a_frame_says_how_long_its_message_and_its_content_are() -> None:
    frame = pack({"kind": "sound"}, 7)
    message_bytes, content_bytes = PREFIX.unpack(frame[: PREFIX.size])
    assert content_bytes == 7
    assert parse(frame[PREFIX.size :][:message_bytes]) == {"kind": "sound"}
    assert len(frame) == PREFIX.size + message_bytes


@pytest.mark.parametrize("encoded", [b"", b"[]", b"1", b'"text"', b"{", b"\xff", b"[" * 60_000])
def test_a_message_that_is_no_object_is_an_error(encoded: bytes) -> None:
    with pytest.raises(BrokenFrame):
        parse(encoded)
