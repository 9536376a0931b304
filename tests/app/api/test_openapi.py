"""The OpenAPI document: it leads nowhere that is not there, and promises neither less nor more than is kept."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.api.problems import MEDIA_TYPE
from app.decoding.text import decode_text
from app.uploads.errors import CorruptPart

MOST = 64 * 1024


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


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    found = set(references(document))
    assert {"#/components/schemas/Problem", "#/components/schemas/Fault"} <= found
    for reference in found:
        here: Any = document
        for step in reference.removeprefix("#/").split("/"):
            here = here[step]


def test_every_error_is_a_problem(document: dict[str, Any]) -> None:
    found = dict(errors(document))
    assert len(found) > 15
    for where, response in found.items():
        assert list(response["content"]) == [MEDIA_TYPE], where
        name = response["content"][MEDIA_TYPE]["schema"]["$ref"].rpartition("/")[2]
        assert name == ("Unhealthy" if "/health" in where else "Problem"), where
    assert not [name for name in document["components"]["schemas"] if "ValidationError" in name]


def test_asking_for_it_twice_gives_the_same(client: TestClient, document: dict[str, Any]) -> None:
    assert client.get("/openapi.json").json() == document


def test_a_type_of_problem_that_there_is_not_is_documented(document: dict[str, Any]) -> None:
    assert list(document["paths"]["/problems/{code}"]["get"]["responses"]) == ["200", "404"]


@pytest.mark.parametrize("kind", ["multipart/form-data", "application/x-www-form-urlencoded"])
def test_a_text_that_fits_the_document_is_one_that_is_accepted(document: dict[str, Any], kind: str) -> None:
    content = document["paths"]["/predict"]["post"]["requestBody"]["content"]
    pattern = re.compile(content[kind]["schema"]["properties"]["text"]["pattern"])
    characters = [chr(code) for code in range(0x10000) if not 0xD800 <= code < 0xE000]
    for text in ["", "a\0", "\0a", " \n", "\n a", " a \n", "é", "😀", *characters, *(f"{c}a" for c in characters)]:
        try:
            decode_text(text.encode(), MOST)
        except CorruptPart:
            accepted = False
        else:
            accepted = True
        assert (pattern.search(text) is not None) is accepted, ascii(text)


def test_the_threshold_is_a_number_that_may_be_left_out(document: dict[str, Any]) -> None:
    options = {option["name"]: option for option in document["paths"]["/predict"]["post"]["parameters"]}
    assert list(options) == ["explain", "threshold"]
    assert not options["threshold"]["required"]
    assert "key_missing.score" in options["threshold"]["description"]
    schema = options["threshold"]["schema"]
    assert (schema["type"], schema["minimum"], schema["maximum"]) == ("number", 0, 1)


def test_a_fields_meaning_is_said_where_its_name_does_not(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for name, fields in {
        "KeyMissing": ["score", "by_modality", "threshold", "polarity_full", "polarity_available"],
        "AudioUse": ["familiarity"],
        "Prediction": ["summary"],
    }.items():
        assert all("description" in schemas[name]["properties"][field] for field in fields)


def test_the_types_of_files_are_named(document: dict[str, Any]) -> None:
    body = document["paths"]["/predict"]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert "audio/wav" in body["encoding"]["audio"]["contentType"].split(", ")
    assert body["encoding"]["openface"]["contentType"] == "text/csv"
