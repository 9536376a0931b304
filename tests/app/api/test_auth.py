from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import Depends, FastAPI
from prometheus_client import generate_latest
from pydantic import SecretStr
from starlette.testclient import TestClient

from app.api.auth import find_key, require_admin
from app.api.problems import install_problem_handlers
from app.settings import Settings
from tests.support.service import make_app, ready

KEYS = (SecretStr("first-key"), SecretStr("zweiter-Schlüssel"))
ADMIN = (SecretStr("admin-key"),)
PROTECTED = [("GET", "/model"), ("GET", "/metrics"), ("POST", "/predict")]


@pytest.fixture(scope="module")
def keyed(tiny_weights: Path) -> Iterator[TestClient]:
    with TestClient(make_app(tiny_weights, api_keys=KEYS, admin_keys=ADMIN)) as client:
        ready(client)
        yield client


@pytest.mark.parametrize(("method", "path"), PROTECTED)
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
def test_a_request_without_a_valid_key_is_unauthorized(
    keyed: TestClient, method: str, path: str, headers: dict[str, str]
) -> None:
    response = keyed.request(method, path, headers=headers, data={"text": "Hello."} if method == "POST" else None)
    assert response.status_code == 401
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(("method", "path"), PROTECTED)
@pytest.mark.parametrize(
    "headers",
    [{"X-API-Key": "first-key"}, {"Authorization": "Bearer first-key"}, {"authorization": "bearer  first-key "}],
)
def test_a_request_with_a_valid_key_is_accepted(
    keyed: TestClient, method: str, path: str, headers: dict[str, str]
) -> None:
    response = keyed.request(method, path, headers=headers, data={"text": "Hello."} if method == "POST" else None)
    assert response.status_code == 200


@pytest.mark.parametrize("path", ["/", "/health", "/health/live", "/health/ready", "/openapi.json"])
def test_the_page_and_the_health_checks_need_no_key(keyed: TestClient, path: str) -> None:
    assert keyed.get(path).status_code == 200


def test_find_key_matches_whole_keys_only() -> None:
    assert find_key(b"first-key", KEYS) == 0
    assert find_key("zweiter-Schlüssel".encode(), KEYS) == 1
    wrong = (b"", b"first", b"first-keys", b"zweiter-Schlussel", "zweiter-Schlüssel".encode("latin-1"))
    assert [find_key(offered, KEYS) for offered in wrong] == [None] * len(wrong)


def test_a_non_ascii_key_is_compared_as_utf8_bytes(keyed: TestClient) -> None:
    headers = {b"X-API-Key": "zweiter-Schlüssel".encode()}
    assert keyed.get("/model", headers=headers).status_code == 200


def test_an_administrators_key_is_valid_for_user_routes(keyed: TestClient) -> None:
    assert keyed.get("/model", headers={"X-API-Key": "admin-key"}).status_code == 200


@pytest.mark.parametrize(
    ("configured", "offered", "status"),
    [
        ((), "", 403),
        ((), "first-key", 403),
        (ADMIN, "", 401),
        (ADMIN, "wrong", 401),
        (ADMIN, "first-key", 401),
        (ADMIN, "admin-key", 200),
    ],
)
def test_an_admin_route_accepts_administrators_keys_only(
    configured: tuple[SecretStr, ...], offered: str, status: int
) -> None:
    app = FastAPI(dependencies=[Depends(require_admin)])
    app.state.settings = Settings(api_keys=KEYS, admin_keys=configured)
    install_problem_handlers(app)
    app.get("/")(lambda: "done")
    response = TestClient(app).get("/", headers={"Authorization": f"Bearer {offered}"})
    assert response.status_code == status
    assert response.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    assert response.headers["content-type"] == ("application/json" if status == 200 else "application/problem+json")


def test_openapi_declares_the_security_schemes_where_keys_are_configured(keyed: TestClient, client: TestClient) -> None:
    document = keyed.get("/openapi.json").json()
    assert {scheme["type"] for scheme in document["components"]["securitySchemes"].values()} == {"http", "apiKey"}
    assert len(document["paths"]["/predict"]["post"]["security"]) == 2
    assert document["paths"]["/health"]["get"]["security"] == []
    assert client.get("/openapi.json").json()["paths"]["/predict"]["post"]["security"] == []


def test_no_key_is_needed_where_none_is_configured(client: TestClient) -> None:
    assert client.get("/model").status_code == 200


# ---- guessed keys


def offer(app: FastAPI, host: str, *keys: str, path: str = "/model") -> list[int]:
    client = TestClient(app, client=(host, 4000))
    return [client.get(path, headers={"X-API-Key": key}).status_code for key in keys]


def test_invalid_keys_are_limited_by_address(tiny_weights: Path) -> None:
    app = make_app(tiny_weights, api_keys=KEYS, failed_key_limit="2/hour")
    assert offer(app, "192.0.2.1", "a", "b", "c") == [401, 401, 429]
    # A valid key is refused too, or a refusal would tell that a guess was wrong.
    assert offer(app, "192.0.2.1", "first-key") == [429]
    assert offer(app, "192.0.2.1", "a", path="/metrics") == [429]
    assert offer(app, "192.0.2.1", "", path="/health/live") == [200]
    # Two addresses share a counter with a probability of 1/4096; three practically never do.
    assert 503 in [offer(app, f"192.0.2.{n}", "first-key")[0] for n in (2, 3, 4)]


def test_a_key_that_was_valid_from_an_address_stays_valid(tiny_weights: Path) -> None:
    app = make_app(tiny_weights, api_keys=KEYS, admin_keys=ADMIN, failed_key_limit="2/hour")
    assert offer(app, "192.0.2.1", "first-key", "a", "b", "c", "first-key") == [503, 401, 401, 429, 503]
    assert offer(app, "192.0.2.1", "admin-key") == [429]


def test_a_refused_guess_is_a_problem_with_retry_after(tiny_weights: Path) -> None:
    app = make_app(tiny_weights, api_keys=KEYS, failed_key_limit="1/hour")
    client = TestClient(app)
    _, response = [client.post("/predict", headers={"Authorization": "Bearer guess"}) for _ in range(2)]
    assert (response.status_code, response.json()["type"]) == (429, "/problems/rate-limited")
    assert 1 <= int(response.headers["retry-after"]) <= 3600
    assert 'emmr_rejected_total{reason="rate-limited"} 1.0' in generate_latest(app.state.metrics.registry).decode()


def test_requests_without_a_key_are_no_guesses(tiny_weights: Path) -> None:
    app = make_app(tiny_weights, api_keys=KEYS, failed_key_limit="1/hour")
    assert offer(app, "192.0.2.1", *[""] * 5, "first-key") == [401] * 5 + [503]


def test_administrators_keys_cannot_be_guessed_either(tiny_weights: Path) -> None:
    app = make_app(tiny_weights, admin_keys=ADMIN, failed_key_limit="2/hour")
    client = TestClient(app)
    reload = [client.post("/model/reload", headers={"X-API-Key": key}).status_code for key in "abc"]
    assert reload == [401, 401, 429]


def test_the_limit_of_invalid_keys_can_be_switched_off(tiny_weights: Path) -> None:
    app = make_app(tiny_weights, api_keys=KEYS, failed_key_limit=None)
    assert offer(app, "192.0.2.1", *"abcdefgh") == [401] * 8
