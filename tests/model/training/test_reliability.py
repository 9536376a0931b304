"""What is fitted after a network: temperatures, familiarity, the verdict and the speech check."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from model.checkpoint import save_checkpoint
from model.features.normalization import Preprocessing, Statistics
from model.modality import MODALITIES, SUBSETS, Modality, ModalitySet, Utterance
from model.network.decision import Decision, Distribution, argmax
from model.network.emmr import EMMR
from model.network.reliability import (
    FAMILIAR,
    Familiarity,
    Reliability,
    Verdict,
    given_sets,
    subset_number,
    verdict_size,
)
from model.pipeline import Pipeline
from model.training.datasets.base import Example, Source
from model.training.evaluate_split import NetworkPredictor
from model.training.metrics import auroc
from model.training.reliability import (
    MIN_ROWS,
    SPEECH_FALSE_ALARMS,
    VerdictRows,
    Witness,
    choose_threshold,
    fit_familiarity,
    fit_reliability,
    fit_verdict,
    run_trial,
    verdict_rows,
)
from model.types import FloatArray
from tests.support.network import random_network, random_utterances
from tests.support.training import CLASSES, CONFIG, source_of, toy

T, A, V = MODALITIES
CPU = torch.device("cpu")
CORPUS, FEATURES = toy(train=48, val=24)
CASES = sum(len(given_sets(subset)) for subset in SUBSETS)  # of an utterance


def confident(factor: float = 30.0, seed: int = 0) -> EMMR:
    """A random network that is sure of itself."""
    network = random_network(CONFIG, seed)
    with torch.no_grad():
        network.classifier.weight.mul_(factor)
    return network.requires_grad_(requires_grad=False)


def witness_of(network: EMMR, complete: Sequence[Example] | None = None) -> Witness:
    training, validation = CORPUS.examples("train"), CORPUS.examples("val")
    return Witness(network, training, validation, validation if complete is None else complete, FEATURES)


@pytest.fixture(scope="module")
def witness() -> Witness:
    return witness_of(confident())


@pytest.fixture(scope="module")
def fitted(witness: Witness) -> Reliability:
    return fit_reliability([witness], CPU, sounds(), steps=30)


def path(decision: Decision) -> Distribution:
    """The transformer path's answer: what is present alone decides."""
    assert decision.transformer is not None
    return decision.transformer


def log_losses(witness: Witness, reliability: Reliability) -> list[float]:
    """By subset."""
    predictor = NetworkPredictor(witness.network, CPU, reliability)
    utterances, labels = witness.utterances()
    return [
        -float(
            np.mean(
                [
                    np.log(max(path(d)[label], 1e-12))
                    for d, label in zip(predictor.decide([u.keep(subset) for u in utterances]), labels, strict=True)
                ]
            )
        )
        for subset in SUBSETS
    ]


# ---- temperatures ----------------------------------------------------------------------------------------------------


def test_temperatures_lower_an_overconfident_networks_log_loss_for_every_subset(
    witness: Witness, fitted: Reliability
) -> None:
    before = log_losses(witness, Reliability(CONFIG))
    after = log_losses(witness, fitted)
    for subset, raw, calibrated in zip(SUBSETS, before, after, strict=True):
        assert raw > 1.5, subset.name  # wrong and sure of it
        assert calibrated < 0.8 * raw, subset.name
        assert float(fitted.temperatures[subset_number(subset)]) < 1, subset.name


def test_a_witness_without_weight_changes_no_temperature(witness: Witness) -> None:
    other = replace(witness_of(confident(0.01, seed=1)), weight=0.0)
    alone, both = (fit_reliability(group, CPU, steps=1) for group in ([witness], [witness, other]))
    torch.testing.assert_close(alone.temperatures, both.temperatures)


def test_a_witness_with_nothing_complete_is_no_hindrance(witness: Witness) -> None:
    silent = replace(witness, complete=())
    reliability = fit_reliability([silent], CPU, steps=1)
    assert torch.equal(reliability.temperatures, torch.ones(8))
    assert not bool(reliability.verdict.fitted)
    with_fold = fit_reliability([silent, witness], CPU, steps=1)
    assert bool(with_fold.verdict.fitted)


# ---- familiarity -----------------------------------------------------------------------------------------------------


