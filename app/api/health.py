"""Health checks: liveness, readiness and the state of each component. No key is needed."""

from typing import Any, Final

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse

from app.api.problems import MEDIA_TYPE, problem_body
from app.api.schemas import Component, Health, Unhealthy
from app.engine.engine import Engine
from app.engine.lifecycle import Phase
from app.errors import NotReady

SILENT: Final = "silent"
_UNHEALTHY: Final[dict[int | str, dict[str, Any]]] = {503: {"description": "Not ready.", "model": Unhealthy}}

router = APIRouter(tags=["health"])


@router.get(
    "/health",
    operation_id="health",
    summary="The state of the service and its parts",
    response_model=Health,
    responses=_UNHEALTHY,
)
async def show_health(request: Request) -> Response:
    """200 when ready and every part is well; 503, with the same fields, otherwise."""
    engine: Engine = request.app.state.engine
    components = _components(engine)
    return _report(request, components, engine.lifecycle.ready and all(part.ok for part in components.values()))


@router.get(
    "/health/ready",
    operation_id="health_ready",
    summary="Whether to send traffic here",
    response_model=Health,
    responses=_UNHEALTHY,
)
async def show_readiness(request: Request) -> Response:
    """The same question as `/health`."""
    return await show_health(request)


@router.get(
    "/health/live",
    operation_id="health_live",
    summary="Whether the process is worth keeping",
    response_model=Health,
    responses=_UNHEALTHY,
)
async def show_liveness(request: Request) -> Response:
    """200 unless the service has failed for good or its worker is silent; starting and draining are alive."""
    engine: Engine = request.app.state.engine
    components = _components(engine)
    silent = components["worker"].state == SILENT
    return _report(request, components, engine.lifecycle.phase is not Phase.FAILED and not silent)


def _report(request: Request, components: dict[str, Component], healthy: bool) -> Response:
    engine: Engine = request.app.state.engine
    phase, reason = engine.lifecycle.phase, engine.lifecycle.reason
    health = Health(state=phase, ready=engine.lifecycle.ready, components=components)
    if healthy:
        return JSONResponse(health.model_dump())
    failing = ", ".join(name for name, part in components.items() if not part.ok)
    detail = f"The service is {phase}" + (f": {reason}" if reason else f"; not well: {failing}" if failing else "")
    error = NotReady(detail + ".", engine.settings.retry_after)
    body = Unhealthy(**dict(problem_body(request, error)), **dict(health))
    return JSONResponse(body.model_dump(), error.status, error.headers, MEDIA_TYPE)


def _components(engine: Engine) -> dict[str, Component]:
    predictor, batcher, settings = engine.predictor, engine.batcher, engine.settings
    pool, loaded, failed = engine.pool.state(), predictor is not None, engine.lifecycle.phase is Phase.FAILED
    weights: dict[str, Any] = {}
    encoder: dict[str, Any] = {}
    device: dict[str, Any] = {"requested": settings.device}
    if predictor is not None:
        config, version = predictor.pipeline.config, predictor.pipeline.checkpoint.version
        weights = {"name": config.name, "version": version, "reloading": engine.reloading}
        encoder = {"name": config.text.encoder, "size": config.text.size}
        device |= {"used": predictor.device, "memory_bytes": predictor.device_memory()}
    responsive = batcher.silence <= settings.heartbeat_timeout
    state = "loaded" if loaded else "failed" if failed else "loading"
    return {
        "weights": Component(ok=loaded, state=state, detail=weights),
        "text_encoder": Component(ok=loaded, state=state, detail=encoder),
        "decode_pool": Component(
            ok=pool.ok,
            state="stopped" if not pool.ok else "running" if pool.alive else "replacing",
            detail={
                "workers": pool.workers,
                "alive": pool.alive,
                "busy": pool.busy,
                "replaced": pool.replaced,
                "sandbox": dict(pool.sandbox),
            },
        ),
        "worker": Component(
            ok=batcher.alive and responsive,
            state="stopped" if not batcher.alive else "running" if responsive else SILENT,
            detail={
                "workers": batcher.workers,
                "processes_started": 0 if predictor is None else predictor.processes_started,
                "heartbeat_age_seconds": round(batcher.silence, 3),
                "failed_batches": batcher.failures,
                "out_of_memory": batcher.shortages,
            },
        ),
        "queue": Component(
            ok=True,  # a full queue is temporary: requests are refused with 429 until it drains
            state="full" if batcher.depth >= settings.queue_size else "open",
            detail={"depth": batcher.depth, "capacity": settings.queue_size},
        ),
        "transcription": _transcription(engine),
        "device": Component(ok=loaded and not failed, state="lost" if loaded and failed else state, detail=device),
    }


def _transcription(engine: Engine) -> Component:
    # Always ok: requests are answered without it.
    if (transcriber := engine.transcriber) is None:
        return Component(ok=True, state="off")
    detail: dict[str, Any] = {"waiting": transcriber.waiting, "sandbox": dict(transcriber.sandbox)}
    return Component(ok=True, state=transcriber.state, detail=detail)
