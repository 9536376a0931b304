from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from tests.support.service import make_app

HERE = "https://app.example.org"


def asked(weights: Path, origins: tuple[str, ...]) -> TestClient:
    return TestClient(make_app(weights, cors_origins=origins))


def preflight(client: TestClient, **more: str) -> Any:
    headers = {"Origin": HERE, "Access-Control-Request-Method": "POST", **more}
    return client.options("/predict", headers=headers)


def test_no_page_from_elsewhere_may_ask_unless_configured(tiny_weights: Path) -> None:
    client = asked(tiny_weights, ())
    assert preflight(client).status_code == 405
    assert "access-control-allow-origin" not in client.get("/problems", headers={"Origin": HERE}).headers


def test_a_page_that_may_ask_is_told_so_and_may_send_its_key(tiny_weights: Path) -> None:
    client = asked(tiny_weights, (HERE,))
    said = preflight(client, **{"Access-Control-Request-Headers": "authorization,x-request-id"})
    assert said.status_code == 200
    assert said.headers["access-control-allow-origin"] == HERE
    assert "Authorization" in said.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in said.headers


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://elsewhere.example"},
        {"Access-Control-Request-Method": "DELETE"},
        {"Access-Control-Request-Headers": "x-canary"},
    ],
)
def test_a_refused_announcement_is_a_problem_and_quotes_nothing(tiny_weights: Path, headers: dict[str, str]) -> None:
    said = preflight(asked(tiny_weights, (HERE,)), **headers)
    assert said.status_code == 400
    assert said.headers["content-type"] == "application/problem+json"
    assert said.json()["request_id"] == said.headers["x-request-id"]
    assert not {"elsewhere", "canary", "DELETE"} & set(said.text.replace("-", " ").replace(".", " ").split())


def test_errors_can_be_read_by_the_page_too(tiny_weights: Path) -> None:
    app = make_app(tiny_weights, cors_origins=(HERE,), rate_limit="1/hour", api_keys=(SecretStr("a-key"),))
    client = TestClient(app)
    answers = [client.post("/predict", headers={"Origin": HERE}) for _ in range(2)]
    answers.append(client.get("/nowhere", headers={"Origin": HERE}))
    app.state.engine = None
    answers.append(client.get("/health", headers={"Origin": HERE}))
    assert [answer.status_code for answer in answers] == [401, 429, 404, 500]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == HERE
        assert "Retry-After" in answer.headers["access-control-expose-headers"]
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_page_from_elsewhere_is_given_no_permission(tiny_weights: Path) -> None:
    answer = asked(tiny_weights, (HERE,)).get("/problems", headers={"Origin": "https://elsewhere.example"})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["vary"] == "Origin"
