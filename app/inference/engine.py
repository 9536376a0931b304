"""The parts of serving put together: load, warm up, answer, drain.

For: the HTTP routes, which hand it a form and get a reply or an exception.
Does not know: HTTP. All state lies in the lifecycle, the batcher and the decode pool; this only leads from one to the
next.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from app.inference.batcher import Batcher
from app.inference.errors import DeadlinePassed, NotReady
from app.inference.lifecycle import Lifecycle, Phase
from app.inference.limits import openface_limits, sound_limits
from app.inference.predictor import Inputs, Outcome, Predictor, Prepared
from app.inference.warmup import warm_up_forms
from app.logging import get_logger
from app.settings import Settings
from app.uploads.audio import decode_audio
from app.uploads.decode_pool import DecodePool
from app.uploads.form import RawForm
from app.uploads.openface import decode_openface
from app.uploads.text import decode_text
from model.errors import EMMRError, EmptyModality
from model.features.openface import ACTION_UNIT_COLUMNS, ALL_COLUMNS, FaceTrack
from model.features.sound import Sound
from model.modality import Modality

if TYPE_CHECKING:
    from model.checkpoint import Checkpoint

V = TypeVar("V")
W = TypeVar("W")

WARM_UP_SECONDS: Final = 120.0  # for one request of the warm-up: compiling and allocating take long the first time


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one form, and seconds spent on it.

    Args:
        prepared: what was used of it.
        outcome: the model's.
        decode: decoding sound and face.
        features: computing features, the sentence's included.
        queue: waiting for the worker.
        forward: in the network.
    """

    prepared: Prepared
    outcome: Outcome
    decode: float
    features: float
    queue: float
    forward: float


