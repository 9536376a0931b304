"""The parts of serving put together: load, warm up, answer, replace, drain.

For: the HTTP routes, which hand it a form and get a reply or an exception.
Does not know: HTTP. All state lies in the lifecycle, the batcher and the decode pool; this only leads from one to the
next.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.decoding.pool import DecodePool
from app.engine.batcher import HEARTBEAT, Batcher
from app.engine.errors import DeadlinePassed, NotReady, QueueFull, ReloadRefused, ReloadUnderway, ServiceError
from app.engine.lifecycle import Lifecycle, Phase
from app.engine.predictor import Options, Outcome, Predictor, PreparedRequest, load_languages, short_of_memory
from app.engine.preprocess import Preprocessor
from app.engine.warmup import warm_up
from app.engine.weights_dir import weights_folder
from app.logging import get_logger
from app.settings import Settings
from app.uploads.form import RawForm
from model.errors import EMMRError

if TYPE_CHECKING:
    from model.checkpoint import Checkpoint

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

    prepared: PreparedRequest
    outcome: Outcome
    decode: float
    features: float
    queue: float
    forward: float

    @property
    def checkpoint(self) -> "Checkpoint":
        """The weights that answered, which another request's may no longer be."""
        return self.prepared.predictor.pipeline.checkpoint


