"""Write `docs/limits.md`: what a running service answers just below, at and just above each of its limits.

For: `make limits`. Every status in the tables is one that a service with the shipped weights has given.
Does not know: any limit or status; the requests are those of `tests.support.limit_rows`, which the tests send too.
"""

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
from tests.support.limit_rows import NOT_COUNTED, Asked, rows
from tests.support.sound import encode, voice_like
from tools.load.service import WEIGHTS, serving

PAGE: Final = Path(__file__).with_name("limits.md")
TIMEOUT: Final = 60.0  # seconds for one answer
SENTENCE: Final = body(part("text", b"It was good."))
# Elements of two bytes each, which a decoder walks through one by one: seconds of work in a file of 20 MiB.
LONG_WALK: Final = body(
    part("audio", encode(voice_like(0.1, 48_000), "webm", 48_000) + b"\xec\x80" * 10 * MIB, filename="a")
)
WAIT: Final[float] = Settings.model_fields["max_wait"].default
HEAD: Final = """# Limits

What a service with the shipped weights answers; written by `make limits`, which asks it. Each setting is an environment
variable: `max_body_bytes` is `EMMR_MAX_BODY_BYTES`. A status other than 200 comes with the last part of the problem's
`type` (`GET /problems` explains each).

## Counted

Counted while the body streams in and while it is decoded, never taken from a header. Tried at the defaults.

| Limit | Setting | Default | One below | At | One above |
| --- | --- | --- | --- | --- | --- |
"""
TIMED: Final = """
## Time and room

Tried with the settings named, so that no answer takes half a minute.

| Limit | Setting | Default | Tried with | Within | Past it |
| --- | --- | --- | --- | --- | --- |
"""
OTHERS: Final = """
## Neither counted nor timed

| What | Given | Answer |
| --- | --- | --- |
"""
TAIL: Final = f"""
The queue is bounded in time as well as in number: once those who wait will take longer than `max_wait`
({WAIT:g} s; 0 for no such bound) by how fast others were answered, one more gets the same 429. How soon that is
depends on the machine, so it is not in the table.

Before any of these, a request's line and headers together may hold {HEAD_BYTES // KIB} KiB (431; not a setting), and
must arrive within as long as a body may take, `body_timeout` (408). Whoever is refused while still sending is heard
out for up to {LINGER_SECONDS:g} s and {LINGER_BYTES // MIB} MiB, so that the answer is not lost, and then cut off.
"""


def main() -> None:
    """Ask, and write the page."""
    lines = [HEAD]
    with serving() as service:
        lines += [line + "\n" for line in counted(Settings(), service.port)]
        others = [line + "\n" for line in not_counted(service.port)]
    lines += [TIMED, *(line + "\n" for line in timed(WEIGHTS)), OTHERS, *others, TAIL]
    PAGE.write_text("".join(lines), encoding="utf-8")


def counted(settings: Settings, port: int) -> Iterator[str]:
    """A table row for each limit that is counted, asked of a service with these settings."""
    for row in rows(settings):
        answers = (f"{asked.value} → {ask(port, asked)}" for asked in row.asked)
        default = written(row.setting, getattr(settings, row.setting))
        yield f"| {row.what} | `{row.setting}` | {default} | {' | '.join(answers)} |"


def not_counted(port: int) -> Iterator[str]:
    """A table row for each thing that is accepted or not."""
    for what, given, asked in NOT_COUNTED:
        yield f"| {what} | {given} | {ask(port, asked)} |"


def timed(weights: Path) -> Iterator[str]:
    """A table row for each limit of time or room; starts services of its own, whose limits are quicker to reach."""
    files = ("a sentence", "a sound that takes seconds to decode")
    with serving(
        weights, EMMR_BODY_TIMEOUT="1", EMMR_DECODE_TIMEOUT="1", EMMR_QUEUE_SIZE="2", EMMR_BATCH_DELAY_MS="500"
    ) as service:
        slow = [post(service.port, in_pieces(SENTENCE, pause)) for pause in (0.05, 0.2)]
        yield timed_row("Body, time", "body_timeout", 1.0, ("0.5 s", "2 s"), slow)
        walked = [post(service.port, sent) for sent in (SENTENCE, LONG_WALK)]
        yield timed_row("Decoding, time", "decode_timeout", 1.0, files, walked)
        crowds = [at_once(service.port, number) for number in (2, 3)]
        yield timed_row("Queue", "queue_size", 2, ("2 at once", "3 at once"), crowds)
    with serving(weights, EMMR_DEADLINE="1") as service:
        walked = [post(service.port, sent) for sent in (SENTENCE, LONG_WALK)]
        yield timed_row("Deadline", "deadline", 1.0, files, walked)
        ready = post(service.port, SENTENCE)
    starting = TestClient(
        create_app(Settings(weights=weights, log_level="warning"))
    )  # and never further: its life has not begun
    unready = said(starting.post("/predict", content=SENTENCE, headers={"Content-Type": MULTIPART}))
    yield f"| Readiness | – | – | – | once ready → {ready} | before → {unready} |"


def timed_row(what: str, setting: str, tried: float, given: Sequence[str], answers: Sequence[str]) -> str:
    """One row of the table of time and room."""
    default, used = (written(setting, value) for value in (getattr(Settings(), setting), tried))
    cells = (f"{what} → {answer}" for what, answer in zip(given, answers, strict=True))
    return f"| {what} | `{setting}` | {default} | {used} | {' | '.join(cells)} |"


def written(setting: str, value: float) -> str:
    """A setting's value with its unit."""
    if setting.endswith("_bytes"):
        return f"{value // MIB} MiB" if value % MIB == 0 else f"{value // KIB} KiB"
    if setting.endswith("_rate"):
        return f"{value:,} Hz"
    if setting.endswith(("_seconds", "_timeout", "deadline")):
        return f"{value:g} s"
    return f"{value:,}"


def ask(port: int, asked: Asked) -> str:
    """Send one request; what came back."""
    return post(port, asked.content, asked.content_type)


def post(port: int, content: bytes | Iterator[bytes], content_type: str = MULTIPART) -> str:
    """Send one body; what came back."""
    url = f"http://127.0.0.1:{port}/predict"
    return said(httpx2.post(url, content=content, headers={"Content-Type": content_type}, timeout=TIMEOUT))


def said(answer: httpx2.Response) -> str:
    """The status, and for a problem its type and whether it says when to come back."""
    if answer.status_code == 200:
        return "200"
    code = answer.json()["type"].rpartition("/")[2]
    return f"{answer.status_code} `{code}`" + (", Retry-After" if "retry-after" in answer.headers else "")


def in_pieces(content: bytes, pause: float) -> Iterator[bytes]:
    """A body in ten pieces with a pause before each."""
    step = len(content) // 10 + 1
    for start in range(0, len(content), step):
        time.sleep(pause)
        yield content[start : start + step]


def at_once(port: int, number: int) -> str:
    """Send several requests at the same time; what came back, each answer once."""
    answers: list[str] = []
    threads = [threading.Thread(target=lambda: answers.append(post(port, SENTENCE))) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ", ".join(f"{answers.count(answer)} × {answer}" for answer in sorted(set(answers)))


if __name__ == "__main__":
    main()
