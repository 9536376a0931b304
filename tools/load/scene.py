"""What every case of trouble shares: how big it is, its bystanders, and how long the service takes to recover.

For: `tools.load.decoder_trouble` and its like, run by `tools.load.chaos` at full size and by the test suite at a small
one.
Does not know: any case.
"""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tools.load import bodies
from tools.load.bodies import Sent
from tools.load.client import Answer, Client
from tools.load.findings import Finding
from tools.load.service import Service
from tools.load.traffic import Exchange, statuses

SETTLE_SECONDS: Final = 20.0  # for the service to close what its clients have closed
STEADY: Final = 4  # looks in a row at which nothing has become less
SPARE_DESCRIPTORS: Final = 2  # a health check or a log line under way


@dataclass(frozen=True, slots=True)
class Scale:
    """How big the cases are.

    Args:
        rate: requests a second of bystanders.
        clients: connections that misbehave at once.
        calm: seconds of bystanders before and after the trouble.
        recovery: seconds a service may take to be itself again.
    """

    rate: float = 10.0
    clients: int = 200
    calm: float = 2.0
    recovery: float = 15.0


FULL = Scale()
SMALL = Scale(rate=8.0, clients=12, calm=0.3, recovery=60.0)  # on a machine that may be slow, and busy with other work


def bystanders() -> list[Sent]:
    """What others ask meanwhile: small requests of all kinds, all of them good."""
    return bodies.valid()


def affected(found: Sequence[Exchange]) -> int:
    """How many bystanders were not answered as they should have been."""
    return sum(not one.right for one in found)


async def recovery(service: Service, well: Callable[[], bool], limit: float) -> float | None:
    """Seconds until health is 200, `well` holds and a sound sent on its own is answered; None past `limit`."""
    began = time.perf_counter()
    client = Client(service.port, keep=False, timeout=limit)
    probe = bodies.audio(bodies.sound("wav", 0.5))
    while time.perf_counter() - began < limit:
        status, _ = await asyncio.to_thread(service.health)
        if status == 200 and await asyncio.to_thread(well) and (await client.ask(probe)).status == 200:
            return time.perf_counter() - began
        await asyncio.sleep(0.05)
    return None


async def settled(service: Service) -> None:
    """Wait until the service holds no connection and no file of the requests before; not for ever."""
    end, least = time.monotonic() + SETTLE_SECONDS, service.resources().descriptors
    steady = 0
    while steady < STEADY and time.monotonic() < end:
        await asyncio.sleep(0.2)
        now = service.resources().descriptors
        steady = steady + 1 if now >= least else 0
        least = min(least, now)


def report(
    name: str, victims: Sequence[Answer], others: Sequence[Exchange], seconds: float | None, victim: frozenset[int]
) -> Finding:
    """The figures every case has, and what is wrong with them.

    Args:
        name: of the case.
        victims: answers to the requests that were hit, or that did the harm.
        others: what the bystanders got.
        seconds: until recovery; None when it did not come.
        victim: statuses that are right for the victims.
    """
    finding = Finding(
        name,
        {
            "victims": statuses([Exchange(0, "", victim, answer) for answer in victims]),
            "bystanders": len(others),
            "bystanders affected": affected(others),
            "recovered after s": seconds,
        },
    )
    wrong = [answer for answer in victims if answer.status not in victim]
    finding.expect(bool(victims), "nobody was hit")
    finding.expect(not wrong, f"a victim was answered {wrong[:1]}")
    finding.expect(all(is_problem(answer) for answer in victims), "an error is not application/problem+json")
    amiss = [one for one in others if not one.right]
    finding.expect(not amiss, f"bystanders were affected: {statuses(amiss)}, first {amiss[:1]}")
    finding.expect(seconds is not None, "the service did not recover in time")
    return finding


def is_problem(answer: Answer) -> bool:
    """Whether an error says what it is; an answer of 200, or none, has nothing to say."""
    if answer.status in {0, 200}:
        return True
    try:
        said = json.loads(answer.problem)
    except ValueError:
        return False
    return isinstance(said, dict) and said.get("status") == answer.status and bool(said.get("request_id"))
