"""Static graphs equal the sparse path, and are used only if they are verified and faster."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import cycle

import numpy as np
import pytest
import torch

from model.modality import COMPLETE, SUBSETS, Modality, Utterance
from model.network.batch import collate
from model.network.decision import Decision
from model.network.emmr import EMMR
from model.network.inference import cuda_graphs
from model.network.inference.cuda_graphs import GraphedNetwork, InFlight, Kind, StaticGraph, record, reject_reason
from model.network.inference.fused import FusedNetwork
from model.network.inference.sparse import decide
from model.network.inference.static import StaticNetwork
from tests.support.network import random_network, random_utterances, tiny_config

CONFIG = tiny_config()
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> EMMR:
    return random_network(CONFIG)


@pytest.fixture(scope="module")
def graph(network: EMMR) -> StaticGraph:
    return graph_of(network, 8)


def graph_of(network: EMMR, size: int, kind: Kind = Kind.FULL) -> StaticGraph:
    return StaticGraph(StaticNetwork(FusedNetwork(network)), kind, size, CPU)


@pytest.fixture
def no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace recording, so that graphs are computed directly."""
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    monkeypatch.setattr(cuda_graphs, "_streams", lambda device: [None])
    monkeypatch.setattr(StaticGraph, "record", lambda self, pool, stream: None)


def timed(graph_seconds: float, sparse_seconds: float) -> Callable[[object], float]:
    """Replacement of `median_seconds`; a graph is timed after the sparse path."""
    seconds = cycle((sparse_seconds, graph_seconds))
    return lambda function: next(seconds)


def same(ours: Sequence[Decision], theirs: Sequence[Decision]) -> None:
    """Every field equal, numbers up to the effect of the batch composition."""
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        for name in ("probabilities", "full", "available", "key_score", "transformer", "ensemble"):
            assert getattr(a, name) == pytest.approx(getattr(b, name), abs=1e-5), name
        assert a.key_modalities == b.key_modalities
        assert a.ensemble_used is b.ensemble_used
        assert a.branch_weights == pytest.approx(b.branch_weights, abs=1e-5)
        for name in ("votes", "reconstruction"):
            mine, other = getattr(a, name), getattr(b, name)
            assert (mine is None) is (other is None)
            for key in mine or {}:
                assert mine[key] == pytest.approx(other[key], abs=1e-5)
            assert list(mine or {}) == list(other or {})


@pytest.mark.parametrize("explain", [False, True])
@pytest.mark.parametrize("both_paths", [False, True])
def test_static_graph_equals_the_sparse_path(
    network: EMMR, graph: StaticGraph, explain: bool, both_paths: bool
) -> None:
    gated = 0
    for seed in range(12):
        utterances = random_utterances(CONFIG, SUBSETS, seed=seed)
        ours = graph.decide(utterances, explain=explain, both_paths=both_paths)
        same(ours, decide(network, collate(utterances, CONFIG), explain=explain, both_paths=both_paths))
        gated += sum(d.ensemble_used for d in ours)
    assert gated > 5


def test_earlier_batches_leave_no_trace(graph: StaticGraph) -> None:
    (short,) = random_utterances(CONFIG, [COMPLETE], seed=3, longest=2)
    (first,) = graph.decide([short], explain=True, both_paths=True)
    graph.decide(random_utterances(CONFIG, SUBSETS, seed=4), explain=True, both_paths=True)
    graph.decide([_full_of(float("nan"))] * 8, explain=False, both_paths=False)
    (again,) = graph.decide([short], explain=True, both_paths=True)
    assert again == first


def _full_of(value: float) -> Utterance:
    return Utterance(
        {m: np.full((CONFIG.slots.of(m), CONFIG.feature_size(m)), value, dtype=np.float32) for m in COMPLETE}
    )


def test_more_slots_than_the_config_has_are_rejected(graph: StaticGraph) -> None:
    long = Utterance({Modality.TEXT: np.zeros((13, CONFIG.feature_size(Modality.TEXT)), dtype=np.float32)})
    with pytest.raises(ValueError, match="text: 13 slots, the config has 12"):
        graph.decide([long], explain=False, both_paths=False)


def test_graph_with_other_results_is_rejected(network: EMMR) -> None:
    other = FusedNetwork(random_network(CONFIG, seed=1))
    assert "differ" in str(reject_reason(graph_of(network, 2), other))


def test_graph_with_nan_results_is_rejected() -> None:
    broken = random_network(CONFIG)
    with torch.no_grad():
        broken.classifier.weight.fill_(float("nan"))
    assert "differ by nan" in str(reject_reason(graph_of(broken, 2), FusedNetwork(random_network(CONFIG))))


