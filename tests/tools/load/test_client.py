import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tools.load.bodies import text
from tools.load.client import Answer, Client

pytestmark = pytest.mark.anyio
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
ANSWER = b"HTTP/1.1 429 Too Many\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\nfull"
REQUEST = text("Hello.")


async def asked(handler: Handler, times: int = 1, patience: float = 5.0) -> tuple[list[Answer], int]:
    """Answers of a server that does `handler` to every connection, and how many connections there were."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        try:
            await handler(reader, writer)
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        client = Client(server.sockets[0].getsockname()[1], timeout=patience)
        answers = [await client.ask(REQUEST) for _ in range(times)]
        client.close()
    return answers, connections


async def test_an_answer_is_read_whole_and_its_connection_used_again() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            assert await reader.readexactly(len(REQUEST.wire)) == REQUEST.wire
            writer.write(ANSWER)

    answers, connections = await asked(handler, times=2)
    assert [(one.status, one.retry_after, one.problem, one.lost) for one in answers] == [(429, "7", "full", "")] * 2
    assert connections == 1


async def test_a_connection_that_is_to_be_closed_is_not_used_again() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(REQUEST.wire))
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")

    answers, connections = await asked(handler, times=2)
    assert [one.status for one in answers] == [200, 200]
    assert connections == 2


async def test_an_answer_that_breaks_off_is_lost() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(REQUEST.wire))
        writer.write(ANSWER[:-1])

    ((answer,), _) = await asked(handler)
    assert (answer.status, answer.lost) == (0, "closed")


async def test_an_answer_that_does_not_come_is_lost_in_time() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    ((answer,), _) = await asked(handler, patience=0.1)
    assert (answer.status, answer.lost) == (0, "timeout")


async def test_nobody_listening_is_told_from_an_answer_that_was_lost() -> None:
    async with await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
    assert (await Client(port).ask(REQUEST)).lost == "refused"
