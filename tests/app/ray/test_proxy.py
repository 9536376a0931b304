"""What the proxies of Ray Serve answer themselves."""

from __future__ import annotations

import asyncio
import threading

import httpx2
import pytest
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from app.settings import Settings
from tests.app.api.test_problems import assert_problem
from tests.app.ray.conftest import until

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default", "ignore::DeprecationWarning")]


def test_requests_beyond_the_queue_get_429(address: str, client: httpx2.Client) -> None:
    import ray
    from ray import serve

    from app.ray.deployments import BACKPRESSURE

    class Gate:
        def __init__(self) -> None:
            self.opened = asyncio.Event()

        async def wait(self) -> None:
            await self.opened.wait()

        async def open(self) -> None:
            self.opened.set()

    gate = ray.remote(num_cpus=0)(Gate).remote()

    class Held:
        async def __call__(self, _: object) -> str:
            await gate.wait.remote()
            return "done"

    held = serve.deployment(max_ongoing_requests=1, max_queued_requests=1, backpressure_config=BACKPRESSURE)(Held)
    serve.run(held.bind(), name="held", route_prefix="/held")
    responses: list[httpx2.Response] = []
    asking = [
        threading.Thread(target=lambda: responses.append(httpx2.get(f"{address}/held", timeout=120))) for _ in range(6)
    ]
    for thread in asking:
        thread.start()
    until(lambda: len(responses) >= 3)
    ray.get(gate.open.remote())
    for thread in asking:
        thread.join()
    serve.delete("held")
    refused = [response for response in responses if response.status_code != 200]
    assert 3 <= len(refused) < len(asking)
    for response in refused:
        assert_problem(response, 429, "queue-full")
        assert response.headers["retry-after"] == "1"
        assert response.headers["x-content-type-options"] == "nosniff"


def test_another_host_is_refused(client: httpx2.Client) -> None:
    assert_problem(client.get("/health", headers={"host": "example.org"}), 421, "unknown-host")


@pytest.mark.parametrize("name", ["serve-multiplexed-model-id", "x-session-id", "x-request-timeout-seconds"])
def test_headers_of_ray_are_ignored(client: httpx2.Client, name: str) -> None:
    assert client.get("/health", headers={name.encode(): b"\xff"}).status_code == 200  # Ray decodes them as UTF-8


def test_a_request_has_one_id_of_accepted_form(client: httpx2.Client) -> None:
    kept = client.get("/health", headers={"x-request-id": "mine"})
    assert kept.headers.get_list("x-request-id") == ["mine"]
    replaced = client.get("/health", headers={"x-request-id": "not an id"}).headers.get_list("x-request-id")
    assert len(replaced) == 1
    assert replaced != ["not an id"]


@pytest.mark.anyio
async def test_a_body_is_not_read_past_its_limit() -> None:
    from app.ray.proxy import OF_SERVICE, ProxyMiddleware

    reading: list[bytes] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"four", "more_body": True}

    async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
        async def read() -> None:
            while True:
                reading.append((await receive())["body"])

        task = asyncio.create_task(read())
        for _ in range(20):
            await asyncio.sleep(0)
        task.cancel()
        await Response(status_code=413, headers={OF_SERVICE: "none"})(scope, receive, send)

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": [(b"host", b"localhost")]}
    await ProxyMiddleware(refusing, Settings(max_body_bytes=8))(scope, receive, send)
    assert reading == [b"four"] * 3
    assert sent[0]["status"] == 413
