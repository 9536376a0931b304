import time
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.testclient import TestClient
from starlette.types import Message

from app.api.rate_limit import COUNTERS, RateLimit
from app.settings import Settings
from tests.support.service import make_app

KEYS = (SecretStr("first-key"), SecretStr("second-key"))


def calling_from(app: FastAPI, address: str) -> TestClient:
    """A client of a service that is not started: whether it may ask at all is decided before."""
    return TestClient(app, client=(address, 4000))


def asking(weights: Path, **settings: Any) -> TestClient:
    return calling_from(make_app(weights, **settings), "192.0.2.1")


def statuses(client: TestClient, times: int, **headers: str) -> list[int]:
    return [client.get("/model", headers=headers).status_code for _ in range(times)]


def test_there_is_no_limit_unless_one_is_configured(tiny_weights: Path) -> None:
    client = asking(tiny_weights)
    assert 429 not in statuses(client, 50)
    assert "ratelimit" not in client.get("/model").headers


def test_the_request_past_the_limit_is_refused_and_told_when_to_come_back(tiny_weights: Path) -> None:
    client = asking(tiny_weights, rate_limit="3/hour")
    answers = [client.post("/predict", data={"text": "Hello."}) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [503, 503, 503, 429]
    assert [answer.headers["ratelimit"].split(";")[1] for answer in answers] == ["r=2", "r=1", "r=0", "r=0"]
    refusal = answers[-1]
    assert refusal.headers["content-type"] == "application/problem+json"
    assert refusal.json()["type"] == "/problems/rate-limited"
    assert 1 <= int(refusal.headers["retry-after"]) <= 3600
    assert refusal.headers["ratelimit-policy"] == '"default";q=3;w=3600'
    assert 'emmr_rejected_total{reason="rate-limited"} 1.0' in client.get("/metrics").text


def test_who_comes_back_when_told_is_let_in(tiny_weights: Path) -> None:
    client = asking(tiny_weights, rate_limit="2/second")
    while (refusal := client.get("/model")).status_code != 429:
        pass
    time.sleep(int(refusal.headers["retry-after"]))
    assert client.get("/model").status_code == 503


def test_each_key_is_counted_by_itself_and_a_wrong_one_by_its_address(tiny_weights: Path) -> None:
    client = asking(tiny_weights, rate_limit="2/hour", api_keys=KEYS)
    assert statuses(client, 3, Authorization="Bearer first-key") == [503, 503, 429]
    assert statuses(client, 1, **{"X-API-Key": "first-key"}) == [429]
    assert statuses(client, 3, Authorization="Bearer second-key") == [503, 503, 429]
    # Guessing is bounded too, and changing the guess does not help.
    assert [statuses(client, 1, Authorization=f"Bearer {guess}")[0] for guess in range(3)] == [401, 401, 429]


def test_without_keys_each_address_is_counted_by_itself(tiny_weights: Path) -> None:
    app = make_app(tiny_weights, rate_limit="2/hour")
    assert statuses(calling_from(app, "192.0.2.1"), 3) == [503, 503, 429]
    # Two addresses may share a counter, by a chance of one in thousands; not four of them.
    assert 503 in [statuses(calling_from(app, f"192.0.2.{other}"), 1)[0] for other in (2, 3, 4)]


def test_the_addresses_of_one_ipv6_network_are_one_client(tiny_weights: Path) -> None:
    app = make_app(tiny_weights, rate_limit="2/hour")
    neighbours = [calling_from(app, f"2001:db8::{place}") for place in (1, 2, 3)]
    assert [statuses(neighbour, 1)[0] for neighbour in neighbours] == [503, 503, 429]
    assert 503 in [statuses(calling_from(app, f"2001:db8:0:{other}::1"), 1)[0] for other in (1, 2, 3)]


@pytest.mark.parametrize("path", ["/", "/health", "/health/live", "/metrics", "/problems", "/openapi.json"])
def test_the_page_and_what_is_polled_are_not_counted(tiny_weights: Path, path: str) -> None:
    client = asking(tiny_weights, rate_limit="1/hour")
    assert 429 not in [client.get(path).status_code for _ in range(3)]


@pytest.mark.anyio
async def test_the_refusal_comes_before_the_body_is_read(tiny_weights: Path) -> None:
    app = make_app(tiny_weights, rate_limit="1/hour")
    assert statuses(calling_from(app, "192.0.2.1"), 1) == [503]
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the body was asked for")

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


def test_any_number_of_addresses_shares_a_fixed_number_of_counters() -> None:
    limit = RateLimit(Settings(rate_limit="1/hour"))
    names = {limit.counter(b"", f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}") for n in range(20 * COUNTERS)}
    assert COUNTERS / 2 < len(names) <= COUNTERS
