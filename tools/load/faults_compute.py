"""Faults of the processes that compute: killed, or with the process that forks them.

They must cost no request: a batch is repeated in another process.
"""

import asyncio
from typing import Final

import psutil

from tools.load import faults_common, payloads
from tools.load.client import Client
from tools.load.faults_common import Scale, evaluate
from tools.load.generator import background
from tools.load.report import Result
from tools.load.service import Service

ROUNDS: Final = 3
CONCURRENT: Final = 24  # requests sent just before each kill


async def killed(service: Service, scale: Scale) -> Result:
    """Kill all processes that compute while they have work, several times."""
    return await _kill("computing processes killed", service, scale, servers=False)


async def server_killed(service: Service, scale: Scale) -> Result:
    """Kill the process that has loaded the weights, with which those that compute end: it is started again."""
    return await _kill("process that forks killed", service, scale, servers=True)


async def _kill(name: str, service: Service, scale: Scale, *, servers: bool) -> Result:
    client, responses = Client(service.port, keep=False), []
    sentences = [payloads.text(sentence) for sentence in payloads.SENTENCES]
    gone: list[psutil.Process] = []
    async with background(service.port, sentences, scale.rate) as others:
        for _ in range(ROUNDS):
            sent = [sentences[number % len(sentences)] for number in range(CONCURRENT)]
            asked = [asyncio.create_task(client.send(request)) for request in sent]
            await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            forking, computing = service.computing()
            gone += (found := forking if servers else computing)
            for process in found:
                process.kill()
            responses += await asyncio.gather(*asked)
    took = await faults_common.recovery(service, lambda: True, scale.recovery)
    result = evaluate(name, responses, others, took, frozenset({200}))
    result.figures["killed"] = len(gone)
    result.expect(len(gone) >= ROUNDS, "there was no process to kill")
    result.expect(not any(process.is_running() for process in gone), "a process outlived SIGKILL")
    return result
