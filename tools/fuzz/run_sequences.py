"""Random sequences of uploads, cancellations, reloads, health checks and drains (part of `make fuzz`).

After each sequence nothing may be left: no upload's file, slot, connection or decoder; answers never change.
"""

import argparse
import json
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

from tools.fuzz.run_http import Answer, errors_logged, is_same, read_answers
from tools.load import payloads
from tools.load.client import HOST, Client, Request
from tools.load.faults_common import SPARE_DESCRIPTORS, settled
from tools.load.generator import run
from tools.load.report import Result, add_options, report
from tools.load.service import MIB, WEIGHTS, Service, serving

KEY: Final = "sequences"
MAX_STEPS: Final = 12
MAX_HELD: Final = 4  # uploads that are under way at the same time
ANSWER_SECONDS: Final = 60.0
EXIT_SECONDS: Final = 60.0
IDLE_SECONDS: Final = 20.0  # for what was abandoned to be dropped
LARGE_SECONDS: Final = 50.0  # of sound: 1.5 MiB, more than is kept in memory
ABORT: Final = struct.pack("ii", 1, 0)  # SO_LINGER: reset instead of an orderly close
MAX_FINDINGS: Final = 10


class Violation(AssertionError):
    """The service did something that it must not do."""


@dataclass(slots=True)
class Held:
    """An upload of which a part has been sent."""

    request: Request
    connection: socket.socket
    rest: bytes


@dataclass(frozen=True, slots=True)
class Idle:
    """What a service without requests holds."""

    descriptors: int
    temporary: int
    decoders: int
    depth: float
    in_flight: float
    spooled: float


