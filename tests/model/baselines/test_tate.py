import pytest
import torch

from model.baselines.tate import TAG, TATE, tags
from model.config import ModelConfig, NetworkConfig, Slots
from model.modality import SUBSETS, Modality, ModalitySet
from model.network.batch import collate
from tests.support.baselines import CONFIG, batch_of, config_of, hide, labelled, neural
from tests.support.network import random_utterances

TAGS = {
    "text+audio+visual": "1000",
    "text+audio": "0100",
    "text+visual": "0010",
    "audio+visual": "0001",
    "text": "0110",
    "audio": "0101",
    "visual": "0011",
}


def tate() -> TATE:
    network = neural("tate")
    assert isinstance(network, TATE)
    return network


@pytest.mark.parametrize("subset", SUBSETS, ids=lambda s: s.name)
def test_the_tag_names_what_is_missing(subset: ModalitySet) -> None:
    (row,) = tags(torch.tensor([subset.mask()])).tolist()
    assert "".join(str(int(digit)) for digit in row) == TAGS[subset.name]


def test_the_tag_is_in_every_slot_before_the_common_space() -> None:
    network = tate()
    batch = hide(batch_of(labelled(CONFIG, 7))[0], SUBSETS)
    seen: list[torch.Tensor] = []
    network.encoder.common.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(batch)
    assert len(seen) == 3
    for column, x in enumerate(seen):
        assert x.shape[-1] == CONFIG.network.hidden + TAG
        assert torch.equal(x[..., -TAG:], tags(batch.present)[:, None].expand(-1, x.shape[1], -1))
        missing = ~batch.present[:, column]
        assert torch.equal(x[missing][..., :-TAG], torch.zeros_like(x[missing][..., :-TAG]))


def test_a_missing_modality_has_its_imputed_slots() -> None:
    network = tate()
    batch = hide(batch_of(labelled(CONFIG, 2))[0], [ModalitySet.of(Modality.VISUAL)] * 2)
    encoded = network.encoder(batch, batch.present)
    imputed = CONFIG.network.imputed_slots
    assert encoded.valid.sum(dim=1).tolist() == [imputed.text + imputed.audio + 1] * 2


def test_the_second_stage_has_all_four_auxiliary_terms() -> None:
    network = tate()
    batch, answer = batch_of(labelled(CONFIG, 6))
    network.begin(0)
    assert network.loss(batch, answer)[1].keys() == {"answer", "tag"}
    network.begin(1)
    total, parts = network.loss(hide(batch, SUBSETS[1:]), answer)
    assert parts.keys() == {"answer", "tag", "forward", "backward"}
    auxiliary = parts["tag"] + parts["forward"] + parts["backward"]
    assert float(total.detach()) == pytest.approx(float(parts["answer"] + 0.1 * auxiliary))


def test_the_forward_loss_of_complete_input_begins_at_zero() -> None:
    network = tate()
    network.begin(1)
    batch, answer = batch_of(labelled(CONFIG, 3))
    assert float(network.loss(batch, answer)[1]["forward"]) == pytest.approx(0, abs=1e-6)
    hidden = hide(batch, [SUBSETS[4]] * 3)
    assert network.loss(hidden, answer)[1]["forward"] > 1e-4


def test_the_pretrained_encoder_is_not_trained() -> None:
    network = tate()
    network.begin(1)
    batch, answer = batch_of(labelled(CONFIG, 3))
    network.train()
    network.loss(hide(batch, [SUBSETS[4]] * 3), answer)[0].backward()
    assert not network.frozen.training
    assert all(p.grad is None for p in network.frozen.parameters())
    assert all(p.grad is not None for p in network.encoder.parameters())


@pytest.mark.parametrize(("hidden", "heads"), [(300, 4), (96, 8), (18, 6)])
def test_heads_that_do_not_divide_the_tagged_width_are_reduced(hidden: int, heads: int) -> None:
    network = NetworkConfig(
        hidden=hidden,
        heads=heads,
        autoencoder=(8, 8, 8, 4, 8, 8, hidden),
        imputed_slots=Slots(text=1, audio=1, visual=1),
    )
    config: ModelConfig = config_of("tate", network=network)
    assert TATE(config).eval()(collate(random_utterances(config, [SUBSETS[0]]), config)).shape == (1, 3)
