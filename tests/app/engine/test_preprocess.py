import asyncio
import gc
import io
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import pytest
from fastapi import FastAPI

from app.decoding.pool import DecodePool
from app.decoding.protocol import Json
from app.engine.engine import Engine
from app.engine.lifecycle import Phase
from app.engine.predictor import Options, PreparedRequest
from app.engine.preprocess import Preprocessor
from app.engine.warmup import still_face, tone
from app.errors import InvalidQuery, NothingUsable, NotTranscribed
from app.offline import LocalDecoder
from app.settings import Settings
from app.transcription.transcriber import Sound
from app.transcription.transcription import Refusal, Transcription, Word
from app.uploads.form import RawForm
from model.features.audio.raw_features import AudioFeatures
from model.features.visual.openface import FaceTrack
from model.features.visual.table import ACTION_UNIT_COLUMNS
from model.modality import Modality, ModalitySet
from tests.support.device import until
from tests.support.service import reach
from tests.support.sound import encode

pytestmark = pytest.mark.anyio
T, A, V = Modality

SILENCE = encode(np.zeros(16_000, dtype=np.float32), "wav")


@asynccontextmanager
async def running(weights: Path, **settings: Any) -> AsyncIterator[Engine]:
    engine = Engine(Settings(**{"weights": weights, "device": "cpu", "decode_workers": 1, **settings}))
    engine.start()
    await reach(engine, Phase.READY)
    try:
        yield engine
    finally:
        await engine.stop()


def form() -> RawForm:
    return RawForm(b"Hello.", io.BytesIO(tone()), io.BytesIO(still_face(ACTION_UNIT_COLUMNS)))


def watch(monkeypatch: pytest.MonkeyPatch, method: str, before: Callable[[Any], None]) -> None:
    """Call `before` with the content that a `PreparedRequest` is given."""
    real = getattr(PreparedRequest, method)

    def watched(self: PreparedRequest, content: AudioFeatures | FaceTrack) -> None:
        before(content)
        real(self, content)

    monkeypatch.setattr(PreparedRequest, method, watched)


