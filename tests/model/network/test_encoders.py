"""From features to the common sequence, and what stands in a missing modality's place."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.modality import COMPLETE, MODALITIES, SUBSETS, Modality, ModalitySet
from model.network.batch import Batch, collate
from model.network.encoders import CommonSpace, Encoder, MissingSlots, ModalityEncoder
from tests.support.network import random_utterances, tiny_config

CONFIG = tiny_config()
D = CONFIG.network.hidden
T, A, V = MODALITIES


def encoder_of(config: ModelConfig = CONFIG) -> Encoder:
    torch.manual_seed(0)
    return Encoder(config).eval()


def with_missing_slots(kind: str) -> ModelConfig:
    return tiny_config(network={**CONFIG.network.model_dump(), "missing_slots": kind})


def batch_of(*subsets: ModalitySet, seed: int = 0) -> Batch:
    return collate(random_utterances(CONFIG, subsets, seed), CONFIG, room_to_impute=True)


def filled(encoder: Encoder, batch: Batch) -> tuple[dict[Modality, Tensor], dict[Modality, Tensor]]:
    with torch.no_grad():
        common = encoder.encode(batch.features, batch.valid, batch.present)
        return encoder.fill(common, batch.valid, batch.present)


def test_the_projection_of_a_modality_has_no_bias_and_its_slots_see_each_other() -> None:
    encoder = ModalityEncoder(33, D, 4, 0.0)
    assert [name for name, _ in encoder.project.named_parameters()] == ["weight"]
    x, valid = torch.randn(2, 5, 33), torch.ones(2, 5, dtype=torch.bool)
    torch.testing.assert_close(encoder(x, valid), encoder.attention(encoder.project(x), valid))


def test_positions_tell_slots_apart_that_are_otherwise_alike() -> None:
    torch.manual_seed(0)
    x, valid = torch.randn(1, 1, 33).expand(1, 5, 33), torch.ones(1, 5, dtype=torch.bool)
    alike = ModalityEncoder(33, D, 4, 0.0)(x, valid)
    torch.testing.assert_close(alike, alike[:, :1].expand_as(alike))
    placed = ModalityEncoder(33, D, 4, 0.0, positions=8)
    assert not torch.allclose(placed(x, valid)[0, 0], placed(x, valid)[0, 1], atol=1e-2)
    with torch.no_grad():
        assert placed.position is not None
        expected = placed.attention(placed.project(x) + placed.position[:5], valid)
    torch.testing.assert_close(placed(x, valid), expected)


def test_voice_and_face_have_positions_where_asked_for_and_text_never() -> None:
    config = tiny_config(network={**CONFIG.network.model_dump(), "positions": True})
    shapes = {m: getattr(encoder_of(config).modalities[m], "position", None) for m in MODALITIES}
    assert shapes[T] is None
    assert [None if p is None else tuple(p.shape) for p in (shapes[A], shapes[V])] == [(20, D), (1, D)]
    assert all(encoder_of().modalities[m].position is None for m in MODALITIES)


def test_each_pair_of_modalities_shares_one_projection_to_half_the_size() -> None:
    space = CommonSpace(D)
    x = torch.randn(2, 3, D)
    assert set(space.pairs) == {"text_audio", "text_visual", "audio_visual"}
    expected = {
        T: [space.pairs["text_audio"](x), space.pairs["text_visual"](x)],
        A: [space.pairs["text_audio"](x), space.pairs["audio_visual"](x)],
        V: [space.pairs["text_visual"](x), space.pairs["audio_visual"](x)],
    }
    for modality, halves in expected.items():
        assert [half.shape for half in halves] == [(2, 3, D // 2)] * 2
        torch.testing.assert_close(space(x, modality), torch.cat(halves, dim=-1))


def test_missing_slots_are_a_token_a_position_and_a_view_of_what_is_present() -> None:
    slots = MissingSlots(4, D, pooled=True)
    context = torch.randn(2, D)
    assert isinstance(slots.context, nn.Linear)
    expected = slots.token + slots.position[None] + slots.context(context)[:, None]
    torch.testing.assert_close(slots(context), expected)


def test_missing_slots_without_that_view_are_the_same_for_everyone() -> None:
    slots = MissingSlots(4, D, pooled=False)
    assert slots.context is None
    assert torch.equal(slots(torch.randn(2, D)), (slots.token + slots.position).expand(2, -1, -1))


@pytest.mark.parametrize("subset", SUBSETS, ids=lambda s: s.name)
def test_present_sequences_stay_and_missing_ones_get_their_imputed_slots(subset: ModalitySet) -> None:
    encoder, batch = encoder_of(), batch_of(subset, subset)
    common = encoder.encode(batch.features, batch.valid, batch.present)
    sequences, slots = encoder.fill(common, batch.valid, batch.present)
    for modality in MODALITIES:
        length = batch.valid[modality].shape[1]
        assert sequences[modality].shape == (2, length, D)
        if modality in subset:
            assert torch.equal(slots[modality], batch.valid[modality])
            assert torch.equal(sequences[modality], common[modality])
        else:
            imputed = CONFIG.network.imputed_slots.of(modality)
            assert slots[modality].tolist() == [[True] * imputed + [False] * (length - imputed)] * 2


def test_without_room_for_imputed_slots_nothing_can_be_missing_and_nothing_changes() -> None:
    batch = collate(random_utterances(CONFIG, [COMPLETE], longest=2), CONFIG)
    assert batch.valid[A].shape[1] < CONFIG.network.imputed_slots.audio
    encoder = encoder_of()
    common = encoder.encode(batch.features, batch.valid, batch.present)
    sequences, slots = encoder.fill(common, batch.valid, batch.present)
    assert all(torch.equal(sequences[m], common[m]) and torch.equal(slots[m], batch.valid[m]) for m in MODALITIES)


@pytest.mark.parametrize(("kind", "depends"), [("pooled", True), ("token", False)])
def test_imputed_slots_depend_on_the_present_content_unless_switched_to_tokens(kind: str, depends: bool) -> None:
    encoder = encoder_of(with_missing_slots(kind))
    one, _ = filled(encoder, batch_of(ModalitySet.of(T), seed=1))
    other, _ = filled(encoder, batch_of(ModalitySet.of(T), seed=2))
    imputed = CONFIG.network.imputed_slots.audio
    assert torch.equal(one[A][:, :imputed], other[A][:, :imputed]) is not depends


def test_imputed_slots_see_nothing_of_what_is_held_but_hidden() -> None:
    encoder, batch = encoder_of(), batch_of(COMPLETE)
    hidden = batch.with_present(torch.tensor([ModalitySet.of(T).mask()]))
    changed = replace(hidden, features={**hidden.features, A: torch.randn_like(hidden.features[A])})

    def imputed(given: Batch) -> Tensor:
        with torch.no_grad():
            common = encoder.encode(given.features, given.valid, given.held)
            return encoder.fill(common, given.valid, given.present)[0][A]

    assert torch.equal(imputed(hidden), imputed(changed))


def test_what_cannot_be_read_is_replaced_before_anything_is_computed() -> None:
    encoder, batch = encoder_of(), batch_of(COMPLETE, ModalitySet.of(T))
    features = {m: x.clone() for m, x in batch.features.items()}
    features[A][1] = float("nan")
    with torch.no_grad():
        common = encoder.encode(features, batch.valid, batch.held)
        clean = encoder.encode(batch.features, batch.valid, batch.held)
    for modality in MODALITIES:
        assert torch.isfinite(common[modality]).all()
        assert torch.equal(common[modality], clean[modality])
