"""The whole graph: what is recovered, what is voted on, and what may be compared."""

import pytest
import torch

from model.modality import COMPLETE, MODALITIES, SUBSETS, ModalitySet
from model.network.batch import Batch, collate
from model.network.consistency import pair_weights
from model.network.emmr import EMMR, PAIRS, SINGLES, Output, subset_of
from model.network.reconstruction import BRANCHES
from model.network.subset_heads import concatenate, split
from tests.support.network import random_network, random_utterances, tiny_config

CONFIG = tiny_config()


@pytest.fixture(scope="module")
def network() -> EMMR:
    return random_network(CONFIG)


@pytest.fixture(scope="module")
def batch() -> Batch:
    return collate(random_utterances(CONFIG, SUBSETS), CONFIG)


@pytest.fixture(scope="module")
def output(network: EMMR, batch: Batch) -> Output:
    with torch.no_grad():
        found: Output = network(batch)
        return found


def test_every_head_votes_on_every_utterance(output: Output) -> None:
    assert set(output.heads) == {
        *((b, s.name) for b in BRANCHES for s in (*PAIRS, COMPLETE)),
        *((BRANCHES[0], s.name) for s in SINGLES),
    }
    assert {tuple(logits.shape) for logits in output.heads.values()} == {(7, 3)}
    assert output.transformer.shape == output.ensemble.shape == (7, 3)


def test_the_available_vote_is_that_of_what_is_present(output: Output) -> None:
    for row, subset in enumerate(SUBSETS):
        assert torch.equal(output.available[row], output.heads[BRANCHES[0], subset.name][row])


def test_present_modalities_stay_as_they_are_and_missing_ones_are_decoded(network: EMMR, batch: Batch) -> None:
    sequences = {m: torch.randn(7, 4, 16) for m in MODALITIES}
    decoded = {m: torch.randn(7, 4, 16) for m in MODALITIES}
    recovered = network.recover(sequences, decoded, batch.present)
    for row, subset in enumerate(SUBSETS):
        for modality in MODALITIES:
            source = sequences if modality in subset else decoded
            assert torch.equal(recovered[modality][row], source[modality][row])


def test_a_branchs_key_feature_is_the_alpha_weighted_sum_of_its_pairs(network: EMMR) -> None:
    pooled = [torch.randn(2, 16) for _ in PAIRS]
    logits = [torch.randn(2, 3) for _ in PAIRS]
    votes = {(BRANCHES[1], p.name): v for p, v in zip(PAIRS, logits, strict=True)}
    alpha = pair_weights(logits)
    expected = sum(alpha[:, k, None] * feature for k, feature in enumerate(pooled))
    torch.testing.assert_close(network.key_feature(BRANCHES[1], pooled, votes), expected)


def test_known_slots_are_those_that_are_held_and_imputed_those_of_missing_modalities(
    output: Output, batch: Batch
) -> None:
    valid = torch.cat([batch.valid[m] for m in MODALITIES], dim=1)
    assert torch.equal(output.known, valid)  # nothing is hidden here: what is held is what is known
    assert not (output.known & output.imputed).any()
    assert torch.equal(output.slots, output.known | output.imputed)
    imputed = [sum(CONFIG.network.imputed_slots.of(m) for m in s.missing) for s in SUBSETS]
    assert output.imputed.sum(dim=1).tolist() == imputed


def test_joining_over_time_is_undone_by_splitting() -> None:
    sequences = {m: torch.randn(2, length, 16) for m, length in zip(MODALITIES, (3, 5, 1), strict=True)}
    slots = {m: torch.rand(2, x.shape[1]) < 0.5 for m, x in sequences.items()}
    x, valid = concatenate(COMPLETE, sequences, slots)
    assert (x.shape, valid.shape) == ((2, 9, 16), (2, 9))
    for modality, part in split(x, slots).items():
        assert torch.equal(part, sequences[modality])
    pair, _ = concatenate(ModalitySet.of(MODALITIES[2], MODALITIES[0]), sequences, slots)
    assert torch.equal(pair, torch.cat([sequences[MODALITIES[0]], sequences[MODALITIES[2]]], dim=1))


@pytest.mark.parametrize("subset", SUBSETS, ids=lambda s: s.name)
def test_a_presence_row_names_its_subset(subset: ModalitySet) -> None:
    assert subset_of(torch.tensor(subset.mask())) == subset
