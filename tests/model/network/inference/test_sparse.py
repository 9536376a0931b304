"""The promises of `decide`: nothing of a missing modality leaks, and company changes no answer."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.modality import COMPLETE, MODALITIES, SUBSETS, Modality, ModalitySet
from model.network.batch import Batch, collate
from model.network.decision import Decision, argmax
from model.network.emmr import EMMR
from model.network.inference.sparse import decide
from model.network.reconstruction import BRANCHES
from tests.support.network import random_network, random_utterances, tiny_config

CONFIG = tiny_config()
INCOMPLETE = [s for s in SUBSETS if not s.complete]


@pytest.fixture(scope="module")
def network() -> EMMR:
    return random_network(CONFIG)


def numbers(decision: Decision) -> list[float]:
    votes = [p for vote in (decision.votes or {}).values() for p in vote]
    rebuilt = [v for figures in (decision.reconstruction or {}).values() for v in figures.values()]
    return [
        *decision.probabilities, *decision.full, *decision.available, decision.key_score,
        *decision.branch_weights.values(), *votes, *rebuilt,
    ]  # fmt: skip


def with_rubbish(batch: Batch, filler: float | None) -> Batch:
    """The same batch with whatever lies in missing modalities replaced: by random numbers, or by one value."""
    features = {}
    for column, modality in enumerate(MODALITIES):
        x = batch.features[modality].clone()
        missing = ~batch.present[:, column]
        x[missing] = torch.randn_like(x[missing]) * 100 if filler is None else filler
        features[modality] = x
    valid = {
        m: v | (torch.rand(v.shape) < 0.5) & ~batch.present[:, i, None] for i, (m, v) in enumerate(batch.valid.items())
    }
    return replace(batch, features=features, valid=valid)


@pytest.mark.parametrize("filler", [None, float("nan"), float("inf")], ids=["random", "nan", "inf"])
@pytest.mark.parametrize("subset", INCOMPLETE, ids=lambda s: s.name)
def test_what_lies_in_a_missing_modality_changes_no_output_bit(
    network: EMMR, subset: ModalitySet, filler: float | None
) -> None:
    batch = collate(random_utterances(CONFIG, [subset] * 4), CONFIG)
    clean = decide(network, batch, explain=True, both_paths=True)
    assert decide(network, with_rubbish(batch, filler), explain=True, both_paths=True) == clean


@pytest.mark.parametrize("subset", INCOMPLETE, ids=lambda s: s.name)
def test_held_but_hidden_content_changes_no_training_output_bit(network: EMMR, subset: ModalitySet) -> None:
    whole = collate(random_utterances(CONFIG, [COMPLETE] * 4), CONFIG, room_to_impute=True)
    present = torch.tensor([subset.mask()] * 4)
    batch = whole.with_present(present)
    features = {
        m: torch.where(present[:, i, None, None], x, torch.randn_like(x))
        for i, (m, x) in enumerate(batch.features.items())
    }
    with torch.no_grad():
        clean, other = network(batch), network(replace(batch, features=features))
    assert torch.equal(clean.transformer, other.transformer)
    assert torch.equal(clean.ensemble, other.ensemble)
    for key, logits in clean.heads.items():
        if "+" in key[1]:
            assert torch.equal(logits, other.heads[key])


@pytest.mark.parametrize("subset", SUBSETS, ids=lambda s: s.name)
def test_an_utterance_alone_gets_the_answer_it_gets_in_company(network: EMMR, subset: ModalitySet) -> None:
    company = random_utterances(CONFIG, [subset, *SUBSETS, *SUBSETS])
    together = decide(network, collate(company, CONFIG), explain=True)[0]
    alone = decide(network, collate(company[:1], CONFIG), explain=True)[0]
    np.testing.assert_allclose(numbers(together), numbers(alone), atol=1e-4)
    assert together.key_modalities == alone.key_modalities


@pytest.mark.parametrize("subset", SUBSETS, ids=lambda s: s.name)
def test_padding_changes_nothing(network: EMMR, subset: ModalitySet) -> None:
    batch = collate(random_utterances(CONFIG, [subset] * 3), CONFIG)
    padded = replace(
        batch,
        features={m: torch.nn.functional.pad(x, (0, 0, 0, 9), value=5.0) for m, x in batch.features.items()},
        valid={m: torch.nn.functional.pad(x, (0, 9)) for m, x in batch.valid.items()},
    )
    for a, b in zip(decide(network, batch, explain=True), decide(network, padded, explain=True), strict=True):
        np.testing.assert_allclose(numbers(a), numbers(b), atol=1e-5)


def test_deciding_equals_the_whole_graph(network: EMMR) -> None:
    batch = collate(random_utterances(CONFIG, [*SUBSETS, *SUBSETS]), CONFIG)
    with torch.no_grad():
        output = network(batch)
    for i, decision in enumerate(decide(network, batch, both_paths=True, explain=True)):
        presence = ModalitySet(
            frozenset(m for m, here in zip(MODALITIES, batch.present[i].tolist(), strict=True) if here)
        )
        transformer = output.transformer[i].softmax(0)
        assert decision.transformer is not None
        np.testing.assert_allclose(decision.transformer, transformer, atol=1e-5)
        if presence.complete:
            assert decision.ensemble is None
            continue
        assert decision.ensemble is not None
        np.testing.assert_allclose(decision.ensemble, output.ensemble[i].softmax(0), atol=1e-5)
        np.testing.assert_allclose(decision.full, output.heads[BRANCHES[0], COMPLETE.name][i].softmax(0), atol=1e-5)
        np.testing.assert_allclose(
            decision.available, output.heads[BRANCHES[0], presence.name][i].softmax(0), atol=1e-5
        )


def test_the_gate_opens_exactly_where_full_and_available_votes_differ(network: EMMR) -> None:
    decisions = decide(network, collate(random_utterances(CONFIG, INCOMPLETE * 20), CONFIG), both_paths=True)
    opened = [d.ensemble_used for d in decisions]
    assert 0 < sum(opened) < len(opened)
    for decision in decisions:
        assert decision.ensemble_used == (argmax(decision.full) != argmax(decision.available))
        assert decision.ensemble_used == bool(decision.key_modalities)
        path = decision.ensemble if decision.ensemble_used else decision.transformer
        assert decision.probabilities == path
        assert sum(decision.branch_weights.values()) == pytest.approx(1)


def test_the_transformer_path_is_always_told_and_the_ensemble_where_computed(network: EMMR) -> None:
    subsets = SUBSETS * 10
    batch = collate(random_utterances(CONFIG, subsets), CONFIG)
    told = zip(subsets, decide(network, batch), decide(network, batch, both_paths=True), strict=True)
    gated = 0
    for subset, plain, both in told:
        assert plain.transformer is not None
        assert (plain.ensemble is not None) == plain.ensemble_used
        assert (both.ensemble is not None) == (not subset.complete)
        assert both.transformer == pytest.approx(plain.transformer, abs=1e-6)
        gated += plain.ensemble_used
    assert 0 < gated < 60


def test_a_networks_own_decision_holds_nothing_that_is_judged_later(network: EMMR) -> None:
    for decision in decide(network, collate(random_utterances(CONFIG, SUBSETS), CONFIG)):
        assert (decision.vote_full, decision.vote_available, decision.rule) == (None, None, ())
        assert (dict(decision.key_by_modality), dict(decision.familiarity)) == ({}, {})


def test_only_missing_modalities_are_called_key(network: EMMR) -> None:
    utterances = random_utterances(CONFIG, INCOMPLETE * 20)
    for utterance, decision in zip(utterances, decide(network, collate(utterances, CONFIG)), strict=True):
        assert set(decision.key_modalities) <= set(utterance.presence.missing)


def test_a_complete_utterance_is_consistent_by_definition(network: EMMR) -> None:
    (decision,) = decide(network, collate(random_utterances(CONFIG, [COMPLETE]), CONFIG), explain=True)
    assert decision.key_modalities == ()
    assert decision.key_score == 0
    assert decision.full == decision.available == decision.probabilities
    assert decision.votes is not None
    assert set(decision.votes) == {"text+audio", "text+visual", "audio+visual", "all"}


def test_explaining_tells_how_far_the_reconstructions_agree(network: EMMR) -> None:
    utterances = random_utterances(CONFIG, [ModalitySet.of(Modality.TEXT)])
    (decision,) = decide(network, collate(utterances, CONFIG), explain=True)
    assert decision.reconstruction is not None
    assert set(decision.reconstruction) == {Modality.AUDIO, Modality.VISUAL}
    for modality, figures in decision.reconstruction.items():
        assert figures["slots"] == CONFIG.network.imputed_slots.of(modality)
        assert -1 <= figures["agreement"] <= 1 + 1e-6


def test_a_training_network_refuses_to_decide() -> None:
    network = random_network(CONFIG).train()
    with pytest.raises(ValueError, match="eval mode"):
        decide(network, collate(random_utterances(CONFIG, [COMPLETE]), CONFIG))
