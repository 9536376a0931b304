"""Requests one below, at and one above each limit of the service; valid in every other respect."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import soxr

from app.settings import Settings
from model.features.visual.table import ACTION_UNIT_COLUMNS
from tests.support.forms import MULTIPART, body, part
from tests.support.openface import simulate_openface_csv
from tests.support.sound import encode
from tests.support.speech import SAMPLE_RATE, speak

RATE: Final = 48_000  # Hz
SLOWEST: Final = 8_000  # Hz: the fewest bytes for a second
SENTENCE: Final = part("text", b"It was good.")


@dataclass(frozen=True, slots=True)
class LimitRequest:
    """A request, and its value of the limited quantity."""

    value: str
    content: bytes
    content_type: str = MULTIPART


@dataclass(frozen=True, slots=True)
class LimitRow:
    """A limit: its setting, and requests one below, at and one above it."""

    what: str
    setting: str
    requests: Sequence[LimitRequest]


def rows(settings: Settings) -> Iterator[LimitRow]:
    """Yield every limit of a size, for the values of `settings`."""
    for what, setting, make in _SIZES:
        limit = getattr(settings, setting)
        step = 1 / SLOWEST if isinstance(limit, float) else 1
        values = [limit - step, limit, limit + step]
        yield LimitRow(what, setting, [make(value, settings) for value in values])


def _form(value: str, *parts: bytes) -> LimitRequest:
    return LimitRequest(value, body(*parts))


def _sound(value: str, samples: int, rate: int = RATE, channels: int = 1, subtype: str = "PCM_16") -> LimitRequest:
    return _form(value, part("audio", _wav(samples, rate, channels, subtype), filename="a"))


def _wav(samples: int, rate: int, channels: int, subtype: str) -> bytes:
    """Return a repeated sentence, the same on every channel."""
    voice = np.resize(soxr.resample(speak("It was good."), SAMPLE_RATE, rate), samples)
    return encode(np.repeat(voice[:, None], channels, axis=1), "wav", rate, subtype)


def _body(value: float, settings: Settings) -> LimitRequest:
    """Return a sound of the subtype with the most bytes a sample; its file name fills the rest."""
    del settings
    size = int(value)
    room = size - len(body(part("audio", _wav(0, RATE, 1, "DOUBLE"), filename="")))
    wav = _wav(room // 8, RATE, 1, "DOUBLE")
    left = size - len(body(part("audio", wav, filename="")))
    sent = body(part("audio", wav, filename="a" * left))
    assert len(sent) == size
    return LimitRequest(f"{size:,} bytes", sent)


def _text(value: float, settings: Settings) -> LimitRequest:
    del settings
    words = (b"It was good. " * (int(value) // 13 + 1))[: int(value)]
    return _form(f"{int(value):,} bytes", part("text", words))


def _seconds(value: float, settings: Settings) -> LimitRequest:
    del settings
    samples = round(value * SLOWEST)
    return _sound(f"{samples:,} samples at {SLOWEST:,} Hz", samples, SLOWEST, subtype="PCM_U8")


def _decoded(value: float, settings: Settings) -> LimitRequest:
    """Return a sound with the most channels, whose sum counts; one sample more is one float more for each."""
    channels = settings.max_audio_channels
    samples = settings.max_audio_decoded_bytes // (4 * channels)
    samples += int(np.sign(value - settings.max_audio_decoded_bytes))
    size = f"{samples * channels * 4:,} bytes in {channels} channels"
    return _sound(size, samples, SLOWEST, channels, "PCM_U8")


def _rate(value: float, settings: Settings) -> LimitRequest:
    del settings
    return _sound(f"{int(value):,} Hz", int(value) // 10, int(value))


def _channels(value: float, settings: Settings) -> LimitRequest:
    del settings
    return _sound(f"{int(value)}", 1_000, SLOWEST, int(value))


def _face(value: str, content: bytes) -> LimitRequest:
    return _form(value, part("openface", content, filename="f"))


def _csv(rows: int) -> bytes:
    """Return repeated rows, since generating distinct ones takes long."""
    head, *lines = simulate_openface_csv(min(rows, 50), "action_units", face_id=False, spaces=False).splitlines(True)
    return head + b"".join(lines[row % len(lines)] for row in range(rows))


def _padded(line: bytes, size: int) -> bytes:
    """Return a line of `size` bytes without its end, padded with zeros before its last number."""
    cells, _, last = line.rstrip(b"\n").rpartition(b",")
    return cells + b"," + last.rjust(size - len(cells) - 1, b"0") + b"\n"


def _csv_bytes(value: float, settings: Settings) -> LimitRequest:
    """Return a file whose rows are padded evenly, none past the limit of a line."""
    size, rows = int(value), settings.max_openface_rows
    head, *lines = _csv(rows).splitlines(True)
    width = (size - len(head)) // rows
    grown = [_padded(line, width - 1) for line in lines]
    grown[-1] = _padded(lines[-1], size - len(head) - sum(map(len, grown[:-1])) - 1)
    sent = head + b"".join(grown)
    assert len(sent) == size
    return _face(f"{size:,} bytes", sent)


def _csv_line(value: float, settings: Settings) -> LimitRequest:
    del settings
    head, line = _csv(1).splitlines(True)
    return _face(f"{int(value):,} bytes", head + _padded(line, int(value)))


def _csv_columns(value: float, settings: Settings) -> LimitRequest:
    del settings
    columns = [*ACTION_UNIT_COLUMNS, *(f"c{place}" for place in range(int(value) - 4 - len(ACTION_UNIT_COLUMNS)))]
    return _face(f"{int(value):,}", simulate_openface_csv(2, columns, face_id=False, spaces=False))


def _csv_rows(value: float, settings: Settings) -> LimitRequest:
    del settings
    return _face(f"{int(value):,}", _csv(int(value)))


_SIZES: Final[Sequence[tuple[str, str, Callable[[float, Settings], LimitRequest]]]] = (
    ("Body", "max_body_bytes", _body),
    ("Text", "max_text_bytes", _text),
    ("Sound, length", "max_audio_seconds", _seconds),
    ("Sound, decoded (float samples of all channels)", "max_audio_decoded_bytes", _decoded),
    ("Sound, lowest rate", "min_audio_rate", _rate),
    ("Sound, highest rate", "max_audio_rate", _rate),
    ("Sound, channels", "max_audio_channels", _channels),
    ("OpenFace, file", "max_openface_bytes", _csv_bytes),
    ("OpenFace, line", "max_openface_line_bytes", _csv_line),
    ("OpenFace, columns", "max_openface_columns", _csv_columns),
    ("OpenFace, rows", "max_openface_rows", _csv_rows),
)

SMALL: Final[Mapping[str, int | float]] = {
    "max_body_bytes": 256 * 2**10,
    "max_text_bytes": 200,
    "max_audio_seconds": 2.0,
    "max_audio_decoded_bytes": 160 * 2**10,
    "max_openface_bytes": 16 * 2**10,
    "max_openface_line_bytes": 2 * 2**10,
    "max_openface_columns": 64,
    "max_openface_rows": 40,
}
"""Limits that are reached within seconds, without exceeding another one."""

CONTENTS: Final[Sequence[tuple[str, str, LimitRequest]]] = (
    (
        "Parts",
        "each of the three names once",
        _form(
            "",
            SENTENCE,
            part("audio", _wav(4_800, RATE, 1, "PCM_16"), filename="a"),
            part("openface", _csv(2), filename="f"),
        ),
    ),
    ("Parts", "`text` twice", _form("", SENTENCE, SENTENCE)),
    ("Parts", "another name", _form("", SENTENCE, part("video", b"x", filename="v"))),
    ("Parts", "none", LimitRequest("", b"--frontier--\r\n")),
    ("Parts", "`text`, and an empty file without a name", _form("", SENTENCE, part("audio", b"", filename=""))),
    ("Parts", "`text`, and an empty file with a name", _form("", SENTENCE, part("audio", b"", filename="a.wav"))),
    ("Content type", "`multipart/form-data`", _form("", SENTENCE)),
    (
        "Content type",
        "`application/x-www-form-urlencoded`",
        LimitRequest("", b"text=It+was+good.", "application/x-www-form-urlencoded"),
    ),
    ("Content type", "`application/json`", LimitRequest("", b'{"text": "It was good."}', "application/json")),
    ("Content type", "`application/xml`", LimitRequest("", b"<text>It was good.</text>", "application/xml")),
    ("Sound, container", "WAV", _sound("", 4_800)),
    ("Sound, container", "AIFF", _form("", part("audio", b"FORM\0\0\0\x2eAIFF" + b"\0" * 100, filename="a"))),
    ("Sound, container", "no sound at all", _form("", part("audio", b"%PDF-1.7" + b"\0" * 100, filename="a"))),
    ("OpenFace, cell that is used", "`nan` in one of five rows", _face("", _csv(5).replace(b"0.98", b"nan", 1))),
    ("OpenFace, cell that is used", "`nan` in one of four rows", _face("", _csv(4).replace(b"0.98", b"nan", 1))),
    ("OpenFace, cell that is used", "`1e999`", _face("", _csv(2).replace(b"0.98", b"1e999", 1))),
    ("OpenFace, cell that is used", "`1_000`", _face("", _csv(2).replace(b"0.98", b"1_000", 1))),
    ("OpenFace, cell that is not used", "`1e999`", _face("", _csv(2).replace(b"\n1,", b"\n1e999,"))),
)
"""Content that is accepted or rejected by its kind: what, description, request."""
