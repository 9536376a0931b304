import asyncio
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from tests.support.device import until
from tests.support.service import Part, make_app, serving

pytestmark = pytest.mark.anyio


async def test_a_full_queue_refuses_before_the_body_is_read(tiny_weights: Path) -> None:
    async with serving(tiny_weights, queue_size=2, retry_after=4) as (client, engine, _):
        with ExitStack() as waiting:
            for _ in range(2):
                waiting.enter_context(engine.batcher.reserve())
            refused = await client.post("/predict", content=b"never read", headers={"content-type": "nonsense/none"})
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "4")
            assert refused.json()["type"] == "/problems/queue-full"
            assert refused.headers["content-type"] == "application/problem+json"
        assert (await client.post("/predict", data={"text": "Hello."})).status_code == 200


async def test_concurrent_uploads_are_limited(tiny_weights: Path) -> None:
    async with serving(tiny_weights, max_uploads=2, retry_after=3) as (client, engine, _):
        with ExitStack() as arriving:
            for _ in range(2):
                arriving.enter_context(engine.uploading())
            refused = await client.post("/predict", data={"text": "Hello."})
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "3")
            assert refused.json()["type"] == "/problems/queue-full"
        answers = await asyncio.gather(*(client.post("/predict", data={"text": "Hello."}) for _ in range(2)))
        assert [answer.status_code for answer in answers] == [200, 200]


async def test_a_complete_body_no_longer_counts_as_an_upload(tiny_weights: Path) -> None:
    async with serving(tiny_weights, max_uploads=1, batch_delay_ms=500) as (client, engine, _):
        waiting = asyncio.create_task(client.post("/predict", data={"text": "Hello."}))
        await until(lambda: engine.batcher.depth == 1)
        with engine.uploading():
            pass
        assert (await waiting).status_code == 200


async def test_a_passed_deadline_is_504(tiny_weights: Path, parts: Mapping[str, Part]) -> None:
    # The batch delay of a second exceeds the deadline.
    async with serving(tiny_weights, deadline=0.5, batch_delay_ms=1000) as (client, engine, _):
        late = await client.post("/predict", data={"text": "Hello."})
        assert late.status_code == 504
        assert late.json()["type"] == "/problems/deadline-passed"
        assert engine.batcher.depth == 0


async def test_a_deadline_passed_before_queueing_is_504(tiny_weights: Path) -> None:
    async with serving(tiny_weights, deadline=1e-6) as (client, _, _):
        assert (await client.post("/predict", data={"text": "Hello."})).status_code == 504


async def test_corrupt_requests_do_not_change_concurrent_predictions(
    tiny_weights: Path, parts: Mapping[str, Part]
) -> None:
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


async def test_a_disconnected_client_leaves_the_queue(tiny_weights: Path) -> None:
    async with serving(tiny_weights, batch_delay_ms=60_000, max_batch=2) as (client, engine, application):
        disconnected = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if not disconnected.is_set() and not sent:
                sent.append(True)
                return {"type": "http.request", "body": b"text=Hello.", "more_body": False}
            await disconnected.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            pass

        sent: list[bool] = []
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

        request = asyncio.create_task(application(scope, receive, send))
        await until(lambda: engine.batcher.depth == 1)
        disconnected.set()
        await asyncio.wait_for(request, 10)
        assert engine.batcher.depth == 0
        metrics = await client.get("/metrics")
        assert 'emmr_rejected_total{reason="client-gone"} 1.0' in metrics.text
        # Two more requests fill a batch, so the cancelled one is not in it.
        full = await asyncio.gather(*(client.post("/predict", data={"text": "Hello."}) for _ in range(2)))
        assert [response.status_code for response in full] == [200, 200]
        assert "emmr_batch_size_sum" in (await client.get("/metrics")).text


async def test_a_cancellation_by_the_server_is_not_client_gone(tiny_weights: Path) -> None:
    async with serving(tiny_weights, batch_delay_ms=60_000, max_batch=2) as (client, engine, _):
        request = asyncio.create_task(client.post("/predict", data={"text": "Hello."}))
        await until(lambda: engine.batcher.depth == 1)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        await until(lambda: engine.batcher.depth == 0)
        assert "client-gone" not in (await client.get("/metrics")).text


def test_creating_an_application_reads_no_weights(tmp_path: Path) -> None:
    assert isinstance(make_app(tmp_path / "nowhere"), FastAPI)
