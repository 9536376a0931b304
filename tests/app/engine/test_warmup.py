import asyncio
import io
from pathlib import Path

import pytest
import soundfile

from app.engine.predictor import Predictor, PreparedRequest
from app.engine.warmup import FRAMES, still_face, tone, warm_up, warm_up_forms
from app.errors import DeadlinePassed, DeviceLost, ShortOfMemory, Unprocessable
from app.uploads.form import RawForm
from model.errors import CheckpointError
from model.modality import SUBSETS


def hello(predictor: Predictor) -> PreparedRequest:
    request = PreparedRequest(predictor)
    request.add_text("Hello.")
    return request


@pytest.mark.anyio
@pytest.mark.parametrize("error", [Unprocessable("no"), ShortOfMemory("no"), DeadlinePassed("no")])
async def test_weights_that_cannot_answer_are_refused(tiny_weights: Path, error: Exception) -> None:
    predictor = Predictor.load(tiny_weights, "cpu")

    async def answer(form: RawForm, explain: bool) -> PreparedRequest:
        if form.text is None:
            raise error
        return hello(predictor)

    with pytest.raises(CheckpointError, match=r"fail on audio\+visual"):
        await warm_up(predictor, answer, 0)


@pytest.mark.anyio
@pytest.mark.parametrize("error", [Unprocessable("no"), ShortOfMemory("no"), DeadlinePassed("no")])
async def test_weights_that_cannot_answer_a_full_batch_are_refused(tiny_weights: Path, error: Exception) -> None:
    predictor = Predictor.load(tiny_weights, "cpu")
    running, most = 0, 0

    async def answer(form: RawForm, explain: bool) -> PreparedRequest:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        if most == 5:
            raise error
        return hello(predictor)

    with pytest.raises(CheckpointError, match="fail on 5 sentences at once"):
        await warm_up(predictor, answer, 5)


@pytest.mark.anyio
async def test_a_lost_device_is_not_an_error_of_the_weights(tiny_weights: Path) -> None:
    async def answer(form: RawForm, explain: bool) -> PreparedRequest:
        raise DeviceLost("gone")

    with pytest.raises(DeviceLost):
        await warm_up(Predictor.load(tiny_weights, "cpu"), answer, 0)


def test_there_is_one_form_for_each_subset() -> None:
    forms = warm_up_forms(["AU01_r"])
    given = [tuple(part is not None for part in (form.text, form.audio, form.openface)) for form in forms]
    assert given == [subset.mask() for subset in SUBSETS]


def test_the_tone_is_an_audio_file() -> None:
    samples, rate = soundfile.read(io.BytesIO(tone()))
    assert (rate, len(samples)) == (16_000, 16_000)
    assert abs(samples).max() > 0.1


def test_the_face_has_the_given_columns() -> None:
    header, *rows = still_face(["AU01_r", "AU02_c"]).decode().splitlines()
    assert header == "frame,face_id,timestamp,confidence,success,AU01_r,AU02_c"
    assert rows[0].endswith(",0.5,1")
    assert len(rows) == FRAMES
    assert {row.count(",") for row in rows} == {header.count(",")}
