"""Settings of the service, read once from environment variables: `EMMR_PORT=9000` sets `port`; lists are JSON."""

import os
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX: Final = "EMMR_"
"""Of the environment variables."""
MIB: Final = 2**20
KIB: Final = 2**10
DEFAULT_WEIGHTS: Final = Path(__file__).resolve().parent.parent / "weights" / "default"


def _processors() -> int:
    return os.cpu_count() or 1


def _valid_rate(rate: str) -> str:
    import limits  # no other setting needs it

    limits.parse(rate)  # raises ValueError with a description of the format
    return rate


def _valid_network(address: str) -> str:
    return str(ip_network(address))  # raises ValueError


def _in_existing_folder(path: Path) -> Path:
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError("not a file that can be written: its folder does not exist, or permissions are lacking")
    return path


AppendableFile = Annotated[Path, AfterValidator(_in_existing_folder)]
Key = Annotated[SecretStr, Field(min_length=1)]
Rate = Annotated[str, AfterValidator(_valid_rate)]
Network = Annotated[str, AfterValidator(_valid_network)]
HostName = Annotated[str, Field(pattern=r"^(\*|\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)$")]
Origin = Annotated[str, Field(pattern=r"^(\*|https?://[^/\s]+)$")]
Transcribe: TypeAlias = Literal["never", "auto", "always"]


WITHOUT_CLIENTS: Final[Mapping[str, float]] = {
    "max_wait": 0.0,
    "deadline": 86_400.0,  # decoding has a limit of its own
    "transcribe_timeout": 600.0,  # for one voice, the voices before it included
    "transcribe_niceness": 0,
}
"""Settings of the commands that answer files with an engine of their own: no client waits, and none is refused."""
SECRET_VARIABLES: Final = ("EMMR_API_KEYS", "EMMR_ADMIN_KEYS")
"""Environment variables of secret settings; `emmr serve` erases them once they are read."""


def environment_without_keys() -> dict[str, str]:
    """Return the environment variables of this process but the secret ones, for processes that it starts."""
    return {name: value for name, value in os.environ.items() if name.upper() not in SECRET_VARIABLES}


def unknown_variables(environment: Iterable[str]) -> Mapping[str, str | None]:
    """Return the variables that begin as a setting's but set none, each with the name most like it, if any is."""
    known = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
    unknown = (name for name in environment if name.upper().startswith(PREFIX) and name.upper() not in known)
    return {name: next(iter(get_close_matches(name.upper(), known, 1)), None) for name in sorted(unknown)}


