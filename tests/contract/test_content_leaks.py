"""Request content appears in no log, metric or response.

Canary tokens are sent in every field of valid and invalid requests; stdout, stderr, metrics and responses are searched.
"""

import base64
import io
import itertools
import json
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
from model.features.visual.table import ACTION_UNIT_COLUMNS
from tests.support.forms import MULTIPART, body, part
from tests.support.sound import CONTAINERS, encode, voice_like
from tools.load.service import Service, serving

KEY, ADMIN = "canary-api-key-9d41", "canary-admin-key-77c0"
TEE = 'exec "${@:3}" > "$1" 2> >(tee "$2" >&2)'
"""Copies both outputs to files; stderr is also passed on, because `serving` reads it for readiness."""
FACE = still_face(ACTION_UNIT_COLUMNS)
VOICE = tone()


@dataclass(slots=True)
class CanaryClient:
    """Sends unique tokens and keeps the responses."""

    port: int
    tokens: list[str] = field(default_factory=lambda: [KEY, ADMIN])
    responses: list[bytes] = field(default_factory=list)
    statuses: set[int] = field(default_factory=set)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def token(self, place: str) -> str:
        """Return a new token, named after the field it is sent in."""
        self.tokens.append(f"canary-{place}-{next(self.numbers):04d}-q7z")
        return self.tokens[-1]

    def raw(self, place: str) -> bytes:
        """Return a new token as bytes."""
        return self.token(place).encode()

    def predict(
        self,
        content: bytes = b"",
        content_type: str = MULTIPART,
        key: str | None = KEY,
        more: Mapping[str, str] | None = None,
    ) -> None:
        """POST a body to /predict, with tokens in the query and the headers."""
        self.send(
            "POST",
            f"/predict?explain=true&{self.token('query')}={self.token('value')}",
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
            "User-Agent": self.token("agent"),
            "Referer": f"https://{self.token('referer')}.example/",
            "Cookie": f"session={self.token('cookie')}",
            f"X-{self.token('header-name')}": self.token("header"),
            "X-Request-ID": f"{self.token('id')} with a space",
            **({} if key is None else {"Authorization": f"Bearer {key}"}),
            **(more or {}),
        }
        answer = httpx2.request(
            method, f"http://127.0.0.1:{self.port}{path}", content=content, headers=headers, timeout=60
        )
        self.statuses.add(answer.status_code)
        self.responses += [answer.content, repr(sorted(answer.headers.items())).encode()]

    def named(self, name: str, content: bytes, *headers: str) -> bytes:
        """Return a part whose file name is a token."""
        return part(name, content, *headers, filename=self.token("file") + ".wav")


def texts(canary: CanaryClient) -> Iterator[bytes]:
    """Bodies with the token in the text, valid and invalid."""
    yield body(part("text", canary.raw("text")))
    yield body(part("text", canary.raw("text") + b"\xff"))
    yield body(part("text", canary.raw("text") + b"\0"))
    yield body(part("text", canary.raw("text") * 5000))
    yield body(part("text", canary.raw("text"), f"Content-Type: text/{canary.token('type')}"))
    yield body(part("text", canary.raw("text"), f"Content-Transfer-Encoding: {canary.token('encoding')}"))
    yield body(part("text", canary.raw("text")), part("text", canary.raw("text")))


