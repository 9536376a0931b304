from pathlib import Path

import numpy as np
import pytest

from app.recordings.levels import SpeakerLevels
from benchmarks.speaker_levels import Clip, figures, orders, relative, speaker_of
from model.modality import COMPLETE, Modality
from model.training.datasets.base import Signal, SoundSource, Source
from model.training.datasets.recordings import Recording
from model.training.decision_table import DecisionTable
from model.types import FloatArray
from tests.support.predictor import CLASSES, ITEMS, Strongest

SOURCES = [SoundSource(Path(f"{n}.wav")) for n in range(6)]
FEATURES: dict[Source, FloatArray] = {source: np.full((1, 2), 1.0 + n, np.float32) for n, source in enumerate(SOURCES)}
CLIPS = [Clip(source, Modality.AUDIO, "Anna") for source in SOURCES[:4]]


def test_only_clips_of_a_speaker_are_made_relative() -> None:
    found = relative(FEATURES, CLIPS, SpeakerLevels(share=1.0, prior=0.0))
    assert [found[source][0, 0] for source in SOURCES] == pytest.approx([0.0, 0.5, 1.0, 1.5, 5.0, 6.0])


def test_orders_differ_and_are_reproducible() -> None:
    first, second = list(orders(CLIPS, 2)), list(orders(CLIPS, 2))
    assert first == second
    assert first[0] != first[1]
    assert all(set(order) == set(CLIPS) for order in first)


@pytest.mark.parametrize(
    ("name", "speaker", "expected"),
    [("ravdess/03-01-05-01-02-02-19", None, "19"), ("voices/a.flac", "nemo_1", "nemo_1"), ("stills/a-19", None, None)],
)
def test_the_speaker_of_an_acted_face_is_its_actor(name: str, speaker: str | None, expected: str | None) -> None:
    signal = Signal(Modality.VISUAL, SOURCES[0], "ravdess", "neutral")
    assert speaker_of(Recording(name, "val", signal, speaker)) == expected


def test_every_subset_has_its_figures() -> None:
    found, predicted = figures(DecisionTable(Strongest(), ITEMS, len(CLASSES)))
    assert found[f"{COMPLETE.name}_macro_f1"] == pytest.approx(0.6, abs=0.2)
    assert len(predicted) == 7
    assert predicted[COMPLETE.name].shape == (len(ITEMS),)
    assert 0 <= found["key_missing_auroc"] <= 1
