"""The published sizes: one decision and one training step of a batch of eight, with random weights."""

import torch

from model.config import ModelConfig
from model.modality import COMPLETE, SUBSETS
from model.network.batch import Batch, collate
from model.network.emmr import EMMR
from model.network.guidance import GuidanceNetwork
from model.network.inference.sparse import decide
from model.network.losses import LossSettings, Targets, total_loss
from tests.support.network import random_utterances

PAPER = ModelConfig.paper()


def batch_of_eight() -> Batch:
    utterances = random_utterances(PAPER, [COMPLETE] * 8, longest=150)
    return collate(utterances, PAPER, room_to_impute=True)


def test_paper_config_has_the_published_sizes() -> None:
    assert [PAPER.text.size, PAPER.audio.size, PAPER.visual.size] == [768, 33, 709]
    assert [PAPER.slots.text, PAPER.slots.audio, PAPER.slots.visual] == [25, 150, 100]
    assert (PAPER.network.hidden, PAPER.network.feedforward, PAPER.network.dropout) == (300, 1200, 0.3)


def test_paper_network_decides_and_trains_every_parameter() -> None:
    torch.manual_seed(0)
    network = EMMR(PAPER)
    guidance = GuidanceNetwork(PAPER).eval()
    batch = batch_of_eight().with_present(torch.tensor([s.mask() for s in (*SUBSETS, COMPLETE)]))
    decisions = decide(network.eval(), batch)
    assert len(decisions) == 8
    network.train()
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    targets = Targets(labels, dict.fromkeys(batch.features, labels))
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    before = [p.detach().clone() for p in network.parameters()]
    loss, parts = total_loss(network(batch), targets, batch.held, guidance.guide(batch), LossSettings())
    loss.backward()
    optimiser.step()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(part) and part > 0 for part in parts.values())
    moved = {n for (n, p), old in zip(network.named_parameters(), before, strict=True) if not torch.equal(p, old)}
    assert moved == {n for n, _ in network.named_parameters()}
