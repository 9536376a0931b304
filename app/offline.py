"""`emmr predict`: one prediction from files in this process, and its rendering as tables for a terminal."""

import asyncio
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, TypeVar
from uuid import uuid4

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from app.api.response import compose
from app.api.schemas import ExplainedPrediction, Prediction
from app.decoding.parts import decode_text, sound_limits
from app.decoding.protocol import Json, decode_reply
from app.decoding.worker import perform
from app.engine.predictor import Options, Predictor, load_languages
from app.engine.preprocess import FilePart, Preprocessor
from app.settings import Settings
from app.uploads.form import RawForm
from model.errors import EmptyModality
from model.features.audio.loading import read_sound

V = TypeVar("V")


class LocalDecoder:
    """Decodes in this process, without confinement; it takes the place of an `app.decoding.pool.DecodePool`."""

    async def run(self, job: Json, file: IO[bytes], part: FilePart, result: type[V]) -> V:
        """Decode the whole of `file`; raises a `ModalityError` if it is not accepted."""
        message, content = perform(job, file.read())
        decoded = decode_reply(message, bytearray(content))
        assert isinstance(decoded, result), f"the job was for {part}"
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
        if opened[0] is not None:
            with suppress(EmptyModality):
                read_sound(opened[0], sound_limits(settings))
            opened[0].seek(0)
        predictor = Predictor.load(settings.weights, settings.device)
        options = Options(explain, settings.key_threshold, face_id)
        preprocessor = Preprocessor(settings, LocalDecoder())
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
