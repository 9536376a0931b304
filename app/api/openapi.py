"""The OpenAPI document as this service keeps it.

For: saying that every error is `application/problem+json`, in one schema that all of them refer to.
Does not know: which errors a route has; routes say so themselves, by `problem_response_of`.
"""

from typing import Any, Final

from fastapi import FastAPI

from app.api.problems import MEDIA_TYPE

_JSON: Final = "application/json"
_FOREIGN: Final = ("HTTPValidationError", "ValidationError")
"""How the framework documents its own answer to a wrong parameter; this service gives another, where one can be."""


class DocumentedApp(FastAPI):
    """An application whose document has errors as they are."""

    def openapi(self) -> dict[str, Any]:
        """The document. The framework keeps what it has made, so this may find it corrected already."""
        document = super().openapi()
        for path in document["paths"].values():
            for operation in path.values():
                _correct(operation["responses"])
        for name in _FOREIGN:
            document["components"]["schemas"].pop(name, None)
        return document


def _correct(responses: dict[str, Any]) -> None:
    # The framework has every answer of a route in the media type of the good one.
    for status in [status for status in responses if status >= "400"]:
        content = responses[status].get("content", {})
        if _JSON not in content:
            continue
        schema = content.pop(_JSON)
        if schema["schema"]["$ref"].endswith(_FOREIGN):
            del responses[status]
        else:
            content[MEDIA_TYPE] = schema
