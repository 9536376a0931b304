import json
import tracemalloc
from pathlib import Path

import pytest

from app.scoring.rows import Row, read_recordings, read_rows
from model.errors import CorpusError


def manifest(folder: Path, content: str | bytes, name: str = "manifest.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def faults(rows: list[Row]) -> dict[str, str | None]:
    return {row.id: row.fault for row in rows}


def test_a_table_has_any_of_the_columns_in_any_order(tmp_path: Path) -> None:
    path = manifest(
        tmp_path, "\ufefflabel,note,audio,id,text\npositive,x,a/b.wav,one,  Hi. \n,,,,\n\n,,c.wav,,\n,,,six,\n"
    )
    assert list(read_rows(path)) == [
        Row("one", "positive", "  Hi. ", tmp_path / "a/b.wav"),
        Row("line-5", audio=tmp_path / "c.wav"),
        Row("six", fault="text, audio and openface are all empty"),
    ]


def test_json_lines_have_the_keys_of_a_training_manifest(tmp_path: Path) -> None:
    lines = [{"id": 7, "text": "Hi.", "label": 3, "split": "train"}, {"openface": "f.csv", "text": None}]
    path = manifest(tmp_path, "\n".join(map(json.dumps, lines)), "manifest.jsonl")
    assert list(read_rows(path)) == [Row("7", "3", "Hi."), Row("line-2", openface=tmp_path / "f.csv")]


def test_a_row_may_choose_the_face_of_its_file(tmp_path: Path) -> None:
    content = "id,text,openface,face_id\na,,f.csv,2\nb,,f.csv,\nc,Hi.,,1\nd,,f.csv,-1\ne,,f.csv,2.0\n"
    rows = list(read_rows(manifest(tmp_path, content)))
    assert [row.face_id for row in rows] == [2, None, 1, None, 2]
    assert faults(rows) == {
        "a": None,
        "b": None,
        "c": "face_id chooses a face of openface, which is empty",
        "d": "face_id is not a whole number from 0 on: '-1'",
        "e": None,
    }
    lines = json.dumps({"openface": "f.csv", "face_id": 3})
    assert [row.face_id for row in read_rows(manifest(tmp_path, lines, "m.jsonl"))] == [3]


def test_a_row_that_cannot_be_read_does_not_end_the_table(tmp_path: Path) -> None:
    path = manifest(tmp_path, b'id,text\na,Hi.\nb,x,y\nc,"x"y\nd,\x81\n\xff,x\ne,"two\nlines"\n"f\ng",x\na,x\nh,Hi.\n')
    rows = list(read_rows(path))
    assert rows[5].text == "two\nlines"
    assert faults(rows) == {
        "a": None,
        "line-3": "line 3: 3 cells where the header has 2 (separated by ',')",
        "line-4": "line 4: not readable as CSV: ',' expected after '\"'",
        "line-5": "line 5: byte 0x81 in column text is neither UTF-8 nor Windows-1252: export the table as UTF-8",
        "\u00ff": None,
        "e": None,
        "line-9": "the id or the label holds a line break",
        "line-11": "the id is that of a row before",
        "h": None,
    }


def test_an_export_of_a_spreadsheet_is_read_as_training_reads_it(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "1.wav").touch()
    content = "sep=;\r\nAudio;Text;Openface;Face_ID;Label;Speaker\r\nclips\\1.wav;caf\u00e9, bitte;f.csv;2,0;0,5;x\r\n"
    content += "C:\\1.wav;;;;;\r\n"
    expected = [
        Row("line-3", "0,5", "caf\u00e9, bitte", tmp_path / "clips/1.wav", tmp_path / "f.csv", 2),
        Row(
            "line-4",
            fault=r"line 4: audio file 'C:\\1.wav' is an absolute path of Windows: give it relative to the manifest",
        ),
    ]
    unused = "columns that are not used: speaker"
    decoded = "cells that are not UTF-8 are read as Windows-1252; line 3 then has '\u00e9'"
    for encoding, notices in (("utf-8-sig", [unused]), ("utf-16", [unused]), ("cp1252", [unused, decoded])):
        found: list[str] = []
        assert list(read_rows(manifest(tmp_path, content.encode(encoding)), notify=found.append)) == expected
        assert found == notices


def test_a_table_is_read_row_by_row(tmp_path: Path) -> None:
    path = manifest(tmp_path, "id,text\n" + "".join(f"{number},Hello there.\n" for number in range(50_000)))
    tracemalloc.start()
    try:
        assert next(iter(read_rows(path))).id == "0"
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size / 4
    finally:
        tracemalloc.stop()


def test_a_line_that_is_not_json_does_not_end_the_file(tmp_path: Path) -> None:
    lines = ['{"id": "a", "text": "x"}', "{", "[]", '{"words": "x"}', '{"text": ["x"]}', '{"id": "b", "text": "x"}']
    rows = list(read_rows(manifest(tmp_path, "\n".join(lines), "m.ndjson")))
    assert [row.id for row in rows] == ["a", "line-2", "line-3", "line-4", "line-5", "b"]
    details = [row.fault or "" for row in rows[1:5]]
    expected = ("line 2: is not JSON", "line 3: is not a JSON object", "line 4: unknown key: words", "line 5: text is")
    assert all(found.startswith(words) for found, words in zip(details, expected, strict=True))


def test_an_id_made_of_a_line_is_unused(tmp_path: Path) -> None:
    rows = read_rows(manifest(tmp_path, "id,text\nline-3,x\n,y\n"))
    assert [row.id for row in rows] == ["line-3", "line-3*"]


def test_recordings_have_any_of_their_files(tmp_path: Path) -> None:
    content = "id,transcript,audio,note\na,t.srt,a.wav,x\n,,b.wav,\nc,,,x\na,t.srt,,\n"
    notices: list[str] = []
    expected = [
        Row("a", text=tmp_path / "t.srt", audio=tmp_path / "a.wav"),
        Row("line-3", audio=tmp_path / "b.wav"),
        Row("c", fault="audio, transcript and openface are all empty"),
        Row("line-5", fault="the id is that of a row before"),
    ]
    assert list(read_recordings(manifest(tmp_path, content), notices.append)) == expected
    assert notices == ["columns that are not used: note"]
    lines = '{"id": 7, "openface": "f.csv"}\n{"id": "b", "text": "Hi."}\n'
    seven, unknown = read_recordings(manifest(tmp_path, lines, "m.jsonl"))
    assert (seven, unknown.fault) == (Row("7", openface=tmp_path / "f.csv"), "line 2: unknown key: text")
    with pytest.raises(CorpusError, match="has none of the columns audio, transcript, openface"):
        list(read_recordings(manifest(tmp_path, "id,text\na,Hi.\n")))


def test_files_of_one_name_in_a_folder_are_one_row(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    names = ["b.wav", "b.TXT", "b.csv", "a.mp3", "in/a.txt", "in/a.pdf", "c.wav", "c.flac", ".d.wav", "out.csv"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    assert list(read_rows(tmp_path, [tmp_path / "out.csv"])) == [
        Row("a", audio=tmp_path / "a.mp3"),
        Row("b", "", tmp_path / "b.TXT", tmp_path / "b.wav", tmp_path / "b.csv"),
        Row("c", fault="several files are its audio: .flac and .wav"),
        Row("in/a", text=tmp_path / "in/a.txt"),
    ]


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        ("", "has none of the columns text, audio, openface"),
        ("id;words\na;Hi.\n", "has none of the columns text, audio, openface"),
        (b"\xff\xfea", "is not UTF-16"),
        ("id,text\0\n", "holds a NUL byte"),
        ("text,text\n", "column named more than once: text"),
        ("id,text\n", "holds no rows"),
        ('"id"x,text\n', "not readable as CSV"),
    ],
)
def test_a_table_without_rows_or_columns_is_refused(tmp_path: Path, content: str | bytes, detail: str) -> None:
    with pytest.raises(CorpusError) as caught:
        list(read_rows(manifest(tmp_path, content)))
    assert detail in str(caught.value)


def test_a_source_without_rows_is_refused(tmp_path: Path) -> None:
    for source in (tmp_path, tmp_path / "nowhere.csv"):
        with pytest.raises(CorpusError) as caught:
            list(read_rows(source))
        assert str(source) in str(caught.value)
