import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tools.load.client import Client, Response
from tools.load.payloads import text

pytestmark = pytest.mark.anyio
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
RESPONSE = b"HTTP/1.1 429 Too Many\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\nfull"
REQUEST = text("Hello.")


async def send(handler: Handler, times: int = 1, patience: float = 5.0) -> tuple[list[Response], int]:
    """Responses of a server that runs `handler` for every connection, and the number of connections."""
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
        responses = [await client.send(REQUEST) for _ in range(times)]
        client.close()
    return responses, connections


async def test_connections_are_reused_after_a_whole_response() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            assert await reader.readexactly(len(REQUEST.wire)) == REQUEST.wire
            writer.write(RESPONSE)

    responses, connections = await send(handler, times=2)
    assert [(one.status, one.retry_after, one.body, one.error) for one in responses] == [(429, "7", b"full", "")] * 2
    assert connections == 1


async def test_responses_may_arrive_in_pieces() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(REQUEST.wire))
        for piece in (RESPONSE[:20], RESPONSE[20:-2], RESPONSE[-2:]):
            writer.write(piece)
            await asyncio.sleep(0)

    ((response,), _) = await send(handler)
    assert (response.status, response.body) == (429, b"full")


async def test_responses_may_come_before_the_end_of_the_request() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(10)
        writer.write(RESPONSE)
        await writer.drain()

    ((response,), _) = await send(handler)
    assert response.status == 429


async def test_connections_that_the_server_closes_are_not_reused() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(REQUEST.wire))
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")

    responses, connections = await send(handler, times=2)
    assert [one.status for one in responses] == [200, 200]
    assert connections == 2


@pytest.mark.parametrize("sent", [RESPONSE[:-1], b"", b"no HTTP at all\r\n\r\n"])
async def test_incomplete_responses_are_errors(sent: bytes) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(REQUEST.wire))
        writer.write(sent)

    ((response,), _) = await send(handler)
    assert (response.status, response.error) == (0, "closed")


async def test_responses_that_do_not_come_are_timeouts() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    ((response,), _) = await send(handler, patience=0.1)
    assert (response.status, response.error) == (0, "timeout")


async def test_refused_connections_differ_from_closed_ones() -> None:
    async with await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
    assert (await Client(port).send(REQUEST)).error == "refused"


def test_json_is_that_of_a_200_only() -> None:
    assert Response(200, 0.1, body=b'{"polarity": "positive"}').json() == {"polarity": "positive"}
    with pytest.raises(RuntimeError, match="503"):
        Response(503, 0.1, body=b"{}").json()
