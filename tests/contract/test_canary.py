"""No byte of what a client sent leaves the service by another way than the answer to it.

A real service is sent a word of its own in every place where a client can write, in requests that are right and in
requests that are wrong in as many ways as there are. Then everything it said is searched for any of the words: standard
output and standard error at the debug level (the decoding processes' included), metrics, and every body and header of
every answer. In answers that are not errors nothing of it stands either: they say what was found, not what was sent.
"""

import io
import itertools
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import numpy as np
import pytest
import soundfile

from app.engine.warmup import still_face, tone
from model.features.visual.openface import ACTION_UNIT_COLUMNS
from tests.support.forms import MULTIPART, body, part
from tests.support.sound import CONTAINERS, encode, voice_like
from tools.load.service import Service, serving

KEY, ADMIN = "canary-api-key-9d41", "canary-admin-key-77c0"
KEEP = 'exec "${@:3}" > "$1" 2> >(tee "$2" >&2)'
"""Keeps both outputs in files; what reads the log to see when the service is ready still gets it."""
FACE = still_face(ACTION_UNIT_COLUMNS)
VOICE = tone()


@dataclass(slots=True)
class Cage:
    """Words that are nowhere else, and what came back."""

    port: int
    words: list[str] = field(default_factory=lambda: [KEY, ADMIN])
    back: list[bytes] = field(default_factory=list)
    statuses: set[int] = field(default_factory=set)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def word(self, place: str) -> str:
        """A new word, named for where it is sent."""
        self.words.append(f"canary-{place}-{next(self.numbers):04d}-q7z")
        return self.words[-1]

    def raw(self, place: str) -> bytes:
        """The same, as bytes."""
        return self.word(place).encode()

    def ask(
        self,
        content: bytes = b"",
        content_type: str = MULTIPART,
        key: str | None = KEY,
        more: Mapping[str, str] | None = None,
    ) -> None:
        """Send a body, with a word in every place of a request beside it."""
        self.send(
            "POST",
            f"/predict?explain=true&{self.word('query')}={self.word('value')}",
            content,
            content_type,
            key,
            more,
        )

    def send(
        self,
        method: str,
        path: str,
        content: bytes = b"",
        content_type: str = MULTIPART,
        key: str | None = KEY,
        more: Mapping[str, str] | None = None,
    ) -> None:
        headers = {
            "Content-Type": content_type,
            "User-Agent": self.word("agent"),
            "Referer": f"https://{self.word('referer')}.example/",
            "Cookie": f"session={self.word('cookie')}",
            f"X-{self.word('header-name')}": self.word("header"),
            "X-Request-ID": f"{self.word('id')} with a space",
            **({} if key is None else {"Authorization": f"Bearer {key}"}),
            **(more or {}),
        }
        answer = httpx2.request(
            method, f"http://127.0.0.1:{self.port}{path}", content=content, headers=headers, timeout=60
        )
        self.statuses.add(answer.status_code)
        self.back += [answer.content, repr(sorted(answer.headers.items())).encode()]

    def named(self, name: str, content: bytes, *headers: str) -> bytes:
        """A part whose file name is a word."""
        return part(name, content, *headers, filename=self.word("file") + ".wav")


def texts(cage: Cage) -> Iterator[bytes]:
    """The word in the text, right and wrong in each way."""
    yield body(part("text", cage.raw("text")))
    yield body(part("text", cage.raw("text") + b"\xff"))
    yield body(part("text", cage.raw("text") + b"\0"))
    yield body(part("text", cage.raw("text") * 5000))
    yield body(part("text", cage.raw("text"), f"Content-Type: text/{cage.word('type')}"))
    yield body(part("text", cage.raw("text"), f"Content-Transfer-Encoding: {cage.word('encoding')}"))
    yield body(part("text", cage.raw("text")), part("text", cage.raw("text")))


