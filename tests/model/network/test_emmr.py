"""The full graph: recovered sequences, votes, and the slots that losses compare."""

import pytest
import torch

from model.config import BRANCHES
from model.modality import COMPLETE, MODALITIES, PAIRS, SINGLES, SUBSETS, Modality
from model.network.batch import Batch, collate
from model.network.consistency import key_feature
from model.network.emmr import EMMR, Output
from model.network.encoders import split
from tests.support.network import ABLATIONS, ablation_config, random_network, random_utterances, tiny_config

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


def test_every_head_gives_logits_for_every_utterance(output: Output) -> None:
    assert set(output.heads) == {
        *((b, s.name) for b in BRANCHES for s in (*PAIRS, COMPLETE)),
        *((BRANCHES[0], s.name) for s in SINGLES),
    }
    assert {tuple(logits.shape) for logits in output.heads.values()} == {(7, 3)}
    assert output.transformer.shape == output.ensemble.shape == (7, 3)


def test_available_vote_is_that_of_the_present_modalities(output: Output) -> None:
    for row, subset in enumerate(SUBSETS):
        assert torch.equal(output.available[row], output.heads[BRANCHES[0], subset.name][row])


def test_present_modalities_are_unchanged_and_missing_ones_decoded(network: EMMR, batch: Batch) -> None:
    sequences = {m: torch.randn(7, 4, 16) for m in MODALITIES}
    decoded = {m: torch.randn(7, 4, 16) for m in MODALITIES}
    recovered = network.recover(sequences, decoded, batch.present)
    for row, subset in enumerate(SUBSETS):
        for modality in MODALITIES:
            source = sequences if modality in subset else decoded
            assert torch.equal(recovered[modality][row], source[modality][row])


def test_known_slots_are_held_and_imputed_slots_are_missing(output: Output, batch: Batch) -> None:
    valid = torch.cat([batch.valid[m] for m in MODALITIES], dim=1)
    assert torch.equal(output.known, valid)  # no held modality is hidden in this batch
    assert not (output.known & output.imputed).any()
    assert torch.equal(output.slots, output.known | output.imputed)
    imputed = [sum(CONFIG.network.imputed_slots.of(m) for m in s.missing) for s in SUBSETS]
    assert output.imputed.sum(dim=1).tolist() == imputed


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablation_has_no_part_of_a_branch_it_lacks(name: str, batch: Batch) -> None:
    config = ablation_config(name)
    with torch.no_grad():
        network = random_network(config)
        output = network(batch)
    branches = config.network.branches
    assert tuple(output.encodings) == tuple(output.decodings) == branches
    assert {branch for branch, _ in output.heads} == set(branches)
    assert output.branch_weights.shape == (len(SUBSETS), len(branches))
    torch.testing.assert_close(output.branch_weights.sum(dim=1), torch.ones(len(SUBSETS)))
    names = set(random_network(CONFIG).state_dict())
    lacking = {n for n in names for b in BRANCHES if b not in branches and f".{b}." in f".{n}"}
    combined = {"branch_weights.w.weight"} if config.network.ensemble != "attention" else set()
    assert set(network.state_dict()) == names - lacking - combined


def test_ensemble_of_one_branch_is_its_key_feature(batch: Batch) -> None:
    network = random_network(ablation_config("tf"))
    with torch.no_grad():
        output = network(batch)
        decoded = split(output.decodings["transformer"], batch.valid)
        sequences = split(output.filled, batch.valid)
        recovered = network.recover(sequences, decoded, batch.present)
        pooled = [network.subsets.pool(pair, recovered, split_slots(output, batch)) for pair in PAIRS]
        votes = [output.heads["transformer", pair.name] for pair in PAIRS]
        expected = network.classify(key_feature(pooled, votes))
    torch.testing.assert_close(output.ensemble, expected)
    assert output.branch_weights.tolist() == [[1.0]] * len(SUBSETS)


def split_slots(output: Output, batch: Batch) -> dict[Modality, torch.Tensor]:
    """`Output.slots` of each modality."""
    parts = output.slots.split([batch.valid[m].shape[1] for m in MODALITIES], dim=1)
    return dict(zip(MODALITIES, parts, strict=True))
