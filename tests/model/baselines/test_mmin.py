import pytest
import torch

from model.baselines.mmin import MMIN
from model.modality import SUBSETS, Modality, ModalitySet
from tests.support.baselines import CONFIG, batch_of, hide, labelled, neural


def mmin() -> MMIN:
    network = neural("mmin")
    assert isinstance(network, MMIN)
    return network


def test_the_second_stage_freezes_the_encoders_of_the_first() -> None:
    network = mmin()
    batch, answer = batch_of(labelled(CONFIG, 6))
    optimiser = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=1e-2)

    def step() -> None:
        optimiser.zero_grad()
        network.loss(hide(batch, SUBSETS[1:]), answer)[0].backward()
        optimiser.step()

    network.begin(0)
    step()
    network.begin(1)
    copied = {name: value.clone() for name, value in network.encoder.state_dict().items()}
    step()
    assert all(torch.equal(value, copied[name]) for name, value in network.frozen.state_dict().items())
    assert any(not torch.equal(value, copied[name]) for name, value in network.encoder.state_dict().items())
    assert not network.train().frozen.training


def test_the_first_stage_has_a_classifier_of_its_own() -> None:
    network = mmin()
    batch, answer = batch_of(labelled(CONFIG, 3))
    last = network(batch)
    network.begin(0)
    assert not torch.equal(network(batch), last)
    assert network.loss(batch, answer)[1].keys() == {"answer"}


def test_imagination_is_compared_with_missing_embeddings_alone() -> None:
    network = mmin()
    network.begin(1)
    batch, answer = batch_of(labelled(CONFIG, 2))
    total, parts = network.loss(batch, answer)
    assert parts["imagination"] == 0
    assert parts["cycle"] > 0
    hidden = hide(batch, [ModalitySet.of(Modality.TEXT)] * 2)
    total, parts = network.loss(hidden, answer)
    assert float(total.detach()) == pytest.approx(
        float(parts["answer"] + 4 * parts["imagination"] + 2 * parts["cycle"]), rel=1e-5
    )
    imagined = network.imagine(network.encoder(hidden, hidden.present).flatten(1))[1].view(2, 3, 128)
    true = network.frozen(batch, batch.held)
    assert float(parts["imagination"]) == pytest.approx(
        float((imagined - true)[:, 1:].detach().square().mean()), rel=1e-4
    )


def test_five_codes_are_classified() -> None:
    network = mmin()
    batch, _ = batch_of(labelled(CONFIG, 2))
    seen: list[torch.Tensor] = []
    network.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(batch)
    assert seen[0].shape == (2, 320)
