from pathlib import Path

from app.engine.predictor import Predictor
from benchmarks.in_process import decisions_of_workers
from model.modality import Modality, ModalitySet


def test_one_and_several_workers_are_measured_in_turn(tiny_weights: Path) -> None:
    predictor = Predictor.load(tiny_weights, "cpu")
    rates = decisions_of_workers(predictor, ModalitySet.of(Modality.TEXT), 0.01, 2)
    assert set(rates) == {1, 2}
    assert min(rates.values()) > 0
