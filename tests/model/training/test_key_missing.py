from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from model.modality import SUBSETS, Utterance
from model.network.decision import Decision
from model.training.decision_table import DecisionTable, Item, Predictor
from model.training.key_missing import IncompleteCases, gate, key_missing, verdict_diagrams
from model.training.metrics import CURVE_POINTS
from tests.support.predictor import CLASSES, ITEMS, A, Judged, Strongest, T, V, item

JUDGED = Judged()


def cases(items: Sequence[Item] = ITEMS, predictor: Predictor = JUDGED) -> IncompleteCases:
    found = IncompleteCases.of(DecisionTable(predictor, items, len(CLASSES)))
    assert found is not None
    return found


def verdict() -> dict[str, Any]:
    return key_missing(cases())


def test_a_modality_is_key_if_giving_it_corrects_the_prediction() -> None:
    report = verdict()
    # Without text, 2 becomes 1 for `text-carries`, whatever else is missing: three true cases. `wrong` changes too, but
    # was not right. Detected wherever text alone is missing, all four times, with a score of 0.9; else the score is 0.1
    # for one missing and 0.2 for two.
    assert (report["n"], report["positives"], report["detected"]) == (24, 3, 4)
    assert report["precision"] == pytest.approx(1 / 4)
    assert report["recall"] == pytest.approx(1 / 3)
    assert report["f1"] == pytest.approx(2 / 7)
    assert report["auroc"] == pytest.approx((18 + 3 / 2 + 2 * (8 + 10 / 2)) / (3 * 21))
    assert report["average_precision"] == pytest.approx((1 / 4 + 2 * 3 / 16) / 3)
    assert (report["detected_share"], report["true_share"], report["ratio"]) == pytest.approx((4 / 24, 3 / 24, 4 / 3))
    assert report["calibration_error"] == pytest.approx((4 * (0.9 - 1 / 4) + 8 * 0.1 + 12 * abs(0.2 - 2 / 12)) / 24)
    assert report["by_pattern"]["audio+visual"]["positives"] == 1
    assert report["by_pattern"]["text+audio"]["auroc"] is None
    assert report["by_decided_by"]["text"]["precision"] == 1.0
    part = report["by_decided_by"]["congruent"]
    assert (part["n"], part["positives"], part["detected"], part["recall"], part["ratio"]) == (12, 0, 2, None, None)
    assert part["scores"]["score"] == {"auroc": None, "average_precision": None}


def test_cases_with_one_and_two_missing_are_measured_separately() -> None:
    report = verdict()
    one, two = report["one_missing"], report["two_missing"]
    assert (one["n"], one["positives"], one["detected"]) == (12, 1, 4)
    assert one["auroc"] == pytest.approx((8 + 3 / 2) / 11)
    assert (two["n"], two["positives"], two["detected"], two["recall"], two["precision"]) == (12, 2, 0, 0.0, None)


def test_changes_of_the_prediction_are_measured_too() -> None:
    changes = verdict()["changes"]
    # `text-carries` and `wrong` change without text.
    assert (changes["positives"], changes["precision"], changes["recall"]) == (6, 2 / 4, 2 / 6)
    assert (changes["true_share"], changes["ratio"]) == pytest.approx((6 / 24, 4 / 6))
    assert changes["calibration_error"] == pytest.approx((4 * (0.9 - 2 / 4) + 8 * 0.1 + 12 * abs(0.2 - 4 / 12)) / 24)


def test_the_score_is_compared_with_simpler_scores() -> None:
    report = verdict()
    scores = report["scores"]
    assert list(scores) == ["score", "rule", "one_minus_max", "entropy", "disagreement"]
    assert scores["score"]["auroc"] == report["auroc"]
    assert scores["rule"]["auroc"] == pytest.approx((18 + 3 / 2 + 2 * 18 / 2) / (3 * 21))
    # The answers are equally sure everywhere.
    assert scores["one_minus_max"]["auroc"] == scores["entropy"]["auroc"] == 0.5
    # Votes disagree where what is present votes for less than 2: in all true cases, and in 12 − 3 + … false ones.
    agree = sum(max(int(i.utterance.features[m][0, 0]) for m in kept) == 2 for i in ITEMS for kept in SUBSETS[1:])
    assert scores["disagreement"]["auroc"] == pytest.approx((agree + (21 - agree) / 2) / 21)
    for part in (report, report["one_missing"], report["two_missing"], report["changes"]):
        interval = part["score_minus_one_minus_max"]["auroc"]
        assert interval["difference"] == pytest.approx(
            part["scores"]["score"]["auroc"] - part["scores"]["one_minus_max"]["auroc"]
        )
        assert interval["low"] <= interval["difference"] <= interval["high"]


