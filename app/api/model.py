"""`GET /model`: the served weights and the limits of a request. `POST /model/reload` replaces the weights."""

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Request

from app.api.auth import require_admin
from app.api.predict import PROBLEM_RESPONSES
from app.api.problems import problem_responses
from app.api.response import model_name
from app.api.schemas import Limits, ModelCard, Reloaded
from app.engine.engine import WEIGHTS_NAME, Engine
from app.settings import Settings

AUDIO_FORMATS: Final = ["WAV", "FLAC", "OGG Vorbis", "OGG Opus", "MP3", "WebM Opus", "M4A AAC", "MP4 Opus"]

router = APIRouter(tags=["model"])


@router.get(
    "/model",
    operation_id="model",
    summary="The loaded weights and the limits",
    responses={status: PROBLEM_RESPONSES[status] for status in (401, 429, 503)},
)
async def show_model(request: Request) -> ModelCard:
    """Name, content hash, classes, system, limits and the model card."""
    engine: Engine = request.app.state.engine
    checkpoint = engine.checkpoint
    config = checkpoint.config
    return ModelCard(
        **dict(model_name(checkpoint)),
        system=config.system,
        openface_columns=config.visual.columns,
        max_tokens=config.text.max_tokens,
        limits=_limits(engine.settings),
        card=checkpoint.card,
    )


@router.post(
    "/model/reload",
    operation_id="reload_model",
    summary="Replace the weights without a pause",
    dependencies=[Depends(require_admin)],
    responses=problem_responses(
        {
            401: "An administrator's key is needed.",
            403: "No administrator's key is configured.",
            409: "The weights cannot be served, for the reason in `detail`, or others are being loaded; those before "
            "serve on.",
            422: "The name is not a folder's own.",
            503: "Not ready or on the way out; `Retry-After` says when to come back.",
        }
    ),
)
async def reload_model(
    request: Request,
    weights: Annotated[
        str | None,
        Query(pattern=WEIGHTS_NAME, description="A folder beside the configured one; that one when not given."),
    ] = None,
) -> Reloaded:
    """Verify, load and warm up weights, then serve them; those before serve until then, and on where that fails."""
    engine: Engine = request.app.state.engine
    old, new = await engine.reload(weights)
    return Reloaded(old=model_name(old), new=model_name(new))


def _limits(settings: Settings) -> Limits:
    return Limits(
        body_bytes=settings.max_body_bytes,
        body_seconds=settings.body_timeout,
        text_bytes=settings.max_text_bytes,
        audio_seconds=settings.max_audio_seconds,
        audio_decoded_bytes=settings.max_audio_decoded_bytes,
        audio_rate=[settings.min_audio_rate, settings.max_audio_rate],
        audio_channels=settings.max_audio_channels,
        audio_formats=AUDIO_FORMATS,
        openface_bytes=settings.max_openface_bytes,
        openface_line_bytes=settings.max_openface_line_bytes,
        openface_columns=settings.max_openface_columns,
        openface_rows=settings.max_openface_rows,
        decode_seconds=settings.decode_timeout,
        batch_items=settings.batch_max_items,
        queue=settings.queue_size,
        wait_seconds=settings.max_wait,
        deadline_seconds=settings.deadline,
    )
