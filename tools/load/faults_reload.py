"""Repeated reloads of the weights: memory must return to what it was."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tools.load import faults_common, payloads
from tools.load.client import Client, Request
from tools.load.faults_common import Scale, evaluate
from tools.load.generator import background
from tools.load.report import Result
from tools.load.service import MIB, WEIGHTS, Service, monitoring, peak, serving

KEY: Final = "chaos"
RELOADS: Final = 30
GROWTH: Final = 1.1  # memory afterwards, relative to before
WARM_UP: Final = 100  # requests before the first measurement, which fill caches and allocators
RELOAD: Final = Request(
    "reload",
    f"POST /model/reload HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {KEY}\r\nContent-Length: 0\r\n\r\n".encode(),
    b"",
)


@contextmanager
def with_reloads(weights: Path = WEIGHTS, **environment: str) -> Iterator[Service]:
    """Serve with an administrator's key."""
    with serving(weights, temporary=None, EMMR_ADMIN_KEYS=f'["{KEY}"]', **environment) as service:
        yield service


async def repeated(service: Service, scale: Scale, reloads: int = RELOADS) -> Result:
    """Reload the same weights again and again under background traffic."""
    client = Client(service.port, keep=False)
    requests = payloads.valid()
    for number in range(WARM_UP):
        await client.send(requests[number % len(requests)])
    await faults_common.settled(service)
    before = service.resources()
    with monitoring(service, 0.5) as samples:
        async with background(service.port, requests, scale.rate) as others:
            victims = [await client.send(RELOAD) for _ in range(reloads)]
            took = await faults_common.recovery(service, lambda: True, scale.recovery)
            await asyncio.sleep(scale.calm)
    await faults_common.settled(service)
    after = service.resources()
    result = evaluate("repeated reloads", victims, others, took, frozenset({200}))
    result.figures |= {
        "memory before MiB": before.rss / MIB,
        "memory peak MiB": peak(samples),
        "memory after MiB": after.rss / MIB,
        "descriptors left": after.descriptors - before.descriptors,
    }
    result.expect(after.rss <= GROWTH * before.rss, "memory did not return to what it was")
    left = after.descriptors - before.descriptors
    result.expect(left <= faults_common.SPARE_DESCRIPTORS, "descriptors were left open")
    return result
