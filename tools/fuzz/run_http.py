"""Raw HTTP fuzzing of a running service (part of `make fuzz`): malformed heads, chunks and forms over a socket.

Every connection that sends something gets an answer, never a 500; the service stays healthy, and an ordinary request
gets the same answer as before.
"""

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tools.fuzz.http_cases import HttpCase, case, post
from tools.load.client import HOST, Client, Request
from tools.load.faults_common import SPARE_DESCRIPTORS, settled
from tools.load.generator import run
from tools.load.report import Result, add_options, report
from tools.load.service import ROOT, WEIGHTS, Service, serving

KEPT: Final = ROOT / ".cache" / "http"
ROUND: Final = 64  # connections at once, between two ordinary requests
PATIENCE: Final = 12.0  # seconds for an answer, or for the end of the connection
SILENCE: Final = 0.15  # seconds without a byte after an answer: no further one comes
PAUSE: Final = 0.002  # seconds between two pieces
BUSY: Final = frozenset({429, 503})
SERVER_ERRORS: Final = frozenset({501, 503, 504, 505})  # 504: the deadline on a busy machine
MAX_FINDINGS: Final = 50
TOLERANCE: Final = 1e-5  # of a number; a request whose client has gone may still be computed in the same batch


@dataclass(frozen=True, slots=True)
class Answer:
    """One response.

    Args:
        status: its code.
        headers: with names in lower case.
        body: as received.
    """

    status: int
    headers: dict[str, str]
    body: bytes


def read_answers(received: bytes, *, head: bool = False) -> list[Answer]:
    """Split what a server has sent into responses; interim ones (1xx) are left out.

    Args:
        received: until the connection ended or fell silent.
        head: whether a response may be one to HEAD, without the body that its headers announce.

    Raises:
        ValueError: it is not a sequence of whole responses.
    """
    found = []
    while received:
        top, end, rest = received.partition(b"\r\n\r\n")
        if not end:
            raise ValueError("the head of a response is cut")
        status_line, *lines = top.decode("latin-1").split("\r\n")
        version, status, *_ = status_line.split(" ", 2)
        if version != "HTTP/1.1" or not status.isdecimal():
            raise ValueError(f"not a status line: {status_line[:80]!r}")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        size = 0 if status.startswith("1") else int(headers.get("content-length", "0"))
        if head and (len(rest) < size or rest.startswith(b"HTTP/1.1 ")):
            size = 0
        if len(rest) < size:
            raise ValueError("the body of a response is cut")
        content, received = rest[:size], rest[size:]
        if not status.startswith("1"):
            found.append(Answer(int(status), headers, content))
    return found


def judge(sent: HttpCase, received: bytes, ended: str) -> str:
    """Return what is wrong with the answer to a case; empty if nothing is.

    Args:
        sent: the case.
        received: all bytes from the server.
        ended: `silent` after an answer, `closed` or `reset` by the server, `timeout` without an answer.
    """
    head = b"HEAD" in sent.wire
    try:
        answers = read_answers(received, head=head)
    except ValueError as error:
        return f"not an HTTP response: {error}"
    due = bool(sent.wire.strip(b"\r\n")) and (not sent.half_close or not sent.changes)
    if not answers:
        return f"no answer: {ended}" if due or ended == "timeout" else ""
    for answer in answers:
        if answer.status >= 500 and answer.status not in SERVER_ERRORS:
            return f"answered {answer.status}"
        if answer.status >= 400 and (answer.body or not head) and (reason := _not_a_problem(answer)):
            return f"{answer.status} is not a problem: {reason}"
    statuses = [answer.status for answer in answers]
    if not sent.changes and any(status != 200 and status not in BUSY for status in statuses):
        return f"a valid request got {statuses}"
    return ""


def _not_a_problem(answer: Answer) -> str:
    if answer.headers.get("content-type") != "application/problem+json":
        return f"content type {answer.headers.get('content-type')}"
    try:
        problem = json.loads(answer.body)
    except ValueError:
        return "not JSON"
    if problem.get("status") != answer.status:
        return f"status {problem.get('status')} inside"
    return "" if problem.get("request_id") else "no request_id"


async def exchange(port: int, sent: HttpCase) -> tuple[bytes, str]:
    """Send a case on a connection of its own; returns what the server sent, and how it ended (see `judge`)."""
    reader, writer = await asyncio.open_connection(HOST, port)
    received, ended, answered = b"", "timeout", False
    sending = asyncio.create_task(_send(writer, sent))
    began = time.perf_counter()
    try:
        while time.perf_counter() - began < PATIENCE:
            try:
                async with asyncio.timeout(SILENCE if answered and sending.done() else PATIENCE):
                    data = await reader.read(65_536)
            except TimeoutError:
                ended = "silent" if answered else "timeout"
                break
            if not data:
                ended = "closed"
                break
            received += data
            answered = _is_answered(received, sent)
    except ConnectionError:
        ended = "reset"
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.transport.abort()
    return received, ended


def _is_answered(received: bytes, sent: HttpCase) -> bool:
    try:
        return bool(read_answers(received, head=b"HEAD" in sent.wire))
    except ValueError:
        return False


async def _send(writer: asyncio.StreamWriter, sent: HttpCase) -> None:
    for piece in sent.pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(PAUSE)
    if sent.half_close:
        writer.write_eof()


