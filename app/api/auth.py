"""Who may ask: API keys, where any are configured, and the administrators' own.

For: the routes that cost something, tell something or change something; health checks and the page stay open.
Does not know: who holds which key; keys are compared, never stored elsewhere or logged.
"""

import hmac
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final

from fastapi import Depends, HTTPException, Request
from fastapi.params import Depends as Dependency
from fastapi.security import APIKeyHeader, HTTPBearer
from pydantic import SecretStr

from app.settings import Settings

bearer_scheme = HTTPBearer(auto_error=False, description="One of the service's API keys, where it has any.")
header_scheme = APIKeyHeader(name="X-API-Key", auto_error=False, description="The same key, as a header of its own.")

SCHEMES: Final[Sequence[Dependency]] = (Depends(bearer_scheme), Depends(header_scheme))
"""Let nobody in or out; they have the OpenAPI document say how a key is brought."""
CHALLENGE: Final = {"WWW-Authenticate": "Bearer"}


def find_key(offered: bytes, keys: Iterable[SecretStr]) -> int | None:
    """Which of `keys` was offered, in a time that tells nothing about how much of any is right, nor its length."""
    found = None
    given = sha256(offered).digest()
    for position, key in enumerate(keys):  # all of them, each time
        if hmac.compare_digest(given, sha256(key.get_secret_value().encode()).digest()):
            found = position
    return found


def offered_key(request: Request) -> bytes:
    """The key a request brings, as the bytes it was sent in; empty where there is none."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    offered = token.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
    return offered.encode("latin-1")  # how headers are decoded


async def require_key(request: Request) -> None:
    """Let a request with a valid key through, or any where no keys are configured.

    Raises:
        HTTPException: 401, with no word on what was wrong with the key.
    """
    settings: Settings = request.app.state.settings
    if settings.api_keys and find_key(offered_key(request), (*settings.api_keys, *settings.admin_keys)) is None:
        raise HTTPException(401, "A valid API key is needed.", CHALLENGE)


async def require_admin(request: Request) -> None:
    """Let a request with an administrator's key through, and nothing else.

    Raises:
        HTTPException: 403 where no such key is configured; 401 without a valid one.
    """
    settings: Settings = request.app.state.settings
    if not settings.admin_keys:
        raise HTTPException(403, "The service has no administrator's key configured, so this is closed.")
    if find_key(offered_key(request), settings.admin_keys) is None:
        raise HTTPException(401, "A valid administrator's key is needed.", CHALLENGE)
