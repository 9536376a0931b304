"""Authentication by API key, in `Authorization: Bearer` or `X-API-Key`. Keys are compared, never logged."""

import hmac
import math
import time
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final

from fastapi import Depends, HTTPException, Request
from fastapi.params import Depends as Dependency
from fastapi.security import APIKeyHeader, HTTPBearer
from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from pydantic import SecretStr

from app.errors import RateLimited
from app.http.connections import AddressCounters
from app.settings import Settings

SCHEMES: Final[Sequence[Dependency]] = (
    Depends(HTTPBearer(auto_error=False, description="One of the service's API keys, where it has any.")),
    Depends(APIKeyHeader(name="X-API-Key", auto_error=False, description="The same key, as a header of its own.")),
)
"""Dependencies that document the two headers in OpenAPI; they refuse no request."""
CHALLENGE: Final = {"WWW-Authenticate": "Bearer"}


class FailedKeys:
    """Limit of the invalid keys that an address may offer, so that keys cannot be guessed.

    Beyond the limit a valid key is refused too, or a refusal would tell that a guess was wrong. A key that was valid
    from the address before is accepted: the clients behind one proxy or router share an address.

    Args:
        rate: such as "60/minute".
    """

    def __init__(self, rate: str) -> None:
        self._rate = parse(rate)
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._addresses = AddressCounters()
        self._proven: set[tuple[int, SecretStr]] = set()  # bounded by the counters times the keys

    def check(self, host: str, key: SecretStr | None) -> None:
        """Count a key that an address has offered; None if it is not valid.

        Raises:
            RateLimited: the address has offered too many invalid keys.
        """
        counter = self._addresses.of(host)
        if (counter, key) in self._proven:
            return
        if key is None:
            allowed = self._limiter.hit(self._rate, str(counter))
        else:
            allowed = self._limiter.test(self._rate, str(counter))
        if not allowed:
            reset = self._limiter.get_window_stats(self._rate, str(counter)).reset_time
            detail = f"An address may offer {self._rate.amount} invalid keys in {self._rate.get_expiry()} seconds."
            raise RateLimited(detail, max(1, math.ceil(reset - time.time())))
        if key is not None:
            self._proven.add((counter, key))


def find_key(offered: bytes, keys: Iterable[SecretStr]) -> int | None:
    """Return the position of `offered` in `keys`, or None. The time taken reveals neither content nor length."""
    found = None
    digest = sha256(offered).digest()
    for position, key in enumerate(keys):  # without an early exit, for a constant time
        if hmac.compare_digest(digest, sha256(key.get_secret_value().encode()).digest()):
            found = position
    return found


def offered_key(request: Request) -> bytes:
    """Return the key of a request as it was sent; empty when there is none."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    offered = token.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
    return offered.encode("latin-1")  # Starlette decodes headers as Latin-1


async def require_key(request: Request) -> None:
    """Dependency: a valid key is required where any are configured.

    Raises:
        HTTPException: 401, without saying what is wrong with the key.
        RateLimited: too many invalid keys from this address.
    """
    settings: Settings = request.app.state.settings
    if settings.api_keys and not _is_valid(request, (*settings.api_keys, *settings.admin_keys)):
        raise HTTPException(401, "A valid API key is needed.", CHALLENGE)


async def require_admin(request: Request) -> None:
    """Dependency: an administrator's key is required.

    Raises:
        HTTPException: 403 where no such key is configured; 401 without a valid one.
        RateLimited: too many invalid keys from this address.
    """
    settings: Settings = request.app.state.settings
    if not settings.admin_keys:
        raise HTTPException(403, "The service has no administrator's key configured, so this is closed.")
    if not _is_valid(request, settings.admin_keys):
        raise HTTPException(401, "A valid administrator's key is needed.", CHALLENGE)


def _is_valid(request: Request, keys: Sequence[SecretStr]) -> bool:
    """Whether a request has one of the keys.

    Raises:
        RateLimited: its address has offered too many invalid ones.
    """
    offered = offered_key(request)
    if not offered:
        return False
    position = find_key(offered, keys)
    failed: FailedKeys | None = getattr(request.app.state, "failed_keys", None)
    if failed is not None:
        failed.check(request.client.host if request.client else "", None if position is None else keys[position])
    return position is not None
