import asyncio
import io
from pathlib import Path

import pytest
import soundfile

from app.engine.errors import DeadlinePassed, DeviceLost, ShortOfMemory, Unprocessable
from app.engine.predictor import Inputs, Predictor, PreparedRequest
from app.engine.warmup import FRAMES, still_face, tone, warm_up, warm_up_forms
from app.uploads.form import RawForm
from model.errors import CheckpointError
from model.modality import SUBSETS


@pytest.mark.anyio
@pytest.mark.parametrize("error", [Unprocessable("no"), ShortOfMemory("no"), DeadlinePassed("no")])
async def test_weights_that_cannot_answer_are_at_fault(tiny_weights: Path, error: Exception) -> None:
    predictor = Predictor.load(tiny_weights, "cpu")

    async def ask(form: RawForm, explain: bool) -> PreparedRequest:
        if form.text is None:
            raise error
        return predictor.prepare(Inputs("Hello."))

    with pytest.raises(CheckpointError, match=r"fail on audio\+visual"):
        await warm_up(predictor, ask, 0)


@pytest.mark.anyio
@pytest.mark.parametrize("error", [Unprocessable("no"), ShortOfMemory("no"), DeadlinePassed("no")])
async def test_weights_that_cannot_answer_a_crowd_are_at_fault(tiny_weights: Path, error: Exception) -> None:
    predictor = Predictor.load(tiny_weights, "cpu")
    going, most = 0, 0

    async def ask(form: RawForm, explain: bool) -> PreparedRequest:
        nonlocal going, most
        going += 1
        most = max(most, going)
        await asyncio.sleep(0)
        going -= 1
        if most == 5:
            raise error
        return predictor.prepare(Inputs("Hello."))

    with pytest.raises(CheckpointError, match="fail on 5 sentences at once"):
        await warm_up(predictor, ask, 5)


@pytest.mark.anyio
async def test_a_device_that_is_lost_meanwhile_is_not_the_weights_fault(tiny_weights: Path) -> None:
    async def ask(form: RawForm, explain: bool) -> PreparedRequest:
        raise DeviceLost("gone")

    with pytest.raises(DeviceLost):
        await warm_up(Predictor.load(tiny_weights, "cpu"), ask, 0)


def test_there_is_one_form_for_each_subset_and_its_files_are_closed_after_its_turn() -> None:
    given, files = [], []
    for form in warm_up_forms(["AU01_r"]):
        given.append((form.text is not None, form.audio is not None, form.openface is not None))
        files += [file for file in (form.audio, form.openface) if file is not None]
        assert not any(file.closed for file in (form.audio, form.openface) if file is not None)
    assert given == [subset.mask() for subset in SUBSETS]
    assert files
    assert all(file.closed for file in files)


def test_the_tone_is_a_sound() -> None:
    samples, rate = soundfile.read(io.BytesIO(tone()))
    assert (rate, len(samples)) == (16_000, 16_000)
    assert abs(samples).max() > 0.1


def test_the_face_has_the_columns_asked_for() -> None:
    header, *rows = still_face(["AU01_r", "AU02_c"]).decode().splitlines()
    assert header == "frame,face_id,timestamp,confidence,success,AU01_r,AU02_c"
    assert rows[0].endswith(",0.5,1")
    assert len(rows) == FRAMES
    assert {row.count(",") for row in rows} == {header.count(",")}
