"""SIGTERM while requests keep coming.

For: showing that every request that was taken is answered, and that the process ends with 0.
"""

import asyncio
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Final

from tools.load import scene
from tools.load.bodies import endless
from tools.load.client import Client
from tools.load.findings import Finding
from tools.load.scene import Scale
from tools.load.service import Service
from tools.load.traffic import Exchange, open_loop, statuses

READY_POLL: Final = 0.2  # seconds: a load balancer in a hurry
EXIT_SECONDS: Final = 60.0
CLOSING_SECONDS: Final = 0.2
WELL_ANSWERED: Final = frozenset({200, 429, 503})


async def sigterm(service: Service, scale: Scale, rate: float, *, hurried: bool = False) -> Finding:
    """Clients that stop when readiness says so, as behind a load balancer: each of their requests is answered 200.

    Args:
        service: what is told to end.
        scale: of the case.
        rate: requests a second.
        hurried: whether the rest of the grace period is skipped once the clients have gone, with a second signal. It
            may be as long as a slow machine's clients need, then.
    """
    turned_away = False

    async def watch() -> None:
        nonlocal turned_away
        while not turned_away:
            turned_away = (await asyncio.to_thread(service.health, "/health/ready"))[0] != 200
            await asyncio.sleep(READY_POLL)

    watching = asyncio.create_task(watch())
    found, status, seconds = await _under_load(service, scale, rate, lambda: turned_away, hurried=hurried)
    await watching
    finding = _report("SIGTERM, clients watching readiness", found, status, seconds)
    finding.expect(all(one.right for one in found), "a request that was taken was not answered as usual")
    return finding


async def sigterm_unheeded(service: Service, scale: Scale, rate: float) -> Finding:
    """Clients that go on until nobody listens: each is answered, refused with 503, or gets no connection at all."""
    found, status, seconds = await _under_load(service, scale, rate, lambda: not service.running)
    # Whoever connects in the moment in which it stops listening may be in the kernel's queue and never seen by it.
    closing = min((one.at for one in found if one.answer.lost == "refused"), default=float("inf"))
    cut = [one for one in found if one.answer.lost == "closed" and abs(one.at - closing) < CLOSING_SECONDS]
    finding = _report("SIGTERM, clients that go on regardless", [o for o in found if o not in cut], status, seconds)
    finding.figures["cut as it stopped listening"] = len(cut)
    finding.expect(all(one.answer.status in WELL_ANSWERED or one.answer.lost for one in found), "a strange answer")
    return finding


async def _under_load(
    service: Service, scale: Scale, rate: float, stop: Callable[[], bool], *, hurried: bool = False
) -> tuple[Sequence[Exchange], int, float]:
    """Load, then SIGTERM, then load until `stop`; what came of it, the exit status, and seconds from signal to end.

    With `hurried` there is another SIGTERM after the load.
    """
    # A connection each: a kept one may be closed just as the next request is written to it, whoever is to blame.
    client = Client(service.port, keep=False)
    loading = asyncio.create_task(open_loop(client, endless(scene.bystanders(), 3), rate, EXIT_SECONDS, stop=stop))
    await asyncio.sleep(1 + scale.calm)
    began = time.perf_counter()
    service.signal(signal.SIGTERM)
    if hurried:
        await loading
        service.signal(signal.SIGTERM)
    try:
        status = await asyncio.to_thread(service.exit_status, EXIT_SECONDS)
    except subprocess.TimeoutExpired:
        status = -1
    seconds = time.perf_counter() - began
    return await loading, status, seconds


def _report(name: str, found: Sequence[Exchange], status: int, seconds: float) -> Finding:
    lost = [one for one in found if not one.answer.status and one.answer.lost != "refused"]
    finding = Finding(
        name,
        {
            "requests": len(found),
            "answers": statuses(found),
            "taken and lost": len(lost),
            "exit status": status,
            "ended after s": seconds,
        },
    )
    finding.expect(len(found) > 0, "there was no load")
    finding.expect(status == 0, f"it ended with status {status}")
    finding.expect(not lost, f"lost: {lost[:1]}")
    finding.expect(all(scene.is_problem(one.answer) for one in found), "an error is not application/problem+json")
    return finding
