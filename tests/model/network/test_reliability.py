"""Decisions are consistent in themselves, and unfitted parts change no answer."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch

from model.modality import COMPLETE, MODALITIES, SUBSETS, Modality, ModalitySet, Utterance
from model.network.decision import Decision, Distribution, argmax
from model.network.familiarity import FAMILIAR
from model.network.reliability import (
    RawDecision,
    Reliability,
    decide_with_reliability,
    finalize,
    provided_sets,
    verdict_features,
    verdict_size,
)
from tests.support.network import random_utterances, tiny_config

T, A, V = MODALITIES
CONFIG = tiny_config()
CLASSES = len(CONFIG.classes)
SETS = 40
BATCH = 250
Familiarities = dict[Modality, float]


def distribution(rng: np.random.Generator) -> Distribution:
    """Between equal probabilities and near certainty."""
    logits = rng.standard_normal(CLASSES) * rng.choice([0.0, 0.1, 1.0, 5.0, 40.0])
    powers = np.exp(logits - logits.max())
    return tuple(float(p) for p in powers / powers.sum())


def network_decision(rng: np.random.Generator, presence: ModalitySet) -> Decision:
    """A possible decision of a network, whose gate selects the ensemble if a key modality is missing."""
    transformer = distribution(rng)
    if presence.complete:
        return Decision(transformer, transformer, transformer, (), 0.0, False, {}, transformer=transformer)
    full, available = distribution(rng), distribution(rng)
    missing = presence.missing
    key = missing[: int(rng.integers(1, len(missing) + 1))] if argmax(full) != argmax(available) else ()
    ensemble = distribution(rng) if key or rng.random() < 0.3 else None
    return Decision(
        probabilities=ensemble if key and ensemble is not None else transformer,
        full=full,
        available=available,
        key_modalities=key,
        key_score=float(rng.random()),
        ensemble_used=bool(key),
        branch_weights={},
        transformer=transformer if rng.random() < 0.7 or not key else None,
        ensemble=ensemble,
    )


def random_reliability(rng: np.random.Generator) -> Reliability:
    """Random parameters, of which any part may be fitted."""
    torch.manual_seed(int(rng.integers(2**31)))
    reliability = Reliability(CONFIG)
    reliability.temperatures.copy_(torch.from_numpy(rng.uniform(0.2, 3.0, 8)))
    reliability.doubts.copy_(torch.from_numpy(rng.uniform(0.2, 3.0, (8, CLASSES))))
    reliability.floors.copy_(torch.from_numpy(rng.random(3)))
    reliability.gated.fill_(bool(rng.random() < 0.5))
    reliability.threshold.fill_(float(rng.random()))
    reliability.verdict.fitted.fill_(bool(rng.random() < 0.8))
    with torch.no_grad():
        for parameter in reliability.verdict.parameters():
            parameter.copy_(torch.randn_like(parameter) * float(rng.choice([0.02, 0.2, 2.0])))
    return reliability.eval()


def random_familiarities(rng: np.random.Generator, presence: ModalitySet) -> Familiarities:
    return {m: float(rng.choice([0.0, rng.random(), 1.0])) for m in presence}


def finalized(seed: int) -> Iterator[tuple[RawDecision, Decision]]:
    """The network's decisions of one random batch, and the same finalized."""
    rng = np.random.default_rng(seed)
    reliability = random_reliability(rng)
    raw = []
    for _ in range(BATCH):
        presence = SUBSETS[int(rng.integers(len(SUBSETS)))]
        familiarity = random_familiarities(rng, presence)
        kept = [m for m in presence if familiarity[m] >= FAMILIAR]
        familiar = network_decision(rng, ModalitySet.of(*kept)) if 0 < len(kept) < len(presence) else None
        raw.append(RawDecision(network_decision(rng, presence), presence, familiarity, familiar))
    thresholds = [None if rng.random() < 0.5 else float(rng.choice([0.0, rng.random(), 1.0])) for _ in raw]
    return iter(list(zip(raw, finalize(reliability, raw, thresholds), strict=True)))


def assert_distribution(probabilities: Distribution) -> None:
    assert len(probabilities) == CLASSES
    assert sum(probabilities) == pytest.approx(1, abs=1e-6)
    assert all(0 <= p <= 1 for p in probabilities)


@pytest.mark.parametrize("seed", range(SETS))
def test_finalized_decisions_are_consistent(seed: int) -> None:
    for raw, decision in finalized(seed):  # 10,000 in all
        presence, familiarity = raw.presence, raw.familiarity
        for probabilities in (decision.probabilities, decision.full, decision.available):
            assert_distribution(probabilities)
        assert decision.probabilities == decision.full
        assert decision.key_score is not None
        assert decision.threshold is not None
        assert 0 <= decision.key_score <= 1
        assert tuple(decision.key_by_modality) == presence.missing
        assert all(0 <= p <= 1 for p in decision.key_by_modality.values())
        detected = bool(decision.key_modalities)
        assert detected == (not presence.complete and decision.key_score >= decision.threshold)
        assert set(decision.key_modalities) <= set(presence.missing)
        likelihoods = [decision.key_by_modality[m] for m in decision.key_modalities]
        assert likelihoods == sorted(likelihoods, reverse=True)
        if detected:
            assert likelihoods[0] == max(decision.key_by_modality.values())
        else:
            assert argmax(decision.full) == argmax(decision.available) == argmax(decision.probabilities)
        if all(familiarity[m] == 0 for m in presence):
            assert decision.probabilities == pytest.approx([1 / CLASSES] * CLASSES)


