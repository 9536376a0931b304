import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from app.engine.engine import Engine
from app.engine.errors import NotReady, ReloadRefused, ReloadUnderway
from app.engine.lifecycle import Phase
from app.engine.predictor import Options, Predictor
from app.settings import Settings
from app.uploads.form import RawForm
from tests.support.checkpoints import altered, like, mismatched, scaled
from tests.support.device import until
from tests.support.service import reach

pytestmark = pytest.mark.anyio


@pytest.fixture
def root(tiny_weights: Path, tmp_path: Path) -> Path:
    """A folder of weights folders; `one` is served."""
    shutil.copytree(tiny_weights, tmp_path / "weights" / "one")
    return tmp_path / "weights"


@asynccontextmanager
async def running(root: Path, **settings: Any) -> AsyncIterator[Engine]:
    engine = Engine(Settings(weights=root / "one", device="cpu", **settings))
    engine.start()
    await reach(engine, Phase.READY)
    try:
        yield engine
    finally:
        await engine.stop()


async def version_of_an_answer(engine: Engine) -> str:
    return (await engine.answer(RawForm(text=b"Hello."), Options())).checkpoint.version


async def test_new_weights_are_served_once_they_are_warm(root: Path) -> None:
    new_version = like(root / "one", root / "two", scaled(0.9))
    async with running(root) as engine:
        before = engine.checkpoint
        assert await version_of_an_answer(engine) == before.version
        old, new = await engine.reload("two")
        assert (old.version, new.version) == (before.version, new_version)
        assert engine.checkpoint is new
        assert await version_of_an_answer(engine) == new_version
        assert engine.predictor is not None
        engine.predictor.check()
        assert not engine.reloading


async def test_without_a_name_the_configured_folder_is_read_again(root: Path) -> None:
    async with running(root) as engine:
        new_version = like(root / "one", root / "next", scaled(0.9))
        shutil.rmtree(root / "one")
        (root / "next").rename(root / "one")
        assert (await engine.reload())[1].version == new_version
        assert await version_of_an_answer(engine) == new_version


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda one, bad: None, "no weights folder 'bad'"),
        (lambda one, bad: bad.mkdir(), "is not a weights folder"),
        (altered, "config.json is not the file that was hashed"),
        (lambda one, bad: altered(one, bad, "model.safetensors"), "model.safetensors is not the file that was hashed"),
        (mismatched, "does not fit"),
        (lambda one, bad: like(one, bad, scaled(float("nan"))), "the weights fail on text\\+audio\\+visual"),
    ],
    ids=["missing", "empty", "config altered", "weights altered", "wrong config", "not a number"],
)
async def test_a_bad_folder_is_refused_and_the_old_weights_serve_on(
    root: Path, spoil: Callable[[Path, Path], object], reason: str
) -> None:
    spoil(root / "one", root / "bad")
    async with running(root) as engine:
        before = engine.checkpoint
        with pytest.raises(ReloadRefused, match=reason):
            await engine.reload("bad")
        assert engine.checkpoint is before
        assert engine.lifecycle.phase is Phase.READY
        assert engine.batcher.alive
        assert not engine.reloading
        assert await version_of_an_answer(engine) == before.version
        assert await engine.reload("one")  # and the next attempt is not in its way


async def test_weights_for_which_there_is_no_memory_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(root) as engine:

        def too_large(weights: Path, device: str, threads: int) -> Predictor:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"
            )

        monkeypatch.setattr(Predictor, "load", too_large)
        with pytest.raises(ReloadRefused, match="not enough memory"):
            await engine.reload()
        assert engine.lifecycle.ready


async def test_two_reloads_do_not_run_at_once(root: Path) -> None:
    async with running(root) as engine:
        first = asyncio.create_task(engine.reload())
        await until(lambda: engine.reloading)
        with pytest.raises(ReloadUnderway):
            await engine.reload()
        await first
        await engine.reload()


async def test_a_service_that_is_not_ready_reloads_nothing(root: Path) -> None:
    engine = Engine(Settings(weights=root / "one", device="cpu"))
    with pytest.raises(NotReady):
        await engine.reload()


async def test_a_request_is_decided_by_the_weights_it_was_prepared_for(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A request waits for company for two seconds; weights are replaced meanwhile, which needs no more than that where
    # no warm-up waits for company as well.
    new_version = like(root / "one", root / "two", scaled(0.9))
    batches: list[set[str]] = []
    async with running(root) as engine:
        engine.batcher._on_batch = lambda batch: batches.append(
            {prepared.predictor.pipeline.checkpoint.version for prepared in batch}
        )
        old_version = engine.checkpoint.version
        monkeypatch.setattr("app.engine.engine.warm_up", lambda *_: asyncio.sleep(0))
        engine.batcher.delay = 2.0
        waiting = asyncio.create_task(version_of_an_answer(engine))
        await until(lambda: engine.batcher.depth == 1)
        await engine.reload("two")
        assert not batches
        later = asyncio.create_task(version_of_an_answer(engine))
        assert await waiting == old_version
        assert await later == new_version
    assert all(len(versions) == 1 for versions in batches)
    assert {old_version} in batches
    assert {new_version} in batches


async def test_a_reload_goes_through_while_the_queue_is_full(root: Path) -> None:
    async with running(root, queue_size=1) as engine:
        with engine.batcher.place():
            await engine.reload()
        assert engine.batcher.depth == 0
