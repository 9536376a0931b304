"""The full graph can be recorded, and its results give the decisions of the sparse path."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from model.modality import SUBSETS
from model.network.batch import collate
from model.network.emmr import EMMR
from model.network.inference.cuda_graphs import batch_views, buffer_offsets
from model.network.inference.results import VOTES, Results, decisions, full_graph
from model.network.inference.sparse import decide
from tests.support.network import random_network, random_utterances, tiny_config

CONFIG = tiny_config()


class ForbidHostTensors(TorchFunctionMode):
    """Fail where a tensor is created from host data."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        assert func.__name__ not in {"tensor", "as_tensor", "from_numpy", "cuda", "pin_memory"}
        return func(*args, **(kwargs or {}))


def test_full_graph_neither_synchronises_nor_uses_host_data() -> None:
    size, device = 2, torch.device("meta")  # reading a value of such a tensor fails
    network = EMMR(CONFIG).eval().to(device)
    buffer = torch.zeros(buffer_offsets(CONFIG, size)[-1], dtype=torch.uint8, device=device)
    batch = batch_views(buffer, CONFIG, size)
    with torch.inference_mode(), ForbidHostTensors():
        matrix = full_graph(network, batch)
    assert matrix.device == device
    assert matrix.shape == (size, sum(Results.widths(3))) == (size, 3 * 3 + 4 * 3 + 1 + 1 + 3 + 3)
    with pytest.raises(RuntimeError):  # the sparse path synchronises
        decide(network, batch)
    with pytest.raises(AssertionError), ForbidHostTensors():
        torch.tensor([1.0], device=device)


def test_full_graph_gives_the_decisions_of_the_sparse_path() -> None:
    network = random_network(CONFIG)
    utterances = random_utterances(CONFIG, SUBSETS * 5)
    batch = collate(utterances, CONFIG)
    with torch.inference_mode():
        matrix = full_graph(network, batch)
    presences = [utterance.presence for utterance in utterances]
    full = decisions(matrix, presences, CONFIG, explain=True, both_paths=True)
    for ours, theirs in zip(full, decide(network, batch, explain=True, both_paths=True), strict=True):
        assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-5)
        assert (ours.key_modalities, ours.ensemble_used) == (theirs.key_modalities, theirs.ensemble_used)
    assert 0 < sum(decision.ensemble_used for decision in full) < len(full)


def test_results_are_views_of_the_matrix() -> None:
    matrix = torch.arange(58.0).view(2, 29)
    results = Results.of(matrix, 3)
    assert results.available[0].tolist() == [6, 7, 8]
    for k, subset in enumerate(VOTES):
        results.vote(subset)[1] = float(k)
    assert matrix[1, 9:21].tolist() == [0.0] * 3 + [1.0] * 3 + [2.0] * 3 + [3.0] * 3