def clouds(
    modality: Modality, name: str, count: int, *, spread: FloatArray | None = None, seed: int = 0, origin: str = ""
) -> tuple[list[Example], dict[Source, FloatArray]]:
    """Examples of one modality whose slots lie around a centre of their class."""
    rng = np.random.default_rng(seed)
    size = CONFIG.feature_size(modality)
    scale = np.ones(size) if spread is None else spread
    examples, features = [], dict[Source, FloatArray]()
    for number in range(count):
        centre = np.zeros(size)
        centre[number % 3] = 4.0
        source = source_of(modality, f"{name}-{number}")
        features[source] = (centre + scale * rng.standard_normal(size)).astype(np.float32)[None]
        examples.append(
            Example(f"{name}-{number}", CLASSES[number % 3], {modality: source}, origins={modality: origin})
        )
    return examples, features


def familiarity_of(
    modality: Modality, training: Sequence[Example], unseen: Sequence[Example], features: Mapping[Source, FloatArray]
) -> Reliability:
    reliability = Reliability(CONFIG).eval()
    fit_familiarity(reliability, modality, Witness(random_network(CONFIG), training, unseen, (), features))
    return reliability


def familiar(reliability: Reliability, modality: Modality, points: npt.NDArray[np.floating]) -> FloatArray:
    """Of single slots `(N, d)`."""
    found = reliability.familiarities([Utterance({modality: point[None].astype(np.float32)}) for point in points])
    return np.array([f[modality] for f in found], dtype=np.float32)


def test_unseen_people_are_familiar_and_one_in_a_hundred_is_not() -> None:
    training, features = clouds(A, "training", 300)
    unseen, more = clouds(A, "unseen", 400, seed=1)
    reliability = familiarity_of(A, training, unseen, features | more)
    values = familiar(reliability, A, np.concatenate([more[e.sources[A]] for e in unseen]))
    assert float(np.median(values)) > 0.99
    assert 0.002 <= float((values < FAMILIAR).mean()) <= 0.02


def test_what_lies_thirty_deviations_away_is_unfamiliar() -> None:
    training, features = clouds(A, "training", 300)
    unseen, more = clouds(A, "unseen", 120, seed=1)
    reliability = familiarity_of(A, training, unseen, features | more)
    points = np.concatenate([more[e.sources[A]] for e in unseen])
    for axis in (0, 17, 32):
        away = points.copy()
        away[:, axis] += 30
        assert familiar(reliability, A, away).max() < 0.1
    assert familiar(reliability, A, np.zeros((1, 33)))[0] > FAMILIAR  # between the centres


def test_what_lies_outside_the_directions_of_training_is_unfamiliar() -> None:
    size = CONFIG.feature_size(T)
    spread = np.where(np.arange(size) < 60, 1.0, 0.05).astype(np.float32)
    training, features = clouds(T, "training", size + 60, spread=spread)
    unseen, more = clouds(T, "unseen", 120, spread=spread, seed=1)
    reliability = familiarity_of(T, training, unseen, features | more)
    points = np.concatenate([more[e.sources[T]] for e in unseen])
    assert float(np.median(familiar(reliability, T, points))) > 0.9
    outside = points.copy()
    outside[:, 300] += 30 * 0.05
    assert familiar(reliability, T, outside).max() < FAMILIAR
    outside[:, 300:] += 30 * 0.05
    assert familiar(reliability, T, outside).max() < 0.01


def test_corpora_count_equally_for_what_is_familiar() -> None:
    large, features = clouds(A, "large", 300, origin="large")
    small, more = clouds(A, "small", 30, seed=1, origin="small")
    moved = {source: x + np.float32(3) * (np.arange(33) == 20) for source, x in more.items()}
    unseen, others = clouds(A, "unseen", 120, seed=2)
    reliability = familiarity_of(A, [*large, *small], unseen, features | moved | others)
    fitted = reliability.familiarity[A]
    assert isinstance(fitted, Familiarity)
    assert float(fitted.mean[20]) == pytest.approx(1.5, abs=0.2)


@pytest.mark.parametrize(
    ("training", "unseen", "classes"),
    [(33, 120, 3), (300, 99, 3), (300, 120, 2)],
    ids=["training", "unseen", "classes"],
)
def test_familiarity_is_not_fitted_to_too_little(training: int, unseen: int, classes: int) -> None:
    shown, features = clouds(A, "training", training)
    others, more = clouds(A, "unseen", unseen, seed=1)
    shown = [e for e in shown if e.label in CLASSES[:classes]]
    reliability = familiarity_of(A, shown, others, features | more)
    assert familiar(reliability, A, np.full((1, 33), 1e4)).tolist() == [1.0]