class Settings(BaseSettings):
    """All settings. Sizes are bytes and times seconds unless a name says otherwise."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 for any free one."""
    weights: Path = DEFAULT_WEIGHTS
    """Folder of the weights to serve."""
    weights_root: Path | None = None
    """Folder that contains the weights folders a reload may name; the parent of `weights` if not given."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:1`: any name that `torch.device` accepts; `auto` prefers CUDA."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level that is logged."""
    log_format: Literal["auto", "json", "text"] = "auto"
    """Form of the log's lines; `auto` is text where standard error is a terminal, and JSON elsewhere."""
    api_keys: tuple[Key, ...] = ()
    """If any is given, every route but the page and the health checks requires one of them."""
    admin_keys: tuple[Key, ...] = ()
    """Required to reload weights, which is disabled if none is given; each is valid as an API key as well."""
    rate_limit: Rate | None = None
    """Requests allowed per API key, or per address without keys: `600/minute`. Each item of a batch counts. Behind a
    proxy every address is the proxy's, unless it is one of `trusted_proxies`."""
    failed_key_limit: Rate | None = "60/minute"
    """Invalid API keys allowed per address. Beyond it every key is refused, except those that were valid from this
    address before."""
    trusted_proxies: tuple[Network, ...] = ()
    """Addresses or networks of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed: `10.0.0.0/8`."""
    allowed_hosts: tuple[HostName, ...] = ()
    """Names accepted in a request's Host header, beside `localhost`, `127.0.0.1`, `[::1]` and `host`; `*` for any. Any
    name is accepted if none is given and `host` is not a loopback address."""
    cors_origins: tuple[Origin, ...] = ()
    """Origins of pages that may call the service from a browser: `https://example.org`, or `*` for all."""
    docs_enabled: bool = True
    """Whether `/openapi.json`, `/docs`, `/redoc` and `/llms.txt` are served."""
    metrics_access: Literal["open", "key", "off"] = "key"
    """Access to `/metrics`: for all, with an API key (where there are any), or for none."""

    max_connections: int = Field(default=2048, gt=0)
    """Connections that may be open, fewer if the limit of file descriptors is low; beyond it, only health checks are
    answered."""
    max_connections_per_address: int = Field(default=512, gt=0)
    """Connections from one address, or one IPv6 network, that may be open; not for `trusted_proxies`."""
    head_timeout: float = Field(default=10.0, gt=0)
    """From a connection or the first byte of a request to the end of its head, which is 64 KiB at most."""
    max_body_bytes: int = Field(default=96 * MIB, gt=0)
    """Maximum size of a request's body: an OpenFace CSV and 32 MiB, the size of 300 s of 16-bit sound at 48 kHz."""
    body_timeout: float = Field(default=30.0, gt=0)
    """From the first byte of a request's body to its last."""
    body_stall_timeout: float = Field(default=10.0, gt=0)
    """While a body arrives, `min_body_rate` bytes a second must come in any such time."""
    min_body_rate: int = Field(default=1 * KIB, ge=0)
    """Lowest rate at which a body may arrive, in bytes a second; 0 for `body_timeout` alone."""
    max_text_bytes: int = Field(default=64 * KIB, gt=0)
    """Maximum size of the text part."""
    max_uploads: int = Field(default=256, gt=0)
    """Bodies that may arrive at the same time."""
    max_uploads_per_address: int = Field(default=128, gt=0)
    """Bodies that may arrive at the same time from one address, or one IPv6 network."""
    spool_bytes: int = Field(default=1 * MIB, gt=0)
    """Of one uploaded file kept in memory; a larger file is on disk."""
    max_spooled_bytes: int = Field(default=768 * MIB, gt=0)
    """Of all uploaded files on disk together; those of a recording have limits of their own."""

    batch_max_items: int = Field(default=64, gt=0)
    """Maximum number of utterances in one request to `/predict/batch`; each has the limits of a request of its own."""
    batch_max_concurrent: int = Field(default=4, gt=0)
    """Requests to `/predict/batch` that may be read or answered at the same time."""

    max_audio_seconds: float = Field(default=300.0, gt=0)
    """Maximum duration of an audio file."""
    max_audio_decoded_bytes: int = Field(default=64 * MIB, gt=0)
    """Maximum size of an audio file's decoded samples, all channels together."""
    min_audio_rate: int = Field(default=8_000, gt=0)
    """Lowest sample rate of an audio file."""
    max_audio_rate: int = Field(default=192_000, gt=0)
    """Highest sample rate of an audio file."""
    max_audio_channels: int = Field(default=8, gt=0)
    """Maximum number of channels of an audio file."""

    max_openface_bytes: int = Field(default=64 * MIB, gt=0)
    """Maximum size of an OpenFace CSV; 300 s at 30 frames/s with all 714 columns are about 48 MiB."""
    max_openface_line_bytes: int = Field(default=64 * KIB, gt=0)
    """Maximum length of a line of an OpenFace CSV."""
    max_openface_columns: int = Field(default=1_024, gt=0)
    """Maximum number of columns of an OpenFace CSV."""
    max_openface_rows: int = Field(default=20_000, gt=0)
    """Maximum number of rows of an OpenFace CSV."""

    decode_timeout: float = Field(default=10.0, gt=0)
    """Time to decode one file."""
    decode_workers: int = Field(default_factory=lambda: min(8, _processors()), gt=0)
    """Processes that decode files and compute audio features."""
    decode_memory_bytes: int = Field(default=2048 * MIB, gt=0)
    """Address space of one decoder process."""

    feature_threads: int = Field(default_factory=lambda: min(4, _processors()), gt=0)
    """Threads that normalise features and reduce them to slots."""
    compute_workers: int = Field(default_factory=lambda: min(4, _processors()), gt=0)
    """Batches computed at the same time on the CPU, if several each in a process; one on an accelerator."""
    compute_threads: int = Field(default_factory=lambda: max(1, _processors() // 4), gt=0)
    """Threads of one computation on the CPU; `compute_workers` times as many are busy under load."""
    queue_size: int = Field(default=256, gt=0)
    """Requests that may wait for their forward pass, in any stage before it."""
    max_wait: float = Field(default=3.0, ge=0)
    """Expected waiting time, from the recent throughput, above which requests are refused; 0 for no maximum.
    `queue_size` applies regardless of the throughput."""
    max_batch: int = Field(default=32, gt=0)
    """Requests in one forward pass."""
    max_batch_cost: float | None = Field(default=None, gt=0)
    """Cost of one forward pass; a default for the device if not given. A more expensive request is computed alone."""
    batch_delay_ms: float = Field(default=0.0, ge=0)
    """How long a batch that is not full waits for more requests; on the CPU, at least 10 ms if it is smaller than the
    batch before."""
    deadline: float = Field(default=30.0, gt=0)
    """From the last byte of a request's body to its answer."""
    retry_after: int = Field(default=1, ge=1, le=60)
    """Minimum for the Retry-After header of a refusal; the header is larger if the queue drains slowly, at most 60."""

    max_recordings: int = Field(default=2, gt=0)
    """Recordings that may be received or answered at the same time."""
    recording_parallel: int = Field(default_factory=lambda: 2 * _processors(), gt=0)
    """Utterances of one recording that are answered at the same time."""
    recording_deadline: float = Field(default=1800.0, gt=0)
    """From the last byte of a recording to the last line of its answer."""
    recording_max_seconds: float = Field(default=3600.0, gt=0)
    """Maximum duration of a recording."""
    recording_max_body_bytes: int = Field(default=1408 * MIB, gt=0)
    """Maximum size of a recording's body: an OpenFace CSV, a transcript, and 16-bit stereo at 48 kHz of an hour."""
    recording_body_timeout: float = Field(default=600.0, gt=0)
    """From the first byte of a recording's body to its last."""
    recording_max_sound_bytes: int = Field(default=256 * MIB, gt=0)
    """Of a recording's samples on disk, 16 bits at 16 kHz for each channel: an hour of two channels is 220 MiB."""
    recording_max_openface_bytes: int = Field(default=640 * MIB, gt=0)
    """Maximum size of a recording's OpenFace CSV; an hour at 30 frames/s with all 714 columns is about 576 MiB."""
    recording_max_openface_rows: int = Field(default=216_000, gt=0)
    """Maximum number of rows of a recording's OpenFace CSV: an hour at 60 frames/s."""
    recording_max_transcript_bytes: int = Field(default=16 * MIB, gt=0)
    """Maximum size of a recording's transcript."""
    recording_max_cues: int = Field(default=20_000, gt=0)
    """Maximum number of cues of a transcript."""
    recording_decode_timeout: float = Field(default=120.0, gt=0)
    """Time to decode the sound of a recording, and to index its OpenFace CSV."""
    recording_min_coverage: float = Field(default=0.5, ge=0, le=1)
    """Share of an utterance in which a face must be visible; below it the face counts as missing."""
    openface: Path | None = None
    """OpenFace 2's program FeatureExtraction, which reads the face of a video on the command line; the one on the path
    if not given."""
    openface_timeout: float = Field(default=7200.0, gt=0)
    """Time for OpenFace to read a video."""
    video_timeout: float = Field(default=300.0, gt=0)
    """Time to take the sound, and the subtitles, out of a video on the command line."""

    transcribe: Transcribe = "never"
    """Transcription for requests without the query option `transcribe`. `auto`: of a voice without text, where the
    extra `asr` is installed; `always`: of every voice, and a request is refused where that is not possible."""
    transcribe_model: Path | None = None
    """Folder of a Whisper model of faster-whisper, with its `tokenizer.json`; the packaged tiny.en if not given."""
    transcribe_timeout: float = Field(default=10.0, gt=0)
    """Time to transcribe one sound, waiting included."""
    transcribe_queue: int = Field(default=16, gt=0)
    """Sounds that may wait or be transcribed at the same time."""
    transcribe_max_seconds: float = Field(default=60.0, gt=0)
    """Of a sound that are transcribed; the rest is left out."""
    transcribe_min_confidence: float = Field(default=0.5, ge=0, le=1)
    """Mean probability of the tokens from which words count as text."""
    transcribe_threads: int = Field(default_factory=lambda: min(4, max(1, _processors() // 2)), gt=0)
    """Threads of the transcription process."""
    transcribe_niceness: int = Field(default=10, ge=0, le=19)
    """Added to the niceness of the service for the transcription process, which then has the time that others leave."""
    transcribe_memory_bytes: int = Field(default=4096 * MIB, gt=0)
    """Address space of the transcription process."""

    key_threshold: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    """Probability of another answer from which a missing modality is reported as key; the weights' own if not given. A
    request may set another."""

    log_answers: AppendableFile | None = None
    """File to which a line of JSON is appended for each answer, without content; its folder must exist. None is written
    if not given."""
    log_answers_bytes: int = Field(default=64 * MIB, gt=0)
    """Size of that file from which it is renamed, to `.1`, and another begun."""
    log_answers_files: int = Field(default=8, gt=0)
    """Renamed files that are kept; the oldest one is deleted."""

    heartbeat_timeout: float = Field(default=30.0, gt=0)
    """Time without a heartbeat of a worker after which health checks report it as silent."""
    hang_timeout: float = Field(default=120.0, gt=0)
    """Time without a heartbeat of a worker after which the process ends."""
    grace_period: float = Field(default=5.0, ge=0)
    """After SIGTERM: time to serve on, reported as not ready, while load balancers notice."""
    drain_timeout: float = Field(default=60.0, gt=0)
    """After the grace period: time for accepted requests to finish."""
