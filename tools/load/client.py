"""HTTP requests at the lowest price: bytes out, status in, over kept or fresh connections.

For: load generators that share the machine with the service they load.
Does not know: what is right (`tools.load.bodies` does), and no more of HTTP/1.1 than the service's answers need: a
status line, headers, and a body of `Content-Length` bytes.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from tools.load.bodies import Sent

HOST: Final = "127.0.0.1"
IDLE_SECONDS: Final = 5.0  # a kept connection that rested longer is not used: the service closes them after a while
KEPT_BYTES: Final = 2_000  # of an error's body


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Args:
        status: 0 where nothing did; `lost` then says why.
        seconds: from the first byte sent, the connection's included, to the last received.
        retry_after: the header.
        problem: an error's body, cut.
        lost: `refused` (no connection), `closed` (before a whole answer), `timeout`; empty where there is an answer.
    """

    status: int
    seconds: float
    retry_after: str | None = None
    problem: str = ""
    lost: str = ""


@dataclass(slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    rested_since: float = 0.0


class Client:
    """Connections to the service.

    Args:
        port: on 127.0.0.1.
        keep: whether connections are used again.
        timeout: seconds for one answer.
    """

    def __init__(self, port: int, *, keep: bool = True, timeout: float = 60.0) -> None:
        self.port, self.keep, self.timeout = port, keep, timeout
        self._rested: list[_Connection] = []

    async def ask(self, request: Sent) -> Answer:
        """Send a request and wait for its answer; never raises for what the service does."""
        began = time.perf_counter()
        try:
            async with asyncio.timeout(self.timeout):
                try:
                    connection = await self._connect()
                except OSError:
                    return Answer(0, time.perf_counter() - began, lost="refused")
                return await self._exchange(connection, request, began)
        except TimeoutError:
            lost = "timeout"
        except (OSError, EOFError, ValueError):
            lost = "closed"
        return Answer(0, time.perf_counter() - began, lost=lost)

    async def _connect(self) -> _Connection:
        while self._rested:
            connection = self._rested.pop()
            if time.monotonic() - connection.rested_since < IDLE_SECONDS and not connection.reader.at_eof():
                return connection
            connection.writer.close()
        return _Connection(*await asyncio.open_connection(HOST, self.port))

    async def _exchange(self, connection: _Connection, request: Sent, began: float) -> Answer:
        reader, writer, kept = connection.reader, connection.writer, False
        try:
            answer, kept = await self._converse(reader, writer, request, began)
        finally:  # whatever ends it, cancellation too
            if kept:
                connection.rested_since = time.monotonic()
                self._rested.append(connection)
            else:
                writer.close()
        return answer

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Sent, began: float
    ) -> tuple[Answer, bool]:
        """The answer, and whether the connection can be used again."""
        writer.write(request.wire)
        # Not drained: an answer that comes before the body's end must be read, not waited for behind it.
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split(" ", 2)[1])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        content = await reader.readexactly(int(headers.get("content-length", "0")))
        seconds = time.perf_counter() - began
        problem = "" if status == 200 else content[:KEPT_BYTES].decode(errors="replace")
        answer = Answer(status, seconds, headers.get("retry-after"), problem)
        return answer, self.keep and headers.get("connection") != "close"

    def close(self) -> None:
        """Close what is kept."""
        for connection in self._rested:
            connection.writer.close()
        self._rested.clear()
