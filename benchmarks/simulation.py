"""A discrete-event simulation of replicas of the service behind a load balancer.

The stages of a replica are those of `app/engine`, which share its processors equally; work is in processor seconds.
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Final, Literal

from app.engine.batch_cost import CPU
from tools.load.generator import percentile, poisson

Routing = Literal["random", "round_robin", "least_of_two"]
LIMIT: Final = 0.5  # seconds, of the 99th percentile, for a rate to count as sustained
PRECISION: Final = 0.01  # of a sustained rate


@dataclass(frozen=True, slots=True)
class Costs:
    """Processor seconds of a request of one subset of modalities.

    Args:
        http: measured times of parsing, features and writing the answer; one is drawn for a request.
        features: measured times of a decoder process; one is drawn, empty where nothing is decoded.
        batch: of the text encoder and the network for a batch, whatever its size.
        item: of the text encoder and the network for each request of a batch.
    """

    http: Sequence[float]
    features: Sequence[float]
    batch: float
    item: float

    def processor_seconds(self, together: float) -> float:
        """Return the mean work of a request that is computed in batches of `together`."""
        parts = (sum(part) / len(part) for part in (self.http, self.features) if part)
        return sum(parts) + self.batch / together + self.item


@dataclass(frozen=True, slots=True)
class Cluster:
    """Replicas and what is in front of them.

    Args:
        replicas: their number.
        cores: processors of each.
        decoders: decoder processes of each.
        max_batch: requests of a batch.
        queue: waiting requests of a replica, beyond which it refuses.
        routing: the replica of a request: at random, in turn, or the one with fewer requests of two drawn at random.
        slow: replicas that take longer for everything.
        slowdown: how many times longer.
    """

    replicas: int = 1
    cores: float = 1.0
    decoders: int = 1
    max_batch: int = 32
    queue: int = 256
    routing: Routing = "random"
    slow: int = 0
    slowdown: float = 1.0


@dataclass(slots=True)
class Outcome:
    """What a simulation counted.

    Args:
        rate: offered, requests a second.
        latencies: in seconds, of the requests that were answered.
        refused: requests that found a full queue.
        batches: forward passes.
        computed: requests in them.
    """

    rate: float
    latencies: list[float] = field(default_factory=list)
    refused: int = 0
    batches: int = 0
    computed: int = 0

    def percentile(self, share: float) -> float:
        """Return a percentile of the latency in seconds; a refused request counts as infinitely late."""
        return percentile(self.latencies + [math.inf] * self.refused, share)

    @property
    def sustained(self) -> bool:
        """Whether every request was answered, and 99 % of them within `LIMIT`."""
        return not self.refused and self.percentile(0.99) <= LIMIT

    @property
    def together(self) -> float:
        """Return the mean size of a batch."""
        return self.computed / max(1, self.batches)


@dataclass(slots=True)
class _Request:
    began: float
    costs: Costs
    http: float
    features: float


class _Replica:
    """The stages of one process. Work that runs gets an equal share of the processors, at most one processor each."""

    def __init__(self, cluster: Cluster, speed: float, outcome: Outcome) -> None:
        self.cluster, self.speed, self.outcome = cluster, speed, outcome
        self.requests = 0
        self.version = 0
        """Of the next completion, which is void once other work has started."""
        self._numbers = count()
        self._done = self._at = 0.0
        """Work that has been done for each piece that runs, since the beginning; and until when."""
        self._running: list[tuple[float, int, Callable[[float], None]]] = []
        self._http: deque[_Request] = deque()
        self._http_busy = False
        self._features: deque[_Request] = deque()
        self._decoding = 0
        self._waiting: deque[_Request] = deque()
        self._computing = False
        self._last_size = 0
        self._lingering_until: float | None = None

    def accept(self, request: _Request, now: float) -> None:
        """Take a request, or refuse it."""
        if self.requests >= self.cluster.queue:
            self.outcome.refused += 1
            return
        self.requests += 1
        self._http.append(request)
        self._next_http(now)

    def next_completion(self, now: float) -> float | None:
        """Return when the next piece of work, or the wait for a larger batch, is over; None if there is neither."""
        self.version += 1
        self._advance(now)
        over = [] if self._lingering_until is None else [self._lingering_until]
        if self._running:
            over.append(now + max(0.0, self._running[0][0] - self._done) / self._pace())
        return min(over, default=None)

    def complete(self, now: float) -> None:
        """Finish what is over now."""
        self._advance(now)
        if self._lingering_until is not None and now >= self._lingering_until:
            self._next_batch(now)
            return
        heapq.heappop(self._running)[2](now)

    def _pace(self) -> float:
        return self.speed * min(1.0, self.cluster.cores / len(self._running))

    def _advance(self, now: float) -> None:
        if self._running:
            self._done += (now - self._at) * self._pace()
        self._at = now

    def _start(self, work: float, then: Callable[[float], None], now: float) -> None:
        self._advance(now)
        heapq.heappush(self._running, (self._done + work, next(self._numbers), then))

    def _next_http(self, now: float) -> None:
        if self._http_busy or not self._http:
            return
        request, self._http_busy = self._http.popleft(), True

        def then(now: float) -> None:
            self._http_busy = False
            (self._features if request.features else self._waiting).append(request)
            self._next_http(now)
            self._next_features(now)
            self._next_batch(now)

        self._start(request.http, then, now)

    def _next_features(self, now: float) -> None:
        while self._features and self._decoding < self.cluster.decoders:
            request = self._features.popleft()
            self._decoding += 1

            def then(now: float, request: _Request = request) -> None:
                self._decoding -= 1
                self._waiting.append(request)
                self._next_features(now)
                self._next_batch(now)

            self._start(request.features, then, now)

    def _next_batch(self, now: float) -> None:
        if self._computing or not self._waiting:
            return
        size = min(len(self._waiting), self.cluster.max_batch)
        if size < self._last_size:
            if self._lingering_until is None:
                self._lingering_until = now + CPU.linger
            if now < self._lingering_until:
                return
        self._last_size, self._lingering_until = size, None
        batch, self._computing = [self._waiting.popleft() for _ in range(size)], True

        def then(now: float) -> None:
            self._computing = False
            self.requests -= len(batch)
            self.outcome.latencies += [now - request.began for request in batch]
            self.outcome.batches += 1
            self.outcome.computed += len(batch)
            self._next_batch(now)

        self._start(max(one.costs.batch for one in batch) + sum(one.costs.item for one in batch), then, now)


def simulate(costs: Sequence[Costs], cluster: Cluster, rate: float, seconds: float, seed: int = 0) -> Outcome:
    """Simulate requests that arrive as a Poisson process; returns once all are answered.

    Args:
        costs: of the kinds of requests, which are equally frequent.
        cluster: the replicas.
        rate: requests a second, of all replicas together.
        seconds: for which requests arrive.
        seed: of arrivals, costs and routing.
    """
    rng, outcome = random.Random(seed), Outcome(rate)
    speeds = [1 / cluster.slowdown] * cluster.slow + [1.0] * (cluster.replicas - cluster.slow)
    replicas = [_Replica(cluster, speed, outcome) for speed in speeds]
    turn = count()
    completions: list[tuple[float, int, int]] = []  # when, of which replica, of which version

    def chosen() -> int:
        if cluster.routing == "round_robin":
            return next(turn) % cluster.replicas
        drawn = rng.randrange(cluster.replicas)
        if cluster.routing == "least_of_two":
            other = rng.randrange(cluster.replicas)
            drawn = min(drawn, other, key=lambda index: replicas[index].requests)
        return drawn

    def schedule(index: int, now: float) -> None:
        when = replicas[index].next_completion(now)
        if when is not None:
            heapq.heappush(completions, (when, index, replicas[index].version))

    def complete_until(end: float) -> None:
        while completions and completions[0][0] <= end:
            when, index, version = heapq.heappop(completions)
            if version == replicas[index].version:
                replicas[index].complete(when)
                schedule(index, when)

    for now in poisson(rate, seconds, seed):
        complete_until(now)
        one, index = rng.choice(costs), chosen()
        features = rng.choice(one.features) if one.features else 0.0
        replicas[index].accept(_Request(now, one, rng.choice(one.http), features), now)
        schedule(index, now)
    complete_until(math.inf)
    return outcome


def goodput(
    costs: Sequence[Costs],
    cluster: Cluster,
    requests: int = 20_000,
    seed: int = 0,
    *,
    seconds: float | None = None,
    attempts: int = 1,
) -> Outcome:
    """Return the outcome at the highest sustained rate, to within `PRECISION`.

    Args:
        costs: of the kinds of requests.
        cluster: the replicas.
        requests: of each simulated rate.
        seed: of `simulate`.
        seconds: of each simulated rate, in place of a number of requests.
        attempts: a rate is sustained if it is in one of them.
    """
    mean = sum(one.processor_seconds(cluster.max_batch) for one in costs) / len(costs)
    low, high = 0.0, cluster.replicas * cluster.cores / mean
    best = Outcome(0.0)
    while high - low > PRECISION * high:
        rate = (low + high) / 2
        for attempt in range(attempts):
            found = simulate(costs, cluster, rate, seconds or requests / rate, seed + attempt)
            if found.sustained:
                low, best = rate, found
                break
        else:
            high = rate
    return best
