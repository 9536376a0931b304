"""The loss of one of two nodes of a cluster, while its application is asked."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx2
import psutil
import pytest

from model.checkpoint import verify_hashes
from tests.app.ray.conftest import ENVIRONMENT, Deploy, replicas, until
from tests.app.ray.test_deployments import traffic
from tests.support.service import Part

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default", "ignore::DeprecationWarning")]

DEPLOYMENTS = ("Service", "Features", "Device")
CLIENTS = 2


def nodes() -> int:
    import ray

    return sum(node["Alive"] for node in ray.nodes())


class Node:
    """A second node of the cluster, on this machine, with a processor for one replica of each deployment."""

    def __init__(self) -> None:
        import ray

        address = ray.get_runtime_context().gcs_address
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--address", address]
        options = ["--num-cpus", str(len(DEPLOYMENTS)), "--object-store-memory", str(100 * 2**20)]
        environment = {**os.environ, **ENVIRONMENT}
        self._process = subprocess.Popen([*command, *options], env=environment, stdout=subprocess.DEVNULL)
        until(lambda: nodes() == 2 or self._process.poll() is not None)
        assert self._process.poll() is None

    def processes(self) -> set[int]:
        return {process.pid for process in psutil.Process(self._process.pid).children(recursive=True)}

    def kill(self) -> None:
        """Kill all processes; a second time does nothing."""
        if self._process.poll() is None:
            for process in psutil.Process(self._process.pid).children(recursive=True):
                process.kill()
            self._process.kill()
            self._process.wait()


@contextmanager
def occupied(processors: int) -> Iterator[None]:
    """Take processors of the first node, so that further replicas come to the second one."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    class Nothing:
        def ready(self) -> None:
            pass

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    taken = ray.remote(Nothing).options(num_cpus=processors, scheduling_strategy=here).remote()
    ray.get(taken.ready.remote())
    try:
        yield
    finally:
        ray.kill(taken)


def test_a_lost_node_costs_its_own_requests(
    address: str, client: httpx2.Client, weights: Path, deploy: Deploy, parts: Mapping[str, Part]
) -> None:
    import ray
    from ray import serve
    from ray.serve.schema import ApplicationStatus

    def complete() -> bool:
        counts = [len(replicas(deployment)) for deployment in DEPLOYMENTS]
        return counts == [2, 1, 2] and serve.status().applications["emmr"].status is ApplicationStatus.RUNNING

    until(complete)  # a test before may have killed a replica
    served = client.get("/model").json()["version"]
    name = next(name for name in ("one", "two") if verify_hashes(weights.with_name(name)) == served)
    with occupied(int(ray.cluster_resources()["CPU"]) - sum(len(replicas(deployment)) for deployment in DEPLOYMENTS)):
        node = Node()
        try:
            deploy(name, more_replicas=1)
            there = node.processes()
            for deployment in DEPLOYMENTS:
                found = {process.pid for process in replicas(deployment)}
                assert len(found & there) == 1 <= len(found - there)
            with traffic(address, parts, CLIENTS) as running:
                node.kill()
                until(lambda: nodes() == 1)
                running.more()
            with traffic(address, parts, CLIENTS) as after:
                pass
        finally:
            node.kill()
            deploy(name)
    failed = [response for response in running.responses if response.status_code != 200]
    assert len(failed) <= CLIENTS
    for response in failed:
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
    assert running.broken <= CLIENTS  # connections to the proxy of that node
    assert after.broken == 0
    assert {response.status_code for response in after.responses} == {200}
