import torch

from model.baselines.transm import DIRECTIONS, TransM
from model.modality import Modality, ModalitySet
from tests.support.baselines import CONFIG, batch_of, hide, labelled, neural

T, A, V = Modality


def test_text_is_translated_both_ways_to_each_other_modality() -> None:
    assert set(DIRECTIONS) == {(T, A), (A, T), (T, V), (V, T)}


def test_states_of_missing_sources_are_zero_in_the_classifier() -> None:
    network = neural("transm")
    assert isinstance(network, TransM)
    batch, _ = batch_of(labelled(CONFIG, 2))
    seen: list[torch.Tensor] = []
    network.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(hide(batch, [ModalitySet.of(A)] * 2))
    parts = dict(zip(DIRECTIONS, seen[0].chunk(4, dim=-1), strict=True))
    assert {direction for direction, part in parts.items() if part.abs().sum() > 0} == {(A, T)}


def test_a_translation_without_its_source_has_no_error() -> None:
    network = neural("transm")
    batch, answer = batch_of(labelled(CONFIG, 2))
    _, parts = network.loss(hide(batch, [ModalitySet.of(T)] * 2), answer)
    assert parts["forward"] > 0
    assert parts["backward"] == 0


def test_translations_improve_with_training() -> None:
    network = neural("transm")
    batch, answer = batch_of(labelled(CONFIG, 6))
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    errors = []
    for _ in range(20):
        loss, parts = network.loss(batch, answer)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        errors.append(float(parts["forward"] + parts["backward"]))
    assert errors[-1] < 0.95 * errors[0]
