from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from model.modality import COMPLETE, SUBSETS, Presence
from model.training.corpora.base import ActionUnitMeansSource, Example, Source, TextSource
from model.training.evaluation import Predictor, evaluate, items_of
from model.training.patterns import RatePatterns
from tests.support.predictor import CLASSES, ITEMS, A, Strongest, T, V, item


def test_the_predictor_protocol_is_met_by_decisions_of_the_network() -> None:
    predictor: Predictor = Strongest()
    assert predictor.decide([ITEMS[0].utterance])[0].label_index == 2


def test_every_pattern_is_scored_over_every_item() -> None:
    report = evaluate(Strongest(), ITEMS, CLASSES)
    assert list(report["patterns"]) == [subset.name for subset in SUBSETS]
    assert (report["n"], report["classes"]) == (4, list(CLASSES))
    # Complete: decisions 2 2 1 1 for truth 2 2 1 0.
    whole = report["patterns"]["text+audio+visual"]
    assert whole["accuracy"] == pytest.approx(3 / 4)
    assert whole["macro_f1"] == pytest.approx((0 + 2 / 3 + 1) / 3)
    # Audio alone: decisions 1 2 1 0 for truth 2 2 1 0.
    alone = report["patterns"]["audio"]
    assert alone["accuracy"] == pytest.approx(3 / 4)
    assert alone["macro_f1"] == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)
    # Without text, the ensemble adds one: 2 2 2 1.
    assert report["patterns"]["audio+visual"]["accuracy"] == pytest.approx(2 / 4)
    assert {scores["n"] for scores in report["patterns"].values()} == {4}


def test_decisions_are_broken_down_by_what_carries_the_label() -> None:
    report = evaluate(Strongest(), ITEMS, CLASSES)["decided_by"]
    assert list(report) == ["congruent", "text", "voice+face"]
    assert report["text"]["text+audio+visual"] == {"accuracy": 1.0, "macro_f1": 1.0, "n": 1}
    assert report["text"]["audio"] == {"accuracy": 0.0, "macro_f1": 0.0, "n": 1}
    assert report["congruent"]["visual"]["n"] == 2
    assert report["voice+face"]["audio"]["accuracy"] == 1.0


def test_rates_are_scored_by_the_patterns_given() -> None:
    alone = Presence.of(A)
    patterns = RatePatterns(0, tuple(i.id for i in ITEMS), {0.0: (COMPLETE,) * 4, 0.5: (alone, alone, COMPLETE, alone)})
    rates = evaluate(Strongest(), ITEMS, CLASSES, rate_patterns=patterns)["rates"]
    assert list(rates) == ["0.0", "0.5"]
    assert rates["0.0"]["accuracy"] == pytest.approx(3 / 4)
    assert rates["0.5"] == {
        "accuracy": pytest.approx(3 / 4),
        "macro_f1": pytest.approx((1 + 2 / 3 + 2 / 3) / 3),
        "n": 4,
    }


def test_rates_are_the_papers_when_none_are_given_and_repeat() -> None:
    first = evaluate(Strongest(), ITEMS, CLASSES)["rates"]
    assert list(first) == ["0.0", "0.1", "0.2", "0.3", "0.4", "0.5"]
    assert evaluate(Strongest(), ITEMS, CLASSES)["rates"] == first


def test_rates_drawn_for_other_items_are_refused() -> None:
    patterns = RatePatterns.draw(["else"], [COMPLETE], seed=0)
    with pytest.raises(ValueError, match="drawn for other items"):
        evaluate(Strongest(), ITEMS, CLASSES, rate_patterns=patterns)


def test_nothing_to_evaluate_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate(Strongest(), [], CLASSES)


def test_a_missing_modality_is_key_where_it_turned_a_right_decision() -> None:
    report = evaluate(Strongest(), ITEMS, CLASSES)["key_missing"]
    assert report is not None
    # True only for `text-carries` without text: 2 becomes 1. `wrong` without text changes too, but was not right.
    # Detected wherever text is missing, all four times, with the highest score.
    assert (report["n"], report["positives"], report["detected"]) == (12, 1, 4)
    assert report["precision"] == pytest.approx(1 / 4)
    assert report["recall"] == 1.0
    assert report["f1"] == pytest.approx(2 / 5)
    assert report["auroc"] == pytest.approx((8 + 3 / 2) / 11)
    assert report["by_pattern"]["audio+visual"]["positives"] == 1
    assert report["by_pattern"]["text+audio"]["auroc"] is None
    assert report["by_decided_by"]["text"]["precision"] == 1.0
    assert report["by_decided_by"]["congruent"] == {
        "n": 6,
        "positives": 0,
        "detected": 2,
        "precision": 0.0,
        "recall": None,
        "f1": 0.0,
        "auroc": None,
    }


