"""Predictions in this process, with the answers of the service."""

import asyncio
import io
import os
import tempfile
from collections.abc import AsyncGenerator, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import IO, TypeAlias
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import soundfile

from app.api.problems import as_service_error
from app.api.response import compose, model_name
from app.api.schemas import ModelName, Prediction
from app.engine.predictor import Options, PreparedRequest
from app.offline import LocalModel
from app.recordings.schemas import Line
from app.recordings.timeline import Channels, Files, open_recording, timeline
from app.settings import DEFAULT_WEIGHTS, Settings
from app.uploads.form import RawForm
from emmr.files import File, Transcribe, open_file, read_file
from model.errors import ModalityError

Sound: TypeAlias = File | tuple[npt.ArrayLike, int]
"""A sound file; or samples, `(N,)` or `(N, channels)` of floats in [-1, 1] or int16, and their rate in Hz."""


def load(weights: str | os.PathLike[str] = "default", *, device: str = "auto") -> "Model":
    """Load weights. Limits of the inputs are those of the service, from the same environment variables.

    Args:
        weights: `default` for the shipped weights, or a weights folder.
        device: `auto`, `cpu`, `cuda` or `cuda:1`.

    Raises:
        CheckpointError: the folder is missing, altered or does not fit its config.
        ConfigError: the device does not exist.
        ValidationError: an environment variable does not fit its setting.
    """
    folder = DEFAULT_WEIGHTS if weights == "default" else Path(weights)
    return Model(LocalModel.load(Settings(weights=folder, device=device)))


class Model:
    """Loaded weights; may be used from several threads."""

    def __init__(self, local: LocalModel) -> None:
        self._local = local

    @property
    def name(self) -> ModelName:
        """Name, content hash and classes of the weights."""
        return model_name(self._local.predictor.pipeline.checkpoint)

    def predict(
        self,
        *,
        text: str | None = None,
        audio: Sound | None = None,
        openface: File | None = None,
        explain: bool = False,
        threshold: float | None = None,
        face_id: int | None = None,
        transcribe: Transcribe = "never",
    ) -> Prediction:
        """Predict for one utterance; at least one of `text`, `audio` and `openface` is given.

        Args:
            text: the words.
            audio: the voice: WAV, FLAC, OGG, MP3, WebM or M4A, or samples.
            openface: the face: a CSV of OpenFace 2.
            explain: whether to answer with an `ExplainedPrediction`, which has every head's vote.
            threshold: probability of another answer from which a missing modality is reported as key, in [0, 1]; that
                of `EMMR_KEY_THRESHOLD`, or of the weights, if None.
            face_id: the face of the file to follow; the most confident one if None.
            transcribe: whether the words of the voice are transcribed: `auto` where no text is given and the extra
                `asr` is installed.

        Raises:
            ServiceError: an input is not accepted, or nothing usable remains.
            CheckpointError: the voice encoder, which is verified with the first voice, is not the published one.
            ValueError: no input is given, or the threshold is not a probability.
            OSError: a file cannot be read.
            TypeError: samples are neither floats nor int16.
        """
        if text is None and audio is None and openface is None:
            raise ValueError("give at least one of text, audio and openface")
        options = Options(explain, self._threshold(threshold), face_id, transcribe=transcribe)
        form = RawForm(None if text is None else text.encode("utf-8", "surrogatepass"))
        try:
            form.audio = None if audio is None else _open_sound(audio)
            form.openface = None if openface is None else open_file(openface)
            result = self._local.answer(form, options)
        except ModalityError as error:
            raise as_service_error(error) from error
        finally:
            form.close()
        return compose(uuid4().hex, result, parsed=0.0)

    def timeline(
        self,
        *,
        audio: File | None = None,
        transcript: File | None = None,
        openface: File | None = None,
        channels: Channels = "mix",
        explain: bool = False,
        threshold: float | None = None,
        transcribe: Transcribe = "never",
        speaker_normalization: bool = True,
    ) -> Generator[Line, None, None]:
        """Yield the lines of a recording: what was given, the answer to each utterance, and a summary.

        Args:
            audio: the sound.
            transcript: SRT, WebVTT, Whisper's JSON or CSV.
            openface: the face: a CSV of OpenFace 2 with timestamps.
            channels: `speakers` to take each channel of the sound as a speaker.
            explain: whether utterances have votes and reconstruction figures.
            threshold: see `predict`.
            transcribe: whether the words of the voice are transcribed: `auto` where the transcript has none and the
                extra `asr` is installed.
            speaker_normalization: whether voice and face are made relative to their speaker's level, where the
                transcript or the channel names the speaker.

        Raises:
            ServiceError: a file is not accepted; names the place.
            ValueError: no file is given, or the threshold is not a probability.
            OSError: a file cannot be read.
        """
        if audio is None and transcript is None and openface is None:
            raise ValueError("give at least one of audio, transcript and openface")
        options = Options(explain, self._threshold(threshold), transcribe=transcribe)
        lines = self._lines(audio, transcript, openface, channels, options, speaker_normalization)
        try:
            yield from _iterate(lines)
        except ModalityError as error:
            raise as_service_error(error) from error

    def _threshold(self, threshold: float | None) -> float | None:
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"the threshold {threshold} is not a probability")
        return self._local.settings.key_threshold if threshold is None else threshold

    async def _lines(
        self,
        audio: File | None,
        transcript: File | None,
        openface: File | None,
        channels: Channels,
        options: Options,
        speaker_normalization: bool,
    ) -> AsyncGenerator[Line, None]:
        settings, checkpoint = self._local.settings, self._local.predictor.pipeline.checkpoint
        model = model_name(checkpoint)

        async def prepare(form: RawForm) -> PreparedRequest:
            return await asyncio.to_thread(self._local.prepare, form, options)

        async def answer(request: PreparedRequest) -> Prediction:
            return compose(uuid4().hex, await asyncio.to_thread(self._local.decide, request), parsed=0.0)

        with _opened(audio) as sound, _opened(openface) as face:
            files = Files(sound, None if transcript is None else read_file(transcript), face)
            async with (
                open_recording(files, checkpoint.config, settings, channels) as recording,
                aclosing(
                    timeline(recording, model, prepare, answer, speaker_normalization=speaker_normalization)
                ) as found,
            ):
                async for line in found:
                    yield line


@contextmanager
def _opened(file: File | None) -> Iterator[IO[bytes] | None]:
    """Open a file; content in memory as a temporary one, because decoder processes read from a descriptor."""
    if file is None:
        yield None
    elif isinstance(file, bytes):
        with tempfile.TemporaryFile() as written:
            written.write(file)
            written.seek(0)
            yield written
    else:
        with open_file(file) as opened:
            yield opened


def _iterate(lines: AsyncGenerator[Line, None]) -> Iterator[Line]:
    """Iterate on an event loop of another thread, because that of the caller may run one."""
    runner = asyncio.Runner()

    async def following() -> Line | None:
        return await anext(lines, None)

    with ThreadPoolExecutor(1, "emmr-timeline") as thread:
        try:
            while (line := thread.submit(runner.run, following()).result()) is not None:
                yield line
        finally:
            thread.submit(runner.run, lines.aclose()).result()
            thread.submit(runner.close).result()


def _open_sound(sound: Sound) -> IO[bytes]:
    if not isinstance(sound, tuple):
        return open_file(sound)
    samples, rate = np.asarray(sound[0]), sound[1]
    if samples.dtype != np.int16 and samples.dtype.kind != "f":
        raise TypeError(f"samples are floats or int16, not {samples.dtype}")
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16" if samples.dtype == np.int16 else "FLOAT")
    file.seek(0)
    return file
