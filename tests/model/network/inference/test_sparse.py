"""The sparse path equals the full graph, for any batch composition and content of missing modalities."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.config import TRANSFORMER
from model.modality import COMPLETE, MODALITIES, SUBSETS, Modality, ModalitySet
from model.network.batch import Batch, collate
from model.network.decision import Decision, argmax
from model.network.emmr import EMMR
from model.network.inference.sparse import decide
from tests.support.network import ABLATIONS, ablation_config, random_network, random_utterances, tiny_config

CONFIG = tiny_config()
INCOMPLETE = [s for s in SUBSETS if not s.complete]


@pytest.fixture(scope="module")
def network() -> EMMR:
    return random_network(CONFIG)


def numbers(decision: Decision) -> list[float]:
    votes = [p for vote in (decision.votes or {}).values() for p in vote]
    rebuilt = [v for figures in (decision.reconstruction or {}).values() for v in figures.values()]
    return [
        *decision.probabilities, *decision.full, *decision.available, decision.key_score or 0.0,
        *decision.branch_weights.values(), *votes, *rebuilt,
    ]  # fmt: skip


def with_noise(batch: Batch, filler: float | None) -> Batch:
    """The same batch with the content of missing modalities replaced by random numbers, or by one value."""
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
def test_content_of_missing_modalities_changes_no_bit(network: EMMR, subset: ModalitySet, filler: float | None) -> None:
    batch = collate(random_utterances(CONFIG, [subset] * 4), CONFIG)
    clean = decide(network, batch, explain=True, both_paths=True)
    assert decide(network, with_noise(batch, filler), explain=True, both_paths=True) == clean


@pytest.mark.parametrize("subset", INCOMPLETE, ids=lambda s: s.name)
def test_hidden_content_changes_no_bit_of_the_full_graph(network: EMMR, subset: ModalitySet) -> None:
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
def test_decision_does_not_depend_on_the_batch(network: EMMR, subset: ModalitySet) -> None:
    utterances = random_utterances(CONFIG, [subset, *SUBSETS, *SUBSETS])
    together = decide(network, collate(utterances, CONFIG), explain=True)[0]
    alone = decide(network, collate(utterances[:1], CONFIG), explain=True)[0]
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


@pytest.mark.parametrize("name", ["emmr", *ABLATIONS])
def test_sparse_path_equals_the_full_graph(name: str) -> None:
    config = ablation_config(name) if name in ABLATIONS else CONFIG
    network = random_network(config)
    batch = collate(random_utterances(config, [*SUBSETS, *SUBSETS]), config)
    with torch.no_grad():
        output = network(batch)
    for i, decision in enumerate(decide(network, batch, both_paths=True, explain=True)):
        presence = ModalitySet.from_mask(batch.present[i].tolist())
        transformer = output.transformer[i].softmax(0)
        assert decision.transformer is not None
        np.testing.assert_allclose(decision.transformer, transformer, atol=1e-5)
        if presence.complete:
            assert decision.ensemble is None
            continue
        assert decision.ensemble is not None
        np.testing.assert_allclose(decision.ensemble, output.ensemble[i].softmax(0), atol=1e-5)
        np.testing.assert_allclose(decision.full, output.heads[TRANSFORMER, COMPLETE.name][i].softmax(0), atol=1e-5)
        np.testing.assert_allclose(
            decision.available, output.heads[TRANSFORMER, presence.name][i].softmax(0), atol=1e-5
        )


def test_gate_selects_the_ensemble_where_the_votes_differ(network: EMMR) -> None:
    decisions = decide(network, collate(random_utterances(CONFIG, INCOMPLETE * 20), CONFIG), both_paths=True)
    selected = [d.ensemble_used for d in decisions]
    assert 0 < sum(selected) < len(selected)
    for decision in decisions:
        assert decision.ensemble_used == (argmax(decision.full) != argmax(decision.available))
        assert decision.ensemble_used == bool(decision.key_modalities)
        path = decision.ensemble if decision.ensemble_used else decision.transformer
        assert decision.probabilities == path
        assert sum(decision.branch_weights.values()) == pytest.approx(1)


def test_decision_has_the_ensemble_where_selected_or_requested(network: EMMR) -> None:
    subsets = SUBSETS * 10
    batch = collate(random_utterances(CONFIG, subsets), CONFIG)
    pairs = zip(subsets, decide(network, batch), decide(network, batch, both_paths=True), strict=True)
    gated = 0
    for subset, plain, both in pairs:
        assert plain.transformer is not None
        assert (plain.ensemble is not None) == plain.ensemble_used
        assert (both.ensemble is not None) == (not subset.complete)
        assert both.transformer == pytest.approx(plain.transformer, abs=1e-6)
        gated += plain.ensemble_used
    assert 0 < gated < 60


def test_networks_decision_leaves_finalized_fields_empty(network: EMMR) -> None:
    for decision in decide(network, collate(random_utterances(CONFIG, SUBSETS), CONFIG)):
        assert (decision.vote_full, decision.vote_available, decision.rule) == (None, None, ())
        assert (dict(decision.key_by_modality), dict(decision.familiarity)) == ({}, {})


def test_only_missing_modalities_are_key(network: EMMR) -> None:
    utterances = random_utterances(CONFIG, INCOMPLETE * 20)
    for utterance, decision in zip(utterances, decide(network, collate(utterances, CONFIG)), strict=True):
        assert set(decision.key_modalities) <= set(utterance.presence.missing)


def test_complete_utterance_is_consistent(network: EMMR) -> None:
    (decision,) = decide(network, collate(random_utterances(CONFIG, [COMPLETE]), CONFIG), explain=True)
    assert decision.key_modalities == ()
    assert decision.key_score == 0
    assert decision.full == decision.available == decision.probabilities
    assert decision.votes is not None
    assert set(decision.votes) == {"text+audio", "text+visual", "audio+visual", "all"}


def test_explanation_has_the_agreement_of_reconstructions(network: EMMR) -> None:
    utterances = random_utterances(CONFIG, [ModalitySet.of(Modality.TEXT)])
    (decision,) = decide(network, collate(utterances, CONFIG), explain=True)
    assert decision.reconstruction is not None
    assert set(decision.reconstruction) == {Modality.AUDIO, Modality.VISUAL}
    for modality, figures in decision.reconstruction.items():
        assert figures["slots"] == CONFIG.network.imputed_slots.of(modality)
        assert -1 <= figures["agreement"] <= 1 + 1e-6


def test_network_in_training_mode_is_rejected() -> None:
    network = random_network(CONFIG).train()
    with pytest.raises(ValueError, match="eval mode"):
        decide(network, collate(random_utterances(CONFIG, [COMPLETE]), CONFIG))
