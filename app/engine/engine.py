"""The parts of serving put together: load, warm up, answer, reload, drain."""

# State is kept in the lifecycle, the batcher and the decoder pool only.

import asyncio
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from app.decoding.pool import DecodePool
from app.engine.batcher import HEARTBEAT, Batcher
from app.engine.lifecycle import Lifecycle, Phase
from app.engine.predictor import (
    COMPUTE_NICENESS,
    Options,
    Predictor,
    PreparedRequest,
    Result,
    is_out_of_memory,
    load_languages,
)
from app.engine.preprocess import Pool, Preprocessor
from app.engine.processes import load_predictor
from app.engine.warmup import warm_up
from app.errors import DeadlinePassed, NotReady, QueueFull, ReloadRefused, ReloadUnderway, ServiceError, UploadError
from app.linux import return_free_memory
from app.logging import get_logger
from app.settings import WITHOUT_CLIENTS, Settings
from app.transcription.recogniser import installed
from app.transcription.transcriber import TranscriptionPool
from app.uploads.form import RawForm
from model.errors import CheckpointError, ConfigError, EMMRError

if TYPE_CHECKING:
    from model.baselines.systems import Network
    from model.checkpoint import Checkpoint

WARM_UP_SECONDS: Final = 120.0  # for one request of the warm-up: the first compiles and allocates
WEIGHTS_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
"""Name of a weights folder in a reload request: no path separator, and neither `.` nor `..`."""


@asynccontextmanager
async def _deadline_in(seconds: float) -> AsyncIterator[float]:
    """Cancel the block after that time; the value is the deadline on the `time.monotonic` clock.

    Raises:
        DeadlinePassed: the block was cancelled for that.
    """
    timeout = asyncio.timeout(seconds)
    try:
        async with timeout:
            yield time.monotonic() + seconds
    except TimeoutError:
        if not timeout.expired():
            raise
        raise DeadlinePassed(f"No answer within {seconds:g} seconds.") from None


def weights_folder(settings: Settings, name: str | None) -> Path:
    """Return the weights folder of that name, or the configured one if `name` is None.

    Args:
        settings: names the configured folder and the root that contains the others.
        name: matches `WEIGHTS_NAME`.

    Raises:
        CheckpointError: there is no such folder directly in the root; links that lead elsewhere are not followed.
    """
    if name is None:
        return settings.weights
    root = (settings.weights_root or settings.weights.absolute().parent).resolve()
    folder = (root / name).resolve()
    if folder.parent != root or not folder.is_dir():
        raise CheckpointError(f"there is no weights folder {name!r}")
    return folder


