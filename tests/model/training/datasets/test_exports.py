from pathlib import Path

import pytest

from model.errors import CorpusError
from model.training.datasets.exports import read_export

KNOWN = ("text", "audio", "label")


def written(folder: Path, content: bytes) -> Path:
    path = folder / "export.csv"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        b"text,label\nh\xc3\xa9,a\n",
        b"\xef\xbb\xbftext,label\r\nh\xc3\xa9,a\r\n",
        b"\xef\xbb\xbftext;label\r\nh\xc3\xa9;a\r\n",
        b"text\tlabel\nh\xc3\xa9\ta\n",
        b"sep=;\r\ntext;label\r\nh\xc3\xa9;a\r\n",
        b'"sep=|"\ntext|label\nh\xc3\xa9|a\n',
        " Text , LABEL\nh\u00e9,a\n".encode(),
        b"text,label,,\nh\xc3\xa9,a,,\n,,,\n,,\n",
        b"text,label\nh\xc3\xa9,a,,\n",
        "text\tlabel\nh\u00e9\ta\n".encode("utf-16"),
    ],
)
def test_usual_encodings_and_delimiters_are_read(tmp_path: Path, content: bytes) -> None:
    columns, rows, notices = read_export(written(tmp_path, content), KNOWN)
    assert columns == ["text", "label"]
    assert [row.cells for row in rows] == [{"text": "h\u00e9", "label": "a"}]
    assert notices == []


def test_other_bytes_are_windows_1252_with_a_notice(tmp_path: Path) -> None:
    _, rows, notices = read_export(written(tmp_path, b"text;label\na;b\ncaf\xe9 \x80;b\n"), KNOWN)
    assert rows[1]["text"] == "caf\u00e9 \u20ac"
    assert notices == ["cells that are not UTF-8 are read as Windows-1252; line 3 then has '\u00e9'"]


def test_columns_that_are_not_used_are_named(tmp_path: Path) -> None:
    _, rows, notices = read_export(written(tmp_path, b"text;label;Spr\xe9cher\na;b;\x81\n"), KNOWN)
    assert rows[0].cells == {"text": "a", "label": "b"}
    assert notices == ["columns that are not used: spr\u00e9cher"]


@pytest.mark.parametrize(
    ("content", "line", "detail"),
    [
        (b"text,label\na,b\n\x81,b\n", 3, "byte 0x81 in column text is neither UTF-8 nor Windows-1252"),
        (b"text,label\n\xc3\xa9\xe9,b\n", 2, "byte 0xe9 in column text is neither UTF-8 nor Windows-1252"),
        (b"text,label\na,\0\n", 2, "holds a NUL byte"),
        (b"\xff\xfea", None, "is not UTF-16"),
        (b"text,label\na\n", 2, "1 cells where the header has 2 (separated by ',')"),
        (b"text;label\na;b;c\n", 2, "3 cells where the header has 2 (separated by ';')"),
        (b'text;label\n"a";b\n"c;d\n', 3, "not readable as CSV"),
        (b"sep=;\ntext;label\na\n", 3, "1 cells where the header has 2"),
        (b"text,Text\n", 1, "column named more than once: text"),
    ],
)
def test_errors_name_the_line(tmp_path: Path, content: bytes, line: int | None, detail: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(CorpusError) as caught:
        read_export(path, KNOWN)
    assert (caught.value.path, caught.value.row) == (str(path), line)
    assert detail in caught.value.detail
