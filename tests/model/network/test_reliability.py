"""The verdict never contradicts itself, and what was not fitted changes nothing."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from model.modality import COMPLETE, MODALITIES, SUBSETS, Modality, ModalitySet, Utterance
from model.network.decision import Decision, Distribution, argmax
from model.network.reliability import (
    FAMILIAR,
    Observed,
    Reliability,
    decide_reliably,
    familiar_part,
    given_sets,
    judge,
    subset_number,
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
    """Anything from equal probabilities to near certainty."""
    logits = rng.standard_normal(CLASSES) * rng.choice([0.0, 0.1, 1.0, 5.0, 40.0])
    powers = np.exp(logits - logits.max())
    return tuple(float(p) for p in powers / powers.sum())


def network_decision(rng: np.random.Generator, presence: ModalitySet) -> Decision:
    """What a network might say: the gate chooses the ensemble where a key modality is missing."""
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
    """Weights of which any part may be fitted, to anything."""
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


def judged(
    seed: int, reliability: Reliability | None = None
) -> Iterator[tuple[Decision, Decision, ModalitySet, Familiarities]]:
    """Network's decision, decision judged, presence and familiarities of one random batch."""
    rng = np.random.default_rng(seed)
    reliability = reliability or random_reliability(rng)
    presences = [SUBSETS[int(rng.integers(len(SUBSETS)))] for _ in range(BATCH)]
    decisions = [network_decision(rng, presence) for presence in presences]
    familiarities = [random_familiarities(rng, presence) for presence in presences]
    familiar = {
        i: network_decision(rng, ModalitySet.of(*kept))
        for i, (presence, familiarity) in enumerate(zip(presences, familiarities, strict=True))
        if 0 < len(kept := [m for m in presence if familiarity[m] >= FAMILIAR]) < len(presence)
    }
    thresholds = [None if rng.random() < 0.5 else float(rng.choice([0.0, rng.random(), 1.0])) for _ in presences]
    found = judge(reliability, Observed(decisions, presences, familiarities, familiar), thresholds)
    return iter(list(zip(decisions, found, presences, familiarities, strict=True)))


def assert_distribution(probabilities: Distribution) -> None:
    assert len(probabilities) == CLASSES
    assert sum(probabilities) == pytest.approx(1, abs=1e-6)
    assert all(0 <= p <= 1 for p in probabilities)


@pytest.mark.parametrize("seed", range(SETS))
def test_no_decision_ever_contradicts_itself(seed: int) -> None:
    """10,000 in all."""
    for _, decision, presence, familiarity in judged(seed):
        for probabilities in (decision.probabilities, decision.full, decision.available):
            assert_distribution(probabilities)
        assert decision.probabilities == decision.full
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
def test_an_answer_from_one_modality_that_is_wholly_unfamiliar_favours_no_class(modality: Modality) -> None:
    rng = np.random.default_rng(0)
    presence = ModalitySet.of(modality)
    (decision,) = judge(
        random_reliability(rng), Observed([network_decision(rng, presence)], [presence], [{modality: 0.0}], {})
    )
    assert decision.probabilities == pytest.approx([1 / CLASSES] * CLASSES)


def test_an_unfamiliar_modality_gives_way_to_the_familiar_ones_in_proportion() -> None:
    presence = ModalitySet.of(T, A)
    said, without = (0.8, 0.1, 0.1), (0.2, 0.2, 0.6)
    network, rest = (Decision(p, p, p, (), 0.0, False, {}, transformer=p) for p in (said, without))
    for familiarity, weight in ((0.0, 0.0), (FAMILIAR / 2, 0.5), (FAMILIAR, 1.0), (1.0, 1.0)):
        familiar = {0: rest} if familiarity < FAMILIAR else {}
        (decision,) = judge(Reliability(CONFIG), Observed([network], [presence], [{T: 1.0, A: familiarity}], familiar))
        expected = [weight * p + (1 - weight) * q for p, q in zip(said, without, strict=True)]
        assert decision.probabilities == pytest.approx(expected, abs=1e-6)


def test_what_was_not_fitted_changes_no_probability() -> None:
    reliability = Reliability(CONFIG)
    rng = np.random.default_rng(1)
    for presence in SUBSETS * 20:
        network = network_decision(rng, presence)
        (decision,) = judge(reliability, Observed([network], [presence], [dict.fromkeys(presence, 1.0)], {}))
        assert decision.probabilities == pytest.approx(network.probabilities, abs=1e-6)
        assert decision.rule == network.key_modalities
        assert (decision.vote_full, decision.vote_available) == (network.full, network.available)
    utterances = random_utterances(CONFIG, SUBSETS)
    assert reliability.familiarities(utterances) == [dict.fromkeys(u.presence, 1.0) for u in utterances]
    assert reliability.speech_probability(np.zeros((2, CONFIG.feature_size(A)), dtype=np.float32)) is None


