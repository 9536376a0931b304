"""Write `docs/limits.md` (`make limits`): the responses of a service just below, at and just above each limit."""

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import httpx2
from starlette.testclient import TestClient

from app.http.lingering_close import LINGER_BYTES, LINGER_SECONDS
from app.http.protocol import HEAD_BYTES
from app.main import create_app
from app.settings import KIB, MIB, Settings
from tests.support.forms import MULTIPART, body, part
from tests.support.limit_rows import CONTENTS, LimitRequest, rows
from tests.support.sound import encode, voice_like
from tools.load.service import WEIGHTS, serving

PAGE: Final = Path(__file__).with_name("limits.md")
TIMEOUT: Final = 60.0  # seconds for one response
SENTENCE: Final = body(part("text", b"It was good."))
# Elements of two bytes each, which a decoder reads one by one: seconds of work in a file of 20 MiB.
SLOW_FILE: Final = body(
    part("audio", encode(voice_like(0.1, 48_000), "webm", 48_000) + b"\xec\x80" * 10 * MIB, filename="a")
)
WAIT: Final[float] = Settings.model_fields["max_wait"].default
HEAD: Final = """# Limits

The responses of a service with the shipped weights, written by `make limits`. Each setting is an environment variable:
`max_body_bytes` is `EMMR_MAX_BODY_BYTES`. Statuses other than 200 are shown with the last part of the problem's `type`
(`GET /problems` explains each).

## Sizes

Counted while the body is received and decoded, never taken from a header. Tested at the defaults.

| Limit | Setting | Default | One below | At | One above |
| --- | --- | --- | --- | --- | --- |
"""
TIMED: Final = """
## Time and queue

Tested with other values than the defaults, so that no response takes half a minute.

| Limit | Setting | Default | Tested with | Within | Beyond |
| --- | --- | --- | --- | --- | --- |
"""
OTHERS: Final = """
## Content

| What | Request | Response |
| --- | --- | --- |
"""
TAIL: Final = f"""
The queue is also bounded in time: while the expected waiting time, computed from the throughput, exceeds `max_wait`
({WAIT:g} s; 0 for no such bound), further requests get the same 429. This depends on the machine, so it is not in the
table.

The request line and headers together may have {HEAD_BYTES // KIB} KiB (431; not a setting), and must be received within
`head_timeout` (408). When a request is rejected before its end, the service reads up to {LINGER_SECONDS:g} s and
{LINGER_BYTES // MIB} MiB more before it closes the connection, so that the response is not lost.
"""


def main() -> None:
    """Send the requests, and write the page."""
    lines = [HEAD]
    with serving() as service:
        lines += [line + "\n" for line in sizes(Settings(), service.port)]
        others = [line + "\n" for line in contents(service.port)]
    lines += [TIMED, *(line + "\n" for line in timed(WEIGHTS)), OTHERS, *others, TAIL]
    PAGE.write_text("".join(lines), encoding="utf-8")


def sizes(settings: Settings, port: int) -> Iterator[str]:
    """Yield a table row for each limit of a size, from a service with these settings."""
    for row in rows(settings):
        answers = (f"{request.value} → {send(port, request)}" for request in row.requests)
        default = formatted(row.setting, getattr(settings, row.setting))
        yield f"| {row.what} | `{row.setting}` | {default} | {' | '.join(answers)} |"


def contents(port: int) -> Iterator[str]:
    """Yield a table row for each kind of content."""
    for what, given, request in CONTENTS:
        yield f"| {what} | {given} | {send(port, request)} |"


def timed(weights: Path) -> Iterator[str]:
    """Yield a table row for each limit of time and of the queue, from services with lower limits."""
    files = ("a sentence", "a sound that takes seconds to decode")
    with serving(
        weights, EMMR_BODY_TIMEOUT="1", EMMR_DECODE_TIMEOUT="1", EMMR_QUEUE_SIZE="2", EMMR_BATCH_DELAY_MS="500"
    ) as service:
        slow = [post(service.port, in_pieces(SENTENCE, pause)) for pause in (0.05, 0.2)]
        yield timed_row("Body, time", "body_timeout", 1.0, ("0.5 s", "2 s"), slow)
        responses = [post(service.port, sent) for sent in (SENTENCE, SLOW_FILE)]
        yield timed_row("Decoding, time", "decode_timeout", 1.0, files, responses)
        concurrent = [at_once(service.port, number) for number in (2, 3)]
        yield timed_row("Queue", "queue_size", 2, ("2 at once", "3 at once"), concurrent)
    with serving(weights, EMMR_DEADLINE="1") as service:
        responses = [post(service.port, sent) for sent in (SENTENCE, SLOW_FILE)]
        yield timed_row("Deadline", "deadline", 1.0, files, responses)
        ready = post(service.port, SENTENCE)
    starting = TestClient(create_app(Settings(weights=weights, log_level="warning")))  # not started
    unready = formatted_response(starting.post("/predict", content=SENTENCE, headers={"Content-Type": MULTIPART}))
    yield f"| Readiness | – | – | – | once ready → {ready} | before → {unready} |"


def timed_row(what: str, setting: str, tested: float, given: Sequence[str], answers: Sequence[str]) -> str:
    """Return one row of the table of time and queue."""
    default, used = (formatted(setting, value) for value in (getattr(Settings(), setting), tested))
    cells = (f"{what} → {answer}" for what, answer in zip(given, answers, strict=True))
    return f"| {what} | `{setting}` | {default} | {used} | {' | '.join(cells)} |"


def formatted(setting: str, value: float) -> str:
    """Format the value of a setting with its unit."""
    if setting.endswith("_bytes"):
        return f"{value // MIB} MiB" if value % MIB == 0 else f"{value // KIB} KiB"
    if setting.endswith("_rate"):
        return f"{value:,} Hz"
    if setting.endswith(("_seconds", "_timeout", "deadline")):
        return f"{value:g} s"
    return f"{value:,}"


def send(port: int, request: LimitRequest) -> str:
    """Send one request and format the response."""
    return post(port, request.content, request.content_type)


def post(port: int, content: bytes | Iterator[bytes], content_type: str = MULTIPART) -> str:
    """Send one body and format the response."""
    url = f"http://127.0.0.1:{port}/predict"
    return formatted_response(
        httpx2.post(url, content=content, headers={"Content-Type": content_type}, timeout=TIMEOUT)
    )


def formatted_response(response: httpx2.Response) -> str:
    """Format the status, and for a problem its type and whether it has a Retry-After."""
    if response.status_code == 200:
        return "200"
    code = response.json()["type"].rpartition("/")[2]
    return f"{response.status_code} `{code}`" + (", Retry-After" if "retry-after" in response.headers else "")


def in_pieces(content: bytes, pause: float) -> Iterator[bytes]:
    """Yield a body in ten pieces, with a pause before each."""
    step = len(content) // 10 + 1
    for start in range(0, len(content), step):
        time.sleep(pause)
        yield content[start : start + step]


def at_once(port: int, number: int) -> str:
    """Send several requests at once and format the responses with their counts."""
    answers: list[str] = []
    threads = [threading.Thread(target=lambda: answers.append(post(port, SENTENCE))) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ", ".join(f"{answers.count(answer)} × {answer}" for answer in sorted(set(answers)))


if __name__ == "__main__":
    main()
