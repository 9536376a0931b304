import asyncio
import io
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

import pytest

from app.engine.engine import Engine
from app.engine.lifecycle import Phase
from app.engine.predictor import Options
from app.errors import DeviceLost, NotReady, QueueFull, UploadError
from app.logging import configure_logging
from app.settings import Settings
from app.uploads.form import RawForm
from tests.support.service import reach, serving

pytestmark = pytest.mark.anyio


async def test_every_subset_is_answered_before_the_engine_is_ready(tiny_weights: Path) -> None:
    batches: list[str] = []
    engine = Engine(
        Settings(weights=tiny_weights, device="cpu"),
        on_batch=lambda batch: batches.extend(prepared.presence.name for prepared in batch),
    )
    with pytest.raises(NotReady):
        engine.admit()
    engine.start()
    await reach(engine, Phase.READY)
    assert (
        batches
        == [
            "text+audio+visual",
            "text+audio",
            "text+visual",
            "audio+visual",
            "text",
            "audio",
            "visual",
        ]
        + ["text"] * engine.settings.max_batch
    )
    assert engine.checkpoint.config.name == "tiny"
    await engine.stop()
    assert engine.lifecycle.phase is Phase.DRAINING
    with pytest.raises(NotReady):
        await engine.answer(RawForm(text=b"Hello."), Options())


async def test_stopping_during_the_start_raises_nothing(tiny_weights: Path) -> None:
    engine = Engine(Settings(weights=tiny_weights, device="cpu"))
    engine.start()
    await asyncio.sleep(0.01)
    await engine.stop()
    assert engine.lifecycle.phase is Phase.DRAINING


async def test_a_lost_device_fails_the_service(tiny_weights: Path) -> None:
    configure_logging("info")  # structlog's default renders the local variables of every frame, which takes seconds
    failures: list[str] = []
    engine = Engine(Settings(weights=tiny_weights, device="cpu"), on_failure=lambda: failures.append("failed"))
    engine.start()
    await reach(engine, Phase.READY)
    assert engine.predictor is not None
    engine.predictor.pipeline.checkpoint.network.to("meta")  # parameters without data, as on a lost device
    with pytest.raises(DeviceLost):
        await engine.answer(RawForm(text=b"Hello."), Options())
    assert engine.lifecycle.phase is Phase.FAILED
    assert failures == ["failed"]
    with pytest.raises(DeviceLost):
        engine.admit()
    await engine.stop()


async def test_of_two_bad_parts_one_is_reported(tiny_weights: Path) -> None:
    engine = Engine(Settings(weights=tiny_weights, device="cpu"))
    engine.start()
    await reach(engine, Phase.READY)
    bad = b"neither sound nor table"
    with pytest.raises(UploadError):
        await engine.answer(RawForm(audio=io.BytesIO(bad), openface=io.BytesIO(bad)), Options())
    assert engine.batcher.depth == 0
    await engine.stop()


@pytest.mark.parametrize(("transcribe", "phase"), [("auto", Phase.READY), ("always", Phase.FAILED)])
async def test_without_the_extra_a_demand_for_transcription_stops_the_start(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch, transcribe: Literal["auto", "always"], phase: Phase
) -> None:
    monkeypatch.setattr("app.engine.engine.installed", lambda: False)
    engine = Engine(Settings(weights=tiny_weights, device="cpu", decode_workers=1, transcribe=transcribe))
    engine.start()
    await reach(engine, phase)
    await engine.stop()
    assert engine.transcriber is None
    assert ("extra asr" in str(engine.lifecycle.reason)) == (phase is Phase.FAILED)


async def test_an_utterance_of_a_recording_waits_while_the_queue_is_full(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = asyncio.Event()
    async with serving(tiny_weights, queue_size=1, retry_after=1) as (_, engine, _):
        assert engine.predictor is not None
        with engine.batcher.reserve():
            with pytest.raises(QueueFull) as refused:
                await engine.answer(RawForm(text=b"Hello."), Options())
            assert refused.value.retry_after == 1
            reserve = engine.batcher.reserve

            def watched_reserve(*, extra: bool = False) -> AbstractContextManager[object]:
                waits.set()
                return reserve(extra=extra)

            monkeypatch.setattr(engine.batcher, "reserve", watched_reserve)
            prepared = await engine.prepare_utterance(RawForm(text=b"Hello."), Options(), engine.predictor)
            waiting = asyncio.create_task(engine.answer_utterance(prepared))
            await waits.wait()
            assert not waiting.done()
        assert (await waiting).decision.probabilities
