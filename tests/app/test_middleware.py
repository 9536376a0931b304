import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.testclient import TestClient

from app.middleware import SECURITY_HEADERS
from tests.support.service import Part, make_app

# ---- request context

PATHS = ["/", "/health", "/metrics", "/model", "/nowhere", "/predict"]


@pytest.mark.parametrize("path", PATHS)
def test_every_response_has_an_id_and_the_security_headers(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert len(headers["x-request-id"]) == 32
    assert all(headers[name] == value for name, value in SECURITY_HEADERS.items())
    assert "'unsafe" not in headers["content-security-policy"]


def test_request_ids_are_unique(client: TestClient) -> None:
    assert client.get("/health").headers["x-request-id"] != client.get("/health").headers["x-request-id"]


def test_a_clients_request_id_is_returned_in_header_and_body(client: TestClient) -> None:
    headers = {"X-Request-ID": "trace-42.a_B"}
    good = client.post("/predict", data={"text": "Hello."}, headers=headers)
    bad = client.post("/predict", json={}, headers=headers)
    for response in (good, bad):
        assert response.headers["x-request-id"] == response.json()["request_id"] == "trace-42.a_B"


@pytest.mark.parametrize("offered", ["", "two words", "x" * 65, "a\tb", 'quote"', "ü"])
def test_an_unsafe_request_id_is_replaced(client: TestClient, offered: str) -> None:
    response = client.get("/health", headers={b"X-Request-ID": offered.encode()})
    assert response.headers["x-request-id"] != offered
    assert len(response.headers["x-request-id"]) == 32


def test_request_content_is_never_logged(
    client: TestClient, parts: Mapping[str, Part], canary: str, caplog: pytest.LogCaptureFixture
) -> None:
    # caplog captures every record of every library before it is formatted.
    with caplog.at_level("DEBUG"):
        assert client.post("/predict", files=dict(parts)).status_code == 200
        client.post(f"/predict?explain={canary}", data={"text": canary})
        client.post("/predict", files={canary: (canary, canary.encode())})
        client.post("/predict", files={"audio": (canary, canary.encode())})
        client.post("/predict", files={"openface": (canary, canary.encode())})
        client.post("/predict", files={"text": (canary, canary.encode() + b"\xff")})
        client.get(f"/{canary}", headers={"X-API-Key": canary, "User-Agent": canary, "Authorization": canary})
        client.request(canary.upper(), "/predict")
    own = [record for record in caplog.records if not record.name.startswith("httpx")]  # the test client
    assert own
    assert canary not in " ".join(f"{record.msg} {record.getMessage()} {record.__dict__}" for record in own).lower()


def test_each_request_logs_one_line_with_its_id(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="emmr"):
        client.get("/nowhere", headers={"X-Request-ID": "trace-43"})
    events = [record.msg for record in caplog.records if record.name == "emmr" and isinstance(record.msg, dict)]
    (event,) = [event for event in events if event.get("request_id") == "trace-43"]
    assert {k: event[k] for k in ("event", "method", "route", "status")} == {
        "event": "request",
        "method": "GET",
        "route": "unmatched",
        "status": 404,
    }
    assert json.dumps(event["ms"])


# ---- CORS

ORIGIN = "https://app.example.org"


def client_with_origins(weights: Path, origins: tuple[str, ...]) -> TestClient:
    return TestClient(make_app(weights, cors_origins=origins))


def preflight(client: TestClient, **more: str) -> Any:
    headers = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST", **more}
    return client.options("/predict", headers=headers)


def test_cors_is_off_unless_configured(tiny_weights: Path) -> None:
    client = client_with_origins(tiny_weights, ())
    assert preflight(client).status_code == 405
    assert "access-control-allow-origin" not in client.get("/problems", headers={"Origin": ORIGIN}).headers


def test_an_allowed_origin_may_send_its_key(tiny_weights: Path) -> None:
    client = client_with_origins(tiny_weights, (ORIGIN,))
    response = preflight(client, **{"Access-Control-Request-Headers": "authorization,x-request-id"})
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert "Authorization" in response.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in response.headers


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://other.example"},
        {"Access-Control-Request-Method": "DELETE"},
        {"Access-Control-Request-Headers": "x-canary"},
    ],
)
def test_a_refused_preflight_is_a_problem_without_quotes(tiny_weights: Path, headers: dict[str, str]) -> None:
    response = preflight(client_with_origins(tiny_weights, (ORIGIN,)), **headers)
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["request_id"] == response.headers["x-request-id"]
    assert not {"other", "canary", "DELETE"} & set(response.text.replace("-", " ").replace(".", " ").split())


def test_an_allowed_origin_can_read_errors(tiny_weights: Path) -> None:
    app = make_app(tiny_weights, cors_origins=(ORIGIN,), rate_limit="1/hour", api_keys=(SecretStr("a-key"),))
    client = TestClient(app)
    responses = [client.post("/predict", headers={"Origin": ORIGIN}) for _ in range(2)]
    responses.append(client.get("/nowhere", headers={"Origin": ORIGIN}))
    app.state.engine = None
    responses.append(client.get("/health", headers={"Origin": ORIGIN}))
    assert [response.status_code for response in responses] == [401, 429, 404, 500]
    for response in responses:
        assert response.headers["access-control-allow-origin"] == ORIGIN
        assert "Retry-After" in response.headers["access-control-expose-headers"]
        assert response.headers["content-type"] == "application/problem+json"


def test_another_origin_gets_no_permission(tiny_weights: Path) -> None:
    response = client_with_origins(tiny_weights, (ORIGIN,)).get(
        "/problems", headers={"Origin": "https://other.example"}
    )
    assert response.status_code == 200
    assert "access-control-allow-origin" not in response.headers
    assert response.headers["vary"] == "Origin"


# ---- HEAD


@pytest.mark.parametrize(
    "path", ["/", "/web/style.css", "/health", "/health/live", "/health/ready", "/metrics", "/model", "/problems"]
)
def test_head_is_get_without_the_body(client: TestClient, path: str) -> None:
    get, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert int(head.headers["content-length"]) > 0
    assert head.headers["x-request-id"]


def test_head_of_an_unknown_path_is_404_without_a_body(client: TestClient) -> None:
    head = client.head("/nowhere")
    assert (head.status_code, head.content) == (404, b"")
    assert head.headers["content-type"] == "application/problem+json"


def test_head_of_a_post_route_is_405(client: TestClient, parts: Mapping[str, Part]) -> None:
    head = client.head("/predict")
    assert (head.status_code, head.headers["allow"]) == (405, "POST")


def test_head_is_counted_for_its_route(client: TestClient, application: FastAPI) -> None:
    client.head("/problems")
    assert 'emmr_request_seconds_count{route="/problems",status="200"}' in client.get("/metrics").text
