"""What surrounds every request: its id, its log line, its metrics, the last net under it, and its answer's headers.

For: the whole application, as plain ASGI, so that streaming and the client's disconnection pass through untouched.
Does not know: routes, beyond the template of the one that matched. The path itself is never logged, for a client may
write anything there.
"""

import re
import time
from collections.abc import Mapping
from typing import Final
from uuid import uuid4

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from app.api.metrics import Metrics
from app.api.problems import problem_response
from app.logging import get_logger
from app.middleware.cors import Cors
from app.settings import Settings

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_UNMATCHED: Final = "unmatched"
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_QUIET: Final = frozenset({"/health/live", "/health/ready", "/health", "/metrics"})
"""Routes polled all day: logged at debug level."""

SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "media-src 'self' blob:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def request_id_from(headers: Headers) -> str:
    """The client's `X-Request-ID` where it is harmless, else a new one."""
    offered = headers.get("x-request-id", "")
    return offered if _REQUEST_ID.fullmatch(offered) else uuid4().hex


class RequestMiddleware:
    """Gives each request an id, one log line, one measurement, and its answer the headers that every answer has."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_from(Headers(scope=scope))
        scope.setdefault("state", {})["request_id"] = request_id
        began = time.perf_counter()
        status = 0

        async def stamped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                for name, value in {**scope["state"].get("headers", {}), **SECURITY_HEADERS}.items():
                    headers.setdefault(name, value)
            await send(message)

        with bound_contextvars(request_id=request_id), self._metrics.in_flight.track_inprogress():
            try:
                await self._app(scope, receive, stamped)
            finally:
                self._record(scope, status, time.perf_counter() - began)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", _UNMATCHED)
        self._metrics.request.labels(route=route, status=str(status)).observe(seconds)
        level = "debug" if route in _QUIET else "info"
        getattr(get_logger(), level)(
            "request",
            method=scope["method"] if scope["method"] in _METHODS else "other",
            route=route,
            status=status,
            ms=round(seconds * 1000, 1),
        )


class SafetyNet:
    """Answers an exception that nobody handled as an internal error, and logs its type and place.

    It goes no further, since a server above would print its message, which may quote what the client sent.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        begun = False

        async def noticed(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, noticed)
        except Exception as error:
            if scope["type"] != "http":
                raise
            log = get_logger()
            log.error("unhandled", exc_info=error)
            if not begun:
                await problem_response(Request(scope), error)(scope, receive, send)


def install_middleware(app: FastAPI, settings: Settings, metrics: Metrics) -> None:
    """Put everything around the routes. What is added last lies outermost."""
    app.add_middleware(SafetyNet)
    if settings.cors_origins:
        # Outside the net, so that a page from elsewhere can read errors too.
        app.add_middleware(Cors, allow_origins=settings.cors_origins)
    app.add_middleware(RequestMiddleware, metrics=metrics)
