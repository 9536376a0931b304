"""A form → what the model needs of it: decoding and listening in other processes, the rest on other threads.

For: the engine, with a bound on how many requests hold decoded content, which is far larger than what was sent or what
waits afterwards.
Does not know: queues, or what the model makes of it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from app.decoding.audio import decode_audio
from app.decoding.openface import decode_openface
from app.decoding.pool import DecodePool
from app.decoding.text import decode_text
from app.engine.limits import openface_limits, sound_limits
from app.engine.predictor import Heard, Options, Predictor, PreparedRequest, Seen
from app.settings import Settings
from app.uploads.form import RawForm
from model.errors import EmptyModality
from model.features.audio.raw_features import Voice
from model.modality import Modality

V = TypeVar("V")
W = TypeVar("W")


class Preprocessor:
    """The processes and threads that turn uploads into features.

    Args:
        settings: how many of each, and the limits.
        pool: decodes; started and stopped by whoever made it.
    """

    def __init__(self, settings: Settings, pool: DecodePool) -> None:
        self._settings, self._pool = settings, pool
        self._threads = ThreadPoolExecutor(settings.feature_threads, "emmr-features")
        self._desks = asyncio.Semaphore(settings.decode_workers + settings.feature_threads)

    def stop(self) -> None:
        """Take nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def preprocess(self, form: RawForm, options: Options, predictor: Predictor) -> tuple[PreparedRequest, float]:
        """Decode and describe a form, and close it: nothing larger than what comes back is left of it.

        Each part is described as soon as it is decoded, whatever the other's decoder still does.

        Returns:
            What is needed of it, and the seconds until all of it was decoded.

        Raises:
            NothingUsable: every part is empty.
            UploadError, ModalityError: a part's content is wrong.
        """
        began = time.perf_counter()
        text = None if form.text is None else decode_text(form.text, self._settings.max_text_bytes)
        if form.audio is None and form.openface is None:
            decoded = time.perf_counter() - began
            return predictor.assemble(text, None, None, {}, options), decoded
        async with self._desks:
            heard, seen, empty, decoded = await self._describe(form, options, predictor)
        return predictor.assemble(text, heard, seen, empty, options), decoded - began

    async def _describe(
        self, form: RawForm, options: Options, predictor: Predictor
    ) -> tuple[Heard | None, Seen | None, dict[Modality, EmptyModality], float]:
        """What was made of sound and face, which of them are empty, and when both were decoded."""
        settings, config = self._settings, predictor.pipeline.config
        empty: dict[Modality, EmptyModality] = {}
        undecoded = sum(file is not None for file in (form.audio, form.openface))
        decoded = 0.0

        async def described(decoding: Awaitable[V], describe: Callable[[V], W]) -> W | None:
            nonlocal undecoded, decoded
            try:
                try:
                    content = await decoding
                finally:
                    undecoded -= 1
                    if not undecoded:
                        form.close()
                # Listening is part of a voice's decoding, and counted with the features.
                spent = content.spent if isinstance(content, Voice) else 0.0
                decoded = max(decoded, time.perf_counter() - spent)
                return await asyncio.get_running_loop().run_in_executor(self._threads, describe, content)
            except EmptyModality as error:
                decoded = max(decoded, time.perf_counter())
                empty[error.modality] = error
                return None

        async def sound() -> Heard | None:
            if form.audio is None:
                return None
            limits, audio = sound_limits(settings), config.audio
            listening = decode_audio(
                form.audio,
                audio.dynamics,
                audio.silence_dbfs,
                limits,
                self._pool,
                conditioned=audio.conditioned,
                encoder=audio.encoder,
            )
            return await described(listening, partial(predictor.audio_features, any_sound=options.any_sound))

        async def face() -> Seen | None:
            if form.openface is None:
                return None
            limits = openface_limits(settings)
            columns, min_confidence = config.visual.columns, config.visual.min_confidence
            decoding = decode_openface(form.openface, columns, min_confidence, limits, self._pool)
            return await described(decoding, predictor.visual_features)

        heard, seen = await _both(sound(), face())
        return heard, seen, empty, decoded


async def _both(first: Coroutine[None, None, V], second: Coroutine[None, None, W]) -> tuple[V, W]:
    """Run two at once; when one fails the other is dropped, and of two failures the first one's is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = group.create_task(first), group.create_task(second)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return tasks[0].result(), tasks[1].result()
