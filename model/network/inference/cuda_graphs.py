"""CUDA graphs of the full graph for a few small batch sizes, where a batch costs its kernel launches.

Shapes: B utterances of a graph, T_m slots of modality m (the config's maximum), d_m features.
"""

import logging
import timeit
from collections.abc import Callable, Sequence
from itertools import accumulate, chain, pairwise
from statistics import median
from typing import Final

import numpy as np
import torch
from torch import Tensor

from model.config import ModelConfig
from model.modality import MODALITIES, SUBSETS, Modality, Utterance
from model.network.batch import Batch, collate
from model.network.decision import Decision
from model.network.emmr import EMMR
from model.network.inference.fused import FusedNetwork
from model.network.inference.results import decisions, full_graph
from model.network.inference.sparse import decide
from model.types import FloatArray

SIZES: Final = (1, 2, 4, 8)
"""Batch sizes of recorded graphs. For larger batches the sparse path, which computes a fraction, is faster."""
TOLERANCE: Final = 1e-4
"""Allowed difference of a probability from that of the sparse path; the batch composition can cause as much."""
WARM_UPS: Final = 3  # passes before recording, in which libraries choose algorithms and allocate workspaces
ROUNDS: Final = 15  # of timing

_log = logging.getLogger(__name__)


class StaticGraph:
    """Input buffers for up to `size` utterances, and the full graph on them.

    Inputs are written to one pinned buffer, so that one copy transfers them and another one the results.

    Args:
        network: in eval mode, on the device.
        size: B.
        device: CUDA, for which `record` can be called; on any other device the graph is computed directly.
    """

    def __init__(self, network: EMMR, size: int, device: torch.device) -> None:
        self.network, self.size, self.device = network, size, device
        self._pinned = device.type == "cuda"
        nbytes = buffer_offsets(network.config, size)[-1]
        self._host = torch.zeros(nbytes, dtype=torch.uint8, pin_memory=self._pinned)
        self._on_device = torch.zeros(nbytes, dtype=torch.uint8, device=device)
        self._input = batch_views(self._host, network.config, size)
        self._batch = batch_views(self._on_device, network.config, size)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._recorded: Tensor | None = None
        self._results: Tensor | None = None

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
                    full_graph(self.network, self._batch)
            graph = torch.cuda.CUDAGraph()
            # Other threads use the device while weights are reloaded; their calls must not invalidate the recording.
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                self._recorded = full_graph(self.network, self._batch)
        self._graph = graph

    def decide(
        self, utterances: Sequence[Utterance], *, explain: bool = False, both_paths: bool = False
    ) -> list[Decision]:
        """Decide on at most `size` utterances; from one thread at a time.

        Raises:
            ValueError: one has more slots than the config allows.
        """
        with torch.inference_mode():
            self._write(utterances)
            self._on_device.copy_(self._host, non_blocking=True)
            if self._graph is None:
                results = full_graph(self.network, self._batch)
            else:
                assert self._recorded is not None
                self._graph.replay()
                results = self._recorded
            if self._results is None:
                self._results = torch.empty(results.shape, pin_memory=self._pinned)
            self._results.copy_(results, non_blocking=True)
            if self._pinned:
                torch.cuda.current_stream(self.device).synchronize()
            presences = [u.presence for u in utterances]
            return decisions(self._results, presences, self.network.config, explain=explain, both_paths=both_paths)

    def _write(self, utterances: Sequence[Utterance]) -> None:
        """Write utterances to the input buffer. The remaining rows are complete, without a valid slot."""
        batch = self._input
        batch.present.fill_(value=True)
        for modality in MODALITIES:
            batch.valid[modality].zero_()
        for row, utterance in enumerate(utterances):
            batch.present[row] = torch.tensor(utterance.presence.mask())
            for modality, array in utterance.features.items():
                features = batch.features[modality][row]  # (T_m, d_m)
                if array.shape[0] > features.shape[0]:
                    raise ValueError(f"{modality}: {array.shape[0]} slots, the config has {features.shape[0]}")
                features[: array.shape[0]] = torch.from_numpy(array)
                batch.valid[modality][row, : array.shape[0]] = True


