"""The weights: `GET /model` says which are served, and what requests may be; `POST /model/reload` replaces them.

For: people deciding whether to trust an answer, clients that check before they send, and administrators.
Does not know: how the limits are kept, or how weights are replaced.
"""

from dataclasses import asdict
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request

from app.api.auth import require_admin
from app.api.predict import PROBLEM_RESPONSES
from app.api.problems import problem_response_of
from app.api.response import model_name
from app.api.schemas import Limits, ModelCard, Reloaded
from app.engine.engine import Engine
from app.engine.limits import openface_limits, sound_limits, upload_limits
from app.engine.weights_dir import NAME
from app.settings import Settings
from model.features.audio.loading import SoundLimits
from model.features.visual.openface import OpenFaceLimits

AUDIO_FORMATS = ("WAV", "FLAC", "OGG Vorbis", "OGG Opus", "MP3", "WebM Opus", "M4A AAC")
_REFUSALS: Final = {
    401: "An administrator's key is needed.",
    403: "The service has no administrator's key, so nobody may.",
    409: "The weights cannot be served, for the reason in `detail`, or others are being loaded; those before serve on.",
    422: "The name is not a folder's own.",
    503: "Not ready or on the way out; `Retry-After` says when to come back.",
}

router = APIRouter(tags=["prediction"])


@router.get("/model", summary="The loaded weights and the limits", responses={503: PROBLEM_RESPONSES[503]})
async def show_model(request: Request) -> ModelCard:
    """Name, content hash, classes, limits and the model card."""
    engine: Engine = request.app.state.engine
    checkpoint = engine.checkpoint
    config = checkpoint.config
    return ModelCard(
        name=config.name,
        version=checkpoint.version,
        classes=list(config.classes),
        openface_columns=config.visual.columns,
        max_tokens=config.text.max_tokens,
        limits=limits_of(engine.settings),
        card=checkpoint.card,
    )


@router.post(
    "/model/reload",
    summary="Replace the weights without a pause",
    dependencies=[Depends(require_admin)],
    responses={status: problem_response_of(description) for status, description in _REFUSALS.items()},
)
async def reload_model(
    request: Request,
    weights: Annotated[
        str | None, Query(pattern=NAME, description="A folder beside the configured one; that one when not given.")
    ] = None,
) -> Reloaded:
    """Verify, load and warm up weights, then serve them; those before serve until then, and on where that fails."""
    engine: Engine = request.app.state.engine
    old, new = await engine.reload(weights)
    return Reloaded(old=model_name(old), new=model_name(new))


def limits_of(settings: Settings) -> Limits:
    """The limits of `settings` that a client can run into."""
    sound = sound_limits(settings)
    return Limits.model_validate(
        {
            **asdict(upload_limits(settings)),
            **_named("audio", sound),
            **_named("openface", openface_limits(settings)),
            "audio_rate": (sound.min_rate, sound.max_rate),
            "audio_formats": list(AUDIO_FORMATS),
            "decode_seconds": settings.decode_timeout,
            "queue": settings.queue_size,
            "wait_seconds": settings.max_wait,
            "deadline_seconds": settings.deadline,
        }
    )


def _named(part: str, limits: SoundLimits | OpenFaceLimits) -> dict[str, Any]:
    """`max_seconds` of a sound → `audio_seconds`."""
    return {f"{part}_{name.removeprefix('max_')}": value for name, value in asdict(limits).items()}
