"""Readers of transcripts: SubRip (SRT), WebVTT, Whisper's JSON, and CSV with start, end, text and speaker.

Own code: the subtitle libraries on PyPI drop malformed cues silently, or name neither line nor cue.
"""

import csv
import html
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, NoReturn, TypeAlias

from app.errors import CorruptPart, PartTooLarge, UnsupportedPart

PART: Final = "transcript"
Format: TypeAlias = Literal["srt", "webvtt", "whisper", "csv"]
FORMATS: Final = "accepted are SRT, WebVTT, Whisper's JSON, and CSV with the columns start, end and text"
_ENCODINGS: Final = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}  # by byte order mark; otherwise UTF-8

_ARROW: Final = "-->"
_TIME: Final = re.compile(r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})(?:[.,](\d{1,9}))?", re.ASCII)
_SECONDS: Final = re.compile(r"\d{1,9}(?:\.\d{1,9})?", re.ASCII)
_TAG: Final = re.compile(r"<[^<>\n]{0,256}>|\{\\[^{}\n]{0,64}\}")
"""Markup of a cue: `<i>`, `</c.yellow>`, `<00:00:01.500>`, and SubStation's `{\\an8}`."""
_VOICE: Final = re.compile(r"<v(?:\.[^ \t<>]{0,64})?[ \t]+([^<>\n]{1,256})>")
_LABEL: Final = re.compile(r"\[?(SPEAKER[ _]?\d{1,4})\]?:\s*", re.ASCII)
"""A speaker as WhisperX writes it into SRT."""
_NAME: Final = re.compile(r"([^\W\d_][\w.'’-]{0,32}(?: [\w.'’()-]{1,32}){0,3}): +(?=\S)")
"""A speaker as Zoom and Otter write it: the name, a colon, the words."""
NAMED: Final = 0.5
"""Share of the cues with words that begin with a name, from which names are speakers and not words."""
_VTT_BLOCKS: Final = ("NOTE", "STYLE", "REGION")
_COLUMNS: Final = ("start", "end", "text", "speaker")
_NEEDED: Final = frozenset(_COLUMNS[:3])


class Cue(NamedTuple):
    """A stretch of a transcript.

    Args:
        start, end: seconds, 0 ≤ start < end.
        text: without markup and without white space at its ends; empty where the cue holds no words.
        speaker: None if the transcript names none.
    """

    start: float
    end: float
    text: str
    speaker: str | None = None


@dataclass(frozen=True, slots=True)
class TranscriptLimits:
    """Limits of a transcript: number of cues, bytes of one cue's text, and the last second a cue may begin at."""

    max_cues: int = 20_000
    max_text_bytes: int = 64 * 2**10
    max_seconds: float = 3_600.0


@dataclass(frozen=True, slots=True)
class Transcript:
    """The cues of a file, ordered by start.

    Args:
        format: `srt`, `webvtt`, `whisper` or `csv`.
        cues: ordered.
        warnings: code → detail: `cues_out_of_order`, `cues_overlap`, `cues_skipped`, `speakers_in_text`.
    """

    format: Format
    cues: Sequence[Cue]
    warnings: Mapping[str, str] = field(default_factory=dict)


def read_transcript(content: bytes, limits: TranscriptLimits | None = None) -> Transcript:
    """Read a transcript; its format is recognised by its content.

    Cues may overlap, may be out of order, and may hold no words; a cue without duration is left out. Each of these but
    the third is a warning.

    Args:
        content: the file, in UTF-8, or in UTF-16 with a byte order mark.
        limits: `TranscriptLimits()` if not given.

    Raises:
        CorruptPart: not text, or a cue that cannot be read, ends before it begins or has a negative time; names line
            and cue.
        UnsupportedPart: of no known format.
        PartTooLarge: a limit is exceeded; names line and cue.
    """
    text = _decode(content)
    collector = _Collector(limits or TranscriptLimits())
    kind, read = _reader(text)
    try:
        read(text, collector)
    except RecursionError:
        raise CorruptPart("the JSON is nested too deeply", part=PART) from None
    if not collector.cues and not collector.skipped:
        raise CorruptPart("the transcript holds no cue", part=PART)
    cues, warnings = sorted(collector.cues, key=lambda cue: (cue.start, cue.end)), collector.warnings()
    if kind in ("srt", "webvtt") and (named := _speakers_in_text(cues)) is not None:
        count = sum(cue.speaker is not None for cue in named)
        warnings["speakers_in_text"] = f"{count} cues begin with a name and a colon, which was taken as the speaker."
        cues = named
    return Transcript(kind, cues, warnings)


def _speakers_in_text(cues: Sequence[Cue]) -> list[Cue] | None:
    """Return the cues with the names at the beginning of their texts as speakers; None where too few have one."""
    found = [_NAME.match(cue.text) for cue in cues]
    names = [match[1] for match in found if match is not None and not match[1][0].islower()]
    with_words = sum(cue.text != "" for cue in cues)
    if any(cue.speaker for cue in cues) or len(names) < max(2, NAMED * with_words):
        return None
    return [
        cue
        if match is None or match[1][0].islower()
        else cue._replace(speaker=match[1], text=cue.text[match.end() :].strip())
        for cue, match in zip(cues, found, strict=True)
    ]


