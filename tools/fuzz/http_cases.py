"""Raw HTTP/1.1 connections: valid requests, changed in their structure or their bytes, and how they are sent.

A case follows from its seed and number.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from tests.support.forms import MULTIPART, URLENCODED, body, part
from tools.fuzz.files import damaged
from tools.load.payloads import face, sound

Headers = list[tuple[bytes, bytes]]
SENTENCE: Final = b"I love this."
FORM: Final = body(part("text", SENTENCE))
CHUNKED: Final = (b"Transfer-Encoding", b"chunked")
LONG: Final = 70_000  # bytes: more than a head may have
MAX_PIECES: Final = 6
UNCHANGED: Final = 0.15  # share of cases without a change
BYTES: Final = 0.3  # share of cases whose bytes are changed as well
HALF_CLOSED: Final = 0.15  # share of cases whose client shuts down its sending side


@dataclass(slots=True)
class Message:
    """A request in parts.

    Args:
        start: the request line, without its end.
        headers: names and values.
        content: the body; with `chunks`, before it is divided.
        chunks: sizes of the chunks; None where Content-Length frames the body.
        newline: what ends a line of the head.
        before: what precedes the request line.
        last: what ends a chunked body.
    """

    start: bytes
    headers: Headers = field(default_factory=lambda: [(b"Host", b"localhost")])
    content: bytes = b""
    chunks: list[int] | None = None
    newline: bytes = b"\r\n"
    before: bytes = b""
    last: bytes = b"0\r\n\r\n"

    def wire(self) -> bytes:
        """Return the bytes of the request."""
        head = self.newline.join([self.start, *(name + b": " + value for name, value in self.headers), b"", b""])
        return self.before + head + (self.content if self.chunks is None else self._chunked(self.chunks))

    def _chunked(self, sizes: list[int]) -> bytes:
        found, position = b"", 0
        for size in [*sizes, len(self.content)]:
            chunk = self.content[position : position + size]
            position += size
            if chunk:
                found += b"%x\r\n%s\r\n" % (len(chunk), chunk)
        return found + self.last


@dataclass(frozen=True, slots=True)
class HttpCase:
    """What is sent on one connection.

    Args:
        number: of the case.
        pieces: written one after the other.
        half_close: whether the client shuts down its sending side afterwards.
        changes: names of the changes; empty for valid requests, which must get a 200.
    """

    number: int
    pieces: tuple[bytes, ...]
    half_close: bool
    changes: tuple[str, ...]

    @property
    def wire(self) -> bytes:
        """All the bytes."""
        return b"".join(self.pieces)


def post(content: bytes = FORM, content_type: str = MULTIPART, target: bytes = b"/predict") -> Message:
    """Return a valid POST with Content-Length."""
    length = (b"Content-Length", b"%d" % len(content))
    headers = [(b"Host", b"localhost"), (b"Content-Type", content_type.encode()), length]
    return Message(b"POST %s HTTP/1.1" % target, headers, content)


def chunked(content: bytes = FORM, sizes: tuple[int, ...] = (7, 30)) -> Message:
    """Return a valid POST in chunks."""
    headers = [(b"Host", b"localhost"), (b"Content-Type", MULTIPART.encode()), CHUNKED]
    return Message(b"POST /predict HTTP/1.1", headers, content, chunks=list(sizes))


def valid() -> dict[str, Message]:
    """Return name → request that must get a 200."""
    voice = body(part("text", SENTENCE), part("audio", sound("wav", 0.4), filename="a.wav"))
    expecting = post()
    expecting.headers.append((b"Expect", b"100-continue"))
    upgrading = post()
    upgrading.headers += [
        (b"Connection", b"Upgrade, HTTP2-Settings"),
        (b"Upgrade", b"h2c"),
        (b"HTTP2-Settings", b"AAMAAABkAAQAoAAAAAIAAAAA"),
    ]
    older = post()
    older.start = b"POST /predict HTTP/1.0"
    return {
        "form": post(),
        "explained": post(target=b"/predict?explain=true"),
        "urlencoded": post(b"text=I+love+this.", URLENCODED),
        "voice": post(voice),
        "face": post(body(part("openface", face(0, 10), filename="a.csv"))),
        "chunked": chunked(),
        "chunked voice": chunked(voice, (1, 4096, 2)),
        "chunks with extensions": replace(chunked(), last=b"0;a=b\r\n\r\n"),
        "trailer": replace(chunked(), last=b"0\r\nX-Checksum: 1\r\n\r\n"),
        "expecting": expecting,
        "upgrading": upgrading,
        "HTTP/1.0": older,
        "line before": replace(post(), before=b"\r\n"),
        "preamble": post(b"\r\n" + FORM),
        "health": Message(b"GET /health/live HTTP/1.1"),
        "model": Message(b"GET /model HTTP/1.1"),
        "head": Message(b"HEAD / HTTP/1.1"),
        "absolute": Message(b"GET http://localhost/health/live HTTP/1.1"),
    }


# ---- changes of the structure ----------------------------------------------------------------------------------------

METHODS: Final = (
    b"GET",
    b"PUT",
    b"DELETE",
    b"OPTIONS",
    b"TRACE",
    b"CONNECT",
    b"PATCH",
    b"PRI",
    b"get",
    b"",
    b"P(ST",
    b"M" * 5000,
)
TARGETS: Final = (
    b"/", b"*", b"", b"//", b"/../etc/passwd", b"/%00", b"/%zz", b"/predict#x", b"/predict?threshold=nan", b"/\xff\xfe",
    b"http://[::1/", b"http://elsewhere/predict", b"localhost:80", b"/" + b"a" * LONG, b"/predict?" + b"a=b&" * 3000,
    b"/health/live", b"/metrics", b"/model/reload", b"/nowhere", b"/openapi.json", b"/\x01", b"/a b",
)  # fmt: skip
VERSIONS: Final = (
    b"HTTP/1.0",
    b"HTTP/2.0",
    b"HTTP/0.9",
    b"HTTP/1.2",
    b"HTTP/1",
    b"http/1.1",
    b"HTTP/1.1 ",
    b"",
    b"HTTP/11.1",
)
VALUES: Final = (
    b"", b" ", b"a" * LONG, b"\x00", b"\xff\xfe", b"a\x0bb", b"a\rb", b"a\r\n b", b"a\n b", b"=?utf-8?q?x?=", b"\"",
    b"1, 1",
)  # fmt: skip
NAMES: Final = (b"X-A", b"X A", b"X-A ", b" X-A", b"", b"X:A", b"X\x00A", b"X-\xff", b"Host", b"A" * LONG, b"(x)")
LENGTHS: Final = (
    b"0", b"1", b"-1", b"+5", b"05", b"5, 5", b"5,6", b"0x10", b"1e3", b"", b" ", b"9" * 30, b"18446744073709551617",
    b"5 5",
)  # fmt: skip
ENCODINGS: Final = (
    b"chunked", b"gzip, chunked", b"chunked, gzip", b"identity", b"xchunked", b"chunked, chunked", b" chunked",
    b"chunked;a=b", b"\x0bchunked", b"CHUNKED", b"",
)  # fmt: skip
HOSTS: Final = (
    b"elsewhere", b"", b"localhost:", b"localhost:99999", b"127.0.0.1", b"[::1]", b"[::1", b"a@localhost",
    b"localhost/x",
    b"LOCALHOST", b"localhost, localhost", b"\xff", b"a" * 5000,
)  # fmt: skip
SIZES: Final = (
    b"-1", b"+1", b"0x1", b"g", b"", b" 5", b"5 ", b"ffffffffffffffff", b"1" * 40, b"05", b"5;" + b"a" * LONG, b"5;\n",
    b"5\t",
)  # fmt: skip
BOUNDARIES: Final = (
    b"", b"other", b'"frontier"', b'"frontier', b"frontier; boundary=other", b"a" * 71, b"fron tier", b"\xff",
    b"frontier ",
    b"=?utf-8?q?frontier?=",
)  # fmt: skip
DISPOSITIONS: Final = (
    b"", b"form-data", b"attachment; name=text", b'form-data; name="text"; name="audio"', b'form-data; name="te\\"xt"',
    b"form-data; name*=UTF-8''text", b'form-data; name="text', b'form-data; name=""',
    b'form-data; name="text"; filename=""',
    b'form-data; name="audio"; filename="\xff"', b"form-data; name=text;;;", b'form-data;\r\n name="text"', b"a" * LONG,
)  # fmt: skip


def _method(message: Message, rng: random.Random) -> None:
    message.start = rng.choice(METHODS) + b" " + message.start.partition(b" ")[2]


def _target(message: Message, rng: random.Random) -> None:
    method, _, rest = message.start.partition(b" ")
    message.start = b" ".join((method, rng.choice(TARGETS), rest.rpartition(b" ")[2]))


def _version(message: Message, rng: random.Random) -> None:
    message.start = message.start.rpartition(b" ")[0] + b" " + rng.choice(VERSIONS)


def _spaces(message: Message, rng: random.Random) -> None:
    message.start = message.start.replace(b" ", rng.choice((b"  ", b"\t", b" \t", b"\x0b", b"")), rng.randint(1, 2))


def _header(message: Message, rng: random.Random) -> None:
    message.headers.insert(rng.randint(0, len(message.headers)), (rng.choice(NAMES), rng.choice(VALUES)))


def _many_headers(message: Message, rng: random.Random) -> None:
    message.headers += [(b"X-%d" % number, b"a") for number in range(rng.choice((50, 500, 5000)))]


def _repeated_header(message: Message, rng: random.Random) -> None:
    if message.headers:
        message.headers.append(rng.choice(message.headers))


def _dropped_header(message: Message, rng: random.Random) -> None:
    if message.headers:
        del message.headers[rng.randrange(len(message.headers))]


def _set(message: Message, name: bytes, value: bytes, *, add: bool) -> None:
    if not add:
        message.headers = [one for one in message.headers if one[0].lower() != name.lower()]
    message.headers.append((name, value))


def _length(message: Message, rng: random.Random) -> None:
    exact = len(message.content)
    near = (b"%d" % (exact + 1), b"%d" % max(0, exact - 1), b"%d" % (exact + 200_000_000))
    _set(message, b"Content-Length", rng.choice(LENGTHS + near), add=rng.random() < 0.3)


def _encoding(message: Message, rng: random.Random) -> None:
    _set(message, b"Transfer-Encoding", rng.choice(ENCODINGS), add=rng.random() < 0.4)


def _content_encoding(message: Message, rng: random.Random) -> None:
    _set(message, b"Content-Encoding", rng.choice((b"gzip", b"identity", b"br", b"\xff")), add=True)


def _host(message: Message, rng: random.Random) -> None:
    _set(message, b"Host", rng.choice(HOSTS), add=rng.random() < 0.3)


def _connection(message: Message, rng: random.Random) -> None:
    values = (
        b"close",
        b"keep-alive",
        b"Upgrade",
        b"Upgrade, close",
        b"Host",
        b"Content-Length",
        b",",
        b"upgrade, upgrade",
    )
    _set(message, b"Connection", rng.choice(values), add=True)
    if rng.random() < 0.5:
        _set(message, b"Upgrade", rng.choice((b"h2c", b"websocket", b"TLS/1.0", b"", b"h2c, websocket")), add=True)


def _expect(message: Message, rng: random.Random) -> None:
    _set(
        message, b"Expect", rng.choice((b"100-continue", b"100-Continue", b"200-ok", b"", b"100-continue, x")), add=True
    )


def _newline(message: Message, rng: random.Random) -> None:
    message.newline = rng.choice((b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\n\r\n"))


def _before(message: Message, rng: random.Random) -> None:
    before = (b"\r\n", b"\n", b"\r\n" * 50, b" ", b"\x00", b"\x16\x03\x01\x02\x00", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    message.before = rng.choice(before)


def _chunks(message: Message, rng: random.Random) -> None:
    """Divide the body into chunks, some of whose sizes are malformed."""
    message.headers = [
        one for one in message.headers if one[0].lower() not in {b"content-length", b"transfer-encoding"}
    ]
    message.headers.append(CHUNKED)
    size = rng.randint(0, max(1, len(message.content)))
    kind = rng.randrange(5)
    whole, message.chunks = message.content, None
    begin, end = whole[:size], whole[size:]
    first = b"%x\r\n%s\r\n" % (len(begin), begin) if begin else b""
    match kind:
        case 0:
            message.content = first + rng.choice(SIZES) + b"\r\n" + end + b"\r\n0\r\n\r\n"
        case 1:  # another size than the chunk has
            message.content = first + b"%x\r\n%s\r\n0\r\n\r\n" % (len(end) + rng.choice((-1, 1, 5)) & 0xFFFF, end)
        case 2:
            message.content = (first + b"%x\r\n%s\r\n0\r\n\r\n" % (len(end), end)).replace(b"\r\n", b"\n")
        case 3:  # no end
            message.content = first + b"%x\r\n%s\r\n" % (len(end), end)
        case _:
            trailers = (
                b"Host: x\r\n\r\n",
                b"Content-Length: 5\r\n\r\n",
                b"a\r\n\r\n",
                b"X: " + b"a" * LONG + b"\r\n\r\n",
            )
            message.content = first + b"%x\r\n%s\r\n0\r\n" % (len(end), end) + rng.choice(trailers)


def _boundary(message: Message, rng: random.Random) -> None:
    kind = rng.choice(
        (b"multipart/form-data", b"Multipart/Form-Data", b"multipart/mixed", b"multipart/form-data; charset=x")
    )
    _set(message, b"Content-Type", kind + b"; boundary=" + rng.choice(BOUNDARIES), add=rng.random() < 0.2)


def _disposition(message: Message, rng: random.Random) -> None:
    old = b'form-data; name="text"'
    _replaced(message, old, rng.choice(DISPOSITIONS))


def _form(message: Message, rng: random.Random) -> None:
    """Change the framing of the form."""
    old, new = rng.choice(
        (
            (b"--frontier--\r\n", b""),
            (b"--frontier--\r\n", b"--frontier-"),
            (b"--frontier--\r\n", b"--frontier--"),
            (b"--frontier--\r\n", b"--frontier--\r\n" + b"epilogue" * 500),
            (b"--frontier--\r\n", b"--frontier--\r\n--frontier--\r\n"),
            (b"--frontier\r\n", b"preamble\r\n--frontier\r\n"),
            (b"--frontier\r\n", b"--frontier \t\r\n"),
            (b"--frontier\r\n", b"--frontier\n"),
            (b"\r\n", b"\n"),
            (b"\r\n\r\n", b"\r\n"),
            (b"\r\n\r\n", b"\r\nContent-Type: text/plain; charset=utf-16\r\n\r\n"),
            (b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n"),
            (b"\r\n\r\n", b"\r\n" + b"X-A: b\r\n" * 1000 + b"\r\n"),
            (b"\r\n\r\n", b"\r\n: \r\n\r\n"),
            (SENTENCE, b"\xff\xfe"),
            (SENTENCE, b"\x00"),
            (SENTENCE, b"--frontie"),
            (SENTENCE, b"\r\n--frontier\r\n\r\n"),
        )
    )
    _replaced(message, old, new)


def _replaced(message: Message, old: bytes, new: bytes) -> None:
    """Replace in the body, with a Content-Length that is still right."""
    message.content = message.content.replace(old, new)
    exact = b"%d" % len(message.content)
    message.headers = [(name, exact if name == b"Content-Length" else value) for name, value in message.headers]


STRUCTURE: Final[dict[str, Callable[[Message, random.Random], None]]] = {
    change.__name__.strip("_"): change
    for change in (
        _method, _target, _version, _spaces, _header, _many_headers, _repeated_header, _dropped_header, _length,
        _encoding, _content_encoding, _host, _connection, _expect, _newline, _before, _chunks, _boundary, _disposition,
        _form,
    )
}  # fmt: skip


# ---- cases -----------------------------------------------------------------------------------------------------------


def case(number: int, seed: int) -> HttpCase:
    """Return a case."""
    rng = random.Random(f"{seed}:{number}")
    messages = [rng.choice(list(valid().values())) for _ in range(rng.choice((1, 1, 1, 1, 2, 3)))]
    changes: list[str] = []
    if rng.random() >= UNCHANGED:
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            name = rng.choice(list(STRUCTURE))
            STRUCTURE[name](rng.choice(messages), rng)
            changes.append(name)
    wire = b"".join(message.wire() for message in messages)
    if changes and rng.random() < BYTES:
        wire = damaged(wire, rng)
        changes.append("bytes")
    cuts = sorted(rng.randint(0, len(wire)) for _ in range(rng.randrange(MAX_PIECES)))
    pieces = [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    return HttpCase(number, tuple(filter(None, pieces)), rng.random() < HALF_CLOSED, tuple(changes))
