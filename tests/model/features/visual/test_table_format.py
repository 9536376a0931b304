import codecs

import pytest

from model.features.visual.table_format import (
    column_names,
    comma_separated,
    encoding_of,
    foreign_content,
    foreign_table,
    separator_of,
    unquoted,
)

KNOWN = frozenset({"frame", "success", "AU01_r"})


@pytest.mark.parametrize(
    ("head", "encoding"),
    [
        (codecs.BOM_UTF16_LE + b"f\0", "UTF-16"),
        (codecs.BOM_UTF16_BE + b"\0f", "UTF-16"),
        (codecs.BOM_UTF32_LE + b"f\0\0\0", "UTF-32"),
        (codecs.BOM_UTF8 + b"frame", None),
        (b"frame", None),
        (b"", None),
    ],
)
def test_encoding_is_that_of_the_byte_order_mark(head: bytes, encoding: str | None) -> None:
    assert encoding_of(head) == encoding


@pytest.mark.parametrize(
    ("header", "separator"),
    [
        (b"frame, success, AU01_r", b","),
        (b"frame;success;AU01_r", b";"),
        (b'"frame"\t"success"\t"AU01_r"', b"\t"),
        (b"frame,success,a;b;c;d", b","),
        (b"what;ever", b","),
    ],
)
def test_separator_is_the_one_that_finds_known_names(header: bytes, separator: bytes) -> None:
    assert separator_of(header, KNOWN) == separator


def test_names_have_no_spaces_and_quotes() -> None:
    assert column_names(b' frame ,"success", " AU01_r" ,\xff', b",") == ["frame", "success", "AU01_r", "ÿ"]


def test_row_of_another_separator_gets_commas_and_points() -> None:
    assert comma_separated(b"1;0,5;0.5", b";") == b"1,0.5,0.5"
    assert comma_separated(b"1\t0,5", b"\t") == b"1,0.5"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (b'"1","0.5"', b"1,0.5"),
        (b'"1"', b"1"),
        (b'"1",2', b'"1",2'),
        (b'"1","2"3"', b'"1","2"3"'),
        (b'"1,2"', b'"1,2"'),
        (b"1,2", b"1,2"),
    ],
)
def test_quotes_are_removed_where_every_cell_has_them(row: bytes, expected: bytes) -> None:
    assert unquoted(row) == expected


def test_binary_content_is_not_a_table() -> None:
    assert foreign_content(b"frame,success") is None
    assert "binary" in str(foreign_content(b"\x7fELF\0\0"))
    assert "Excel" in str(foreign_content(b"\xd0\xcf\x11\xe0\xa1"))
    assert "PDF" in str(foreign_content(b"%PDF-1.7"))
    assert "convert-aus" in str(foreign_content(b"#METADATA,,"))


def test_tables_of_other_tools_are_named_whatever_their_case() -> None:
    assert foreign_table(["frame", "success"]) is None
    assert "MediaPipe or ARKit" in str(foreign_table(["Timecode", "BrowDownLeft"]))
    assert "AFFDEX" in str(foreign_table(["Brow Furrow"]))
    assert "FACET, not of OpenFace 2; `emmr convert-aus` converts it" in str(foreign_table(["AU1 Evidence"]))
    assert "cannot be converted" in str(foreign_table(["AU01_r", "AU03_r"]))
    assert "FaceReader" in str(foreign_table(["Video Time", "Neutral"]))
