"""Fuzzing targets: the readers of uploads, and the invariants of what they return.

A target returns when the input was read, or rejected by an error that exists for that; anything else is a finding.
"""

import asyncio
import atexit
import base64
import io
import json
import struct
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Final

import numpy as np
from starlette.requests import Request
from starlette.types import Message

from app.errors import UploadError
from app.recordings.transcript import TranscriptLimits, read_transcript
from app.settings import Settings
from app.uploads.form import read_form
from app.uploads.json_body import MEDIA_TYPE, Item, read_items, read_json
from app.uploads.spool import Uploads
from model.errors import ModalityError
from model.features.audio import SAMPLE_RATE
from model.features.audio.loading import SoundLimits, read_sound
from model.features.visual.frame_index import index_frames
from model.features.visual.openface import read_openface
from model.features.visual.table import ACTION_UNIT_COLUMNS, OpenFaceLimits
from tests.support.forms import MULTIPART, URLENCODED, contents, in_chunks
from tests.support.openface import simulate_openface_csv

SOUND: Final = SoundLimits()  # those of the service
TABLE: Final = OpenFaceLimits(max_bytes=2**12, max_line_bytes=2**10, max_columns=64, max_rows=8)
CUES: Final = TranscriptLimits(max_cues=16, max_text_bytes=256, max_seconds=1_000)
FORM: Final = Settings(max_body_bytes=3_000, max_text_bytes=256, max_openface_bytes=512, batch_max_items=4)
"""Small limits, so that small inputs reach them."""

HEADER: Final = simulate_openface_csv(0, "action_units")
END: Final[Message] = {"type": "http.request", "body": b""}
ONE_CHUNK: Final = 2**16  # bytes: more than any form


class Finding(AssertionError):
    """An invariant of a reader does not hold."""


def audio(data: bytes) -> None:
    """Run `model.features.audio.loading.read_sound`."""
    try:
        waveform, _ = read_sound(io.BytesIO(data), SOUND)
    except ModalityError:
        return
    _check(waveform.ndim == 1 and waveform.dtype == np.float32, "not a mono float32 waveform")
    _check(bool(np.isfinite(waveform).all()), "a sample is not finite")
    _check(0 < waveform.size <= SOUND.max_seconds * SAMPLE_RATE + 1, "longer than is accepted, or empty")


def openface(data: bytes) -> None:
    """Run `model.features.visual.openface.read_openface`.

    The first byte selects whether a valid header is prepended: mutations rarely keep a header of 35 names intact, and
    rows are read only after it.
    """
    file = HEADER + data[1:] if data[:1] < b"\x80" else data[1:]
    try:
        track = read_openface(io.BytesIO(file), "action_units", 0.5, TABLE)
    except ModalityError:
        return
    _check(track.values.shape == (track.kept, len(ACTION_UNIT_COLUMNS)), "not a row of values for each frame kept")
    _check(bool(np.isfinite(track.values).all()), "a value is not finite")
    _check(0 < track.kept <= track.frames <= TABLE.max_rows, "more frames than there are, or none")


def frames(data: bytes) -> None:
    """Run `model.features.visual.frame_index.index_frames`; the first byte as for `openface`."""
    file = HEADER + data[1:] if data[:1] < b"\x80" else data[1:]
    try:
        blocks = list(index_frames(io.BytesIO(file), "action_units", 0.5, TABLE))
    except ModalityError:
        return
    rows = np.concatenate([*blocks, np.empty((0, 4))])
    _check(len(rows) <= TABLE.max_rows, "more rows than are accepted")
    _check(bool(np.isfinite(rows).all() and (np.diff(rows[:, 0]) >= 0).all()), "the times are not in order")
    _check(bool((rows[:, 2] < rows[:, 3]).all() and (rows[1:, 2] >= rows[:-1, 3]).all()), "rows overlap")
    _check(not len(rows) or rows[-1, 3] <= len(file), "a row ends after the file")


def transcript(data: bytes) -> None:
    """Run `app.recordings.transcript.read_transcript`."""
    try:
        found = read_transcript(data, CUES)
    except UploadError:
        return
    cues = found.cues
    _check(len(cues) <= CUES.max_cues, "more cues than are accepted")
    _check(all(0 <= cue.start < cue.end and cue.start <= CUES.max_seconds for cue in cues), "a time out of range")
    _check(all(a.start <= b.start for a, b in pairwise(cues)), "the cues are not in order")
    for cue in cues:
        _check("\0" not in cue.text and cue.text == cue.text.strip(), "a text with a NUL or white space at its ends")
        _check(len(cue.text.encode()) <= CUES.max_text_bytes, "a text that is too long")


