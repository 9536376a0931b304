"""How often one client may ask.

For: refusing, before a body is read, a client that asks more often than `Settings.rate_limit` says. A client is who
brings a valid key, and without one the address it calls from.
Does not know: what is asked; the queue, which bounds all clients together (`app.engine.batcher`).
Source: `limits`' sliding window counter; the fields of draft-ietf-httpapi-ratelimit-headers.

Memory is bounded whoever calls: addresses share a fixed number of counters, told apart by a hash that nobody outside
can compute.
"""

import math
import secrets
import time
from hashlib import blake2b
from ipaddress import IPv6Address, ip_address
from typing import Final

from fastapi import Request
from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from app.api.auth import find_key, offered_key
from app.engine.errors import Unavailable
from app.settings import Settings

COUNTERS: Final = 4096  # for addresses; two that share one are two in 4096
IPV6_NETWORK_BITS: Final = 64  # what one customer of a provider has at least


class RateLimited(Unavailable):
    """This client has asked as often as it may for now.

    Args:
        detail: how often that is.
        retry_after: seconds after which it may ask again.
    """


class RateLimit:
    """A dependency of routes; lets everyone through where no limit is configured."""

    def __init__(self, settings: Settings) -> None:
        self._keys = (*settings.api_keys, *settings.admin_keys)
        self._salt = secrets.token_bytes(16)
        self._rate = None if settings.rate_limit is None else parse(settings.rate_limit)
        # The storage starts a thread, so there is none without need.
        self._limiter = None if self._rate is None else SlidingWindowCounterRateLimiter(MemoryStorage())

    async def __call__(self, request: Request) -> None:
        """Count a request; the answer to it, whatever it is, tells the state of the limit.

        Raises:
            RateLimited: it is one too many.
        """
        if self._rate is None or self._limiter is None:
            return
        client = self.counter(offered_key(request), request.client.host if request.client else "")
        allowed = self._limiter.hit(self._rate, client)
        state = self._limiter.get_window_stats(self._rate, client)
        # Rounded up, and never 0: who comes back then is let in.
        reset = max(1, math.ceil(state.reset_time - time.time()))
        request.state.headers = {
            "RateLimit-Policy": f'"default";q={self._rate.amount};w={self._rate.get_expiry()}',
            "RateLimit": f'"default";r={state.remaining if allowed else 0};t={reset}',
        }
        if not allowed:
            detail = f"A client may ask {self._rate.amount} times in {self._rate.get_expiry()} seconds."
            raise RateLimited(detail, reset)

    def counter(self, offered: bytes, address: str) -> str:
        """What counts a client: its key's position, or its address. A wrong key is as good as none."""
        key = find_key(offered, self._keys)
        if key is not None:
            return f"key {key}"
        digest = blake2b(_network(address), digest_size=8, key=self._salt).digest()
        return f"address {int.from_bytes(digest) % COUNTERS}"


def _network(host: str) -> bytes:
    """The address, of IPv6 only the part that its user cannot choose."""
    try:
        address = ip_address(host)
    except ValueError:
        return host.encode()
    if isinstance(address, IPv6Address):
        return (address.ipv4_mapped or address).packed[: IPV6_NETWORK_BITS // 8]
    return address.packed
