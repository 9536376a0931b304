"""`emmr predict`: one prediction from files in this process, and its rendering as tables for a terminal."""

import asyncio
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import IO, BinaryIO, cast
from uuid import uuid4

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from app.api.response import compose
from app.api.schemas import ExplainedPrediction, Prediction
from app.decoding.parts import decode_text, openface_limits, sound_limits
from app.engine.predictor import Options, Predictor, load_languages
from app.engine.preprocess import Preprocessor
from app.settings import Settings
from app.uploads.form import RawForm
from model.config import AudioConfig, VisualConfig
from model.errors import EmptyModality
from model.features.audio.loading import Sound, read_sound
from model.features.audio.raw_features import Voice, extract_voice
from model.features.visual.openface import FaceTrack, read_openface


class LocalDecoders:
    """Decoders that run in this process, without confinement. The audio file is decoded on construction.

    Raises:
        ModalityError: the audio file is not accepted.
    """

    def __init__(self, settings: Settings, audio: BinaryIO | None) -> None:
        self._settings = settings
        self._sound: Sound | EmptyModality | None = None
        if audio is not None:
            try:
                self._sound = read_sound(audio, sound_limits(settings))
            except EmptyModality as error:
                self._sound = error

    async def audio(self, _: IO[bytes], config: AudioConfig) -> Voice:
        """Compute the features of the decoded audio file before normalisation."""
        if not isinstance(self._sound, Sound):
            raise self._sound or ValueError("there is no audio file")
        return extract_voice(self._sound.waveform, channel=self._sound.channel, **config.model_dump())

    async def openface(self, file: IO[bytes], config: VisualConfig) -> FaceTrack:
        """Decode an OpenFace CSV."""
        limits = openface_limits(self._settings)
        return read_openface(cast("BinaryIO", file), config.columns, config.min_confidence, limits)


def predict_once(
    settings: Settings, *, text: bytes | None, audio: Path | None, openface: Path | None, explain: bool
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
        began = time.perf_counter()
        decoders = LocalDecoders(settings, opened[0])
        read_seconds = time.perf_counter() - began
        predictor = Predictor.load(settings.weights, settings.device)
        options = Options(explain, settings.key_threshold)
        preprocessor = Preprocessor(settings, decoders)
        request = asyncio.run(preprocessor.prepare(RawForm(text, *opened), options, predictor))
    request.decode_seconds += read_seconds
    (result,) = predictor.decide([request])
    return compose(uuid4().hex, result, parsed=0.0)


def render(prediction: Prediction) -> RenderableType:
    """Render a prediction as tables."""
    explained = prediction if isinstance(prediction, ExplainedPrediction) else None
    votes = Table("head", *prediction.model.classes)
    for head, vote in {**(explained.votes if explained else {}), "answer": prediction.probabilities}.items():
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
