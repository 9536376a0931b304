"""Clients that send too slowly, or hang up in the middle.

For: showing that many of them cost nobody else anything, and that nothing of theirs stays behind.
"""

import asyncio
import socket
import struct
import time
from typing import Final

from tools.load import bodies, scene
from tools.load.bodies import Sent
from tools.load.client import HOST, Answer
from tools.load.findings import Finding
from tools.load.scene import Scale
from tools.load.service import Service
from tools.load.traffic import bystanders

DRIP_SECONDS: Final = 0.35  # between two bytes; no limit is a multiple of it, so none arrives just as it passes
PATIENCE: Final = 15.0  # seconds past the limit; it would go on for an hour
TOO_SLOW: Final = frozenset({408})
ABORT: Final = struct.pack("ii", 1, 0)  # SO_LINGER: reset instead of an orderly end


async def slow_bodies(service: Service, scale: Scale, limit: float) -> Finding:
    """A byte of a large body now and then; `limit` is the service's for the whole body."""
    request = bodies.audio(bodies.sound("wav", 20.0))
    return await _slowly("slow bodies", service, scale, limit, request.head + request.body[:200], request.body[200:])


async def slow_heads(service: Service, scale: Scale, limit: float) -> Finding:
    """A byte of the head now and then: it never becomes a request, and the connection must end all the same."""
    head = b"POST /predict HTTP/1.1\r\nHost: bench\r\nX-Slow: "
    return await _slowly("slow heads", service, scale, limit, head, b"a" * 10_000)


async def _slowly(name: str, service: Service, scale: Scale, limit: float, first: bytes, rest: bytes) -> Finding:
    before = service.resources()
    async with bystanders(service.port, scene.bystanders(), scale.rate) as others:
        await asyncio.sleep(scale.calm)
        victims = await asyncio.gather(*(_drip(service.port, first, rest, limit) for _ in range(scale.clients)))
        took = await scene.recovery(service, lambda: _nothing_left(service), scale.recovery)
    finding = scene.report(name, victims, others, took, TOO_SLOW)
    longest = max(one.seconds for one in victims)
    await scene.settled(service)
    left = service.resources().descriptors - before.descriptors
    finding.figures |= {"longest s": longest, "descriptors left": left}
    finding.expect(left <= scene.SPARE_DESCRIPTORS, "descriptors were left open")
    finding.expect(longest <= limit + PATIENCE, f"a slow client was borne for {longest:.0f} s")
    return finding


async def _drip(port: int, first: bytes, rest: bytes, limit: float) -> Answer:
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection(HOST, port)
    answering = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
    try:
        writer.write(first)
        for place in range(len(rest)):
            done, _ = await asyncio.wait((answering,), timeout=DRIP_SECONDS)
            if done or time.perf_counter() - began > limit + PATIENCE:
                break
            writer.write(rest[place : place + 1])
        seconds = time.perf_counter() - began
        if not answering.done():
            return Answer(0, seconds, lost="timeout")
        try:
            head = answering.result().decode("latin-1")
            length = next(
                int(h.partition(":")[2]) for h in head.lower().split("\r\n") if h.startswith("content-length")
            )
            body = (await reader.readexactly(length)).decode()
        except (OSError, EOFError):
            return Answer(0, seconds, lost="closed")
        return Answer(int(head.split(" ", 2)[1]), seconds, problem=body)
    finally:
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)
        writer.close()


async def resets(service: Service, scale: Scale) -> Finding:
    """The connection reset in the middle of an upload, or after it and before the answer."""
    before = service.resources()
    upload = bodies.audio(bodies.sound("wav", 50.0))  # 1.5 MiB: on disk by then
    halfway = Sent(upload.name, upload.head, upload.body[: len(upload.body) * 3 // 4])
    async with bystanders(service.port, scene.bystanders(), scale.rate) as others:
        await asyncio.sleep(scale.calm)
        for number in range(scale.clients):
            await _send_and_reset(service.port, (upload if number % 4 == 0 else halfway).wire)
        took = await scene.recovery(service, lambda: _nothing_left(service), scale.recovery)
        await asyncio.sleep(scale.calm)
    hung_up = [Answer(0, 0.0, lost="hung up")] * scale.clients
    finding = scene.report("connections reset", hung_up, others, took, frozenset({0}))
    await scene.settled(service)
    after = service.resources()
    finding.figures["descriptors left"] = after.descriptors - before.descriptors
    finding.expect(after.descriptors - before.descriptors <= scene.SPARE_DESCRIPTORS, "descriptors were left open")
    finding.expect(after.temporary == 0, f"{after.temporary} temporary files were left")
    return finding


async def _send_and_reset(port: int, content: bytes) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as connection:
        connection.setblocking(False)
        await loop.sock_connect(connection, (HOST, port))
        await loop.sock_sendall(connection, content)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)


def _nothing_left(service: Service) -> bool:
    waiting = service.health()[1]["components"]["queue"]["detail"]["depth"]
    return service.resources().temporary == 0 and waiting == 0
