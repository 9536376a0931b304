"""Faults of clients: requests sent too slowly or in part, upgrades that are not offered, connections that are reset.

Misbehaving clients have another address than the background traffic, which their limits must not affect.
"""

import asyncio
import resource
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from tools.load import faults_common, payloads
from tools.load.client import HOST, Client, Request, Response
from tools.load.faults_common import Scale, evaluate
from tools.load.generator import background
from tools.load.report import Result
from tools.load.service import WEIGHTS, Service, serving

DRIP_SECONDS: Final = 0.35  # between two bytes; no limit is a multiple of it, so that none arrives just as it expires
PATIENCE: Final = 15.0  # seconds past the limit before a case ends unanswered
TOO_SLOW: Final = frozenset({408})
TOO_MANY: Final = frozenset({429})
ATTACKER: Final = "127.0.0.2"
DESCRIPTORS: Final = 1024  # the soft and hard limit of the service that gets half-sent heads
HEADS: Final = 1010  # half-sent heads at this limit
PROBE_SECONDS: Final = 2.0  # for an answer of the health check meanwhile
UPGRADE: Final = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
ABORT: Final = struct.pack("ii", 1, 0)  # SO_LINGER: reset instead of an orderly close


async def slow_bodies(service: Service, scale: Scale, limit: float) -> Result:
    """Send a large body byte by byte from one address; `limit` is the service's for the whole body, in seconds.

    Beyond the limit of bodies from one address the answer is 429, at once.
    """
    request = payloads.audio(payloads.sound("wav", 20.0))
    first, rest = request.head + request.body[:200], request.body[200:]
    return await _slow("slow bodies", service, scale, limit, first, rest, TOO_SLOW | TOO_MANY)


async def slow_heads(service: Service, scale: Scale, limit: float) -> Result:
    """Send a head byte by byte: it never becomes a request, and the connection must be closed nevertheless."""
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
    return await _slow("slow heads", service, scale, limit, head, b"a" * 10_000, TOO_SLOW)


async def _slow(
    name: str, service: Service, scale: Scale, limit: float, first: bytes, rest: bytes, allowed: frozenset[int]
) -> Result:
    before = service.resources()
    async with background(service.port, payloads.valid(), scale.rate) as others:
        await asyncio.sleep(scale.calm)
        victims = await asyncio.gather(*(_drip(service.port, first, rest, limit) for _ in range(scale.clients)))
        took = await faults_common.recovery(service, lambda: _nothing_left(service), scale.recovery)
    result = evaluate(name, victims, others, took, allowed)
    result.expect(any(one.status in TOO_SLOW for one in victims), "no slow client was told that it is")
    longest = max(one.seconds for one in victims)
    await _expect_no_leaks(result, service, before.descriptors, {"longest s": longest})
    result.expect(longest <= limit + PATIENCE, f"a slow client was connected for {longest:.0f} s")
    return result


async def _drip(port: int, first: bytes, rest: bytes, limit: float) -> Response:
    """Send `first`, then `rest` byte by byte until there is a response or the limit is long past."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection(HOST, port, local_addr=(ATTACKER, 0))
    response = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
    try:
        writer.write(first)
        for i in range(len(rest)):
            done, _ = await asyncio.wait((response,), timeout=DRIP_SECONDS)
            if done or time.perf_counter() - began > limit + PATIENCE:
                break
            writer.write(rest[i : i + 1])
        seconds = time.perf_counter() - began
        if not response.done():
            return Response(0, seconds, error="timeout")
        try:
            head = response.result().decode("latin-1").lower()
            lengths = [line.partition(":")[2] for line in head.split("\r\n") if line.startswith("content-length")]
            return Response(int(head.split(" ", 2)[1]), seconds, body=await reader.readexactly(int(lengths[0])))
        except (OSError, EOFError):
            return Response(0, seconds, error="closed")
    finally:
        response.cancel()
        await asyncio.gather(response, return_exceptions=True)
        writer.close()


@contextmanager
def with_few_descriptors(weights: Path = WEIGHTS, **environment: str) -> Iterator[Service]:
    """Serve with `DESCRIPTORS`, which are fewer than `half_sent_heads` would take."""
    limit = f"--nofile={DESCRIPTORS}:{DESCRIPTORS}"
    with serving(weights, prefix=("prlimit", limit, "--"), temporary=None, **environment) as service:
        yield service


async def half_sent_heads(service: Service, scale: Scale, heads: int = HEADS) -> Result:
    """Open connections from one address that send half a head: health checks and other addresses are answered."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    before = service.resources()
    try:
        async with background(service.port, payloads.valid(), scale.rate) as others:
            await asyncio.sleep(scale.calm)
            with _Sockets() as sockets:
                for _ in range(heads):
                    await sockets.open(service.port, b"GET /health/live HTTP/1.1\r\nHost: ")
                probes = [await _probe(service.port) for _ in range(10)]
                held = service.resources().descriptors
                await asyncio.sleep(scale.calm)
            took = await faults_common.recovery(service, lambda: _nothing_left(service), scale.recovery)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    result = evaluate("half-sent heads", probes, others, took, frozenset({200}))
    slowest = max(one.seconds for one in probes)
    refused = service.metric("emmr_rejected_total", "too-many-connections")
    await _expect_no_leaks(result, service, before.descriptors, {"slowest health check s": slowest, "refused": refused})
    result.expect(held < DESCRIPTORS, "the service has no descriptors left")
    result.expect(refused > 0, "no refusal was counted")
    return result


