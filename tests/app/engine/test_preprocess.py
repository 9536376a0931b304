import asyncio
import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.decoding.openface import decode_openface
from app.engine import preprocess as digest
from app.engine.engine import Engine
from app.engine.errors import NothingUsable
from app.engine.lifecycle import Phase
from app.engine.predictor import Heard, Options, Predictor, Seen
from app.engine.warmup import still_face, tone
from app.settings import Settings
from app.uploads.form import RawForm
from model.features.audio.raw_features import Voice
from model.features.visual.openface import ACTION_UNIT_COLUMNS, FaceTrack
from model.modality import Modality
from tests.support.service import reach
from tests.support.sound import encode

pytestmark = pytest.mark.anyio
T, A, V = Modality


def form() -> RawForm:
    made = RawForm(text=b"Hello.")
    audio, openface = made.open("audio", 2**20), made.open("openface", 2**20)
    for file, content in ((audio, tone()), (openface, still_face(ACTION_UNIT_COLUMNS))):
        file.write(content)
        file.seek(0)
    return made


async def test_while_a_request_waits_nothing_is_left_of_its_upload(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[weakref.ref[object]] = []
    hear, see = Predictor.audio_features, Predictor.visual_features

    def watched_hear(self: Predictor, voice: Voice, *, any_sound: bool) -> Heard:
        decoded.append(weakref.ref(voice.features))
        return hear(self, voice, any_sound=any_sound)

    def watched_see(self: Predictor, track: FaceTrack) -> Seen:
        decoded.append(weakref.ref(track.values))
        return see(self, track)

    engine = Engine(Settings(weights=tiny_weights, device="cpu"))
    engine.start()
    await reach(engine, Phase.READY)
    monkeypatch.setattr(Predictor, "audio_features", watched_hear)
    monkeypatch.setattr(Predictor, "visual_features", watched_see)
    engine.batcher.delay = 60.0
    sent = form()
    files = [sent.audio, sent.openface]
    waiting = asyncio.create_task(engine.answer(sent, Options()))
    for _ in range(2000):
        if len(decoded) == 2 and engine.batcher._waiting:
            break
        await asyncio.sleep(0.005)
    assert len(decoded) == 2
    gc.collect()
    assert all(file is not None and file.closed for file in files)
    assert [content() for content in decoded] == [None, None]
    assert engine.batcher._waiting[0].job.track is not None
    assert engine.batcher._waiting[0].job.track.values.size == 0
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await engine.stop()


async def test_only_so_many_requests_hold_decoded_content(tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(Settings(weights=tiny_weights, device="cpu", decode_workers=1, feature_threads=1))
    engine.start()
    await reach(engine, Phase.READY)
    going, most = 0, 0
    real = engine._digestion._describe

    async def describe(*args: Any) -> Any:
        nonlocal going, most
        going += 1
        most = max(most, going)
        try:
            return await real(*args)
        finally:
            await asyncio.sleep(0.02)
            going -= 1

    monkeypatch.setattr(engine._digestion, "_describe", describe)
    replies = await asyncio.gather(*(engine.answer(form(), Options()) for _ in range(8)))
    assert len(replies) == 8
    assert most == 2
    assert engine.batcher.depth == 0
    await engine.stop()


async def test_a_sound_is_described_while_the_face_is_still_being_decoded(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = threading.Event()
    hear = Predictor.audio_features

    def watched(self: Predictor, voice: Voice, *, any_sound: bool) -> Heard:
        found = hear(self, voice, any_sound=any_sound)
        heard.set()
        return found

    async def late(*args: Any) -> FaceTrack:
        assert await asyncio.to_thread(heard.wait, 30)
        return await decode_openface(*args)

    engine = Engine(Settings(weights=tiny_weights, device="cpu"))
    engine.start()
    await reach(engine, Phase.READY)
    monkeypatch.setattr(Predictor, "audio_features", watched)
    monkeypatch.setattr(digest, "decode_openface", late)
    reply = await engine.answer(form(), Options())
    assert len(reply.prepared.presence) == 3
    await engine.stop()


async def test_parts_that_are_all_empty_are_named_together(tiny_weights: Path) -> None:
    engine = Engine(Settings(weights=tiny_weights, device="cpu"))
    engine.start()
    await reach(engine, Phase.READY)
    sent = RawForm()
    nobody = still_face(ACTION_UNIT_COLUMNS).replace(b",0.98,1,", b",0.98,0,")
    for file, content in (
        (sent.open("audio", 2**20), encode(np.zeros(16_000, dtype=np.float32), "wav")),
        (sent.open("openface", 2**20), nobody),
    ):
        file.write(content)
        file.seek(0)
    with pytest.raises(NothingUsable) as refusal:
        await engine.answer(sent, Options())
    assert {m: e.reason for m, e in refusal.value.empty.items()} == {A: "silent", V: "no_face"}
    await engine.stop()
