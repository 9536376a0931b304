"""Rate limit of each client (`Settings.rate_limit`), with draft-ietf-httpapi-ratelimit-headers.

A client is a valid API key, or an address. Memory is bounded: addresses share a fixed number of counters.
"""

import math
import time
from collections.abc import Sequence

from fastapi import Request
from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from pydantic import SecretStr

from app.api.auth import find_key, offered_key
from app.errors import RateLimited
from app.http.connections import AddressCounters


class RateLimit:
    """Dependency of the rate-limited routes.

    Args:
        rate: such as "600/minute".
        keys: the valid API keys.
    """

    def __init__(self, rate: str, keys: Sequence[SecretStr] = ()) -> None:
        self._rate, self._keys = parse(rate), keys
        self._addresses = AddressCounters()
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())  # the storage starts a thread

    async def __call__(self, request: Request) -> None:
        """Count a request before its body is read, and set the RateLimit headers of its response.

        Raises:
            RateLimited: the limit is exceeded.
        """
        self.count(request)

    def count(self, request: Request, requests: int = 1) -> None:
        """Count a request as that many, and set the RateLimit headers of its response.

        Raises:
            RateLimited: fewer are left.
        """
        client = self.counter(offered_key(request), request.client.host if request.client else "")
        allowed = self._limiter.hit(self._rate, client, cost=requests)
        window = self._limiter.get_window_stats(self._rate, client)
        reset = max(1, math.ceil(window.reset_time - time.time()))  # rounded up: a retry then must be allowed
        amount, expiry = self._rate.amount, self._rate.get_expiry()
        request.state.headers = {
            "RateLimit-Policy": f'"default";q={amount};w={expiry}',
            "RateLimit": f'"default";r={window.remaining if allowed or requests > 1 else 0};t={reset}',
        }
        if not allowed:
            detail = f"A client may ask {amount} times in {expiry} seconds"
            counted = f", and each further item of this batch counts: {requests}." if requests > 1 else "."
            raise RateLimited(detail + counted, reset)

    def counter(self, offered: bytes, address: str) -> str:
        """Return the name of a client's counter. An invalid key counts as none."""
        key = find_key(offered, self._keys)
        return f"address {self._addresses.of(address)}" if key is None else f"key {key}"