def test_a_source_counts_once_and_without_features_not_at_all() -> None:
    training, features = clouds(A, "training", 60)
    unseen, more = clouds(A, "unseen", 120, seed=1)
    silent, _ = clouds(A, "silent", 9)
    states = [
        familiarity_of(A, shown, unseen, features | more).state_dict()
        for shown in (training, [*training, *training, *silent])
    ]
    assert all(
        torch.equal(value, states[1][name]) for name, value in states[0].items() if name.startswith("familiarity")
    )


# ---- verdict ---------------------------------------------------------------------------------------------------------


def rule_rows(count: int, seed: int) -> VerdictRows:
    """Cases where the answer changes if two of the inputs, far from standardised, add up to much."""
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((count, verdict_size(3))).astype(np.float32)
    inputs[:, 3] = 100 + 5 * inputs[:, 3]
    changed = (inputs[:, 3] - 100) / 5 + inputs[:, 7] > 0.8
    return VerdictRows(
        inputs,
        changed.astype(np.float32),
        rng.integers(0, 3, count),
        (changed & (rng.random(count) < 0.5)).astype(np.float32),
        np.full(count, 1 / count, dtype=np.float32),
    )


@pytest.fixture(scope="module")
def verdict() -> Verdict:
    verdict = Verdict(3)
    fit_verdict(verdict, rule_rows(2000, 0), steps=250)
    return verdict


def test_the_verdict_learns_a_rule_and_probabilities_of_it(verdict: Verdict) -> None:
    rows = rule_rows(1000, 1)
    assert bool(verdict.fitted)
    scores = verdict(torch.from_numpy(rows.inputs)).numpy().astype(np.float64)
    assert (auroc(rows.changed == 1, scores) or 0.0) > 0.9
    assert float(scores.mean()) == pytest.approx(float(rows.changed.mean()), abs=0.05)


def test_fitting_a_verdict_twice_gives_the_same(verdict: Verdict) -> None:
    torch.manual_seed(5)
    again = Verdict(3)
    fit_verdict(again, rule_rows(2000, 0), steps=250)
    for name, value in verdict.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_the_threshold_reports_as_many_as_are_wanted(verdict: Verdict) -> None:
    rows = rule_rows(2000, 2)
    for missing in (1, 2):
        here = rows.missing == missing
        scores = verdict(torch.from_numpy(rows.inputs[here])).numpy()
        threshold, wanted = choose_threshold(verdict, rows, missing), float(rows.better[here].mean())
        # Scores near 1 may be equal: all of them are reported, or none.
        assert float((scores > threshold).mean()) <= wanted + 0.005
        assert float((scores >= threshold).mean()) >= wanted - 0.005


def test_rows_tell_what_each_gift_does_to_the_answer(witness: Witness) -> None:
    reliability = Reliability(CONFIG)
    utterances, _ = witness.utterances()
    trial = run_trial(witness, reliability, CPU, both_paths=False)
    assert trial is not None
    rows = verdict_rows(reliability, trial)
    assert rows.inputs.shape == (CASES * len(utterances), verdict_size(3))
    assert float(rows.weights.sum()) == pytest.approx(witness.weight)
    assert bool((rows.better <= rows.changed).all())
    assert int((rows.missing > 0).sum()) == 6 * len(utterances)
    predictor = NetworkPredictor(witness.network, CPU, reliability)
    answers = {s: [argmax(path(d)) for d in predictor.decide([u.keep(s) for u in utterances])] for s in SUBSETS}
    expected = []
    for subset in SUBSETS[1:]:
        for given in given_sets(subset):
            union = ModalitySet(subset.present | given.present)
            expected += [a != b for a, b in zip(answers[subset], answers[union], strict=True)]
    assert rows.changed.tolist() == [float(e) for e in expected]
    assert 0 < sum(expected) < len(expected)


