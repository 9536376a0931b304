"""The OpenAPI document: every error a problem, examples of each request and answer."""

import json
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from importlib.resources import files
from typing import Any, Final

from fastapi import FastAPI

from app import errors
from app.api.problems import MEDIA_TYPE, PROBLEM_TYPES
from app.api.schemas import Problem
from app.errors import Fault, ServiceError, UploadError

_JSON: Final = "application/json"
_FRAMEWORK_SCHEMAS: Final = ("HTTPValidationError", "ValidationError")
"""Schemas of FastAPI's own 422 response, which this service never sends."""
_EVERY_OPERATION: Final[Mapping[str, str]] = {
    "400": "The request line, a header or the framing of the body is malformed.",
    "421": "The `Host` header names a host that the service does not answer for.",
    "431": "The request line and the headers are too large.",
}
_WITHOUT_BODY: Final = (
    errors.NotReady, errors.RateLimited, errors.TooManyConnections, errors.MalformedRequest, errors.UnknownHost,
    errors.HeadTooLarge,
    errors.ReloadRefused, errors.ReloadUnderway, errors.InvalidQuery, errors.Internal,
)  # fmt: skip
"""Problems of requests without a body."""

METADATA: Final[Mapping[str, Any]] = {
    "title": "EMMR",
    "description": "Sentiment of an utterance from its text, its voice and its face, with any of them missing. Every "
    "path is also available under `/v1`. Every error is `application/problem+json` (RFC 9457).",
    "contact": {"name": "The EMMR maintainers"},
    "license_info": {"name": "Apache License 2.0", "identifier": "Apache-2.0"},
    "openapi_tags": [
        {"name": "prediction", "description": "Answers to utterances and recordings."},
        {"name": "model", "description": "The loaded weights."},
        {"name": "health", "description": "State of the service; no key is needed."},
        {"name": "service", "description": "Metrics and the types of problems."},
    ],
    "servers": [
        {"url": "/", "description": "This service."},
        {"url": "/v1", "description": "The same paths, with the version of the interface."},
    ],
}
"""Arguments of the application."""


class DocumentedApp(FastAPI):
    """FastAPI whose OpenAPI document has the service's errors and examples."""

    def openapi(self) -> dict[str, Any]:
        """Return the document; it is made once."""
        if self.openapi_schema is None:
            document = super().openapi()
            components = document["components"]
            for name in _FRAMEWORK_SCHEMAS:
                components["schemas"].pop(name, None)
            components["examples"] = {code: {"summary": kind.title, "value": _problem(code)} for code, kind in _KINDS}
            samples = json.loads(files("app.api").joinpath("examples.json").read_bytes())
            for path, operations in document["paths"].items():
                for method, operation in operations.items():
                    _complete(operation, samples[f"{method.upper()} {path}"])
        return self.openapi_schema or {}


_KINDS: Final = [
    (kind.code, kind)
    for kind in ServiceError.problem_types
    if kind is not errors.ClientGone  # nobody reads its answer
]


def _complete(operation: dict[str, Any], samples: Mapping[str, Any]) -> None:
    """Correct the errors of an operation, and add its examples."""
    responses = operation["responses"]
    operation.setdefault("security", [])  # no key is needed, where FastAPI has set none
    for status, description in _EVERY_OPERATION.items():
        schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
        responses.setdefault(status, {"description": description, "content": {_JSON: schema}})
    for status in sorted(responses):
        content = responses[status]["content"]
        if status >= "400":
            # FastAPI documents every response of a route with the media type of the successful one.
            (schema,) = content.values()
            if schema["schema"]["$ref"].endswith(_FRAMEWORK_SCHEMAS):
                del responses[status]
                continue
            content = responses[status]["content"] = {MEDIA_TYPE: schema}
        for media_type, answer in content.items():
            given = samples.get(f"{status} {media_type}")
            answer["examples"] = given or _problems(status, with_body="requestBody" in operation)
    for media_type, body in operation.get("requestBody", {}).get("content", {}).items():
        body["examples"] = samples.get(media_type, {})
    operation["responses"] = dict(sorted(responses.items()))


def _problems(status: str, *, with_body: bool) -> dict[str, Any]:
    """Return the examples of the problems that a status may stand for."""
    kinds: Iterable[tuple[str, type[ServiceError]]] = (
        (code, kind) for code, kind in _KINDS if str(kind.status) == status and (with_body or kind in _WITHOUT_BODY)
    )
    found = {code: {"$ref": f"#/components/examples/{code}"} for code, _ in kinds}
    if found:
        return found
    phrase = HTTPStatus(int(status)).phrase
    problem = Problem(
        type="about:blank", title=phrase, status=int(status), detail=f"{phrase}.", instance="/", request_id="example",
        errors=[],
    )  # fmt: skip
    return {"status": {"summary": phrase, "value": problem.model_dump()}}


def _problem(code: str) -> dict[str, Any]:
    """Return an example of a problem."""
    entry = PROBLEM_TYPES[code]
    kind = next(kind for name, kind in _KINDS if name == code)
    faults = [Fault(part=None, place=None, detail=entry.summary)] if issubclass(kind, UploadError) else []
    problem = Problem(
        type=f"/problems/{code}",
        title=entry.title,
        status=entry.status,
        detail=entry.summary,
        instance="/predict",
        request_id="example",
        errors=faults,
    )
    return problem.model_dump()
