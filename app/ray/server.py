"""Clusters, and `emmr serve --engine ray`: the application on a cluster of this machine."""

import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import ray
from ray import serve as ray_serve
from ray.serve.schema import ApplicationStatus

from app.linux import erase_variables
from app.logging import configure_logging, get_logger
from app.server import EXIT_FAILED, check_address
from app.settings import SECRET_VARIABLES, Settings

NAME: Final = "emmr"
"""Of the application."""
ENVIRONMENT: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to Ray's makers
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "app.ray.proxy:middleware",
    "FORWARDED_ALLOW_IPS": "",  # the application has its own `trusted_proxies`
}
"""Of every process of the cluster."""
PROCESSORS: Final = 2
"""Of one replica of each deployment."""
LAST_CLUSTER: Final = Path(tempfile.gettempdir(), "ray", "ray_current_cluster")  # as documented by ray.init
"""Where `ray start` writes the address of the cluster of this machine."""
CONNECT_SECONDS: Final = 5.0
CHECK_SECONDS: Final = 5.0  # between looks at the state of the application


def start_cluster(settings: Settings, processors: int | None = None, object_store_bytes: int | None = None) -> None:
    """Start Ray on this machine and its HTTP proxy on the host and port of the settings.

    Args:
        settings: of the service.
        processors: that deployments may take; those of the machine if None.
        object_store_bytes: of shared memory; Ray's default if None.
    """
    os.environ.update(ENVIRONMENT)
    os.environ["EMMR_HOST"] = settings.host  # the proxy checks Host headers
    ray.init(address="local", num_cpus=processors, object_store_memory=object_store_bytes, include_dashboard=False)
    ray_serve.start(http_options={"host": settings.host, "port": settings.port})


def is_reachable(file: Path) -> bool:
    """Whether the cluster whose address (`host:port`) is in a file accepts connections."""
    try:
        host, _, port = file.read_text(encoding="utf-8").strip().rpartition(":")
        with socket.create_connection((host, int(port)), CONNECT_SECONDS):
            return True
    except (OSError, ValueError):
        return False


@contextmanager
def cluster() -> Iterator[None]:
    """Join the cluster of RAY_ADDRESS, or a running one of this machine, or start one; leave it at the end.

    In a process that has joined a cluster it does nothing.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.update(ENVIRONMENT)
    # Without an address Ray waits minutes for the last cluster of this machine, also where it ended without `ray stop`.
    join = "RAY_ADDRESS" in os.environ or is_reachable(LAST_CLUSTER)
    ray.init(address=None if join else "local", include_dashboard=False)
    try:
        yield
    finally:
        ray.shutdown()


def serve(settings: Settings, replicas: int | None = None) -> int:
    """Serve until a signal or a failure; return the exit status of the process.

    Args:
        settings: of the service.
        replicas: of each deployment, also where the processors are fewer; as many as the load needs if None.

    Raises:
        ConfigError: the service cannot listen on its address.
    """
    check_address(settings.host, settings.port)
    configure_logging(settings.log_level, settings.log_format)
    log = get_logger()
    erase_variables(SECRET_VARIABLES)
    stopped = threading.Event()
    start_cluster(settings, None if replicas is None else max(PROCESSORS * replicas, os.cpu_count() or 1))
    for number in (signal.SIGINT, signal.SIGTERM):  # after Ray's own handlers, which end the process
        signal.signal(number, lambda *_: stopped.set())
    from app.ray.deployments import application

    try:
        ray_serve.run(application(settings, replicas), name=NAME, route_prefix="/", blocking=False)
        log.info("ready", host=settings.host, port=settings.port)
        while not stopped.wait(CHECK_SECONDS):
            if ray_serve.status().applications[NAME].status is ApplicationStatus.DEPLOY_FAILED:
                return EXIT_FAILED
        log.info("leaving")
        return 0
    except RuntimeError as error:  # of `run`, where a deployment does not start
        log.critical("cannot start", exc_info=error)
        return EXIT_FAILED
    finally:
        ray_serve.shutdown()
        ray.shutdown()
