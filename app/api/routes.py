"""Which routes there are, and who may take each.

For: the application. What costs or tells something asks for a key and keeps to a rate; health checks and the page are
open to all.
Does not know: what the routes do.
"""

from fastapi import Depends, FastAPI

from app.api import auth, health, metrics, model, predict, problems
from app.api.rate_limit import RateLimit
from app.settings import Settings
from app.web import page


def install_routes(app: FastAPI, settings: Settings) -> None:
    """Add every route that `settings` allow."""
    # What lets everyone through is left out: the framework takes longer over a dependency than most take to run.
    keyed = [Depends(auth.require_key), *auth.SCHEMES] if settings.api_keys else []
    limited = [Depends(RateLimit(settings))] if settings.rate_limit is not None else []
    for router in (predict.router, model.router):
        app.include_router(router, dependencies=[*limited, *keyed])
    if settings.metrics_access != "off":
        app.include_router(metrics.router, dependencies=keyed if settings.metrics_access == "key" else [])
    for router in (health.router, problems.router, page.router):
        app.include_router(router)
