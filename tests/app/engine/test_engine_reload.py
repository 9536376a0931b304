import asyncio
import gc
import os
import shutil
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import psutil
import pytest
from pydantic import TypeAdapter, ValidationError
from pydantic.types import StringConstraints

from app.engine.engine import WEIGHTS_NAME, Engine, weights_folder
from app.engine.lifecycle import Phase
from app.engine.predictor import COMPUTE_NICENESS, Options, Predictor, Result
from app.errors import NotReady, ReloadRefused, ReloadUnderway
from app.settings import Settings
from app.uploads.form import RawForm
from model.errors import CheckpointError
from tests.support.checkpoints import altered, like, mismatched, of_whisper, scaled
from tests.support.device import until
from tests.support.service import reach


@pytest.fixture
def root(tiny_weights: Path, tmp_path: Path) -> Path:
    """A folder of weights folders; `one` is being served."""
    shutil.copytree(tiny_weights, tmp_path / "weights" / "one")
    return tmp_path / "weights"


@asynccontextmanager
async def running(root: Path, **settings: Any) -> AsyncIterator[Engine]:
    engine = Engine(Settings(weights=root / "one", device="cpu", decode_workers=1, **settings))
    engine.start()
    await reach(engine, Phase.READY)
    try:
        yield engine
    finally:
        await engine.stop()


@pytest.fixture(scope="module")
async def served(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Path, Engine]]:
    """A folder as `root`, and an engine for tests after which it serves `one`."""
    folder = tmp_path_factory.mktemp("weights")
    shutil.copytree(tiny_weights, folder / "one")
    async with running(folder) as engine:
        yield folder, engine


async def served_version(engine: Engine) -> str:
    return (await engine.answer(RawForm(text=b"Hello."), Options())).checkpoint.version


@pytest.mark.anyio
async def test_new_weights_are_served_after_their_warm_up(root: Path) -> None:
    new_version = like(root / "one", root / "two", scaled(0.9))
    async with running(root) as engine:
        before = engine.checkpoint
        assert await served_version(engine) == before.version
        old, new = await engine.reload("two")
        assert (old.version, new.version) == (before.version, new_version)
        assert engine.checkpoint is new
        assert await served_version(engine) == new_version
        assert engine.predictor is not None
        engine.predictor.check()
        assert not engine.reloading


@pytest.mark.anyio
async def test_without_a_name_the_configured_folder_is_reloaded(root: Path) -> None:
    async with running(root) as engine:
        new_version = like(root / "one", root / "next", scaled(0.9))
        shutil.rmtree(root / "one")
        (root / "next").rename(root / "one")
        assert (await engine.reload())[1].version == new_version
        assert await served_version(engine) == new_version