async def test_a_waiting_request_holds_nothing_of_its_upload(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays: list[weakref.ref[object]] = []
    async with running(tiny_weights) as engine:
        watch(monkeypatch, "add_audio", lambda voice: arrays.append(weakref.ref(voice.array)))
        watch(monkeypatch, "add_visual", lambda track: arrays.append(weakref.ref(track.values)))
        engine.batcher.delay = 60.0
        sent = form()
        waiting = asyncio.create_task(engine.answer(sent, Options()))
        await until(lambda: len(arrays) == 2 and bool(engine.batcher._waiting))
        gc.collect()
        assert all(file is not None and file.closed for file in (sent.audio, sent.openface))
        assert [array() for array in arrays] == [None, None]
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def test_the_number_of_requests_with_decoded_content_is_limited(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tiny_weights, decode_workers=1, feature_threads=1) as engine:
        active, most, two_active = 0, 0, asyncio.Event()
        real = engine._preprocessor._add_files

        async def add_files(*args: Any, keep_audio: bool) -> None:
            nonlocal active, most
            active += 1
            most = max(most, active)
            if active == 2:
                two_active.set()
            try:
                await real(*args, keep_audio=keep_audio)
            finally:
                await two_active.wait()
                active -= 1

        monkeypatch.setattr(engine._preprocessor, "_add_files", add_files)
        results = await asyncio.gather(*(engine.answer(form(), Options()) for _ in range(8)))
        assert len(results) == 8
        assert most == 2
        assert engine.batcher.depth == 0


async def test_audio_features_are_computed_while_the_face_is_being_decoded(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio_added = threading.Event()
    run = DecodePool.run

    async def wait_for_audio(self: DecodePool, job: Json, file: IO[bytes], part: Any, result: type[Any]) -> object:
        assert part == "audio" or await asyncio.to_thread(audio_added.wait, 30)
        return await run(self, job, file, part, result)

    async with running(tiny_weights) as engine:
        watch(monkeypatch, "add_audio", lambda _: audio_added.set())
        monkeypatch.setattr(DecodePool, "run", wait_for_audio)
        result = await engine.answer(form(), Options())
        assert len(result.request.presence) == 3


async def test_a_silent_sound_counts_as_missing(tiny_weights: Path) -> None:
    async with running(tiny_weights) as engine:
        request = (await engine.answer(RawForm(b"Hello.", io.BytesIO(SILENCE)), Options())).request
        assert request.presence == ModalitySet.of(T)
        assert (request.audio, request.empty[A].reason) == (None, "silent")


async def test_a_form_whose_parts_are_all_empty_is_refused(tiny_weights: Path) -> None:
    no_face = still_face(ACTION_UNIT_COLUMNS).replace(b",0.98,1,", b",0.98,0,")
    async with running(tiny_weights) as engine:
        with pytest.raises(NothingUsable) as refusal:
            await engine.answer(RawForm(None, io.BytesIO(SILENCE), io.BytesIO(no_face)), Options())
        assert {fault.part for fault in refusal.value.faults} == {"audio", "openface"}
        assert engine.batcher.depth == 0


class Words:
    """Transcribes every sound alike, or fails."""

    def __init__(self, answer: Transcription | NotTranscribed) -> None:
        self.answer = answer
        self.sounds: list[bytes] = []

    async def transcribe(self, sound: Sound) -> Transcription:
        assert not isinstance(sound, np.ndarray)
        sound.seek(0)
        self.sounds.append(sound.read())
        if isinstance(self.answer, NotTranscribed):
            raise self.answer
        return self.answer


TRANSCRIPTION = Transcription("Kids are talking.", 0.75, "en", (Word(0.0, 0.5, "Kids", 0.75),), 1.0)


async def prepared(
    application: FastAPI, form: RawForm, transcribe: Literal["never", "auto", "always"], words: Words | None
) -> PreparedRequest:
    engine: Engine = application.state.engine
    assert engine.predictor is not None
    decoder = LocalDecoder(engine.settings, form.audio)
    preprocessor = Preprocessor(engine.settings, decoder, words)
    try:
        return await preprocessor.prepare(form, Options(any_sound=True, transcribe=transcribe), engine.predictor)
    finally:
        preprocessor.stop()


@pytest.mark.usefixtures("client")
class TestTranscription:
    async def test_the_words_of_a_voice_become_the_text(self, application: FastAPI) -> None:
        words, file = Words(TRANSCRIPTION), io.BytesIO(tone())
        request = await prepared(application, RawForm(audio=file), "auto", words)
        assert (request.text, request.transcribed) == ("Kids are talking.", True)
        assert request.presence == ModalitySet.of(T, A)
        assert words.sounds == [tone()]
        assert file.closed
        assert request.transcription_outcome == "transcribed"
        assert request.transcribe_seconds > 0

    @pytest.mark.parametrize(
        ("transcribe", "form", "transcribed"),
        [
            ("never", {"audio": True}, False),
            ("auto", {"audio": True, "text": True}, False),
            ("always", {"audio": True, "text": True}, True),
            ("always", {"text": True}, False),
        ],
    )
    async def test_the_option_decides_what_is_transcribed(
        self, application: FastAPI, transcribe: Any, form: dict[str, bool], transcribed: bool
    ) -> None:
        words = Words(TRANSCRIPTION)
        sent = RawForm(b"Hello." if "text" in form else None, io.BytesIO(tone()) if "audio" in form else None)
        request = await prepared(application, sent, transcribe, words)
        assert bool(words.sounds) == transcribed
        assert request.transcription == (TRANSCRIPTION if transcribed else None)
        assert request.text == ("Hello." if "text" in form else None)
        assert not request.transcribed

    @pytest.mark.parametrize("reason", ["no_speech", "low_confidence", "other_language"])
    async def test_refused_words_leave_the_text_missing(self, application: FastAPI, reason: Refusal) -> None:
        words = Words(replace(TRANSCRIPTION, refused=reason))
        request = await prepared(application, RawForm(audio=io.BytesIO(tone())), "auto", words)
        assert (request.text, request.empty[T].reason) == (None, reason)
        assert request.transcription_outcome == reason

    async def test_a_failed_transcription_leaves_the_text_missing(self, application: FastAPI) -> None:
        words, file = Words(NotTranscribed("too many wait")), io.BytesIO(tone())
        request = await prepared(application, RawForm(audio=file), "auto", words)
        assert (request.text, request.empty[T].reason) == (None, "not_transcribed")
        assert "too many wait" in str(request.empty[T])
        assert request.transcription_outcome == "not_transcribed"
        assert file.closed

    async def test_a_demanded_transcription_that_fails_is_an_error(self, application: FastAPI) -> None:
        words, file = Words(NotTranscribed("too many wait")), io.BytesIO(tone())
        with pytest.raises(NotTranscribed) as caught:
            await prepared(application, RawForm(audio=file), "always", words)
        assert caught.value is words.answer
        assert file.closed

    async def test_without_the_extra_only_a_demand_is_refused(self, application: FastAPI) -> None:
        request = await prepared(application, RawForm(audio=io.BytesIO(tone())), "auto", None)
        assert (request.text, request.empty) == (None, {})
        with pytest.raises(InvalidQuery) as caught:
            await prepared(application, RawForm(audio=io.BytesIO(tone())), "always", None)
        assert caught.value.faults[0].place == "query.transcribe"

    async def test_an_unusable_sound_is_not_transcribed(self, application: FastAPI) -> None:
        words = Words(TRANSCRIPTION)
        face = io.BytesIO(still_face(ACTION_UNIT_COLUMNS))
        request = await prepared(application, RawForm(None, io.BytesIO(SILENCE), face), "auto", words)
        assert (words.sounds, T in request.empty) == ([], False)
