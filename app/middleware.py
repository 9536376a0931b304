"""ASGI middleware around every request: request id, access log, metrics, response headers, CORS, HEAD, error handler.

Pure ASGI, so that streamed bodies and `http.disconnect` reach the routes unchanged.
"""

import re
import time
from collections.abc import Mapping
from random import getrandbits
from typing import Final

from fastapi import FastAPI, HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from app.api.metrics import Metrics
from app.api.problems import VERSION_PREFIX, problem_response
from app.logging import get_logger
from app.settings import Settings

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_POLLED: Final = frozenset({"/health/live", "/health/ready", "/health", "/metrics"})
"""Routes that monitoring requests all the time; logged at debug level."""

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


def request_id_of(scope: Scope) -> str:
    """Return the id that a request has in its header X-Request-ID, or a new one where that is none."""
    offered = Headers(scope=scope).get("x-request-id", "")
    # Not uuid4: a system call gives up the interpreter, and under load the loop waits to get it back.
    return offered if _REQUEST_ID.fullmatch(offered) else f"{getrandbits(128):032x}"


class RequestContextMiddleware:
    """Gives each request an id, a log line and a measured duration, and each response the common headers."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        start = time.perf_counter()
        status = 0

        async def send_with_headers(message: Message) -> None:
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
                await self._app(scope, receive, send_with_headers)
            finally:
                self._record(scope, status, time.perf_counter() - start)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        # The route's template, never the path: a client may write anything into a path.
        route = getattr(scope.get("route"), "path", "unmatched")
        self._metrics.request.labels(route=route, status=str(status)).observe(seconds)
        log = get_logger()
        (log.debug if route in _POLLED else log.info)(
            "request",
            method=scope["method"] if scope["method"] in _METHODS else "other",
            route=route,
            status=status,
            ms=round(seconds * 1000, 1),
        )


class ProblemCORSMiddleware(CORSMiddleware):
    """Starlette's CORS middleware, which refuses a preflight request with a problem response."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        try:
            await super().__call__(scope, receive, send)
        except HTTPException as error:  # of `preflight_response`: the middleware inside lets none through
            response = await problem_response(Request(scope), error)
            await response(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        """Return the response to an allowed preflight request.

        Raises:
            HTTPException: the request is not allowed.
        """
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        headers = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
        raise HTTPException(response.status_code, bytes(response.body).decode() + ".", headers)


class UnhandledErrorMiddleware:
    """Answers an unhandled exception with an internal error, and logs its type and traceback.

    The exception is not raised again: a server would print its message, which may quote content.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        started = False

        async def send_and_note(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception as error:
            if scope["type"] != "http":
                raise
            get_logger().error("unhandled exception", exc_info=error)
            if not started:
                response = await problem_response(Request(scope), error)
                await response(scope, receive, send)


class VersionMiddleware:
    """Serves every path under `/v1` too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "http" and scope["path"].startswith(f"{VERSION_PREFIX}/"):
            scope["root_path"] = VERSION_PREFIX  # routes match what follows
        await self._app(scope, receive, send)


class HeadMiddleware:
    """Answers HEAD as GET without the body (RFC 9110, section 9.3.2); FastAPI's routes refuse HEAD."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        get_scope = {**scope, "method": "GET"}
        try:
            await self._app(get_scope, receive, send_without_body)
        finally:
            scope["route"] = get_scope.get("route")  # for the access log


def install_middleware(app: FastAPI, settings: Settings, metrics: Metrics) -> None:
    """Add the middleware around the routes, from the innermost to the outermost."""
    app.add_middleware(HeadMiddleware)
    app.add_middleware(VersionMiddleware)
    app.add_middleware(UnhandledErrorMiddleware)
    if settings.cors_origins:
        # Outside the error handler, so that a page of another origin can read errors too.
        app.add_middleware(
            ProblemCORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("Authorization", "X-API-Key", "X-Request-ID"),
            expose_headers=("X-Request-ID", "Retry-After", "RateLimit", "RateLimit-Policy"),
            max_age=600,  # seconds
        )
    if settings.trusted_proxies:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=list(settings.trusted_proxies))
    app.add_middleware(RequestContextMiddleware, metrics=metrics)
