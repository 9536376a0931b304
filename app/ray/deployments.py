"""The application of Ray Serve: HTTP service, decoders and device as deployments that scale on their own."""

# A replica logs the message of an exception that leaves one of its methods, and such a message may quote content. The
# methods of Features and Device therefore return the exceptions that are expected.

import asyncio
import io
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from fastapi import FastAPI
from pydantic import BaseModel, Field
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from app.decoding.pool import DecodePool, PoolState
from app.decoding.protocol import Json
from app.engine.engine import WEIGHTS_NAME, Engine, weights_folder
from app.engine.predictor import Predictor, PreparedRequest
from app.engine.remote import Outcome, decide
from app.engine.warmup import SENTENCE
from app.errors import UploadError
from app.linux import erase_variables, forbid_dumps
from app.logging import configure_logging
from app.main import create_app
from app.ray.handles import RemotePool, RemotePredictor
from app.settings import SECRET_VARIABLES, Settings
from model.errors import CheckpointError, ConfigError, EMMRError, EmptyModality

LOGGING: Final = {"enable_access_log": False}  # the service has a log of its own
BACKPRESSURE: Final = {"status_code": 429, "retry_after_s": 1}
"""Response to a request beyond `max_queued_requests`."""
KEPT: Final = 2
"""Weights that a device holds: during a change, requests prepared with those before still arrive."""


class Features:
    """Confined processes that decode files and compute the features of a voice.

    Args:
        settings: the number of processes and their limits.
    """

    def __init__(self, settings: Settings) -> None:
        erase_variables(SECRET_VARIABLES)
        configure_logging(settings.log_level, settings.log_format)
        self._pool = DecodePool(
            workers=settings.decode_workers,
            timeout=settings.decode_timeout,
            memory_bytes=settings.decode_memory_bytes,
        )
        self._pool.start()

    async def decode(self, job: Json, content: bytes, part: Literal["audio", "openface"]) -> tuple[object, PoolState]:
        """Decode a file; return the result or the error of `DecodePool.run`, and the state of the pool."""
        outcome: object
        try:
            outcome = await self._pool.run(job, io.BytesIO(content), part, object)
        except (UploadError, EmptyModality) as error:
            outcome = error
        return outcome, self._pool.state()

    def state(self) -> PoolState:
        """Return the state of the pool."""
        return self._pool.state()

    def check_health(self) -> None:
        """Raise if no file can be decoded, so that the replica is replaced."""
        if not self._pool.state().ok:
            raise RuntimeError("no decoder process can be started")

    def __del__(self) -> None:
        """End the processes."""
        self._pool.stop()


class Device:
    """Weights on a device, and the one thread that uses it.

    Args:
        settings: the weights, the device and the number of threads of a computation.
    """

    def __init__(self, settings: Settings) -> None:
        erase_variables(SECRET_VARIABLES)
        configure_logging(settings.log_level, settings.log_format)
        # Arrays arrive in memory that Ray shares; they are read only.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        self._settings = settings
        self._thread = ThreadPoolExecutor(1, "emmr-device")
        self._loading = asyncio.Lock()
        self._loaded: dict[str, Predictor] = {}
        self._keep(self._load(settings.weights, None))

    async def load(self, folder: Path, version: str) -> str | EMMRError:
        """Load weights; return the name of the device, or the error."""
        try:
            return (await self._predictor(folder, version)).device
        except EMMRError as error:
            return error

    async def decide(self, folder: Path, version: str, batch: Sequence[PreparedRequest]) -> tuple[Outcome, int]:
        """Decide on a batch.

        Args:
            folder: of the weights, which are loaded if they are not.
            version: of the weights.
            batch: requests without their predictor.

        Returns:
            The results without their requests, or the error; and the bytes allocated on the device.
        """
        try:
            predictor = await self._predictor(folder, version)
        except EMMRError as error:
            return error, 0
        outcome = await asyncio.get_running_loop().run_in_executor(self._thread, decide, predictor, batch)
        return outcome, predictor.device_memory()

    async def check_health(self) -> None:
        """Raise if the device no longer computes, so that the replica is replaced."""
        predictor = next(reversed(self._loaded.values()))
        await asyncio.get_running_loop().run_in_executor(self._thread, predictor.check)

    async def _predictor(self, folder: Path, version: str) -> Predictor:
        """Return the predictor of these weights, which is loaded if it is not."""
        if version not in self._loaded:
            async with self._loading:
                if version not in self._loaded:
                    self._keep(await asyncio.to_thread(self._load, folder, version))
        return self._loaded[version]

    def _load(self, folder: Path, version: str | None) -> Predictor:
        """Load weights of a version, or of any version if it is None, and answer a request with them."""
        predictor = Predictor.load(folder, self._settings.device, self._settings.compute_threads)
        if version not in {None, predictor.pipeline.checkpoint.version}:
            raise CheckpointError(f"{folder} has other content on the machine of the device")
        request = PreparedRequest(predictor)
        request.add_text(SENTENCE)
        predictor.known_good = [request]
        self._thread.submit(predictor.check).result()
        return predictor

    def _keep(self, predictor: Predictor) -> None:
        self._loaded[predictor.pipeline.checkpoint.version] = predictor
        for unused in list(self._loaded)[:-KEPT]:
            del self._loaded[unused]