class Engine:
    """One loaded model behind a queue.

    A request is decoded, prepared and decided on with the predictor that was current when it began, so a reload does
    not affect it.

    Args:
        settings: limits and sizes.
        on_batch: called with every batch, on a worker's thread.
        on_failure: called once, on any thread, when the service has failed for good.
        pool: decodes the files; processes of this machine if None.
        load: weights folder, device and threads → predictor, as `Predictor.load`; `load_predictor` if None.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_batch: Callable[[Sequence[PreparedRequest]], None] = lambda _: None,
        on_failure: Callable[[], None] | None = None,
        pool: Pool | None = None,
        load: Callable[[Path, str, int | None], Predictor] | None = None,
    ) -> None:
        self.settings = settings
        self.lifecycle = Lifecycle(on_failure)
        self._load_predictor = load
        self.pool: Pool = pool or DecodePool(
            workers=settings.decode_workers,
            timeout=settings.decode_timeout,
            memory_bytes=settings.decode_memory_bytes,
        )
        self.predictor: Predictor | None = None
        self.batcher: Batcher[PreparedRequest, Result] = Batcher(
            self._decide,
            check=lambda: self._current().check(),
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
        self.transcriber = TranscriptionPool(settings) if installed() else None
        self._preprocessor = Preprocessor(settings, self.pool, self.transcriber)
        self._uploads = 0
        self._starting: asyncio.Task[None] | None = None
        self._watchdog: asyncio.Task[None] | None = None
        self._loading: asyncio.Task[Predictor] | None = None
        self._networks: list[weakref.ref[Network]] = []
        # Always the same thread: on CUDA, PyTorch keeps the workspaces of every thread that has recorded graphs.
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="emmr-load")

    def start(self) -> None:
        """Start to load and warm up in the background, so that health checks are answered meanwhile."""
        self._starting = asyncio.create_task(self._start())
        self._watchdog = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Finish the accepted requests, then stop every thread and process."""
        self.lifecycle.advance(Phase.DRAINING)
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, *filter(None, [self._loading]), return_exceptions=True)
        if not await asyncio.to_thread(self.batcher.stop, self.settings.drain_timeout):
            self._abandon_worker("the worker did not finish what was accepted")
        if self._watchdog is not None:
            self._watchdog.cancel()
        if self.predictor is not None:
            self.predictor.close()
        await asyncio.to_thread(self.pool.stop)
        self._loader.shutdown()
        if self.transcriber is not None:
            await self.transcriber.stop()
        self._preprocessor.stop()

    async def answer(self, form: RawForm, options: Options, seconds: float | None = None) -> Result:
        """Answer one form, and close it. Cancelling drops the request unless its forward pass has begun.

        Args:
            form: the parts.
            options: of the request.
            seconds: until the deadline; that of the settings if None.

        Raises:
            ServiceError: see `app.errors`.
            UploadError, ModalityError: the content of a part is not accepted.
        """
        self.admit()
        return await self._answer(
            self._current(), form, options, self.settings.deadline if seconds is None else seconds
        )

    async def prepare_utterance(self, form: RawForm, options: Options, predictor: Predictor) -> PreparedRequest:
        """Compute the features of one utterance of an accepted recording, and close its form.

        It is not counted among the waiting requests: `recording_parallel` and `max_recordings` limit the number.

        Args:
            form: the parts.
            options: of the request.
            predictor: the one that was current when the recording was accepted.

        Raises:
            DeadlinePassed: it took longer than the deadline of a request.
            ServiceError, ModalityError: see `Preprocessor.prepare`.
        """
        async with _deadline_in(self.settings.deadline):
            return await self._preprocessor.prepare(form, options, predictor)

    async def answer_utterance(self, request: PreparedRequest) -> Result:
        """Answer one prepared utterance; waits while the queue is full.

        Raises:
            ServiceError: as `answer`, but for `QueueFull`.
        """
        while True:
            try:
                async with _deadline_in(self.settings.deadline) as deadline:
                    with self.batcher.reserve() as ticket:
                        return await self._submit(ticket, request, deadline)
            except QueueFull as full:
                await asyncio.sleep(full.retry_after or self.settings.retry_after)

    async def started(self) -> None:
        """Wait until the service is ready, or has failed."""
        if self._starting is not None:
            await asyncio.shield(self._starting)

    def admit(self) -> None:
        """Refuse a request early, before its body is read.

        Raises:
            NotReady, DeviceLost: the service accepts no requests.
            QueueFull: too many requests wait, or for too long.
        """
        self.lifecycle.admit(self.settings.retry_after)
        self.batcher.admission.check()

    @contextmanager
    def uploading(self) -> Iterator[None]:
        """Admit a request and count it as an upload while its body arrives.

        Raises:
            NotReady, DeviceLost, QueueFull: see `admit`; `QueueFull` also if too many bodies are arriving.
        """
        self.admit()
        if self._uploads >= self.settings.max_uploads:
            detail = f"{self.settings.max_uploads} requests are being read already."
            raise QueueFull(detail, self.batcher.admission.retry_after)
        self._uploads += 1
        try:
            yield
        finally:
            self._uploads -= 1

    async def reload(self, name: str | None = None) -> tuple["Checkpoint", "Checkpoint"]:
        """Replace the weights. The old ones are served until the new ones are verified, loaded and warmed up.

        Args:
            name: of a folder beside the configured one; the configured one itself if None.

        Returns:
            The checkpoint before and the one served from now on.

        Raises:
            NotReady: the service is not ready, or is shutting down.
            ReloadUnderway: another reload has not finished.
            ReloadRefused: there is no such folder, or its weights cannot be served.
        """
        if not self.lifecycle.ready:
            raise NotReady(f"The service is {self.lifecycle.phase}.", self.settings.retry_after)
        if self.reloading:
            raise ReloadUnderway("Weights are being loaded already.")
        before, self.reloading = self._current(), True
        try:
            after = await self._load_and_warm_up(name)
        finally:
            self.reloading = False
        self._use(after)
        before.known_good = ()  # they refer to the predictor; without them it is freed with its last request
        old, new = before.pipeline.checkpoint, after.pipeline.checkpoint
        get_logger().info("weights replaced", old=old.version, new=new.version)
        return old, new

    @property
    def checkpoint(self) -> "Checkpoint":
        """The checkpoint being served.

        Raises:
            NotReady: no weights are loaded yet.
        """
        return self._current().pipeline.checkpoint

    def _current(self) -> Predictor:
        if self.predictor is None:
            raise NotReady("The weights are not loaded yet.", self.settings.retry_after)
        return self.predictor

    def _use(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.batcher.budget = self.settings.max_batch_cost or predictor.rates.budget
        self.batcher.linger = predictor.rates.linger

    async def _answer(
        self, predictor: Predictor, form: RawForm, options: Options, seconds: float, *, extra: bool = False
    ) -> Result:
        async with _deadline_in(seconds) as deadline:
            with self.batcher.reserve(extra=extra) as ticket:
                aside = partial(self.batcher.admission.aside, ticket)
                request = await self._preprocessor.prepare(form, options, predictor, aside)
                return await self._submit(ticket, request, deadline)

    async def _submit(self, ticket: object, request: PreparedRequest, deadline: float) -> Result:
        result, waited = await self.batcher.submit(ticket, request, deadline)
        result.timings["queue"] = waited
        return result

    def _decide(self, batch: Sequence[PreparedRequest]) -> Sequence[Result]:
        try:
            return batch[0].predictor.decide(batch)
        except Exception as error:
            if is_out_of_memory(error):
                raise MemoryError from error
            raise

    async def _load(self, weights: Path) -> Predictor:
        settings = self.settings
        load = self._load_predictor or partial(load_predictor, settings)
        predictor = await asyncio.get_running_loop().run_in_executor(
            self._loader, load, weights, settings.device, settings.compute_threads
        )
        self._networks.append(weakref.ref(predictor.pipeline.checkpoint.network))
        return predictor

    async def _load_everything(self) -> Predictor:
        """Load the weights and the language model and start the processes, concurrently; wait for all of them."""
        loading = asyncio.create_task(self._load(self.settings.weights))
        others = asyncio.to_thread(self.pool.start), asyncio.to_thread(load_languages), self._start_transcriber()
        for outcome in await asyncio.gather(loading, *others, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
        return loading.result()

    async def _start_transcriber(self) -> None:
        """Start the transcription process if every request may use it; otherwise the first that does starts it."""
        if self.settings.transcribe == "never":
            return
        if self.transcriber is not None:
            await self.transcriber.start()
        elif self.settings.transcribe == "always":
            raise ConfigError("EMMR_TRANSCRIBE=always needs the extra asr (faster-whisper)")
        else:
            get_logger().warning("nothing is transcribed: the extra asr is not installed")

    async def _start(self) -> None:
        log = get_logger()
        began = time.perf_counter()
        try:
            # Threads cannot be cancelled: `stop` cancels this task, and waits until loading has finished.
            self._loading = asyncio.create_task(self._load_everything())
            predictor = await asyncio.shield(self._loading)
            self._loading = None  # the task's result is the predictor, which a reload replaces
            self._use(predictor)
            if predictor.on_cpu:
                self.batcher.start(self.settings.compute_workers, COMPUTE_NICENESS if predictor.computes_here else 0)
            else:  # a CUDA device runs one batch at a time, and its recorded graphs have one set of buffers
                self.batcher.start()
            self.lifecycle.advance(Phase.WARMING)
            await self._warm_up(predictor, parallel=self.settings.max_batch)
            self.batcher.delay = self.settings.batch_delay_ms / 1000
        except EMMRError as error:  # before any request, so the message is about the weights and may be shown
            log.critical("cannot start", reason=str(error))
            self.lifecycle.fail(str(error))
        except Exception as error:
            log.critical("cannot start", reason=str(error), exc_info=error)
            self.lifecycle.fail("start-up failed; the logs say why")
        else:
            if self.lifecycle.advance(Phase.READY):
                log.info("ready", seconds=round(time.perf_counter() - began, 2), device=predictor.device)

    async def _load_and_warm_up(self, name: str | None) -> Predictor:
        log = get_logger()
        try:
            predictor = await self._load(weights_folder(self.settings, name))
            # Memory for a full batch is allocated already, and waiting requests should not be delayed by one.
            await self._warm_up(predictor, parallel=0)
        except EMMRError as error:
            log.warning("weights refused", reason=str(error))
            raise ReloadRefused(f"{error}.") from error
        except Exception as error:
            if isinstance(error, ServiceError) and not isinstance(error, UploadError):
                raise
            log.warning("weights refused", exc_info=error)
            why = "there is not enough memory for them" if is_out_of_memory(error) else "the logs say why"
            raise ReloadRefused(f"The weights cannot be loaded; {why}.") from error
        return predictor

    async def _warm_up(self, predictor: Predictor, parallel: int) -> None:
        async def answer(form: RawForm, explain: bool) -> PreparedRequest:
            options = Options(explain=explain, any_sound=True)  # the warm-up's sound is a tone
            return (await self._answer(predictor, form, options, WARM_UP_SECONDS, extra=True)).request

        await warm_up(predictor, answer, parallel)

    async def _watch(self) -> None:
        """Abandon the worker after `hang_timeout` seconds without a heartbeat; free the memory of replaced weights."""
        while True:
            await asyncio.sleep(HEARTBEAT)
            # Replaced weights are freed with the last request that uses them, refused ones at once.
            loaded = [network for network in self._networks if network() is not None]
            if len(loaded) < len(self._networks):
                self._networks = loaded
                await asyncio.to_thread(return_free_memory)
            if self.batcher.alive and self.batcher.silence > self.settings.hang_timeout:
                self._abandon_worker(f"the worker has been silent for {self.settings.hang_timeout:g} seconds")
                return

    def _abandon_worker(self, reason: str) -> None:
        get_logger().critical("worker lost", reason=reason)
        self.lifecycle.fail(reason)
        self.batcher.abandon()


async def ready_engine(settings: Settings) -> Engine:
    """Return an engine that is ready, for a command that answers files: no client waits for it.

    Args:
        settings: those in `WITHOUT_CLIENTS` do not count.

    Raises:
        CheckpointError: the weights cannot be loaded.
    """
    engine = Engine(settings.model_copy(update=WITHOUT_CLIENTS))
    engine.start()
    try:
        await engine.started()
        if not engine.lifecycle.ready:
            raise CheckpointError(engine.lifecycle.reason or "the weights cannot be loaded")
    except BaseException:
        await engine.stop()
        raise
    return engine
