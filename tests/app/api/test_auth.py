from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from app.api.auth import matches_any
from tests.support.service import make_app, ready

KEYS = (SecretStr("first-key"), SecretStr("zweiter-Schlüssel"))
CLOSED = [("GET", "/model"), ("GET", "/metrics"), ("POST", "/predict")]


@pytest.fixture(scope="module")
def locked(tiny_weights: Path) -> Iterator[TestClient]:
    with TestClient(make_app(tiny_weights, api_keys=KEYS)) as client:
        ready(client)
        yield client


@pytest.mark.parametrize(("method", "path"), CLOSED)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": "wrong"},
        {"X-API-Key": ""},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic first-key"},
    ],
)
def test_without_a_right_key_the_door_is_closed(
    locked: TestClient, method: str, path: str, headers: dict[str, str]
) -> None:
    response = locked.request(method, path, headers=headers, data={"text": "Hello."} if method == "POST" else None)
    assert response.status_code == 401
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(("method", "path"), CLOSED)
@pytest.mark.parametrize(
    "headers",
    [{"X-API-Key": "first-key"}, {"Authorization": "Bearer first-key"}, {"authorization": "bearer  first-key "}],
)
def test_with_a_right_key_it_opens(locked: TestClient, method: str, path: str, headers: dict[str, str]) -> None:
    response = locked.request(method, path, headers=headers, data={"text": "Hello."} if method == "POST" else None)
    assert response.status_code == 200


@pytest.mark.parametrize("path", ["/", "/health", "/health/live", "/health/ready", "/openapi.json"])
def test_the_page_and_the_health_checks_stay_open(locked: TestClient, path: str) -> None:
    assert locked.get(path).status_code == 200


def test_any_of_several_keys_is_right_and_no_part_of_one() -> None:
    assert matches_any("first-key", KEYS)
    assert matches_any("zweiter-Schlüssel", KEYS)
    assert not any(matches_any(wrong, KEYS) for wrong in ("", "first", "first-keys", "zweiter-Schlussel"))


def test_without_keys_configured_no_one_is_asked(client: TestClient) -> None:
    assert client.get("/model").status_code == 200
