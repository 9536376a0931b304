"""`GET /model`: which weights are loaded, their card, and what a request may be at most.

For: people deciding whether to trust an answer, and clients that check before they send.
Does not know: how the limits are kept.
"""

from fastapi import APIRouter, Request

from app.api.predict import PROBLEM_RESPONSES
from app.api.schemas import Limits, ModelCard
from app.inference.engine import Engine
from app.settings import Settings

AUDIO_FORMATS = ("WAV", "FLAC", "OGG Vorbis", "OGG Opus", "MP3", "WebM Opus", "M4A AAC")

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


def limits_of(settings: Settings) -> Limits:
    """The limits of `settings` that a client can run into."""
    return Limits(
        body_bytes=settings.max_body_bytes,
        body_seconds=settings.body_timeout,
        text_bytes=settings.max_text_bytes,
        audio_seconds=settings.max_audio_seconds,
        audio_decoded_bytes=settings.max_audio_decoded_bytes,
        audio_rate=(settings.min_audio_rate, settings.max_audio_rate),
        audio_channels=settings.max_audio_channels,
        audio_formats=list(AUDIO_FORMATS),
        openface_bytes=settings.max_openface_bytes,
        openface_line_bytes=settings.max_openface_line_bytes,
        openface_columns=settings.max_openface_columns,
        openface_rows=settings.max_openface_rows,
        decode_seconds=settings.decode_timeout,
        queue=settings.queue_size,
        deadline_seconds=settings.deadline,
    )
