"""The port has the answers of the sparse path, with the same weights."""

import numpy as np
import pytest
import torch

from benchmarks.naive import naive_port, pad
from benchmarks.network import largest_difference
from model.config import ModelConfig
from model.modality import SUBSETS, Modality, ModalitySet
from model.network.batch import collate
from model.network.inference.sparse import decide
from tests.support.network import random_network, random_utterances, tiny_config

CONFIG = tiny_config()
PLACED = tiny_config(network={**CONFIG.network.model_dump(), "positions": True})


@pytest.mark.parametrize("config", [CONFIG, PLACED], ids=["as published", "with positions"])
@pytest.mark.parametrize("subset", SUBSETS, ids=lambda s: s.name)
def test_the_port_equals_the_sparse_path(subset: ModalitySet, config: ModelConfig) -> None:
    network = random_network(config)
    utterances = random_utterances(config, [subset] * 12)
    answer = naive_port(network)(pad(utterances, config))
    assert largest_difference(decide(network, collate(utterances, config)), answer) < 1e-5


def test_both_paths_of_the_gate_are_compared() -> None:
    network = random_network(CONFIG)
    utterances = random_utterances(CONFIG, SUBSETS * 10)
    used = naive_port(network)(pad(utterances, CONFIG)).ensemble_used.tolist()
    assert 0 < sum(used) < len(used)


def test_answers_of_different_paths_differ_infinitely() -> None:
    network = random_network(CONFIG)
    utterances = random_utterances(CONFIG, SUBSETS)
    answer = naive_port(network)(pad(utterances, CONFIG))
    answer.ensemble_used.logical_not_()
    assert largest_difference(decide(network, collate(utterances, CONFIG)), answer) == float("inf")


def test_padding_reaches_the_most_slots_and_is_masked() -> None:
    (utterance,) = random_utterances(CONFIG, [ModalitySet.of(Modality.TEXT)])
    batch = pad([utterance], CONFIG)
    length = len(utterance.features[Modality.TEXT])
    for modality in Modality:
        assert batch.features[modality].shape == (1, CONFIG.slots.of(modality), CONFIG.feature_size(modality))
    assert batch.valid[Modality.TEXT].sum() == length
    assert not batch.valid[Modality.AUDIO].any()
    np.testing.assert_array_equal(batch.features[Modality.TEXT][0, :length], utterance.features[Modality.TEXT])
    assert torch.equal(batch.present, torch.tensor([[True, False, False]]))