def tagged(cage: Cage, container: str) -> bytes:
    """A sound with the word in its tags, which decoders like to print."""
    file = io.BytesIO()
    kinds = {"wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "vorbis": ("OGG", "VORBIS")}
    with soundfile.SoundFile(file, "w", 16_000, 1, format=kinds[container][0], subtype=kinds[container][1]) as sound:
        sound.title = sound.artist = sound.comment = cage.word("tag")
        sound.write(np.asarray(voice_like(0.5)))
    return file.getvalue()


def id3(cage: Cage) -> bytes:
    """A tag before an MP3, with a text frame that is a word and one that is broken."""
    word = cage.raw("id3")
    frames = b"TIT2" + struct.pack(">IH", len(word) + 1, 0) + b"\0" + word
    frames += b"COMM" + struct.pack(">IH", 0x7FFFFFFF, 0) + word
    size = len(frames)
    return b"ID3\3\0\0" + bytes([size >> 21 & 127, size >> 14 & 127, size >> 7 & 127, size & 127]) + frames


def sounds(cage: Cage) -> Iterator[bytes]:
    """The word in and around sounds of every container, whole, cut, damaged and none at all."""
    word = cage.raw("audio")
    for container in CONTAINERS:
        rate = 48_000 if container == "webm" else 16_000
        whole = encode(voice_like(0.5, rate), container, rate)
        middle = len(whole) // 2
        for damaged in (
            whole,
            whole[:middle] + word,
            whole[:middle] + word + whole[middle:],
            whole[:60] + word + whole[60 + len(word) :],
            whole[:200] + word * 20 + whole[200 + 20 * len(word) :],
            whole + word * 50,
        ):
            yield body(cage.named("audio", damaged))
    for container in ("wav", "flac", "vorbis"):
        yield body(cage.named("audio", tagged(cage, container)))
    mp3 = encode(voice_like(0.5), "mp3")
    for beginning in (id3(cage) + mp3, id3(cage) + mp3[:300] + word * 40 + mp3[300:], id3(cage)):
        yield body(cage.named("audio", beginning))
    yield body(cage.named("audio", word, f"Content-Type: audio/{cage.word('type')}"))
    yield body(
        cage.named("audio", b"RIFF" + word), cage.named("text", b"fine", f"X-{cage.word('part')}: {word.decode()}")
    )


def faces(cage: Cage) -> Iterator[bytes]:
    """The word in a cell, in a column's name, in a name that is needed, before and after."""
    head, first, *rest = FACE.splitlines(keepends=True)
    cells = first.split(b",")
    for content in (
        FACE,
        b"".join((head, b",".join([cage.raw("cell"), *cells[1:]]), *rest)),
        b"".join((head, b",".join([*cells[:-1], cage.raw("cell")]), *rest)),
        b"".join((head.rstrip() + b"," + cage.raw("column") + b"\n", first.rstrip() + b",nan\n", *rest)),
        b"".join((head.rstrip() + b"," + cage.raw("column") + b"\n", first.rstrip() + b",1\n")),
        head.replace(b"AU01_r", cage.raw("column")) + first,
        head + first + cage.raw("row"),
        cage.raw("head") + b"\n" + first,
        cage.raw("binary") + b"\xff\xfe\0",
        FACE + b"\n" + cage.raw("tail") + b"\n",
        head + b"," * 70_000 + cage.raw("long"),
    ):
        yield body(cage.named("openface", content))


def forms(cage: Cage) -> Iterator[tuple[bytes, str]]:
    """The word in the framing: part names, boundaries, content types, and after the end."""
    good = body(part("text", cage.raw("text")))
    yield body(part(cage.word("part"), b"x")), MULTIPART
    yield body(cage.named(cage.word("part"), cage.raw("content"))), MULTIPART
    yield good[:-5] + cage.raw("end"), MULTIPART
    yield good + cage.raw("after"), MULTIPART
    yield cage.raw("preamble") + good, MULTIPART
    yield good.replace(b"form-data", cage.raw("disposition")), MULTIPART
    yield good.replace(b"\r\n\r\n", b"\r\n" + cage.raw("line") + b"\r\n\r\n", 1), MULTIPART
    yield good, f"multipart/form-data; boundary={cage.word('boundary')}"
    yield good, f"application/{cage.word('kind')}"
    yield cage.raw("json"), "application/json"
    yield f"{cage.word('field')}={cage.word('text')}".encode(), "application/x-www-form-urlencoded"
    yield f"text={cage.word('text')}&text=%zz{cage.word('text')}".encode(), "application/x-www-form-urlencoded"
    yield f"text={cage.word('text')}%ff".encode(), "application/x-www-form-urlencoded"


def requests(cage: Cage) -> None:
    """The word in what is beside the body: paths aside, which are given back as the problem's `instance`."""
    good = body(part("text", cage.raw("text")))
    for key in (cage.word("wrong-key"), None):
        cage.ask(good, key=key)
        cage.ask(good, key=key, more={"X-API-Key": cage.word("wrong-key")})
    cage.ask(good, more={"Content-Encoding": cage.word("coding")})
    cage.ask(good, more={"Expect": cage.word("expect")})
    cage.ask(good, more={"Origin": f"https://{cage.word('origin')}.example"})
    cage.send("POST", f"/predict?explain={cage.word('query')}", good)
    for method in ("GET", "PUT", "OPTIONS", "HEAD", "DELETE"):
        cage.send(method, f"/predict?{cage.word('query')}", good)
    cage.send("GET", f"/nowhere?{cage.word('query')}")
    # Which folder an administrator has loaded is logged, and should be; what nobody can have loaded is not.
    cage.send("POST", f"/model/reload?weights={cage.word('folder')}")
    cage.send("POST", f"/model/reload?weights=../{cage.word('folder')}", cage.raw("body"), key=ADMIN)
    cage.send(
        "OPTIONS",
        "/predict",
        more={"Origin": "https://page.example", "Access-Control-Request-Method": cage.word("method")},
    )


def not_http(cage: Cage) -> None:
    """The word in what the server itself refuses, and in a body that breaks off."""
    word = cage.word("raw")
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Type: {MULTIPART}\r\n"
    for sent in (
        f"{word} nonsense\r\n\r\n",
        f"GET / HTTP/1.1\r\n{word}\r\n\r\n",
        f"{word.upper()} /predict HTTP/1.1\r\nHost: x\r\n\r\n",
        f"{head}Transfer-Encoding: chunked\r\n\r\n{word}\r\n",
        f"{head}Content-Length: 100\r\n\r\n{word}",
    ):
        with socket.create_connection(("127.0.0.1", cage.port), timeout=30) as connection:
            connection.sendall(sent.encode())
            connection.shutdown(socket.SHUT_WR)
            cage.back.append(b"".join(iter(lambda: connection.recv(65_536), b"")))


def everything(cage: Cage) -> None:
    """Send it all."""
    makers: tuple[Callable[[Cage], Iterator[bytes]], ...] = (texts, sounds, faces)
    for make in makers:
        for content in make(cage):
            cage.ask(content)
    cage.ask(body(part("text", cage.raw("text")), cage.named("audio", VOICE), cage.named("openface", FACE)))
    for content, content_type in forms(cage):
        cage.ask(content, content_type)
    requests(cage)
    not_http(cage)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def watched(tiny_weights: Path, kept: Path) -> Iterator[Service]:
    keep = ("bash", "-c", KEEP, "-", str(kept / "out"), str(kept / "err"))
    with serving(
        tiny_weights,
        prefix=keep,
        EMMR_LOG_LEVEL="debug",
        EMMR_API_KEYS=f'["{KEY}"]',
        EMMR_ADMIN_KEYS=f'["{ADMIN}"]',
        EMMR_CORS_ORIGINS='["https://page.example"]',
        EMMR_RATE_LIMIT="100000/minute",
        EMMR_METRICS_ACCESS="open",
        PYTHONWARNINGS="default",
    ) as service:
        yield service


def test_nothing_that_was_sent_is_in_logs_metrics_or_answers(watched: Service, kept: Path) -> None:
    cage = Cage(watched.port)
    everything(cage)
    assert len(cage.words) > 800
    assert {200, 400, 401, 404, 405, 413, 415, 422} <= cage.statuses
    assert not {status for status in cage.statuses if status >= 500}
    metrics = httpx2.get(f"http://127.0.0.1:{watched.port}/metrics").content
    said = {
        "stdout": (kept / "out").read_bytes(),
        "stderr": (kept / "err").read_bytes(),
        "metrics": metrics,
        "answers": b"\n".join(cage.back),
    }
    assert said["stderr"].count(b'"event": "request"') > 100
    # Every line is the service's own: decoders, which like to quote tags, have nowhere to print to.
    assert [line for line in said["stderr"].splitlines() if not line.startswith(b"{")] == []
    assert said["stdout"] == b""
    assert len(metrics) > 1000
    found = [(where, word) for where, text in said.items() for word in cage.words if word.encode() in text.lower()]
    assert found == []


def test_the_search_would_find_a_word_that_gets_out(watched: Service, kept: Path) -> None:
    # A problem's `instance` is the path: the one thing of a request that is given back, to who sent it.
    cage = Cage(watched.port)
    word = cage.raw("path")
    cage.send("GET", f"/{word.decode()}")
    assert word in b"\n".join(cage.back)
    assert word not in (kept / "err").read_bytes()
