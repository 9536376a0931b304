import asyncio
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from tests.support.device import until
from tests.support.service import Part, make_app, serving

pytestmark = pytest.mark.anyio


async def test_a_full_queue_refuses_before_the_body_is_read(tiny_weights: Path) -> None:
    async with serving(tiny_weights, queue_size=2, retry_after=4) as (client, engine, _):
        with ExitStack() as waiting:
            for _ in range(2):
                waiting.enter_context(engine.batcher.place())
            refused = await client.post("/predict", content=b"never read", headers={"content-type": "nonsense/none"})
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "4")
            assert refused.json()["type"] == "/problems/queue-full"
            assert refused.headers["content-type"] == "application/problem+json"
        assert (await client.post("/predict", data={"text": "Hello."})).status_code == 200


async def test_as_many_bodies_may_arrive_at_a_time_as_is_set(tiny_weights: Path) -> None:
    async with serving(tiny_weights, max_uploads=2, retry_after=3) as (client, engine, _):
        with ExitStack() as arriving:
            for _ in range(2):
                arriving.enter_context(engine.uploading())
            refused = await client.post("/predict", data={"text": "Hello."})
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "3")
            assert refused.json()["type"] == "/problems/queue-full"
        answers = await asyncio.gather(*(client.post("/predict", data={"text": "Hello."}) for _ in range(2)))
        assert [answer.status_code for answer in answers] == [200, 200]


async def test_a_body_that_has_arrived_no_longer_counts_as_arriving(tiny_weights: Path) -> None:
    async with serving(tiny_weights, max_uploads=1, batch_delay_ms=500) as (client, engine, _):
        waiting = asyncio.create_task(client.post("/predict", data={"text": "Hello."}))
        await until(lambda: engine.batcher.depth == 1)
        with engine.uploading():
            pass
        assert (await waiting).status_code == 200


async def test_past_the_deadline_the_answer_is_504(tiny_weights: Path, parts: Mapping[str, Part]) -> None:
    # Held back for company for a second, with half a second to answer in.
    async with serving(tiny_weights, deadline=0.5, batch_delay_ms=1000) as (client, engine, _):
        late = await client.post("/predict", data={"text": "Hello."})
        assert late.status_code == 504
        assert late.json()["type"] == "/problems/deadline-passed"
        assert engine.batcher.depth == 0


async def test_a_deadline_that_passed_on_the_way_is_504_too(tiny_weights: Path) -> None:
    async with serving(tiny_weights, deadline=1e-6) as (client, _, _):
        assert (await client.post("/predict", data={"text": "Hello."})).status_code == 504


# librosa's warnings are silenced around each call, which another thread's call can undo.
async def test_a_corrupt_neighbour_changes_no_ones_answer(tiny_weights: Path, parts: Mapping[str, Part]) -> None:
    good: list[dict[str, Part]] = [
        {"text": parts["text"]},
        {"audio": parts["audio"]},
        dict(parts),
        {"openface": parts["openface"]},
    ]
    bad: list[dict[str, Part]] = [
        {"text": (None, b"\xff", "text/plain")},
        {"audio": ("a", b"RIFF nothing", "audio/wav")},
        {"openface": ("a", b"frame,AU01_r\n1,nan\n", "text/csv")},
        {"video": (None, b"x", "video/mp4")},
    ]
    async with serving(tiny_weights, batch_delay_ms=300) as (client, _, _):
        alone = [(await client.post("/predict", files=files)).json() for files in good]
        together = await asyncio.gather(*(client.post("/predict", files=files) for files in [*good, *bad]))
    for before, after in zip(alone, together, strict=False):
        assert after.status_code == 200
        assert after.json()["probabilities"] == pytest.approx(before["probabilities"], abs=1e-4)
    assert [response.status_code for response in together[len(good) :]] == [422, 415, 422, 422]


async def test_a_client_that_leaves_gives_up_its_place_and_is_never_computed(tiny_weights: Path) -> None:
    async with serving(tiny_weights, batch_delay_ms=60_000, max_batch=2) as (client, engine, application):
        gone = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if not gone.is_set() and not sent:
                sent.append(True)
                return {"type": "http.request", "body": b"text=Hello.", "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            answered.append(message)

        sent: list[bool] = []
        answered: list[Any] = []
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/predict",
            "raw_path": b"/predict",
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "http_version": "1.1",
            "server": ("test", 80),
            "client": ("test", 1),
            "headers": [(b"content-type", b"application/x-www-form-urlencoded")],
        }

        async def ask() -> None:
            await application(scope, receive, send)

        asking = asyncio.create_task(ask())
        for _ in range(2000):
            if engine.batcher.depth == 1:
                break
            await asyncio.sleep(0.005)
        assert engine.batcher.depth == 1
        gone.set()
        await asyncio.wait_for(asking, 10)
        assert engine.batcher.depth == 0
        metrics = await client.get("/metrics")
        assert 'emmr_rejected_total{reason="client-gone"} 1.0' in metrics.text
        # Two more fill the batch at once, beside the one that left, which is not among them.
        full = await asyncio.gather(*(client.post("/predict", data={"text": "Hello."}) for _ in range(2)))
        assert [response.status_code for response in full] == [200, 200]
        assert "emmr_batch_size_sum" in (await client.get("/metrics")).text


async def test_a_request_that_the_server_itself_ends_is_not_said_to_be_its_clients_doing(tiny_weights: Path) -> None:
    async with serving(tiny_weights, batch_delay_ms=60_000, max_batch=2) as (client, engine, _):
        asking = asyncio.create_task(client.post("/predict", data={"text": "Hello."}))
        await until(lambda: engine.batcher.depth == 1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await until(lambda: engine.batcher.depth == 0)
        assert "client-gone" not in (await client.get("/metrics")).text


def test_several_faces_and_skipped_frames_are_warned_of(client: TestClient) -> None:
    header = "frame,face_id,timestamp,confidence,success," + ",".join(f"{a}" for a in action_units())
    rows = [
        f"{frame},{face},{frame / 30:.3f},{confidence},{success}," + ",".join([*["0.5"] * 17, *["1"] * 18])
        for frame, face, confidence, success in [
            (1, 0, 0.98, 1),
            (1, 1, 0.7, 1),
            (2, 0, 0.98, 1),
            (3, 0, 0.2, 1),
            (4, 0, 0.9, 0),
        ]
    ]
    csv = "\n".join([header, *rows]).encode()
    answer = client.post("/predict", files={"openface": ("a.csv", csv, "text/csv")}).json()
    assert [warning["code"] for warning in answer["warnings"]] == ["several_faces", "frames_skipped"]
    assert answer["modalities"]["visual"]["faces"] == 2
    assert answer["modalities"]["visual"]["frames"] == 2


def test_a_long_text_is_cut_and_that_is_said(client: TestClient) -> None:
    answer = client.post("/predict", data={"text": "word " * 500}).json()
    assert [warning["code"] for warning in answer["warnings"]] == ["text_truncated"]
    assert answer["modalities"]["text"] == {
        "status": "present",
        "reason": None,
        "familiarity": None,
        "tokens": 48,
        "truncated": True,
    }


def action_units() -> tuple[str, ...]:
    from model.features.visual.openface import ACTION_UNIT_COLUMNS

    return tuple(ACTION_UNIT_COLUMNS)


def test_making_an_application_reads_no_weights(tmp_path: Path) -> None:
    began = time.monotonic()
    assert isinstance(make_app(tmp_path / "nowhere"), FastAPI)
    assert time.monotonic() - began < 5
