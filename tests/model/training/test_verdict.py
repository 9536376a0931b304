"""Fit of the verdict: cases, probabilities and threshold."""

import copy

import numpy as np
import pytest
import torch

from model.modality import SUBSETS, ModalitySet
from model.network.decision import argmax
from model.network.reliability import Reliability, Verdict, provided_sets, verdict_size
from model.training.crossfit import CrossFitPart, decide_subsets
from model.training.evaluate_split import NetworkPredictor
from model.training.metrics import auroc
from model.training.reliability import fit_reliability
from model.training.verdict import VerdictDataset, choose_threshold, fit_verdict, verdict_dataset
from tests.support.training import CASES, CONFIG, CROSSFIT_TOY, transformer_path

CPU = torch.device("cpu")
CORPUS, FEATURES = CROSSFIT_TOY


@pytest.fixture(scope="module")
def fitted(part: CrossFitPart) -> Reliability:
    return fit_reliability([part], CPU, steps=30)


def rule_cases(count: int, seed: int) -> VerdictDataset:
    """Cases whose answer changes if the sum of two inputs is large; one of them is far from standardised."""
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((count, verdict_size(3))).astype(np.float32)
    inputs[:, 3] = 100 + 5 * inputs[:, 3]
    changed = (inputs[:, 3] - 100) / 5 + inputs[:, 7] > 0.8
    return VerdictDataset(
        inputs,
        changed.astype(np.float32),
        rng.integers(0, 3, count),
        (changed & (rng.random(count) < 0.5)).astype(np.float32),
        np.full(count, 1 / count, dtype=np.float32),
    )


@pytest.fixture(scope="module")
def verdict() -> Verdict:
    verdict = Verdict(3)
    fit_verdict(verdict, rule_cases(2000, 0), steps=250)
    return verdict


def test_the_verdict_learns_a_rule_with_calibrated_probabilities(verdict: Verdict) -> None:
    cases = rule_cases(1000, 1)
    assert bool(verdict.fitted)
    scores = verdict(torch.from_numpy(cases.inputs)).numpy().astype(np.float64)
    assert (auroc(cases.changed == 1, scores) or 0.0) > 0.9
    assert float(scores.mean()) == pytest.approx(float(cases.changed.mean()), abs=0.05)


def test_fitting_a_verdict_is_reproducible(verdict: Verdict) -> None:
    torch.manual_seed(5)
    again = Verdict(3)
    fit_verdict(again, rule_cases(2000, 0), steps=250)
    for name, value in verdict.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_the_threshold_reports_the_share_of_improved_answers(verdict: Verdict) -> None:
    cases = rule_cases(2000, 2)
    for missing in (1, 2):
        here = cases.missing == missing
        scores = verdict(torch.from_numpy(cases.inputs[here])).numpy()
        threshold, wanted = choose_threshold(verdict, cases, missing), float(cases.better[here].mean())
        # Scores near 1 may be equal: all of them are reported, or none.
        assert float((scores > threshold).mean()) <= wanted + 0.005
        assert float((scores >= threshold).mean()) >= wanted - 0.005


def test_cases_contain_the_change_of_the_answer(part: CrossFitPart) -> None:
    reliability = Reliability(CONFIG)
    utterances, _ = part.utterances()
    decisions = decide_subsets(part, reliability, CPU, both_paths=False)
    assert decisions is not None
    cases = verdict_dataset(reliability, [decisions])
    assert cases.inputs.shape == (CASES * len(utterances), verdict_size(3))
    assert float(cases.weights.sum()) == pytest.approx(part.weight)
    assert bool((cases.better <= cases.changed).all())
    assert int((cases.missing > 0).sum()) == 6 * len(utterances)
    predictor = NetworkPredictor(part.network, CPU, reliability)
    answers = {
        s: [argmax(transformer_path(d)) for d in predictor.decide([u.keep(s) for u in utterances])] for s in SUBSETS
    }
    expected = []
    for subset in SUBSETS[1:]:
        for provided in provided_sets(subset):
            union = ModalitySet(subset.present | provided.present)
            expected += [a != b for a, b in zip(answers[subset], answers[union], strict=True)]
    assert cases.changed.tolist() == [float(e) for e in expected]
    assert 0 < sum(expected) < len(expected)


def test_verdicts_of_cases_equal_those_in_serving(part: CrossFitPart, fitted: Reliability) -> None:
    """Also where the gate of the network chose the ensemble."""
    unfitted = copy.deepcopy(fitted)
    unfitted.verdict.fitted.fill_(value=False)
    unfitted.threshold.fill_(0.5)
    utterances, _ = part.utterances()
    decisions = decide_subsets(part, unfitted, CPU, both_paths=False)
    assert decisions is not None
    cases = verdict_dataset(unfitted, [decisions])
    scores = iter(fitted.verdict(torch.from_numpy(cases.inputs)).tolist())
    predictor = NetworkPredictor(part.network, CPU, fitted)
    gated = 0
    for subset in SUBSETS[1:]:
        served_decisions = predictor.decide([u.keep(subset) for u in utterances])
        for provided in provided_sets(subset):
            for decision in served_decisions:
                served = decision.key_score if len(provided) == len(subset.missing) else None
                if len(provided) == 1:
                    (modality,) = provided
                    served = decision.key_by_modality[modality]
                assert next(scores) == pytest.approx(served, abs=1e-6), (subset.name, provided.name)
                gated += decision.ensemble_used
    assert gated > 0