def _decode(content: bytes) -> str:
    encoding = next((name for mark, name in _ENCODINGS.items() if content.startswith(mark)), "utf-8-sig")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        name = "UTF-16" if encoding == "utf-16" else "UTF-8"
        raise CorruptPart(f"the transcript is not {name}", part=PART, place=f"byte {error.start}") from None
    if (position := text.find("\0")) >= 0:
        raise CorruptPart("the transcript holds a NUL", part=PART, place=f"line {1 + text.count(chr(10), 0, position)}")
    if not text.strip():
        raise CorruptPart("the transcript is empty", part=PART)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _reader(text: str) -> "tuple[Format, Callable[[str, _Collector], None]]":
    head = text.lstrip()
    if head.startswith("WEBVTT"):
        return "webvtt", _read_webvtt
    if head[0] in "{[" and not _LABEL.match(head):
        return "whisper", _read_whisper
    lines = head.split("\n", 2)[:2]
    if any(_ARROW in line for line in lines):
        return "srt", _read_srt
    names = [name.strip(' "\t').lower() for name in re.split(r"[,;\t]", lines[0])]
    if set(names) >= _NEEDED:
        return "csv", _read_csv
    raise UnsupportedPart(f"the transcript is of no known format; {FORMATS}", part=PART)


class _Collector:
    """Collects the cues of a file and checks each."""

    def __init__(self, limits: TranscriptLimits) -> None:
        self._limits = limits
        self.cues: list[Cue] = []
        self.count = self.skipped = self._overlapping = self._unordered = 0
        self._end = 0.0
        self._first: dict[str, str] = {}

    def add(self, start: float, end: float, text: str, speaker: str | None, place: str) -> None:
        """Check and add a cue. `place` names its line and number."""
        if self.count > self._limits.max_cues:
            detail = f"a transcript may hold at most {self._limits.max_cues} cues"
            raise PartTooLarge(detail, part=PART, place=place)
        if end < start:
            raise CorruptPart("the cue ends before it begins", part=PART, place=place)
        if start > self._limits.max_seconds:
            detail = f"a cue must begin within {self._limits.max_seconds:g} seconds"
            raise PartTooLarge(detail, part=PART, place=place)
        text = text.strip() if text.replace("\ufeff", "").strip() else ""
        if len(text.encode("utf-8", "surrogatepass")) > self._limits.max_text_bytes:
            detail = f"the text of a cue may hold at most {self._limits.max_text_bytes} bytes"
            raise PartTooLarge(detail, part=PART, place=place)
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):  # JSON's `\ud800`
            raise CorruptPart("the text holds half a surrogate pair", part=PART, place=place)
        if "\0" in text:
            raise CorruptPart("the text holds a NUL", part=PART, place=place)
        if end == start:
            self.skipped += 1
            self._first.setdefault("skipped", place)
            return
        if self.cues and start < self.cues[-1].start:
            self._unordered += 1
            self._first.setdefault("unordered", place)
        elif start < self._end:
            self._overlapping += 1
            self._first.setdefault("overlapping", place)
        self._end = max(self._end, end)
        self.cues.append(Cue(start, end, text, (speaker or "").strip()[:256] or None))

    def place(self, line: int | None = None, *, advance: bool = False) -> str:
        """Name a line and the current cue; `advance` begins the next cue first."""
        self.count += advance
        return f"cue {self.count}" if line is None else f"line {line}, cue {self.count}"

    def warnings(self) -> dict[str, str]:
        """Return the warnings about the file."""
        found: dict[str, str] = {}
        if self._unordered:
            found["cues_out_of_order"] = (
                f"{self._unordered} cues begin before the one above them, first in {self._first['unordered']}; the "
                "cues were ordered by their start."
            )
        if self._overlapping:
            found["cues_overlap"] = (
                f"{self._overlapping} cues begin before an earlier one has ended, first in "
                f"{self._first['overlapping']}; each was answered with the sound and the face of its own time."
            )
        if self.skipped:
            found["cues_skipped"] = (
                f"{self.skipped} cues have no duration and were left out, first in {self._first['skipped']}."
            )
        return found


def _fail(detail: str, place: str | None = None) -> NoReturn:
    raise CorruptPart(detail, part=PART, place=place)


def _clock(text: str, place: str) -> float:
    """Seconds of `[hours:]minutes:seconds[.fraction]`."""
    text = text.strip()
    found = _TIME.fullmatch(text)
    if found is None:
        _fail("a time is negative" if text.startswith(("-", "−")) else "a time is not hours:minutes:seconds", place)
    hours, minutes, seconds, fraction = found.groups(default="0")
    if int(minutes) > 59 or int(seconds) > 59:
        _fail("a time has more than 59 minutes or seconds", place)
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + float(f"0.{fraction}")


