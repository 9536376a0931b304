"""Labels of a manifest as people write them: spellings of a polarity, names of classes, or sentiment scores."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from model.training.datasets.base import CLASSES, MAX_SCORE
from model.training.datasets.tables import Row

SPELLINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        **{name: name for name in CLASSES},
        **dict.fromkeys(("neg", "-", "\u2212"), "negative"),
        **dict.fromkeys(("neu", "neut"), "neutral"),
        **dict.fromkeys(("pos", "+"), "positive"),
    }
)
"""Spelling, in lower case and without surrounding spaces → polarity."""

_NUMBER: Final = re.compile(r"[+\-\u2212]?\d+(?:[.,]\d+)?")
_SHOWN: Final = 10  # spellings that a notice lists


def read_labels(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """Return the class of each row, from its cell `label`.

    - Names: case and spaces do not matter; a spelling in `SPELLINGS` is that polarity. Of several spellings of another
      name the most frequent one is the class.
    - Numbers of which one is below 0 are sentiment scores in [-`MAX_SCORE`, `MAX_SCORE`], such as -1, 0 and 1. The
      class is the polarity of the sign. The decimal mark is a point or a comma.
    - Whole numbers of which none is below 0 are names of classes.

    Returns:
        The classes, in the order of the rows; and what was read otherwise than it is written.

    Raises:
        CorpusError: names the row of an empty label, a number among names, a score out of range, or a fraction where
            no score is below 0, so that the meaning of 0 is not known.
    """
    cells = [" ".join(row.text("label").split()) for row in rows]
    numeric = [bool(_NUMBER.fullmatch(cell)) for cell in cells]
    if not any(numeric):
        return _names(cells)
    if not all(numeric):
        row, other = rows[numeric.index(True)], rows[numeric.index(False)]
        raise row.fault(f"label {row['label']!r} is a number, and {other['label']!r} on line {other.line} is a name")
    numbers = [float(cell.replace(",", ".").replace("\u2212", "-")) for cell in cells]
    if min(numbers) < 0:
        for row, number in zip(rows, numbers, strict=True):
            if abs(number) > MAX_SCORE:
                raise row.fault(f"label {row['label']!r} is outside -{MAX_SCORE:g} to {MAX_SCORE:g}, as scores are")
        found = [CLASSES[1 + (number > 0) - (number < 0)] for number in numbers]
        return found, ["labels are scores: negative below 0, neutral at 0, positive above 0"]
    for row, number in zip(rows, numbers, strict=True):
        if number != int(number):
            detail = "is a score, and no label is below 0: scores lie between -3 and 3, or -1 and 1, with 0 as neutral"
            raise row.fault(f"label {row['label']!r} {detail}")
    return [str(int(number)) for number in numbers], ["labels are whole numbers: each is a class of that name"]


def _names(cells: Sequence[str]) -> tuple[list[str], list[str]]:
    spellings: dict[str, Counter[str]] = {}
    for cell in cells:
        spellings.setdefault(cell.casefold(), Counter())[cell] += 1
    names = {key: SPELLINGS.get(key, counts.most_common(1)[0][0]) for key, counts in spellings.items()}
    found = [names[cell.casefold()] for cell in cells]
    changed = Counter((cell, name) for cell, name in zip(cells, found, strict=True) if cell != name)
    if not changed:
        return found, []
    shown = ", ".join(f"{cell!r} as {name!r} ({count})" for (cell, name), count in changed.most_common(_SHOWN))
    return found, [f"labels read by their meaning: {shown}"]
