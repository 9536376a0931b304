"""Fixed shapes say what `decide` says; what is recorded proves itself, or is not used."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from model.modality import COMPLETE, SUBSETS, Modality, Utterance
from model.network.batch import collate
from model.network.decision import Decision
from model.network.emmr import EMMR
from model.network.inference import cuda_graphs as replay
from model.network.inference.cuda_graphs import CudaGraphs, StaticGraph, objection, record
from model.network.inference.fused import FusedNetwork
from model.network.inference.sparse import decide
from model.network.inference.static_graph import whole_graph
from tests.support.network import random_network, random_utterances, tiny_config

CONFIG = tiny_config()
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> EMMR:
    return random_network(CONFIG)


@pytest.fixture(scope="module")
def bucket(network: EMMR) -> StaticGraph:
    return StaticGraph(network, 8, CPU)


@pytest.fixture
def no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recording without a device: passes run as they are."""

    @contextmanager
    def stream(device: torch.device) -> Iterator[None]:
        yield

    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    monkeypatch.setattr(torch.cuda, "Stream", stream)
    monkeypatch.setattr(StaticGraph, "record", lambda self, pool, stream: None)


def same(ours: Sequence[Decision], theirs: Sequence[Decision]) -> None:
    """Every field alike, every number within what company may change."""
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
def test_a_bucket_decides_as_step_by_step(network: EMMR, bucket: StaticGraph, explain: bool, both_paths: bool) -> None:
    fired = 0
    for seed in range(12):
        utterances = random_utterances(CONFIG, SUBSETS, seed=seed)
        ours = bucket.decide(utterances, explain=explain, both_paths=both_paths)
        same(ours, decide(network, collate(utterances, CONFIG), explain=explain, both_paths=both_paths))
        fired += sum(d.ensemble_used for d in ours)
    assert fired > 5  # the gate was passed both ways


def test_a_bucket_forgets_what_it_decided_before(bucket: StaticGraph) -> None:
    (short,) = random_utterances(CONFIG, [COMPLETE], seed=3, longest=2)
    (first,) = bucket.decide([short], explain=True, both_paths=True)
    bucket.decide(random_utterances(CONFIG, SUBSETS, seed=4), explain=True, both_paths=True)
    bucket.decide([_full_of(float("nan"))] * 8, explain=False, both_paths=False)
    (again,) = bucket.decide([short], explain=True, both_paths=True)
    assert again == first


def _full_of(value: float) -> Utterance:
    return Utterance(
        {m: np.full((CONFIG.slots.of(m), CONFIG.feature_size(m)), value, dtype=np.float32) for m in COMPLETE}
    )


def test_more_slots_than_there_is_room_for_are_refused(bucket: StaticGraph) -> None:
    long = Utterance({Modality.TEXT: np.zeros((13, CONFIG.feature_size(Modality.TEXT)), dtype=np.float32)})
    with pytest.raises(ValueError, match="text: 13 slots, the config has 12"):
        bucket.decide([long], explain=False, both_paths=False)


def test_the_smallest_bucket_that_is_large_enough_is_taken(network: EMMR) -> None:
    buckets = CudaGraphs([StaticGraph(network, size, CPU) for size in (4, 1, 2)])
    assert buckets.sizes == (1, 2, 4)
    assert [b.size for n in (1, 2, 3, 4) if (b := buckets.bucket(n))] == [1, 2, 4, 4]
    assert buckets.bucket(5) is None


class NothingFromTheHost(TorchFunctionMode):
    """Sending a constant to the device is an error."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        assert func.__name__ not in {"tensor", "as_tensor", "from_numpy", "cuda", "pin_memory"}
        return func(*args, **(kwargs or {}))


def test_a_pass_asks_the_device_nothing_and_is_sent_nothing() -> None:
    """What a recording cannot hold: a number read on the way, a shape that depends on one, a tensor from elsewhere."""
    size, device = 2, torch.device("meta")  # tensors without content: whoever reads one fails
    network = EMMR(CONFIG).eval().to(device)
    memory = torch.zeros(replay._places(CONFIG, size)[-1], dtype=torch.uint8, device=device)
    batch = replay._views(memory, CONFIG, size)
    with torch.inference_mode(), NothingFromTheHost():
        matrix = whole_graph(network, batch).matrix
    assert matrix.device == device
    assert matrix.shape == (size, 2 * 3 + 4 * 3 + 3 + 1 + 1 + 3 + 3)
    with pytest.raises(RuntimeError):  # step by step does ask
        decide(network, batch)
    with pytest.raises(AssertionError), NothingFromTheHost():
        torch.tensor([1.0], device=device)


def test_a_bucket_that_says_something_else_is_objected_to(network: EMMR) -> None:
    other = FusedNetwork(random_network(CONFIG, seed=1))
    assert "differ" in str(objection(StaticGraph(network, 2, CPU), other))


def test_a_bucket_that_says_nothing_at_all_is_objected_to() -> None:
    broken = random_network(CONFIG)
    with torch.no_grad():
        broken.classifier.weight.fill_(float("nan"))
    assert "differ by nan" in str(objection(StaticGraph(broken, 2, CPU), FusedNetwork(random_network(CONFIG))))


@pytest.mark.parametrize(("replayed", "computed"), [(1.0, 2.0), (2.0, 1.0)])
def test_only_what_is_faster_is_replayed(
    network: EMMR, monkeypatch: pytest.MonkeyPatch, no_device: None, replayed: float, computed: float
) -> None:
    monkeypatch.setattr(replay, "side_by_side", lambda *functions: [replayed, computed])
    kept = record(FusedNetwork(network), CPU)
    assert kept.sizes == (replay.SIZES if replayed < computed else ())


def test_times_are_taken_in_turn() -> None:
    calls: list[str] = []
    seconds = replay.side_by_side(lambda: calls.append("a"), lambda: calls.append("b"))
    assert calls == ["a", "b"] * replay.ROUNDS
    assert len(seconds) == 2


def test_what_cannot_be_recorded_is_computed_step_by_step(
    network: EMMR, monkeypatch: pytest.MonkeyPatch, no_device: None, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: StaticGraph, pool: object, stream: object) -> None:
        if self.size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(StaticGraph, "record", refuse)
    monkeypatch.setattr(replay, "side_by_side", lambda *functions: [1.0, 2.0])
    with caplog.at_level(logging.WARNING):
        assert record(FusedNetwork(network), CPU).sizes == (1, 2)
    assert caplog.text.count("computed step by step: CUDA out of memory") == 2


@pytest.mark.cuda
def test_a_recording_gives_the_answers_of_the_cpu(network: EMMR) -> None:
    device = torch.device("cuda")
    there = random_network(CONFIG).to(device)
    for size in replay.SIZES:
        recorded = StaticGraph(there, size, device)
        recorded.record(torch.cuda.graph_pool_handle(), torch.cuda.Stream(device))
        for shift in range(7):
            utterances = random_utterances(CONFIG, [SUBSETS[(shift + i) % 7] for i in range(size)], seed=shift)
            ours = recorded.decide(utterances, explain=True, both_paths=True)
            for a, b in zip(ours, decide(network, collate(utterances, CONFIG), both_paths=True), strict=True):
                assert a.transformer == pytest.approx(b.transformer, abs=1e-4)
                assert a.ensemble is None or a.ensemble == pytest.approx(b.ensemble, abs=1e-4)
