import json
from collections.abc import Mapping

import pytest
from starlette.testclient import TestClient

from app.middleware.request import SECURITY_HEADERS
from tests.support.service import Part

PATHS = ["/", "/health", "/metrics", "/model", "/nowhere", "/predict"]


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_has_an_id_and_the_security_headers(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert len(headers["x-request-id"]) == 32
    assert all(headers[name] == value for name, value in SECURITY_HEADERS.items())
    assert "'unsafe" not in headers["content-security-policy"]


def test_two_requests_have_two_ids(client: TestClient) -> None:
    assert client.get("/health").headers["x-request-id"] != client.get("/health").headers["x-request-id"]


def test_the_clients_own_id_is_echoed_in_header_and_body(client: TestClient) -> None:
    headers = {"X-Request-ID": "trace-42.a_B"}
    good = client.post("/predict", data={"text": "Hello."}, headers=headers)
    bad = client.post("/predict", json={}, headers=headers)
    for response in (good, bad):
        assert response.headers["x-request-id"] == response.json()["request_id"] == "trace-42.a_B"


@pytest.mark.parametrize("offered", ["", "two words", "x" * 65, "a\tb", 'quote"', "ü"])
def test_an_id_that_could_do_harm_is_replaced(client: TestClient, offered: str) -> None:
    response = client.get("/health", headers={b"X-Request-ID": offered.encode()})
    assert response.headers["x-request-id"] != offered
    assert len(response.headers["x-request-id"]) == 32


def test_nothing_a_client_sent_is_logged(
    client: TestClient, parts: Mapping[str, Part], canary: str, caplog: pytest.LogCaptureFixture
) -> None:
    # What is captured here is more than what is written: every record of every library, before any is formatted.
    with caplog.at_level("DEBUG"):
        assert client.post("/predict", files=dict(parts)).status_code == 200
        client.post(f"/predict?explain={canary}", data={"text": canary})
        client.post("/predict", files={canary: (canary, canary.encode())})
        client.post("/predict", files={"audio": (canary, canary.encode())})
        client.post("/predict", files={"openface": (canary, canary.encode())})
        client.post("/predict", files={"text": (canary, canary.encode() + b"\xff")})
        client.get(f"/{canary}", headers={"X-API-Key": canary, "User-Agent": canary, "Authorization": canary})
        client.request(canary.upper(), "/predict")
    own = [record for record in caplog.records if not record.name.startswith("httpx")]  # the test's own client
    assert own
    assert canary not in " ".join(f"{record.msg} {record.getMessage()} {record.__dict__}" for record in own).lower()


def test_each_request_is_one_log_line_with_its_id(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
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