@dataclass(slots=True)
class Tally:
    """Counts over the cases.

    Args:
        cases: connections.
        statuses: of the answers.
        findings: what was wrong, with the number of the case.
    """

    cases: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)

    def add(self, sent: HttpCase, received: bytes, ended: str, kept: Path) -> None:
        """Count a case; what was sent and received in a finding is written to `kept`."""
        self.cases += 1
        try:
            answers = read_answers(received, head=b"HEAD" in sent.wire)
            self.statuses.update([str(one.status) for one in answers] or [ended])
        except ValueError:
            self.statuses["malformed"] += 1
        if wrong := judge(sent, received, ended):
            self.findings.append(f"case {sent.number} ({', '.join(sent.changes) or 'unchanged'}): {wrong}")
            kept.mkdir(parents=True, exist_ok=True)
            pieces = "".join(f"sent {piece!r}\n" for piece in sent.pieces)
            closing = "half-closed\n" if sent.half_close else ""
            text = f"{wrong}\n{pieces}{closing}received {received!r}\nended {ended}\n"
            (kept / f"{sent.number}.txt").write_text(text, encoding="utf-8")


async def fuzz(service: Service, cases: Sequence[int] | None, seconds: float, seed: int, kept: Path) -> Result:
    """Send cases in rounds, with an ordinary request after each.

    Args:
        service: that answers.
        cases: numbers of the cases; None for as many as there is time for.
        seconds: to begin rounds in, without `cases`.
        seed: of the cases.
        kept: a folder for findings.
    """
    tally, began = Tally(), time.monotonic()
    expected = await _ordinary(service)
    await settled(service)
    before = service.resources()
    first, events = 0, len(service.events)
    while len(tally.findings) < MAX_FINDINGS:
        numbers = range(first, first + ROUND) if cases is None else cases[first : first + ROUND]
        if not numbers or (cases is None and time.monotonic() - began > seconds):
            break
        first += ROUND
        sent = [case(number, seed) for number in numbers]
        for one, (received, ended) in zip(
            sent, await asyncio.gather(*(exchange(service.port, one) for one in sent)), strict=True
        ):
            tally.add(one, received, ended, kept)
        where = f"after cases {numbers[0]} to {numbers[-1]}"
        if await asyncio.to_thread(_unhealthy, service):
            tally.findings.append(f"not healthy {where}")
            break
        if logged := errors_logged(service, events):
            tally.findings.append(f"{logged} {where}")
        events = len(service.events)
        if not is_same(answer := await _ordinary(service), expected):
            tally.findings.append(f"another answer to an ordinary request {where}: {answer}")
    await settled(service)
    after = service.resources()
    result = Result(
        "raw HTTP",
        {
            "seconds": round(time.monotonic() - began),
            "connections": tally.cases,
            "answers": dict(sorted(tally.statuses.items())),
            "descriptors left": after.descriptors - before.descriptors,
            "temporary files left": after.temporary,
            "seed": seed,
            "findings": len(tally.findings),
        },
        tally.findings,
    )
    result.expect(tally.cases > 0, "there was no time for a case")
    result.expect(after.temporary == 0, "temporary files were left")
    result.expect(after.descriptors - before.descriptors <= SPARE_DESCRIPTORS, "descriptors were left open")
    return result


def errors_logged(service: Service, since: int) -> str:
    """Return what the service has logged as errors since it had logged `since` events; empty if nothing."""
    found = [event for event in service.events[since:] if event.get("level") in {"error", "critical"}]
    return f"{len(found)} errors logged, the first {found[0]}" if found else ""


def is_same(first: Any, second: Any) -> bool:
    """Return whether two answers are equal, numbers within `TOLERANCE`."""
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(is_same(first[name], second[name]) for name in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(is_same, first, second))
    if isinstance(first, float) and isinstance(second, float):
        return abs(first - second) <= TOLERANCE
    return bool(first == second)


def _unhealthy(service: Service) -> bool:
    return not service.running or service.health()[0] != 200


async def _ordinary(service: Service) -> dict[str, Any]:
    """Return the answer to an ordinary request, without what differs from request to request."""
    message = post()
    head, _, content = message.wire().partition(b"\r\n\r\n")
    client = Client(service.port, keep=False)
    answer: dict[str, Any] = (await client.send(Request("ordinary", head + b"\r\n\r\n", content))).json()
    del answer["request_id"], answer["timings_ms"]
    return answer


def fast(weights: Path) -> AbstractContextManager[Service]:
    """Serve with short timeouts, so that a case that sends too little is answered soon."""
    return serving(weights, EMMR_HEAD_TIMEOUT="1", EMMR_BODY_TIMEOUT="3", EMMR_BODY_STALL_TIMEOUT="1")


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Send malformed HTTP to the service.")
    parser.add_argument("cases", nargs="*", type=int, metavar="case", help="numbers of cases to repeat")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--kept", type=Path, default=KEPT, help="a folder for findings")
    add_options(parser)
    options = parser.parse_args()
    with fast(options.weights) as service:
        found = run(fuzz(service, options.cases or None, 60 * options.minutes, options.seed, options.kept))
        return report("http", [found], options)


if __name__ == "__main__":
    sys.exit(main())