class Sequence:
    """One sequence of steps on a service; each step is a method that `STEPS` names.

    Args:
        service: that is used.
        rng: that chooses the steps.
        expected: name of a request → its answer, without what differs from request to request.
    """

    def __init__(self, service: Service, rng: random.Random, expected: Mapping[str, Any]) -> None:
        self.service, self.rng, self.expected = service, rng, expected
        self.held: list[Held] = []
        self.taken: list[str] = []
        self.drained = False

    def run(self) -> None:
        """Take up to `MAX_STEPS` steps.

        Raises:
            Violation: with what is wrong; `taken` has the steps.
        """
        try:
            for _ in range(self.rng.randint(1, MAX_STEPS)):
                name = self.rng.choices(list(STEPS), [weight for weight, _ in STEPS.values()])[0]
                self.taken.append(name)
                STEPS[name][1](self)
                if self.drained:
                    return
                self._check_health()
        finally:
            for held in self.held:
                held.connection.close()

    # ---- steps

    def upload(self) -> None:
        """Send a valid request."""
        request = self.rng.choice(_valid())
        self._check_answer(request, self.ask(request))

    def upload_invalid(self) -> None:
        """Send a request that must be rejected."""
        request = self.rng.choice(payloads.invalid())
        answer = self.ask(request)
        if answer.status not in request.expected:
            raise Violation(f"{request.name} got {answer.status}")

    def begin(self) -> None:
        """Send a part of a valid request."""
        if len(self.held) == MAX_HELD:
            return
        request = self.rng.choice(_valid())
        sent = len(request.head) + self.rng.randrange(len(request.body))
        self.held.append(Held(request, self._connect(), request.wire[sent:]))
        self.held[-1].connection.sendall(request.wire[:sent])

    def finish(self) -> None:
        """Send the rest of a request."""
        if self.held:
            held = self._drop()
            with held.connection as connection:
                connection.sendall(held.rest)
                self._check_answer(held.request, _receive(connection))

    def abandon(self) -> None:
        """Close, reset or half-close a connection in the middle of a request."""
        if self.held:
            self._leave(self._drop().connection)

    def cancel(self) -> None:
        """Send whole requests, and close, reset or half-close their connection before the answers."""
        connection = self._connect()
        with suppress(ConnectionError):  # an invalid request closes the connection
            for _ in range(self.rng.choice((1, 1, 2, 3))):  # pipelined where there are several
                connection.sendall(self.rng.choice([*_valid(), *payloads.invalid()]).wire)
        self._leave(connection)

    def reload(self) -> None:
        """Reload the weights, or try to load some that do not exist."""
        missing = self.rng.random() < 0.5
        target = "/model/reload" + ("?weights=absent" if missing else "")
        head = f"POST {target} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {KEY}\r\nContent-Length: 0\r\n\r\n"
        answer = self.ask(Request("reload", head.encode(), b""))
        if answer.status != (409 if missing else 200):
            raise Violation(f"reload got {answer.status}: {answer.body[:200]!r}")

    def health(self) -> None:
        """Read a route that tells about the service."""
        path = self.rng.choice(("/health", "/health/live", "/health/ready", "/metrics", "/model", "/"))
        answer = self.ask(Request(path, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), b""))
        if answer.status != 200:
            raise Violation(f"{path} got {answer.status}")

    def drain(self) -> None:
        """Send SIGTERM, go on with the uploads that are under way, and wait for the end of the process."""
        self.drained = True
        self.service.signal(signal.SIGTERM)
        end = time.monotonic() + EXIT_SECONDS
        while self.service.health()[0] == 200 and time.monotonic() < end:  # or two signals could count as one
            time.sleep(0.01)
        if self.rng.random() < 0.5:  # the grace period goes on: requests are served
            self.upload()
        while self.held and self.rng.random() < 0.7:
            self.finish()
        while self.held:
            self.abandon()
        self.service.signal(signal.SIGTERM)
        try:
            status = self.service.exit_status(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            raise Violation(f"still running {EXIT_SECONDS:g} s after SIGTERM") from None
        if status:
            raise Violation(f"the process ended with status {status}")

    # ---- their parts

    def _connect(self) -> socket.socket:
        return socket.create_connection((HOST, self.service.port), timeout=ANSWER_SECONDS)

    def ask(self, request: Request) -> Answer:
        """Send a request on a connection of its own."""
        with self._connect() as connection:
            connection.sendall(request.wire)
            return _receive(connection)

    def _drop(self) -> Held:
        return self.held.pop(self.rng.randrange(len(self.held)))

    def _leave(self, connection: socket.socket) -> None:
        with connection:
            match self.rng.randrange(3):
                case 0:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
                case 1:
                    with suppress(OSError):  # answered and closed before that
                        connection.shutdown(socket.SHUT_WR)
                    try:
                        received = b"".join(iter(lambda: connection.recv(65_536), b""))
                        answers = read_answers(received)
                    except (OSError, ValueError) as error:
                        raise Violation(f"half-closed: {error}") from None
                    if any(answer.status >= 500 for answer in answers):
                        raise Violation(f"half-closed: {[answer.status for answer in answers]}")

    def _check_answer(self, request: Request, answer: Answer) -> None:
        if answer.status != 200:
            raise Violation(f"{request.name} got {answer.status}: {answer.body[:200]!r}")
        if not is_same(comparable(json.loads(answer.body)), self.expected[request.name]):
            raise Violation(f"{request.name} got another answer than at first")

    def _check_health(self) -> None:
        status, body = self.service.health()
        if status != 200:
            raise Violation(f"health is {status}: {body}")


STEPS: Final[dict[str, tuple[float, Callable[[Sequence], None]]]] = {
    "upload": (4, Sequence.upload),
    "upload_invalid": (2, Sequence.upload_invalid),
    "begin": (5, Sequence.begin),
    "finish": (3, Sequence.finish),
    "abandon": (3, Sequence.abandon),
    "cancel": (3, Sequence.cancel),
    "reload": (0.3, Sequence.reload),
    "health": (1, Sequence.health),
    "drain": (0.3, Sequence.drain),
}
"""Name → weight and step."""


def _valid() -> list[Request]:
    large = payloads.audio(payloads.sound("wav", LARGE_SECONDS), "large")
    return [*payloads.valid()[:7], large]


def comparable(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer without what differs from request to request."""
    return {name: value for name, value in answer.items() if name not in {"request_id", "timings_ms"}}


def _receive(connection: socket.socket) -> Answer:
    """Read one response.

    Raises:
        Violation: the connection is closed or reset before its end, or there is none in time.
    """
    received = b""
    while True:
        with suppress(ValueError):
            if answers := read_answers(received):
                return answers[0]
        try:
            data = connection.recv(65_536)
        except OSError as error:
            raise Violation(f"no answer: {type(error).__name__}") from None
        if not data:
            raise Violation(f"closed after {received[:200]!r}")
        received += data


def first_answers(service: Service) -> dict[str, Any]:
    """Return name of a valid request → its answer, as `comparable` returns it."""

    async def ask() -> dict[str, Any]:
        client = Client(service.port, keep=False)
        return {one.name: comparable((await client.send(one)).json()) for one in _valid()}

    return run(ask())


def idle(service: Service) -> Idle:
    """Return what the service holds without requests, once it holds no more of earlier ones."""
    run(settled(service))
    resources = service.resources()
    return Idle(
        descriptors=resources.descriptors,
        temporary=resources.temporary,
        decoders=len(service.decoders()),
        depth=service.metric("emmr_queue_depth"),
        in_flight=service.metric("emmr_in_flight"),
        spooled=service.metric("emmr_spooled_bytes"),
    )


def left_over(service: Service, before: Idle, seconds: float = IDLE_SECONDS) -> str:
    """Return what is left of a sequence after up to `seconds`; empty if nothing is."""
    end = time.monotonic() + seconds
    while True:
        now = idle(service)
        descriptors = now.descriptors - before.descriptors
        same = (now.temporary, now.decoders, now.depth, now.in_flight, now.spooled) == (
            before.temporary, before.decoders, before.depth, before.in_flight, before.spooled,
        )  # fmt: skip
        if same and descriptors <= SPARE_DESCRIPTORS:
            return ""
        if time.monotonic() > end:
            return f"left over: {now}, at first {before}"


@dataclass(slots=True)
class Tally:
    """Counts over the sequences."""

    sequences: int = 0
    restarts: int = 0
    steps: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)


def started(weights: Path) -> AbstractContextManager[Service]:
    """Serve with limits that a slot or a byte that is not given back reaches within a few sequences."""
    return serving(
        weights,
        EMMR_ADMIN_KEYS=json.dumps([KEY]),
        EMMR_MAX_UPLOADS=str(MAX_HELD + 2),
        EMMR_MAX_UPLOADS_PER_ADDRESS=str(MAX_HELD + 2),
        EMMR_MAX_SPOOLED_BYTES=str(16 * MIB),
        EMMR_MIN_BODY_RATE="0",
        EMMR_BODY_TIMEOUT="600",
        EMMR_MAX_WAIT="0",
        EMMR_GRACE_PERIOD="60",  # a second signal ends it
    )


def fuzz(weights: Path, numbers: Iterator[int], seconds: float, seed: int) -> Result:
    """Run the sequences of these numbers for `seconds`, on a new service after each drain and each finding."""
    tally, began = Tally(), time.monotonic()

    def time_is_left() -> bool:
        return time.monotonic() - began < seconds and len(tally.findings) < MAX_FINDINGS

    number = next(numbers, None)
    while number is not None and time_is_left():
        with started(weights) as service:
            tally.restarts += 1
            expected = first_answers(service)
            before = idle(service)
            while number is not None and time_is_left():
                events = len(service.events)
                sequence = Sequence(service, random.Random(f"{seed}:{number}"), expected)
                wrong = ""
                try:
                    sequence.run()
                    if not sequence.drained:
                        wrong = left_over(service, before)
                except (Violation, OSError) as error:
                    wrong = str(error)
                wrong = wrong or errors_logged(service, events)
                tally.sequences += 1
                tally.steps.update(sequence.taken)
                if wrong:
                    tally.findings.append(f"sequence {number}: {', '.join(sequence.taken)}: {wrong}")
                number = next(numbers, None)
                if wrong or sequence.drained:
                    break
    result = Result(
        "sequences",
        {
            "seconds": round(time.monotonic() - began),
            "sequences": tally.sequences,
            "steps": dict(sorted(tally.steps.items())),
            "services started": tally.restarts,
            "seed": seed,
            "findings": len(tally.findings),
        },
        tally.findings,
    )
    result.expect(tally.sequences > 0, "there was no time for a sequence")
    return result


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Run random sequences of requests, reloads and drains.")
    parser.add_argument("sequences", nargs="*", type=int, metavar="sequence", help="numbers of sequences to repeat")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    add_options(parser)
    options = parser.parse_args()
    numbers = iter(options.sequences) if options.sequences else count()
    return report("sequences", [fuzz(options.weights, numbers, 60 * options.minutes, options.seed)], options)


if __name__ == "__main__":
    sys.exit(main())
