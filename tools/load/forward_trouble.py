"""A forward pass that raises, runs out of memory, or never works again.

For: showing that only the request that does it fails, and that a device that is lost ends the process. The service must
have been started with the faults of `tests.support.faulty`.
"""

import asyncio
import subprocess
from typing import Final

from tests.support import faulty
from tools.load import bodies, scene
from tools.load.client import Answer, Client
from tools.load.findings import Finding
from tools.load.scene import Scale
from tools.load.service import Service
from tools.load.traffic import Exchange

COMPANY: Final = 24  # requests sent together with the victim, so that they share its batch
REFUSED: Final = frozenset({413, 422, 503})
EXIT_SECONDS: Final = 30.0


async def raising(service: Service, scale: Scale) -> Finding:
    """An exception."""
    return await _among_company("forward pass raises", faulty.FAILS, service, scale)


async def out_of_memory(service: Service, scale: Scale) -> Finding:
    """`torch.OutOfMemoryError`."""
    return await _among_company("forward pass out of memory", faulty.NO_ROOM, service, scale)


async def out_of_memory_together(service: Service, scale: Scale) -> Finding:
    """`torch.OutOfMemoryError` in any batch of more than that one: alone there is room for it, so nobody fails."""
    others, victim = await _together(service, faulty.NO_ROOM_FOR_TWO)
    took = await scene.recovery(service, lambda: True, scale.recovery)
    return scene.report("forward pass out of memory in company", [victim], others, took, frozenset({200}))


async def device_lost(service: Service, scale: Scale) -> Finding:
    """Every pass fails from here on: nobody is told 500, health says so, and the process ends with a status for it."""
    others, victim = await _together(service, faulty.BREAKS)
    answers = [victim, *(one.answer for one in others)]
    try:
        status = await asyncio.to_thread(service.exit_status, EXIT_SECONDS)
    except subprocess.TimeoutExpired:
        status = 0
    # Whoever was answered before the fault has their answer; everybody is affected otherwise, and may ask elsewhere.
    finding = scene.report("device lost", answers, [], 0.0, frozenset({200, 503}))
    finding.figures["recovered after s"] = f"ends with status {status}"
    finding.expect(status > 0, "the process did not end with a failure's status")
    finding.expect(victim.status == 503, f"who asked was answered {victim}")
    return finding


async def _among_company(name: str, sentence: str, service: Service, scale: Scale) -> Finding:
    others, victim = await _together(service, sentence)
    took = await scene.recovery(service, lambda: True, scale.recovery)
    return scene.report(name, [victim], others, took, REFUSED)


async def _together(service: Service, sentence: str) -> tuple[list[Exchange], Answer]:
    client = Client(service.port, keep=False)
    company = [bodies.text(bodies.SENTENCES[number % len(bodies.SENTENCES)]) for number in range(COMPANY)]
    half = COMPANY // 2
    async with asyncio.TaskGroup() as group:
        asked = [
            group.create_task(client.ask(one))
            for one in (*company[:half], bodies.text(sentence, "victim"), *company[half:])
        ]
    answers = [task.result() for task in asked]
    victim = answers.pop(half)
    return [Exchange(0.0, one.name, one.expected, a) for one, a in zip(company, answers, strict=True)], victim
