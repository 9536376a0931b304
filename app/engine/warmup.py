"""Requests the service sends itself before it serves weights: one for each subset of modalities, and a crowd.

For: loading lazily compiled code, proving the whole way from upload bytes to an answer, and allocating what a full
batch needs, so that a service that has just started weighs what it will weigh.
Does not know: how they are answered.

The sound is a wavering tone and the face a still one; what they mean to the model does not matter.
"""

import asyncio
import io
import tempfile
import wave
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final

import numpy as np

from app.engine.errors import DeadlinePassed, NothingUsable, ShortOfMemory, Unprocessable
from app.engine.predictor import Predictor, PreparedRequest
from app.uploads.form import RawForm
from model.errors import CheckpointError
from model.features.visual.openface import ACTION_UNIT_COLUMNS, ALL_COLUMNS
from model.modality import SUBSETS, Modality

RATE: Final = 16_000  # Hz
SECONDS: Final = 1.0
FRAMES: Final = 4
SPOOL_BYTES: Final = 2**20  # both stay in memory
SENTENCE: Final = "This is only a test."
LONG_SENTENCE: Final = "This is only a test, and it is as long as people's sentences are when they have a lot to say."


async def warm_up(predictor: Predictor, ask: Callable[[RawForm, bool], Awaitable[PreparedRequest]], crowd: int) -> None:
    """Have a predictor answer them, and remember one of each subset as known to work.

    Args:
        predictor: whose config says what a face has to hold.
        ask: has one answered, explained or not.
        crowd: sentences asked at once in the end.

    Raises:
        CheckpointError: it cannot answer one.
    """
    columns = ALL_COLUMNS if predictor.pipeline.config.visual.columns == "all" else ACTION_UNIT_COLUMNS
    good = []
    for subset, form in zip(SUBSETS, warm_up_forms(columns), strict=True):
        try:
            good.append(await ask(form, True))
        except (DeadlinePassed, NothingUsable, ShortOfMemory, Unprocessable) as error:
            raise CheckpointError(f"the weights fail on {subset.name}, which they must answer: {error}") from error
    predictor.remember(good)
    try:
        await asyncio.gather(*(ask(RawForm(text=LONG_SENTENCE.encode()), False) for _ in range(crowd)))
    except (DeadlinePassed, ShortOfMemory, Unprocessable) as error:
        raise CheckpointError(f"the weights fail on {crowd} sentences at once: {error}") from error


def warm_up_forms(columns: Sequence[str]) -> Iterator[RawForm]:
    """One form for each of the seven subsets; the face's CSV has `columns`. Each is closed after its turn."""
    sound, face = tone(), still_face(columns)
    for subset in SUBSETS:
        with (
            tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as audio,
            tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as openface,
        ):
            for file, content in ((audio, sound), (openface, face)):
                file.write(content)
                file.seek(0)
            yield RawForm(
                text=SENTENCE.encode() if Modality.TEXT in subset else None,
                audio=audio if Modality.AUDIO in subset else None,
                openface=openface if Modality.VISUAL in subset else None,
            )


def tone() -> bytes:
    """A WAV file of a wavering tone."""
    t = np.arange(int(RATE * SECONDS)) / RATE
    samples = 0.3 * np.sin(2 * np.pi * (220 * t + 3 * np.sin(2 * np.pi * 4 * t)))
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(RATE)
        writer.writeframes((samples * 32767).astype("<i2").tobytes())
    return file.getvalue()


def still_face(columns: Sequence[str]) -> bytes:
    """An OpenFace CSV of a face that does not move; every action unit occurs."""
    header = ["frame", "face_id", "timestamp", "confidence", "success", *columns]
    frames = range(1, FRAMES + 1)
    cells = ["1" if column.endswith("_c") else "0.5" for column in columns]
    rows = ([str(frame), "0", f"{frame / 30:.3f}", "0.98", "1", *cells] for frame in frames)
    return "".join(",".join(row) + "\n" for row in (header, *rows)).encode()
