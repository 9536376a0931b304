"""Whole HTTP requests as bytes, made on the spot: every subset of the modalities, and bodies with something wrong.

For: load generators, which send them as they are, and know what each should be answered.
Does not know: sockets. Voices and faces are simulated (`tests.support.sound`, `tests.support.openface`).
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np

from tests.support.forms import URLENCODED, body, part
from tests.support.openface import simulate_openface_csv
from tests.support.sound import CONTAINERS, Container, encode, voice_like

MULTIPART: Final = "multipart/form-data; boundary=frontier"
OK: Final = frozenset({200})
RATES: Final = {"webm": 48_000}  # Opus knows few rates
SENTENCES: Final = (
    "I did not expect to like this film, and yet I did!",
    "Well, what a waste of a perfectly good evening.",
    "The train leaves at half past seven.",
    "She said it was fine, though it was anything but fine, and we all knew it.",
)


@dataclass(frozen=True, slots=True)
class Sent:
    """One request.

    Args:
        name: what it is, for counting.
        head, body: as they go over the wire.
        expected: statuses that are right for it on a service that is well.
    """

    name: str
    head: bytes
    body: bytes
    expected: frozenset[int] = OK

    @property
    def wire(self) -> bytes:
        """All of it."""
        return self.head + self.body


def post(
    name: str, content: bytes, content_type: str = MULTIPART, expected: frozenset[int] = OK, length: int | None = None
) -> Sent:
    """A request to `/predict`; `length` is what the head claims, where that is not the truth."""
    claimed = len(content) if length is None else length
    head = f"POST /predict HTTP/1.1\r\nHost: bench\r\nContent-Type: {content_type}\r\nContent-Length: {claimed}\r\n\r\n"
    return Sent(name, head.encode(), content, expected)


def text(sentence: str, name: str = "text") -> Sent:
    """A form with a sentence alone."""
    return post(name, body(part("text", sentence.encode())))


def audio(content: bytes, name: str = "audio", expected: frozenset[int] = OK) -> Sent:
    """A form with a sound alone."""
    return post(name, body(part("audio", content, filename="a")), expected=expected)


@cache
def sound(container: Container, seconds: float = 2.5, seed: int = 0) -> bytes:
    """A voice-like sound in a container."""
    rate = RATES.get(container, 16_000)
    return encode(voice_like(seconds, rate, seed), container, rate)


@cache
def long_sound(seconds: float) -> bytes:
    """A voice over and over, in the container that takes longest to decode for how long it takes to make."""
    samples = round(seconds * RATES["webm"])
    return encode(np.resize(voice_like(2.5, RATES["webm"]), samples), "webm", RATES["webm"])


@cache
def face(seed: int = 0, frames: int = 75) -> bytes:
    """An OpenFace file: two and a half seconds of action units."""
    return simulate_openface_csv(frames, "action_units", seed)


def valid() -> list[Sent]:
    """Requests that must be answered 200: all seven subsets, the sounds of all containers in turn."""
    found = []
    for number, container in enumerate(CONTAINERS):
        spoken = part("text", SENTENCES[number % len(SENTENCES)].encode())
        heard = part("audio", sound(container, seed=number), filename=f"a.{container}")
        seen = part("openface", face(number), filename="a.csv")
        for names in ("text", "audio", "face", "text+audio", "text+face", "audio+face", "text+audio+face"):
            parts = [p for p, its in ((spoken, "text"), (heard, "audio"), (seen, "face")) if its in names.split("+")]
            found.append(post(names, body(*parts)))
    return found


def invalid() -> list[Sent]:
    """Requests that must be refused, each with the status that says why."""
    whole = body(part("audio", sound("wav"), filename="a.wav"))
    cut_flac, damaged = sound("flac")[:-4000], bytearray(sound("vorbis"))
    damaged[len(damaged) // 2] ^= 0xFF
    unprocessable, unsupported = frozenset({422}), frozenset({415})
    return [
        post("cut body", whole[:-1000], expected=frozenset({400})),
        post("not a form", b'{"text": "hello"}', "application/json", unsupported),
        post("nothing in it", body(), expected=frozenset({400, 422})),
        post("unknown part", body(part("video", b"x")), expected=unprocessable),
        post("part twice", body(part("text", b"a"), part("text", b"b")), expected=unprocessable),
        post("not UTF-8", body(part("text", b"\xff\xfe")), expected=unprocessable),
        post("blank", body(part("text", b" \n")), expected=unprocessable),
        post("text too long", b"text=" + b"a" * 70_000, URLENCODED, unprocessable),
        audio(b"\x7fELF" + bytes(1000), "not a sound", unsupported),
        audio(cut_flac, "cut FLAC", unprocessable),
        audio(bytes(damaged), "damaged Ogg", unprocessable),
        audio(encode(voice_like(1.0) * 0, "wav"), "silence alone", unprocessable),
        post("not a CSV", body(part("openface", b"\x00" * 500)), expected=unprocessable),
        post("not a number", body(part("openface", face().replace(b" 0.98", b" nan"))), expected=unprocessable),
    ]


def endless(requests: Sequence[Sent], seed: int) -> Iterator[Sent]:
    """Draw from `requests` for ever."""
    rng = random.Random(seed)
    while True:
        yield rng.choice(requests)
