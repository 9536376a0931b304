"""Every number and switch of the service, read from the environment once.

For: the limits of the service's contract and where it listens, as one frozen value handed to whoever needs a part.
Does not know: the model's own sizes (`model.config`); nothing else in the project reads the environment.

`EMMR_PORT=9000` sets `port`, and so on; lists are JSON (`EMMR_API_KEYS='["one", "two"]'`).
"""

import os
from pathlib import Path
from typing import Annotated, Final, Literal

import limits
from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB: Final = 2**20
KIB: Final = 2**10
DEFAULT_WEIGHTS: Final = Path(__file__).resolve().parent.parent / "weights" / "default"


def _processors() -> int:
    return os.cpu_count() or 1


def _as_rate(written: str) -> str:
    limits.parse(written)  # raises ValueError, which says what a rate looks like
    return written


Key = Annotated[SecretStr, Field(min_length=1)]
Rate = Annotated[str, AfterValidator(_as_rate)]
Origin = Annotated[str, Field(pattern=r"^(\*|https?://[^/\s]+)$")]


class Settings(BaseSettings):
    """What the service may be told from outside. Sizes are bytes and times seconds unless a name says otherwise."""

    model_config = SettingsConfigDict(env_prefix="EMMR_", frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    weights: Path = DEFAULT_WEIGHTS
    weights_root: Path | None = None
    """Whose folders a reload may take by name; where `weights` lies when not given."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:1`: what `torch.device` takes, or the best there is."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    api_keys: tuple[Key, ...] = ()
    """With any key here, everything but the page and the health checks asks for one of them."""
    admin_keys: tuple[Key, ...] = ()
    """What changes the service asks for one of these, and is closed while there is none; each opens the rest too."""
    rate_limit: Rate | None = None
    """How often one key, or without keys one address, may ask: `600/minute`. Behind a proxy every address is the
    proxy's unless uvicorn is told to trust it (FORWARDED_ALLOW_IPS)."""
    cors_origins: tuple[Origin, ...] = ()
    """Pages from elsewhere that may ask from a browser: `https://example.org`, or `*` for all."""
    docs_enabled: bool = True
    """Whether `/openapi.json` is there."""
    metrics_access: Literal["open", "key", "off"] = "key"
    """Who may read `/metrics`: everyone, who has a key (where there are keys), or nobody."""

    max_body_bytes: int = Field(default=25 * MIB, gt=0)
    body_timeout: float = Field(default=30.0, gt=0)
    """From the first byte of a request's body to its last; as long again for its head."""
    max_text_bytes: int = Field(default=64 * KIB, gt=0)
    max_uploads: int = Field(default=256, gt=0)
    """Bodies that may be arriving at a time."""
    spool_bytes: int = Field(default=1 * MIB, gt=0)
    """Of one uploaded file, kept in memory; past this it is on disk."""

    max_audio_seconds: float = Field(default=300.0, gt=0)
    max_audio_decoded_bytes: int = Field(default=64 * MIB, gt=0)
    min_audio_rate: int = Field(default=8_000, gt=0)
    max_audio_rate: int = Field(default=192_000, gt=0)
    max_audio_channels: int = Field(default=8, gt=0)

    max_openface_bytes: int = Field(default=8 * MIB, gt=0)
    max_openface_line_bytes: int = Field(default=64 * KIB, gt=0)
    max_openface_columns: int = Field(default=1_024, gt=0)
    max_openface_rows: int = Field(default=20_000, gt=0)

    decode_timeout: float = Field(default=10.0, gt=0)
    decode_workers: int = Field(default_factory=lambda: min(8, _processors()), gt=0)
    """Processes in which files become waveforms, and waveforms features."""
    decode_memory_bytes: int = Field(default=2048 * MIB, gt=0)
    """Address space of one decoding process."""

    feature_threads: int = Field(default_factory=lambda: min(4, _processors()), gt=0)
    """Threads that normalise and reduce them to slots."""
    compute_threads: int = Field(default_factory=lambda: max(1, _processors() // 2), gt=0)
    """That one computation on the CPU may use; decoding, listening and HTTP have the other processors."""
    queue_size: int = Field(default=256, gt=0)
    """Requests that may wait, wherever they wait, before their forward pass."""
    max_wait: float = Field(default=3.0, ge=0)
    """How long those who wait may take, by how fast others have been answered lately, for one more to be let in; 0 for
    no such bound. `queue_size` bounds their number whatever their pace."""
    max_batch: int = Field(default=32, gt=0)
    max_batch_cost: float | None = Field(default=None, gt=0)
    """In padded tokens; what suits the device when not given. An item that costs more is computed alone."""
    batch_delay_ms: float = Field(default=0.0, ge=0)
    """How long a waiting item may be held back for company."""
    deadline: float = Field(default=30.0, gt=0)
    """From the last byte of a request's body to its answer."""
    retry_after: int = Field(default=1, ge=1, le=60)
    """What a refused client is told to wait at least; it is told more where the queue drains slowly, 60 at most."""

    key_threshold: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    """Probability of another answer at and above which a missing modality is reported as key; the weights' own when not
    given. A request may name another."""

    heartbeat_timeout: float = Field(default=30.0, gt=0)
    """How long the worker may be silent before it no longer counts as healthy."""
    hang_timeout: float = Field(default=120.0, gt=0)
    """How long until the process gives it up and ends."""
    grace_period: float = Field(default=5.0, ge=0)
    """After SIGTERM: how long to serve on, not ready, while load balancers notice."""
    drain_timeout: float = Field(default=60.0, gt=0)
    """After that: how long accepted requests may take to finish."""
