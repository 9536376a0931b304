"""Load on an HTTP service from outside: requests at a constant rate, whatever becomes of those before.

For: latency and goodput against offered rate. A request's time counts from when it was due, so that a service which
falls behind cannot slow its own measurement down (coordinated omission).
Does not know: what is asked. One thread, raw protocols, connections kept alive: it shares the machine with the service,
and has to leave it most of that.
"""

import asyncio
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

Answer = tuple[int, bytes]
"""Status and body."""

PATIENCE: Final = 5.0  # seconds to wait, after the last request was due, for those still under way
LIMIT_MS: Final = 500.0  # of the 99th percentile, for a rate to count as sustained


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of one rate.

    Args:
        rate: offered, requests a second.
        answered: 200s a second.
        p50, p95, p99: milliseconds from when a request was due to its answer's last byte; infinite where it failed.
        failed: requests without a 200.
    """

    rate: float
    answered: float
    p50: float
    p95: float
    p99: float
    failed: int

    @property
    def sustained(self) -> bool:
        """Whether the service keeps up with this rate."""
        return not self.failed and self.p99 <= LIMIT_MS


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._received = bytearray()
        self._size: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's declares no such base

    def send(self, request: bytes) -> "asyncio.Future[Answer]":
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._received.clear()
        self._size = None
        self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._size is None:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            lines = bytes(self._received[:end]).lower().split(b"\r\n")
            lengths = [line for line in lines if line.startswith(b"content-length:")]
            self._size = end + 4 + int(lengths[0].split(b":")[1])
        if len(self._received) >= self._size and self._answer is not None and not self._answer.done():
            head, _, body = bytes(self._received).partition(b"\r\n\r\n")
            self._answer.set_result((int(head.split(b" ", 2)[1]), body))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("closed before the answer"))

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class Client:
    """Connections to one service, as many as there are requests under way."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._host, self._port = host, port
        self._idle: list[_Connection] = []

    async def ask(self, request: bytes) -> Answer:
        """Send a whole request and wait for the answer.

        Raises:
            OSError: the connection cannot be made or breaks off.
        """
        connection = await self._connect()
        try:
            answer = await connection.send(request)
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return answer

    async def _connect(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(_Connection, self._host, self._port)
        return made

    def close(self) -> None:
        """Close what is idle."""
        for connection in self._idle:
            connection.close()


async def offer(client: Client, rate: float, seconds: float, make: Callable[[], bytes]) -> Trial:
    """Send requests at a constant rate.

    Args:
        client: of the service.
        rate: a second.
        seconds: for which to send.
        make: gives a whole request; called before the clock runs, as far as memory reasonably goes.
    """
    amount = max(1, round(rate * seconds))
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    began = loop.time() + 0.05

    async def one(request: bytes, due: float) -> None:
        try:
            status, _ = await client.ask(request)
        except OSError:
            status = 0
        latencies.append(loop.time() - due if status == 200 else math.inf)

    tasks = []
    for number in range(amount):
        request, due = make(), began + number / rate
        await asyncio.sleep(max(0.0, due - loop.time()))
        tasks.append(asyncio.create_task(one(request, due)))
    _, late = await asyncio.wait(tasks, timeout=PATIENCE)
    for task in late:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    whole = max(seconds, loop.time() - began)
    latencies += [math.inf] * (amount - len(latencies))
    good = sum(map(math.isfinite, latencies))
    p50, p95, p99 = (1e3 * percentile(latencies, p) for p in (50, 95, 99))
    return Trial(rate, good / whole, p50, p95, p99, amount - good)


async def saturate(client: Client, seconds: float, concurrency: int, make: Callable[[], bytes]) -> float:
    """Answers a second when so many clients each ask again as soon as they have their answer.

    Raises:
        RuntimeError: an answer is not a 200.
    """
    end = time.perf_counter() + seconds
    answered = 0

    async def ask_on() -> None:
        nonlocal answered
        while time.perf_counter() < end:
            status, body = await client.ask(make())
            if status != 200:
                raise RuntimeError(f"{status}: {body[:300]!r}")
            answered += 1

    began = time.perf_counter()
    # All of them end before anything is raised: none keeps a connection, or the service, busy behind the caller's back.
    for outcome in await asyncio.gather(*(ask_on() for _ in range(concurrency)), return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
    return answered / (time.perf_counter() - began)


def percentile(values: list[float], percent: float) -> float:
    """The smallest value that at least `percent` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def parsed(answer: Answer) -> Any:
    """The JSON of a 200.

    Raises:
        RuntimeError: it is not one.
    """
    if answer[0] != 200:
        raise RuntimeError(f"{answer[0]}: {answer[1][:300]!r}")
    return json.loads(answer[1])
