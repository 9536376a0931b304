"""Fit of the reliability: temperatures, familiarity, number of cases and the speech check."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from model.baselines.systems import build_network
from model.baselines.transm import TransM
from model.checkpoint import save_checkpoint
from model.features.normalization import Preprocessing, Statistics
from model.modality import MODALITIES, SUBSETS, Modality, ModalitySet, Utterance
from model.network.familiarity import FAMILIAR, Familiarity
from model.network.reliability import Reliability
from model.pipeline import Pipeline
from model.training.crossfit import CrossFitPart
from model.training.datasets.base import CLASSES, Example, Source
from model.training.evaluate_split import NetworkPredictor
from model.training.metrics import auroc
from model.training.reliability import (
    MIN_CALIBRATED,
    MIN_CASES,
    SPEECH_FALSE_ALARMS,
    fit_available_temperatures,
    fit_familiarity,
    fit_reliability,
)
from model.types import FloatArray
from tests.support.network import random_network, random_utterances
from tests.support.training import (
    CASES,
    CONFIG,
    CROSSFIT_TOY,
    confident_network,
    part_of,
    source_of,
    transformer_path,
)

T, A, V = MODALITIES
CPU = torch.device("cpu")
CORPUS, FEATURES = CROSSFIT_TOY


@pytest.fixture(scope="module")
def fitted(part: CrossFitPart) -> Reliability:
    return fit_reliability([part], CPU, sounds(), steps=30)


def log_losses(part: CrossFitPart, reliability: Reliability) -> list[float]:
    """By subset."""
    predictor = NetworkPredictor(part.network, CPU, reliability)
    utterances, labels = part.utterances()
    return [
        -float(
            np.mean(
                [
                    np.log(max(transformer_path(d)[label], 1e-12))
                    for d, label in zip(predictor.decide([u.keep(subset) for u in utterances]), labels, strict=True)
                ]
            )
        )
        for subset in SUBSETS
    ]


# ---- temperatures ----------------------------------------------------------------------------------------------------


def test_temperatures_reduce_the_log_loss_of_an_overconfident_network(part: CrossFitPart, fitted: Reliability) -> None:
    before = log_losses(part, Reliability(CONFIG))
    after = log_losses(part, fitted)
    for subset, raw, calibrated in zip(SUBSETS, before, after, strict=True):
        assert raw > 1.5, subset.name  # wrong and sure of it
        assert calibrated < 0.8 * raw, subset.name
        assert float(fitted.temperatures[subset.number]) < 1, subset.name


def test_utterances_of_one_modality_calibrate_its_subset_alone() -> None:
    network = confident_network()
    voices = [
        Example(f"{e.id}-{copy}", e.label, {A: e.sources[A]}) for e in CORPUS.examples("val") for copy in range(2)
    ]
    reliability = Reliability(CONFIG).eval()
    reliability.temperatures.fill_(0.5)
    counts = fit_available_temperatures(reliability, network, voices, FEATURES, CPU)
    assert counts == {ModalitySet.of(A): len(voices)}
    number = ModalitySet.of(A).number
    assert float(reliability.temperatures[number]) < 1
    assert set(reliability.temperatures.tolist()[1:]) == {1.0, float(reliability.temperatures[number])}
    part = part_of(network, CORPUS, FEATURES)
    alone = SUBSETS.index(ModalitySet.of(A))
    assert log_losses(part, reliability)[alone] < 0.8 * log_losses(part, Reliability(CONFIG))[alone]


def test_few_utterances_do_not_calibrate() -> None:
    few = CORPUS.examples("val")[: MIN_CALIBRATED - 10]
    reliability = Reliability(CONFIG).eval()
    reliability.temperatures.fill_(0.5)
    counts = fit_available_temperatures(reliability, confident_network(), few, FEATURES, CPU)
    assert counts == dict.fromkeys(SUBSETS, len(few))
    assert reliability.temperatures.tolist()[1:] == [1.0] * 7


def test_a_baseline_is_calibrated_without_a_verdict() -> None:
    network = build_network(CONFIG.model_copy(update={"system": "transm"})).eval().requires_grad_(requires_grad=False)
    assert isinstance(network, TransM)
    network.classifier.weight.mul_(300)
    part = CrossFitPart(network, CORPUS.examples("train"), CORPUS.examples("val"), CORPUS.examples("val"), FEATURES)
    found = fit_reliability([part], CPU, steps=1)
    assert all(float(found.temperatures[subset.number]) < 1 for subset in SUBSETS)
    assert not bool(found.verdict.fitted)
    utterances, _ = part.utterances()
    for subset in SUBSETS:
        raw = NetworkPredictor(network, CPU, Reliability(CONFIG)).decide([utterances[0].keep(subset)])
        (decision,) = NetworkPredictor(network, CPU, found).decide([utterances[0].keep(subset)])
        assert max(decision.probabilities) < max(raw[0].probabilities)
        assert (decision.key_score, decision.threshold, decision.key_modalities) == (None, None, ())


def test_a_part_without_weight_changes_no_temperature(part: CrossFitPart) -> None:
    other = replace(part_of(confident_network(0.01, seed=1), CORPUS, FEATURES), weight=0.0)
    alone, both = (fit_reliability(group, CPU, steps=1) for group in ([part], [part, other]))
    torch.testing.assert_close(alone.temperatures, both.temperatures)


def test_a_part_without_complete_utterances_is_ignored(part: CrossFitPart) -> None:
    silent = replace(part, complete=())
    reliability = fit_reliability([silent], CPU, steps=1)
    assert torch.equal(reliability.temperatures, torch.ones(8))
    assert not bool(reliability.verdict.fitted)
    with_fold = fit_reliability([silent, part], CPU, steps=1)
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
    fit_familiarity(reliability, modality, CrossFitPart(random_network(CONFIG), training, unseen, (), features))
    return reliability


def familiar(reliability: Reliability, modality: Modality, points: npt.NDArray[np.floating]) -> FloatArray:
    """Of single slots `(N, d)`."""
    found = reliability.familiarities([Utterance({modality: point[None].astype(np.float32)}) for point in points])
    return np.array([f[modality] for f in found], dtype=np.float32)


def test_one_percent_of_unseen_people_is_unfamiliar() -> None:
    training, features = clouds(A, "training", 300)
    unseen, more = clouds(A, "unseen", 400, seed=1)
    reliability = familiarity_of(A, training, unseen, features | more)
    values = familiar(reliability, A, np.concatenate([more[e.sources[A]] for e in unseen]))
    assert float(np.median(values)) > 0.99
    assert 0.002 <= float((values < FAMILIAR).mean()) <= 0.02


def test_input_thirty_deviations_away_is_unfamiliar() -> None:
    training, features = clouds(A, "training", 300)
    unseen, more = clouds(A, "unseen", 120, seed=1)
    reliability = familiarity_of(A, training, unseen, features | more)
    points = np.concatenate([more[e.sources[A]] for e in unseen])
    for axis in (0, 17, 32):
        away = points.copy()
        away[:, axis] += 30
        assert familiar(reliability, A, away).max() < 0.1
    assert familiar(reliability, A, np.zeros((1, 33)))[0] > FAMILIAR  # between the centres


def test_input_outside_the_training_directions_is_unfamiliar() -> None:
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


def test_corpora_have_equal_weight_for_familiarity() -> None:
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
def test_familiarity_needs_enough_sources_and_classes(training: int, unseen: int, classes: int) -> None:
    shown, features = clouds(A, "training", training)
    others, more = clouds(A, "unseen", unseen, seed=1)
    shown = [e for e in shown if e.label in CLASSES[:classes]]
    reliability = familiarity_of(A, shown, others, features | more)
    assert familiar(reliability, A, np.full((1, 33), 1e4)).tolist() == [1.0]


def test_each_source_with_features_counts_once() -> None:
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


@pytest.mark.parametrize("utterances", [MIN_CASES // CASES, MIN_CASES // CASES + 1])
def test_the_verdict_needs_enough_cases(utterances: int, part: CrossFitPart) -> None:
    few = replace(part, complete=CORPUS.examples("val")[:utterances])
    reliability = fit_reliability([few], CPU, steps=2)
    assert bool(reliability.verdict.fitted) == (utterances * CASES >= MIN_CASES)
    if not bool(reliability.verdict.fitted):
        assert reliability.threshold.tolist() == [0.5, 0.5]


# ---- speech ----------------------------------------------------------------------------------------------------------


def sounds(seed: int = 0) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Speech, speech of unseen people that lies nearer to other sounds, and these."""
    rng = np.random.default_rng(seed)

    def cloud(count: int, centre: float) -> FloatArray:
        return (rng.standard_normal((count, 33)) + centre * (np.arange(33) < 4)).astype(np.float32)

    return cloud(200, 2.0), cloud(1000, 0.5), cloud(200, -2.0)