def record(network: FusedNetwork, device: torch.device) -> dict[int, StaticGraph]:
    """Record a graph of each of `SIZES`; keep those that agree with the sparse path and are faster.

    Args:
        network: on a CUDA device.
        device: that device.

    Returns:
        batch size → graph, ascending.
    """
    pool, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)
    graphs: dict[int, StaticGraph] = {}
    for size in reversed(SIZES):  # the largest first: the others fit into its memory
        try:
            graph = StaticGraph(network.network, size, device)
            graph.record(pool, stream)
            if reason := reject_reason(graph, network):
                _log.info("CUDA graph of batch size %d is not used: %s", size, reason)
            else:
                graphs[size] = graph
        except RuntimeError as error:  # includes torch.OutOfMemoryError
            _log.warning("CUDA graph of batch size %d cannot be recorded, using the sparse path: %s", size, error)
    return dict(sorted(graphs.items()))


def reject_reason(graph: StaticGraph, network: FusedNetwork) -> str | None:
    """Why a graph should not be used: it differs from the sparse path or is not faster. None if it should."""
    config = network.network.config

    def sparse(utterances: Sequence[Utterance], **options: bool) -> list[Decision]:
        return decide(network, collate(utterances, config).to(graph.device), **options)

    rng = np.random.default_rng(0)
    for shift in range(len(SUBSETS)):
        utterances = _random_utterances(config, graph.size, shift, rng)
        found, expected = (
            [number for decision in method(utterances, explain=True, both_paths=True) for number in _numbers(decision)]
            for method in (graph.decide, sparse)
        )
        distance = np.abs(np.subtract(found, expected)).max()
        if not distance <= TOLERANCE:  # also where it is NaN
            return f"its results differ by {distance:.1e} from those of the sparse path"

    utterances = _random_utterances(config, graph.size, 0, rng)
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


def _random_utterances(config: ModelConfig, count: int, shift: int, rng: np.random.Generator) -> list[Utterance]:
    """Random utterances of the subsets in turn."""

    def array(modality: Modality) -> FloatArray:
        slots = rng.integers(1, config.slots.of(modality) + 1)
        return rng.standard_normal((slots, config.feature_size(modality))).astype(np.float32)

    subsets = [SUBSETS[(row + shift) % len(SUBSETS)] for row in range(count)]
    return [Utterance({m: array(m) for m in subset}) for subset in subsets]


def buffer_offsets(config: ModelConfig, size: int) -> list[int]:
    """Byte offsets of features, valid slots and present modalities in an input buffer, and its end."""
    slots = [size * config.slots.of(m) for m in MODALITIES]
    features = [4 * n * config.feature_size(m) for n, m in zip(slots, MODALITIES, strict=True)]
    return [0, *accumulate([*features, *slots, size * len(MODALITIES)])]


def batch_views(buffer: Tensor, config: ModelConfig, size: int) -> Batch:
    """An input buffer as a batch of `size` utterances of maximum length."""
    *parts, last = [buffer[begin:end] for begin, end in pairwise(buffer_offsets(config, size))]
    features, valid = parts[: len(MODALITIES)], parts[len(MODALITIES) :]
    present = last.view(torch.bool).view(size, len(MODALITIES))  # (B, 3)
    return Batch(
        features={
            m: x.view(torch.float32).view(size, -1, config.feature_size(m))  # (B, T_m, d_m)
            for m, x in zip(MODALITIES, features, strict=True)
        },
        valid={m: x.view(torch.bool).view(size, -1) for m, x in zip(MODALITIES, valid, strict=True)},  # (B, T_m)
        held=present,
        present=present,
    )
