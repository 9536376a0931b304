"""One Ray cluster for all tests of this folder, with the application of docker/ray/serve.yaml on tiny weights."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import httpx2
import psutil
import pytest
import yaml

from app.settings import Settings
from tests.support.process import ROOT

CONFIG = ROOT / "docker" / "ray" / "serve.yaml"
ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    "RAY_worker_niceness": "0",
    "RAY_health_check_period_ms": "1000",  # of five checks of a node that has ended
    # On a loaded machine a proxy takes longer to start than these allow by default.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
}
START_SECONDS = 300


class Deploy(Protocol):
    def __call__(self, name: str | None, more_replicas: int = 0) -> None: ...


def deploy_config(weights: Path, name: str | None, more_replicas: int = 0) -> dict[str, Any]:
    """The committed config with the weights of that name, two replicas of service and device and one of features.

    Args:
        weights: folder beside which that of `name` is.
        name: see `app.ray.deployments.ServiceConfig`.
        more_replicas: of each deployment.
    """
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    (application,) = config["applications"]
    application["args"] = {"weights": str(weights), "device": "cpu", "decode_workers": 1, "compute_threads": 1}
    for deployment in application["deployments"]:
        replicas = more_replicas + (1 if deployment["name"] == "Features" else 2)
        deployment["autoscaling_config"] |= {"min_replicas": replicas, "max_replicas": replicas}
        deployment["ray_actor_options"] = {"num_cpus": 1}
        deployment["graceful_shutdown_timeout_s"] = 5  # which a replica of a lost node takes in full
        if deployment["name"] == "Service":
            deployment["user_config"] = {"weights": name}
    return config


def until(condition: Callable[[], bool], seconds: float = START_SECONDS) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.3)  # the cluster is other processes, and has no event to wait for


def free_port() -> int:
    """A free port outside the range from which the system chooses: Ray opens many sockets before this one is used."""
    for port in random.sample(range(20_000, 32_000), 100):
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
    raise AssertionError("no port is free")


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """The address of a cluster's proxy."""
    import ray
    from ray import serve

    from app.ray.server import start_cluster

    port = free_port()
    before = dict(os.environ)
    os.environ.update(ENVIRONMENT)
    try:
        start_cluster(Settings(port=port), processors=8, object_store_bytes=200 * 2**20)
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def weights(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `one`, beside which is `two` of another version."""
    import torch

    from model.checkpoint import load_checkpoint, save_checkpoint

    root = tmp_path_factory.mktemp("ray")
    shutil.copytree(tiny_weights, root / "one")
    loaded = load_checkpoint(tiny_weights, torch.device("cpu"))
    with torch.no_grad():
        next(loaded.network.parameters()).add_(1.0)
    save_checkpoint(root / "two", loaded.network, loaded.preprocessing)
    return root / "one"


@pytest.fixture(scope="session")
def deploy(address: str, weights: Path) -> Deploy:
    """Deploy weights of a name as `serve deploy` does, and wait until they are served."""
    from ray import serve
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ApplicationStatus, ServeDeploySchema

    def act(name: str | None, more_replicas: int = 0) -> None:
        config = deploy_config(weights, name, more_replicas)
        _get_global_client().deploy_apps(ServeDeploySchema.model_validate(config))

        def running() -> bool:
            application = serve.status().applications["emmr"]
            assert application.status is not ApplicationStatus.DEPLOY_FAILED, application.message
            return application.status is ApplicationStatus.RUNNING

        until(running)

    return act


@pytest.fixture(scope="session")
def client(address: str, deploy: Deploy) -> Iterator[httpx2.Client]:
    """A client of the application."""
    deploy(None)
    with httpx2.Client(base_url=address, timeout=60) as client:
        until(lambda: client.get("/health/ready").status_code == 200)
        yield client


@pytest.fixture
def settings(weights: Path) -> Settings:
    """The settings of `emmr score` and `emmr timeline`."""
    return Settings(weights=weights, device="cpu", decode_workers=1)


@pytest.fixture(scope="session")
def storage() -> Iterator[str]:
    """The address of an S3 server with the bucket `clips`, which the cluster's processes reach too."""
    import fsspec

    pytest.importorskip("moto", reason="moto is not installed (make test-ray)")
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    with subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], stderr=subprocess.DEVNULL) as server:
        try:
            until(lambda: _answers(endpoint) or server.poll() is not None, 60)
            system = fsspec.filesystem("s3", key="key", secret="secret", endpoint_url=endpoint)
            system.mkdir("clips")
            yield endpoint
        finally:
            server.kill()


def _answers(endpoint: str) -> bool:
    try:
        return httpx2.get(endpoint).status_code == 200
    except httpx2.TransportError:
        return False


def read_parts(folder: str, **storage: str) -> list[dict[str, Any]]:
    """The rows of all parts of a folder, or of its address."""
    import fsspec
    from pyarrow import parquet

    system, path = fsspec.url_to_fs(folder, **storage)
    found: list[dict[str, Any]] = []
    for part in system.glob(f"{path}/part-*.parquet"):
        with system.open(part, "rb") as file:
            found += parquet.read_table(file).to_pylist()
    return found


def assert_equal_cells(row: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Numbers within 1e-5, everything else the same."""
    numbers = {key: value for key, value in expected.items() if isinstance(value, float)}
    assert {key: row[key] for key in numbers} == pytest.approx(numbers, abs=1e-5)
    assert {key: value for key, value in row.items() if key not in numbers} == {
        key: value for key, value in expected.items() if key not in numbers
    }


def replicas(deployment: str) -> list[psutil.Process]:
    """The processes of a deployment's replicas."""
    title = f"ray::ServeReplica:emmr:{deployment}"
    # With a list of attributes, processes that end meanwhile are left out.
    processes = psutil.process_iter(["cmdline"])
    return [process for process in processes if (process.info["cmdline"] or [""])[0].startswith(title)]
