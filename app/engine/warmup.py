"""Requests answered before weights are served: one per subset of modalities, then a full batch of sentences."""

# They load lazily compiled code, verify the path from upload bytes to an answer, and allocate what a full batch needs.
# The sound is a modulated tone and the face does not move; the answers do not matter.

import asyncio
import io
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import numpy as np
import soundfile

from app.engine.predictor import Predictor, PreparedRequest
from app.errors import DeadlinePassed, NothingUsable, ShortOfMemory, Unprocessable
from app.uploads.form import RawForm
from model.errors import CheckpointError
from model.features.visual.table import ACTION_UNIT_COLUMNS, ALL_COLUMNS
from model.modality import SUBSETS, Modality

RATE: Final = 16_000  # Hz
SECONDS: Final = 1.0
FRAMES: Final = 4
SENTENCE: Final = "This is only a test."
LONG_SENTENCE: Final = "This is only a test, and it is as long as people's sentences are when they have a lot to say."

Answer = Callable[[RawForm, bool], Awaitable[PreparedRequest]]
"""Answers a form, explained or not."""


async def warm_up(predictor: Predictor, answer: Answer, parallel: int) -> None:
    """Have a predictor answer the requests, and keep one of each subset as its known-good requests.

    Args:
        predictor: its config defines the columns of the face.
        answer: called for each request.
        parallel: sentences answered at the same time at the end.

    Raises:
        CheckpointError: a request cannot be answered.
    """
    columns = ALL_COLUMNS if predictor.pipeline.config.visual.columns == "all" else ACTION_UNIT_COLUMNS
    known_good = []
    for subset, form in zip(SUBSETS, warm_up_forms(columns), strict=True):
        try:
            known_good.append(await answer(form, True))
        except (DeadlinePassed, NothingUsable, ShortOfMemory, Unprocessable) as error:
            raise CheckpointError(f"the weights fail on {subset.name}, which they must answer: {error}") from error
    predictor.known_good = known_good
    try:
        await asyncio.gather(*(answer(RawForm(text=LONG_SENTENCE.encode()), False) for _ in range(parallel)))
    except (DeadlinePassed, ShortOfMemory, Unprocessable) as error:
        raise CheckpointError(f"the weights fail on {parallel} sentences at once: {error}") from error


def warm_up_forms(columns: Sequence[str]) -> list[RawForm]:
    """Return one form for each of the seven subsets; the OpenFace CSV has these columns."""
    sound, face = tone(), still_face(columns)
    return [
        RawForm(
            text=SENTENCE.encode() if Modality.TEXT in subset else None,
            audio=io.BytesIO(sound) if Modality.AUDIO in subset else None,
            openface=io.BytesIO(face) if Modality.VISUAL in subset else None,
        )
        for subset in SUBSETS
    ]


def tone() -> bytes:
    """Return a WAV file of a frequency-modulated tone."""
    t = np.arange(int(RATE * SECONDS)) / RATE
    samples = 0.3 * np.sin(2 * np.pi * (220 * t + 3 * np.sin(2 * np.pi * 4 * t)))
    file = io.BytesIO()
    soundfile.write(file, (samples * 32767).astype(np.int16), RATE, format="WAV")
    return file.getvalue()


def still_face(columns: Sequence[str]) -> bytes:
    """Return an OpenFace CSV of a face that does not move, with every action unit present."""
    header = ["frame", "face_id", "timestamp", "confidence", "success", *columns]
    cells = ["1" if column.endswith("_c") else "0.5" for column in columns]
    rows = ([str(frame), "0", f"{frame / 30:.3f}", "0.98", "1", *cells] for frame in range(1, FRAMES + 1))
    return "".join(",".join(row) + "\n" for row in (header, *rows)).encode()