class ServiceConfig(BaseModel, extra="forbid"):
    """The `user_config` of the deployment `Service`, which takes effect without a restart.

    Args:
        weights: name of a folder beside the configured one to serve; that one if None.
    """

    weights: Annotated[str, Field(pattern=WEIGHTS_NAME)] | None = None


class Service:
    """The HTTP service, with the queue and the batches of its requests.

    Args:
        settings: all of the service.
        features: handle of the deployment.
        device: handle of the deployment.
    """

    def __init__(self, settings: Settings, features: DeploymentHandle, device: DeploymentHandle) -> None:
        erase_variables(SECRET_VARIABLES)
        forbid_dumps()
        # A route that replaces the weights of one replica alone would make answers depend on the replica.
        changes: dict[str, object] = {"api_keys": (*settings.api_keys, *settings.admin_keys), "admin_keys": ()}
        if (log := settings.log_answers) is not None:  # which one process alone may rename
            changes["log_answers"] = log.with_stem(f"{log.stem}-{serve.get_replica_context().replica_id.unique_id}")
        settings = settings.model_copy(update=changes)
        load = partial(RemotePredictor.load_with, device)
        self._app = create_app(settings, build=partial(Engine, pool=RemotePool(features), load=load))
        self._engine: Engine = self._app.state.engine

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the application that Ray Serve calls."""
        return self._app

    async def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Serve the weights of the config; those before are served until the others are warmed up.

        Raises:
            ValueError: the config is not a `ServiceConfig`.
            CheckpointError, ReloadRefused: the weights cannot be served.
        """
        name = ServiceConfig.model_validate(config).weights
        await self.check_health()
        folder = weights_folder(self._engine.settings, name)
        if folder.resolve() != self._engine.checkpoint.folder.resolve():
            await self._engine.reload(name)

    async def check_health(self) -> None:
        """Wait for the start; raise if the service has failed, so that the replica is replaced."""
        await self._engine.started()
        if (reason := self._engine.lifecycle.reason) is not None:
            raise RuntimeError(reason)


def build(args: Mapping[str, Any] | None = None) -> Application:
    """Build the application; the `import_path` of a Serve config file is `app.ray.deployments:build`.

    Args:
        args: settings by name, which take precedence over environment variables.

    Raises:
        ConfigError: a name is no setting.
    """
    if unknown := sorted(set(args or {}) - set(Settings.model_fields)):
        raise ConfigError(f"no settings: {', '.join(unknown)}")
    return application(Settings(**(args or {})))


def application(settings: Settings, replicas: int | None = None) -> Application:
    """Bind the deployments to each other; only the service gets the keys.

    Args:
        settings: of the service.
        replicas: of each deployment; as many as the load needs if None.
    """

    def scaled(most: int, target: int) -> Mapping[str, int]:
        limits = {"min_replicas": replicas or 1, "max_replicas": replicas or most}
        return {**limits, "target_ongoing_requests": target}

    without_keys = settings.model_copy(update={"api_keys": (), "admin_keys": ()})
    deployed = partial(serve.deployment, health_check_period_s=5, logging_config=LOGGING)
    features = deployed(
        max_ongoing_requests=16,
        autoscaling_config=scaled(16, 4),
        ray_actor_options={"num_cpus": 0.75},
    )(Features)
    device = deployed(
        max_ongoing_requests=8,
        autoscaling_config=scaled(8, 2),
        ray_actor_options={"num_cpus": 1},
    )(Device)
    service = deployed(
        max_ongoing_requests=512,
        max_queued_requests=64,
        backpressure_config=BACKPRESSURE,
        autoscaling_config=scaled(8, 16),
        ray_actor_options={"num_cpus": 0.25},
        user_config=ServiceConfig().model_dump(),
        graceful_shutdown_timeout_s=60,
    )(serve.ingress()(Service))
    application: Application = service.bind(settings, features.bind(without_keys), device.bind(without_keys))
    return application
