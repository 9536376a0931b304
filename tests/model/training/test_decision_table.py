from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from model.modality import COMPLETE, ModalitySet, Utterance
from model.network.decision import Decision
from model.training import decision_table
from model.training.datasets.base import ActionUnitMeansSource, Example, Source, TextSource
from model.training.decision_table import DecisionTable, Predictor, items_of
from model.types import FloatArray
from tests.support.predictor import CLASSES, ITEMS, A, Judged, Strongest, T, V, item


def test_decisions_of_the_network_meet_the_predictor_protocol() -> None:
    predictor: Predictor = Strongest()
    assert predictor.decide([ITEMS[0].utterance])[0].label_index == 2


def test_both_paths_are_computed_only_where_the_gate_is_measured() -> None:
    calls: list[tuple[str, bool]] = []

    class Recording(Judged):
        def decide(self, utterances: Sequence[Utterance], *, both_paths: bool = False) -> Sequence[Decision]:
            calls.extend((utterance.presence.name, both_paths) for utterance in utterances)
            return super().decide(utterances, both_paths=both_paths)

    DecisionTable(Recording(), [ITEMS[0], item("faceless", 1, {T: 1, A: 1})], len(CLASSES))
    assert ("text+audio+visual", False) in calls
    assert sorted(both for name, both in calls if name == "text+audio") == [False, True]


def test_each_case_is_decided_once_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision_table, "BATCH_SIZE", 3)
    predictor = Strongest()
    table = DecisionTable(predictor, ITEMS, len(CLASSES))
    assert predictor.decided == 4 * 7
    assert predictor.calls == 2 * 7
    assert table.cases(COMPLETE) == [(index, COMPLETE) for index in range(4)]


def test_arrays_hold_truth_prediction_and_probabilities_of_cases() -> None:
    table = DecisionTable(Strongest(), ITEMS, len(CLASSES))
    truth, predicted, probabilities = table.arrays([(0, ModalitySet.of(A)), (3, COMPLETE)])
    assert (truth.tolist(), predicted.tolist()) == ([2, 0], [1, 1])
    assert probabilities.tolist() == [[0.1, 0.8, 0.1], [0.1, 0.8, 0.1]]
    assert table.arrays([])[2].shape == (0, 3)


def test_items_hold_the_features_that_exist() -> None:
    face = ActionUnitMeansSource("c", (1.0,))
    examples = [
        Example("both", "positive", {T: TextSource("a"), V: face}, decided_by="text", origins={T: "meld", V: "raf"}),
        Example("faceless", "negative", {T: TextSource("b"), V: ActionUnitMeansSource("d", (2.0,))}),
        Example("nothing", "negative", {V: ActionUnitMeansSource("d", (2.0,))}),
    ]
    row: FloatArray = np.ones((1, 2), dtype=np.float32)
    features: Mapping[Source, Any] = {TextSource("a"): row, TextSource("b"): row, face: row}
    items = items_of(examples, features, CLASSES)
    assert [(i.id, i.label, i.utterance.presence.name, i.decided_by) for i in items] == [
        ("both", 2, "text+visual", "text"),
        ("faceless", 0, "text", None),
    ]
    assert items[0].origins == {T: "meld", V: "raf"}


def test_a_label_outside_the_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="label 'odd' of x is not among the classes"):
        items_of([Example("x", "odd", {T: TextSource("a")})], {}, CLASSES)