def test_the_verdict_is_fitted_to_the_numbers_it_is_served_with(witness: Witness, fitted: Reliability) -> None:
    """Also where the network's gate chose the ensemble."""
    untold = copy.deepcopy(fitted)
    untold.verdict.fitted.fill_(value=False)
    untold.threshold.fill_(0.5)
    utterances, _ = witness.utterances()
    trial = run_trial(witness, untold, CPU, both_paths=False)
    assert trial is not None
    rows = verdict_rows(untold, trial)
    scores = iter(fitted.verdict(torch.from_numpy(rows.inputs)).tolist())
    predictor = NetworkPredictor(witness.network, CPU, fitted)
    gated = 0
    for subset in SUBSETS[1:]:
        decisions = predictor.decide([u.keep(subset) for u in utterances])
        for given in given_sets(subset):
            for decision in decisions:
                served = decision.key_score if len(given) == len(subset.missing) else None
                if len(given) == 1:
                    (modality,) = given
                    served = decision.key_by_modality[modality]
                assert next(scores) == pytest.approx(served, abs=1e-6), (subset.name, given.name)
                gated += decision.ensemble_used
    assert gated > 0


@pytest.mark.parametrize("utterances", [MIN_ROWS // CASES, MIN_ROWS // CASES + 1])
def test_too_few_cases_leave_the_verdict_unfitted(utterances: int) -> None:
    few = witness_of(confident(), CORPUS.examples("val")[:utterances])
    reliability = fit_reliability([few], CPU, steps=2)
    assert bool(reliability.verdict.fitted) == (utterances * CASES >= MIN_ROWS)
    if not bool(reliability.verdict.fitted):
        assert reliability.threshold.tolist() == [0.5, 0.5]


# ---- speech ----------------------------------------------------------------------------------------------------------


def sounds(seed: int = 0) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Speech, speech of unseen people that lies nearer to other sounds, and these."""
    rng = np.random.default_rng(seed)

    def cloud(count: int, centre: float) -> FloatArray:
        return (rng.standard_normal((count, 33)) + centre * (np.arange(33) < 4)).astype(np.float32)

    return cloud(200, 2.0), cloud(1000, 0.5), cloud(200, -2.0)


def test_speech_is_told_from_other_sounds(fitted: Reliability) -> None:
    speech, unseen, other = sounds(1)
    probabilities = [[fitted.speech_probability(x[None]) or 0.0 for x in group] for group in (speech, unseen, other)]
    assert np.mean(probabilities[0]) > 0.95
    assert np.mean(probabilities[2]) < 0.5
    spoken = np.array([True] * len(speech) + [False] * len(other))
    assert (auroc(spoken, np.array(probabilities[0] + probabilities[2])) or 0.0) > 0.99
    assert np.mean(np.array(probabilities[1]) < 0.5) < 0.02


def test_few_unseen_speakers_are_taken_for_other_sounds(fitted: Reliability) -> None:
    _, unseen, _ = sounds()
    alarms = np.mean([(fitted.speech_probability(x[None]) or 0.0) < 0.5 for x in unseen])
    assert alarms <= SPEECH_FALSE_ALARMS + 1 / len(unseen)


def test_without_sounds_nothing_is_said_of_speech(witness: Witness) -> None:
    reliability = fit_reliability([replace(witness, complete=())], CPU)
    assert reliability.speech_probability(np.zeros((2, 33), dtype=np.float32)) is None


# ---- all of it -------------------------------------------------------------------------------------------------------


def test_fitting_twice_gives_the_same_reliability(witness: Witness, fitted: Reliability) -> None:
    torch.manual_seed(11)
    again = fit_reliability([witness], CPU, sounds(), steps=30)
    for name, value in fitted.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert not any(p.requires_grad for p in again.parameters())


def test_saved_weights_judge_exactly_as_the_fitted_ones(witness: Witness, fitted: Reliability, tmp_path: Path) -> None:
    preprocessing = Preprocessing(
        {
            m: Statistics(np.zeros(CONFIG.feature_size(m), np.float32), np.ones(CONFIG.feature_size(m), np.float32))
            for m in (A, V)
        }
    )
    save_checkpoint(tmp_path, witness.network, preprocessing, reliability=fitted)
    pipeline = Pipeline.load(tmp_path, "cpu")
    utterances = random_utterances(CONFIG, SUBSETS * 3)
    predictor = NetworkPredictor(witness.network, CPU, fitted)
    assert pipeline.decide(utterances, both_paths=True) == predictor.decide(utterances, both_paths=True)
    assert pipeline.checkpoint.reliability.speech_probability(utterances[0].features[A]) == fitted.speech_probability(
        utterances[0].features[A]
    )
