"""The process that serves: uvicorn, with an orderly way out.

For: `emmr serve`. On SIGTERM (or Ctrl-C) the service first says it is not ready and serves on for the grace period,
then stops listening, finishes every accepted request and exits 0; a second signal skips the grace period. Once the
service has failed for good it exits 1, within seconds: whoever still waits has been told, and uploads are cut off.
Does not know: the application, beyond its lifecycle.
"""

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
LAST_LOOK: Final = 0.1  # seconds between the last connection that is taken and the end of those that say nothing
FAILED_SECONDS: Final = 5  # for answers on their way when the service has failed
LAST_SECONDS: Final = 30.0  # after which a failed process that has still not ended is ended


class Server(uvicorn.Server):
    """Uvicorn's server, whose reaction to a signal is the lifecycle's.

    Args:
        config: uvicorn's.
        lifecycle: told that the end is near.
        grace: seconds to serve on after the first signal.
    """

    def __init__(self, config: uvicorn.Config, lifecycle: Lifecycle, grace: float) -> None:
        super().__init__(config)
        self._lifecycle, self._grace = lifecycle, grace

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Leave, in steps. Unlike uvicorn's own, this does not end the process by the signal: a drain is a success."""
        del frame
        if self._lifecycle.advance(Phase.LEAVING):
            # On a thread of its own: a signal's handler may have interrupted a log line, and must not write another.
            threading.Thread(target=self._leave, args=(sig,), daemon=True).start()
        else:
            self._drain()

    def _leave(self, sig: int) -> None:
        get_logger().info("leaving", signal=sig, grace_seconds=self._grace)
        time.sleep(self._grace)
        self._drain()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections; only then, and not at once, close idle ones: a request may be on its way in one."""
        for server in self.servers:
            server.close()
        await asyncio.sleep(LAST_LOOK)
        await super().shutdown(sockets)

    def _drain(self) -> None:
        self._lifecycle.advance(Phase.DRAINING)
        self.should_exit = True


def serve(settings: Settings) -> int:
    """Serve until told to stop; the process's exit status."""
    server: Server | None = None
    last_resort = threading.Timer(LAST_SECONDS, os._exit, (EXIT_FAILED,))
    last_resort.daemon = True

    def end() -> None:
        last_resort.start()  # a broken device may keep even the way out waiting
        if server is not None:
            server.config.timeout_graceful_shutdown = FAILED_SECONDS
            server.should_exit = True

    app = create_app(settings, on_failure=end)
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
        ws="none",  # so that an upgrade is a request like any other, and answered as one
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=int(settings.drain_timeout) or 1,
    )
    server = Server(config, lifecycle, settings.grace_period)
    try:
        server.run()
    finally:
        last_resort.cancel()
    return EXIT_FAILED if lifecycle.phase is Phase.FAILED else 0
