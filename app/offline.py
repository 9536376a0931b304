"""Predictions in this process, for `emmr predict` and `import emmr`, and their rendering as tables for a terminal."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, Self, TypeVar, cast
from uuid import uuid4

from app.api.response import compose
from app.api.schemas import ExplainedPrediction, InputWarning, Prediction
from app.decoding.parts import decode_text, sound_limits
from app.decoding.protocol import Json
from app.decoding.worker import decode
from app.engine.predictor import Options, Predictor, PreparedRequest, Result, load_languages
from app.engine.preprocess import FilePart, Preprocessor
from app.errors import EmptyForm
from app.settings import Settings, Transcribe
from app.transcription.recogniser import installed
from app.transcription.transcriber import LocalTranscriber, Sound
from app.transcription.transcription import Transcription
from app.uploads.form import RawForm
from app.video import FACE_NOT_READ, VideoParts, open_video
from model.errors import EmptyModality
from model.features.audio.loading import read_sound
from model.features.audio.raw_features import extract_voice
from model.types import FloatArray

if TYPE_CHECKING:
    from rich.console import RenderableType

V = TypeVar("V")


class LocalDecoder:
    """Decodes in this process, without confinement; it takes the place of an `app.decoding.pool.DecodePool`.

    The audio file is read on construction, since that needs no weights.

    Args:
        settings: limits of the sound.
        audio: the audio file that `run` is called with, if there is one.

    Raises:
        ModalityError: the audio file is not accepted.
    """

    def __init__(self, settings: Settings, audio: IO[bytes] | None) -> None:
        self._sound: tuple[FloatArray, dict[str, str]] | EmptyModality | None = None
        if audio is not None:
            try:
                self._sound = read_sound(cast("BinaryIO", audio), sound_limits(settings))
            except EmptyModality as error:  # not an error until no other part is usable
                self._sound = error

    @property
    def waveform(self) -> FloatArray:
        """`(S,)` float32 at 16 kHz, of an audio file that is accepted and not empty."""
        assert isinstance(self._sound, tuple)
        return self._sound[0]

    async def run(self, job: Json, file: IO[bytes], part: FilePart, result: type[V]) -> V:
        """Decode the whole of `file`; raises a `ModalityError` if it is not accepted."""
        if isinstance(self._sound, EmptyModality) and part == "audio":
            raise self._sound
        if isinstance(self._sound, tuple) and part == "audio":
            waveform, warnings = self._sound
            return _checked(extract_voice(waveform, warnings=warnings, **job["config"]), result)
        return _checked(decode(job, cast("BinaryIO", file)), result)


def _checked(decoded: object, result: type[V]) -> V:
    assert isinstance(decoded, result)
    return decoded


class _DecodedVoice:
    """Transcribes the audio file that a `LocalDecoder` has read already."""

    def __init__(self, transcriber: LocalTranscriber, decoder: LocalDecoder) -> None:
        self._transcriber, self._decoder = transcriber, decoder

    async def transcribe(self, _: Sound) -> Transcription:
        return await self._transcriber.transcribe(self._decoder.waveform)


class LocalModel:
    """Weights in this process. It takes the service's steps, without its queue and its decoder processes.

    Args:
        settings: limits, and the threshold of requests without one.
        predictor: the loaded weights.
    """

    def __init__(self, settings: Settings, predictor: Predictor) -> None:
        self.settings, self.predictor = settings, predictor
        self.transcriber = LocalTranscriber(settings) if installed() else None
        self._verify_voice_encoder = cache(predictor.pipeline.checkpoint.verify_voice_encoder)
        self._deciding = threading.Lock()  # the network is used from one thread at a time

    @classmethod
    def load(cls, settings: Settings) -> Self:
        """Load the weights of the settings; the voice encoder is verified before the first voice.

        Raises:
            CheckpointError, ConfigError: see `Predictor.load`.
        """
        return cls(settings, Predictor.load(settings.weights, settings.device, voices=False))

    def answer(self, form: RawForm, options: Options, decoder: LocalDecoder | None = None) -> Result:
        """Answer one form, and close it; arguments and errors are those of `prepare`."""
        return self.decide(self.prepare(form, options, decoder))

    def prepare(self, form: RawForm, options: Options, decoder: LocalDecoder | None = None) -> PreparedRequest:
        """Compute the features of a form, and close it; may be called from any thread, where an event loop runs or not.

        Args:
            form: its files are open, at position 0.
            options: of the request.
            decoder: of the form's files; a new one if not given.

        Raises:
            UploadError, ModalityError: the content of a part is not accepted.
            NothingUsable: every part is empty.
            CheckpointError, ConfigError: there is a voice, and the voice encoder is not the published one.
        """
        with closing(form), ThreadPoolExecutor(1) as thread:  # the caller's thread may run an event loop
            decoder = decoder or LocalDecoder(self.settings, form.audio)
            if form.audio is not None:
                self._verify_voice_encoder()
            transcriber = None if self.transcriber is None else _DecodedVoice(self.transcriber, decoder)
            preprocessor = Preprocessor(self.settings, decoder, transcriber)
            try:
                return thread.submit(asyncio.run, preprocessor.prepare(form, options, self.predictor)).result()
            finally:
                preprocessor.stop()

    def decide(self, request: PreparedRequest) -> Result:
        """Answer one prepared request; may be called from any thread."""
        with self._deciding:
            (result,) = self.predictor.decide([request])
        return result


def predict_once(
    settings: Settings,
    *,
    text: bytes | None,
    audio: Path | None,
    openface: Path | None,
    video: Path | None = None,
    explain: bool,
    face_id: int | None = None,
    transcribe: Transcribe = "never",
) -> Prediction:
    """Predict for one utterance; at least one of `text`, `audio`, `openface` and `video` is given.

    A video gives what is not given itself. Text and audio are decoded before the weights are loaded: bad input is
    refused without delay.

    Raises:
        UploadError, ModalityError: the content of a part, or the video, is not accepted.
        NothingUsable: every part is empty.
        CheckpointError: the weights folder is missing, altered or does not fit its config.
        InvalidQuery: `transcribe` is `always`, and the extra `asr` is not installed.
    """
    with ExitStack() as files:
        parts = VideoParts()
        if video is not None:
            parts = files.enter_context(open_video(video, settings, face=openface is None))
            text = text if text is not None or parts.words is None else parts.words.encode()
            audio, openface = audio or parts.audio, openface or parts.openface
            if text is None and audio is None and openface is None:
                detail = parts.warnings.get(FACE_NOT_READ, "")
                raise EmptyForm(f"the video holds neither sound nor subtitles. {detail}".strip(), part="video")
        if text is not None:
            decode_text(text, settings.max_text_bytes)
            threading.Thread(target=load_languages, daemon=True).start()  # while the weights are loaded
        opened = [None if path is None else files.enter_context(path.open("rb")) for path in (audio, openface)]
        decoder = LocalDecoder(settings, opened[0])
        options = Options(explain, settings.key_threshold, face_id, transcribe=transcribe)
        result = LocalModel.load(settings).answer(RawForm(text, *opened), options, decoder)
    answer = compose(uuid4().hex, result, parsed=0.0)
    of_video = [InputWarning(code=code, detail=detail) for code, detail in parts.warnings.items()]
    return answer.model_copy(update={"warnings": [*of_video, *answer.warnings]})


def render(prediction: Prediction) -> "RenderableType":
    """Render a prediction as tables."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    explained = prediction if isinstance(prediction, ExplainedPrediction) else None
    votes = Table("head", *prediction.model.classes)
    for head, vote in {**((explained and explained.votes) or {}), "answer": prediction.probabilities}.items():
        votes.add_row(head, *(f"{vote[name]:.3f}" for name in prediction.model.classes))
    modalities = Table("modality", "status", "used")
    for name, use in prediction.modalities:
        figures = use.model_dump(exclude={"status", "reason", "transcript"}, exclude_none=True)
        modalities.add_row(name, use.status, use.reason or ", ".join(f"{key} {figures[key]}" for key in figures))
    parts: list[RenderableType] = [Text(prediction.summary, style="bold"), votes, modalities]
    if transcript := prediction.modalities.text.transcript:
        parts.append(Text(f"words of the voice ({transcript.confidence:.2f}): {transcript.text}"))
    parts += [Text(f"{warning.code}: {warning.detail}", style="yellow") for warning in prediction.warnings]
    if explained and explained.reconstruction:
        reconstruction = Table("recovered", "figure", "value")
        for modality, values in explained.reconstruction.items():
            for figure, value in values.items():
                reconstruction.add_row(modality, figure, f"{value:.3f}")
        parts.append(reconstruction)
    parts.append(Text(f"{prediction.model.name} {prediction.model.version[:12]}", style="dim"))
    return Group(*parts)