def form(data: bytes) -> None:
    """Run `app.uploads.form.read_form`: the result must not depend on the chunks of the body.

    The first byte selects the content type and the size of the chunks.
    """
    if not data:
        return
    kind = URLENCODED if data[0] & 1 else MULTIPART
    whole = _runner().run(_parts(data[1:], kind, ONE_CHUNK))
    # A long body gets larger chunks: many small ones would take longer than a thousand short bodies.
    pieces = _runner().run(_parts(data[1:], kind, max(1 + data[0] // 2, len(data) // 128)))
    _check(whole == pieces, "the chunks of a body change what is read")
    if whole is not None:
        _check(bool(whole), "a form without a part was accepted")
        _check(sum(map(len, whole.values())) <= len(data), "more was read than sent")


def json_body(data: bytes) -> None:
    """Run `app.uploads.json_body.read_json` and `read_items`: the result is that of `json.loads`, whatever the chunks.

    The first byte selects the reader and the size of the chunks.
    """
    if not data:
        return
    read = _batch if data[0] & 1 else _single
    whole = _runner().run(read(data[1:], ONE_CHUNK))
    pieces = _runner().run(read(data[1:], max(1 + data[0] // 2, len(data) // 128)))
    _check(whole == pieces, "the chunks of a body change what is read")
    if whole is not None:
        sent = json.loads(data[1:].decode(errors="replace"))  # what is not UTF-8 fails its item
        found = sent["items"] if data[0] & 1 else [sent]
        _check(bool(whole) and len(whole) == len(found), "not a result for each item")
        for result, item in zip(whole, found, strict=False):
            _check(isinstance(result, str) or result == _decoded(item), "another content than was sent")


def _decoded(item: dict[str, str | None]) -> dict[str, bytes]:
    """Return the contents of the parts of an item."""
    return {
        name: value.encode() if name == "text" else base64.b64decode(value, validate=True)
        for name, value in item.items()
        if name != "id" and value is not None
    }


@cache
def _runner() -> asyncio.Runner:
    """Return one event loop for all inputs: creating one takes longer than reading a small form."""
    runner = asyncio.Runner()
    atexit.register(runner.close)
    return runner


async def _parts(body: bytes, kind: str, chunk: int) -> dict[str, bytes] | None:
    """Return the contents of the parts, None where the body is rejected."""
    try:
        async with read_form(_request(body, kind, chunk), FORM) as read:
            return contents(read)
    except UploadError:
        return None


async def _single(body: bytes, chunk: int) -> list[dict[str, bytes] | str] | None:
    """Return the contents of the parts of one object, None where the body is rejected."""
    try:
        async with read_json(_request(body, MEDIA_TYPE, chunk), FORM) as read:
            return [contents(read)]
    except UploadError:
        return None


async def _batch(body: bytes, chunk: int) -> list[dict[str, bytes] | str] | None:
    """Return the contents or the error of each item, None where the body is rejected."""

    def result(item: Item) -> dict[str, bytes] | str:
        return contents(item.form) if item.error is None else item.error.code

    try:
        async with read_items(_request(body, MEDIA_TYPE, chunk), FORM, Uploads(FORM)) as items:
            return [result(item) for item in items]
    except UploadError:
        return None


def _request(body: bytes, kind: str, chunk: int) -> Request:
    messages = iter(
        [*({"type": "http.request", "body": one, "more_body": True} for one in in_chunks(body, chunk)), END]
    )

    async def receive() -> Message:
        return next(messages)

    return Request({"type": "http", "headers": [(b"content-type", kind.encode())]}, receive)


def _check(condition: bool, failure: str) -> None:
    if not condition:
        raise Finding(failure)


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "audio": audio,
    "openface": openface,
    "frames": frames,
    "transcript": transcript,
    "form": form,
    "json": json_body,
}
TIMEOUT: Final = 10.0  # processor seconds for one input, the limit of the service for decoding one file
LENGTH: Final = struct.Struct(">Q")  # prefix of an input in a file that is larger than it
LONGEST: Final = {"audio": 2**16, "openface": 2**13, "frames": 2**13, "transcript": 2**11, "form": 2**12, "json": 2**12}
"""Largest input in bytes: enough to pass the limits above."""
