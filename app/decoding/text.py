"""The text part's bytes → a sentence.

For: refusing what is not text instead of guessing at it.
Does not know: tokens.
"""

import unicodedata
from itertools import groupby
from typing import Final

from app.uploads.errors import CorruptPart, TextTooLong

INVISIBLE: Final = ("Zs", "Zl", "Zp", "Cc", "Cf")  # Unicode general categories
BASIC_PLANE: Final = 2**16  # code points; past these regular expressions differ in how a character is written


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


def _pattern() -> str:
    runs = [(seen, list(run)) for seen, run in groupby(range(BASIC_PLANE), key=lambda code: _visible(chr(code)))]
    invisible = "".join(f"\\u{run[0]:04x}-\\u{run[-1]:04x}" for seen, run in runs if not seen)
    return f"^[^\\u0000]*[^{invisible}][^\\u0000]*$"


VISIBLE: Final = _pattern()
"""A regular expression (ECMA-262) for texts that hold no NUL and are not blank: those that `decode_text` accepts."""
