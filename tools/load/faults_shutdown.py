"""SIGTERM under load: every accepted request must get a response, and the process must end with status 0."""

import asyncio
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Final

from tools.load import payloads
from tools.load.client import Client
from tools.load.faults_common import Scale, is_problem
from tools.load.generator import Exchange, drawn, open_loop, poisson, statuses
from tools.load.report import Result
from tools.load.service import Service

READY_POLL: Final = 0.2  # seconds between two readiness checks, as of a load balancer
EXIT_SECONDS: Final = 60.0
CLOSING_SECONDS: Final = 0.2
ALLOWED: Final = frozenset({200, 429, 503})


async def sigterm(service: Service, scale: Scale, rate: float, *, skip_grace: bool = False) -> Result:
    """Clients stop when readiness fails, as behind a load balancer: each of their requests must get a 200.

    Args:
        service: the process that gets the signal.
        scale: of the case.
        rate: requests a second.
        skip_grace: whether a second signal ends the grace period once the clients have stopped. The period may then be
            as long as the clients of a slow machine need.
    """
    not_ready = False

    async def check_readiness() -> None:
        nonlocal not_ready
        while not not_ready:
            not_ready = (await asyncio.to_thread(service.health, "/health/ready"))[0] != 200
            await asyncio.sleep(READY_POLL)

    checking = asyncio.create_task(check_readiness())
    found, status, seconds = await _under_load(service, scale, rate, lambda: not_ready, skip_grace=skip_grace)
    await checking
    result = _result("SIGTERM, clients watching readiness", found, status, seconds)
    result.expect(all(one.correct for one in found), "an accepted request did not get its usual response")
    return result


async def sigterm_ignored(service: Service, scale: Scale, rate: float) -> Result:
    """Clients go on until nothing listens: each request gets a response, a 503, or no connection."""
    found, status, seconds = await _under_load(service, scale, rate, lambda: not service.running)
    # A connection made just as the service stops listening may be in the kernel's queue without ever being accepted.
    closing = min((one.at for one in found if one.response.error == "refused"), default=float("inf"))
    cut = [one for one in found if one.response.error == "closed" and abs(one.at - closing) < CLOSING_SECONDS]
    result = _result("SIGTERM, clients that go on regardless", [o for o in found if o not in cut], status, seconds)
    result.figures["cut as it stopped listening"] = len(cut)
    result.expect(
        all(one.response.status in ALLOWED or one.response.error for one in found), "a status that is not allowed"
    )
    return result


async def _under_load(
    service: Service, scale: Scale, rate: float, stop: Callable[[], bool], *, skip_grace: bool = False
) -> tuple[Sequence[Exchange], int, float]:
    """Send SIGTERM under load, go on until `stop`; returns exchanges, exit status, and seconds from signal to end."""
    # A connection for each request: a kept one may be closed just as the next request is written to it.
    client = Client(service.port, keep=False)
    arrivals = poisson(rate, EXIT_SECONDS)
    load = asyncio.create_task(open_loop(client, drawn(payloads.valid(), 3), arrivals, stop=stop))
    await asyncio.sleep(1 + scale.calm)
    began = time.perf_counter()
    service.signal(signal.SIGTERM)
    if skip_grace:
        await load
        service.signal(signal.SIGTERM)
    try:
        status = await asyncio.to_thread(service.exit_status, EXIT_SECONDS)
    except subprocess.TimeoutExpired:
        status = -1
    seconds = time.perf_counter() - began
    return await load, status, seconds


def _result(name: str, found: Sequence[Exchange], status: int, seconds: float) -> Result:
    lost = [one for one in found if not one.response.status and one.response.error != "refused"]
    result = Result(
        name,
        {
            "requests": len(found),
            "answers": statuses(found),
            "taken and lost": len(lost),
            "exit status": status,
            "ended after s": seconds,
        },
    )
    result.expect(len(found) > 0, "there was no load")
    result.expect(status == 0, f"it ended with status {status}")
    result.expect(not lost, f"lost: {lost[:1]}")
    result.expect(all(is_problem(one.response) for one in found), "an error is not application/problem+json")
    return result
