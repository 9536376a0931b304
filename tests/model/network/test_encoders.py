"""Modality encoders, the common space, and the slots of missing modalities."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.modality import COMPLETE, MODALITIES, SUBSETS, Modality, ModalitySet
from model.network.batch import Batch, collate
from model.network.encoders import CommonSpace, Encoder, MissingSlots, ModalityEncoder, concatenate, split
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


def test_modality_encoder_is_bias_free_projection_and_attention() -> None:
    encoder = ModalityEncoder(33, D, 4, 0.0)
    assert [name for name, _ in encoder.project.named_parameters()] == ["weight"]
    x, valid = torch.randn(2, 5, 33), torch.ones(2, 5, dtype=torch.bool)
    torch.testing.assert_close(encoder(x, valid), encoder.attention(encoder.project(x), valid))


def test_positions_distinguish_equal_slots() -> None:
    torch.manual_seed(0)
    x, valid = torch.randn(1, 1, 33).expand(1, 5, 33), torch.ones(1, 5, dtype=torch.bool)
    equal = ModalityEncoder(33, D, 4, 0.0)(x, valid)
    torch.testing.assert_close(equal, equal[:, :1].expand_as(equal))
    positioned = ModalityEncoder(33, D, 4, 0.0, positions=8)
    assert not torch.allclose(positioned(x, valid)[0, 0], positioned(x, valid)[0, 1], atol=1e-2)
    with torch.no_grad():
        assert positioned.position is not None
        expected = positioned.attention(positioned.project(x) + positioned.position[:5], valid)
    torch.testing.assert_close(positioned(x, valid), expected)


def test_only_audio_and_visual_can_have_positions() -> None:
    config = tiny_config(network={**CONFIG.network.model_dump(), "positions": True})
    shapes = {m: getattr(encoder_of(config).modalities[m], "position", None) for m in MODALITIES}
    assert shapes[T] is None
    assert [None if p is None else tuple(p.shape) for p in (shapes[A], shapes[V])] == [(20, D), (1, D)]
    assert all(encoder_of().modalities[m].position is None for m in MODALITIES)


def test_each_pair_shares_one_projection_to_half_the_size() -> None:
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


def test_missing_slots_sum_token_position_and_context() -> None:
    slots = MissingSlots(4, D, pooled=True)
    context = torch.randn(2, D)
    assert isinstance(slots.context, nn.Linear)
    expected = slots.token + slots.position[None] + slots.context(context)[:, None]
    torch.testing.assert_close(slots(context), expected)


def test_missing_slots_without_context_are_constant() -> None:
    slots = MissingSlots(4, D, pooled=False)
    assert slots.context is None
    assert torch.equal(slots(torch.randn(2, D)), (slots.token + slots.position).expand(2, -1, -1))


@pytest.mark.parametrize("subset", SUBSETS, ids=lambda s: s.name)
def test_fill_replaces_only_missing_sequences(subset: ModalitySet) -> None:
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


def test_fill_changes_nothing_in_a_short_complete_batch() -> None:
    batch = collate(random_utterances(CONFIG, [COMPLETE], longest=2), CONFIG)
    assert batch.valid[A].shape[1] < CONFIG.network.imputed_slots.audio
    encoder = encoder_of()
    common = encoder.encode(batch.features, batch.valid, batch.present)
    sequences, slots = encoder.fill(common, batch.valid, batch.present)
    assert all(torch.equal(sequences[m], common[m]) and torch.equal(slots[m], batch.valid[m]) for m in MODALITIES)


@pytest.mark.parametrize(("kind", "depends"), [("pooled", True), ("token", False)])
def test_imputed_slots_depend_on_present_content_unless_tokens(kind: str, depends: bool) -> None:
    encoder = encoder_of(with_missing_slots(kind))
    one, _ = filled(encoder, batch_of(ModalitySet.of(T), seed=1))
    other, _ = filled(encoder, batch_of(ModalitySet.of(T), seed=2))
    imputed = CONFIG.network.imputed_slots.audio
    assert torch.equal(one[A][:, :imputed], other[A][:, :imputed]) is not depends


def test_imputed_slots_ignore_hidden_content() -> None:
    encoder, batch = encoder_of(), batch_of(COMPLETE)
    hidden = batch.with_present(torch.tensor([ModalitySet.of(T).mask()]))
    changed = replace(hidden, features={**hidden.features, A: torch.randn_like(hidden.features[A])})

    def imputed(given: Batch) -> Tensor:
        with torch.no_grad():
            common = encoder.encode(given.features, given.valid, given.held)
            return encoder.fill(common, given.valid, given.present)[0][A]

    assert torch.equal(imputed(hidden), imputed(changed))


def test_unreadable_content_does_not_reach_the_output() -> None:
    encoder, batch = encoder_of(), batch_of(COMPLETE, ModalitySet.of(T))
    features = {m: x.clone() for m, x in batch.features.items()}
    features[A][1] = float("nan")
    with torch.no_grad():
        common = encoder.encode(features, batch.valid, batch.held)
        clean = encoder.encode(batch.features, batch.valid, batch.held)
    for modality in MODALITIES:
        assert torch.isfinite(common[modality]).all()
        assert torch.equal(common[modality], clean[modality])


def test_split_inverts_concatenate() -> None:
    sequences = {m: torch.randn(2, length, 16) for m, length in zip(MODALITIES, (3, 5, 1), strict=True)}
    slots = {m: torch.rand(2, x.shape[1]) < 0.5 for m, x in sequences.items()}
    x, valid = concatenate(COMPLETE, sequences, slots)
    assert (x.shape, valid.shape) == ((2, 9, 16), (2, 9))
    for modality, part in split(x, slots).items():
        assert torch.equal(part, sequences[modality])
    pair, _ = concatenate(ModalitySet.of(MODALITIES[2], MODALITIES[0]), sequences, slots)
    assert torch.equal(pair, torch.cat([sequences[MODALITIES[0]], sequences[MODALITIES[2]]], dim=1))
