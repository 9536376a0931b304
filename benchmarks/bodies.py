"""Requests to send: one six-second utterance, as multipart bodies no two of which are the same.

For: `benchmarks.service` and `benchmarks.startup`. Sentence, voice and face are the project's own examples, the clip
and the face drawn out to six seconds; every request differs from every other in each of its parts, so that nothing can
be answered from memory.
Does not know: how requests are sent.
"""

import struct
import wave
from collections.abc import Iterator
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Final

from model.modality import Modality, ModalitySet

EXAMPLES: Final = Path(__file__).resolve().parent.parent / "examples"
SECONDS: Final = 6
FRAME_RATE: Final = 30  # of the face
BOUNDARY: Final = b"----emmr-bench-5f0e1c"
_WAV_HEADER: Final = 44  # bytes
_STAMP: Final = 1_000_000  # a request's number, as six decimals of a time stamp


class Bodies:
    """Parts and whole requests; each call makes another."""

    def __init__(self, examples: Path = EXAMPLES, seconds: int = SECONDS) -> None:
        self._examples, self._seconds = examples, seconds
        self._numbers = count(1)

    @cached_property
    def _words(self) -> str:
        return (self._examples / "sentence.txt").read_text(encoding="utf-8").strip()

    @cached_property
    def _wav(self) -> bytes:
        with wave.open(str(self._examples / "speech.wav"), "rb") as reader:
            rate, width = reader.getframerate(), reader.getsampwidth()
            frames = reader.readframes(reader.getnframes())
        size = rate * width * self._seconds
        data = (frames * (size // len(frames) + 1))[:size]
        header = struct.pack(
            "<4sI4s4sIHHIIHH4sI",
            *(b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 1, 1, rate, rate * width, width, 8 * width, b"data", size),
        )
        return header + data

    @cached_property
    def _csv(self) -> tuple[bytes, bytes, bytes]:
        """Header, the first row's cells after its time stamp, and all other rows."""
        header, *rows = (self._examples / "openface.csv").read_bytes().splitlines()
        wanted = self._seconds * FRAME_RATE
        cells = [rows[i % len(rows)].split(b",", 3) for i in range(wanted)]
        lines = [b"%d,%s,%.3f,%s" % (i + 1, c[1].strip(), i / FRAME_RATE, c[3]) for i, c in enumerate(cells)]
        return header, lines[0].split(b",", 3)[3], b"\n".join(lines[1:])

    def text(self) -> bytes:
        """A sentence."""
        return f"{self._words} ({next(self._numbers)})".encode()

    def audio(self) -> bytes:
        """A WAV file, one sample of which is the request's number."""
        stamp = struct.pack("<h", next(self._numbers) % 2**15)
        return self._wav[:_WAV_HEADER] + stamp + self._wav[_WAV_HEADER + len(stamp) :]

    def openface(self) -> bytes:
        """A CSV, the first time stamp of which is the request's number."""
        header, first, rest = self._csv
        return b"%s\n1,0,0.%06d,%s\n%s\n" % (header, next(self._numbers) % _STAMP, first, rest)

    def parts(self, subset: ModalitySet) -> dict[Modality, bytes]:
        """The parts of one request."""
        makers = {Modality.TEXT: self.text, Modality.AUDIO: self.audio, Modality.VISUAL: self.openface}
        return {modality: makers[modality]() for modality in subset}

    def request(self, subset: ModalitySet) -> bytes:
        """A whole HTTP request."""
        return whole_request(self.parts(subset))

    def requests(self, subset: ModalitySet, amount: int) -> Iterator[bytes]:
        """So many of them."""
        return (self.request(subset) for _ in range(amount))


def whole_request(parts: dict[Modality, bytes], path: str = "/predict") -> bytes:
    """An HTTP request that posts these parts."""
    body = b"".join(b"--%s\r\n%s\r\n\r\n%s\r\n" % (BOUNDARY, _HEADERS[m], content) for m, content in parts.items())
    body += b"--%s--\r\n" % BOUNDARY
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY.decode()}\r\n\r\n"
    )
    return head.encode() + body


_HEADERS: Final = {
    Modality.TEXT: b'Content-Disposition: form-data; name="text"',
    Modality.AUDIO: b'Content-Disposition: form-data; name="audio"; filename="a.wav"\r\nContent-Type: audio/wav',
    Modality.VISUAL: b'Content-Disposition: form-data; name="openface"; filename="f.csv"\r\nContent-Type: text/csv',
}
