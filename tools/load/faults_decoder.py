"""Faults of decoder processes: killed or stopped while decoding, stopped while idle.

They must cost one request, and the pool must be complete again soon.
"""

import asyncio
import signal
import time
from typing import Final

import psutil

from tools.load import faults_common, payloads
from tools.load.client import Client, Response
from tools.load.faults_common import Scale, evaluate
from tools.load.generator import Exchange, background
from tools.load.report import Result
from tools.load.service import Service

BUSY_SECONDS: Final = 0.02  # of processor time since the request was sent: two ticks of the clock that counts it
IDLE_SECONDS: Final = 120.0  # for all decoders to become idle
QUIET_SECONDS: Final = 0.3  # without any processor time of a decoder: each has started and is idle
LONG_SECONDS: Final = 290.0  # of sound, so that decoding takes long enough for the signal
ATTEMPTS: Final = 5
CONCURRENT: Final = 6  # requests that need a decoder at the time of the fault
REJECTED: Final = frozenset({422})


async def killed(service: Service, scale: Scale) -> Result:
    """Send SIGKILL to a decoder while it decodes."""
    return await _signal_one("decoder killed while decoding", signal.SIGKILL, service, scale)


async def stopped(service: Service, scale: Scale) -> Result:
    """Send SIGSTOP to a decoder while it decodes: it neither answers nor ends."""
    return await _signal_one("decoder stopped while decoding", signal.SIGSTOP, service, scale)


async def stopped_idle(service: Service, scale: Scale) -> Result:
    """Send SIGSTOP to all decoders while they are idle: the next requests must not be lost."""
    before = list(await _idle_decoders(service))
    for decoder in before:
        decoder.suspend()
    client, request = Client(service.port, keep=False), payloads.audio(payloads.sound("wav", 0.5))
    responses = await asyncio.gather(*(client.send(request) for _ in range(2 * len(before))))
    took = await faults_common.recovery(service, lambda: _replaced(service, before), scale.recovery)
    return evaluate("idle decoders stopped", responses, [], took, frozenset({200}))


async def _signal_one(name: str, number: signal.Signals, service: Service, scale: Scale) -> Result:
    size = len(service.decoders())
    # Text needs no decoder, so that the busy one is the victim's; `_concurrent` needs the others.
    sentences = [payloads.text(sentence) for sentence in payloads.SENTENCES]
    async with background(service.port, sentences, scale.rate) as others:
        await asyncio.sleep(scale.calm)
        decoder, response, concurrent, took = await _signal_busy(service, number, size, scale)
        await asyncio.sleep(scale.calm)
    result = evaluate(name, [response], [*others, *concurrent], took, REJECTED)
    result.expect(not decoder.is_running(), "the decoder that got the signal is still running")
    return result


async def _signal_busy(
    service: Service, number: signal.Signals, size: int, scale: Scale
) -> tuple[psutil.Process, Response, list[Exchange], float | None]:
    """Signal the decoder of a long sound; returns it, the response, other exchanges and the recovery time."""
    request = payloads.audio(payloads.long_sound(LONG_SECONDS), "victim")
    missed: Response | None = None
    others: list[Exchange] = []
    for _ in range(ATTEMPTS):
        used = await _idle_decoders(service)
        task = asyncio.create_task(Client(service.port, keep=False).send(request))
        while not task.done():
            await asyncio.sleep(0.003)
            busy = [one for one, before in used.items() if _processor_seconds(one) - before >= BUSY_SECONDS]
            if busy:
                busy[0].send_signal(number)
                signalled = time.perf_counter()
                response, concurrent = await asyncio.gather(task, _concurrent(service))
                waited = time.perf_counter() - signalled
                others += concurrent
                took = await faults_common.recovery(service, lambda: len(service.decoders()) == size, scale.recovery)
                if response.status not in request.expected:
                    return busy[0], response, others, None if took is None else waited + took
        missed = task.result()  # also where the signal went to another decoder, or this one had just finished
    raise RuntimeError(f"no decoder was seen decoding; the last request got {missed}")


async def _concurrent(service: Service) -> list[Exchange]:
    """Send requests that need a decoder just when one of the decoders has got a signal."""
    client = Client(service.port, keep=False)
    sent = [one for one in payloads.valid() if one.name in {"audio", "face", "text+audio+face"}][:CONCURRENT]
    return list(map(Exchange.of, sent, await asyncio.gather(*map(client.send, sent))))


async def _idle_decoders(service: Service) -> dict[psutil.Process, float]:
    """Return decoder → processor seconds, once none of them uses the processor.

    Raises:
        TimeoutError: there are no decoders, or they do not become idle.
    """
    used: dict[psutil.Process, float] = {}
    async with asyncio.timeout(IDLE_SECONDS):
        while used != (now := {decoder: _processor_seconds(decoder) for decoder in service.decoders()}) or not now:
            used = now
            await asyncio.sleep(QUIET_SECONDS)
    return used


def _processor_seconds(decoder: psutil.Process) -> float:
    try:
        times = decoder.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _replaced(service: Service, gone: list[psutil.Process]) -> bool:
    now = service.decoders()
    return len(now) == len(gone) and not set(now) & set(gone)
