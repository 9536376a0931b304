"""Untrusted bytes → the three readers of uploads, and what must hold of whatever comes out.

For: a fuzzer, which calls a target with bytes of its own making, and the test suite, which calls it with the seeds. A
target returns when the input was read, or refused by one of the errors that exist for that; anything else is a finding.
Does not know: where inputs come from.
"""

import asyncio
import atexit
import io
import struct
from collections.abc import Callable
from functools import cache
from typing import Final

import numpy as np
from starlette.requests import Request
from starlette.types import Message

from app.uploads.errors import UploadError
from app.uploads.form import UploadLimits, read_form
from model.errors import ModalityError
from model.features.audio.loading import SoundLimits, read_sound
from model.features.visual.openface import ACTION_UNIT_COLUMNS, OpenFaceLimits, read_openface
from tests.support.forms import MULTIPART, URLENCODED, contents, in_chunks
from tests.support.openface import simulate_openface_csv

SOUND: Final = SoundLimits()  # the service's own
TABLE: Final = OpenFaceLimits(max_bytes=2**12, max_line_bytes=2**10, max_columns=64, max_rows=8)
FORM: Final = UploadLimits(body_bytes=3_000, text_bytes=256, openface_bytes=512)
"""Small, so that a fuzzer's small inputs reach them."""

HEADER: Final = simulate_openface_csv(0, "action_units")
END: Final[Message] = {"type": "http.request", "body": b""}
WHOLE: Final = 2**16  # bytes: every form in one chunk


class Finding(AssertionError):
    """Something came out that must not."""


def audio(data: bytes) -> None:
    """`model.features.audio.loading.read_sound`."""
    try:
        sound = read_sound(io.BytesIO(data), SOUND)
    except ModalityError:
        return
    _must(sound.waveform.ndim == 1 and sound.waveform.dtype == np.float32, "not a mono float32 waveform")
    _must(bool(np.isfinite(sound.waveform).all()), "a sample is not finite")
    _must(0 < sound.seconds <= SOUND.max_seconds, "longer than is accepted, or empty")


def openface(data: bytes) -> None:
    """`model.features.visual.openface.read_openface`.

    The first byte chooses whether a header that has every column needed comes before the rest: a fuzzer that must keep
    a header of 35 names intact learns little about rows.
    """
    file = HEADER + data[1:] if data[:1] < b"\x80" else data[1:]
    try:
        track = read_openface(io.BytesIO(file), "action_units", 0.5, TABLE)
    except ModalityError:
        return
    _must(track.values.shape == (track.kept, len(ACTION_UNIT_COLUMNS)), "not a row of values for each frame kept")
    _must(bool(np.isfinite(track.values).all()), "a value is not finite")
    _must(0 < track.kept <= track.frames <= TABLE.max_rows, "more frames than there are, or none")


def form(data: bytes) -> None:
    """`app.uploads.form.read_form`: what it reads must not depend on how the body is cut into chunks.

    The first byte chooses the content type and the size of the chunks.
    """
    if not data:
        return
    kind = URLENCODED if data[0] & 1 else MULTIPART
    whole = _runner().run(_parts(data[1:], kind, WHOLE))
    # Not too many chunks, or a long body takes longer than a thousand short ones.
    pieces = _runner().run(_parts(data[1:], kind, max(1 + data[0] // 2, len(data) // 128)))
    _must(whole == pieces, "how a body is cut decides what is read")
    if whole is not None:
        _must(bool(whole), "a form without a part was accepted")
        _must(sum(map(len, whole.values())) <= len(data), "more was read than was sent")


@cache
def _runner() -> asyncio.Runner:
    """One event loop for all inputs: making one takes longer than reading a small form."""
    runner = asyncio.Runner()
    atexit.register(runner.close)
    return runner


async def _parts(body: bytes, kind: str, chunk: int) -> dict[str, bytes] | None:
    """The parts' contents, None where the body is refused."""
    messages = iter(
        [*({"type": "http.request", "body": one, "more_body": True} for one in in_chunks(body, chunk)), END]
    )

    async def receive() -> Message:
        return next(messages)

    sent = Request({"type": "http", "headers": [(b"content-type", kind.encode())]}, receive)
    try:
        async with read_form(sent, FORM) as read:
            return contents(read)
    except UploadError:
        return None


def _must(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Finding(otherwise)


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {"audio": audio, "openface": openface, "form": form}
TIMEOUT: Final = 10.0  # processor seconds for one input: the service's own limit for decoding one file
LENGTH: Final = struct.Struct(">Q")  # before an input that is kept in a file larger than it
LONGEST: Final = {"audio": 2**16, "openface": 2**13, "form": 2**12}
"""Bytes of one input: enough to pass the limits above where there are any."""
