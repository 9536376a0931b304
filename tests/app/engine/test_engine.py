import asyncio
from pathlib import Path

import pytest

from app.engine.engine import Engine
from app.engine.errors import DeviceLost, NotReady
from app.engine.lifecycle import Phase
from app.engine.predictor import Options
from app.settings import Settings
from app.uploads.errors import UploadError
from app.uploads.form import RawForm
from model.errors import CorruptModality, EMMRError
from tests.support.service import reach

pytestmark = pytest.mark.anyio


async def test_it_warms_up_with_every_subset_before_it_is_ready(tiny_weights: Path) -> None:
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


async def test_stopping_while_it_starts_is_quiet(tiny_weights: Path) -> None:
    engine = Engine(Settings(weights=tiny_weights, device="cpu"))
    engine.start()
    await asyncio.sleep(0.01)
    await engine.stop()
    assert engine.lifecycle.phase is Phase.DRAINING


async def test_a_device_that_breaks_ends_the_service(tiny_weights: Path) -> None:
    failures: list[str] = []
    engine = Engine(Settings(weights=tiny_weights, device="cpu"), on_failure=lambda: failures.append("failed"))
    engine.start()
    await reach(engine, Phase.READY)
    assert engine.predictor is not None
    engine.predictor.pipeline.checkpoint.network.to("meta")  # weights without numbers: a device that lost its memory
    with pytest.raises(DeviceLost):
        await engine.answer(RawForm(text=b"Hello."), Options())
    assert engine.lifecycle.phase is Phase.FAILED
    assert failures == ["failed"]
    with pytest.raises(DeviceLost):
        engine.admit()
    await engine.stop()


async def test_of_two_bad_parts_one_is_told_and_nothing_is_left_running(tiny_weights: Path, tmp_path: Path) -> None:
    import tempfile

    engine = Engine(Settings(weights=tiny_weights, device="cpu"))
    engine.start()
    await reach(engine, Phase.READY)
    with tempfile.SpooledTemporaryFile() as audio, tempfile.SpooledTemporaryFile() as openface:
        for file in (audio, openface):
            file.write(b"neither sound nor table")
            file.seek(0)
        with pytest.raises((UploadError, CorruptModality, EMMRError)):
            await engine.answer(RawForm(audio=audio, openface=openface), Options())
    assert engine.batcher.depth == 0
    await engine.stop()
