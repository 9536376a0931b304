"""What the service counts and times, and `GET /metrics` that shows it.

For: Prometheus, in a registry of the application's own, so that two applications in a process do not mix.
Does not know: who calls it; every label's values come from a small fixed set.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.process_collector import ProcessCollector

from app.engine.engine import Engine
from app.engine.predictor import PreparedRequest

if TYPE_CHECKING:
    from model.checkpoint import Checkpoint

_STEPS: Final = 15
BUCKETS: Final = tuple(round(0.001 * 30_000 ** (step / _STEPS), 6) for step in range(_STEPS + 1))
"""Seconds: geometric, 1 ms to 30 s."""
BATCH_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128)
RATIO_BUCKETS: Final = tuple(step / 10 for step in range(10))
STAGES: Final = ("parse", "decode", "features", "queue", "forward")


class Metrics:
    """One application's metrics. Names start with `emmr_`; times are seconds."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        own = self.registry
        self.stage = Histogram("emmr_stage_seconds", "Time in one stage.", ["stage"], buckets=BUCKETS, registry=own)
        self.request = Histogram(
            "emmr_request_seconds",
            "Time from a request's arrival to the end of its answer.",
            ["route", "status"],
            buckets=BUCKETS,
            registry=own,
        )
        self.batch_size = Histogram(
            "emmr_batch_size", "Requests in a forward pass.", buckets=BATCH_BUCKETS, registry=own
        )
        self.padding = Histogram(
            "emmr_padding_ratio", "Share of a batch's slots that is padding.", buckets=RATIO_BUCKETS, registry=own
        )
        self.queue_depth = Gauge("emmr_queue_depth", "Requests waiting for their forward pass.", registry=own)
        self.in_flight = Gauge("emmr_in_flight", "Requests being answered.", registry=own)
        self.rejected = Counter("emmr_rejected", "Prediction requests refused.", ["reason"], registry=own)
        self.subset = Counter("emmr_modality_subset", "Answers by modalities present.", ["subset"], registry=own)
        self.key_missing = Counter("emmr_key_missing", "Key missing modalities found.", ["modality"], registry=own)
        self.polarity = Counter("emmr_polarity", "Answers by polarity.", ["polarity"], registry=own)
        self.ensemble_used = Counter("emmr_ensemble_used", "Answers for which all branches were asked.", registry=own)
        self.worker_up = Gauge("emmr_worker_up", "Whether the device's worker runs.", registry=own)
        self.model = Info("emmr_model", "The loaded weights.", registry=own)
        self.device_memory = Gauge("emmr_device_memory_bytes", "Memory allocated on the device.", registry=own)
        for stage in STAGES:
            self.stage.labels(stage=stage)

    def observe_batch(self, batch: Sequence[PreparedRequest]) -> None:
        """Count a batch, and how much of its audio and visual slots is there only to make them equally many."""
        self.batch_size.observe(len(batch))
        used = [sum(slots) for slots in zip(*(prepared.slots for prepared in batch), strict=True)]
        padded = [len(batch) * max(slots) for slots in zip(*(prepared.slots for prepared in batch), strict=True)]
        if sum(padded):
            self.padding.observe(1 - sum(used) / sum(padded))

    def watch(self, engine: Engine) -> None:
        """Ask `engine` whenever the metrics are read."""
        self.queue_depth.set_function(lambda: engine.batcher.depth)
        self.worker_up.set_function(lambda: engine.batcher.alive)
        self.device_memory.set_function(lambda: engine.predictor.device_memory() if engine.predictor else 0)

    def name_model(self, checkpoint: "Checkpoint") -> None:
        """Say which weights are loaded."""
        self.model.info({"name": checkpoint.config.name, "version": checkpoint.version})


router = APIRouter(tags=["service"])


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def show_metrics(request: Request) -> Response:
    """The metrics, in Prometheus' text format."""
    metrics: Metrics = request.app.state.metrics
    engine: Engine = request.app.state.engine
    if engine.predictor is not None:
        metrics.name_model(engine.checkpoint)
    return Response(generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
