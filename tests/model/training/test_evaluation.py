from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from model.modality import COMPLETE, SUBSETS, ModalitySet, Utterance
from model.network.decision import Decision
from model.training.datasets.base import ActionUnitMeansSource, Example, Source, TextSource
from model.training.evaluation import (
    CURVE_POINTS,
    DecisionTable,
    Item,
    Predictor,
    Verdicts,
    corpora,
    diagrams,
    evaluate,
    gate,
    items_of,
    key_missing,
    patterns,
    steps,
)
from model.training.missing_patterns import RatePatterns
from model.types import FloatArray
from tests.support.predictor import CLASSES, ITEMS, A, Judged, Strongest, T, V, item


def decided(items: Sequence[Item] = ITEMS) -> DecisionTable:
    return DecisionTable(Judged(), items, len(CLASSES))


def verdict() -> dict[str, Any]:
    verdicts = Verdicts.of(decided())
    assert verdicts is not None
    return key_missing(verdicts)


def alone(name: str, label: int, sign: int, origin: str) -> Item:
    """A voice without text and face."""
    voice = item(name, label, {A: sign})
    return Item(name, label, voice.utterance, origins={A: origin})


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
    alone = ModalitySet.of(A)
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


def test_every_subset_has_recall_log_loss_calibration_and_confusion() -> None:
    report = patterns(decided())
    # Audio alone: decisions 1 2 1 0 for truth 2 2 1 0, each with probability 0.8 against 0.1 and 0.1.
    voice = report["audio"]
    assert voice["uar"] == pytest.approx((1 + 1 + 1 / 2) / 3)
    assert voice["log_loss"] == pytest.approx(-(3 * np.log(0.8) + np.log(0.1)) / 4)
    assert voice["calibration_error"] == pytest.approx(0.8 - 0.75)
    assert voice["confusion"] == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]


def test_the_log_loss_and_calibration_are_those_of_the_answer() -> None:
    # Without text the ensemble answers: 2 2 2 1 for truth 2 2 1 0.
    assert patterns(decided())["audio+visual"]["calibration_error"] == pytest.approx(0.8 - 0.5)


def test_adding_a_modality_is_a_step_with_its_difference() -> None:
    report = steps(decided())
    assert [(step["before"], step["after"]) for step in report[:2]] == [
        ("visual", "audio+visual"),
        ("audio", "audio+visual"),
    ]
    assert len(report) == 9
    assert {step["n"] for step in report} == {4}
    step = next(step for step in report if (step["before"], step["added"]) == ("audio", "text"))
    before, after = (1 + 2 / 3 + 2 / 3) / 3, (0 + 2 / 3 + 1) / 3
    assert (step["macro_f1_before"], step["macro_f1_after"]) == pytest.approx((before, after))
    assert step["difference"] == pytest.approx(after - before)
    assert step["low"] <= step["difference"] <= step["high"]
    assert step["lowers"]
    same = next(step for step in report if (step["before"], step["added"]) == ("text", "audio"))
    assert (same["difference"], same["low"], same["high"], same["lowers"]) == (0, 0, 0, False)


def test_steps_without_items_are_left_out() -> None:
    assert steps(decided([item("a", 0, {T: 0, A: 1}), item("b", 1, {V: 1})])) == [
        {
            "before": before, "after": "text+audio", "added": added, "n": 1, "macro_f1_before": before_f1,
            "macro_f1_after": 0.0, "difference": -before_f1, "low": -before_f1, "high": -before_f1,
            "lowers": bool(before_f1),
        }
        for before, added, before_f1 in (("audio", "text", 0.0), ("text", "audio", 1.0))
    ]  # fmt: skip


def test_corpora_of_one_modality_are_measured_apart_and_averaged() -> None:
    items = [alone("a", 0, 0, "here"), alone("b", 1, 2, "here"), alone("c", 2, 2, "there")]
    report = corpora(decided(items))
    assert report is not None
    assert list(report["by_corpus"]) == ["here", "there"]
    here, there = report["by_corpus"].values()
    assert (here["modality"], here["n"], here["uar"], here["accuracy"]) == ("audio", 2, 0.5, 0.5)
    assert here["confusion"] == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert there["log_loss"] == pytest.approx(-np.log(0.8))
    assert report["mean"]["uar"] == pytest.approx(0.75)
    assert report["mean"]["log_loss"] == pytest.approx((here["log_loss"] + there["log_loss"]) / 2)


def test_corpora_are_not_told_apart_where_items_have_several_modalities_or_no_origin() -> None:
    assert corpora(decided()) is None
    assert corpora(decided([alone("a", 0, 0, "here"), item("b", 0, {A: 1})])) is None
    report = evaluate(Judged(), [alone("a", 0, 0, "here")], CLASSES)
    assert (report["steps"], report["key_missing"], report["gate"]) == ([], None, None)
    assert list(report["diagrams"]["corpora"]) == ["here"]


