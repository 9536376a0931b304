from collections.abc import Sequence
from pathlib import Path

import pytest

from model.errors import CorpusError
from model.training.datasets.labels import read_labels
from model.training.datasets.tables import Row


def rows_of(labels: Sequence[str]) -> list[Row]:
    return [Row(Path("m.csv"), line, {"label": label}) for line, label in enumerate(labels, start=2)]


@pytest.mark.parametrize(
    ("written", "classes"),
    [
        (("Positive ", "pos", "POS", "+"), ("positive",) * 4),
        ((" neg", "Negative", "-", "\u2212"), ("negative",) * 4),
        (("neu", "NEUTRAL"), ("neutral", "neutral")),
        (("happy", "Happy", "happy", " sad"), ("happy", "happy", "happy", "sad")),
        (("very  good", "very good"), ("very good", "very good")),
        (("1", "0", "-1"), ("positive", "neutral", "negative")),
        (("+1", "\u22121"), ("positive", "negative")),
        (("2,4", "-0,5", "0"), ("positive", "negative", "neutral")),
        (("0.2", "-1.0", "3"), ("positive", "negative", "positive")),
        (("0", "1", "2.0"), ("0", "1", "2")),
    ],
)
def test_labels_are_read_by_their_meaning(written: Sequence[str], classes: Sequence[str]) -> None:
    assert tuple(read_labels(rows_of(written))[0]) == classes


@pytest.mark.parametrize(
    ("written", "notice"),
    [
        (("positive", "negative"), []),
        (("pos", "pos", "negative"), ["labels read by their meaning: 'pos' as 'positive' (2)"]),
        (("1", "-1"), ["labels are scores: negative below 0, neutral at 0, positive above 0"]),
        (("0", "1"), ["labels are whole numbers: each is a class of that name"]),
    ],
)
def test_a_notice_lists_what_was_mapped(written: Sequence[str], notice: list[str]) -> None:
    assert read_labels(rows_of(written))[1] == notice


@pytest.mark.parametrize(
    ("written", "line", "detail"),
    [
        (("a", " "), 3, "the label is empty"),
        (("positive", "1"), 3, "label '1' is a number, and 'positive' on line 2 is a name"),
        (("-1", "3,5"), 3, "label '3,5' is outside -3 to 3"),
        (("-4", "3"), 2, "label '-4' is outside -3 to 3"),
        (("0", "0.5"), 3, "label '0.5' is a score, and no label is below 0"),
    ],
)
def test_labels_without_a_meaning_are_refused_by_row(written: Sequence[str], line: int, detail: str) -> None:
    with pytest.raises(CorpusError) as caught:
        read_labels(rows_of(written))
    assert caught.value.row == line
    assert detail in caught.value.detail
