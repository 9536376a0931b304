"""Rate limit of each client (`Settings.rate_limit`), with draft-ietf-httpapi-ratelimit-headers.

A client is a valid API key, or an address. Memory is bounded: addresses share a fixed number of counters by keyed hash.
"""

import math
import secrets
import time
from collections.abc import Sequence
from hashlib import blake2b
from ipaddress import IPv6Address, ip_address
from typing import Final

from fastapi import Request
from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from pydantic import SecretStr

from app.api.auth import find_key, offered_key
from app.errors import RateLimited

COUNTERS: Final = 4096  # for addresses: two share one with a probability of 1/4096
IPV6_NETWORK_BITS: Final = 64  # the smallest network that a provider assigns to one customer


class RateLimit:
    """Dependency of the rate-limited routes.

    Args:
        rate: such as "600/minute".
        keys: the valid API keys.
    """

    def __init__(self, rate: str, keys: Sequence[SecretStr] = ()) -> None:
        self._rate, self._keys = parse(rate), keys
        self._salt = secrets.token_bytes(16)
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())  # the storage starts a thread

    async def __call__(self, request: Request) -> None:
        """Count a request before its body is read, and set the RateLimit headers of its response.

        Raises:
            RateLimited: the limit is exceeded.
        """
        client = self.counter(offered_key(request), request.client.host if request.client else "")
        allowed = self._limiter.hit(self._rate, client)
        window = self._limiter.get_window_stats(self._rate, client)
        reset = max(1, math.ceil(window.reset_time - time.time()))  # rounded up: a retry then must be allowed
        amount, expiry = self._rate.amount, self._rate.get_expiry()
        request.state.headers = {
            "RateLimit-Policy": f'"default";q={amount};w={expiry}',
            "RateLimit": f'"default";r={window.remaining if allowed else 0};t={reset}',
        }
        if not allowed:
            raise RateLimited(f"A client may ask {amount} times in {expiry} seconds.", reset)

    def counter(self, offered: bytes, address: str) -> str:
        """Return the name of a client's counter. An invalid key counts as none."""
        key = find_key(offered, self._keys)
        if key is not None:
            return f"key {key}"
        digest = blake2b(_network(address), digest_size=8, key=self._salt).digest()
        return f"address {int.from_bytes(digest) % COUNTERS}"


def _network(host: str) -> bytes:
    """Return the address; of an IPv6 address only the network, because its user chooses the rest."""
    try:
        address = ip_address(host)
    except ValueError:
        return host.encode()
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).packed[: IPV6_NETWORK_BITS // 8]  # an IPv4 address is shorter than that
