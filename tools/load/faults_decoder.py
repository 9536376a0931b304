"""Faults of decoder processes: killed or stopped while decoding, stopped while idle.

They must cost one request at most, and the pool must be complete again soon.
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
ENDED: Final = "decoder ended while decoding"  # the event that the service logs


async def killed(service: Service, scale: Scale) -> Result:
    """Send SIGKILL to a decoder while it decodes: another one decodes the file."""
    return await _signal_one("decoder killed while decoding", signal.SIGKILL, service, scale, frozenset({200}))


async def killed_again(service: Service, scale: Scale) -> Result:
    """Send SIGKILL to each decoder that decodes a file: the client is told to come back."""
    name = "decoders killed while decoding"
    return await _signal_one(name, signal.SIGKILL, service, scale, frozenset({503}), times=2)


async def stopped(service: Service, scale: Scale) -> Result:
    """Send SIGSTOP to a decoder while it decodes: it neither answers nor ends."""
    return await _signal_one("decoder stopped while decoding", signal.SIGSTOP, service, scale, frozenset({422}))


async def stopped_idle(service: Service, scale: Scale) -> Result:
    """Send SIGSTOP to all decoders while they are idle: the next requests must not be lost."""
    before = list(await _idle_decoders(service))
    for decoder in before:
        decoder.suspend()
    client, request = Client(service.port, keep=False), payloads.audio(payloads.sound("wav", 0.5))
    responses = await asyncio.gather(*(client.send(request) for _ in range(2 * len(before))))
    took = await faults_common.recovery(service, lambda: _replaced(service, before), scale.recovery)
    return evaluate("idle decoders stopped", responses, [], took, frozenset({200}))


async def _signal_one(
    name: str, number: signal.Signals, service: Service, scale: Scale, allowed: frozenset[int], times: int = 1
) -> Result:
    size = len(service.decoders())
    # Text needs no decoder, so that the busy one is the victim's; `_concurrent` needs the others.
    sentences = [payloads.text(sentence) for sentence in payloads.SENTENCES]
    async with background(service.port, sentences, scale.rate) as others:
        await asyncio.sleep(scale.calm)
        decoder, response, concurrent, took = await _signal_busy(service, number, size, scale, times)
        await asyncio.sleep(scale.calm)
    result = evaluate(name, [response], [*others, *concurrent], took, allowed)
    result.expect(not decoder.is_running(), "the decoder that got the signal is still running")
    return result


async def _signal_busy(
    service: Service, number: signal.Signals, size: int, scale: Scale, times: int
) -> tuple[psutil.Process, Response, list[Exchange], float | None]:
    """Signal the decoder of a long sound; returns it, the response, other exchanges and the recovery time.

    Args:
        service: whose decoder gets the signal.
        number: the signal.
        size: of the pool.
        scale: of the case.
        times: decoders of the same sound that get the signal, one after the other.
    """
    request = payloads.audio(payloads.long_sound(LONG_SECONDS), "victim")
    missed: Response | None = None
    others: list[Exchange] = []
    for _ in range(ATTEMPTS):
        used, logged = await _idle_decoders(service), _ended(service)
        task = asyncio.create_task(Client(service.port, keep=False).send(request))
        decoder: psutil.Process | None = None
        signals, signalled = 0, 0.0
        while not task.done() and signals < times:
            await asyncio.sleep(0.003)
            busy = [one for one, before in used.items() if _processor_seconds(one) - before >= BUSY_SECONDS]
            if busy:
                decoder = busy[0]
                del used[decoder]
                decoder.send_signal(number)
                signals, signalled = signals + 1, time.perf_counter()
        if decoder is not None and signals == times:
            response, concurrent = await asyncio.gather(task, _concurrent(service))
            waited = time.perf_counter() - signalled
            others += concurrent
            took = await faults_common.recovery(service, lambda: len(service.decoders()) == size, scale.recovery)
            # A decoder that had just finished when it got the signal has not been decoding.
            if _ended(service) - logged == times or (number == signal.SIGSTOP and response.status != 200):
                return decoder, response, others, None if took is None else waited + took
        missed = await task
    raise RuntimeError(f"no decoder was seen decoding; the last request got {missed}")


def _ended(service: Service) -> int:
    return sum(event["event"] == ENDED for event in service.events)


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