def test_a_missing_modality_is_key_where_it_turned_a_right_decision() -> None:
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


def test_cases_with_one_and_two_missing_are_told_apart() -> None:
    report = verdict()
    one, two = report["one_missing"], report["two_missing"]
    assert (one["n"], one["positives"], one["detected"]) == (12, 1, 4)
    assert one["auroc"] == pytest.approx((8 + 3 / 2) / 11)
    assert (two["n"], two["positives"], two["detected"], two["recall"], two["precision"]) == (12, 2, 0, 0.0, None)


def test_a_change_of_the_decision_is_a_truth_of_its_own() -> None:
    changes = verdict()["changes"]
    # `text-carries` and `wrong` change without text.
    assert (changes["positives"], changes["precision"], changes["recall"]) == (6, 2 / 4, 2 / 6)
    assert (changes["true_share"], changes["ratio"]) == pytest.approx((6 / 24, 4 / 6))
    assert changes["calibration_error"] == pytest.approx((4 * (0.9 - 2 / 4) + 8 * 0.1 + 12 * abs(0.2 - 4 / 12)) / 24)


def test_the_score_is_compared_with_simpler_ones() -> None:
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


def test_the_modality_named_first_is_right_where_it_alone_gives_the_complete_decision() -> None:
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


def test_decisions_without_a_calibrated_verdict_are_measured_by_what_they_have() -> None:
    report = evaluate(Strongest(), ITEMS, CLASSES)["key_missing"]
    assert report is not None
    assert (report["by_modality"], report["first_named"]["all"]["n"]) == ({}, 0)
    assert report["scores"]["disagreement"] == verdict()["scores"]["disagreement"]


def test_gates_are_compared_with_never_and_always_taking_the_ensemble() -> None:
    report = gate(decided())
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


def test_diagrams_hold_bins_and_curves() -> None:
    table = decided()
    found = diagrams(table, Verdicts.of(table))
    assert list(found["reliability"]) == [subset.name for subset in SUBSETS]
    bins = found["reliability"]["audio"]
    assert [len(bins[name]) for name in ("count", "confidence", "accuracy")] == [15, 15, 15]
    at = bins["count"].index(4)
    assert (bins["confidence"][at], bins["accuracy"][at], sum(bins["count"])) == (0.8, 0.75, 4)
    assert found["corpora"] == {}
    key = found["verdict"]["key"]
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
    table = DecisionTable(Random(), items, len(CLASSES))
    curve = diagrams(table, Verdicts.of(table))["verdict"]["key"]["precision_recall"]["score"]
    assert len(curve["recall"]) == CURVE_POINTS
    assert (curve["recall"][0], curve["recall"][-1]) == (pytest.approx(1 / 300, abs=1e-4), 1.0)


def test_parts_are_measured_alone_as_in_the_whole() -> None:
    report, table = evaluate(Judged(), ITEMS, CLASSES, resamples=50), decided()
    verdicts = Verdicts.of(table)
    assert verdicts is not None
    assert report["patterns"] == patterns(table)
    assert report["steps"] == steps(table, 50)
    assert report["key_missing"] == key_missing(verdicts, 50)
    assert report["gate"] == gate(table, 50)


def test_both_paths_are_asked_for_only_where_the_gate_is_measured() -> None:
    asked: list[tuple[str, bool]] = []

    class Listening(Judged):
        def decide(self, utterances: Sequence[Utterance], *, both_paths: bool = False) -> Sequence[Decision]:
            asked.extend((utterance.presence.name, both_paths) for utterance in utterances)
            return super().decide(utterances, both_paths=both_paths)

    DecisionTable(Listening(), [ITEMS[0], item("faceless", 1, {T: 1, A: 1})], len(CLASSES))
    assert ("text+audio+visual", False) in asked
    assert sorted(both for name, both in asked if name == "text+audio") == [False, True]


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
    assert report["key_missing"]["n"] == 24


def test_a_corpus_without_complete_items_has_neither_detector_nor_gate_report() -> None:
    report = evaluate(Strongest(), [item("a", 0, {T: 0}), item("b", 1, {T: 1, A: 1})], CLASSES)
    assert (report["key_missing"], report["gate"]) == (None, None)
    visual = report["patterns"]["visual"]
    assert (visual["accuracy"], visual["uar"], visual["log_loss"], visual["calibration_error"]) == (None,) * 4
    assert (visual["n"], visual["left_out"]) == (0, 2)
    assert "visual" not in report["diagrams"]["reliability"]
    assert "verdict" not in report["diagrams"]
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


def test_a_label_the_predictor_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="label 'odd' of x is not among the classes"):
        items_of([Example("x", "odd", {T: TextSource("a")})], {}, CLASSES)
