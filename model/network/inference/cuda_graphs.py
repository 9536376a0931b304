"""CUDA graphs of a few batch sizes: a replay costs one launch, where the sparse path costs hundreds.

Shapes: B utterances of a graph, as in `model.network.inference.static`.
"""

import logging
import timeit
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from functools import cache
from itertools import chain, islice
from statistics import median
from typing import Final

import numpy as np
import torch
from torch import Tensor

from model.config import ModelConfig
from model.modality import COMPLETE, SUBSETS, Modality, ModalitySet, Utterance
from model.network.batch import collate
from model.network.decision import Decision
from model.network.inference.fused import FusedNetwork
from model.network.inference.results import Results, decisions
from model.network.inference.sparse import decide
from model.network.inference.static import InputWriter, StaticInput, StaticNetwork
from model.types import FloatArray

SIZES: Final = (1, 2, 4, 8, 16, 32)
"""Batch sizes of recorded graphs. Larger batches are split."""
WRITERS: Final = 2
"""Parts of a large batch that are written at the same time, if their input has at least `LARGE` bytes; else one."""
LARGE: Final = 4 * 2**20
AHEAD: Final = 2
"""Parts of a large batch that are given to the device before the results of the first are waited for."""
STREAMS: Final = 4
"""On which graphs are recorded: one, and three for parts that do not depend on each other."""
TOLERANCE: Final = 1e-4
"""Allowed difference of a probability from that of the sparse path; the batch composition can cause as much."""
WARM_UPS: Final = 3  # passes before recording, in which libraries choose algorithms and allocate workspaces
ROUNDS: Final = 7  # of timing

_log = logging.getLogger(__name__)


class Kind(Enum):
    """What a graph computes."""

    COMPLETE = "complete utterances"
    FULL = "any utterances"


class InFlight:
    """Host memory of the input and results of one batch, pinned for CUDA, and an event that follows its results."""

    def __init__(self, config: ModelConfig, size: int, *, pinned: bool) -> None:
        self.input = StaticInput.empty(config, size, torch.device("cpu"), pinned=pinned)
        self.writer = InputWriter(self.input, config)
        self.presences: list[ModalitySet] = []
        self.results = torch.empty(size, sum(Results.widths(config)), pin_memory=pinned)
        self.done = torch.cuda.Event() if pinned else None


class StaticGraph:
    """Input buffers for up to `size` utterances, and a function of `StaticNetwork` on them.

    Inputs are written to one pinned buffer, so that one copy transfers them and another one the results.

    Args:
        network: on the device.
        kind: which function.
        size: B.
        device: CUDA, for which `record` can be called; on any other device the function is called directly.
    """

    def __init__(self, network: StaticNetwork, kind: Kind, size: int, device: torch.device) -> None:
        self.config, self.kind, self.size, self.device = network.config, kind, size, device
        self._function = network.complete if kind is Kind.COMPLETE else network.full
        self._input = StaticInput.empty(self.config, size, device)
        self._unused: list[InFlight] = []
        self._graph: torch.cuda.CUDAGraph | None = None
        self._recorded: Tensor | None = None

    @property
    def input_bytes(self) -> int:
        """Bytes of the input of `size` utterances."""
        return self._input.buffer.nbytes

    def record(self, pool: "torch.cuda._POOL_HANDLE", stream: torch.cuda.Stream) -> None:
        """Record the graph.

        Args:
            pool: memory shared by graphs, of which only one is replayed at a time.
            stream: to record on; the same for all graphs that share memory.

        Raises:
            RuntimeError: recording fails, for example for lack of memory.
        """
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.inference_mode(), torch.cuda.device(self.device):
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    self._function(self._input)
            graph = torch.cuda.CUDAGraph()
            # Other threads use the device while weights are reloaded; their calls must not invalidate the recording.
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                self._recorded = self._function(self._input)
        self._graph = graph

    def decide(
        self, utterances: Sequence[Utterance], *, explain: bool = False, both_paths: bool = False
    ) -> list[Decision]:
        """Decide on at most `size` utterances that the kind allows; from one thread at a time.

        Raises:
            ValueError: one has more slots than the config allows.
        """
        batch = self.write(utterances)
        self.start(batch)
        return self.finish(batch, explain=explain, both_paths=both_paths)

    def write(self, utterances: Sequence[Utterance]) -> InFlight:
        """First step of `decide`, from any thread: write utterances to memory that is theirs until the last step."""
        try:
            batch = self._unused.pop()
        except IndexError:
            batch = InFlight(self.config, self.size, pinned=self.device.type == "cuda")
        batch.writer.write(utterances)
        batch.presences = [utterance.presence for utterance in utterances]
        return batch

    def start(self, batch: InFlight) -> None:
        """Second step: compute, without waiting for the results."""
        with torch.inference_mode():
            self._input.buffer.copy_(batch.input.buffer, non_blocking=True)
            if self._graph is None:
                results = self._function(self._input)
            else:
                assert self._recorded is not None
                self._graph.replay()
                results = self._recorded
            batch.results.copy_(results, non_blocking=True)
            if batch.done is not None:
                batch.done.record(torch.cuda.current_stream(self.device))

    def finish(self, batch: InFlight, *, explain: bool, both_paths: bool) -> list[Decision]:
        """Last step: wait for the results."""
        if batch.done is not None:
            batch.done.synchronize()
        found = decisions(batch.results, batch.presences, self.config, explain=explain, both_paths=both_paths)
        self._unused.append(batch)
        return found


