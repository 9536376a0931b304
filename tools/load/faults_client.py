"""Faults of clients: requests that are sent too slowly, and connections that are reset."""

import asyncio
import socket
import struct
import time
from dataclasses import replace
from typing import Final

from tools.load import faults_common, payloads
from tools.load.client import HOST, Response
from tools.load.faults_common import Scale, evaluate
from tools.load.generator import background
from tools.load.report import Result
from tools.load.service import Service

DRIP_SECONDS: Final = 0.35  # between two bytes; no limit is a multiple of it, so that none arrives just as it expires
PATIENCE: Final = 15.0  # seconds past the limit before a case ends unanswered
TOO_SLOW: Final = frozenset({408})
ABORT: Final = struct.pack("ii", 1, 0)  # SO_LINGER: reset instead of an orderly close


async def slow_bodies(service: Service, scale: Scale, limit: float) -> Result:
    """Send a large body byte by byte; `limit` is the service's for the whole body, in seconds."""
    request = payloads.audio(payloads.sound("wav", 20.0))
    return await _slow("slow bodies", service, scale, limit, request.head + request.body[:200], request.body[200:])


async def slow_heads(service: Service, scale: Scale, limit: float) -> Result:
    """Send a head byte by byte: it never becomes a request, and the connection must be closed nevertheless."""
    head = b"POST /predict HTTP/1.1\r\nHost: bench\r\nX-Slow: "
    return await _slow("slow heads", service, scale, limit, head, b"a" * 10_000)


async def _slow(name: str, service: Service, scale: Scale, limit: float, first: bytes, rest: bytes) -> Result:
    before = service.resources()
    async with background(service.port, payloads.valid(), scale.rate) as others:
        await asyncio.sleep(scale.calm)
        victims = await asyncio.gather(*(_drip(service.port, first, rest, limit) for _ in range(scale.clients)))
        took = await faults_common.recovery(service, lambda: _nothing_left(service), scale.recovery)
    result = evaluate(name, victims, others, took, TOO_SLOW)
    longest = max(one.seconds for one in victims)
    await _expect_no_leaks(result, service, before.descriptors, {"longest s": longest})
    result.expect(longest <= limit + PATIENCE, f"a slow client was connected for {longest:.0f} s")
    return result


async def _drip(port: int, first: bytes, rest: bytes, limit: float) -> Response:
    """Send `first`, then `rest` byte by byte until there is a response or the limit is long past."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection(HOST, port)
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
