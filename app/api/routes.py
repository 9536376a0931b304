"""The application's routes, their access control, and the OpenAPI document of both."""

from typing import Any, Final

from fastapi import Depends, FastAPI

from app.api import auth, batch, health, metrics, model, predict, problems, recordings
from app.api.rate_limit import RateLimit
from app.settings import Settings
from app.web import page

_JSON: Final = "application/json"
_FRAMEWORK_SCHEMAS: Final = ("HTTPValidationError", "ValidationError")
"""Schemas of FastAPI's own 422 response, which this service never sends."""


class DocumentedApp(FastAPI):
    """FastAPI with an OpenAPI document in which every error is `application/problem+json`."""

    def openapi(self) -> dict[str, Any]:
        """Return the document. FastAPI caches it, so it may have been corrected before."""
        document = super().openapi()
        for path in document["paths"].values():
            for operation in path.values():
                _correct(operation["responses"])
        for name in _FRAMEWORK_SCHEMAS:
            document["components"]["schemas"].pop(name, None)
        return document


def _correct(responses: dict[str, Any]) -> None:
    # FastAPI documents every response of a route with the media type of the successful one.
    for status in [status for status in responses if status >= "400"]:
        content = responses[status].get("content", {})
        if _JSON not in content:
            continue
        schema = content.pop(_JSON)
        if schema["schema"]["$ref"].endswith(_FRAMEWORK_SCHEMAS):
            del responses[status]
        else:
            content[problems.MEDIA_TYPE] = schema


def install_routes(app: FastAPI, settings: Settings) -> None:
    """Add every route that `settings` allow. Health checks and the page need no key and have no rate limit."""
    # A dependency that would pass every request is left out: FastAPI's handling of one costs more than most routes.
    keyed = [Depends(auth.require_key), *auth.SCHEMES] if settings.api_keys else []
    keys = (*settings.api_keys, *settings.admin_keys)
    if keys and settings.failed_key_limit is not None:
        app.state.failed_keys = auth.FailedKeys(settings.failed_key_limit)
    app.state.rate_limit = None if settings.rate_limit is None else RateLimit(settings.rate_limit, keys)
    limited = [Depends(app.state.rate_limit)] if app.state.rate_limit is not None else []
    for router in (predict.router, batch.router, recordings.router, model.router):
        app.include_router(router, dependencies=[*limited, *keyed])
    if settings.metrics_access != "off":
        app.include_router(metrics.router, dependencies=keyed if settings.metrics_access == "key" else [])
    for router in (health.router, problems.router, page.router):
        app.include_router(router)
