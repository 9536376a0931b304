"""Batches computed in other processes: their answers, and what the loss of a process costs."""

import asyncio
import os
import shutil
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.engine import fork_server, processes
from app.engine.engine import Engine
from app.engine.lifecycle import Phase
from app.engine.predictor import COMPUTE_NICENESS, Options, Predictor, PreparedRequest, Result
from app.engine.processes import ForkServer, ProcessPredictor, load_predictor
from app.engine.remote import detach
from app.engine.warmup import warm_up_forms
from app.settings import Settings
from app.uploads.form import RawForm
from model.errors import CheckpointError
from model.features.visual.table import ACTION_UNIT_COLUMNS
from tests.support import faulty
from tests.support.checkpoints import altered, like, scaled
from tests.support.process import EMMR, launching
from tests.support.service import reach

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems compute on threads")

SECRET = "open sesame"


def all_end(ended: Sequence[psutil.Process]) -> bool:
    """Wait for the end of processes; whether it came."""
    return not psutil.wait_procs(ended, timeout=30)[1]


def settings(weights: Path, **more: Any) -> Settings:
    return Settings(**{"weights": weights, "device": "cpu", "decode_workers": 1, "compute_workers": 2, **more})


def load(weights: Path, **more: Any) -> ProcessPredictor:
    predictor = load_predictor(settings(weights, **more), weights, "cpu", 1)
    assert isinstance(predictor, ProcessPredictor)
    return predictor


def sentence(predictor: Predictor, text: str) -> PreparedRequest:
    request = PreparedRequest(predictor)
    request.add_text(text)
    return request


def server_of(predictor: Predictor | None) -> psutil.Process:
    assert isinstance(predictor, ProcessPredictor)
    return psutil.Process(predictor.server.pid)


@pytest.fixture(scope="module")
def predictor(tiny_weights: Path) -> Iterator[ProcessPredictor]:
    """For tests that leave every process alive."""
    predictor = load(tiny_weights)
    yield predictor
    predictor.close()


@asynccontextmanager
async def running(
    weights: Path, on_batch: Callable[[object], None] = lambda _: None, **more: Any
) -> AsyncIterator[Engine]:
    engine = Engine(settings(weights, **more), on_batch=on_batch)
    engine.start()
    try:
        await reach(engine, Phase.READY)
        yield engine
    finally:
        await engine.stop()


async def ask(engine: Engine, number: int, text: str = "Hello.") -> list[Result]:
    return await asyncio.gather(*(engine.answer(RawForm(text=text.encode()), Options()) for _ in range(number)))


