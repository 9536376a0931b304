"""Cross-origin requests, where `Settings.cors_origins` allows any.

For: pages from elsewhere that ask this service from a browser.
Does not know: who may ask; a key is a header like any other, and no cookie is ever looked at.
Source: the Fetch standard's CORS protocol, as Starlette keeps it; refusals here have the shape of every other error.
"""

from collections.abc import Sequence
from typing import Final

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.problems import problem_response

ASKED: Final = ("Authorization", "X-API-Key", "X-Request-ID")
"""Headers a page may send beside those that any may."""
TOLD: Final = ("X-Request-ID", "Retry-After", "RateLimit", "RateLimit-Policy")
"""Headers of the answer a page may read beside those."""


class Cors(CORSMiddleware):
    """Starlette's middleware, whose refusal of a preflight request is a problem."""

    def __init__(self, app: ASGIApp, allow_origins: Sequence[str]) -> None:
        super().__init__(
            app, allow_origins, allow_methods=("GET", "POST"), allow_headers=ASKED, expose_headers=TOLD, max_age=600
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """Say whether the request that a browser announces may follow."""
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        kept = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
        return _Refusal(HTTPException(response.status_code, bytes(response.body).decode() + ".", kept))


class _Refusal(Response):
    """A problem that learns only when it is sent which request it answers."""

    def __init__(self, error: HTTPException) -> None:
        super().__init__(status_code=error.status_code)
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await problem_response(Request(scope), self._error)(scope, receive, send)
