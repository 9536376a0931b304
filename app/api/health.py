"""Health: whether the process lives, whether to send it traffic, and the state of each part.

For: orchestrators and people; never asks for a key.
Does not know: what the parts do beyond being well or not.
"""

from typing import Any, Final

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse

from app.api.problems import MEDIA_TYPE, problem_body, trouble
from app.api.schemas import Component, Health, Unhealthy
from app.engine.engine import Engine
from app.engine.errors import NotReady
from app.engine.lifecycle import Phase

router = APIRouter(tags=["health"])

SILENT: Final = "silent"

Detail = dict[str, str | int | float | bool | None]
_UNHEALTHY: Final[dict[int | str, dict[str, Any]]] = {503: {"description": "Not ready.", "model": Unhealthy}}


@router.get("/health", summary="The state of the service and its parts", response_model=Health, responses=_UNHEALTHY)
async def show_health(request: Request) -> Response:
    """200 when ready and every part is well; 503, with the same fields, otherwise."""
    engine: Engine = request.app.state.engine
    components = _components(engine)
    return _report(request, components, engine.lifecycle.ready and all(part.ok for part in components.values()))


@router.get("/health/ready", summary="Whether to send traffic here", response_model=Health, responses=_UNHEALTHY)
async def show_readiness(request: Request) -> Response:
    """The same question as `/health`."""
    return await show_health(request)


@router.get("/health/live", summary="Whether the process is worth keeping", response_model=Health, responses=_UNHEALTHY)
async def show_liveness(request: Request) -> Response:
    """200 unless the service has failed for good or its worker is silent; starting and draining are alive."""
    engine: Engine = request.app.state.engine
    components = _components(engine)
    silent = components["worker"].state == SILENT
    return _report(request, components, engine.lifecycle.phase is not Phase.FAILED and not silent)


def _report(request: Request, components: dict[str, Component], well: bool) -> Response:
    engine: Engine = request.app.state.engine
    phase, reason = engine.lifecycle.phase, engine.lifecycle.reason
    health = Health(state=phase, ready=engine.lifecycle.ready, components=components)
    if well:
        return JSONResponse(health.model_dump())
    ailing = ", ".join(name for name, part in components.items() if not part.ok)
    detail = f"The service is {phase}" + (f": {reason}" if reason else f"; not well: {ailing}" if ailing else "")
    said = trouble(NotReady(detail + ".", engine.settings.retry_after))
    body = Unhealthy(**dict(problem_body(request, said)), **dict(health))
    return JSONResponse(body.model_dump(), said.status, dict(said.headers), MEDIA_TYPE)


def _components(engine: Engine) -> dict[str, Component]:
    """The state of every part."""
    predictor, batcher, settings = engine.predictor, engine.batcher, engine.settings
    loaded = predictor is not None
    weights: Detail = {}
    encoder: Detail = {}
    device: Detail = {"requested": settings.device}
    if predictor is not None:
        config = predictor.pipeline.config
        weights = {
            "name": config.name,
            "version": predictor.pipeline.checkpoint.version,
            "reloading": engine.reloading,
        }
        encoder = {"name": config.text.encoder, "size": config.text.size}
        device |= {"used": predictor.device, "memory_bytes": predictor.device_memory()}
    heard = batcher.silence <= settings.heartbeat_timeout
    failed = engine.lifecycle.phase is Phase.FAILED
    state = "loaded" if loaded else "failed" if failed else "loading"
    return {
        "weights": Component(ok=loaded, state=state, detail=weights),
        "text_encoder": Component(ok=loaded, state=state, detail=encoder),
        "decode_pool": _decode_pool(engine),
        "worker": Component(
            ok=batcher.alive and heard,
            state=SILENT if batcher.alive and not heard else "running" if batcher.alive else "stopped",
            detail={
                "heartbeat_age_seconds": round(batcher.silence, 3),
                "failed_batches": batcher.failures,
                "out_of_memory": batcher.shortages,
            },
        ),
        "queue": Component(
            ok=True,  # a full queue refuses with 429 and is soon no longer full
            state="full" if batcher.depth >= settings.queue_size else "open",
            detail={"depth": batcher.depth, "capacity": settings.queue_size},
        ),
        "device": Component(ok=loaded and not failed, state="lost" if loaded and failed else state, detail=device),
    }


def _decode_pool(engine: Engine) -> Component:
    state = engine.pool.state()
    return Component(
        ok=state.ok,
        state="stopped" if not state.ok else "running" if state.alive else "replacing",
        detail={"workers": state.workers, "alive": state.alive, "busy": state.busy, "replaced": state.replaced},
    )
