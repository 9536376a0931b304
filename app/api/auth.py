"""API keys, where any are configured.

For: the routes that cost something or tell something; health checks and the page stay open.
Does not know: who holds which key; keys are compared, never stored elsewhere or logged.
"""

import hmac
from collections.abc import Iterable

from fastapi import HTTPException, Request
from fastapi.security import APIKeyHeader, HTTPBearer
from pydantic import SecretStr

from app.settings import Settings

bearer_scheme = HTTPBearer(auto_error=False, description="One of the service's API keys, where it has any.")
header_scheme = APIKeyHeader(name="X-API-Key", auto_error=False, description="The same key, as a header of its own.")


def matches_any(offered: str, keys: Iterable[SecretStr]) -> bool:
    """Whether `offered` is one of `keys`, in a time that tells nothing about how much of any is right."""
    found = False
    for key in keys:  # all of them, each time
        found |= hmac.compare_digest(offered.encode(), key.get_secret_value().encode())
    return found


async def require_key(request: Request) -> None:
    """Let a request with a valid key through, or any where no keys are configured.

    Raises:
        HTTPException: 401, with no word on what was wrong with the key.
    """
    settings: Settings = request.app.state.settings
    if not settings.api_keys:
        return
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    offered = token.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
    if not matches_any(offered, settings.api_keys):
        raise HTTPException(401, "A valid API key is needed.", {"WWW-Authenticate": "Bearer"})