class _Sockets(AbstractContextManager["_Sockets"]):
    """Connections from `ATTACKER`, closed at the end of the block."""

    def __init__(self) -> None:
        self._open: list[socket.socket] = []

    async def open(self, port: int, content: bytes) -> None:
        """Open a connection and send `content`; whether the service keeps it is its own affair."""
        connection = socket.socket()
        self._open.append(connection)
        connection.setblocking(False)
        connection.bind((ATTACKER, 0))
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_connect(connection, (HOST, port))
            await loop.sock_sendall(connection, content)
        except ConnectionError:
            return

    def __exit__(self, *_: object) -> None:
        for connection in self._open:
            connection.close()


async def _probe(port: int) -> Response:
    request = Request("health", b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n", b"")
    return await Client(port, keep=False, timeout=PROBE_SECONDS).send(request)


async def upgrades(service: Service, scale: Scale) -> Result:
    """Send forms that ask for HTTP/2: they are answered as HTTP/1.1 (RFC 9110, section 7.8)."""
    client = Client(service.port, keep=False)
    async with background(service.port, payloads.valid(), scale.rate) as others:
        await asyncio.sleep(scale.calm)
        sent = [
            replace(one, head=one.head.replace(b"\r\n\r\n", b"\r\n" + UPGRADE + b"\r\n")) for one in payloads.valid()
        ]
        victims = [await client.send(one) for one in sent]
        took = await faults_common.recovery(service, lambda: _nothing_left(service), scale.recovery)
    return evaluate("upgrades to HTTP/2", victims, others, took, frozenset({200}))


async def resets(service: Service, scale: Scale) -> Result:
    """Reset connections in the middle of an upload, or after it and before the response."""
    before = service.resources()
    upload = payloads.audio(payloads.sound("wav", 50.0))  # 1.5 MiB: more than is kept in memory
    partial = replace(upload, body=upload.body[: len(upload.body) * 3 // 4])
    async with background(service.port, payloads.valid(), scale.rate) as others:
        await asyncio.sleep(scale.calm)
        for number in range(scale.clients):
            await _send_and_reset(service.port, (upload if number % 4 == 0 else partial).wire)
        took = await faults_common.recovery(service, lambda: _nothing_left(service), scale.recovery)
        await asyncio.sleep(scale.calm)
    victims = [Response(0, 0.0, error="hung up")] * scale.clients
    result = evaluate("connections reset", victims, others, took, frozenset({0}))
    await _expect_no_leaks(result, service, before.descriptors)
    temporary = service.resources().temporary
    result.expect(temporary == 0, f"{temporary} temporary files were left")
    return result


async def _send_and_reset(port: int, content: bytes) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as connection:
        connection.setblocking(False)
        await loop.sock_connect(connection, (HOST, port))
        await loop.sock_sendall(connection, content)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)


async def _expect_no_leaks(
    result: Result, service: Service, before: int, figures: dict[str, float] | None = None
) -> None:
    await faults_common.settled(service)
    left = service.resources().descriptors - before
    result.figures |= {**(figures or {}), "descriptors left": left}
    result.expect(left <= faults_common.SPARE_DESCRIPTORS, "descriptors were left open")


def _nothing_left(service: Service) -> bool:
    depth = service.health()[1]["components"]["queue"]["detail"]["depth"]
    return service.resources().temporary == 0 and depth == 0
