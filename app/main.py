"""The application factory: settings, lifespan, middleware and routes. `app/server.py` serves the application."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from app.api import metrics, openapi, problems, recordings, routes
from app.api.answer_log import AnswerLog
from app.engine.engine import Engine
from app.logging import configure_logging
from app.middleware import install_middleware
from app.settings import Settings
from app.uploads.spool import Uploads


def create_app(
    settings: Settings | None = None,
    on_failure: Callable[[], None] | None = None,
    build: Callable[..., Engine] = Engine,
) -> FastAPI:
    """Build the application.

    Args:
        settings: read from the environment if None.
        on_failure: called once when the service has failed for good and the process should end.
        build: makes the engine, from the arguments of `Engine`.
    """
    settings = settings or Settings()
    configure_logging(settings.log_level, settings.log_format)
    measured, uploads = metrics.Metrics(), Uploads(settings)
    engine = build(settings, on_batch=measured.observe_batch, on_failure=on_failure)
    measured.watch(engine, uploads)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with AnswerLog.opened(settings, measured.answers_lost.inc) as app.state.answers:
            engine.start()
            try:
                yield
            finally:
                await engine.stop()

    app = openapi.DocumentedApp(
        **openapi.METADATA,
        version=version("emmr"),
        lifespan=lifespan,
        openapi_url="/openapi.json" if settings.docs_enabled else None,
        docs_url=None,  # the pages of FastAPI load scripts from other sites; app/web/reference.py has those without
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.settings, app.state.metrics, app.state.engine, app.state.answers = settings, measured, engine, None
    app.state.uploads, app.state.recordings = uploads, recordings.Recordings(settings)
    measured.recordings.set_function(lambda: app.state.recordings.running)
    install_middleware(app, settings, measured)
    problems.install_problem_handlers(app)
    routes.install_routes(app, settings)
    return app
