"""Familiarity of one modality, and the part of an utterance that is familiar."""

import math

import pytest
import torch

from model.modality import COMPLETE, MODALITIES, ModalitySet
from model.network.familiarity import FAMILIAR, Familiarity, familiar_part
from tests.support.network import random_utterances, tiny_config

T, A, V = MODALITIES


def test_familiar_part_omits_unfamiliar_modalities() -> None:
    (utterance,) = random_utterances(tiny_config(), [COMPLETE])
    assert familiar_part(utterance, {}) is None
    assert familiar_part(utterance, dict.fromkeys(MODALITIES, 0.0)) is None
    part = familiar_part(utterance, {A: FAMILIAR - 0.01})
    assert part is not None
    assert part.presence == ModalitySet.of(T, V)


def test_familiarity_decreases_with_distance() -> None:
    familiarity = Familiarity(size=33, directions=8, centres=3)
    familiarity.projection.copy_(torch.eye(33)[:, :8])
    familiarity.bounds.copy_(torch.tensor([1.0, 3.0]))

    def at(distance: float) -> float:
        mean = torch.zeros(1, 33)
        mean[0, 0] = math.sqrt(distance * 33)
        return float(familiarity(mean))

    assert [at(0.0), at(1.0)] == pytest.approx([1.0, 1.0], abs=1e-5)
    assert at(3.0) == pytest.approx(FAMILIAR, abs=1e-4)
    assert at(2.0) > FAMILIAR > at(5.0) > at(50.0) > 0


def test_unfitted_familiarity_is_one() -> None:
    familiarity = Familiarity(size=4, directions=2, centres=3)
    assert familiarity(torch.randn(5, 4) * 100).tolist() == [1.0] * 5
