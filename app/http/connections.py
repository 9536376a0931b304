"""Limits on the number of open connections, in all and from one address; addresses as keys of counters."""

# A connection beyond a limit is accepted nevertheless, as one of a few spare connections: only its head tells whether
# it is a health check, which is answered; any other request is refused. So the descriptors of the process never run
# out, and an orchestrator can still tell a busy service from a dead one.

import secrets
import time
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv6Address, ip_address
from typing import Final, Protocol

from app.errors import ServiceError, TooManyConnections
from app.logging import get_logger

IPV6_NETWORK_BITS: Final = 64  # the smallest network that a provider assigns to one customer
COUNTERS: Final = 4096  # for addresses, so that memory is bounded: two share one with a probability of 1/4096
SPARE_CONNECTIONS: Final = 32
LOG_SECONDS: Final = 1.0  # at most one log line about closed connections in this time: a flood must not fill the log


@lru_cache(maxsize=1024)
def network_of(host: str) -> bytes:
    """Return an address as bytes; of an IPv6 address only the network, because its user chooses the rest."""
    try:
        address = ip_address(host)
    except ValueError:
        return host.encode()
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).packed[: IPV6_NETWORK_BITS // 8]  # an IPv4 address is shorter than that


class AddressCounters:
    """Assigns one of `COUNTERS` counters to each address, by a hash whose key differs from process to process."""

    def __init__(self) -> None:
        self._salt = secrets.token_bytes(16)

    def of(self, host: str) -> int:
        """Return the number of an address's counter."""
        digest = blake2b(network_of(host), digest_size=8, key=self._salt).digest()
        return int.from_bytes(digest) % COUNTERS


class Closable(Protocol):
    """A connection that can be closed at once."""

    def abort(self) -> None:
        """Close without sending what is still to be sent."""


class Connections:
    """The open connections of one server.

    Args:
        total: maximum number, beside the spare ones; None for no limit.
        per_address: maximum number from one address, or from one IPv6 network; None for no limit.
        is_proxy: whether an address is that of a trusted proxy, to which `per_address` does not apply.
        on_refusal: called with the error's code for each connection or request that is refused before the application.
    """

    def __init__(
        self,
        total: int | None = None,
        per_address: int | None = None,
        is_proxy: Callable[[str], bool] = lambda _: False,
        on_refusal: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._total, self._per_address, self._is_proxy, self.on_refusal = total, per_address, is_proxy, on_refusal
        self._counted: dict[Closable, bytes | None] = {}
        self._by_address: Counter[bytes] = Counter()
        self._spare: dict[Closable, TooManyConnections] = {}  # the oldest first
        self._closed, self._logged = 0, -LOG_SECONDS

    def open(self, connection: Closable, host: str | None) -> ServiceError | None:
        """Count a new connection.

        Args:
            connection: its oldest spare predecessor is closed if there are too many.
            host: the peer's address; None if it has none, as on a Unix socket.

        Returns:
            None, or the error of every request but a health check on this connection.
        """
        address = None if host is None or self._is_proxy(host) else network_of(host)
        detail = ""
        if self._total is not None and len(self._counted) >= self._total:
            detail = f"The service keeps at most {self._total} connections."
        elif self._per_address is not None and address is not None and self._by_address[address] >= self._per_address:
            detail = f"The service keeps at most {self._per_address} connections from one address."
        if not detail:
            self._counted[connection] = address
            if address is not None:
                self._by_address[address] += 1
            return None
        if len(self._spare) >= SPARE_CONNECTIONS:
            self._close_oldest()
        error = self._spare[connection] = TooManyConnections(detail)
        return error

    def close(self, connection: Closable) -> None:
        """Forget a connection that is closed."""
        self._spare.pop(connection, None)
        address = self._counted.pop(connection, None)
        if address is not None:
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]

    def _close_oldest(self) -> None:
        connection = next(iter(self._spare))
        error = self._spare.pop(connection)
        connection.abort()
        self.on_refusal(error.code)
        self._closed += 1
        now = time.monotonic()
        if now - self._logged >= LOG_SECONDS:
            get_logger().warning("connections closed", reason=error.code, closed=self._closed, open=len(self._counted))
            self._closed, self._logged = 0, now
