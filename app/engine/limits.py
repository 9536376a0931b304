"""The service's settings, as the limits each reader of input takes.

For: one place where a setting's name meets a reader's.
Does not know: how any limit is kept.
"""

from app.settings import Settings
from app.uploads.form import UploadLimits
from model.features.audio.loading import SoundLimits
from model.features.visual.openface import OpenFaceLimits


def upload_limits(settings: Settings) -> UploadLimits:
    """Of a request's body."""
    return UploadLimits(
        body_bytes=settings.max_body_bytes,
        body_seconds=settings.body_timeout,
        text_bytes=settings.max_text_bytes,
        openface_bytes=settings.max_openface_bytes,
        spool_bytes=settings.spool_bytes,
    )


def sound_limits(settings: Settings) -> SoundLimits:
    """Of decoded sound."""
    return SoundLimits(
        max_seconds=settings.max_audio_seconds,
        max_decoded_bytes=settings.max_audio_decoded_bytes,
        min_rate=settings.min_audio_rate,
        max_rate=settings.max_audio_rate,
        max_channels=settings.max_audio_channels,
    )


def openface_limits(settings: Settings) -> OpenFaceLimits:
    """Of an OpenFace CSV."""
    return OpenFaceLimits(
        max_bytes=settings.max_openface_bytes,
        max_line_bytes=settings.max_openface_line_bytes,
        max_columns=settings.max_openface_columns,
        max_rows=settings.max_openface_rows,
    )
