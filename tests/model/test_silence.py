"""Silence around a clip does not change the prediction of the shipped weights."""

from collections.abc import Callable

import numpy as np
import pytest

from app.settings import DEFAULT_WEIGHTS
from model.features.audio import SAMPLE_RATE
from model.features.audio.conditioning import speech_span
from model.features.audio.loading import read_sound
from model.modality import Modality, Utterance
from model.pipeline import Pipeline
from model.training.datasets import ravdess
from model.training.datasets.base import Example, SoundSource
from model.training.datasets.recordings import VoicesCorpus
from model.training.metrics import macro_f1
from model.types import FloatArray
from tests.support.corpus import real_data
from tests.support.sound import audio_slots

TOLERANCE = 0.02  # of macro-F1


def padded(seconds: float) -> Callable[[FloatArray], FloatArray]:
    return lambda waveform: np.pad(waveform, round(seconds * SAMPLE_RATE))


def trimmed(waveform: FloatArray) -> FloatArray:
    """The speech without the silence around it, at the clip's own level."""
    begin, end = speech_span(waveform)
    return waveform[begin:end]


@pytest.fixture(scope="module")
def clips() -> list[tuple[Example, FloatArray]]:
    examples = [e for e in VoicesCorpus(real_data()).examples("test") if e.origins[Modality.AUDIO] == ravdess.ORIGIN]
    sources = [example.sources[Modality.AUDIO] for example in examples]
    return [
        (example, read_sound(source.path)[0])
        for example, source in zip(examples, sources, strict=True)
        if isinstance(source, SoundSource)
    ]


def test_padding_and_trimming_hardly_change_macro_f1(clips: list[tuple[Example, FloatArray]]) -> None:
    pipeline = Pipeline.load(DEFAULT_WEIGHTS, "cpu")
    classes = pipeline.config.classes
    truth = np.array([classes.index(example.label) for example, _ in clips])

    def score(change: Callable[[FloatArray], FloatArray]) -> float:
        features = [audio_slots(pipeline.extractor, change(waveform)).array for _, waveform in clips]
        decided = pipeline.decide([Utterance({Modality.AUDIO: x}) for x in features])
        return macro_f1(truth, np.array([d.label_index for d in decided]))

    as_recorded = score(lambda waveform: waveform)
    assert as_recorded > 0.6
    for change in (padded(2.0), trimmed):
        assert score(change) == pytest.approx(as_recorded, abs=TOLERANCE)