def test_the_gate_is_compared_with_both_paths() -> None:
    report = evaluate(Strongest(), ITEMS, CLASSES)["gate"]
    assert report is not None
    assert (report["n"], report["inconsistent"], report["share"]) == (12, 4, pytest.approx(1 / 3))
    # Inconsistent are the four without text: transformer 1 2 1 0, ensemble 2 2 2 1, truth 2 2 1 0.
    there = {path: scores["accuracy"] for path, scores in report["on_inconsistent"].items()}
    assert there == {"gated": 2 / 4, "transformer": 3 / 4, "ensemble": 2 / 4}
    # Everywhere else the transformer path answers, 2 2 1 1 twice, against the ensemble's 2 2 2 2.
    overall = {path: scores["accuracy"] for path, scores in report["on_all"].items()}
    assert overall == pytest.approx({"gated": 8 / 12, "transformer": 9 / 12, "ensemble": 6 / 12})
    assert report["by_pattern"]["audio+visual"]["share"] == 1.0
    assert report["by_pattern"]["text+audio"]["inconsistent"] == 0
    assert report["by_pattern"]["text+audio"]["ensemble"] == {"accuracy": None, "macro_f1": None, "n": 0}
    versus = report["gated_minus"]["transformer"]["accuracy"]
    assert versus["difference"] == pytest.approx(-1 / 12)
    assert versus["low"] <= versus["difference"] <= versus["high"]
    macro = {path: scores["macro_f1"] for path, scores in report["on_all"].items()}
    assert macro["gated"] is not None
    assert report["gated_minus"]["ensemble"]["macro_f1"]["difference"] == pytest.approx(
        macro["gated"] - macro["ensemble"]
    )


def test_a_predictor_with_one_path_has_no_gate_report() -> None:
    assert evaluate(Strongest(with_paths=False), ITEMS, CLASSES)["gate"] is None


def test_items_that_lack_a_modality_are_left_out_of_patterns_that_need_it_and_counted() -> None:
    items = [*ITEMS, item("no-face", 1, {T: 1, A: 1}), item("only-face", 1, {V: 1})]
    report = evaluate(Strongest(), items, CLASSES)
    counts = {name: (scores["n"], scores["left_out"]) for name, scores in report["patterns"].items()}
    assert counts == {
        "text+audio+visual": (4, 2),
        "text+audio": (5, 1),
        "text+visual": (4, 2),
        "audio+visual": (4, 2),
        "text": (5, 1),
        "audio": (5, 1),
        "visual": (5, 1),
    }
    assert {scores["n"] for scores in report["rates"].values()} == {6}
    assert report["key_missing"] is not None
    assert report["key_missing"]["n"] == 12


def test_a_corpus_without_complete_items_has_neither_detector_nor_gate_report() -> None:
    report = evaluate(Strongest(), [item("a", 0, {T: 0}), item("b", 1, {T: 1, A: 1})], CLASSES)
    assert (report["key_missing"], report["gate"]) == (None, None)
    assert report["patterns"]["visual"] == {"accuracy": None, "macro_f1": None, "n": 0, "left_out": 2}
    assert report["decided_by"] == {}


def test_each_case_is_decided_once_and_counted_for_the_progress_bar() -> None:
    predictor = Strongest()
    advanced: list[int] = []
    evaluate(predictor, ITEMS, CLASSES, batch_size=3, advance=advanced.append)
    assert predictor.decided == 4 * 7
    assert sum(advanced) == 4 * 7
    assert max(advanced) == 3


def test_items_hold_the_features_that_are_there() -> None:
    face = ActionUnitMeansSource("c", (1.0,))
    examples = [
        Example("both", "positive", {T: TextSource("a"), V: face}, decided_by="text"),
        Example("faceless", "negative", {T: TextSource("b"), V: ActionUnitMeansSource("d", (2.0,))}),
        Example("nothing", "negative", {V: ActionUnitMeansSource("d", (2.0,))}),
    ]
    row: npt.NDArray[np.float32] = np.ones((1, 2), dtype=np.float32)
    features: Mapping[Source, Any] = {TextSource("a"): row, TextSource("b"): row, face: row}
    items = items_of(examples, features, CLASSES)
    assert [(i.id, i.label, i.utterance.presence.name, i.decided_by) for i in items] == [
        ("both", 2, "text+visual", "text"),
        ("faceless", 0, "text", None),
    ]


def test_a_label_the_predictor_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="label 'odd' of x is not among the classes"):
        items_of([Example("x", "odd", {T: TextSource("a")})], {}, CLASSES)
