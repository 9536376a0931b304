"""The server process under more load than it can answer."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx2
import pytest

from app.engine.admission import ENOUGH_SECONDS
from tests.support.process import Launch, launching

pytestmark = pytest.mark.anyio

CLIENTS = 100  # far fewer than `queue_size`
SECONDS = 60.0  # at most


@pytest.fixture
def launch() -> Iterator[Launch]:
    with launching() as start:
        yield start


async def send_requests(client: httpx2.AsyncClient) -> list[list[tuple[float, httpx2.Response]]]:
    """Have every client repeat a request until one is refused; return the time and the answer of each of them."""
    began = time.monotonic()
    refused = asyncio.Event()

    async def repeat() -> list[tuple[float, httpx2.Response]]:
        answers = []
        while time.monotonic() - began < SECONDS and not refused.is_set():
            answer = await client.post("/predict", data={"text": "Hello."})
            answers.append((time.monotonic() - began, answer))
            if answer.status_code == 429:
                refused.set()
        return answers

    return await asyncio.gather(*(repeat() for _ in range(CLIENTS)))


def statuses(answers: Sequence[httpx2.Response]) -> set[int]:
    return {answer.status_code for answer in answers}


async def test_overload_is_admitted_first_and_then_refused(tiny_weights: Path, launch: Launch) -> None:
    process = launch(tiny_weights, EMMR_MAX_BATCH="1", EMMR_MAX_WAIT="0.05")
    base = await asyncio.to_thread(process.ready)
    limits = httpx2.Limits(max_connections=CLIENTS)
    async with httpx2.AsyncClient(base_url=base, timeout=60, limits=limits) as client:
        collected = await send_requests(client)
        everything = [pair for answers in collected for pair in answers]
        assert statuses([answer for at, answer in everything if at < ENOUGH_SECONDS]) == {200}
        assert statuses([answer for _, answer in everything]) == {200, 429}
        refused = [answer for _, answer in everything if answer.status_code == 429]
        assert all(answer.headers["retry-after"].isdecimal() for answer in refused)
        assert {answer.json()["type"] for answer in refused} == {"/problems/queue-full"}
        assert "longer than 0.05 seconds" in refused[0].json()["detail"]
        assert (await client.post("/predict", data={"text": "Hello."})).status_code == 200