class Engine:
    """One loaded model behind a queue, from start to drain.

    Args:
        settings: limits and sizes.
        on_batch: told of every batch, on the worker's thread.
        on_failure: told once, on any thread, that the service has failed for good.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_batch: Callable[[Sequence[Prepared]], None] = lambda _: None,
        on_failure: Callable[[], None] | None = None,
    ) -> None:
        self.settings = settings
        self.lifecycle = Lifecycle(on_failure)
        self.pool = DecodePool(
            workers=settings.decode_workers,
            timeout=settings.decode_timeout,
            memory_bytes=settings.decode_memory_bytes,
        )
        self.predictor: Predictor | None = None
        self.batcher: Batcher[Prepared, Outcome] = Batcher(
            self._decide,
            check=self._check,
            on_fatal=lambda _: self.lifecycle.fail("the device no longer computes"),
            on_batch=on_batch,
            capacity=settings.queue_size,
            max_batch=settings.max_batch,
            retry_after=settings.retry_after,
        )
        self._threads = ThreadPoolExecutor(settings.feature_threads, "emmr-features")
        self._coming_up: asyncio.Task[None] | None = None
        self._loading: list[asyncio.Task[Predictor]] = []

    def start(self) -> None:
        """Begin to load and warm up, beside the event loop, so that health can be asked for meanwhile."""
        self._coming_up = asyncio.create_task(self._come_up())

    async def stop(self) -> None:
        """Finish what was accepted, then let go of everything."""
        self.lifecycle.advance(Phase.DRAINING)
        if self._coming_up is not None:
            self._coming_up.cancel()
            await asyncio.gather(self._coming_up, *self._loading, return_exceptions=True)
        await asyncio.to_thread(self.batcher.stop, self.settings.drain_timeout)
        await asyncio.to_thread(self.pool.stop)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def answer(self, form: RawForm, explain: bool) -> Reply:
        """Answer one form. Cancelling drops it wherever it is, unless its forward pass has begun.

        Raises:
            ServiceError: see `app.inference.errors`.
            UploadError, ModalityError: a part's content is wrong.
        """
        self.admit()
        return await self._answer(form, explain, self.settings.deadline)

    def admit(self) -> None:
        """Refuse early, before a body is read.

        Raises:
            NotReady, DeviceLost: the service takes nothing.
            QueueFull: as many wait as may.
        """
        self.lifecycle.admit(self.settings.retry_after)
        self.batcher.admit()

    async def _answer(self, form: RawForm, explain: bool, seconds: float) -> Reply:
        deadline = time.monotonic() + seconds
        clock = asyncio.timeout(seconds)
        try:
            async with clock:
                with self.batcher.place() as place:
                    began = time.perf_counter()
                    inputs = await self._decode(form, explain)
                    decoded = time.perf_counter() - began
                    prepared = await self._prepare(inputs)
                    served = await place.submit(prepared, deadline)
        except TimeoutError:
            if not clock.expired():
                raise
            raise DeadlinePassed(f"No answer within {seconds:g} seconds.") from None
        outcome = served.result
        features = prepared.seconds + outcome.encoding
        return Reply(prepared, outcome, decoded, features, served.waited, outcome.forward)

    async def _decode(self, form: RawForm, explain: bool) -> Inputs:
        text = None if form.text is None else decode_text(form.text, self.settings.max_text_bytes)
        config = self._loaded().pipeline.config.visual
        empty: dict[Modality, EmptyModality] = {}

        async def unless_empty(decoding: Awaitable[V]) -> V | None:
            try:
                return await decoding
            except EmptyModality as error:
                empty[error.modality] = error
                return None

        async def sound() -> Sound | None:
            if form.audio is None:
                return None
            return await unless_empty(decode_audio(form.audio, sound_limits(self.settings), self.pool))

        async def track() -> FaceTrack | None:
            if form.openface is None:
                return None
            return await unless_empty(
                decode_openface(
                    form.openface, config.columns, config.min_confidence, openface_limits(self.settings), self.pool
                )
            )

        heard, seen = await _both(sound(), track())
        return Inputs(text, heard, seen, empty, explain)

    async def _prepare(self, inputs: Inputs) -> Prepared:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._loaded().prepare, inputs)

    def _loaded(self) -> Predictor:
        if self.predictor is None:
            raise NotReady("The weights are not loaded yet.", self.settings.retry_after)
        return self.predictor

    @property
    def checkpoint(self) -> "Checkpoint":
        """The loaded checkpoint.

        Raises:
            NotReady: there is none yet.
        """
        return self._loaded().pipeline.checkpoint

    def _decide(self, batch: Sequence[Prepared]) -> Sequence[Outcome]:
        return self._loaded().decide(batch)

    def _check(self) -> None:
        self._loaded().check()

    async def _come_up(self) -> None:
        log = get_logger()
        began = time.perf_counter()
        try:
            # Threads cannot be cancelled: whoever stops the engine meanwhile waits for this task, not for its waiter.
            self._loading.append(asyncio.create_task(self._load()))
            self.predictor = predictor = await asyncio.shield(self._loading[0])
            self.batcher.start()
            self.lifecycle.advance(Phase.WARMING)
            await self._warm_up(predictor)
        except EMMRError as error:  # no request has been seen yet: the message is about the weights
            log.critical("cannot start", reason=str(error))
            self.lifecycle.fail(str(error))
        except Exception as error:
            log.critical("cannot start", reason=str(error), exc_info=error)
            self.lifecycle.fail("start-up failed; the logs say why")
        else:
            if self.lifecycle.advance(Phase.READY):
                log.info("ready", seconds=round(time.perf_counter() - began, 2), device=predictor.device)

    async def _load(self) -> Predictor:
        """Load the weights and start the pool, side by side; both have ended when this ends, well or badly."""
        predictor, started = await asyncio.gather(
            asyncio.to_thread(Predictor.load, self.settings.weights, self.settings.device),
            asyncio.to_thread(self.pool.start),
            return_exceptions=True,
        )
        if isinstance(predictor, BaseException):
            raise predictor
        if isinstance(started, BaseException):
            raise started
        return predictor

    async def _warm_up(self, predictor: Predictor) -> None:
        columns = ALL_COLUMNS if predictor.pipeline.config.visual.columns == "all" else ACTION_UNIT_COLUMNS
        good = [(await self._answer(form, True, WARM_UP_SECONDS)).prepared for form in warm_up_forms(columns)]
        predictor.remember(good)
        self.batcher.delay = self.settings.batch_delay_ms / 1000


async def _both(first: Coroutine[None, None, V], second: Coroutine[None, None, W]) -> tuple[V, W]:
    """Run two at once; when one fails the other is stopped, and of two failures the first one's is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = group.create_task(first), group.create_task(second)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return tasks[0].result(), tasks[1].result()
