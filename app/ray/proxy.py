"""Middleware of Ray Serve's HTTP proxies, which makes problems of the errors that they answer themselves."""

# Ray Serve calls `middleware` where RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH is `app.ray.proxy:middleware`.

import asyncio
import re
from http import HTTPStatus
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import MEDIA_TYPE, VERSION_PREFIX, problem_body
from app.errors import DeadlinePassed, NotReady, QueueFull, ServiceError, UnknownHost
from app.http.protocol import WRONG_HOST, host_name
from app.logging import get_logger
from app.middleware import SECURITY_HEADERS, request_id_of
from app.server import allowed_hosts
from app.settings import Settings

OF_SERVICE: Final = "content-security-policy"
"""A header of every response of the service, and of none of the proxy's own."""
_CONTROL: Final = re.compile(
    rb"serve[-_]multiplexed[-_]model[-_]id|x-session-id|x-request-(timeout-seconds|disconnect-disabled)"
)
"""Request headers that change how the proxy treats a request."""


def middleware() -> list[Middleware]:
    """Return the middleware, with the settings of the proxy's environment."""
    settings = Settings()
    return [Middleware(ProxyMiddleware, settings=settings)]


class ProxyMiddleware:
    """Bounds what the proxy reads, checks the Host header, and replaces the proxy's own errors by problems.

    Args:
        app: the proxy.
        settings: the accepted hosts, and the limits of a body.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings, self._hosts = app, settings, allowed_hosts(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(scope)
        kept = [(name, value) for name, value in scope["headers"] if not _CONTROL.fullmatch(name.lower())]
        scope = {**scope, "headers": kept, "state": {**scope.get("state", {}), "request_id": request_id}}
        MutableHeaders(raw=kept)["x-request-id"] = request_id
        if not self._is_accepted(scope):
            await _refuse(UnknownHost(WRONG_HOST), scope, receive, send)
            return
        started = False
        own: Message | None = None

        async def send_unless_own(message: Message) -> None:
            nonlocal started, own
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if message["status"] >= HTTPStatus.BAD_REQUEST and OF_SERVICE not in headers:
                    own = message
                    return
                headers["x-request-id"] = request_id
                started = True
            if started:
                await send(message)

        try:
            await self._app(scope, self._bounded(scope, receive), send_unless_own)
        except Exception as error:
            log = get_logger()
            log.error("proxy failed", exc_info=error)
        if not started:
            await _refuse(_meaning(own), scope, receive, send)

    def _is_accepted(self, scope: Scope) -> bool:
        if self._hosts is None:
            return True
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        return len(hosts) == 1 and host_name(hosts[0]) in self._hosts

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """Return `receive` that ends past the limit of the body, which the service then refuses.

        The proxy reads a body as fast as it arrives, also while the request waits for a replica.
        """
        recording = scope["path"].removeprefix(VERSION_PREFIX) == "/recordings"
        left = self._settings.recording_max_body_bytes if recording else self._settings.max_body_bytes

        async def receive_bounded() -> Message:
            nonlocal left
            if left < 0:
                await asyncio.Event().wait()  # until the proxy has the response, and cancels
            message = await receive()
            left -= len(message.get("body", b""))
            return message

        return receive_bounded


def _meaning(own: Message | None) -> ServiceError:
    """Return the error that a response of the proxy means; None is one that is not given at all."""
    status = None if own is None else own["status"]
    if own is not None and status == HTTPStatus.TOO_MANY_REQUESTS:
        retry_after = Headers(raw=own["headers"]).get("retry-after", "1")
        return QueueFull("As many requests wait for a replica as may.", max(1, int(retry_after)))
    if status == HTTPStatus.REQUEST_TIMEOUT:
        return DeadlinePassed("No answer within the time limit of the proxy.")
    return NotReady("There is no replica, or the one that had the request has ended.")


async def _refuse(error: ServiceError, scope: Scope, receive: Receive, send: Send) -> None:
    body = problem_body(Request(scope), error).model_dump()
    headers = {**SECURITY_HEADERS, "X-Request-ID": scope["state"]["request_id"], **error.headers}
    await JSONResponse(body, error.status, headers, MEDIA_TYPE)(scope, receive, send)