def tagged(canary: CanaryClient, container: str) -> bytes:
    """An audio file with the token in its tags, which decoders may print."""
    file = io.BytesIO()
    kinds = {"wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "vorbis": ("OGG", "VORBIS")}
    with soundfile.SoundFile(file, "w", 16_000, 1, format=kinds[container][0], subtype=kinds[container][1]) as sound:
        sound.title = sound.artist = sound.comment = canary.token("tag")
        sound.write(np.asarray(voice_like(0.5)))
    return file.getvalue()


def id3(canary: CanaryClient) -> bytes:
    """An ID3 tag with a valid and a broken text frame."""
    word = canary.raw("id3")
    frames = b"TIT2" + struct.pack(">IH", len(word) + 1, 0) + b"\0" + word
    frames += b"COMM" + struct.pack(">IH", 0x7FFFFFFF, 0) + word
    size = len(frames)
    return b"ID3\3\0\0" + bytes([size >> 21 & 127, size >> 14 & 127, size >> 7 & 127, size & 127]) + frames


def sounds(canary: CanaryClient) -> Iterator[bytes]:
    """Bodies with the token in and around audio of every container, whole, truncated and damaged."""
    word = canary.raw("audio")
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
            yield body(canary.named("audio", damaged))
    for container in ("wav", "flac", "vorbis"):
        yield body(canary.named("audio", tagged(canary, container)))
    mp3 = encode(voice_like(0.5), "mp3")
    for beginning in (id3(canary) + mp3, id3(canary) + mp3[:300] + word * 40 + mp3[300:], id3(canary)):
        yield body(canary.named("audio", beginning))
    yield body(canary.named("audio", word, f"Content-Type: audio/{canary.token('type')}"))
    yield body(
        canary.named("audio", b"RIFF" + word),
        canary.named("text", b"fine", f"X-{canary.token('part')}: {word.decode()}"),
    )


def faces(canary: CanaryClient) -> Iterator[bytes]:
    """Bodies with the token in cells, column names, rows and around the table."""
    head, first, *rest = FACE.splitlines(keepends=True)
    cells = first.split(b",")
    for content in (
        FACE,
        b"".join((head, b",".join([canary.raw("cell"), *cells[1:]]), *rest)),
        b"".join((head, b",".join([*cells[:-1], canary.raw("cell")]), *rest)),
        b"".join((head.rstrip() + b"," + canary.raw("column") + b"\n", first.rstrip() + b",nan\n", *rest)),
        b"".join((head.rstrip() + b"," + canary.raw("column") + b"\n", first.rstrip() + b",1\n")),
        head.replace(b"AU01_r", canary.raw("column")) + first,
        head + first + canary.raw("row"),
        canary.raw("head") + b"\n" + first,
        canary.raw("binary") + b"\xff\xfe\0",
        FACE + b"\n" + canary.raw("tail") + b"\n",
        head + b"," * 70_000 + canary.raw("long"),
    ):
        yield body(canary.named("openface", content))


def forms(canary: CanaryClient) -> Iterator[tuple[bytes, str]]:
    """Bodies with the token in part names, boundaries, content types and after the end."""
    good = body(part("text", canary.raw("text")))
    yield body(part(canary.token("part"), b"x")), MULTIPART
    yield body(canary.named(canary.token("part"), canary.raw("content"))), MULTIPART
    yield good[:-5] + canary.raw("end"), MULTIPART
    yield good + canary.raw("after"), MULTIPART
    yield canary.raw("preamble") + good, MULTIPART
    yield good.replace(b"form-data", canary.raw("disposition")), MULTIPART
    yield good.replace(b"\r\n\r\n", b"\r\n" + canary.raw("line") + b"\r\n\r\n", 1), MULTIPART
    yield good, f"multipart/form-data; boundary={canary.token('boundary')}"
    yield good, f"application/{canary.token('kind')}"
    yield canary.raw("json"), "application/json"
    for sent in (
        {"text": canary.token("text")},
        {"text": canary.token("text") + "\0"},
        {"text": canary.token("text") + "\ud800"},
        {"text": [canary.token("text")]},
        {"audio": canary.token("audio")},
        {canary.token("member"): canary.token("text")},
        {"openface": base64.b64encode(canary.raw("openface")).decode()},
    ):
        yield json.dumps(sent).encode(), "application/json"
    yield f"{canary.token('field')}={canary.token('text')}".encode(), "application/x-www-form-urlencoded"
    yield f"text={canary.token('text')}&text=%zz{canary.token('text')}".encode(), "application/x-www-form-urlencoded"
    yield f"text={canary.token('text')}%ff".encode(), "application/x-www-form-urlencoded"


def requests(canary: CanaryClient) -> None:
    """Send tokens outside the body, except in paths, which a problem repeats as `instance`."""
    good = body(part("text", canary.raw("text")))
    for key in (canary.token("wrong-key"), None):
        canary.predict(good, key=key)
        canary.predict(good, key=key, more={"X-API-Key": canary.token("wrong-key")})
    canary.predict(good, more={"Content-Encoding": canary.token("coding")})
    canary.predict(good, more={"Expect": canary.token("expect")})
    canary.predict(good, more={"Origin": f"https://{canary.token('origin')}.example"})
    canary.send("POST", f"/predict?explain={canary.token('query')}", good)
    for method in ("GET", "PUT", "OPTIONS", "HEAD", "DELETE"):
        canary.send(method, f"/predict?{canary.token('query')}", good)
    canary.send("GET", f"/nowhere?{canary.token('query')}")
    # The name of a loaded folder is logged; an invalid name is not.
    canary.send("POST", f"/model/reload?weights={canary.token('folder')}")
    canary.send("POST", f"/model/reload?weights=../{canary.token('folder')}", canary.raw("body"), key=ADMIN)
    canary.send(
        "OPTIONS",
        "/predict",
        more={"Origin": "https://page.example", "Access-Control-Request-Method": canary.token("method")},
    )


def malformed_http(canary: CanaryClient) -> None:
    """Send tokens in requests that the server itself refuses, and in a truncated body."""
    word = canary.token("raw")
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\nContent-Type: {MULTIPART}\r\n"
    for sent in (
        f"{word} nonsense\r\n\r\n",
        f"GET / HTTP/1.1\r\n{word}\r\n\r\n",
        f"{word.upper()} /predict HTTP/1.1\r\nHost: localhost\r\n\r\n",
        f"{head}Transfer-Encoding: chunked\r\n\r\n{word}\r\n",
        f"{head}Content-Length: 100\r\n\r\n{word}",
    ):
        with socket.create_connection(("127.0.0.1", canary.port), timeout=30) as connection:
            connection.sendall(sent.encode())
            connection.shutdown(socket.SHUT_WR)
            canary.responses.append(b"".join(iter(lambda: connection.recv(65_536), b"")))


def send_all(canary: CanaryClient) -> None:
    """Send every request."""
    makers: tuple[Callable[[CanaryClient], Iterator[bytes]], ...] = (texts, sounds, faces)
    for make in makers:
        for content in make(canary):
            canary.predict(content)
    canary.predict(body(part("text", canary.raw("text")), canary.named("audio", VOICE), canary.named("openface", FACE)))
    for content, content_type in forms(canary):
        canary.predict(content, content_type)
    requests(canary)
    malformed_http(canary)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("output")


@pytest.fixture(scope="module")
def service(tiny_weights: Path, output: Path) -> Iterator[Service]:
    prefix = ("bash", "-c", TEE, "-", str(output / "out"), str(output / "err"))
    with serving(
        tiny_weights,
        prefix=prefix,
        EMMR_LOG_LEVEL="debug",
        EMMR_API_KEYS=f'["{KEY}"]',
        EMMR_ADMIN_KEYS=f'["{ADMIN}"]',
        EMMR_CORS_ORIGINS='["https://page.example"]',
        EMMR_RATE_LIMIT="100000/minute",
        EMMR_METRICS_ACCESS="open",
        PYTHONWARNINGS="default",
    ) as service:
        yield service


def test_request_content_is_not_in_logs_metrics_or_responses(service: Service, output: Path) -> None:
    canary = CanaryClient(service.port)
    send_all(canary)
    assert len(canary.tokens) > 800
    assert {200, 400, 401, 404, 405, 413, 415, 422} <= canary.statuses
    assert not {status for status in canary.statuses if status >= 500}
    metrics = httpx2.get(f"http://127.0.0.1:{service.port}/metrics").content
    found_in = {
        "stdout": (output / "out").read_bytes(),
        "stderr": (output / "err").read_bytes(),
        "metrics": metrics,
        "answers": b"\n".join(canary.responses),
    }
    assert found_in["stderr"].count(b'"event": "request"') > 90
    # Every line is a log line of the service: the decoders have no output.
    assert [line for line in found_in["stderr"].splitlines() if not line.startswith(b"{")] == []
    assert found_in["stdout"] == b""
    assert len(metrics) > 1000
    found = [
        (where, word) for where, text in found_in.items() for word in canary.tokens if word.encode() in text.lower()
    ]
    assert found == []


def test_the_search_finds_a_leaked_word(service: Service, output: Path) -> None:
    # A problem's `instance` repeats the path, and only in the response to that request.
    canary = CanaryClient(service.port)
    word = canary.raw("path")
    canary.send("GET", f"/{word.decode()}")
    assert word in b"\n".join(canary.responses)
    assert word not in (output / "err").read_bytes()
