"""Faults of the forward pass: it raises, runs out of memory, or the device is lost.

Only the request with the fault may fail. The service runs with the faults of `tests.support.faulty`.
"""

import asyncio
import subprocess
from typing import Final

from tests.support import faulty
from tools.load import faults_common, payloads
from tools.load.client import Client, Response
from tools.load.faults_common import Scale, evaluate
from tools.load.generator import Exchange
from tools.load.report import Result
from tools.load.service import Service

CONCURRENT: Final = 24  # requests sent together with the victim, so that they share its batch
REJECTED: Final = frozenset({413, 422, 503})
EXIT_SECONDS: Final = 30.0


async def raising(service: Service, scale: Scale) -> Result:
    """Raise an exception in the forward pass."""
    return await _inject("forward pass raises", faulty.FAILS, REJECTED, service, scale)


async def out_of_memory(service: Service, scale: Scale) -> Result:
    """Raise `torch.OutOfMemoryError` in the forward pass."""
    return await _inject("forward pass out of memory", faulty.NO_ROOM, REJECTED, service, scale)


async def out_of_memory_in_batch(service: Service, scale: Scale) -> Result:
    """Raise `torch.OutOfMemoryError` in any batch with other requests: alone it succeeds, so no request fails."""
    name = "forward pass out of memory in a batch"
    return await _inject(name, faulty.NO_ROOM_FOR_TWO, frozenset({200}), service, scale)


async def device_lost(service: Service, scale: Scale) -> Result:
    """Fail every pass from now on: the service responds with 503, not 500, and ends with a failure status."""
    others, victim = await _send_together(service, faulty.BREAKS)
    responses = [victim, *(one.response for one in others)]
    try:
        status = await asyncio.to_thread(service.exit_status, EXIT_SECONDS)
    except subprocess.TimeoutExpired:
        status = 0
    result = evaluate("device lost", responses, [], 0.0, frozenset({200, 503}))  # 200: decided before the fault
    result.figures["recovered after s"] = f"ends with status {status}"
    result.expect(status > 0, "the process did not end with a failure status")
    result.expect(victim.status == 503, f"the victim got {victim}")
    return result


async def _inject(name: str, sentence: str, allowed: frozenset[int], service: Service, scale: Scale) -> Result:
    others, victim = await _send_together(service, sentence)
    took = await faults_common.recovery(service, lambda: True, scale.recovery)
    return evaluate(name, [victim], others, took, allowed)


async def _send_together(service: Service, sentence: str) -> tuple[list[Exchange], Response]:
    """Send the sentence in the middle of others; returns their exchanges and its response."""
    client = Client(service.port, keep=False)
    sent = [payloads.text(payloads.SENTENCES[number % len(payloads.SENTENCES)]) for number in range(CONCURRENT)]
    half = CONCURRENT // 2
    sent.insert(half, payloads.text(sentence, "victim"))
    exchanges = list(map(Exchange.of, sent, await asyncio.gather(*map(client.send, sent))))
    victim = exchanges.pop(half)
    return exchanges, victim.response
