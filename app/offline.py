"""One prediction from files, without a server: `emmr predict`.

For: the service's answer from the same predictor, limits and errors, in one process and one go.
Does not know: terminals.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from app.api.response import compose
from app.api.schemas import Prediction
from app.decoding.text import decode_text
from app.engine.engine import Reply
from app.engine.limits import openface_limits, sound_limits
from app.engine.predictor import Inputs, Options, Predictor, load_languages
from app.settings import Settings
from model.errors import EmptyModality
from model.features.audio.loading import read_sound
from model.features.visual.openface import read_openface
from model.modality import Modality

V = TypeVar("V")


def predict_once(
    settings: Settings, *, text: bytes | None, audio: Path | None, openface: Path | None, explain: bool
) -> Prediction:
    """Answer for one utterance; at least one of `text`, `audio` and `openface` is given.

    The inputs are read before the weights, so that a bad one is refused without delay.

    Raises:
        UploadError, ModalityError: an input is wrong.
        NothingUsable: all that was given is empty.
        CheckpointError: the weights folder is missing, altered or does not fit.
    """
    began = time.perf_counter()
    empty: dict[Modality, EmptyModality] = {}

    def unless_empty(read: Callable[[], V]) -> V | None:
        try:
            return read()
        except EmptyModality as error:
            empty[error.modality] = error
            return None

    sentence = None if text is None else decode_text(text, settings.max_text_bytes)
    sound = None if audio is None else unless_empty(lambda: read_sound(audio, sound_limits(settings)))
    decode = time.perf_counter() - began

    if sentence is not None:
        threading.Thread(target=load_languages, daemon=True).start()  # checking the text waits for it
    predictor = Predictor.load(settings.weights, settings.device)
    visual = predictor.pipeline.config.visual
    began = time.perf_counter()
    track = (
        None
        if openface is None
        else unless_empty(
            lambda: read_openface(openface, visual.columns, visual.min_confidence, openface_limits(settings))
        )
    )
    decode += time.perf_counter() - began
    options = Options(explain, settings.key_threshold)
    prepared = predictor.prepare(Inputs(sentence, sound, track, empty, options))
    (outcome,) = predictor.decide([prepared])
    features = prepared.seconds + outcome.encoding
    reply = Reply(prepared, outcome, decode, features, queue=0.0, forward=outcome.forward)
    return compose(uuid4().hex, predictor.pipeline.checkpoint, reply, parsed=0.0)