@dataclass(frozen=True, slots=True)
class GraphedNetwork:
    """A network of which some batches are replayed; the others take the sparse path.

    Args:
        network: on the device.
        device: of the network.
        graphs: kind → batch size → graph, sizes ascending.
    """

    network: FusedNetwork
    device: torch.device
    graphs: Mapping[Kind, Mapping[int, StaticGraph]]

    def decide(
        self, utterances: Sequence[Utterance], *, explain: bool = False, both_paths: bool = False
    ) -> list[Decision]:
        """Decide on any number of utterances; from one thread at a time.

        Raises:
            ValueError: as `collate`.
        """
        if explain:  # votes of complete utterances are in the full graph only
            return self._decide(Kind.FULL, utterances, explain=True, both_paths=both_paths)
        kinds = [Kind.COMPLETE if utterance.presence.complete else Kind.FULL for utterance in utterances]
        decided: dict[Kind, Iterator[Decision]] = {}
        for kind in dict.fromkeys(kinds):
            chosen = [utterance for utterance, own in zip(utterances, kinds, strict=True) if own is kind]
            decided[kind] = iter(self._decide(kind, chosen, explain=False, both_paths=both_paths))
        return [next(decided[kind]) for kind in kinds]

    def _decide(
        self, kind: Kind, utterances: Sequence[Utterance], *, explain: bool, both_paths: bool
    ) -> list[Decision]:
        graphs = self.graphs.get(kind, {})
        largest = max(graphs, default=0)
        if not graphs or len(utterances) > largest < SIZES[-1]:  # larger graphs took longer than the sparse path
            batch = collate(utterances, self.network.network.config).to(self.device)
            return decide(self.network, batch, explain=explain, both_paths=both_paths)
        parts = [utterances[start : start + largest] for start in range(0, len(utterances), largest)]
        work = [(next(graph for size, graph in graphs.items() if size >= len(part)), part) for part in parts]
        if len(work) == 1:  # without a thread, for latency
            ((graph, part),) = work
            return graph.decide(part, explain=explain, both_paths=both_paths)
        found: list[Decision] = []
        computing = deque[tuple[StaticGraph, InFlight]]()
        for graph, written in _write_ahead(work):
            if len(computing) == AHEAD:
                earlier, computed = computing.popleft()
                found += earlier.finish(computed, explain=explain, both_paths=both_paths)
            graph.start(written)
            computing.append((graph, written))
        for graph, computed in computing:
            found += graph.finish(computed, explain=explain, both_paths=both_paths)
        return found


def _write_ahead(
    work: Sequence[tuple[StaticGraph, Sequence[Utterance]]],
) -> Iterator[tuple[StaticGraph, InFlight]]:
    """Write the parts of a batch on threads, the next ones while the caller computes; yields them in order."""
    writers = WRITERS if work and work[0][0].input_bytes >= LARGE else 1
    submitted = ((graph, _writers().submit(graph.write, part)) for graph, part in work)  # each as it is taken
    writing = deque[tuple[StaticGraph, Future[InFlight]]](islice(submitted, writers))
    while writing:
        graph, future = writing.popleft()
        written = future.result()
        writing.extend(islice(submitted, 1))
        yield graph, written


