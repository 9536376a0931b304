import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from app.api.problems import MEDIA_TYPE
from app.decoding.parts import decode_text
from app.errors import CorruptPart
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
    assert client.get("/openapi.json").status_code == status
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404


@pytest.mark.parametrize("path", ["/predict/", "/health/", "/metrics/"])
def test_a_trailing_slash_is_not_redirected(tiny_weights: Path, path: str) -> None:
    client = TestClient(make_app(tiny_weights), follow_redirects=False)
    assert client.get(path).status_code == 404


# ---- OpenAPI

MAX_TEXT_BYTES = 64 * 1024


@pytest.fixture(scope="module")
def document(client: TestClient) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()
    return found


def references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(reference := value.get("$ref"), str):
            yield reference
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def errors(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            for status, response in operation["responses"].items():
                if status >= "400":
                    yield f"{method} {path} {status}", response


def test_every_openapi_reference_resolves(document: dict[str, Any]) -> None:
    found = set(references(document))
    assert {"#/components/schemas/Problem", "#/components/schemas/Fault"} <= found
    for reference in found:
        here: Any = document
        for step in reference.removeprefix("#/").split("/"):
            here = here[step]


def test_every_documented_error_is_a_problem(document: dict[str, Any]) -> None:
    found = dict(errors(document))
    assert len(found) > 15
    for where, response in found.items():
        assert list(response["content"]) == [MEDIA_TYPE], where
        name = response["content"][MEDIA_TYPE]["schema"]["$ref"].rpartition("/")[2]
        assert name == ("Unhealthy" if "/health" in where else "Problem"), where
    assert not [name for name in document["components"]["schemas"] if "ValidationError" in name]


def test_the_openapi_document_is_stable(client: TestClient, document: dict[str, Any]) -> None:
    assert client.get("/openapi.json").json() == document


def test_an_unknown_problem_type_is_documented(document: dict[str, Any]) -> None:
    assert list(document["paths"]["/problems/{code}"]["get"]["responses"]) == ["200", "404"]


@pytest.mark.parametrize("kind", ["multipart/form-data", "application/x-www-form-urlencoded"])
def test_the_documented_text_pattern_matches_the_accepted_texts(document: dict[str, Any], kind: str) -> None:
    content = document["paths"]["/predict"]["post"]["requestBody"]["content"]
    pattern = re.compile(content[kind]["schema"]["properties"]["text"]["pattern"])
    characters = [chr(code) for code in range(0x10000) if not 0xD800 <= code < 0xE000]
    for text in ["", "a\0", "\0a", " \n", "\n a", " a \n", "é", "😀", *characters, *(f"{c}a" for c in characters)]:
        try:
            decode_text(text.encode(), MAX_TEXT_BYTES)
        except CorruptPart:
            accepted = False
        else:
            accepted = True
        assert (pattern.search(text) is not None) is accepted, ascii(text)


def test_the_threshold_is_an_optional_number(document: dict[str, Any]) -> None:
    options = {option["name"]: option for option in document["paths"]["/predict"]["post"]["parameters"]}
    assert list(options) == ["explain", "threshold", "face_id", "transcribe"]
    assert not options["threshold"]["required"]
    assert "key_missing.score" in options["threshold"]["description"]
    schema = options["threshold"]["schema"]
    assert (schema["type"], schema["minimum"], schema["maximum"]) == ("number", 0, 1)


def test_ambiguous_fields_have_a_description(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for name, fields in {
        "KeyMissing": ["score", "by_modality", "threshold", "polarity_full", "polarity_available"],
        "AudioUse": ["familiarity"],
        "Prediction": ["summary"],
    }.items():
        assert all("description" in schemas[name]["properties"][field] for field in fields)


def test_the_content_types_of_files_are_documented(document: dict[str, Any]) -> None:
    body = document["paths"]["/predict"]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert "audio/wav" in body["encoding"]["audio"]["contentType"].split(", ")
    assert body["encoding"]["openface"]["contentType"] == "text/csv"
