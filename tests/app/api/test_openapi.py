import re
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.api.problems import MEDIA_TYPE
from app.api.schemas import BatchAnswers, ExplainedPrediction, Health, ModelCard, Prediction, Problem, Unhealthy
from app.decoding.parts import decode_text
from app.errors import ClientGone, CorruptPart, ServiceError

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
        assert name == ("Unhealthy" if "/health" in where and where.endswith("503") else "Problem"), where
    assert not [name for name in document["components"]["schemas"] if "ValidationError" in name]


def test_the_openapi_document_is_stable(client: TestClient, document: dict[str, Any]) -> None:
    assert client.get("/openapi.json").json() == document


def test_an_unknown_problem_type_is_documented(document: dict[str, Any]) -> None:
    assert list(document["paths"]["/problems/{code}"]["get"]["responses"]) == ["200", "400", "404", "421", "431"]


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


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield f"{method.upper()} {path}", operation


def example(document: dict[str, Any], operation: str, status: str = "200", kind: str = "application/json") -> Any:
    found = dict(operations(document))[operation]["responses"][status]["content"][kind]["examples"]
    return {name: entry["value"] for name, entry in found.items()}


def test_operations_have_short_ids_summaries_and_descriptions(document: dict[str, Any]) -> None:
    found = dict(operations(document))
    assert {operation["operationId"] for operation in found.values()} == {
        "predict", "predict_batch", "analyze_recording", "model", "reload_model", "metrics", "health", "health_ready",
        "health_live", "problem_types", "problem_type",
    }  # fmt: skip
    tags = {tag["name"] for tag in document["tags"]}
    for where, operation in found.items():
        assert operation["summary"], where
        assert operation["description"], where
        assert set(operation["tags"]) <= tags, where
        assert operation["security"] == [], where


def test_every_schema_field_and_parameter_is_described(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert len(schemas) > 40
    for name, schema in schemas.items():
        assert schema["description"], name
        assert not [field for field, value in schema["properties"].items() if not value.get("description")], name
    for where, operation in operations(document):
        for parameter in operation.get("parameters", ()):
            assert parameter["description"], where
        for content in operation.get("requestBody", {"content": {}})["content"].values():
            assert all(part["description"] for part in content["schema"]["properties"].values()), where


def test_every_body_and_answer_has_an_example(document: dict[str, Any]) -> None:
    for where, operation in operations(document):
        bodies = operation.get("requestBody", {}).get("content", {})
        answers = [kind for response in operation["responses"].values() for kind in response["content"].values()]
        assert all(content["examples"] for content in (*bodies.values(), *answers)), where


def test_each_subset_of_modalities_has_an_example(document: dict[str, Any]) -> None:
    parts = ("text", "audio", "openface")
    subsets = {"-".join(names) for size in (1, 2, 3) for names in combinations(parts, size)}
    bodies = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    answers = example(document, "POST /predict")
    assert set(bodies) == subsets
    assert set(answers) == {*subsets, "explained"}
    for name in subsets:
        assert "-".join(bodies[name]["value"]) == name
        used = answers[name]["modalities"]
        assert {part for part in parts if used[part.replace("openface", "visual")]["status"] == "present"} == set(
            name.split("-")
        )


def test_the_examples_of_answers_satisfy_their_schemas(document: dict[str, Any]) -> None:
    answers = example(document, "POST /predict")
    explained = answers.pop("explained")
    assert ExplainedPrediction.model_validate(explained).model_dump(mode="json") == explained
    for answer in answers.values():
        assert Prediction.model_validate(answer).model_dump(mode="json") == answer
    for operation, kind in (("POST /predict/batch", BatchAnswers), ("GET /model", ModelCard), ("GET /health", Health)):
        (answer,) = example(document, operation).values()
        assert kind.model_validate(answer).model_dump(mode="json") == answer
    (unhealthy,) = example(document, "GET /health", "503", MEDIA_TYPE).values()
    assert Unhealthy.model_validate(unhealthy).model_dump(mode="json") == unhealthy


def test_every_error_has_an_example(document: dict[str, Any]) -> None:
    kinds = [kind for kind in ServiceError.problem_types if kind is not ClientGone]
    examples = document["components"]["examples"]
    assert set(examples) == {kind.code for kind in kinds}
    for kind in kinds:
        problem = Problem.model_validate(examples[kind.code]["value"])
        assert (problem.status, problem.title) == (kind.status, kind.title)
    used = {reference.rpartition("/")[2] for reference in references(document) if "/examples/" in reference}
    unused = {kind.code for kind in kinds} - used
    assert unused == set()
