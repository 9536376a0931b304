from pathlib import Path

import numpy as np
import pytest

from app.transcription import recogniser as module
from app.transcription.recogniser import FILES, Recogniser, model_folder
from app.transcription.transcription import Transcription
from model.errors import CheckpointError, ConfigError
from model.features.audio import SAMPLE_RATE
from model.types import FloatArray


def test_a_spoken_sentence_is_recognised(found: Transcription, sentence: FloatArray) -> None:
    assert found.text.endswith("talking by the door")  # without the model's final period
    assert (found.language, found.refused, found.truncated) == ("en", None, False)
    assert 0.4 < found.confidence <= 1
    assert found.seconds == sentence.size / SAMPLE_RATE


def test_words_have_times_within_the_sound(found: Transcription) -> None:
    assert " ".join(word.word for word in found.words) == found.text
    times = [time for word in found.words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] <= found.seconds
    assert all(0 <= word.probability <= 1 for word in found.words)


def test_the_same_sound_gives_the_same_words(
    recogniser: Recogniser, sentence: FloatArray, found: Transcription
) -> None:
    assert recogniser(sentence) == found


@pytest.mark.parametrize("seconds", [0, 0.01, 2])
def test_no_words_are_found_in_sound_without_speech(recogniser: Recogniser, seconds: float) -> None:
    noise = np.random.default_rng(1).normal(0, 0.05, round(seconds * SAMPLE_RATE)).astype(np.float32)
    found = recogniser(noise)
    assert (found.text, found.words, found.confidence, found.refused) == ("", (), 0.0, "no_speech")


def test_only_the_beginning_of_a_long_sound_is_transcribed(recogniser: Recogniser, sentence: FloatArray) -> None:
    found = recogniser(np.concatenate([np.zeros(4 * SAMPLE_RATE, dtype=np.float32), sentence]))
    assert (found.text, found.seconds, found.truncated) == ("", 4.0, True)


def test_speech_longer_than_the_models_input_is_transcribed_in_order(sentence: FloatArray) -> None:
    recogniser = Recogniser.load(model_folder(None), threads=1, max_seconds=60.0)
    found = recogniser(np.tile(sentence, 25))
    times = [time for word in found.words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert 36 < times[-1] <= found.seconds == 25 * sentence.size / SAMPLE_RATE
    assert found.text.count("talking") > 15


@pytest.mark.parametrize("missing", FILES)
def test_a_folder_without_a_file_is_refused(tmp_path: Path, missing: str) -> None:
    for name in FILES:
        if name != missing:
            (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(CheckpointError, match=f"has no {missing}") as caught:
        model_folder(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_folder_of_another_model_is_refused(tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(CheckpointError, match="cannot be loaded") as caught:
        Recogniser.load(model_folder(tmp_path), threads=1, max_seconds=1.0)
    assert str(tmp_path) in str(caught.value)


def test_without_the_extra_there_is_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    assert not module.installed()
    with pytest.raises(ConfigError, match="extra asr") as caught:
        model_folder(None)
    assert "faster-whisper" in str(caught.value)
