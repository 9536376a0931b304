import pytest
import torch

from model.baselines.autoencoders import AE, CRA
from model.config import System
from model.modality import COMPLETE, MODALITIES, SUBSETS, Modality, ModalitySet
from tests.support.baselines import CONFIG, batch_of, config_of, hide, labelled, neural, with_content


@pytest.mark.parametrize("system", ["ae", "cra"])
def test_only_missing_modalities_are_reconstructed(system: System) -> None:
    network = neural(system)
    batch, answer = batch_of(labelled(CONFIG, 4))
    assert float(network.loss(batch, answer)[1]["reconstruction"]) == 0
    without_text = hide(batch, [ModalitySet.of(Modality.AUDIO, Modality.VISUAL)] * 4)
    error = float(network.loss(without_text, answer)[1]["reconstruction"])
    assert error > 0
    text = torch.tensor([[True, False, False]] * 4)
    changed = with_content(without_text, text, lambda x: x + 1)
    assert float(network.loss(changed, answer)[1]["reconstruction"]) != pytest.approx(error)


def test_errors_of_two_missing_modalities_are_added() -> None:
    network = neural("ae")
    batch, answer = batch_of(labelled(CONFIG, 1))
    means = {m: batch.features[m][0, batch.valid[m][0]].mean(dim=0) for m in MODALITIES}
    hidden = hide(batch, [ModalitySet.of(Modality.VISUAL)])
    assert isinstance(network, AE)
    parts = network.reconstruct(hidden)[0].split(128)
    expected = sum(
        float((network.decoders[m](parts[i]) - means[m]).detach().square().mean())
        for i, m in enumerate(MODALITIES)
        if m != Modality.VISUAL
    )
    assert float(network.loss(hidden, answer)[1]["reconstruction"]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("kind", "weight"), [(AE, 0.2), (CRA, 0.8)])
def test_the_reconstruction_has_the_weight_of_its_source(kind: type[AE], weight: float) -> None:
    network = neural("ae" if kind is AE else "cra")
    assert isinstance(network, kind)
    batch, answer = batch_of(labelled(CONFIG, 6))
    total, parts = network.loss(hide(batch, SUBSETS[1:]), answer)
    assert float(total.detach()) == pytest.approx(float(parts["answer"] + weight * parts["reconstruction"]))


def test_a_missing_modality_has_an_embedding_of_zeros() -> None:
    network = AE(config_of("ae")).eval()
    batch, _ = batch_of(labelled(CONFIG, 2))
    seen: list[torch.Tensor] = []
    network.autoencoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(hide(batch, [SUBSETS[1], COMPLETE]))  # the first has no visual
    third = seen[0][:, 256:]
    assert torch.equal(third[0], torch.zeros(128))
    assert third[1].abs().sum() > 0