@pytest.mark.parametrize("modality", MODALITIES)
def test_single_unfamiliar_modality_gives_equal_probabilities(modality: Modality) -> None:
    rng = np.random.default_rng(0)
    presence = ModalitySet.of(modality)
    raw = RawDecision(network_decision(rng, presence), presence, {modality: 0.0})
    (decision,) = finalize(random_reliability(rng), [raw])
    assert decision.probabilities == pytest.approx([1 / CLASSES] * CLASSES)


def test_weight_of_an_unfamiliar_modality_is_proportional_to_its_familiarity() -> None:
    presence = ModalitySet.of(T, A)
    both, text = (0.8, 0.1, 0.1), (0.2, 0.2, 0.6)
    network, rest = (Decision(p, p, p, (), 0.0, False, {}, transformer=p) for p in (both, text))
    for familiarity, weight in ((0.0, 0.0), (FAMILIAR / 2, 0.5), (FAMILIAR, 1.0), (1.0, 1.0)):
        familiar = rest if familiarity < FAMILIAR else None
        raw = RawDecision(network, presence, {T: 1.0, A: familiarity}, familiar)
        (decision,) = finalize(Reliability(CONFIG), [raw])
        expected = [weight * p + (1 - weight) * q for p, q in zip(both, text, strict=True)]
        assert decision.probabilities == pytest.approx(expected, abs=1e-6)


def test_unfitted_reliability_changes_no_probability() -> None:
    reliability = Reliability(CONFIG)
    rng = np.random.default_rng(1)
    for presence in SUBSETS * 20:
        network = network_decision(rng, presence)
        (decision,) = finalize(reliability, [RawDecision(network, presence, dict.fromkeys(presence, 1.0))])
        assert decision.probabilities == pytest.approx(network.probabilities, abs=1e-6)
        assert decision.rule == network.key_modalities
        assert (decision.vote_full, decision.vote_available) == (network.full, network.available)
    utterances = random_utterances(CONFIG, SUBSETS)
    assert reliability.familiarities(utterances) == [dict.fromkeys(u.presence, 1.0) for u in utterances]
    assert reliability.speech_probability(np.zeros((2, CONFIG.feature_size(A)), dtype=np.float32)) is None


def test_calibration_keeps_the_predicted_class() -> None:
    rng = np.random.default_rng(2)
    reliability = random_reliability(rng)
    for presence in SUBSETS * 20:
        before = distribution(rng)
        after = reliability.calibrate(before, presence)
        assert_distribution(after)
        assert after[argmax(before)] == max(after)


def test_each_utterance_has_its_own_threshold() -> None:
    rng = np.random.default_rng(3)
    reliability = random_reliability(rng)
    raw = RawDecision(network_decision(rng, ModalitySet.of(T)), ModalitySet.of(T), {T: 1.0})
    decisions = finalize(reliability, [raw] * 3, [0.0, 1.0, None])
    assert [d.threshold for d in decisions] == [0.0, 1.0, float(reliability.threshold[1])]
    assert decisions[0].key_modalities
    assert not decisions[1].key_modalities


def test_provided_sets_are_each_missing_modality_and_both() -> None:
    assert provided_sets(COMPLETE) == []
    assert provided_sets(ModalitySet.of(T, A)) == [ModalitySet.of(V)]
    assert provided_sets(ModalitySet.of(T)) == [ModalitySet.of(A), ModalitySet.of(V), ModalitySet.of(A, V)]
    decision = network_decision(np.random.default_rng(0), ModalitySet.of(T))
    assert len(verdict_features(decision, ModalitySet.of(T), ModalitySet.of(A), 0.3)) == verdict_size(CLASSES)


def test_doubtful_modalities_have_no_weight() -> None:
    calls: list[ModalitySet] = []

    def decide(utterances: Sequence[Utterance]) -> list[Decision]:
        calls.extend(utterance.presence for utterance in utterances)
        answers = [(0.9, 0.05, 0.05) if T in utterance.features else (0.1, 0.1, 0.8) for utterance in utterances]
        return [Decision(p, p, p, (), 0.0, False, {}, transformer=p) for p in answers]

    utterances = random_utterances(CONFIG, [COMPLETE, COMPLETE, ModalitySet.of(T)])
    decisions = decide_with_reliability(decide, Reliability(CONFIG), utterances, doubtful=[{T}, set(), {T}])
    assert calls == [COMPLETE, COMPLETE, ModalitySet.of(T), ModalitySet.of(A, V)]
    assert decisions[0].probabilities == pytest.approx((0.1, 0.1, 0.8))
    assert decisions[1].probabilities == pytest.approx((0.9, 0.05, 0.05))
    assert decisions[2].probabilities == pytest.approx([1 / 3] * 3)
    assert [decision.familiarity[T] for decision in decisions] == [0.0, 1.0, 0.0]