def _times(line: str, place: str) -> tuple[float, float]:
    """Start and end of a line `start --> end`, perhaps with settings after it."""
    start, _, rest = line.partition(_ARROW)
    end = rest.split(maxsplit=1)
    if not end:
        _fail("the cue has no end", place)
    return _clock(start, place), _clock(end[0], place)


def _words(lines: Sequence[str]) -> tuple[str, str | None]:
    """Text and speaker of a cue's lines."""
    text = "\n".join(lines)
    voice = _VOICE.search(text)
    speaker = None if voice is None else html.unescape(voice[1])
    text = _TAG.sub("", text).strip()
    if speaker is None and (label := _LABEL.match(text)) is not None:
        speaker, text = label[1], text[label.end() :]
    return html.unescape(text), speaker


def _blocks(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the first line's number, and the lines, of each block between blank lines."""
    block: list[str] = []
    number = 0
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            block.append(line)
        elif block:
            yield number - len(block), block
            block = []
    if block:
        yield number + 1 - len(block), block


def _read_srt(text: str, cues: _Collector) -> None:
    for first, block in _blocks(text):
        # Some programs leave out the number, some the blank line between cues.
        at = [i for i, line in enumerate(block) if _ARROW in line]
        if not at or at[0] > 1:
            _fail("a block has no line with times", cues.place(first, advance=True))
        for i, (begin, end) in enumerate(zip(at, [*at[1:], len(block)], strict=True)):
            place = cues.place(first + begin, advance=True)
            lines = block[begin + 1 : end]
            if i + 1 < len(at) and lines and lines[-1].strip().isdecimal():  # the next cue's number
                lines.pop()
            cues.add(*_times(block[begin], place), *_words(lines), place)


def _read_webvtt(text: str, cues: _Collector) -> None:
    for number, (first, block) in enumerate(_blocks(text)):
        # The first block is the signature, perhaps with metadata.
        if number == 0 or block[0].startswith(_VTT_BLOCKS):
            continue
        at = next((i for i, line in enumerate(block[:2]) if _ARROW in line), None)
        place = cues.place(first + (at or 0), advance=True)
        if at is None:
            _fail("a block has no line with times", place)
        cues.add(*_times(block[at], place), *_words(block[at + 1 :]), place)


def _read_csv(text: str, cues: _Collector) -> None:
    lines = text.lstrip().split("\n")
    skipped = text[: len(text) - len(text.lstrip())].count("\n")
    separator = max(",;\t", key=lines[0].count)
    # Strict: without it, an unclosed quote ends with the file.
    rows = csv.reader((f"{line}\n" for line in lines), delimiter=separator, strict=True, skipinitialspace=True)
    names: list[str] = []
    line = 1
    try:
        for row in rows:
            first, line = line, rows.line_num + 1  # a quoted text may hold line breaks
            if not any(cell.strip() for cell in row):
                continue
            if not names:
                names = [name.strip().lower() for name in row]
                if not set(names) >= _NEEDED:
                    _fail("the columns start, end and text are needed", f"line {first + skipped}")
                if any(names.count(name) > 1 for name in _COLUMNS):
                    _fail("two columns have the same name", f"line {first + skipped}")
                continue
            place = cues.place(first + skipped, advance=True)
            if len(row) != len(names):
                _fail(f"{len(row)} cells stand under {len(names)} columns", place)
            cells = dict(zip(names, row, strict=True))
            start, end = (_csv_time(cells[name], f"{place}, column {name}") for name in ("start", "end"))
            cues.add(start, end, cells["text"], cells.get("speaker"), place)
    except csv.Error:  # its message may quote the content
        _fail("the CSV is malformed", f"line {rows.line_num + skipped}")


def _csv_time(cell: str, place: str) -> float:
    cell = cell.strip()
    return float(cell) if _SECONDS.fullmatch(cell) else _clock(cell, place)


def _read_whisper(text: str, cues: _Collector) -> None:
    def refuse(_: str) -> NoReturn:
        _fail("NaN and infinity are not accepted")

    try:
        content: Any = json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        _fail("the JSON is malformed", f"line {error.lineno}, column {error.colno}")
    except ValueError:  # a number of more digits than Python converts
        _fail("the JSON holds a number that is too long")
    segments = content.get("segments") if isinstance(content, dict) else content
    if not isinstance(segments, list):
        _fail("the JSON holds no list of segments")
    for segment in segments:
        place = cues.place(advance=True)
        if not isinstance(segment, dict):
            _fail("a segment is not an object", place)
        start, end = (_json_time(segment.get(name), name, place) for name in ("start", "end"))
        words, speaker = segment.get("text"), segment.get("speaker")
        if not isinstance(words, str):
            _fail("a segment's text is not a string", place)
        if not isinstance(speaker, str | None):
            _fail("a segment's speaker is not a string", place)
        cues.add(start, end, words, speaker, place)


def _json_time(value: object, name: str, place: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        _fail(f"a segment's {name} is not a number", place)
    if value < 0:
        _fail("a time is negative", place)
    if value > 1e9 or not math.isfinite(value):
        _fail("a time is too large", place)
    return float(value)
