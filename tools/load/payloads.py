"""HTTP requests of every subset of the modalities, and requests with an error, each with the statuses it may get.

Speech is synthesised, faces are simulated (`tests.support.speech`, `tests.support.openface`).
"""

from functools import cache
from typing import Final

import numpy as np
import soxr

from model.types import FloatArray
from tests.support.forms import URLENCODED, body, part
from tests.support.openface import simulate_openface_csv
from tests.support.sound import CONTAINERS, Container, encode
from tests.support.speech import SAMPLE_RATE, speech_of
from tools.load.client import OK, Request

MULTIPART: Final = "multipart/form-data; boundary=frontier"
RATES: Final = {"webm": 48_000}  # Opus supports few rates
SENTENCES: Final = (
    "I did not expect to like this film, and yet I did!",
    "Well, what a waste of a perfectly good evening.",
    "The train leaves at half past seven.",
    "She said it was fine, though it was anything but fine, and we all knew it.",
)


def post(
    name: str, content: bytes, content_type: str = MULTIPART, expected: frozenset[int] = OK, length: int | None = None
) -> Request:
    """Return a request to `/predict`; `length` is the Content-Length, where it is not that of the content."""
    length = len(content) if length is None else length
    head = (
        f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n"
    )
    return Request(name, head.encode(), content, expected)


def text(sentence: str, name: str = "text") -> Request:
    """Return a form with a sentence alone."""
    return post(name, body(part("text", sentence.encode())))


def audio(content: bytes, name: str = "audio", expected: frozenset[int] = OK) -> Request:
    """Return a form with a sound alone."""
    return post(name, body(part("audio", content, filename="a")), expected=expected)


def speech(seconds: float, rate: int = SAMPLE_RATE, start: int = 0) -> FloatArray:
    """Return speech at `rate` Hz: `(S,)` float32; `start` is where it begins in a longer text, in seconds."""
    spoken = speech_of(start + seconds)[start * SAMPLE_RATE :]
    return np.asarray(soxr.resample(spoken, SAMPLE_RATE, rate), dtype=np.float32)


@cache
def sound(container: Container, seconds: float = 2.5, start: int = 0) -> bytes:
    """Return speech in a container."""
    rate = RATES.get(container, SAMPLE_RATE)
    return encode(speech(seconds, rate, start), container, rate)


@cache
def long_sound(seconds: float) -> bytes:
    """Return repeated speech, in the container with the longest decoding time for its encoding time."""
    samples = round(seconds * RATES["webm"])
    return encode(np.resize(speech(2.5, RATES["webm"]), samples), "webm", RATES["webm"])


@cache
def face(seed: int = 0, frames: int = 75) -> bytes:
    """Return an OpenFace file of action units; 75 frames are two and a half seconds."""
    return simulate_openface_csv(frames, "action_units", seed)


def valid() -> list[Request]:
    """Return requests that must get a 200: all seven subsets, with the sounds of each container."""
    found = []
    for number, container in enumerate(CONTAINERS):
        text_part = part("text", SENTENCES[number % len(SENTENCES)].encode())
        audio_part = part("audio", sound(container, start=number), filename=f"a.{container}")
        openface_part = part("openface", face(number), filename="a.csv")
        for names in ("text", "audio", "face", "text+audio", "text+face", "audio+face", "text+audio+face"):
            parts = [
                p
                for p, its in ((text_part, "text"), (audio_part, "audio"), (openface_part, "face"))
                if its in names.split("+")
            ]
            found.append(post(names, body(*parts)))
    return found


def invalid() -> list[Request]:
    """Return requests that must be rejected, each with the expected status."""
    whole = body(part("audio", sound("wav"), filename="a.wav"))
    cut_flac, damaged = sound("flac")[:-4000], bytearray(sound("vorbis"))
    damaged[len(damaged) // 2] ^= 0xFF
    unprocessable, unsupported = frozenset({422}), frozenset({415})
    return [
        post("cut body", whole[:-1000], expected=frozenset({400})),
        post("not a form", b"<text>hello</text>", "application/xml", unsupported),
        post("not JSON", b'{"text": "hello"', "application/json", frozenset({400})),
        post("nothing in it", body(), expected=frozenset({400, 422})),
        post("unknown part", body(part("video", b"x")), expected=unprocessable),
        post("part twice", body(part("text", b"a"), part("text", b"b")), expected=unprocessable),
        post("not UTF-8", body(part("text", b"\xff\xfe")), expected=unprocessable),
        post("blank", body(part("text", b" \n")), expected=unprocessable),
        post("text too long", b"text=" + b"a" * 70_000, URLENCODED, unprocessable),
        audio(b"\x7fELF" + bytes(1000), "not a sound", unsupported),
        audio(cut_flac, "cut FLAC", unprocessable),
        audio(bytes(damaged), "damaged Ogg", unprocessable),
        audio(encode(speech(1.0) * 0, "wav"), "silence alone", unprocessable),
        post("not a CSV", body(part("openface", b"\x00" * 500)), expected=unprocessable),
        post("not a number", body(part("openface", face().replace(b" 0.98", b" nan"))), expected=unprocessable),
    ]
