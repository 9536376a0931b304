"""Only what an answer needs is computed: the rest of the network may hold anything."""

import copy

import pytest
import torch
from torch import nn

from model.modality import COMPLETE, SUBSETS, Modality, ModalitySet
from model.network.batch import collate
from model.network.emmr import EMMR
from model.network.inference.fused import FusedNetwork
from model.network.inference.sparse import decide
from tests.support.network import random_network, random_utterances, tiny_config

CONFIG = tiny_config()
INCOMPLETE = [s for s in SUBSETS if not s.complete]


@pytest.fixture(scope="module")
def network() -> EMMR:
    return random_network(CONFIG)


def without(network: EMMR, *names: str) -> EMMR:
    """A copy in which some modules would turn any answer that uses them into NaN."""
    broken = copy.deepcopy(network)
    for name in names:
        for parameter in broken.get_submodule(name).parameters():
            nn.init.constant_(parameter, float("nan"))
    return broken


def test_a_complete_utterance_needs_the_transformer_encoder_alone(network: EMMR) -> None:
    batch = collate(random_utterances(CONFIG, [COMPLETE] * 5), CONFIG)
    broken = without(
        network, "subsets", "branches.transformer.decoder", "branches.autoencoder", "branches.cascade",
        "branch_weights", "encoder.missing",
    )  # fmt: skip
    assert decide(broken, batch) == decide(network, batch)


def test_a_consistent_utterance_needs_no_other_branch_and_no_other_pair(network: EMMR) -> None:
    presence = ModalitySet.of(Modality.TEXT, Modality.AUDIO)
    utterances = random_utterances(CONFIG, [presence] * 60)
    decisions = [decide(network, collate([u], CONFIG))[0] for u in utterances]
    consistent = [(u, d) for u, d in zip(utterances, decisions, strict=True) if not d.ensemble_used]
    assert consistent
    others = ("text+visual", "audio+visual", "text", "audio", "visual")
    broken = without(
        network, "branches.autoencoder", "branches.cascade", "branch_weights", *(f"subsets.blocks.{s}" for s in others)
    )
    for utterance, decision in consistent:
        assert decide(broken, collate([utterance], CONFIG)) == [decision]


@pytest.mark.parametrize("subset", INCOMPLETE, ids=lambda s: s.name)
def test_encodings_of_the_other_branches_are_never_needed(network: EMMR, subset: ModalitySet) -> None:
    batch = collate(random_utterances(CONFIG, [subset] * 20), CONFIG)
    broken = without(network, "branches.autoencoder.to_encoding", "branches.cascade.to_encoding")
    assert decide(broken, batch, explain=True) == decide(network, batch, explain=True)


def test_a_prepared_network_answers_as_one_prepared_for_the_batch(network: EMMR) -> None:
    batch = collate(random_utterances(CONFIG, SUBSETS * 3), CONFIG)
    assert decide(FusedNetwork(network), batch, explain=True) == decide(network, batch, explain=True)


@pytest.mark.parametrize("hidden", [16, 48], ids=["more features than hidden", "fewer"])
def test_a_network_with_positions_decides_as_its_whole_graph_does(hidden: int) -> None:
    widths = (hidden, 12, 10, 8, 10, 12, hidden)
    sizes = {**CONFIG.network.model_dump(), "positions": True, "hidden": hidden, "autoencoder": widths}
    config = tiny_config(network=sizes)
    positioned = random_network(config)
    batch = collate(random_utterances(config, SUBSETS * 2), config)
    with torch.no_grad():
        whole = positioned(batch).transformer.softmax(dim=-1)
    decided = decide(positioned, batch, both_paths=True)
    torch.testing.assert_close(torch.tensor([d.transformer for d in decided]), whole, atol=1e-5, rtol=0)


def test_further_training_counts_once_the_network_is_prepared_again(network: EMMR) -> None:
    changed = copy.deepcopy(network)
    batch = collate(random_utterances(CONFIG, [COMPLETE]), CONFIG)
    before = decide(changed, batch)
    with torch.no_grad():
        for parameter in changed.pool.parameters():
            parameter.add_(torch.randn_like(parameter))
    assert decide(changed, batch) != before


def test_a_network_in_training_mode_is_not_prepared(network: EMMR) -> None:
    with pytest.raises(ValueError, match="eval mode"):
        FusedNetwork(copy.deepcopy(network).train())


@pytest.mark.cuda
def test_a_cuda_device_gives_the_answers_of_the_cpu(network: EMMR) -> None:
    device = torch.device("cuda")
    batch = collate(random_utterances(CONFIG, SUBSETS * 3), CONFIG)
    ours = decide(copy.deepcopy(network).to(device), batch.to(device), both_paths=True)
    for there, here in zip(ours, decide(network, batch, both_paths=True), strict=True):
        assert there.probabilities == pytest.approx(here.probabilities, abs=1e-4)