def test_the_first_name_is_right_if_it_alone_gives_the_complete_prediction() -> None:
    named = verdict()["first_named"]
    # True with two missing: `text-carries` with its voice or its face alone. Only the text decides.
    assert (named["n"], named["neither"], named["either"], named["both"]) == (2, 0, 2, 0)
    assert named["reported"] == {"n": 0, "right": 0, "share": None, "chance": None}
    assert named["all"] == named["decidable"] == {"n": 2, "right": 2, "share": 1.0, "chance": 0.5}


def test_each_missing_modality_has_its_own_calibration() -> None:
    by_modality = verdict()["by_modality"]
    # Giving the text alone changes two of four items with the voice, the face or both; voice and face change nothing.
    assert by_modality["text"] == {
        "n": 12,
        "mean_score": pytest.approx(0.6),
        "true_share": 0.5,
        "auroc": 0.5,
        "calibration_error": pytest.approx(0.1),
    }
    assert (by_modality["audio"]["auroc"], by_modality["audio"]["true_share"]) == (None, 0.0)


def test_uncalibrated_decisions_are_measured_without_scores_by_modality() -> None:
    report = key_missing(cases(predictor=Strongest()))
    assert (report["by_modality"], report["first_named"]["all"]["n"]) == ({}, 0)
    assert report["scores"]["disagreement"] == verdict()["scores"]["disagreement"]


def test_gates_are_compared_with_never_and_always_using_the_ensemble() -> None:
    report = gate(cases())
    assert report is not None
    assert report["n"] == 24
    gates = report["gates"]
    # The ensemble is taken for the four without text: 2 2 2 1 instead of 1 2 1 0, for truth 2 2 1 0. Everywhere the
    # transformer path is right in three of four, the ensemble in two.
    assert {name: g["share"] for name, g in gates.items()} == pytest.approx(
        {"answer": 1 / 6, "rule": 1 / 6, "score": 1 / 6, "never": 0, "always": 1}
    )
    assert {name: g["accuracy"] for name, g in gates.items()} == pytest.approx(
        {"answer": 17 / 24, "rule": 17 / 24, "score": 17 / 24, "never": 18 / 24, "always": 12 / 24}
    )
    there = gates["rule"]["where_used"]
    assert (there["gate"]["accuracy"], there["never"]["accuracy"], there["gate"]["n"]) == (2 / 4, 3 / 4, 4)
    assert "minus_never" not in gates["never"]
    versus = gates["rule"]["minus_never"]["accuracy"]
    assert versus["difference"] == pytest.approx(-1 / 24)
    assert versus["low"] <= versus["difference"] <= versus["high"]
    macro = gates["score"]["minus_always"]["macro_f1"]["difference"]
    assert macro == pytest.approx(gates["score"]["macro_f1"] - gates["always"]["macro_f1"])
    assert report["one_missing"]["score"]["share"] == pytest.approx(1 / 3)
    assert report["two_missing"]["score"]["accuracy"] == report["two_missing"]["never"]["accuracy"]
    assert report["by_pattern"]["audio+visual"]["rule"]["accuracy"] == 2 / 4


def test_diagrams_hold_bins_and_curves_of_the_score() -> None:
    key = verdict_diagrams(cases())["key"]
    assert key["precision_recall"]["score"] == {
        "recall": [0.3333, 1.0],
        "precision": [0.25, 0.1875],
        "threshold": [0.9, 0.2],
    }
    assert key["reported"] == {"precision": 1 / 4, "recall": pytest.approx(1 / 3)}
    assert sum(key["calibration"]["count"]) == 24


def test_curves_keep_few_points_and_end_at_full_recall() -> None:
    rng = np.random.default_rng(0)

    class Random(Judged):
        def _decide(self, utterance: Utterance, both_paths: bool) -> Decision:
            return replace(super()._decide(utterance, both_paths), key_score=float(rng.random()))

    items = [item(str(n), 2, {T: 2, A: 1, V: 1}) for n in range(100)]
    curve = verdict_diagrams(cases(items, Random()))["key"]["precision_recall"]["score"]
    assert len(curve["recall"]) == CURVE_POINTS
    assert (curve["recall"][0], curve["recall"][-1]) == (pytest.approx(1 / 300, abs=1e-4), 1.0)


def test_a_predictor_with_one_path_has_no_gate_figures() -> None:
    assert gate(cases(predictor=Strongest(with_paths=False))) is None


def test_without_complete_items_there_are_no_cases() -> None:
    assert IncompleteCases.of(DecisionTable(JUDGED, [item("a", 0, {T: 0, A: 1})], len(CLASSES))) is None
