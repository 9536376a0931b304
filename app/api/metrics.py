"""Prometheus metrics and `GET /metrics`. Each application has a registry of its own; label values are bounded sets."""

from collections.abc import Sequence
from functools import partial
from typing import Final

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.process_collector import ProcessCollector
from starlette.responses import PlainTextResponse

from app.api.schemas import Problem
from app.engine.engine import Engine
from app.engine.predictor import PreparedRequest
from app.transcription.transcription import OUTCOMES
from app.uploads.spool import Uploads

BUCKETS: Final = tuple(round(0.001 * 30_000 ** (step / 15), 6) for step in range(16))
"""Seconds: geometric, 1 ms to 30 s."""
BATCH_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128)
RATIO_BUCKETS: Final = tuple(step / 10 for step in range(10))
STAGES: Final = ("parse", "decode", "features", "transcribe", "queue", "forward")
LINES: Final = ("recording", "utterance", "gap", "summary", "problem")


class Metrics:
    """One application's metrics. Names start with `emmr_`; times are seconds."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        counter, gauge = partial(Counter, registry=self.registry), partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        duration = partial(histogram, buckets=BUCKETS)
        self.stage = duration("emmr_stage_seconds", "Time in one stage.", ["stage"])
        help_text = "Time from a request's arrival to the end of its answer."
        self.request = duration("emmr_request_seconds", help_text, ["route", "status"])
        self.batch_size = histogram("emmr_batch_size", "Requests in a forward pass.", buckets=BATCH_BUCKETS)
        help_text = "Share of a batch's slots that is padding."
        self.padding = histogram("emmr_padding_ratio", help_text, buckets=RATIO_BUCKETS)
        self.queue_depth = gauge("emmr_queue_depth", "Requests waiting for their forward pass.")
        self.in_flight = gauge("emmr_in_flight", "Requests being answered.")
        help_text = "Prediction requests refused, and connections and requests refused before their route is known."
        self.rejected = counter("emmr_rejected", help_text, ["reason"])
        self.spooled = gauge("emmr_spooled_bytes", "Of uploaded files on disk.")
        self.subset = counter("emmr_modality_subset", "Answers by modalities present.", ["subset"])
        self.key_missing = counter("emmr_key_missing", "Key missing modalities found.", ["modality"])
        self.polarity = counter("emmr_polarity", "Answers by polarity.", ["polarity"])
        self.ensemble_used = counter("emmr_ensemble_used", "Answers for which all branches were asked.")
        self.answers_lost = counter("emmr_answers_lost", "Answers that could not be written to the answer log.")
        self.transcriptions = counter("emmr_transcriptions", "Voices to be transcribed, by outcome.", ["outcome"])
        self.transcriptions_waiting = gauge("emmr_transcriptions_waiting", "Voices waiting or being transcribed.")
        self.recordings = gauge("emmr_recordings", "Recordings being received or answered.")
        help_text = "Lines of the answers to recordings: recording, utterance, gap, summary or problem."
        self.recording_lines = counter("emmr_recording_lines", help_text, ["type"])
        self.worker_up = gauge("emmr_worker_up", "Whether every worker that computes batches runs.")
        self.model = Info("emmr_model", "The loaded weights.", registry=self.registry)
        self.device_memory = gauge("emmr_device_memory_bytes", "Memory allocated on the device.")
        for stage in STAGES:
            self.stage.labels(stage=stage)
        for kind in LINES:
            self.recording_lines.labels(type=kind)
        for outcome in OUTCOMES:
            self.transcriptions.labels(outcome=outcome)

    def observe_batch(self, batch: Sequence[PreparedRequest]) -> None:
        """Record the size of a batch, and the share of its audio and visual slots that is padding."""
        self.batch_size.observe(len(batch))
        columns = list(zip(*(prepared.slots for prepared in batch), strict=True))
        if padded := sum(len(batch) * max(slots) for slots in columns):
            self.padding.observe(1 - sum(map(sum, columns)) / padded)

    def watch(self, engine: Engine, uploads: Uploads) -> None:
        """Read the gauges from `engine` and `uploads` at every scrape."""
        self.queue_depth.set_function(lambda: engine.batcher.depth)
        transcriber = engine.transcriber
        self.transcriptions_waiting.set_function(lambda: transcriber.waiting if transcriber is not None else 0)
        self.spooled.set_function(lambda: uploads.spooled_bytes)
        self.worker_up.set_function(lambda: engine.batcher.alive)
        self.device_memory.set_function(lambda: engine.predictor.device_memory() if engine.predictor else 0)


router = APIRouter(tags=["service"])


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Prometheus metrics",
    response_class=PlainTextResponse,
    responses={401: {"description": "An API key is needed.", "model": Problem}},
)
async def show_metrics(request: Request) -> Response:
    """The metrics, in Prometheus' text format."""
    metrics: Metrics = request.app.state.metrics
    engine: Engine = request.app.state.engine
    if engine.predictor is not None:
        checkpoint = engine.checkpoint
        metrics.model.info({"name": checkpoint.config.name, "version": checkpoint.version})
    return Response(generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
