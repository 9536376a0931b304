"""Small batches on a CUDA device: the whole graph recorded once for each of a few sizes, and replayed.

For: answering one or a few utterances at the price of one launch instead of some hundreds. Inputs are written to pinned
memory, so that one copy takes them to where the recorded kernels read, and one brings the findings back.
Does not know: what is computed (`model.network.inference.static_graph`), threads: a replay is used by one at a time.

What is recorded proves itself first: a size is replayed only if on this device, with these weights, it says what
`decide` says and says it sooner. Whatever else happens, `decide` answers.
"""

import logging
import time
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
from model.network.inference.sparse import decide
from model.network.inference.static_graph import decisions, whole_graph
from model.types import FloatArray

SIZES: Final = (1, 2, 4, 8)
"""Utterances of a recorded pass. Beyond them operations outweigh launches, and `decide` computes a fraction of them."""
TOLERANCE: Final = 1e-4
"""How far a probability may be from that of `decide`: as far as company may move it."""
WARM_UPS: Final = 3  # passes before recording: libraries choose algorithms and take their workspaces in the first
ROUNDS: Final = 15  # of timing

_log = logging.getLogger(__name__)


class StaticGraph:
    """Room for a number of utterances as long as the config allows, and the pass over them.

    Args:
        network: in eval mode, on the device.
        size: how many utterances.
        device: recorded passes need CUDA; on any other the pass runs as it is.
    """

    def __init__(self, network: EMMR, size: int, device: torch.device) -> None:
        self.network, self.size, self.device = network, size, device
        self._pinned = device.type == "cuda"
        nbytes = _places(network.config, size)[-1]
        self._sent = torch.zeros(nbytes, dtype=torch.uint8, pin_memory=self._pinned)
        self._held = torch.zeros(nbytes, dtype=torch.uint8, device=device)
        self._input, self._batch = _views(self._sent, network.config, size), _views(self._held, network.config, size)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._found: Tensor | None = None
        self._answer: Tensor | None = None

    def record(self, pool: "torch.cuda._POOL_HANDLE", stream: torch.cuda.Stream) -> None:
        """Record the pass.

        Args:
            pool: memory that recordings share, since only one is replayed at a time.
            stream: to record on, the same for all that share memory.

        Raises:
            RuntimeError: the device, its library or its memory does not let it be recorded.
        """
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.inference_mode(), torch.cuda.device(self.device):
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    self._pass()
            graph = torch.cuda.CUDAGraph()
            # Other threads go on answering while weights are replaced: what they do must not fail for this.
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                self._found = self._pass()
        self._graph = graph

    def decide(self, utterances: Sequence[Utterance], *, explain: bool, both_paths: bool) -> list[Decision]:
        """Decide on at most `size` utterances.

        Raises:
            ValueError: one has more slots than the config allows.
        """
        with torch.inference_mode():
            self._write(utterances)
            self._held.copy_(self._sent, non_blocking=True)
            if self._graph is None:
                found = self._pass()
            else:
                assert self._found is not None
                self._graph.replay()
                found = self._found
            if self._answer is None:
                self._answer = torch.empty(found.shape, pin_memory=self._pinned)
            self._answer.copy_(found, non_blocking=True)
            if self._pinned:
                torch.cuda.current_stream(self.device).synchronize()
            presences = [u.presence for u in utterances]
            return decisions(self._answer, presences, self.network.config, explain=explain, both_paths=both_paths)

    def _pass(self) -> Tensor:
        return whole_graph(self.network, self._batch).matrix

    def _write(self, utterances: Sequence[Utterance]) -> None:
        """Put utterances where the pass reads. Rows beyond them count as complete, have no slot, and are not read."""
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


