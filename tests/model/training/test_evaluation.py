from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from model.modality import COMPLETE, SUBSETS, ModalitySet
from model.training.decision_table import DecisionTable, Item
from model.training.evaluation import corpora, diagrams, evaluate, patterns, steps
from model.training.key_missing import IncompleteCases, gate, key_missing
from model.training.missing_patterns import RatePatterns
from tests.support.predictor import CLASSES, ITEMS, A, Judged, Strongest, T, V, item


def decided(items: Sequence[Item] = ITEMS) -> DecisionTable:
    return DecisionTable(Judged(), items, len(CLASSES))


def alone(name: str, label: int, sign: int, origin: str) -> Item:
    """A voice without text and face."""
    voice = item(name, label, {A: sign})
    return Item(name, label, voice.utterance, origins={A: origin})


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


def test_scores_are_given_by_what_carries_the_label() -> None:
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


def test_default_rates_are_the_papers_and_repeat() -> None:
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


def test_corpora_of_one_modality_are_measured_separately_and_averaged() -> None:
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


def test_several_modalities_or_unknown_origins_give_no_corpora() -> None:
    assert corpora(decided()) is None
    assert corpora(decided([alone("a", 0, 0, "here"), item("b", 0, {A: 1})])) is None
    report = evaluate(Judged(), [alone("a", 0, 0, "here")], CLASSES)
    assert (report["steps"], report["key_missing"], report["gate"]) == ([], None, None)
    assert list(report["diagrams"]["corpora"]) == ["here"]


def test_diagrams_hold_bins_by_subset() -> None:
    table = decided()
    found = diagrams(table, None)
    assert list(found["reliability"]) == [subset.name for subset in SUBSETS]
    bins = found["reliability"]["audio"]
    assert [len(bins[name]) for name in ("count", "confidence", "accuracy")] == [15, 15, 15]
    at = bins["count"].index(4)
    assert (bins["confidence"][at], bins["accuracy"][at], sum(bins["count"])) == (0.8, 0.75, 4)
    assert found["corpora"] == {}
    assert "verdict" not in found


def test_the_whole_evaluation_holds_every_part() -> None:
    report, table = evaluate(Judged(), ITEMS, CLASSES, resamples=50), decided()
    incomplete = IncompleteCases.of(table)
    assert incomplete is not None
    assert report["patterns"] == patterns(table)
    assert report["steps"] == steps(table, 50)
    assert report["key_missing"] == key_missing(incomplete, 50)
    assert report["gate"] == gate(incomplete, 50)
    assert report["diagrams"] == diagrams(table, incomplete)


def test_items_without_a_modality_are_left_out_of_its_patterns() -> None:
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


def test_without_complete_items_there_are_no_verdict_and_gate_figures() -> None:
    report = evaluate(Strongest(), [item("a", 0, {T: 0}), item("b", 1, {T: 1, A: 1})], CLASSES)
    assert (report["key_missing"], report["gate"]) == (None, None)
    visual = report["patterns"]["visual"]
    assert (visual["accuracy"], visual["uar"], visual["log_loss"], visual["calibration_error"]) == (None,) * 4
    assert (visual["n"], visual["left_out"]) == (0, 2)
    assert "visual" not in report["diagrams"]["reliability"]
    assert "verdict" not in report["diagrams"]
    assert report["decided_by"] == {}


def test_scores_are_the_expected_value_of_the_distribution() -> None:
    items = [replace(item, score=score) for item, score in zip(ITEMS, (1.0, 1.0, 0.0, -1.0), strict=True)]
    report = evaluate(Strongest(), items, ("-1", "0", "1"), resamples=20)["scores"]
    assert report is not None
    assert list(report) == [subset.name for subset in SUBSETS]
    # Audio alone: decisions 1 2 1 0, each with probability 0.8 against 0.1 and 0.1, so 0, 0.7, 0 and -0.7.
    assert report["audio"]["mae"] == pytest.approx((1 + 0.3 + 0 + 0.3) / 4)
    assert report["audio"]["accuracy2_positive"] == pytest.approx(2 / 3)


def test_items_without_scores_have_no_score_figures() -> None:
    assert evaluate(Strongest(), ITEMS, CLASSES, resamples=20)["scores"] is None
