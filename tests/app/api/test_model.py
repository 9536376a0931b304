import asyncio
import itertools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from httpx2 import AsyncClient, Response
from pydantic import SecretStr
from starlette.testclient import TestClient

from tests.conftest import CARD
from tests.support.checkpoints import altered, like, scaled
from tests.support.service import Part, make_app, serving

pytestmark = pytest.mark.anyio

ADMIN: Mapping[str, Any] = {"admin_keys": (SecretStr("admin"),)}
KEY: Mapping[str, str] = {"Authorization": "Bearer admin"}


@pytest.fixture
def root(tiny_weights: Path, tmp_path: Path) -> Path:
    """A folder of weights folders; `one` is served."""
    shutil.copytree(tiny_weights, tmp_path / "weights" / "one")
    return tmp_path / "weights"


async def reload(client: AsyncClient, weights: str | None = None) -> Response:
    return await client.post("/model/reload", params={"weights": weights} if weights else {}, headers=KEY)


async def predict(client: AsyncClient, **given: Any) -> Response:
    return await client.post("/predict", **(given or {"data": {"text": "Hello."}}))


@pytest.mark.parametrize(
    ("settings", "headers", "status"),
    [
        ({}, {}, 403),
        ({}, KEY, 403),
        ({"api_keys": (SecretStr("one"),)}, {"X-API-Key": "one"}, 403),
        (ADMIN, {}, 401),
        (ADMIN, {"Authorization": "Bearer wrong"}, 401),
        ({**ADMIN, "api_keys": (SecretStr("one"),)}, {"X-API-Key": "one"}, 401),
        ({**ADMIN, "api_keys": (SecretStr("one"),)}, KEY, 503),  # authorized; the service has not started
        (ADMIN, KEY, 503),
    ],
)
def test_only_an_administrator_may_reload(
    root: Path, settings: Mapping[str, Any], headers: Mapping[str, str], status: int
) -> None:
    client = TestClient(make_app(root / "one", **settings))
    refused = client.post("/model/reload", headers=dict(headers))
    assert refused.status_code == status
    assert refused.headers["content-type"] == "application/problem+json"


async def test_every_route_names_the_new_weights(root: Path) -> None:
    new = like(root / "one", root / "two", scaled(0.9))
    async with serving(root / "one", **ADMIN) as (client, engine, _):
        old = engine.checkpoint.version
        answer = await reload(client, "two")
        assert answer.status_code == 200
        assert {when: answer.json()[when]["version"] for when in ("old", "new")} == {"old": old, "new": new}
        assert (await client.get("/model")).json()["version"] == new
        health = (await client.get("/health")).json()
        assert health["components"]["weights"]["detail"] == {"name": "tiny", "version": new, "reloading": False}
        assert (await predict(client)).json()["model"]["version"] == new
        metrics = (await client.get("/metrics")).text
        assert f'emmr_model_info{{name="tiny",version="{new}"}} 1.0' in metrics
        assert old not in metrics


async def test_no_request_fails_during_a_reload_under_load(root: Path, parts: Mapping[str, Part]) -> None:
    versions = {like(root / "one", root / "two", scaled(0.9))}
    async with serving(root / "one", **ADMIN) as (client, engine, _):
        versions.add(engine.checkpoint.version)
        answers: list[Response] = []
        stop, answered = asyncio.Event(), asyncio.Event()

        async def keep_requesting(files: Mapping[str, Part]) -> None:
            while not stop.is_set():
                answers.append(await predict(client, files=dict(files)))
                answered.set()

        subsets = [{name: parts[name] for name in names} for names in (*itertools.combinations(parts, 2), ["text"])]
        tasks = [asyncio.create_task(keep_requesting(files)) for files in (*subsets, parts)]
        for name in ("two", "one", "two"):
            assert (await reload(client, name)).status_code == 200
            for _ in range(10):
                answered.clear()
                await answered.wait()
        stop.set()
        await asyncio.gather(*tasks)
    assert len(answers) > 20
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["model"]["version"] for answer in answers} == versions


async def test_unusable_weights_are_refused_with_the_reason(root: Path) -> None:
    altered(root / "one", root / "altered")
    like(root / "one", root / "nan", scaled(float("nan")))
    async with serving(root / "one", **ADMIN) as (client, engine, _):
        old = engine.checkpoint.version
        for name, reason in (
            ("altered", "config.json is not the file that was hashed"),
            ("nan", "the weights fail on text+audio+visual"),
            ("nowhere", "no weights folder 'nowhere'"),
        ):
            refused = await reload(client, name)
            assert refused.status_code == 409
            assert refused.headers["content-type"] == "application/problem+json"
            problem = refused.json()
            assert problem["type"] == "/problems/reload-refused"
            assert reason in problem["detail"]
            assert (await predict(client)).json()["model"]["version"] == old
            assert (await client.get("/health")).status_code == 200


@pytest.mark.parametrize("name", ["..", "../one", "/etc", ".", "one/..", "one%00", "a" * 129])
def test_a_path_is_not_accepted_as_a_name(root: Path, name: str) -> None:
    client = TestClient(make_app(root / "one", **ADMIN))
    refused = client.post("/model/reload", params={"weights": name}, headers=dict(KEY))
    assert refused.status_code == 422
    assert refused.json()["type"] == "/problems/invalid-query"


async def test_concurrent_reloads_are_refused(root: Path) -> None:
    async with serving(root / "one", **ADMIN) as (client, _, _):
        answers = await asyncio.gather(*(reload(client) for _ in range(4)))
        assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]
        refused = next(answer for answer in answers if answer.status_code == 409)
        assert refused.json()["type"] == "/problems/reload-underway"
        assert (await reload(client)).status_code == 200


def test_the_card_the_classes_and_the_limits_are_shown(client: TestClient) -> None:
    response = client.get("/model")
    assert response.status_code == 200
    model = response.json()
    assert (model["name"], model["classes"], model["card"]) == ("tiny", ["negative", "neutral", "positive"], CARD)
    assert len(model["version"]) == 12
    assert model["system"] == "emmr"
    assert model["openface_columns"] == "action_units"
    assert model["limits"]["body_bytes"] == 96 * 2**20
    assert model["limits"]["audio_rate"] == [8000, 192000]
    assert (model["limits"]["queue"], model["limits"]["wait_seconds"]) == (256, 3.0)
