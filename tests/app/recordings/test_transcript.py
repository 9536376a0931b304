import json

import pytest

from app.errors import CorruptPart, PartTooLarge, UnsupportedPart, UploadError
from app.recordings.transcript import Cue, TranscriptLimits, read_transcript
from tests.support.recordings import srt

CUES = [Cue(0.5, 2.0, "Hello."), Cue(2.0, 3.25, "Two\nlines")]
VTT = """WEBVTT Kind: captions

NOTE
A comment --> not a cue

STYLE
::cue { color: red }

first
00:00.500 --> 00:02.000 align:start
<v Anna>Hello &amp; <i>welcome</i>.</v>

00:02.000 --> 01:00:03.250
<c.yellow>Two</c>
"""


def whisper(*segments: object) -> bytes:
    return json.dumps({"text": "…", "segments": segments, "language": "en"}).encode()


def segment(start: object = 0.0, end: object = 1.0, text: object = "Hi.", **more: object) -> dict[str, object]:
    return {"id": 0, "start": start, "end": end, "text": text, **more}


@pytest.mark.parametrize("change", [bytes, lambda c: c.replace(b"\n", b"\r\n"), lambda c: b"\xef\xbb\xbf" + c])
def test_srt_is_read_with_any_line_ends_and_mark(change: object) -> None:
    assert callable(change)
    found = read_transcript(change(srt(CUES)))
    assert (found.format, list(found.cues), found.warnings) == ("srt", CUES, {})


def test_utf16_with_a_mark_is_read() -> None:
    assert list(read_transcript(srt(CUES).decode().encode("utf-16")).cues) == CUES


def test_srt_without_numbers_and_blank_lines_is_read() -> None:
    content = b"00:00:00,500 --> 00:00:02,000\nHello.\n2\n00:00:02,000 --> 00:00:03,250\n{\\an8}Two\nlines"
    assert list(read_transcript(content).cues) == CUES


def test_speakers_of_whisperx_are_taken_from_srt() -> None:
    found = read_transcript(b"1\n00:00:00,000 --> 00:00:01,000\n[SPEAKER_00]: Hello.\n")
    assert found.cues[0] == Cue(0.0, 1.0, "Hello.", "SPEAKER_00")


def test_names_before_the_words_are_speakers() -> None:
    texts = ["Anna Smith: Hello: you.", "Fine.", "Dr. Ben O'Neil: Thanks.", ""]
    found = read_transcript(srt([Cue(n, n + 1.0, text) for n, text in enumerate(texts)]))
    assert [(cue.speaker, cue.text) for cue in found.cues] == [
        ("Anna Smith", "Hello: you."),
        (None, "Fine."),
        ("Dr. Ben O'Neil", "Thanks."),
        (None, ""),
    ]
    assert found.warnings == {
        "speakers_in_text": "2 cues begin with a name and a colon, which was taken as the speaker."
    }


@pytest.mark.parametrize(
    "texts",
    [
        ["Note: one cue."],
        ["Note: a few.", "Remember: fewer than half.", "Yes.", "No.", "Well."],
        ["look: in lower case.", "and: again."],
        ["At 10:30: a time.", "12:00: noon."],
        ["Anna:", "Ben:"],
    ],
)
def test_words_before_a_colon_stay_words(texts: list[str]) -> None:
    found = read_transcript(srt([Cue(n, n + 1.0, text) for n, text in enumerate(texts)]))
    assert [(cue.speaker, cue.text) for cue in found.cues] == [(None, text) for text in texts]
    assert not found.warnings


def test_webvtt_gives_speakers_and_no_markup() -> None:
    found = read_transcript(VTT.encode())
    assert found.format == "webvtt"
    assert list(found.cues) == [Cue(0.5, 2.0, "Hello & welcome.", "Anna"), Cue(2.0, 3603.25, "Two")]


def test_segments_of_whisper_are_read() -> None:
    found = read_transcript(whisper(segment(), segment(1, 2.5, " Bye. ", speaker="A", words=[])))
    assert found.format == "whisper"
    assert list(found.cues) == [Cue(0.0, 1.0, "Hi."), Cue(1.0, 2.5, "Bye.", "A")]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_is_read_with_any_separator(separator: str) -> None:
    lines = ["Start,End,Speaker,Text", "0.5,2,Anna,Hello.", '00:00:02.000,3.25,,"Two', 'lines"']
    found = read_transcript("\n".join(lines).replace(",", separator).encode())
    assert found.format == "csv"
    assert list(found.cues) == [Cue(0.5, 2.0, "Hello.", "Anna"), Cue(2.0, 3.25, "Two\nlines")]


def test_cues_are_ordered_with_a_warning() -> None:
    found = read_transcript(srt([CUES[1], CUES[0]]))
    assert list(found.cues) == CUES
    assert "line 7, cue 2" in found.warnings["cues_out_of_order"]


def test_overlapping_cues_are_kept_with_a_warning() -> None:
    found = read_transcript(srt([Cue(0, 2, "One."), Cue(1, 3, "Two.")]))
    assert len(found.cues) == 2
    assert "line 6, cue 2" in found.warnings["cues_overlap"]


def test_cues_without_duration_are_left_out_with_a_warning() -> None:
    found = read_transcript(whisper(segment(1, 1), segment()))
    assert len(found.cues) == 1
    assert "cue 1" in found.warnings["cues_skipped"]