def decide_at_once(predictor: Predictor, texts: Sequence[str]) -> None:
    """Decide on each text in a batch of its own, all at the same time."""
    threads = [threading.Thread(target=predictor.decide, args=[[sentence(predictor, text)]]) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.anyio
async def test_answers_are_those_of_one_process(tiny_weights: Path) -> None:
    found = []
    for workers in (1, 2):
        async with running(tiny_weights, compute_workers=workers) as engine:
            options = Options(explain=True, any_sound=True)
            forms = warm_up_forms(ACTION_UNIT_COLUMNS)
            found.append([(await engine.answer(form, options)).decision for form in forms])
            assert (engine.predictor is not None and engine.predictor.processes_started > 0) is (workers == 2)
    assert found[0] == found[1]


def test_one_worker_is_a_thread(tiny_weights: Path) -> None:
    assert type(load_predictor(settings(tiny_weights, compute_workers=1), tiny_weights, "cpu", 1)) is Predictor


def test_as_many_processes_compute_as_batches_overlap(predictor: ProcessPredictor) -> None:
    predictor.decide([sentence(predictor, "Hello.")])
    decide_at_once(predictor, ["Good day, and a long sentence that takes a while. " * 20] * 4)
    children = server_of(predictor).children()
    assert 1 <= len(children) <= 2
    assert predictor.processes_started == len(children)
    for child in children:
        assert child.nice() == psutil.Process().nice() + COMPUTE_NICENESS


def test_processes_share_the_memory_of_the_weights(predictor: ProcessPredictor) -> None:
    predictor.decide([sentence(predictor, "Hello.")])
    server = server_of(predictor)
    alone = server.memory_full_info()
    for child in server.children():
        assert child.memory_full_info().uss < alone.rss / 4


def test_the_serving_process_has_no_weights_of_the_text_encoder(predictor: ProcessPredictor) -> None:
    encoder = predictor.pipeline.extractor.text_encoder
    assert encoder.has_tokens("Hello.")
    with pytest.raises(RuntimeError, match="freed"):
        encoder(["Hello."])


def test_a_computation_may_have_several_threads(tiny_weights: Path) -> None:
    predictor = load(tiny_weights, compute_threads=2)
    try:
        predictor.decide([sentence(predictor, "A long sentence has enough work for two. " * 30)])
        (child,) = server_of(predictor).children()
        assert child.num_threads() >= 2
    finally:
        predictor.close()


def test_refused_weights_are_named(tiny_weights: Path, tmp_path: Path) -> None:
    altered(tiny_weights, tmp_path / "altered")
    with pytest.raises(CheckpointError, match=r"config\.json is not the file that was hashed"):
        load(tmp_path / "altered")


def test_closing_ends_all_processes(tiny_weights: Path) -> None:
    predictor = load(tiny_weights)
    predictor.decide([sentence(predictor, "Hello.")])
    ended = [server_of(predictor), *server_of(predictor).children()]
    predictor.close()
    predictor.close()  # a second time does nothing
    assert all_end(ended)


@pytest.mark.anyio
async def test_a_killed_process_costs_no_request(tiny_weights: Path) -> None:
    loop, began = asyncio.get_running_loop(), asyncio.Event()

    def begin(_: object) -> None:
        loop.call_soon_threadsafe(began.set)

    async with running(tiny_weights, begin) as engine:
        before = engine.checkpoint.version
        for _ in range(3):
            began.clear()
            asking = asyncio.create_task(ask(engine, 24))
            await began.wait()
            for child in server_of(engine.predictor).children():
                child.kill()
            assert {result.checkpoint.version for result in await asking} == {before}
        assert engine.lifecycle.ready
        assert engine.predictor is not None
        assert engine.predictor.processes_started > 2


def test_a_process_that_ends_each_time_fails_its_batch(
    predictor: ProcessPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []

    def fork() -> object:
        ours, theirs = Pipe()
        theirs.close()
        started.append(ours)
        return ours

    other = ProcessPredictor(predictor.pipeline, predictor.server, 1)
    other._end.detach()  # the processes of the fixture stay
    monkeypatch.setattr(other.server, "fork", fork)
    with pytest.raises(RuntimeError, match="ended 3 times"):
        other.decide([sentence(predictor, "Hello.")])
    assert len(started) == processes.ATTEMPTS


@pytest.mark.anyio
async def test_a_killed_server_is_started_again(tiny_weights: Path) -> None:
    async with running(tiny_weights) as engine:
        killed = server_of(engine.predictor)
        children = killed.children()
        killed.kill()
        assert all_end(children)
        assert len(await ask(engine, 4)) == 4
        assert server_of(engine.predictor).pid != killed.pid
        assert engine.lifecycle.ready


def test_a_server_does_not_start_again_with_other_weights(tiny_weights: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_weights, tmp_path / "one")
    predictor = load(tmp_path / "one")
    try:
        request = sentence(predictor, "Hello.")
        predictor.decide([request])
        like(tiny_weights, tmp_path / "one", scaled(0.9))
        (child,) = server_of(predictor).children()
        server_of(predictor).kill()
        assert all_end([child])
        for _ in range(2):
            with pytest.raises(CheckpointError, match="other content"):
                predictor.decide([request])
    finally:
        predictor.close()


@pytest.mark.parametrize(("text", "error"), [(faulty.FAILS, RuntimeError), (faulty.NO_ROOM, MemoryError)])
def test_a_process_that_fails_is_replaced(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch, text: str, error: type[Exception]
) -> None:
    monkeypatch.setattr(processes, "MODULE", "tests.support.faulty_fork_server")
    predictor = load(tiny_weights)
    try:
        predictor.decide([sentence(predictor, "Hello.")])
        before = server_of(predictor).children()
        with pytest.raises(error) as raised:
            predictor.decide([sentence(predictor, text)])
        assert text not in str(raised.value)
        assert all_end(before)
        assert len(predictor.decide([sentence(predictor, "Hello.")])) == 1
        assert predictor.processes_started == 2
    finally:
        predictor.close()


def test_a_fork_is_tried_again_where_the_system_is_short(
    predictor: ProcessPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ForkServer(settings(predictor.pipeline.checkpoint.folder), predictor.pipeline.checkpoint.folder)
    ours, theirs = Pipe()
    outcomes = [None, None, ours]
    monkeypatch.setattr(server, "_process", object())
    monkeypatch.setattr(server, "_fork", lambda: outcomes.pop(0))
    monkeypatch.setattr(processes, "PAUSES", (0.0, 0.0, 0.0))
    with ours, theirs:
        assert server.fork() is ours
    outcomes += [None, None, None]
    with pytest.raises(OSError, match="no process can be forked"):
        server.fork()


def test_batches_are_decided_until_the_connection_ends(tiny_weights: Path) -> None:
    local = Predictor.load(tiny_weights, "cpu", 1)
    ours, theirs = Pipe()
    thread = threading.Thread(target=fork_server.compute, args=[local, theirs])
    thread.start()
    request = sentence(local, "Hello.")
    for _ in range(2):
        ours.send(detach([request]))
        assert [result.decision for result in ours.recv()] == [local.decide([request])[0].decision]
    ours.close()
    thread.join(10)
    assert not thread.is_alive()


def test_processes_end_with_a_killed_service_and_never_had_its_keys(tiny_weights: Path) -> None:
    with launching() as launch:
        service = launch(tiny_weights, EMMR, EMMR_COMPUTE_WORKERS="2", EMMR_API_KEYS=f'["{SECRET}"]')
        service.ready()
        children = psutil.Process(service.popen.pid).children()
        (server,) = (child for child in children if fork_server.__name__ in child.cmdline())
        started = [server, *server.children()]
        assert len(started) >= 2
        if os.getuid() == 0:  # others may not read it
            for process in started:
                assert SECRET.encode() not in Path(f"/proc/{process.pid}/environ").read_bytes()
        service.popen.send_signal(signal.SIGKILL)
        assert all_end(started)
