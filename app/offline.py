"""`emmr predict`: one prediction from files in this process, and its rendering as tables for a terminal."""

import asyncio
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import IO, BinaryIO, TypeVar, cast
from uuid import uuid4

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from app.api.response import compose
from app.api.schemas import ExplainedPrediction, Prediction
from app.decoding.parts import decode_text, sound_limits
from app.decoding.protocol import Json
from app.decoding.worker import decode
from app.engine.predictor import Options, Predictor, load_languages
from app.engine.preprocess import FilePart, Preprocessor
from app.settings import Settings
from app.uploads.form import RawForm
from model.errors import EmptyModality
from model.features.audio.loading import read_sound
from model.features.audio.raw_features import extract_voice
from model.types import FloatArray

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

    def __init__(self, settings: Settings, audio: BinaryIO | None) -> None:
        self._sound: tuple[FloatArray, dict[str, str]] | EmptyModality | None = None
        if audio is not None:
            try:
                self._sound = read_sound(audio, sound_limits(settings))
            except EmptyModality as error:  # not an error until no other part is usable
                self._sound = error

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


def predict_once(
    settings: Settings,
    *,
    text: bytes | None,
    audio: Path | None,
    openface: Path | None,
    explain: bool,
    face_id: int | None = None,
) -> Prediction:
    """Predict for one utterance; at least one of `text`, `audio` and `openface` is given.

    Text and audio are decoded before the weights are loaded, so that bad input is refused without delay.

    Raises:
        UploadError, ModalityError: the content of a part is not accepted.
        NothingUsable: every part is empty.
        CheckpointError: the weights folder is missing, altered or does not fit its config.
    """
    if text is not None:
        decode_text(text, settings.max_text_bytes)
        threading.Thread(target=load_languages, daemon=True).start()  # while the weights are loaded
    with ExitStack() as files:
        opened = [None if path is None else files.enter_context(path.open("rb")) for path in (audio, openface)]
        decoder = LocalDecoder(settings, opened[0])
        predictor = Predictor.load(settings.weights, settings.device)
        options = Options(explain, settings.key_threshold, face_id)
        preprocessor = Preprocessor(settings, decoder)
        request = asyncio.run(preprocessor.prepare(RawForm(text, *opened), options, predictor))
    (result,) = predictor.decide([request])
    return compose(uuid4().hex, result, parsed=0.0)


def render(prediction: Prediction) -> RenderableType:
    """Render a prediction as tables."""
    explained = prediction if isinstance(prediction, ExplainedPrediction) else None
    votes = Table("head", *prediction.model.classes)
    for head, vote in {**((explained and explained.votes) or {}), "answer": prediction.probabilities}.items():
        votes.add_row(head, *(f"{vote[name]:.3f}" for name in prediction.model.classes))
    modalities = Table("modality", "status", "used")
    for name, use in prediction.modalities:
        figures = use.model_dump(exclude={"status", "reason"}, exclude_none=True)
        modalities.add_row(name, use.status, use.reason or ", ".join(f"{key} {figures[key]}" for key in figures))
    parts: list[RenderableType] = [Text(prediction.summary, style="bold"), votes, modalities]
    parts += [Text(f"{warning.code}: {warning.detail}", style="yellow") for warning in prediction.warnings]
    if explained and explained.reconstruction:
        reconstruction = Table("recovered", "figure", "value")
        for modality, values in explained.reconstruction.items():
            for figure, value in values.items():
                reconstruction.add_row(modality, figure, f"{value:.3f}")
        parts.append(reconstruction)
    parts.append(Text(f"{prediction.model.name} {prediction.model.version[:12]}", style="dim"))
    return Group(*parts)
