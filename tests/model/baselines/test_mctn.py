import pytest
import torch

from model.baselines.base import AnswerLoss
from model.baselines.mctn import MCTN
from model.config import Slots, VisualConfig
from model.modality import SUBSETS, Modality, ModalitySet
from model.network.losses import LossSettings, Targets
from tests.support.baselines import CONFIG, batch_of, config_of, hide, labelled, neural

WITHOUT_TEXT = [subset for subset in SUBSETS if Modality.TEXT not in subset]


def test_without_text_the_answer_is_the_training_distribution() -> None:
    network = neural("mctn")
    batch, _ = batch_of(labelled(CONFIG, 10))
    labels = torch.tensor([0] * 7 + [1] * 2 + [2])
    network.train()
    for _ in range(30):
        network.loss(batch, AnswerLoss(Targets(labels, {}), LossSettings()))
    network.eval()
    for subset in WITHOUT_TEXT:
        answers = network(hide(batch, [subset] * 10)).softmax(dim=-1)
        torch.testing.assert_close(answers, torch.tensor([0.7, 0.2, 0.1]).expand(10, 3), atol=0.01, rtol=0)


def test_an_untrained_prior_is_uniform() -> None:
    batch, _ = batch_of(labelled(CONFIG, 2))
    answers = neural("mctn")(hide(batch, [WITHOUT_TEXT[0]] * 2)).softmax(dim=-1)
    torch.testing.assert_close(answers, torch.full((2, 3), 1 / 3))


def test_voice_and_face_beside_the_text_change_nothing() -> None:
    network = neural("mctn")
    batch, _ = batch_of(labelled(CONFIG, 4))
    alone = network(hide(batch, [ModalitySet.of(Modality.TEXT)] * 4))
    torch.testing.assert_close(network(batch), alone)


def test_the_three_translations_have_a_tenth_of_the_weight() -> None:
    network = neural("mctn")
    batch, answer = batch_of(labelled(CONFIG, 4))
    total, parts = network.loss(batch, answer)
    assert parts.keys() == {"answer", "visual", "cycle", "audio"}
    translated = parts["visual"] + parts["cycle"] + parts["audio"]
    assert float(total.detach()) == pytest.approx(float(parts["answer"] + 0.1 * translated))


def test_without_text_nothing_is_translated() -> None:
    network = neural("mctn")
    batch, answer = batch_of(labelled(CONFIG, 4))
    _, parts = network.loss(hide(batch, [WITHOUT_TEXT[0]] * 4), answer)
    assert [float(parts[name]) for name in ("visual", "cycle", "audio")] == [0, 0, 0]


def test_every_part_of_the_network_is_trained() -> None:
    slots = Slots(text=6, audio=6, visual=6)
    config = config_of("mctn", visual=VisualConfig(reduce="frames"), slots=slots)
    network = MCTN(config)
    batch, answer = batch_of(labelled(config, 4), config)
    network.loss(batch, answer)[0].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
