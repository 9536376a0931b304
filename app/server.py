"""The server process: uvicorn with a shutdown in steps."""

# On SIGTERM or Ctrl-C the service reports that it is not ready, and serves on for the grace period. Then it stops
# listening, finishes every accepted request and exits 0. A second signal skips the grace period. After a failure it
# exits 1 within seconds: waiting requests have been answered, and uploads are cut off.

import asyncio
import errno
import logging
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import ip_address, ip_network
from types import FrameType
from typing import Final

import uvicorn

from app.api.metrics import Metrics
from app.engine.lifecycle import Lifecycle, Phase
from app.http.connections import SPARE_CONNECTIONS, Connections
from app.http.protocol import LOOPBACK_NAMES, configured
from app.logging import get_logger
from app.main import create_app
from app.settings import Settings
from model.errors import ConfigError

EXIT_FAILED: Final = 1
KEEP_ALIVE: Final = 15  # seconds
IDLE_CLOSE_DELAY: Final = 0.1  # seconds between the last accepted connection and the closing of idle ones
FAILED_SECONDS: Final = 5  # for responses being sent when the service has failed
KILL_SECONDS: Final = 30.0  # after which a failed process that is still running is ended


OWN_DESCRIPTORS: Final = 128  # files, pipes of decoder processes and the event loop's
SWITCH_INTERVAL: Final = 0.0002
"""Seconds after which a thread that computes hands the interpreter to the event loop, which asks for it several times a
request; Python's default is 5 ms."""
MAX_BACKLOG: Final = 2048  # connections waiting to be accepted, as in uvicorn


class Server(uvicorn.Server):
    """Uvicorn's server; a signal advances the lifecycle.

    Args:
        config: uvicorn's.
        lifecycle: of the service.
        grace: seconds to serve after the first signal.
    """

    def __init__(self, config: uvicorn.Config, lifecycle: Lifecycle, grace: float) -> None:
        super().__init__(config)
        self._lifecycle, self._grace = lifecycle, grace

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start the next step of the shutdown. Unlike uvicorn's handler, it does not re-raise the signal at the end."""
        del frame
        if self._lifecycle.advance(Phase.LEAVING):
            # In a thread: a signal handler may interrupt the writing of a log line, so it must not write another.
            threading.Thread(target=self._leave, args=(sig,), daemon=True).start()
        else:
            self._drain()

    def _leave(self, sig: int) -> None:
        get_logger().info("leaving", signal=sig, grace_seconds=self._grace)
        time.sleep(self._grace)
        self._drain()

    def _drain(self) -> None:
        self._lifecycle.advance(Phase.DRAINING)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, and close idle connections a moment later: a request may be arriving on one of them."""
        for server in self.servers:
            server.close()
        await asyncio.sleep(IDLE_CLOSE_DELAY)
        await super().shutdown(sockets)


def raise_descriptor_limit() -> int:
    """Raise the limit of open file descriptors as far as the system allows; return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # macOS allows fewer than it reports
        return soft
    return hard


def connection_limits(settings: Settings, descriptors: int) -> tuple[int, int, int]:
    """Return how many connections may be open, how many from one address, and how many may wait to be accepted.

    Half of the descriptors that the process can spare are for connections, the rest for uploaded files and for
    connections that are accepted together before those beyond the limit are closed.
    """
    free = max(4, descriptors - OWN_DESCRIPTORS - SPARE_CONNECTIONS)
    total = min(settings.max_connections, free // 2)
    # One address never takes all of them.
    per_address = min(settings.max_connections_per_address, max(1, total // 2))
    return total, per_address, min(MAX_BACKLOG, free // 4)


def allowed_hosts(settings: Settings) -> frozenset[str] | None:
    """Return the names that a request's Host may have; None for any.

    A page of another site can reach a service on a loopback address if its own name resolves to that address
    ("DNS rebinding"); the browser then names the site in Host.
    """
    names = frozenset(name.lower().rstrip(".") for name in settings.allowed_hosts)
    if "*" in names or not (names or _is_loopback(settings.host)):
        return None
    host = settings.host.lower()
    return names | LOOPBACK_NAMES | {f"[{host}]" if ":" in host else host}


def one_of(networks: Sequence[str]) -> Callable[[str], bool]:
    """Return a function that says whether an address is in one of the networks."""
    parsed = [ip_network(network) for network in networks]

    @lru_cache(maxsize=1024)
    def contains(host: str) -> bool:
        try:
            address = ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in parsed)

    return contains


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_address(host: str, port: int) -> None:
    """Check that the service can listen, before anything is loaded.

    Raises:
        ConfigError: the host is unknown, or the port is used by another process or not allowed.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as asyncio does
                if family == socket.AF_INET6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listener.bind(address)
    except OSError as error:
        hint = "; choose another with --port or EMMR_PORT" if error.errno in {errno.EADDRINUSE, errno.EACCES} else ""
        raise ConfigError(f"cannot listen on {host} port {port}: {error.strerror}{hint}") from error


def serve(settings: Settings) -> int:
    """Serve until a signal or a failure; return the exit status of the process.

    Raises:
        ConfigError: the service cannot listen on its address.
    """
    check_address(settings.host, settings.port)
    server: Server | None = None
    kill = threading.Timer(KILL_SECONDS, os._exit, (EXIT_FAILED,))
    kill.daemon = True

    def shut_down() -> None:
        kill.start()  # a broken device may block the shutdown
        if server is not None:
            server.config.timeout_graceful_shutdown = FAILED_SECONDS
            server.should_exit = True

    sys.setswitchinterval(SWITCH_INTERVAL)
    app = create_app(settings, on_failure=shut_down)
    logging.captureWarnings(True)
    lifecycle: Lifecycle = app.state.engine.lifecycle
    metrics: Metrics = app.state.metrics
    total, per_address, backlog = connection_limits(settings, raise_descriptor_limit())
    get_logger().info("connection limits", total=total, per_address=per_address, spare=SPARE_CONNECTIONS)
    connections = Connections(
        total,
        per_address,
        is_proxy=one_of(settings.trusted_proxies),
        on_refusal=lambda reason: metrics.rejected.labels(reason=reason).inc(),
    )
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        http=configured(
            head_seconds=settings.head_timeout, connections=connections, allowed_hosts=allowed_hosts(settings)
        ),
        proxy_headers=False,  # the application has its own `trusted_proxies`
        backlog=backlog,
        ws="none",  # an upgrade request is answered like any other
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=int(settings.drain_timeout) or 1,
    )
    server = Server(config, lifecycle, settings.grace_period)
    try:
        server.run()
    finally:
        kill.cancel()
    return EXIT_FAILED if lifecycle.phase is Phase.FAILED else 0