def test_speech_is_distinguished_from_other_sounds(fitted: Reliability) -> None:
    speech, unseen, other = sounds(1)
    probabilities = [[fitted.speech_probability(x[None]) or 0.0 for x in group] for group in (speech, unseen, other)]
    assert np.mean(probabilities[0]) > 0.95
    assert np.mean(probabilities[2]) < 0.5
    spoken = np.array([True] * len(speech) + [False] * len(other))
    assert (auroc(spoken, np.array(probabilities[0] + probabilities[2])) or 0.0) > 0.99
    assert np.mean(np.array(probabilities[1]) < 0.5) < 0.02


def test_few_unseen_speakers_are_classified_as_other_sounds(fitted: Reliability) -> None:
    _, unseen, _ = sounds()
    alarms = np.mean([(fitted.speech_probability(x[None]) or 0.0) < 0.5 for x in unseen])
    assert alarms <= SPEECH_FALSE_ALARMS + 1 / len(unseen)


def test_without_sounds_there_is_no_speech_probability(part: CrossFitPart) -> None:
    reliability = fit_reliability([replace(part, complete=())], CPU)
    assert reliability.speech_probability(np.zeros((2, 33), dtype=np.float32)) is None


# ---- all of it -------------------------------------------------------------------------------------------------------


def test_fitting_is_reproducible(part: CrossFitPart, fitted: Reliability) -> None:
    torch.manual_seed(11)
    again = fit_reliability([part], CPU, sounds(), steps=30)
    for name, value in fitted.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert not any(p.requires_grad for p in again.parameters())


def test_saved_reliability_gives_the_same_decisions(part: CrossFitPart, fitted: Reliability, tmp_path: Path) -> None:
    preprocessing = Preprocessing(
        {
            m: Statistics(np.zeros(CONFIG.feature_size(m), np.float32), np.ones(CONFIG.feature_size(m), np.float32))
            for m in (A, V)
        }
    )
    save_checkpoint(tmp_path, part.network, preprocessing, reliability=fitted)
    pipeline = Pipeline.load(tmp_path, "cpu")
    utterances = random_utterances(CONFIG, SUBSETS * 3)
    predictor = NetworkPredictor(part.network, CPU, fitted)
    assert pipeline.decide(utterances, both_paths=True) == predictor.decide(utterances, both_paths=True)
    assert pipeline.checkpoint.reliability.speech_probability(utterances[0].features[A]) == fitted.speech_probability(
        utterances[0].features[A]
    )
