"""A connection's last moments, when its answer comes before the peer has said everything.

For: answers that reach a peer which is still sending. A socket that is closed with something unread in it is reset, and
a reset throws away what the peer has not read yet: its answer. So the connection is closed for writing alone, what
still arrives is read and dropped for a while, and then it ends.
Does not know: HTTP.
Source: RFC 9112, section 9.6 (tear-down).
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

LINGER_SECONDS: Final = 2.0
LINGER_BYTES: Final = 32 * 2**20  # what is sent past a refused body's limit by whoever sends all of it before reading


class LingeringTransport(asyncio.Transport):
    """A transport that does not cut off whoever is still sending.

    Args:
        transport: what carries the bytes.
        loop: the event loop it belongs to.
        sending: whether the peer has more to say; asked when the connection is to be closed.
        on_linger: called as lingering begins; from then on `is_closing` is true.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        sending: Callable[[], bool],
        on_linger: Callable[[], None],
    ) -> None:
        super().__init__()
        self._transport, self._loop, self._sending, self._on_linger = transport, loop, sending, on_linger
        self._end: asyncio.TimerHandle | None = None
        self._left = LINGER_BYTES

    @property
    def lingering(self) -> bool:
        """Whether what arrives is only to be dropped."""
        return self._end is not None

    def linger(self) -> None:
        """Send what has been written and no more, drop what arrives, and end soon."""
        if self.is_closing():
            return
        if not self._transport.can_write_eof():
            self._transport.close()
            return
        self._end = self._loop.call_later(LINGER_SECONDS, self._transport.abort)
        self._transport.write_eof()
        if not self._transport.is_reading():
            self._transport.resume_reading()
        self._on_linger()

    def drop(self, size: int) -> None:
        """Count what has arrived while lingering."""
        self._left -= size
        if self._left < 0:
            self._transport.abort()

    def lost(self) -> None:
        """The connection is gone; there is nothing left to end."""
        if self._end is not None:
            self._end.cancel()

    # ---- what a protocol asks of its transport ----

    def close(self) -> None:
        """Close when what has been written has been sent; linger where the peer is still sending."""
        if self.is_closing():
            return
        if self._sending():
            self.linger()
        else:
            self._transport.close()

    def is_closing(self) -> bool:
        """Whether nothing more can be written."""
        return self.lingering or self._transport.is_closing()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send; once the end has begun, nothing."""
        if not self.lingering:
            self._transport.write(data)

    def pause_reading(self) -> None:
        """Hear no more for now; while lingering, everything is heard."""
        if not self.lingering:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Hear on."""
        if not self.lingering:
            self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What is known of the socket."""
        return self._transport.get_extra_info(name, default)