@pytest.mark.parametrize(("graph_seconds", "sparse_seconds"), [(1.0, 2.0), (2.0, 1.0)])
def test_only_faster_graphs_are_kept(
    network: EMMR, monkeypatch: pytest.MonkeyPatch, no_device: None, graph_seconds: float, sparse_seconds: float
) -> None:
    monkeypatch.setattr(cuda_graphs, "median_seconds", timed(graph_seconds, sparse_seconds))
    kept = record(FusedNetwork(network), CPU)
    sizes = cuda_graphs.SIZES if graph_seconds < sparse_seconds else ()
    assert {kind: tuple(graphs) for kind, graphs in kept.graphs.items()} == dict.fromkeys(Kind, sizes)


def test_median_run_time_is_measured() -> None:
    calls: list[None] = []
    assert cuda_graphs.median_seconds(lambda: calls.append(None)) >= 0
    assert len(calls) == cuda_graphs.ROUNDS


def test_sizes_that_cannot_be_recorded_are_omitted(
    network: EMMR, monkeypatch: pytest.MonkeyPatch, no_device: None, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: StaticGraph, pool: object, stream: object) -> None:
        if self.size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(StaticGraph, "record", fail)
    monkeypatch.setattr(cuda_graphs, "median_seconds", timed(1.0, 2.0))
    with caplog.at_level(logging.WARNING):
        kept = record(FusedNetwork(network), CPU)
    assert {kind: tuple(graphs) for kind, graphs in kept.graphs.items()} == dict.fromkeys(Kind, (1, 2))
    assert caplog.text.count("using the sparse path: CUDA out of memory") == 2 * (len(cuda_graphs.SIZES) - 2)


def graphed(network: EMMR, sizes: dict[Kind, Sequence[int]]) -> GraphedNetwork:
    graphs = {kind: {size: graph_of(network, size, kind) for size in own} for kind, own in sizes.items()}
    return GraphedNetwork(FusedNetwork(network), CPU, graphs)


@pytest.mark.parametrize("explain", [False, True])
@pytest.mark.parametrize("large", [0, cuda_graphs.LARGE], ids=["large parts", "small parts"])
@pytest.mark.parametrize(
    "sizes",
    [{Kind.COMPLETE: (1, 32), Kind.FULL: (2, 32)}, {Kind.COMPLETE: (), Kind.FULL: (4,)}, {}],
    ids=["all replayed", "some", "none"],
)
def test_order_is_kept_whatever_is_replayed(
    network: EMMR, monkeypatch: pytest.MonkeyPatch, explain: bool, large: int, sizes: dict[Kind, Sequence[int]]
) -> None:
    monkeypatch.setattr(cuda_graphs, "LARGE", large)
    utterances = random_utterances(CONFIG, SUBSETS * 40, seed=9)
    ours = graphed(network, sizes).decide(utterances, explain=explain, both_paths=True)
    assert [decision.votes is not None for decision in ours] == [explain] * len(utterances)
    same(ours, decide(network, collate(utterances, CONFIG), explain=explain, both_paths=True))


def test_graphs_of_complete_utterances_take_those_only(network: EMMR, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Kind, int, int]] = []
    plain = StaticGraph.write

    def noted(self: StaticGraph, utterances: Sequence[Utterance]) -> InFlight:
        assert self.kind is Kind.FULL or all(u.presence.complete for u in utterances)
        calls.append((self.kind, self.size, len(utterances)))
        return plain(self, utterances)

    monkeypatch.setattr(StaticGraph, "write", noted)
    own = graphed(network, {Kind.COMPLETE: (1, 32), Kind.FULL: (2, 32)})
    own.decide(random_utterances(CONFIG, SUBSETS * 7, seed=1))
    # parts of a split batch are written on several threads
    assert Counter(calls) == Counter([(Kind.COMPLETE, 32, 7), (Kind.FULL, 32, 32), (Kind.FULL, 32, 10)])
    calls.clear()
    own.decide(random_utterances(CONFIG, [COMPLETE], seed=1), explain=True)
    assert calls == [(Kind.FULL, 2, 1)]


@pytest.mark.cuda
def test_recorded_graphs_equal_the_sparse_path_on_the_cpu(network: EMMR) -> None:
    device = torch.device("cuda")
    there = record(FusedNetwork(random_network(CONFIG).to(device)), device)
    assert {size for graphs in there.graphs.values() for size in graphs} == set(cuda_graphs.SIZES)
    reserved = torch.cuda.memory_allocated(device)
    for _ in range(3):
        record(FusedNetwork(random_network(CONFIG).to(device)), device)
    assert torch.cuda.memory_allocated(device) <= reserved + 2**20
    for count in (1, 3, 20, 70):
        for shift in range(7):
            utterances = random_utterances(CONFIG, [SUBSETS[(shift + i) % 7] for i in range(count)], seed=shift)
            ours = there.decide(utterances, both_paths=True)
            for a, b in zip(ours, decide(network, collate(utterances, CONFIG), both_paths=True), strict=True):
                assert a.transformer == pytest.approx(b.transformer, abs=1e-4)
                assert a.ensemble is None or a.ensemble == pytest.approx(b.ensemble, abs=1e-4)
