"""The guidance network uses everything held, and is not trained once frozen."""

import torch

from model.modality import COMPLETE, MODALITIES, SUBSETS, ModalitySet
from model.network.batch import Batch, collate
from model.network.guidance import GuidanceNetwork
from tests.support.network import random_network, random_utterances, tiny_config

CONFIG = tiny_config()
D = CONFIG.network.hidden


def guidance_of(seed: int = 0) -> GuidanceNetwork:
    torch.manual_seed(seed)
    return GuidanceNetwork(CONFIG).eval()


def whole_batch() -> Batch:
    return collate(random_utterances(CONFIG, [COMPLETE] * 7), CONFIG, room_to_impute=True)


def test_guidance_has_the_shape_of_the_encodings() -> None:
    batch = whole_batch()
    guide = guidance_of().guide(batch)
    output = random_network(CONFIG)(batch)
    assert guide.shape == output.encodings["transformer"].shape == (7, output.slots.shape[1], D)


def test_guidance_does_not_depend_on_the_missing_pattern() -> None:
    batch, guidance = whole_batch(), guidance_of()
    hidden = batch.with_present(torch.tensor([s.mask() for s in SUBSETS]))
    assert torch.equal(guidance.guide(batch), guidance.guide(hidden))


def test_guidance_requires_no_gradient() -> None:
    assert not guidance_of().guide(whole_batch()).requires_grad


def test_all_parameters_but_missing_slots_get_gradients() -> None:
    guidance = guidance_of().train()
    torch.nn.functional.cross_entropy(guidance(whole_batch()), torch.tensor([0, 1, 2, 0, 1, 2, 0])).backward()
    for name, parameter in guidance.named_parameters():
        assert (parameter.grad is None) == name.startswith("encoder.missing."), name


def test_logits_do_not_depend_on_padding() -> None:
    guidance = guidance_of()
    utterances = random_utterances(CONFIG, [COMPLETE] * 3)
    together = guidance(collate(utterances, CONFIG))
    assert together.shape == (3, len(CONFIG.classes))
    for row, utterance in zip(together, utterances, strict=True):
        torch.testing.assert_close(row, guidance(collate([utterance], CONFIG))[0], atol=1e-5, rtol=1e-5)


def test_guidance_shares_no_parameters_with_the_network() -> None:
    guidance, network = guidance_of(1), random_network(CONFIG)
    assert guidance.encoder.state_dict().keys() == network.encoder.state_dict().keys()
    own = {id(p) for p in guidance.parameters()}
    assert not own & {id(p) for p in network.parameters()}


def test_modalities_that_are_not_held_have_no_valid_slots() -> None:
    batch = collate(random_utterances(CONFIG, [ModalitySet.of(MODALITIES[0])]), CONFIG)
    _, valid = guidance_of().encode(batch)
    assert int(valid.sum()) == int(batch.valid[MODALITIES[0]].sum())
