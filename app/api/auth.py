"""Authentication by API key, in `Authorization: Bearer` or `X-API-Key`. Keys are compared, never logged."""

import hmac
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final

from fastapi import Depends, HTTPException, Request
from fastapi.params import Depends as Dependency
from fastapi.security import APIKeyHeader, HTTPBearer
from pydantic import SecretStr

from app.settings import Settings

SCHEMES: Final[Sequence[Dependency]] = (
    Depends(HTTPBearer(auto_error=False, description="One of the service's API keys, where it has any.")),
    Depends(APIKeyHeader(name="X-API-Key", auto_error=False, description="The same key, as a header of its own.")),
)
"""Dependencies that document the two headers in OpenAPI; they refuse no request."""
CHALLENGE: Final = {"WWW-Authenticate": "Bearer"}


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
    """
    settings: Settings = request.app.state.settings
    if settings.api_keys and find_key(offered_key(request), (*settings.api_keys, *settings.admin_keys)) is None:
        raise HTTPException(401, "A valid API key is needed.", CHALLENGE)


async def require_admin(request: Request) -> None:
    """Dependency: an administrator's key is required.

    Raises:
        HTTPException: 403 where no such key is configured; 401 without a valid one.
    """
    settings: Settings = request.app.state.settings
    if not settings.admin_keys:
        raise HTTPException(403, "The service has no administrator's key configured, so this is closed.")
    if find_key(offered_key(request), settings.admin_keys) is None:
        raise HTTPException(401, "A valid administrator's key is needed.", CHALLENGE)