class Engine:
    """One loaded model behind a queue, from start to drain.

    A request is decoded, prepared and decided on for the predictor that served when it began, so that weights replaced
    meanwhile change nothing for it.

    Args:
        settings: limits and sizes.
        on_batch: told of every batch, on the worker's thread.
        on_failure: told once, on any thread, that the service has failed for good.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_batch: Callable[[Sequence[PreparedRequest]], None] = lambda _: None,
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
        self.batcher: Batcher[PreparedRequest, Outcome] = Batcher(
            self._decide,
            check=self._check,
            on_fatal=lambda _: self.lifecycle.fail("the device no longer computes"),
            on_batch=on_batch,
            cost=lambda batch: batch[0].predictor.cost(batch),
            together=lambda first, other: first.predictor is other.predictor,
            capacity=settings.queue_size,
            max_batch=settings.max_batch,
            retry_after=settings.retry_after,
            max_wait=settings.max_wait,
        )
        self.reloading = False
        self._digestion = Preprocessor(settings, self.pool)
        self._uploads = 0
        self._coming_up: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._loading: list[asyncio.Task[Predictor]] = []

    def start(self) -> None:
        """Begin to load and warm up, beside the event loop, so that health can be asked for meanwhile."""
        self._coming_up = asyncio.create_task(self._come_up())
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Finish what was accepted, then let go of everything."""
        self.lifecycle.advance(Phase.DRAINING)
        if self._coming_up is not None:
            self._coming_up.cancel()
            await asyncio.gather(self._coming_up, *self._loading, return_exceptions=True)
        if not await asyncio.to_thread(self.batcher.stop, self.settings.drain_timeout):
            self._give_up("the worker did not finish what was accepted")
        if self._watching is not None:
            self._watching.cancel()
        await asyncio.to_thread(self.pool.stop)
        self._digestion.stop()

    async def answer(self, form: RawForm, options: Options) -> Reply:
        """Answer one form, and close it. Cancelling drops it wherever it is, unless its forward pass has begun.

        Raises:
            ServiceError: see `app.engine.errors`.
            UploadError, ModalityError: a part's content is wrong.
        """
        self.admit()
        return await self._answer(self._loaded(), form, options, self.settings.deadline)

    def admit(self) -> None:
        """Refuse early, before a body is read.

        Raises:
            NotReady, DeviceLost: the service takes nothing.
            QueueFull: as many wait as may, or those who do will take too long.
        """
        self.lifecycle.admit(self.settings.retry_after)
        self.batcher.places.admit()

    @contextmanager
    def uploading(self) -> Iterator[None]:
        """While a body arrives: it is admitted, and counted.

        Raises:
            NotReady, DeviceLost, QueueFull: see `admit`.
            QueueFull: as many are arriving as may.
        """
        self.admit()
        if self._uploads >= self.settings.max_uploads:
            detail = f"{self.settings.max_uploads} requests are being read already."
            raise QueueFull(detail, self.batcher.places.retry_after)
        self._uploads += 1
        try:
            yield
        finally:
            self._uploads -= 1

    async def reload(self, name: str | None = None) -> tuple["Checkpoint", "Checkpoint"]:
        """Replace the weights; those before serve until the new ones are verified, loaded and warm.

        Args:
            name: of a folder beside the configured one; the configured one itself when None.

        Returns:
            The checkpoint before and the one served from now on.

        Raises:
            NotReady: the service is not ready, or on its way out.
            ReloadUnderway: a reload has not ended yet.
            ReloadRefused: there is no such folder, or its weights cannot be served; those before are served on.
        """
        if not self.lifecycle.ready:
            raise NotReady(f"The service is {self.lifecycle.phase}.", self.settings.retry_after)
        if self.reloading:
            raise ReloadUnderway("Weights are being loaded already.")
        before, self.reloading = self._loaded(), True
        try:
            after = await self._bring_up(name)
        finally:
            self.reloading = False
        self._serve_with(after)
        old, new = before.pipeline.checkpoint, after.pipeline.checkpoint
        get_logger().info("weights replaced", old=old.version, new=new.version)
        return old, new

    async def _bring_up(self, name: str | None) -> Predictor:
        log = get_logger()
        try:
            folder = weights_folder(self.settings, name)
            predictor = await asyncio.to_thread(
                Predictor.load, folder, self.settings.device, self.settings.compute_threads
            )
            await self._warm_up(predictor, crowd=0)  # what a crowd needs is there, and who waits is not to wait for one
        except ServiceError:
            raise
        except EMMRError as error:
            log.warning("weights refused", reason=str(error))
            raise ReloadRefused(f"{error}.") from error
        except Exception as error:
            log.warning("weights refused", exc_info=error)
            why = "there is not enough memory for them" if short_of_memory(error) else "the logs say why"
            raise ReloadRefused(f"The weights cannot be loaded; {why}.") from error
        return predictor

    async def _answer(
        self, predictor: Predictor, form: RawForm, options: Options, seconds: float, *, extra: bool = False
    ) -> Reply:
        deadline = time.monotonic() + seconds
        clock = asyncio.timeout(seconds)
        try:
            async with clock:
                with self.batcher.place(extra=extra) as place:
                    prepared, decoded = await self._digestion.preprocess(form, options, predictor)
                    served = await place.submit(prepared, deadline)
        except TimeoutError:
            if not clock.expired():
                raise
            raise DeadlinePassed(f"No answer within {seconds:g} seconds.") from None
        outcome = served.result
        features = prepared.seconds + outcome.encoding
        return Reply(prepared, outcome, decoded, features, served.waited, outcome.forward)

    def _loaded(self) -> Predictor:
        if self.predictor is None:
            raise NotReady("The weights are not loaded yet.", self.settings.retry_after)
        return self.predictor

    @property
    def checkpoint(self) -> "Checkpoint":
        """The one that is served.

        Raises:
            NotReady: there is none yet.
        """
        return self._loaded().pipeline.checkpoint

    def _decide(self, batch: Sequence[PreparedRequest]) -> Sequence[Outcome]:
        try:
            return batch[0].predictor.decide(batch)
        except Exception as error:
            if short_of_memory(error):
                raise MemoryError from error
            raise

    def _check(self) -> None:
        self._loaded().check()

    async def _come_up(self) -> None:
        log = get_logger()
        began = time.perf_counter()
        try:
            # Threads cannot be cancelled: whoever stops the engine meanwhile waits for this task, not for its waiter.
            self._loading.append(asyncio.create_task(self._load()))
            predictor = await asyncio.shield(self._loading[0])
            self._serve_with(predictor)
            self.batcher.start()
            self.lifecycle.advance(Phase.WARMING)
            await self._warm_up(predictor, crowd=self.settings.max_batch)
            self.batcher.delay = self.settings.batch_delay_ms / 1000
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
        """Load the weights and the languages and start the pool, side by side.

        All three have ended when this ends, well or badly.
        """
        predictor, *others = await asyncio.gather(
            asyncio.to_thread(
                Predictor.load, self.settings.weights, self.settings.device, self.settings.compute_threads
            ),
            asyncio.to_thread(self.pool.start),
            asyncio.to_thread(load_languages),
            return_exceptions=True,
        )
        if isinstance(predictor, BaseException):
            raise predictor
        for other in others:
            if isinstance(other, BaseException):
                raise other
        return predictor

    async def _warm_up(self, predictor: Predictor, crowd: int) -> None:
        async def ask(form: RawForm, explain: bool) -> PreparedRequest:
            options = Options(explain=explain, any_sound=True)  # its sound is a tone
            return (await self._answer(predictor, form, options, WARM_UP_SECONDS, extra=True)).prepared

        await warm_up(predictor, ask, crowd)

    def _serve_with(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.batcher.budget = self.settings.max_batch_cost or predictor.rates.budget

    async def _watch(self) -> None:
        """Give up a worker that has been silent for too long: what it waits for may never come."""
        patience = self.settings.hang_timeout
        while True:
            await asyncio.sleep(HEARTBEAT)
            if self.batcher.alive and self.batcher.silence > patience:
                self._give_up(f"the worker has been silent for {patience:g} seconds")
                return

    def _give_up(self, reason: str) -> None:
        get_logger().critical("worker lost", reason=reason)
        self.lifecycle.fail(reason)
        self.batcher.abandon()