def record(network: FusedNetwork, device: torch.device) -> GraphedNetwork:
    """Record a graph of each kind and of each of `SIZES`; keep those that agree with the sparse path and are faster.

    From one thread at a time, as recordings share streams.

    Args:
        network: on a CUDA device.
        device: that device.
    """
    pool, (stream, *others) = torch.cuda.graph_pool_handle(), _streams(device)
    static = StaticNetwork(network, others)
    graphs: dict[Kind, dict[int, StaticGraph]] = {}
    for kind in Kind:
        kept: dict[int, StaticGraph] = {}
        for size in reversed(SIZES):  # the largest first: the others fit into its memory
            try:
                graph = StaticGraph(static, kind, size, device)
                graph.record(pool, stream)
                if reason := reject_reason(graph, network):
                    _log.info("CUDA graph of %d %s is not used: %s", size, kind.value, reason)
                else:
                    kept[size] = graph
            except RuntimeError as error:  # includes torch.OutOfMemoryError
                _log.warning(
                    "CUDA graph of %d %s cannot be recorded, using the sparse path: %s", size, kind.value, error
                )
        graphs[kind] = dict(sorted(kept.items()))
    return GraphedNetwork(network, device, graphs)


@cache
def _writers() -> ThreadPoolExecutor:
    """Threads that write parts of large batches; NumPy copies without the interpreter's lock."""
    return ThreadPoolExecutor(WRITERS, "write")


@cache
def _streams(device: torch.device) -> list[torch.cuda.Stream]:
    """The streams of every recording: PyTorch keeps a cuBLAS workspace for each (32 MiB on Hopper) and frees none."""
    return [torch.cuda.Stream(device) for _ in range(STREAMS)]


def reject_reason(graph: StaticGraph, network: FusedNetwork) -> str | None:
    """Why a graph should not be used: it differs from the sparse path or is not faster. None if it should."""
    config = network.network.config

    def sparse(utterances: Sequence[Utterance], **options: bool) -> list[Decision]:
        return decide(network, collate(utterances, config).to(graph.device), **options)

    rng, full = np.random.default_rng(0), graph.kind is Kind.FULL
    for shift in range(0, len(SUBSETS) if full else 1, graph.size):  # every subset
        utterances = _random_utterances(config, graph, shift, rng)
        found, expected = (
            [number for decision in method(utterances, explain=full, both_paths=full) for number in _numbers(decision)]
            for method in (graph.decide, sparse)
        )
        distance = np.abs(np.subtract(found, expected)).max()
        if not distance <= TOLERANCE:  # also where it is NaN
            return f"its results differ by {distance:.1e} from those of the sparse path"

    utterances = _random_utterances(config, graph, 0, rng)
    ratio = median_seconds(lambda: sparse(utterances)) / median_seconds(lambda: graph.decide(utterances))
    return f"the sparse path takes {ratio:.2f} times as long" if ratio <= 1 else None


def median_seconds(function: Callable[[], object]) -> float:
    """Median run time of a function in seconds."""
    return median(timeit.repeat(function, number=1, repeat=ROUNDS))


def _numbers(decision: Decision) -> list[float]:
    """The numbers that do not depend on the gate, which nearly equal votes can turn either way."""
    votes = (decision.votes or {}).values()
    parts = (decision.transformer or (), decision.ensemble or (), decision.full, decision.available, *votes)
    return [*chain.from_iterable(parts), decision.key_score or 0.0]


def _random_utterances(
    config: ModelConfig, graph: StaticGraph, shift: int, rng: np.random.Generator
) -> list[Utterance]:
    """As many random utterances as a graph takes, of the subsets in turn."""

    def array(modality: Modality) -> FloatArray:
        slots = rng.integers(1, config.slots.of(modality) + 1)
        return rng.standard_normal((slots, config.feature_size(modality))).astype(np.float32)

    allowed = SUBSETS if graph.kind is Kind.FULL else (COMPLETE,)
    subsets = [allowed[(row + shift) % len(allowed)] for row in range(graph.size)]
    return [Utterance({m: array(m) for m in subset}) for subset in subsets]
