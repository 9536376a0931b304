"""Lingering close of a connection whose client is still sending. Source: RFC 9112, section 9.6 (tear-down)."""

# Closing a socket with unread data resets the connection, and a reset discards the response the client has not read
# yet. So the connection is closed for writing only, and what arrives is discarded for a while before it is closed.

import asyncio
from collections.abc import Callable
from typing import Any, Final

LINGER_SECONDS: Final = 2.0
LINGER_BYTES: Final = 128 * 2**20  # above the body limit: some clients send a refused body to its end before reading


class LingeringTransport(asyncio.Transport):
    """A transport, as used by uvicorn, whose `close` lingers while the client is sending.

    Args:
        transport: of the connection.
        loop: its event loop.
        is_sending: whether the client has more to send; called on `close`.
        on_linger: called when lingering starts; `is_closing` is true from then on.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        is_sending: Callable[[], bool],
        on_linger: Callable[[], None],
    ) -> None:
        super().__init__()
        self._transport, self._loop, self._is_sending, self._on_linger = transport, loop, is_sending, on_linger
        self._timer: asyncio.TimerHandle | None = None
        self._bytes_left = LINGER_BYTES

    @property
    def lingering(self) -> bool:
        """Whether incoming data is to be discarded."""
        return self._timer is not None

    def linger(self) -> None:
        """Send what has been written, discard what arrives, and close after `LINGER_SECONDS` or `LINGER_BYTES`."""
        if self.is_closing():
            return
        if not self._transport.can_write_eof():
            self._transport.close()
            return
        self._timer = self._loop.call_later(LINGER_SECONDS, self._transport.abort)
        self._transport.write_eof()
        if not self._transport.is_reading():
            self._transport.resume_reading()
        self._on_linger()

    def discard(self, size: int) -> None:
        """Count bytes that arrived while lingering."""
        self._bytes_left -= size
        if self._bytes_left < 0:
            self._transport.abort()

    def connection_lost(self) -> None:
        """Cancel the timer; the connection is closed."""
        if self._timer is not None:
            self._timer.cancel()

    def close(self) -> None:
        """Close once what has been written is sent; linger if the client is still sending."""
        if self._is_sending():
            self.linger()
        elif not self.is_closing():
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def is_closing(self) -> bool:
        """Whether nothing more can be written."""
        return self.lingering or self._transport.is_closing()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send data, unless lingering or closed."""
        if not self.is_closing():
            self._transport.write(data)

    def pause_reading(self) -> None:
        """Pause reading, unless lingering."""
        if not self.lingering:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Resume reading."""
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Information about the socket."""
        return self._transport.get_extra_info(name, default)
