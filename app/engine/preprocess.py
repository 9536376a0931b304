"""Collects the features of a form: decodes its parts, and computes the features of each as soon as it is decoded."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import IO, TYPE_CHECKING, Literal, Protocol, TypeAlias, TypeVar

from app.decoding.parts import audio_job, decode_text, openface_job
from app.decoding.protocol import Json
from app.engine.predictor import Options, Predictor, PreparedRequest
from app.errors import Fault, InvalidQuery, NothingUsable, NotTranscribed
from app.settings import Settings
from app.transcription.transcriber import Transcriber
from app.transcription.transcription import NOT_TRANSCRIBED
from app.uploads.form import RawForm, close_file
from model.errors import EmptyModality
from model.features.audio.raw_features import AudioFeatures
from model.features.visual.openface import FaceTrack
from model.modality import Modality

if TYPE_CHECKING:
    from app.decoding.pool import PoolState

V = TypeVar("V")
FilePart: TypeAlias = Literal["audio", "openface"]


class Decoder(Protocol):
    """Decodes files; `app.decoding.pool.DecodePool` in the service."""

    async def run(self, job: Json, file: IO[bytes], part: FilePart, result: type[V], /) -> V:
        """Decode a file as the job says; see `DecodePool.run`."""


class Pool(Decoder, Protocol):
    """Decoders that are started and stopped; the methods are those of `DecodePool`."""

    def start(self) -> None:
        """Wait until files can be decoded."""

    def stop(self) -> None:
        """Decode no more."""

    def state(self) -> "PoolState":
        """Return the current state."""


class Preprocessor:
    """Turns forms into prepared requests.

    Args:
        settings: limits and the number of threads. At most `decode_workers + feature_threads` forms are processed at a
            time, because decoded content is much larger than the upload and the features.
        decoder: of the files.
        transcriber: of voices; None without one.
    """

    def __init__(self, settings: Settings, decoder: Decoder, transcriber: Transcriber | None = None) -> None:
        self._settings, self._decoder, self._transcriber = settings, decoder, transcriber
        self._threads = ThreadPoolExecutor(settings.feature_threads, "emmr-features")
        self._semaphore = asyncio.Semaphore(settings.decode_workers + settings.feature_threads)

    def stop(self) -> None:
        """Discard the features that have not been started."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def prepare(
        self,
        form: RawForm,
        options: Options,
        predictor: Predictor,
        aside: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> PreparedRequest:
        """Compute the features of a form; each file is closed as soon as it is no longer needed.

        Args:
            form: its files are at position 0.
            options: of the request.
            predictor: computes the features.
            aside: entered while the request waits for a transcription.

        Raises:
            NothingUsable: every part is empty.
            UploadError, ModalityError: the content of a part is not accepted.
            InvalidQuery, NotTranscribed: a transcription is demanded, and not possible, or not at this moment.
        """
        began = time.perf_counter()
        transcriber = self._choose_transcriber(form, options)
        request = PreparedRequest(predictor, options)
        text = None if form.text is None else decode_text(form.text, self._settings.max_text_bytes)
        request.decode_seconds = time.perf_counter() - began
        if form.audio is not None or form.openface is not None:
            async with self._semaphore:
                await self._add_files(form, request, began, keep_audio=transcriber is not None)
        if text is not None:
            request.add_text(text)
        # Not within the semaphore, and after the features: forms without transcription do not wait for it.
        if transcriber is not None and form.audio is not None and request.audio is not None:
            with aside():
                await _add_words(transcriber, form.audio, request)
        if request.text is None and request.audio is None and request.visual is None:
            raise NothingUsable(request.empty)
        return request

    def _choose_transcriber(self, form: RawForm, options: Options) -> Transcriber | None:
        """Return the transcriber if the form's voice is to be transcribed."""
        if form.audio is None or options.transcribe == "never":
            return None
        if options.transcribe == "auto":
            return self._transcriber if form.text is None else None
        if self._transcriber is None:
            detail = "transcription is not available: the extra asr is not installed"
            raise InvalidQuery(detail, [Fault(part="audio", place="query.transcribe", detail=detail)])
        return self._transcriber

    async def _add_files(
        self, form: RawForm, request: PreparedRequest, began: float, *, keep_audio: bool = False
    ) -> None:
        config, settings = request.predictor.pipeline.config, self._settings

        async def add(
            job: Json, file: IO[bytes], part: FilePart, result: type[V], add_features: Callable[[V], None]
        ) -> None:
            content: V | None = None
            try:
                content = await self._decoder.run(job, file, part, result)
            except EmptyModality as error:
                request.empty[error.modality] = error
            finally:
                if not (keep_audio and file is form.audio):
                    close_file(file)
            # The decoder process also computes the raw features of a voice, which are not part of decoding.
            feature_seconds = content.compute_seconds if isinstance(content, AudioFeatures) else 0.0
            request.decode_seconds = max(request.decode_seconds, time.perf_counter() - began - feature_seconds)
            if content is not None:
                await asyncio.get_running_loop().run_in_executor(self._threads, add_features, content)

        try:
            async with asyncio.TaskGroup() as group:
                if form.audio is not None:
                    job = audio_job(config.audio, settings)
                    group.create_task(add(job, form.audio, "audio", AudioFeatures, request.add_audio))
                if form.openface is not None:
                    job = openface_job(config.visual, settings, request.options.face_id)
                    group.create_task(add(job, form.openface, "openface", FaceTrack, request.add_visual))
        except BaseExceptionGroup as errors:  # the first failure cancels the other task
            raise errors.exceptions[0] from None


async def _add_words(transcriber: Transcriber, file: IO[bytes], request: PreparedRequest) -> None:
    """Transcribe a voice, and close its file. Where that fails, `auto` leaves the text missing."""
    began = time.perf_counter()
    try:
        request.add_transcription(await transcriber.transcribe(file))
    except NotTranscribed as error:
        if request.options.transcribe == "always":
            raise
        detail = f"the sound was not transcribed: {error.detail}"
        request.empty[Modality.TEXT] = EmptyModality(Modality.TEXT, NOT_TRANSCRIBED, detail)
    finally:
        close_file(file)
        request.transcribe_seconds = time.perf_counter() - began
