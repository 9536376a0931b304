"""Requests of one six-second utterance, no two of which have a part in common, so that nothing can be cached.

Sentence, voice and face are those of `examples/`, the clip and the face repeated up to six seconds.
"""

import struct
import wave
from collections.abc import Iterator
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Final

from model.modality import Modality, ModalitySet
from tools.load.client import Request

EXAMPLES: Final = Path(__file__).resolve().parent.parent / "examples"
SECONDS: Final = 6
FRAME_RATE: Final = 30  # of the face
BOUNDARY: Final = b"----emmr-bench-5f0e1c"
_WAV_HEADER: Final = 44  # bytes
_STAMP: Final = 1_000_000  # the number of a request is written as six decimals of a time stamp


class Bodies:
    """Parts and requests; each call returns a new one."""

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
        """The header, the first row's cells after its time stamp, and all other rows."""
        header, *rows = (self._examples / "openface.csv").read_bytes().splitlines()
        wanted = self._seconds * FRAME_RATE
        cells = [rows[i % len(rows)].split(b",", 3) for i in range(wanted)]
        lines = [b"%d,%s,%.3f,%s" % (i + 1, c[1].strip(), i / FRAME_RATE, c[3]) for i, c in enumerate(cells)]
        return header, lines[0].split(b",", 3)[3], b"\n".join(lines[1:])

    def text(self) -> bytes:
        """Return a sentence."""
        return f"{self._words} ({next(self._numbers)})".encode()

    def audio(self) -> bytes:
        """Return a WAV file; one sample is the number of the request."""
        stamp = struct.pack("<h", next(self._numbers) % 2**15)
        return self._wav[:_WAV_HEADER] + stamp + self._wav[_WAV_HEADER + len(stamp) :]

    def openface(self) -> bytes:
        """Return a CSV; the first time stamp is the number of the request."""
        header, first, rest = self._csv
        return b"%s\n1,0,0.%06d,%s\n%s\n" % (header, next(self._numbers) % _STAMP, first, rest)

    def parts(self, subset: ModalitySet) -> dict[Modality, bytes]:
        """Return the parts of one request."""
        makers = {Modality.TEXT: self.text, Modality.AUDIO: self.audio, Modality.VISUAL: self.openface}
        return {modality: makers[modality]() for modality in subset}

    def request(self, subset: ModalitySet) -> Request:
        """Return a request to `/predict`."""
        parts = self.parts(subset)
        body = b"".join(b"--%s\r\n%s\r\n\r\n%s\r\n" % (BOUNDARY, _HEADERS[m], parts[m]) for m in parts)
        body += b"--%s--\r\n" % BOUNDARY
        head = (
            f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            f"Content-Type: multipart/form-data; boundary={BOUNDARY.decode()}\r\n\r\n"
        )
        return Request(subset.name, head.encode(), body)

    def requests(self, subset: ModalitySet) -> Iterator[Request]:
        """Yield requests without end."""
        while True:
            yield self.request(subset)


_HEADERS: Final = {
    Modality.TEXT: b'Content-Disposition: form-data; name="text"',
    Modality.AUDIO: b'Content-Disposition: form-data; name="audio"; filename="a.wav"\r\nContent-Type: audio/wav',
    Modality.VISUAL: b'Content-Disposition: form-data; name="openface"; filename="f.csv"\r\nContent-Type: text/csv',
}