def test_calibrating_keeps_the_answer() -> None:
    rng = np.random.default_rng(2)
    reliability = random_reliability(rng)
    for presence in SUBSETS * 20:
        before = distribution(rng)
        after = reliability.calibrate(before, presence)
        assert_distribution(after)
        assert after[argmax(before)] == max(after)


def test_each_request_has_its_own_threshold() -> None:
    rng = np.random.default_rng(3)
    reliability = random_reliability(rng)
    network, presence = network_decision(rng, ModalitySet.of(T)), ModalitySet.of(T)
    decisions = judge(reliability, Observed([network] * 3, [presence] * 3, [{T: 1.0}] * 3, {}), [0.0, 1.0, None])
    assert [d.threshold for d in decisions] == [0.0, 1.0, float(reliability.threshold[1])]
    assert decisions[0].key_modalities
    assert not decisions[1].key_modalities


def test_every_subset_has_a_number_of_its_own() -> None:
    assert {subset_number(subset) for subset in SUBSETS} == set(range(1, 8))


def test_what_might_be_given_is_each_of_the_missing_and_all_of_them() -> None:
    assert given_sets(COMPLETE) == []
    assert given_sets(ModalitySet.of(T, A)) == [ModalitySet.of(V)]
    assert given_sets(ModalitySet.of(T)) == [ModalitySet.of(A), ModalitySet.of(V), ModalitySet.of(A, V)]
    decision = network_decision(np.random.default_rng(0), ModalitySet.of(T))
    assert len(verdict_features(decision, ModalitySet.of(T), ModalitySet.of(A), 0.3)) == verdict_size(CLASSES)


def test_the_familiar_part_is_a_part() -> None:
    (utterance,) = random_utterances(CONFIG, [COMPLETE])
    assert familiar_part(utterance, {}) is None
    assert familiar_part(utterance, dict.fromkeys(MODALITIES, 0.0)) is None
    part = familiar_part(utterance, {A: FAMILIAR - 0.01})
    assert part is not None
    assert part.presence == ModalitySet.of(T, V)


def test_familiarity_falls_with_distance_and_is_half_at_the_far_bound() -> None:
    reliability = Reliability(CONFIG)
    familiarity = reliability.familiarity[A]
    size = CONFIG.feature_size(A)
    familiarity.get_buffer("projection").copy_(torch.eye(size)[:, : familiarity.get_buffer("projection").shape[1]])
    familiarity.get_buffer("bounds").copy_(torch.tensor([1.0, 3.0]))

    def at(distance: float) -> float:
        features = np.zeros((2, size), dtype=np.float32)
        features[:, 0] = math.sqrt(distance * size)
        (found,) = reliability.familiarities([Utterance({A: features})])
        return found[A]

    assert [at(0.0), at(1.0)] == pytest.approx([1.0, 1.0], abs=1e-5)
    assert at(3.0) == pytest.approx(FAMILIAR, abs=1e-4)
    assert at(2.0) > FAMILIAR > at(5.0) > at(50.0) > 0


def test_what_is_doubtful_counts_for_nothing_and_the_network_is_asked_without_it() -> None:
    asked: list[ModalitySet] = []

    def decide(utterances: object, *, explain: bool, both_paths: bool) -> list[Decision]:
        assert isinstance(utterances, list)
        asked.extend(utterance.presence for utterance in utterances)
        answers = [(0.9, 0.05, 0.05) if T in utterance.features else (0.1, 0.1, 0.8) for utterance in utterances]
        return [Decision(p, p, p, (), 0.0, False, {}, transformer=p) for p in answers]

    utterances = random_utterances(CONFIG, [COMPLETE, COMPLETE, ModalitySet.of(T)])
    decisions = decide_reliably(decide, Reliability(CONFIG), utterances, doubtful=[{T}, set(), {T}])
    assert asked == [COMPLETE, COMPLETE, ModalitySet.of(T), ModalitySet.of(A, V)]
    assert decisions[0].probabilities == pytest.approx((0.1, 0.1, 0.8))
    assert decisions[1].probabilities == pytest.approx((0.9, 0.05, 0.05))
    assert decisions[2].probabilities == pytest.approx([1 / 3] * 3)
    assert [decision.familiarity[T] for decision in decisions] == [0.0, 1.0, 0.0]
