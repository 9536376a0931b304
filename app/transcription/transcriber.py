"""Transcribers: of the service, in a process of its own, and of the command line, in this process."""

import asyncio
import io
import json
import threading
from collections.abc import Mapping
from dataclasses import asdict
from typing import IO, BinaryIO, Final, Protocol, TypeAlias, cast

import numpy as np

from app.decoding.parts import sound_limits
from app.decoding.pool import DecodePool
from app.decoding.process import DecoderDied, Unresponsive
from app.decoding.protocol import Json, ProtocolError, raise_error
from app.errors import NotTranscribed, UploadError
from app.logging import get_logger
from app.settings import Settings
from app.transcription.recogniser import Recogniser, model_folder
from app.transcription.transcription import ADAPTER, Transcription, judge
from model.errors import CheckpointError, ConfigError, EmptyModality
from model.features.audio.loading import read_sound
from model.types import FloatArray

PATIENCE: Final = 10.0  # for a process that has the time which others leave
Sound: TypeAlias = FloatArray | IO[bytes]
"""`(S,)` float32 samples, mono, at 16 kHz; or an open sound file."""


class Transcriber(Protocol):
    """Whatever turns a sound into words."""

    async def transcribe(self, sound: Sound, /) -> Transcription:
        """Transcribe a sound; a file is read from its beginning and stays open.

        Raises:
            NotTranscribed: too many sounds wait, or the transcription failed; a later attempt may succeed.
            ModalityError: the file is not accepted.
        """
        ...


class TranscriptionPool:
    """Transcribes in one process, which is confined and has a low priority; it is started with the first sound.

    Args:
        settings: limits, and the model.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pool: DecodePool | None = None
        self._starting: asyncio.Task[DecodePool] | None = None
        self.waiting = 0
        """Sounds that wait or are being transcribed."""

    @property
    def state(self) -> str:
        """`idle` before the first start, `starting`, `running`, or `stopped` if the process does not start."""
        if self._pool is not None:
            return "running" if self._pool.state().ok else "stopped"
        if self._starting is None:
            return "idle"
        return "stopped" if self._starting.done() else "starting"

    @property
    def sandbox(self) -> Mapping[str, bool]:
        """See `app.decoding.pool.PoolState`; empty before the start."""
        return {} if self._pool is None else self._pool.state().sandbox

    async def start(self) -> DecodePool:
        """Start the process, once; wait until it takes sounds.

        Raises:
            ConfigError, CheckpointError: the model is missing or not valid.
            DecoderDied, Unresponsive: the process does not start; its standard error has the reason.
        """
        if self._starting is None:
            self._starting = asyncio.create_task(asyncio.to_thread(self._launch))
        return await asyncio.shield(self._starting)

    async def stop(self) -> None:
        """End the process. A sound being transcribed fails with `NotTranscribed`."""
        if self._starting is not None:
            await asyncio.gather(self._starting, return_exceptions=True)
        if self._pool is not None:
            await asyncio.to_thread(self._pool.stop)

    async def transcribe(self, sound: Sound) -> Transcription:
        """See `Transcriber`; a sound that waits when the queue is full is refused at once."""
        settings = self._settings
        if self.waiting >= settings.transcribe_queue:
            raise NotTranscribed("as many sounds are waiting as may")
        self.waiting += 1
        try:
            async with asyncio.timeout(settings.transcribe_timeout):
                pool = await self.start()
                transcription = await pool.run(*self._job(sound), "audio", Transcription)
        except TimeoutError:
            raise NotTranscribed(f"it takes longer than the {settings.transcribe_timeout:g} seconds allowed") from None
        except (ConfigError, CheckpointError, DecoderDied, Unresponsive, OSError):
            raise NotTranscribed("the process that transcribes does not start") from None
        except (UploadError, EmptyModality) as error:
            raise NotTranscribed(error.detail) from None
        finally:
            self.waiting -= 1
        return judge(transcription, settings.transcribe_min_confidence)

    def _job(self, sound: Sound) -> tuple[Json, IO[bytes]]:
        if isinstance(sound, np.ndarray):
            return {"kind": "samples"}, io.BytesIO(sound.astype("<f4").tobytes())
        return {"kind": "file", "limits": asdict(sound_limits(self._settings))}, sound

    def _launch(self) -> DecodePool:
        try:
            self._pool = self._start_pool()
        except Exception as error:
            get_logger().error("the transcription process does not start", reason=str(error))
            raise
        return self._pool

    def _start_pool(self) -> DecodePool:
        settings = self._settings
        options = {
            "folder": str(model_folder(settings.transcribe_model)),
            "threads": settings.transcribe_threads,
            "niceness": settings.transcribe_niceness,
            "seconds": settings.transcribe_max_seconds,
        }
        pool = DecodePool(
            workers=1,
            timeout=settings.transcribe_timeout,
            cpu_seconds=settings.transcribe_timeout * settings.transcribe_threads,
            memory_bytes=settings.transcribe_memory_bytes,
            module="app.transcription.worker",
            arguments=[json.dumps(options)],
            decode=_decode,
            patience=PATIENCE,
        )
        pool.start()
        return pool


class LocalTranscriber:
    """Transcribes in this process, without confinement; the model is loaded with the first sound.

    Args:
        settings: limits, and the model.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._recogniser: Recogniser | None = None
        self._lock = threading.Lock()

    async def transcribe(self, sound: Sound) -> Transcription:
        """See `Transcriber`.

        Raises:
            ConfigError, CheckpointError: the model is missing or not valid.
        """
        return judge(await asyncio.to_thread(self._transcribe, sound), self._settings.transcribe_min_confidence)

    def _transcribe(self, sound: Sound) -> Transcription:
        settings = self._settings
        if isinstance(sound, np.ndarray):
            waveform = sound
        else:
            sound.seek(0)
            waveform, _ = read_sound(cast("BinaryIO", sound), sound_limits(settings))
        with self._lock:
            if self._recogniser is None:
                self._recogniser = Recogniser.load(
                    model_folder(settings.transcribe_model),
                    threads=settings.transcribe_threads,
                    max_seconds=settings.transcribe_max_seconds,
                )
            return self._recogniser(waveform)


def _decode(message: Json, content: bytearray) -> Transcription:
    """Validate the reply of a transcription process."""
    raise_error(message)
    try:
        return ADAPTER.validate_json(content)
    except ValueError as error:
        raise ProtocolError("the reply is not a transcription") from error
