"""The real process when more is asked of it than it can answer."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx2
import pytest

from app.engine.throughput import ENOUGH_SECONDS
from tests.support.process import Launch, launching

pytestmark = pytest.mark.anyio

CROWD = 100  # far fewer than there are places
SECONDS = 4.0


@pytest.fixture
def launch() -> Iterator[Launch]:
    with launching() as start:
        yield start


async def crowd(client: httpx2.AsyncClient) -> list[list[tuple[float, httpx2.Response]]]:
    """So many ask again and again; for each, when it had which answer."""
    began = time.monotonic()

    async def one() -> list[tuple[float, httpx2.Response]]:
        answers = []
        while time.monotonic() - began < SECONDS:
            answer = await client.post("/predict", data={"text": "Hello."})
            answers.append((time.monotonic() - began, answer))
            await asyncio.sleep(0.1 if answer.status_code == 429 else 0)
        return answers

    return await asyncio.gather(*(one() for _ in range(CROWD)))


def statuses(answers: Sequence[httpx2.Response]) -> set[int]:
    return {answer.status_code for answer in answers}


async def test_a_crowd_is_let_in_and_then_held_to_what_can_be_answered_soon(tiny_weights: Path, launch: Launch) -> None:
    process = launch(tiny_weights, EMMR_MAX_BATCH="1", EMMR_MAX_WAIT="0.05")
    base = await asyncio.to_thread(process.ready)
    limits = httpx2.Limits(max_connections=CROWD)
    async with httpx2.AsyncClient(base_url=base, timeout=60, limits=limits) as client:
        found = await crowd(client)
        everything = [pair for answers in found for pair in answers]
        assert statuses([answer for at, answer in everything if at < ENOUGH_SECONDS]) == {200}
        assert statuses([answer for _, answer in everything]) == {200, 429}
        refused = [answer for _, answer in everything if answer.status_code == 429]
        assert all(answer.headers["retry-after"].isdecimal() for answer in refused)
        assert {answer.json()["type"] for answer in refused} == {"/problems/queue-full"}
        assert "longer than 0.05 seconds" in refused[0].json()["detail"]
        assert (await client.post("/predict", data={"text": "Hello."})).status_code == 200
