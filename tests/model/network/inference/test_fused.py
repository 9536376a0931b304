"""Fused layers equal those used in training, and unneeded parts are never computed."""

import copy

import pytest
import torch
from torch import nn

from model.modality import COMPLETE, SUBSETS, Modality, ModalitySet
from model.network.batch import collate
from model.network.emmr import EMMR
from model.network.inference.fused import FusedNetwork, FusedPooling, query_layer, transformer_layer
from model.network.inference.sparse import decide
from model.network.layers import AttentivePooling, TransformerLayer
from model.packing import PackedAttention, Segments
from tests.support.network import random_network, random_utterances, tiny_config

CONFIG = tiny_config()
INCOMPLETE = [s for s in SUBSETS if not s.complete]
CPU = torch.device("cpu")
HIDDEN = 16
LENGTHS = [7, 1, 12]


@pytest.fixture(scope="module")
def network() -> EMMR:
    return random_network(CONFIG)


def without(network: EMMR, *names: str) -> EMMR:
    """A copy in which some modules would make any answer that uses them NaN."""
    broken = copy.deepcopy(network)
    for name in names:
        for parameter in broken.get_submodule(name).parameters():
            nn.init.constant_(parameter, float("nan"))
    return broken


def test_complete_utterance_needs_only_the_transformer_encoder(network: EMMR) -> None:
    batch = collate(random_utterances(CONFIG, [COMPLETE] * 5), CONFIG)
    broken = without(
        network, "subsets", "branches.transformer.decoder", "branches.autoencoder", "branches.cascade",
        "branch_weights", "encoder.missing",
    )  # fmt: skip
    assert decide(broken, batch) == decide(network, batch)


def test_consistent_utterance_needs_no_other_branch_or_pair(network: EMMR) -> None:
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
def test_encodings_of_the_other_branches_are_not_needed(network: EMMR, subset: ModalitySet) -> None:
    batch = collate(random_utterances(CONFIG, [subset] * 20), CONFIG)
    broken = without(network, "branches.autoencoder.to_encoding", "branches.cascade.to_encoding")
    assert decide(broken, batch, explain=True) == decide(network, batch, explain=True)


def test_fused_network_gives_the_decisions_of_the_network(network: EMMR) -> None:
    batch = collate(random_utterances(CONFIG, SUBSETS * 3), CONFIG)
    assert decide(FusedNetwork(network), batch, explain=True) == decide(network, batch, explain=True)


@pytest.mark.parametrize("hidden", [16, 48], ids=["more features than hidden", "fewer"])
def test_network_with_positions_equals_the_full_graph(hidden: int) -> None:
    widths = (hidden, 12, 10, 8, 10, 12, hidden)
    sizes = {**CONFIG.network.model_dump(), "positions": True, "hidden": hidden, "autoencoder": widths}
    config = tiny_config(network=sizes)
    positioned = random_network(config)
    batch = collate(random_utterances(config, SUBSETS * 2), config)
    with torch.no_grad():
        full = positioned(batch).transformer.softmax(dim=-1)
    decided = decide(positioned, batch, both_paths=True)
    torch.testing.assert_close(torch.tensor([d.transformer for d in decided]), full, atol=1e-5, rtol=0)


def test_fusing_again_uses_the_current_weights(network: EMMR) -> None:
    changed = copy.deepcopy(network)
    batch = collate(random_utterances(CONFIG, [COMPLETE]), CONFIG)
    before = decide(changed, batch)
    with torch.no_grad():
        for parameter in changed.pool.parameters():
            parameter.add_(torch.randn_like(parameter))
    assert decide(changed, batch) != before


def test_network_in_training_mode_is_rejected(network: EMMR) -> None:
    with pytest.raises(ValueError, match="eval mode"):
        FusedNetwork(copy.deepcopy(network).train())


@pytest.mark.cuda
def test_decisions_on_cuda_equal_those_on_the_cpu(network: EMMR) -> None:
    device = torch.device("cuda")
    batch = collate(random_utterances(CONFIG, SUBSETS * 3), CONFIG)
    ours = decide(copy.deepcopy(network).to(device), batch.to(device), both_paths=True)
    for there, here in zip(ours, decide(network, batch, both_paths=True), strict=True):
        assert there.probabilities == pytest.approx(here.probabilities, abs=1e-4)


@pytest.fixture
def padded() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(len(LENGTHS), max(LENGTHS), HIDDEN), torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]


@pytest.fixture
def layer() -> TransformerLayer:
    torch.manual_seed(1)
    return TransformerLayer(HIDDEN, 4, 32, 0.3).eval().requires_grad_(requires_grad=False)


def test_transformer_layer_equals_the_padded_one(
    layer: TransformerLayer, padded: tuple[torch.Tensor, torch.Tensor]
) -> None:
    x, valid = padded
    packed = transformer_layer(layer, x[valid], PackedAttention(LENGTHS, HIDDEN, CPU))
    torch.testing.assert_close(packed, layer(x, valid)[valid], atol=1e-5, rtol=1e-4)


def test_query_layer_equals_those_slots_of_the_layer(
    layer: TransformerLayer, padded: tuple[torch.Tensor, torch.Tensor]
) -> None:
    x, valid = padded
    wanted = torch.zeros_like(valid)
    wanted[0, 2:5], wanted[1, 0], wanted[2, :] = True, True, True
    attention = PackedAttention(LENGTHS, HIDDEN, CPU, wanted.sum(dim=1).tolist())
    found = query_layer(layer, x[wanted], x[valid], attention)
    torch.testing.assert_close(found, layer(x, valid)[wanted], atol=1e-5, rtol=1e-4)


def test_pooling_equals_the_padded_one(padded: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, valid = padded
    torch.manual_seed(2)
    pooling = AttentivePooling(HIDDEN).requires_grad_(requires_grad=False)
    packed = FusedPooling(pooling)(x[valid], Segments(LENGTHS, CPU))
    torch.testing.assert_close(packed, pooling(x, valid), atol=1e-5, rtol=1e-4)
