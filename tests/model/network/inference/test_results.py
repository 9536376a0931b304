"""The full graph can be recorded, and its results give the decisions of the sparse path."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from model.config import BRANCHES
from model.modality import SUBSETS
from model.network.batch import collate
from model.network.emmr import EMMR
from model.network.inference.cuda_graphs import batch_views, buffer_offsets
from model.network.inference.results import VOTES, Results, decisions, full_graph
from model.network.inference.sparse import decide
from tests.support.network import ABLATIONS, ablation_config, random_network, random_utterances, tiny_config

CONFIG = tiny_config()


class ForbidHostTensors(TorchFunctionMode):
    """Fail where a tensor is created from host data."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        assert func.__name__ not in {"tensor", "as_tensor", "from_numpy", "cuda", "pin_memory"}
        return func(*args, **(kwargs or {}))


CONFIGS = {"emmr": CONFIG} | {name: ablation_config(name) for name in ABLATIONS}


@pytest.mark.parametrize("name", CONFIGS)
def test_full_graph_neither_synchronises_nor_uses_host_data(name: str) -> None:
    config = CONFIGS[name]
    size, device = 2, torch.device("meta")  # reading a value of such a tensor fails
    network = EMMR(config).eval().to(device)
    buffer = torch.zeros(buffer_offsets(config, size)[-1], dtype=torch.uint8, device=device)
    batch = batch_views(buffer, config, size)
    with torch.inference_mode(), ForbidHostTensors():
        matrix = full_graph(network, batch)
    assert matrix.device == device
    branches = len(config.network.branches)
    assert matrix.shape == (size, sum(Results.widths(config))) == (size, 3 * 3 + 4 * 3 + 1 + 1 + branches + 3)
    with pytest.raises(RuntimeError):  # the sparse path synchronises
        decide(network, batch)
    with pytest.raises(AssertionError), ForbidHostTensors():
        torch.tensor([1.0], device=device)


@pytest.mark.parametrize("name", CONFIGS)
def test_full_graph_gives_the_decisions_of_the_sparse_path(name: str) -> None:
    config = CONFIGS[name]
    network = random_network(config)
    utterances = random_utterances(config, SUBSETS * 5)
    batch = collate(utterances, config)
    with torch.inference_mode():
        matrix = full_graph(network, batch)
    presences = [utterance.presence for utterance in utterances]
    full = decisions(matrix, presences, config, explain=True, both_paths=True)
    for ours, theirs in zip(full, decide(network, batch, explain=True, both_paths=True), strict=True):
        assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-5)
        assert (ours.key_modalities, ours.ensemble_used) == (theirs.key_modalities, theirs.ensemble_used)
        assert ours.branch_weights == pytest.approx(theirs.branch_weights, abs=1e-5)
        assert set(ours.branch_weights) == set(BRANCHES)
        assert {b for b, weight in ours.branch_weights.items() if weight} <= set(config.network.branches)
        assert sum(ours.branch_weights.values()) == pytest.approx(1)
        assert (ours.ensemble is None) is (theirs.ensemble is None)
        assert ours.ensemble is None or ours.ensemble == pytest.approx(theirs.ensemble, abs=1e-5)
        for modality, figures in (ours.reconstruction or {}).items():
            assert theirs.reconstruction is not None
            assert figures == pytest.approx(theirs.reconstruction[modality], abs=1e-5)
    assert 0 < sum(decision.ensemble_used for decision in full) < len(full)


def test_results_are_views_of_the_matrix() -> None:
    matrix = torch.arange(58.0).view(2, 29)
    results = Results.of(matrix, CONFIG)
    assert results.available[0].tolist() == [6, 7, 8]
    for k, subset in enumerate(VOTES):
        results.vote(subset)[1] = float(k)
    assert matrix[1, 9:21].tolist() == [0.0] * 3 + [1.0] * 3 + [2.0] * 3 + [3.0] * 3
