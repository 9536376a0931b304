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
def test_the_metrics_are_open_or_keyed_or_not_there(
    tiny_weights: Path, access: str, keys: tuple[SecretStr, ...], without: int, with_key: int
) -> None:
    client = TestClient(make_app(tiny_weights, metrics_access=access, api_keys=keys))
    assert client.get("/metrics").status_code == without
    assert client.get("/metrics", headers={"X-API-Key": "a-key"}).status_code == with_key


@pytest.mark.parametrize(("enabled", "status"), [(True, 200), (False, 404)])
def test_the_openapi_document_can_be_switched_off(tiny_weights: Path, enabled: bool, status: int) -> None:
    client = TestClient(make_app(tiny_weights, docs_enabled=enabled))
    assert client.get("/openapi.json").status_code == status
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404


@pytest.mark.parametrize("path", ["/predict/", "/health/", "/metrics/"])
def test_a_path_that_is_almost_right_is_not_found_rather_than_redirected(tiny_weights: Path, path: str) -> None:
    client = TestClient(make_app(tiny_weights), follow_redirects=False)
    assert client.get(path).status_code == 404
