import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

import emmr
from app.api.schemas import AnsweredItem, ExplainedPrediction, RefusedItem
from emmr import calls
from emmr.client import IncompleteAnswer, Utterance
from tests.emmr.test_local import SRT
from tests.support.answers import prediction
from tests.support.service import Part

URL = "http://testserver"
ANSWER = prediction(detected=True).model_dump_json()
PROBLEM = {
    "type": "/problems/queue-full",
    "title": "Too many requests waiting",
    "status": 429,
    "detail": "Later.",
    "instance": "/predict",
    "request_id": "r",
    "errors": [],
}
STOPPED = json.dumps({**PROBLEM, "type": "problem", "problem_type": "/problems/internal"})
Answer = httpx2.Response | Exception


class InThread(httpx2.AsyncBaseTransport):
    """An asynchronous transport that sends by a synchronous one."""

    def __init__(self, transport: httpx2.BaseTransport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await request.aread()
        response = await asyncio.to_thread(self._transport.handle_request, request)
        return httpx2.Response(response.status_code, headers=response.headers, content=response.read())


class Script(httpx2.MockTransport):
    """A transport that gives the answers of a list, and keeps the requests."""

    def __init__(self, *answers: Answer) -> None:
        self.requests: list[httpx2.Request] = []
        self._answers = list(answers)
        super().__init__(self._answer)

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def service(client: TestClient) -> emmr.Client:
    """A client of a service in this process."""
    return emmr.Client(URL, transport=client._transport)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries wait for the Retry-After alone."""
    monkeypatch.setattr(calls, "BACKOFF", 0.0)


def busy(seconds: str = "0") -> httpx2.Response:
    return httpx2.Response(429, json=PROBLEM, headers={"Retry-After": seconds})


def answered() -> httpx2.Response:
    return httpx2.Response(200, content=ANSWER)


@pytest.mark.parametrize("given", [("text",), ("audio",), ("openface",), ("text", "audio", "openface")])
def test_answer_is_that_of_the_service(
    service: emmr.Client, client: TestClient, parts: Mapping[str, Part], given: tuple[str, ...]
) -> None:
    content: dict[str, Any] = {name: parts[name][1].decode() if name == "text" else parts[name][1] for name in given}
    answer = service.predict(**content)
    raw = client.post("/predict", files={name: parts[name] for name in given}).json()
    assert answer.probabilities == pytest.approx(raw["probabilities"])
    assert {name for name, use in answer.modalities if use.status == "present"} == {
        "visual" if name == "openface" else name for name in given
    }


def test_files_are_sent_without_their_names(parts: Mapping[str, Part], tmp_path: Path) -> None:
    path = tmp_path / "patient-0815.wav"
    path.write_bytes(parts["audio"][1])
    script = Script(answered())
    emmr.Client(URL, transport=script).predict(audio=path, text="Hello")
    body = script.requests[0].read()
    assert parts["audio"][1] in body
    assert b"patient" not in body


def test_explained_answer_has_votes(service: emmr.Client) -> None:
    answer = service.predict(text="Hello", explain=True, threshold=0.25)
    assert isinstance(answer, ExplainedPrediction)
    assert answer.key_missing.threshold == 0.25


def test_problem_is_an_error_with_its_place(service: emmr.Client) -> None:
    with pytest.raises(emmr.ProblemError) as refused:
        service.predict(openface=b"{}", text="Hello")
    assert (refused.value.status, refused.value.code) == (422, "corrupt-part")
    assert str(refused.value).endswith("(openface line 1)")


def test_batch_has_an_answer_or_a_problem_for_each_utterance(service: emmr.Client, parts: Mapping[str, Part]) -> None:
    batch: dict[str, Utterance] = {
        "good": {"text": "Hello", "audio": parts["audio"][1]},
        "bad": {"openface": b"{}"},
        "no such face": {"openface": parts["openface"][1], "face_id": 7},
    }
    good, bad, faceless = service.predict_batch(batch).items
    assert isinstance(faceless, RefusedItem)
    assert faceless.problem.type == "/problems/unknown-face"
    assert isinstance(good, AnsweredItem)
    assert (good.id, good.answer.modalities.audio.status) == ("good", "present")
    assert isinstance(bad, RefusedItem)
    assert (bad.id, bad.problem.status) == ("bad", 422)


def test_timeline_is_read_line_by_line(service: emmr.Client) -> None:
    lines = service.timeline(transcript=SRT)
    assert [line.type for line in lines] == ["recording", "utterance", "utterance", "summary"]


def test_timeline_sends_its_options() -> None:
    script = Script(httpx2.Response(422, json={**PROBLEM, "status": 422}))
    lines = emmr.Client(URL, transport=script).timeline(
        transcript=SRT, channels="speakers", threshold=0.25, transcribe="always", speaker_normalization=False
    )
    with pytest.raises(emmr.ProblemError) as refused:
        next(lines)
    assert refused.value.status == 422
    expected = {"threshold": "0.25", "transcribe": "always", "speaker_normalization": "false", "channels": "speakers"}
    assert dict(script.requests[0].url.params) == expected


def test_timeline_of_a_malformed_transcript_is_a_problem(service: emmr.Client) -> None:
    with pytest.raises(emmr.ProblemError) as refused:
        list(service.timeline(transcript=b"{}"))
    assert refused.value.problem.errors[0].part == "transcript"


@pytest.mark.parametrize(("lines", "error"), [("", IncompleteAnswer), (STOPPED, emmr.ProblemError)])
def test_timeline_that_stops_early_is_an_error(lines: str, error: type[Exception]) -> None:
    service = emmr.Client(URL, transport=Script(httpx2.Response(200, content=lines)))
    with pytest.raises(error) as stopped:
        list(service.timeline(transcript=SRT))
    assert str(stopped.value)


def test_health_and_model_are_typed(service: emmr.Client) -> None:
    assert service.health().ready
    assert service.model().name == "tiny"


def test_health_of_a_service_that_starts_is_no_error() -> None:
    body = {"state": "starting", "ready": False, "components": {}, **PROBLEM, "status": 503}
    health = emmr.Client(URL, transport=Script(httpx2.Response(503, json=body))).health()
    assert (health.ready, health.state) == (False, "starting")


def test_key_is_sent() -> None:
    script = Script(answered())
    emmr.Client(URL, api_key="secret", transport=script).predict(text="Hello")
    assert script.requests[0].headers["authorization"] == "Bearer secret"


@pytest.mark.usefixtures("at_once")
def test_refused_request_is_sent_again_with_the_same_body(tmp_path: Path) -> None:
    (tmp_path / "voice.wav").write_bytes(b"RIFF")
    script = Script(busy(), httpx2.ConnectError("refused"), httpx2.Response(503), answered())
    answer = emmr.Client(URL, transport=script).predict(audio=tmp_path / "voice.wav")
    assert answer.polarity == "negative"
    assert all(b"RIFF" in request.read() for request in script.requests)
    assert len(script.requests) == 4


@pytest.mark.usefixtures("at_once")
def test_attempts_are_bounded() -> None:
    script = Script(*(busy() for _ in range(3)))
    with pytest.raises(emmr.ProblemError) as refused:
        emmr.Client(URL, retries=2, transport=script).predict(text="Hello")
    assert (refused.value.code, refused.value.retry_after) == ("queue-full", 0)
    assert len(script.requests) == 3


@pytest.mark.parametrize("failure", [httpx2.ReadError("cut"), httpx2.ReadTimeout("late"), httpx2.Response(500)])
def test_request_that_may_have_been_answered_is_not_sent_again(failure: Answer) -> None:
    script = Script(failure)
    with pytest.raises((httpx2.TransportError, emmr.ProblemError)) as failed:
        emmr.Client(URL, transport=script).predict(text="Hello")
    assert str(failed.value)
    assert len(script.requests) == 1


def test_long_retry_after_is_not_waited_for() -> None:
    with pytest.raises(emmr.ProblemError) as refused:
        emmr.Client(URL, max_retry_wait=30, transport=Script(busy("60"))).predict(text="Hello")
    assert refused.value.retry_after == 60


def test_answer_of_another_program_is_a_problem_by_its_status() -> None:
    service = emmr.Client(URL, transport=Script(httpx2.Response(502, content=b"<html>")))
    with pytest.raises(emmr.ProblemError) as refused:
        service.predict(text="Hello")
    assert (refused.value.status, refused.value.problem.title) == (502, "Bad Gateway")


def test_request_without_a_part_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one") as refused:
        emmr.Client(URL, transport=Script()).predict()
    assert str(refused.value)


@pytest.fixture
async def asynchronous(client: TestClient) -> AsyncIterator[emmr.AsyncClient]:
    async with emmr.AsyncClient(URL, transport=InThread(client._transport)) as service:
        yield service


@pytest.mark.anyio
async def test_asynchronous_client_has_the_same_methods(
    asynchronous: emmr.AsyncClient, parts: Mapping[str, Part]
) -> None:
    answer = await asynchronous.predict(text="Hello", audio=parts["audio"][1])
    assert answer.modalities.audio.status == "present"
    assert [item.id for item in (await asynchronous.predict_batch({"a": {"text": "Hello"}})).items] == ["a"]
    assert [line.type async for line in asynchronous.timeline(transcript=SRT)][-1] == "summary"
    assert (await asynchronous.health()).ready
    assert (await asynchronous.model()).name == "tiny"


@pytest.mark.anyio
@pytest.mark.usefixtures("at_once")
async def test_asynchronous_client_retries_and_raises_problems() -> None:
    script = Script(busy(), httpx2.ConnectError("refused"), answered(), httpx2.ReadError("cut"))
    async with emmr.AsyncClient(URL, transport=script) as service:
        assert (await service.predict(text="Hello")).polarity == "negative"
        with pytest.raises(httpx2.ReadError) as failed:
            await service.predict(text="Hello")
    assert str(failed.value) == "cut"


def test_both_clients_take_the_same_arguments() -> None:
    def arguments(method: Callable[..., object]) -> object:
        return method.__annotations__ | {"return": None}

    names = ("predict", "predict_batch", "timeline", "health", "model")
    assert [arguments(getattr(emmr.Client, name)) for name in names] == [
        arguments(getattr(emmr.AsyncClient, name)) for name in names
    ]
