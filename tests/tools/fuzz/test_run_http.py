import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tools.fuzz import run_http
from tools.fuzz.http_cases import HttpCase
from tools.fuzz.run_http import Tally, exchange, judge, read_answers

pytestmark = pytest.mark.anyio
SENT = HttpCase(7, (b"GET / HTT", b"P/1.1\r\n\r\n"), half_close=False, changes=("host",))
VALID = HttpCase(8, (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",), half_close=True, changes=())
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


def problem(status: int, changes: dict[str, object] | None = None) -> bytes:
    body = json.dumps({"status": status, "request_id": "a"} | (changes or {})).encode()
    head = f"HTTP/1.1 {status} No\r\nContent-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def test_answers_are_split_by_their_length() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    assert [one.status for one in read_answers(interim + OK + problem(404))] == [200, 404]
    assert read_answers(b"") == []


@pytest.mark.parametrize("received", [b"HTTP/1.1 200 OK\r\n", OK[:-1], b"HTTP/1.0 200 OK\r\n\r\n", b"220 hi\r\n\r\n"])
def test_incomplete_or_foreign_answers_are_errors(received: bytes) -> None:
    with pytest.raises(ValueError, match=r"cut|not a status line"):
        read_answers(received)


def test_answers_to_head_have_no_body() -> None:
    head = OK.removesuffix(b"{}")
    assert [one.body for one in read_answers(head + OK, head=True)] == [b"", b"{}"]


@pytest.mark.parametrize(
    ("sent", "received"),
    [(SENT, OK), (SENT, problem(400)), (SENT, problem(503)), (VALID, OK), (VALID, problem(429))],
)
def test_correct_answers_are_no_findings(sent: HttpCase, received: bytes) -> None:
    assert judge(sent, received, "silent") == ""


@pytest.mark.parametrize(
    ("sent", "received", "ended", "finding"),
    [
        (SENT, b"", "closed", "no answer: closed"),
        (SENT, b"", "reset", "no answer: reset"),
        (VALID, b"", "closed", "no answer: closed"),
        (SENT, problem(500), "silent", "answered 500"),
        (SENT, problem(502), "silent", "answered 502"),
        (SENT, problem(400, {"status": 500}), "silent", "400 is not a problem: status 500 inside"),
        (SENT, problem(400, {"request_id": ""}), "silent", "400 is not a problem: no request_id"),
        (SENT, OK.replace(b"200", b"404"), "silent", "404 is not a problem: content type None"),
        (SENT, OK[:-1], "closed", "not an HTTP response: the body of a response is cut"),
        (VALID, problem(400), "silent", "a valid request got [400]"),
    ],
)
def test_wrong_answers_are_findings(sent: HttpCase, received: bytes, ended: str, finding: str) -> None:
    assert judge(sent, received, ended) == finding


def test_nothing_is_due_to_who_sends_nothing_or_leaves() -> None:
    empty_lines = HttpCase(1, (b"\r\n\r\n",), half_close=False, changes=("before",))
    assert judge(empty_lines, b"", "closed") == ""
    left = HttpCase(1, SENT.pieces, half_close=True, changes=SENT.changes)
    assert judge(left, b"", "closed") == ""


def test_findings_are_kept_with_what_was_sent(tmp_path: Path) -> None:
    tally = Tally()
    tally.add(SENT, OK, "silent", tmp_path)
    tally.add(SENT, b"", "reset", tmp_path)
    assert tally.findings == ["case 7 (host): no answer: reset"]
    assert dict(tally.statuses) == {"200": 1, "reset": 1}
    assert repr(SENT.pieces[1]) in (tmp_path / "7.txt").read_text()


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def sent_to(handler: Handler, sent: HttpCase) -> tuple[bytes, str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        return await exchange(server.sockets[0].getsockname()[1], sent)


async def test_a_case_is_sent_whole_and_its_answer_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_http, "SILENCE", 0.02)
    got = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.readexactly(len(VALID.wire)))
        got.append(await reader.read())
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        writer.write(OK)
        await writer.drain()

    received, _ = await sent_to(handler, VALID)
    assert got == [VALID.wire, b""]
    assert received.endswith(OK)


async def test_a_connection_that_stays_open_after_an_answer_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_http, "SILENCE", 0.02)

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(SENT.wire))
        writer.write(OK)
        await reader.read()

    assert await sent_to(handler, SENT) == (OK, "silent")


async def test_a_connection_without_an_answer_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_http, "PATIENCE", 0.05)

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    assert await sent_to(handler, SENT) == (b"", "timeout")
