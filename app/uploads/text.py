"""The text part's bytes → a sentence.

For: refusing what is not text instead of guessing at it.
Does not know: tokens.
"""

import unicodedata
from typing import Final

from app.uploads.errors import CorruptPart, TextTooLong

INVISIBLE: Final = ("Zs", "Zl", "Zp", "Cc", "Cf")  # Unicode general categories


def decode_text(raw: bytes, max_bytes: int) -> str:
    """Decode a UTF-8 sentence; a byte order mark at its start is dropped.

    Raises:
        TextTooLong: more than `max_bytes`.
        CorruptPart: not UTF-8, holding a NUL, or blank.
    """
    if len(raw) > max_bytes:
        raise TextTooLong(f"the text may hold at most {max_bytes} bytes", part="text")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorruptPart("the text is not UTF-8", part="text", place=f"byte {error.start}") from None
    if "\0" in text:
        raise CorruptPart("the text holds a NUL", part="text", place=f"byte {raw.index(0)}")
    text = text.removeprefix("\ufeff")
    if not any(_visible(character) for character in text):
        raise CorruptPart("the text is blank", part="text")
    return text


def _visible(character: str) -> bool:
    """Neither a separator nor a control or format character: U+200B, a space of no width, is no text."""
    return unicodedata.category(character) not in INVISIBLE
