"""A recogniser and a transcription process, shared by the tests that do not damage them."""

from collections.abc import AsyncIterator

import pytest

from app.settings import Settings
from app.transcription.recogniser import Recogniser, model_folder
from app.transcription.transcriber import TranscriptionPool
from app.transcription.transcription import Transcription
from model.types import FloatArray
from tests.support.speech import speak


@pytest.fixture(scope="session")
def recogniser() -> Recogniser:
    return Recogniser.load(model_folder(None), threads=1, max_seconds=4.0)


@pytest.fixture(scope="session")
def sentence() -> FloatArray:
    """Kids are talking by the door, in 1.7 s."""
    return speak("Kids are talking by the door.")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def found(recogniser: Recogniser, sentence: FloatArray) -> Transcription:
    """What the recogniser makes of the sentence."""
    return recogniser(sentence)


@pytest.fixture(scope="module")
async def transcriber(anyio_backend: str) -> AsyncIterator[TranscriptionPool]:
    pool = TranscriptionPool(Settings(transcribe_timeout=60.0, transcribe_niceness=1))
    await pool.start()
    yield pool
    await pool.stop()
