"""Changes and failures of an application on Ray Serve while it is asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
import yaml

from tests.app.ray.conftest import CONFIG, Deploy, deploy_config, replicas, until
from tests.support.process import ROOT
from tests.support.service import Part

pytestmark = [
    pytest.mark.ray,
    pytest.mark.ray_core,
    pytest.mark.filterwarnings("default", "ignore::DeprecationWarning"),
]

CLIENTS = 4


class Traffic:
    """Requests of several clients, each after the answer to the one before."""

    def __init__(self, address: str, files: Mapping[str, Part], clients: int) -> None:
        self._address, self._files = address, dict(files)
        self._stopped = threading.Event()
        self.responses: list[httpx2.Response] = []
        self.broken = 0
        """Connections that ended without a response."""
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def _ask(self) -> None:
        with httpx2.Client(base_url=self._address, timeout=120) as client:
            while not self._stopped.is_set():
                try:
                    self.responses.append(client.post("/predict", files=self._files))
                except httpx2.TransportError:
                    self.broken += 1

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def more(self) -> None:
        """Wait for a dozen responses more."""
        enough = len(self.responses) + 3 * CLIENTS
        until(lambda: len(self.responses) >= enough)

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def traffic(address: str, files: Mapping[str, Part], clients: int = CLIENTS) -> Iterator[Traffic]:
    running = Traffic(address, files, clients)
    running.start()
    try:
        running.more()
        yield running
    finally:
        running.stop()


def test_the_weights_change_without_a_lost_request(
    address: str, client: httpx2.Client, deploy: Deploy, parts: Mapping[str, Part]
) -> None:
    before = client.get("/model").json()["version"]
    processes = sorted(process.pid for process in replicas("Service"))
    with traffic(address, parts) as running:
        deploy("two")
        running.more()
    assert {response.status_code for response in running.responses} == {200}
    assert running.broken == 0
    versions = [response.json()["model"]["version"] for response in running.responses]
    assert versions[0] == before
    assert set(versions[-CLIENTS:]) == {client.get("/model").json()["version"]} != {before}
    assert sorted(process.pid for process in replicas("Service")) == processes


def test_a_killed_device_costs_no_request(address: str, client: httpx2.Client, parts: Mapping[str, Part]) -> None:
    with traffic(address, parts) as running:
        killed = replicas("Device")[0]
        killed.kill()
        running.more()
    assert {response.status_code for response in running.responses} == {200}
    assert running.broken == 0


def test_a_killed_service_costs_its_own_requests(
    address: str, client: httpx2.Client, parts: Mapping[str, Part]
) -> None:
    with traffic(address, parts) as running:
        replicas("Service")[0].kill()
        running.more()
    failed = [response for response in running.responses if response.status_code != 200]
    assert len(failed) <= CLIENTS
    assert running.broken == 0
    for response in failed:
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["request_id"] == response.headers["x-request-id"]


def test_the_committed_config_is_accepted_by_ray(weights: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    from app.ray.deployments import build

    config = ServeDeploySchema.model_validate(deploy_config(weights, None))
    (application,) = config.applications
    assert application.import_path == f"{build.__module__}:{build.__name__}"


def test_the_rayservice_deploys_the_committed_config(weights: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    manifest = yaml.safe_load((ROOT / "docker/kubernetes/ray/rayservice.yaml").read_text(encoding="utf-8"))
    version = manifest["spec"]["rayClusterConfig"]["rayVersion"]
    assert f"ray=={version}" in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    in_manifest = yaml.safe_load(manifest["spec"]["serveConfigV2"])
    ServeDeploySchema.model_validate(in_manifest)
    committed = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    for application in committed["applications"]:
        del application["args"]  # settings.yaml
    assert in_manifest == committed
