"""Jobs of the transcription process, done in this process; `test_transcriber` does them in one of its own."""

import json
from dataclasses import asdict

import pytest

from app.transcription.recogniser import Recogniser
from app.transcription.transcription import ADAPTER, Transcription
from app.transcription.worker import perform
from model.features.audio.loading import SoundLimits
from model.types import FloatArray
from tests.support.sound import encode

FILE = {"kind": "file", "limits": asdict(SoundLimits())}


def test_samples_and_their_file_give_the_same_words(
    recogniser: Recogniser, sentence: FloatArray, found: Transcription
) -> None:
    replies = [
        perform(recogniser, {"kind": "samples"}, sentence.tobytes()),
        perform(recogniser, FILE, encode(sentence, "flac")),
    ]
    samples, file = (ADAPTER.validate_json(content) for _, content in replies)
    assert [message for message, _ in replies] == 2 * [{"kind": "transcription"}]
    assert samples.text == file.text == found.text


@pytest.mark.parametrize(
    ("content", "kind"), [(b"no sound", "UnsupportedFormat"), (b"RIFF\4\0\0\0WAVE", "CorruptModality")]
)
def test_a_file_that_is_not_accepted_is_an_error(recogniser: Recogniser, content: bytes, kind: str) -> None:
    message, rest = perform(recogniser, FILE, content)
    assert (message["kind"], rest) == (kind, b"")
    assert json.dumps(message)
