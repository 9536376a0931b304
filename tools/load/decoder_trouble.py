"""A decoder killed or stopped while it decodes, or stopped while it waits.

For: showing that a decoder's end is one request's misfortune, and that the pool is whole again soon.
"""

import asyncio
import signal
import time
from typing import Final

import psutil

from tools.load import bodies, scene
from tools.load.client import Answer, Client
from tools.load.findings import Finding
from tools.load.scene import Scale
from tools.load.service import Service
from tools.load.traffic import Exchange, bystanders

BUSY_SECONDS: Final = 0.02  # of processor time since the victim was sent: two ticks of the clock that counts it
QUIET_SECONDS: Final = 0.3  # without any processor time of a decoder: each has come up and waits
LONG_SECONDS: Final = 290.0  # of sound: what decodes for long enough to be hit
ATTEMPTS: Final = 5
COMPANY: Final = 6  # requests that need a decoder at the moment of the hit
REFUSED: Final = frozenset({422})


async def killed(service: Service, scale: Scale) -> Finding:
    """`kill -9` while it decodes."""
    return await _hit("decoder killed while decoding", signal.SIGKILL, service, scale)


async def stopped(service: Service, scale: Scale) -> Finding:
    """SIGSTOP while it decodes: it neither answers nor ends."""
    return await _hit("decoder stopped while decoding", signal.SIGSTOP, service, scale)


async def stopped_idle(service: Service, scale: Scale) -> Finding:
    """SIGSTOP of all of them while they wait: the next requests must not be lost."""
    before = list(await _quiet(service))  # one that still comes up is not idle
    for decoder in before:
        decoder.suspend()
    async with asyncio.TaskGroup() as group:
        client = Client(service.port, keep=False)
        asked = [group.create_task(client.ask(bodies.audio(bodies.sound("wav", 0.5)))) for _ in range(2 * len(before))]
    took = await scene.recovery(service, lambda: _whole(service, before), scale.recovery)
    return scene.report("idle decoders stopped", [task.result() for task in asked], [], took, frozenset({200}))


async def _hit(name: str, number: signal.Signals, service: Service, scale: Scale) -> Finding:
    size = len(service.decoders())
    # None of these needs a decoder, so that the one that is busy is the victim's; `_company` needs the others.
    sentences = [bodies.text(sentence) for sentence in bodies.SENTENCES]
    async with bystanders(service.port, sentences, scale.rate) as others:
        await asyncio.sleep(scale.calm)
        hit, answer, company, took = await _victim(service, number, size, scale)
        await asyncio.sleep(scale.calm)
    finding = scene.report(name, [answer], [*others, *company], took, REFUSED)
    finding.expect(not hit.is_running(), "the decoder that was hit is still there")
    return finding


async def _victim(
    service: Service, number: signal.Signals, size: int, scale: Scale
) -> tuple[psutil.Process, Answer, list[Exchange], float | None]:
    request = bodies.audio(bodies.long_sound(LONG_SECONDS), "victim")
    missed: Answer | None = None
    others: list[Exchange] = []
    for _ in range(ATTEMPTS):
        used = await _quiet(service)
        asking = asyncio.create_task(Client(service.port, keep=False).ask(request))
        while not asking.done():
            await asyncio.sleep(0.003)
            busy = [one for one, before in used.items() if _cpu(one) - before >= BUSY_SECONDS]
            if busy:
                busy[0].send_signal(number)
                hit_at = time.perf_counter()
                answer, company = await asyncio.gather(asking, _company(service))
                waited = time.perf_counter() - hit_at
                others += company
                took = await scene.recovery(service, lambda: len(service.decoders()) == size, scale.recovery)
                if answer.status not in request.expected:
                    return busy[0], answer, others, None if took is None else waited + took
        missed = asking.result()  # by the signal, too: it was another decoder, or this one had just ended
    raise RuntimeError(f"no decoder was seen decoding; the last request was answered {missed}")


async def _company(service: Service) -> list[Exchange]:
    """Requests that need a decoder just when one of them has been hit."""
    client = Client(service.port, keep=False)
    requests = [one for one in bodies.valid() if one.name in {"audio", "face", "text+audio+face"}][:COMPANY]
    answers = await asyncio.gather(*map(client.ask, requests))
    return [Exchange(0.0, one.name, one.expected, a) for one, a in zip(requests, answers, strict=True)]


async def _quiet(service: Service) -> dict[psutil.Process, float]:
    """Processor seconds of each decoder, once none of them uses any."""
    used: dict[psutil.Process, float] = {}
    while used != (now := {decoder: _cpu(decoder) for decoder in service.decoders()}) or not now:
        used = now
        await asyncio.sleep(QUIET_SECONDS)
    return used


def _cpu(decoder: psutil.Process) -> float:
    try:
        times = decoder.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _whole(service: Service, gone: list[psutil.Process]) -> bool:
    now = service.decoders()
    return len(now) == len(gone) and not set(now) & set(gone)
