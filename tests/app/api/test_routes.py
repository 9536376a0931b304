from pathlib import Path

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from tests.support.service import make_app

KEYS = (SecretStr("a-key"),)


@pytest.mark.parametrize(
    ("access", "keys", "without", "with_key"),
    [
        ("open", KEYS, 200, 200),
        ("key", KEYS, 401, 200),
        ("key", (), 200, 200),
        ("off", KEYS, 404, 404),
        ("off", (), 404, 404),
    ],
)
def test_metrics_access_is_open_keyed_or_off(
    tiny_weights: Path, access: str, keys: tuple[SecretStr, ...], without: int, with_key: int
) -> None:
    client = TestClient(make_app(tiny_weights, metrics_access=access, api_keys=keys))
    assert client.get("/metrics").status_code == without
    assert client.get("/metrics", headers={"X-API-Key": "a-key"}).status_code == with_key


@pytest.mark.parametrize(("enabled", "status"), [(True, 200), (False, 404)])
def test_the_openapi_document_can_be_disabled(tiny_weights: Path, enabled: bool, status: int) -> None:
    client = TestClient(make_app(tiny_weights, docs_enabled=enabled))
    for path in ("/openapi.json", "/docs", "/redoc", "/llms.txt"):
        assert client.get(path).status_code == status, path


@pytest.mark.parametrize("path", ["/predict/", "/health/", "/metrics/"])
def test_a_trailing_slash_is_not_redirected(tiny_weights: Path, path: str) -> None:
    client = TestClient(make_app(tiny_weights), follow_redirects=False)
    assert client.get(path).status_code == 404


def test_every_path_is_available_under_its_version(client: TestClient) -> None:
    assert client.get("/v1/health/live").json()["state"] == "ready"
    answers = [client.post(path, data={"text": "What a lovely day!"}).json() for path in ("/predict", "/v1/predict")]
    assert answers[0]["probabilities"] == answers[1]["probabilities"]
    refused = client.post("/v1/predict", data={"text": " "})
    assert (refused.status_code, refused.json()["instance"]) == (422, "/v1/predict")
    for path in ("/v1", "/v1predict", "/v1/v1/predict", "/v2/health"):
        assert client.get(path).status_code == 404, path
    assert client.get("/v1/openapi.json").json() == client.get("/openapi.json").json()