@pytest.mark.parametrize(
    ("damage", "reason"),
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
@pytest.mark.anyio
async def test_a_bad_folder_is_refused_and_the_old_weights_stay(
    served: tuple[Path, Engine], damage: Callable[[Path, Path], object], reason: str
) -> None:
    root, engine = served
    shutil.rmtree(root / "bad", ignore_errors=True)
    damage(root / "one", root / "bad")
    before = engine.checkpoint
    with pytest.raises(ReloadRefused, match=reason):
        await engine.reload("bad")
    assert engine.checkpoint is before
    assert engine.lifecycle.phase is Phase.READY
    assert engine.batcher.alive
    assert not engine.reloading
    assert await served_version(engine) == before.version
    assert await engine.reload("one")  # the next attempt is not blocked


@pytest.mark.anyio
async def test_weights_that_do_not_fit_in_memory_are_refused(
    served: tuple[Path, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(weights: Path, device: str, threads: int) -> Predictor:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory")

    _, engine = served
    monkeypatch.setattr(Predictor, "load", too_large)
    with pytest.raises(ReloadRefused, match="not enough memory"):
        await engine.reload()
    assert engine.lifecycle.ready


@pytest.mark.anyio
async def test_weights_with_an_altered_voice_encoder_are_refused(
    served: tuple[Path, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, engine = served
    of_whisper(root / "voice")
    monkeypatch.setattr("model.features.audio.whisper.PACKAGED_SHA256", "0" * 64)
    with pytest.raises(ReloadRefused, match=r"voice encoder's model\.bin is missing or not the published one"):
        await engine.reload("voice")
    assert engine.lifecycle.ready


@pytest.mark.anyio
async def test_two_reloads_do_not_run_at_the_same_time(served: tuple[Path, Engine]) -> None:
    _, engine = served
    first = asyncio.create_task(engine.reload())
    await until(lambda: engine.reloading)
    with pytest.raises(ReloadUnderway):
        await engine.reload()
    await first
    await engine.reload()


@pytest.mark.anyio
async def test_a_service_that_is_not_ready_refuses_a_reload(root: Path) -> None:
    engine = Engine(Settings(weights=root / "one", device="cpu"))
    with pytest.raises(NotReady):
        await engine.reload()


@pytest.mark.anyio
async def test_a_request_is_decided_by_the_weights_it_was_prepared_with(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The batch is delayed for two seconds, and the weights are replaced meanwhile. The warm-up is skipped, since its
    # batches would be delayed too.
    new_version = like(root / "one", root / "two", scaled(0.9))
    batches: list[set[str]] = []
    async with running(root) as engine:
        engine.batcher._on_batch = lambda batch: batches.append(
            {prepared.predictor.pipeline.checkpoint.version for prepared in batch}
        )
        old_version = engine.checkpoint.version
        monkeypatch.setattr("app.engine.engine.warm_up", lambda *_: asyncio.sleep(0))
        engine.batcher.delay = 2.0
        waiting = asyncio.create_task(served_version(engine))
        await until(lambda: engine.batcher.depth == 1)
        await engine.reload("two")
        assert not batches
        later = asyncio.create_task(served_version(engine))
        assert await waiting == old_version
        assert await later == new_version
    assert all(len(versions) == 1 for versions in batches)
    assert {old_version} in batches
    assert {new_version} in batches


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no priority of a thread")
@pytest.mark.anyio
async def test_threads_that_compute_give_way_to_the_event_loop(served: tuple[Path, Engine]) -> None:
    computing = [t.native_id for t in threading.enumerate() if t.name.startswith("emmr-device-") and t.native_id]
    assert computing
    for thread in computing:
        assert os.getpriority(os.PRIO_PROCESS, thread) == os.getpriority(os.PRIO_PROCESS, 0) + COMPUTE_NICENESS


@pytest.mark.anyio
async def test_both_workers_answer_while_weights_are_replaced(root: Path) -> None:
    like(root / "one", root / "two", scaled(0.9))
    expected, answers = {}, list[Result]()
    async with running(root, compute_workers=2) as engine:

        async def ask() -> Result:
            return await engine.answer(RawForm(text=b"Hello."), Options())

        async def ask_until(reloads: asyncio.Task[None]) -> None:
            while not reloads.done():
                answers.append(await ask())

        async def reload() -> None:
            for name in ("two", "one"):
                checkpoint = (await engine.reload(name))[1]
                expected[checkpoint.version] = (await ask()).decision.probabilities

        reloads = asyncio.create_task(reload())
        await asyncio.gather(*(ask_until(reloads) for _ in range(8)), reloads)
        assert engine.batcher.workers == 2
    assert {answer.checkpoint.version for answer in answers} == set(expected)
    for answer in answers:
        assert answer.decision.probabilities == pytest.approx(expected[answer.checkpoint.version], abs=1e-6)


@pytest.mark.anyio
async def test_a_reload_succeeds_while_the_queue_is_full(root: Path) -> None:
    async with running(root, queue_size=1) as engine:
        with engine.batcher.reserve():
            await engine.reload()
        assert engine.batcher.depth == 0


def freed(predictor: weakref.ref[Predictor]) -> Callable[[], bool]:
    return lambda: predictor() is None


@pytest.mark.anyio
async def test_replaced_weights_are_freed_without_garbage_collection(root: Path) -> None:
    async with running(root) as engine:
        gc.collect()
        gc.disable()
        try:
            for _ in range(2):  # the weights of the start, then those of a reload
                before = weakref.ref(engine._current())
                await served_version(engine)
                await engine.reload()
                await until(freed(before))
                assert before() is None
        finally:
            gc.enable()


@pytest.mark.anyio
async def test_repeated_reloads_take_no_more_memory(served: tuple[Path, Engine]) -> None:
    _, engine = served
    await engine.reload()
    resident = psutil.Process().memory_info
    before = resident().rss
    for _ in range(3):  # about 100 MB each
        await engine.reload()
    await until(lambda: resident().rss < 1.1 * before)
    assert engine._current() is not None


# ---- names of weights folders ----------------------------------------------------------------------------------------


NAME_TYPE = TypeAdapter(Annotated[str, StringConstraints(pattern=WEIGHTS_NAME)])


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for name in ("weights/one", "weights/two", "elsewhere", "weights/one/inner"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "weights" / "file").write_text("not a folder")
    (tmp_path / "weights" / "way-out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "weights" / "latest").symlink_to(tmp_path / "weights" / "two")
    return tmp_path / "weights"


def test_without_a_name_the_configured_folder_is_used(folders: Path) -> None:
    assert weights_folder(Settings(weights=folders / "one"), None) == folders / "one"


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_name_is_a_folder_beside_the_configured_one(folders: Path, name: str) -> None:
    assert weights_folder(Settings(weights=folders / "one"), name) == folders / name


def test_a_link_to_a_folder_beside_it_is_followed(folders: Path) -> None:
    assert weights_folder(Settings(weights=folders / "one"), "latest") == folders / "two"


def test_the_root_of_the_folders_can_be_set(folders: Path, tmp_path: Path) -> None:
    assert (
        weights_folder(Settings(weights=folders / "one", weights_root=tmp_path), "elsewhere") == tmp_path / "elsewhere"
    )


@pytest.mark.parametrize(
    "name",
    ["nowhere", "file", "way-out", "..", ".", "../elsewhere", "one/../../elsewhere", "one/inner", "/tmp", ""],
)
def test_no_other_folder_is_accepted(folders: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="no weights folder"):
        weights_folder(Settings(weights=folders / "one"), name)


@pytest.mark.parametrize("name", ["a", "default", "v1.2_b-3", "A" * 128])
def test_a_plain_folder_name_is_valid(name: str) -> None:
    assert NAME_TYPE.validate_python(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a\\b", "a\0", "a\n", "ä", "-rf", "A" * 129, "a b"])
def test_a_path_is_not_a_valid_name(name: str) -> None:
    with pytest.raises(ValidationError):
        NAME_TYPE.validate_python(name)
