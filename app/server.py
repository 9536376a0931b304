"""The server process: uvicorn with a shutdown in steps."""

# On SIGTERM or Ctrl-C the service reports that it is not ready, and serves on for the grace period. Then it stops
# listening, finishes every accepted request and exits 0. A second signal skips the grace period. After a failure it
# exits 1 within seconds: waiting requests have been answered, and uploads are cut off.

import asyncio
import logging
import os
import socket
import threading
import time
from types import FrameType
from typing import Final

import uvicorn

from app.engine.lifecycle import Lifecycle, Phase
from app.http.protocol import protocol_within
from app.logging import get_logger
from app.main import create_app
from app.settings import Settings

EXIT_FAILED: Final = 1
KEEP_ALIVE: Final = 15  # seconds
IDLE_CLOSE_DELAY: Final = 0.1  # seconds between the last accepted connection and the closing of idle ones
FAILED_SECONDS: Final = 5  # for responses being sent when the service has failed
KILL_SECONDS: Final = 30.0  # after which a failed process that is still running is ended


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


def serve(settings: Settings) -> int:
    """Serve until a signal or a failure; return the exit status of the process."""
    server: Server | None = None
    kill = threading.Timer(KILL_SECONDS, os._exit, (EXIT_FAILED,))
    kill.daemon = True

    def shut_down() -> None:
        kill.start()  # a broken device may block the shutdown
        if server is not None:
            server.config.timeout_graceful_shutdown = FAILED_SECONDS
            server.should_exit = True

    app = create_app(settings, on_failure=shut_down)
    logging.captureWarnings(True)
    lifecycle: Lifecycle = app.state.engine.lifecycle
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        http=protocol_within(settings.body_timeout),
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
