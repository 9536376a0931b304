"""The decoders and the device of an `app.engine.engine.Engine`, where both are deployments of Ray Serve."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Final, Literal, Self, TypeVar

from ray.exceptions import RayActorError
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from app.decoding.pool import PoolState
from app.decoding.protocol import Json
from app.engine.batch_cost import ACCELERATOR, CPU, Rates
from app.engine.predictor import Predictor, PreparedRequest, Result
from app.engine.remote import attach, detach
from app.errors import DecoderFailed, NoDecoder
from model.pipeline import Pipeline

V = TypeVar("V")

ATTEMPTS: Final = 3
"""Of a call whose replica ends before it answers: decoding and deciding have no side effects, and may be repeated."""


class RemotePool:
    """Decodes files in the deployment `Features`; it takes the place of an `app.decoding.pool.DecodePool`.

    Args:
        features: the deployment.
    """

    def __init__(self, features: DeploymentHandle) -> None:
        self._features = features
        self._state = PoolState(workers=0, alive=0, busy=0, replaced=0, ok=False, sandbox={})

    def start(self) -> None:
        """Wait for a replica."""
        self._state = _result(self._features.state.remote)

    def stop(self) -> None:
        """Do nothing: the deployment serves other replicas too."""

    def state(self) -> PoolState:
        """Return the state of the replica that answered last."""
        return self._state

    async def run(self, job: Json, file: IO[bytes], part: Literal["audio", "openface"], result: type[V]) -> V:
        """Decode the whole of `file`; arguments and errors are those of `DecodePool.run`."""
        content = await asyncio.to_thread(file.read)
        for _ in range(ATTEMPTS):
            try:
                outcome, self._state = await self._features.decode.remote(job, content, part)
            except RayActorError:
                continue
            if isinstance(outcome, Exception):
                raise outcome
            if not isinstance(outcome, result):
                raise DecoderFailed("the decoder broke off", part=part)
            return outcome
        raise NoDecoder("the processes that decode the file were ended from outside", part=part)


class RemotePredictor(Predictor):
    """Computes slots in this process, and decides in the deployment `Device`.

    Args:
        pipeline: on the CPU.
        handle: the deployment.
        device: name of the device there.
    """

    computes_here = False

    def __init__(self, pipeline: Pipeline, handle: DeploymentHandle, device: str) -> None:
        super().__init__(pipeline)
        self._handle, self._device, self._memory = handle, device, 0

    @classmethod
    def load_with(cls, handle: DeploymentHandle, weights: Path, device: str, threads: int | None) -> Self:
        """Load a weights folder here and in a replica of the deployment, not in a thread with an event loop.

        Raises:
            CheckpointError, ConfigError: see `Predictor.load`.
        """
        del device  # a setting of the deployment
        local = Predictor.load(weights, "cpu", threads)
        checkpoint = local.pipeline.checkpoint
        name = _unwrap(_result(lambda: handle.load.remote(weights, checkpoint.version)))
        return cls(local.pipeline, handle, name)

    def decide(self, batch: Sequence[PreparedRequest]) -> list[Result]:
        """Send a batch to a replica and wait for its results, not in a thread with an event loop.

        Raises:
            MemoryError: the device has not enough memory.
            RuntimeError: the computation failed.
            CheckpointError: the weights folder has other content there, or none.
        """
        checkpoint = self.pipeline.checkpoint
        sent = detach(batch)
        outcome, self._memory = _result(lambda: self._handle.decide.remote(checkpoint.folder, checkpoint.version, sent))
        return attach(outcome, batch)

    @property
    def rates(self) -> Rates:
        """Costs on the device."""
        return CPU if self._device == "cpu" else ACCELERATOR

    @property
    def device(self) -> str:
        """Name of the device."""
        return self._device

    def device_memory(self) -> int:
        """Bytes allocated on the accelerator of the replica that decided last; 0 on a CPU."""
        return self._memory


def _result(call: Callable[[], DeploymentResponse]) -> Any:
    """Call a replica and wait for its result; another replica where that one ends before.

    Raises:
        RayActorError: several replicas have ended.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return call().result()
        except RayActorError:
            continue
    return call().result()


def _unwrap(outcome: Any) -> Any:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