@pytest.mark.parametrize("text", ["", " \t ", "\ufeff \ufeff", "<i></i>"])
def test_cues_may_hold_no_words(text: str) -> None:
    content = f"1\n00:00:00,000 --> 00:00:01,000\n{text}\n\n2\n00:00:01,000 --> 00:00:02,000\nHi.\n"
    assert [cue.text for cue in read_transcript(content.encode()).cues] == ["", "Hi."]


CORRUPT = {
    "reversed": (srt([Cue(3, 1, "Hi.")]), "ends before it begins", "line 2, cue 1"),
    "negative": (b"1\n-00:00:01,000 --> 00:00:02,000\nHi.", "negative", "line 2, cue 1"),
    "words": (b"1\n00:00:01,000 --> later\nHi.", "not hours:minutes:seconds", "line 2, cue 1"),
    "sixty": (b"1\n00:61:01,000 --> 00:62:00,000\nHi.", "more than 59", "line 2, cue 1"),
    "no end": (b"1\n00:00:01,000 -->\nHi.", "no end", "line 2, cue 1"),
    "no times": (srt(CUES) + b"\n3\nHi.\n", "no line with times", "line 10, cue 3"),
    "vtt": (b"WEBVTT\n\n00:01.000 --> 00:00.000\nHi.", "ends before it begins", "line 3, cue 1"),
    "vtt without times": (b"WEBVTT\n\nHi.\nBye.", "no line with times", "line 3, cue 1"),
    "latin-1": (srt([Cue(0, 1, "Hi.")]) + b"\xe9", "not UTF-8", "byte 36"),
    "utf-16": (b"\xff\xfe1", "not UTF-16", "byte 2"),
    "nul": (srt([Cue(0, 1, "Hi.\0")]), "a NUL", "line 3"),
    "empty": (b" \n", "is empty", None),
    "no cue": (b"WEBVTT\n", "no cue", None),
    "json": (b'{"segments": [', "JSON is malformed", "line 1, column 15"),
    "deep json": (b"[" * 100_000, "nested too deeply", None),
    "no segments": (b'{"text": "Hi."}', "no list of segments", None),
    "nan": (b'[{"start": NaN}]', "NaN and infinity", None),
    "digits": (b"[" + b"1" * 5_000 + b"]", "too long", None),
    "no object": (b"[1]", "not an object", "cue 1"),
    "text start": (whisper(segment("0")), "start is not a number", "cue 1"),
    "true start": (whisper(segment(start=True)), "start is not a number", "cue 1"),
    "negative start": (whisper(segment(), segment(-1)), "negative", "cue 2"),
    "infinite end": (b'[{"start": 0, "end": 1e999, "text": ""}]', "too large", "cue 1"),
    "number text": (whisper(segment(text=1)), "text is not a string", "cue 1"),
    "number speaker": (whisper(segment(speaker=1)), "speaker is not a string", "cue 1"),
    "surrogate": (b'[{"start": 0, "end": 1, "text": "\\ud800"}]', "half a surrogate pair", "cue 1"),
    "json nul": (b'[{"start": 0, "end": 1, "text": "\\u0000"}]', "a NUL", "cue 1"),
    "cells": (b"start,end,text\n0,1,Hi.\n1,2", "2 cells stand under 3", "line 3, cue 2"),
    "csv time": (b"start,end,text\n0,1e3,Hi.", "not hours:minutes:seconds", "line 2, cue 1, column end"),
    "csv quote": (b'start,end,text\n0,1,"Hi.', "CSV is malformed", "line 2"),
    "csv separators": (b"start,end;text\n0,1;Hi.", "start, end and text are needed", "line 1"),
    "csv names": (b"start,end,text,text\n0,1,a,b", "same name", "line 1"),
}


@pytest.mark.parametrize("name", CORRUPT)
def test_errors_name_line_and_cue(name: str) -> None:
    content, detail, place = CORRUPT[name]
    with pytest.raises(CorruptPart) as caught:
        read_transcript(content)
    assert detail in caught.value.detail
    assert (caught.value.part, caught.value.place) == ("transcript", place)


def test_other_formats_are_refused() -> None:
    with pytest.raises(UnsupportedPart) as caught:
        read_transcript(b"Once upon a time.\n")
    assert "SRT" in caught.value.detail


LIMITED = {
    "cues": (srt([Cue(i, i + 1, "Hi.") for i in range(4)]), "at most 3 cues", "line 14, cue 4"),
    "seconds": (srt([Cue(101, 102, "Hi.")]), "within 100 seconds", "line 2, cue 1"),
    "text": (srt([Cue(0, 1, "é" * 6)]), "at most 10 bytes", "line 2, cue 1"),
}


@pytest.mark.parametrize("name", LIMITED)
def test_limits_name_the_first_cue_beyond(name: str) -> None:
    content, detail, place = LIMITED[name]
    with pytest.raises(PartTooLarge) as caught:
        read_transcript(content, TranscriptLimits(max_cues=3, max_text_bytes=10, max_seconds=100))
    assert detail in caught.value.detail
    assert caught.value.place == place


def test_a_hundred_thousand_cues_are_an_error_and_not_a_crash() -> None:
    content = srt([Cue(0, 1, "Hi.")]) + b"\n"
    with pytest.raises(UploadError) as caught:
        read_transcript(100_000 * content)
    assert caught.value.place == "line 80002, cue 20001"
