"""The load generator against a real server that misbehaves on purpose."""

import asyncio
import math
from collections.abc import Awaitable, Callable

import pytest

from benchmarks.load import Client, Trial, offer, parsed, percentile, saturate

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
Handler = Callable[[], Awaitable[tuple[int, bytes]]]


async def with_server(handler: Handler, use: Callable[[Client], Awaitable[None]]) -> int:
    """Serve `handler` while `use` runs; returns how many connections were made."""
    conversations: list[asyncio.Task[None] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversations.append(asyncio.current_task())
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                status, body = await handler()
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(body)))
                writer.write(body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = Client(server.sockets[0].getsockname()[1])
    async with server:
        await use(client)
        client.close()
        await asyncio.wait_for(asyncio.gather(*filter(None, conversations)), timeout=10)
    return len(conversations)


async def at_once() -> tuple[int, bytes]:
    return 200, b'{"polarity": "positive"}'


@pytest.mark.anyio
async def test_an_answer_is_read_whole_and_the_connection_kept() -> None:
    async def use(client: Client) -> None:
        for _ in range(5):
            assert parsed(await client.ask(REQUEST)) == {"polarity": "positive"}

    assert await with_server(at_once, use) == 1


@pytest.mark.anyio
async def test_requests_are_sent_at_the_rate_asked_for() -> None:
    async def use(client: Client) -> None:
        trial = await offer(client, 50, 0.4, lambda: REQUEST)
        assert (trial.rate, trial.failed, trial.sustained) == (50, 0, True)
        assert trial.answered == pytest.approx(50, rel=0.5)

    await with_server(at_once, use)


@pytest.mark.anyio
async def test_time_counts_from_when_a_request_was_due() -> None:
    lock = asyncio.Lock()

    async def one_at_a_time() -> tuple[int, bytes]:
        async with lock:
            await asyncio.sleep(0.05)
        return 200, b""

    async def use(client: Client) -> None:
        trial = await offer(client, 100, 0.3, lambda: REQUEST)  # five times what it can answer
        assert trial.failed == 0
        assert trial.p99 > 1000
        assert not trial.sustained

    await with_server(one_at_a_time, use)


@pytest.mark.anyio
async def test_a_refusal_is_a_failure() -> None:
    async def refuse() -> tuple[int, bytes]:
        return 503, b"no"

    async def use(client: Client) -> None:
        trial = await offer(client, 20, 0.2, lambda: REQUEST)
        assert trial.failed == 4
        assert math.isinf(trial.p50)
        assert not trial.sustained
        with pytest.raises(RuntimeError, match="503"):
            await saturate(client, 0.1, 2, lambda: REQUEST)

    await with_server(refuse, use)


@pytest.mark.anyio
async def test_throughput_counts_answers() -> None:
    async def slow() -> tuple[int, bytes]:
        await asyncio.sleep(0.02)
        return 200, b""

    async def use(client: Client) -> None:
        assert await saturate(client, 0.3, 4, lambda: REQUEST) <= 4 / 0.02

    await with_server(slow, use)


def test_percentiles_are_values_that_were_seen() -> None:
    values = [float(v) for v in range(1, 101)]
    assert [percentile(values, p) for p in (50, 95, 99, 100)] == [50, 95, 99, 100]
    assert percentile([7.0], 50) == 7


def test_one_late_request_in_a_hundred_is_within_the_limit_and_a_failed_one_is_not() -> None:
    assert Trial(10, 10, 5, 9, 500, 0).sustained
    assert not Trial(10, 10, 5, 9, 501, 0).sustained
    assert not Trial(10, 10, 5, 9, 400, 1).sustained
