"""What all fault-injection cases share: their scale, the background traffic, the recovery time, and the result."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tools.load import payloads
from tools.load.client import Client, Response
from tools.load.generator import Exchange, statuses
from tools.load.report import Result
from tools.load.service import Service

SETTLE_SECONDS: Final = 20.0  # for the service to close what its clients have closed
STEADY: Final = 4  # samples in a row without a decrease
SPARE_DESCRIPTORS: Final = 2  # a health check or a log line in progress


@dataclass(frozen=True, slots=True)
class Scale:
    """The scale of the cases.

    Args:
        rate: requests a second of background traffic.
        clients: misbehaving connections at once.
        calm: seconds of background traffic before and after the fault.
        recovery: seconds that the service may take to recover.
    """

    rate: float = 10.0
    clients: int = 200
    calm: float = 2.0
    recovery: float = 15.0


FULL = Scale()
SMALL = Scale(rate=8.0, clients=12, calm=0.3, recovery=60.0)  # for a machine that may be slow and busy


async def recovery(service: Service, recovered: Callable[[], bool], limit: float) -> float | None:
    """Return the seconds until health is 200, `recovered` holds and a sound gets a 200; None past `limit`."""
    began = time.perf_counter()
    client = Client(service.port, keep=False, timeout=limit)
    probe = payloads.audio(payloads.sound("wav", 0.5))
    while time.perf_counter() - began < limit:
        status, _ = await asyncio.to_thread(service.health)
        if status == 200 and await asyncio.to_thread(recovered) and (await client.send(probe)).status == 200:
            return time.perf_counter() - began
        await asyncio.sleep(0.05)
    return None


async def settled(service: Service) -> None:
    """Wait, up to `SETTLE_SECONDS`, until the service holds no connection of earlier requests."""
    end, least = time.monotonic() + SETTLE_SECONDS, service.resources().descriptors
    steady = 0
    while steady < STEADY and time.monotonic() < end:
        await asyncio.sleep(0.2)
        now = service.resources().descriptors
        steady = steady + 1 if now >= least else 0
        least = min(least, now)


def evaluate(
    name: str,
    victims: Sequence[Response],
    background: Sequence[Exchange],
    seconds: float | None,
    allowed: frozenset[int],
) -> Result:
    """Return the figures that every case has, and their failures.

    Args:
        name: of the case.
        victims: responses to the requests that the fault was injected into, or that caused it.
        background: exchanges of the background traffic; all of them must be correct.
        seconds: until recovery; None where the service did not recover.
        allowed: statuses that are correct for the victims.
    """
    affected = [one for one in background if not one.correct]
    result = Result(
        name,
        {
            "victims": statuses([Exchange(0, "", allowed, response) for response in victims]),
            "background requests": len(background),
            "background requests affected": len(affected),
            "recovered after s": seconds,
        },
    )
    wrong = [response for response in victims if response.status not in allowed]
    result.expect(bool(victims), "there was no victim")
    result.expect(not wrong, f"a victim got {wrong[:1]}")
    result.expect(all(is_problem(response) for response in victims), "an error is not application/problem+json")
    result.expect(not affected, f"background requests were affected: {statuses(affected)}, first {affected[:1]}")
    result.expect(seconds is not None, "the service did not recover in time")
    return result


def is_problem(response: Response) -> bool:
    """Return whether an error is a problem document with status and request id; True where there is no error."""
    if response.status in {0, 200}:
        return True
    try:
        problem = json.loads(response.body)
    except ValueError:
        return False
    return isinstance(problem, dict) and problem.get("status") == response.status and bool(problem.get("request_id"))
