"""The application's routes and their access control."""

from fastapi import Depends, FastAPI

from app.api import auth, batch, health, metrics, model, predict, problems, recordings
from app.api.rate_limit import RateLimit
from app.settings import Settings
from app.web import page, reference


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
    if settings.docs_enabled:
        app.include_router(reference.router)
