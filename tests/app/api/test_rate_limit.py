import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.testclient import TestClient
from starlette.types import Message

from tests.support.process import launching
from tests.support.service import make_app

KEYS = (SecretStr("first-key"), SecretStr("second-key"))


def client_from(app: FastAPI, address: str) -> TestClient:
    """A client at `address` of a service that is not started: the limit applies before readiness."""
    return TestClient(app, client=(address, 4000))


def make_client(weights: Path, **settings: Any) -> TestClient:
    return client_from(make_app(weights, **settings), "192.0.2.1")


def statuses(client: TestClient, times: int, **headers: str) -> list[int]:
    return [client.get("/model", headers=headers).status_code for _ in range(times)]


def test_no_limit_applies_unless_configured(tiny_weights: Path) -> None:
    client = make_client(tiny_weights)
    assert 429 not in statuses(client, 50)
    assert "ratelimit" not in client.get("/model").headers


def test_a_request_over_the_limit_gets_429_with_retry_after(tiny_weights: Path) -> None:
    client = make_client(tiny_weights, rate_limit="3/hour")
    answers = [client.post("/predict", data={"text": "Hello."}) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [503, 503, 503, 429]
    assert [answer.headers["ratelimit"].split(";")[1] for answer in answers] == ["r=2", "r=1", "r=0", "r=0"]
    refusal = answers[-1]
    assert refusal.headers["content-type"] == "application/problem+json"
    assert refusal.json()["type"] == "/problems/rate-limited"
    assert 1 <= int(refusal.headers["retry-after"]) <= 3600
    assert refusal.headers["ratelimit-policy"] == '"default";q=3;w=3600'
    assert 'emmr_rejected_total{reason="rate-limited"} 1.0' in client.get("/metrics").text


def test_a_retry_after_the_stated_time_is_accepted(tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = make_client(tiny_weights, rate_limit="2/second")
    while (refusal := client.get("/model")).status_code != 429:
        pass
    later = time.time() + int(refusal.headers["retry-after"])
    monkeypatch.setattr(time, "time", lambda: later)
    assert client.get("/model").status_code == 503


def test_each_key_has_a_counter_and_invalid_keys_count_by_address(tiny_weights: Path) -> None:
    client = make_client(tiny_weights, rate_limit="2/hour", api_keys=KEYS)
    assert statuses(client, 3, Authorization="Bearer first-key") == [503, 503, 429]
    assert statuses(client, 1, **{"X-API-Key": "first-key"}) == [429]
    assert statuses(client, 3, Authorization="Bearer second-key") == [503, 503, 429]
    # Attempts with different invalid keys share the counter of the address.
    assert [statuses(client, 1, Authorization=f"Bearer {guess}")[0] for guess in range(3)] == [401, 401, 429]


def test_without_keys_each_address_has_a_counter(tiny_weights: Path) -> None:
    app = make_app(tiny_weights, rate_limit="2/hour")
    assert statuses(client_from(app, "192.0.2.1"), 3) == [503, 503, 429]
    # Two addresses share a counter with a probability of 1/4096; four practically never do.
    assert 503 in [statuses(client_from(app, f"192.0.2.{other}"), 1)[0] for other in (2, 3, 4)]


def test_one_ipv6_network_is_one_client(tiny_weights: Path) -> None:
    app = make_app(tiny_weights, rate_limit="2/hour")
    clients = [client_from(app, f"2001:db8::{place}") for place in (1, 2, 3)]
    assert [statuses(client, 1)[0] for client in clients] == [503, 503, 429]
    assert 503 in [statuses(client_from(app, f"2001:db8:0:{other}::1"), 1)[0] for other in (1, 2, 3)]


@pytest.mark.parametrize("path", ["/", "/health", "/health/live", "/metrics", "/problems", "/openapi.json"])
def test_the_page_and_monitoring_routes_have_no_limit(tiny_weights: Path, path: str) -> None:
    client = make_client(tiny_weights, rate_limit="1/hour")
    assert 429 not in [client.get(path).status_code for _ in range(3)]


@pytest.mark.anyio
async def test_the_limit_applies_before_the_body_is_read(tiny_weights: Path) -> None:
    app = make_app(tiny_weights, rate_limit="1/hour")
    assert statuses(client_from(app, "192.0.2.1"), 1) == [503]
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the body was read")

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/predict",
        "query_string": b"",
        "headers": [(b"content-type", b"multipart/form-data; boundary=x")],
        "client": ("192.0.2.1", 4000),
    }
    await app(scope, receive, send)
    assert sent[0]["status"] == 429


# ---- the address of a client


def forwarded(client: TestClient, *addresses: str) -> list[int]:
    return [statuses(client, 1, **{"X-Forwarded-For": address})[0] for address in addresses]


def test_a_forwarded_address_counts_only_from_a_trusted_proxy(tiny_weights: Path) -> None:
    others = ("198.51.100.1", "198.51.100.2", "198.51.100.3")
    for host in ("127.0.0.1", "::1", "192.0.2.1"):
        app = make_app(tiny_weights, rate_limit="2/hour")
        assert forwarded(client_from(app, host), *others) == [503, 503, 429]
    app = make_app(tiny_weights, rate_limit="2/hour", trusted_proxies=("192.0.2.0/24", "203.0.113.9"))
    assert 429 not in forwarded(client_from(app, "192.0.2.1"), *others)
    # Of several addresses the last one that is no proxy's counts: a client may have sent those before it.
    chains = [f"{n}.{n}.{n}.{n}, 198.51.100.7, 203.0.113.9" for n in range(1, 4)]
    assert forwarded(client_from(app, "192.0.2.1"), *chains) == [503, 503, 429]


def test_the_server_believes_no_forwarded_address_by_itself(tiny_weights: Path) -> None:
    with launching() as launch, httpx2.Client(timeout=30) as client:
        process = launch(tiny_weights, EMMR_RATE_LIMIT="2/hour", FORWARDED_ALLOW_IPS="*")
        answers = [
            client.get(f"{process.base()}/model", headers={"X-Forwarded-For": f"198.51.100.{n}"}) for n in range(3)
        ]
        assert answers[2].status_code == 429