class CudaGraphs:
    """Buckets by size.

    Args:
        buckets: of different sizes.
    """

    def __init__(self, buckets: Sequence[StaticGraph]) -> None:
        self._buckets = sorted(buckets, key=lambda bucket: bucket.size)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many utterances the buckets take, ascending."""
        return tuple(bucket.size for bucket in self._buckets)

    def bucket(self, utterances: int) -> StaticGraph | None:
        """The smallest that takes so many; None where all are too small."""
        return next((bucket for bucket in self._buckets if bucket.size >= utterances), None)


def record(prepared: FusedNetwork, device: torch.device) -> CudaGraphs:
    """Record a bucket of each of `SIZES`, and keep those that say what `decide` says and say it sooner.

    Args:
        prepared: on a CUDA device.
        device: that device.
    """
    pool, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)
    kept = []
    for size in reversed(SIZES):  # the largest first: the others fit in its memory
        try:
            bucket = StaticGraph(prepared.network, size, device)
            bucket.record(pool, stream)
            if fault := objection(bucket, prepared):
                _log.info("%d utterances are not replayed: %s", size, fault)
            else:
                kept.append(bucket)
        except RuntimeError as error:  # out of memory is one
            _log.warning("%d utterances cannot be replayed, and are computed step by step: %s", size, error)
    return CudaGraphs(kept)


def objection(bucket: StaticGraph, prepared: FusedNetwork) -> str | None:
    """Why a bucket should not be used; None where nothing speaks against it."""
    config = prepared.network.config

    def slowly(utterances: Sequence[Utterance], *, both_paths: bool = False) -> list[Decision]:
        batch = collate(utterances, config).to(bucket.device)
        return decide(prepared, batch, explain=both_paths, both_paths=both_paths)

    rng = np.random.default_rng(0)
    for shift in range(len(SUBSETS)):
        utterances = _drawn(config, bucket.size, shift, rng)
        pairs = zip(
            bucket.decide(utterances, explain=True, both_paths=True), slowly(utterances, both_paths=True), strict=True
        )
        distance = max(float(np.abs(np.subtract(_figures(a), _figures(b))).max()) for a, b in pairs)
        if not distance <= TOLERANCE:  # a distance that is no number is one too many
            return f"they differ by {distance:.1e} from what is computed step by step"

    utterances = _drawn(config, bucket.size, 0, rng)
    replayed, computed = side_by_side(
        lambda: bucket.decide(utterances, explain=False, both_paths=False), lambda: slowly(utterances)
    )
    return f"step by step takes {computed / replayed:.2f} times as long" if replayed >= computed else None


def side_by_side(*functions: Callable[[], object]) -> list[float]:
    """Median seconds of each, taken in turn."""
    seconds: list[list[float]] = [[] for _ in functions]
    for _ in range(ROUNDS):
        for function, own in zip(functions, seconds, strict=True):
            began = time.perf_counter()
            function()
            own.append(time.perf_counter() - began)
    return [median(own) for own in seconds]


def _figures(decision: Decision) -> list[float]:
    """What does not depend on the gate: two votes a hair apart may turn it either way."""
    votes = (decision.votes or {}).values()
    parts = (decision.transformer or (), decision.ensemble or (), decision.full, decision.available, *votes)
    return [*chain.from_iterable(parts), decision.key_score]


def _drawn(config: ModelConfig, count: int, shift: int, rng: np.random.Generator) -> list[Utterance]:
    """Random utterances of the subsets in turn."""

    def array(modality: Modality) -> FloatArray:
        slots = rng.integers(1, config.slots.of(modality) + 1)
        return rng.standard_normal((slots, config.feature_size(modality))).astype(np.float32)

    subsets = [SUBSETS[(row + shift) % len(SUBSETS)] for row in range(count)]
    return [Utterance({m: array(m) for m in subset}) for subset in subsets]


def _places(config: ModelConfig, size: int) -> list[int]:
    """In bytes, where a bucket's features, valid slots and presence begin, and where the last ends."""
    lengths = [size * config.slots.of(m) for m in MODALITIES]
    features = [4 * n * config.feature_size(m) for n, m in zip(lengths, MODALITIES, strict=True)]
    return [0, *accumulate([*features, *lengths, size * len(MODALITIES)])]


def _views(memory: Tensor, config: ModelConfig, size: int) -> Batch:
    """A bucket's memory as a batch."""
    *parts, last = [memory[begin:end] for begin, end in pairwise(_places(config, size))]
    features, valid = parts[: len(MODALITIES)], parts[len(MODALITIES) :]
    present = last.view(torch.bool).view(size, len(MODALITIES))
    return Batch(
        features={
            m: x.view(torch.float32).view(size, -1, config.feature_size(m))
            for m, x in zip(MODALITIES, features, strict=True)
        },
        valid={m: x.view(torch.bool).view(size, -1) for m, x in zip(MODALITIES, valid, strict=True)},
        held=present,
        present=present,
    )
