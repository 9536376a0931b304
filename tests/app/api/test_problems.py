import inspect
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import soundfile
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.testclient import TestClient

import app.engine.errors
import app.uploads.errors
from app.api.problems import TABLE, ErrorResponse, code_of, trouble
from app.engine.errors import NothingUsable, NotReady, QueueFull, ServiceError, Unavailable
from app.engine.warmup import still_face
from app.uploads.errors import BodyTooLarge, CorruptPart, UploadError
from model.errors import CorruptModality, EmptyModality, ModalityTooLarge, UnsupportedFormat
from model.features.visual.openface import ACTION_UNIT_COLUMNS
from model.modality import Modality
from tests.support.service import Part

FIELDS = ["type", "title", "status", "detail", "instance", "request_id", "errors"]
BOUNDARY = "limit"


def members(module: object, base: type[Exception], *, but: tuple[type[Exception], ...] = ()) -> list[type[Exception]]:
    return [
        kind
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, base) and kind not in but and kind.__module__ == getattr(module, "__name__", "")
    ]


def assert_problem(response: Any, status: int, code: str | None, part: str | None = None) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert list(problem) == FIELDS
    assert problem["type"] == (f"/problems/{code}" if code else "about:blank")
    assert problem["status"] == status
    assert problem["instance"] == response.request.url.path
    assert problem["request_id"] == response.headers["x-request-id"]
    if part is not None:
        assert [fault["part"] for fault in problem["errors"]] == [part]
    return problem


@pytest.mark.parametrize(
    "kind",
    [
        *members(app.uploads.errors, UploadError),
        *members(app.engine.errors, ServiceError, but=(ServiceError, Unavailable)),
    ],
    ids=lambda kind: kind.__name__,
)
def test_every_error_of_ours_is_in_the_table(kind: type[Exception]) -> None:
    assert code_of(kind) in TABLE


def test_the_table_has_no_status_that_is_no_error() -> None:
    assert all(400 <= entry.status < 600 and entry.title and entry.summary for entry in TABLE.values())


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (CorruptModality(Modality.AUDIO, "not a sound", "byte 7"), 422, "corrupt-part"),
        (ModalityTooLarge(Modality.VISUAL, "too many rows"), 413, "part-too-large"),
        (ModalityTooLarge(Modality.TEXT, "too long"), 422, "text-too-long"),
        (UnsupportedFormat(Modality.AUDIO, "no such container"), 415, "unsupported-part"),
        (CorruptPart("not finite", part="openface", place="line 7"), 422, "corrupt-part"),
        (QueueFull("full", 3), 429, "queue-full"),
        (NotReady("warming", 3), 503, "not-ready"),
        (HTTPException(404), 404, None),
        (HTTPException(418), 418, None),
        (RequestValidationError([{"loc": ("query", "explain"), "msg": "not a bool"}]), 422, "invalid-query"),
        (ValueError("secret words"), 500, "internal"),
    ],
)
def test_each_kind_of_exception_means_a_status(error: Exception, status: int, code: str | None) -> None:
    said = trouble(error)
    assert (said.status, said.code) == (status, code)
    assert said.reason == (code or f"http-{status}")


def test_an_unknown_exception_says_nothing_of_itself() -> None:
    assert "secret" not in str(trouble(ValueError("secret words")))


def test_part_and_place_are_told() -> None:
    (fault,) = trouble(CorruptModality(Modality.VISUAL, "not a number", "line 7, column AU12_r")).faults
    assert (fault.part, fault.place, fault.detail) == ("openface", "line 7, column AU12_r", "not a number")


def test_every_empty_part_is_named_when_nothing_usable_remains() -> None:
    empty = {m: EmptyModality(m, "silent", "nothing there") for m in (Modality.AUDIO, Modality.VISUAL)}
    assert [fault.part for fault in trouble(NothingUsable(empty)).faults] == ["audio", "openface"]


def test_a_refusal_for_now_says_when_to_come_back() -> None:
    assert trouble(QueueFull("full", 3)).headers == (("Retry-After", "3"),)


def test_a_body_not_read_to_its_end_closes_the_connection() -> None:
    assert trouble(BodyTooLarge("too large")).headers == (("Connection", "close"),)


def test_what_a_type_means_can_be_looked_up(client: TestClient) -> None:
    listed = client.get("/problems").json()
    assert [entry["code"] for entry in listed] == list(TABLE)
    assert client.get("/problems/queue-full").json()["status"] == 429
    assert_problem(client.get("/problems/no-such"), 404, None)


# ---- over HTTP: each row of the contract ----


def test_an_unknown_path(client: TestClient) -> None:
    assert_problem(client.get("/nowhere"), 404, None)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/predict"), ("POST", "/health"), ("DELETE", "/"), ("PUT", "/model")]
)
def test_a_method_that_is_not_allowed(client: TestClient, method: str, path: str) -> None:
    response = client.request(method, path)
    assert_problem(response, 405, None)
    assert response.headers["allow"]


def test_a_query_that_is_not_understood(client: TestClient) -> None:
    problem = assert_problem(client.post("/predict?explain=perhaps", data={"text": "Fine."}), 422, "invalid-query")
    assert problem["errors"][0]["place"] == "query.explain"


def test_a_json_body(client: TestClient) -> None:
    assert_problem(client.post("/predict", json={"text": "Fine."}), 415, "unsupported-content-type")


def test_no_body_at_all(client: TestClient) -> None:
    assert_problem(client.post("/predict"), 415, "unsupported-content-type")


def test_an_empty_form(client: TestClient) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    assert_problem(client.post("/predict", content=b"", headers=headers), 422, "empty-form")


def test_a_body_cut_before_its_closing_boundary(client: TestClient) -> None:
    body = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="text"\r\n\r\nFine.\r\n--{BOUNDARY}'
    headers = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
    assert_problem(client.post("/predict", content=body, headers=headers), 400, "malformed-body")
    assert client.post("/predict", content=body + "--\r\n", headers=headers).status_code == 200


def test_an_unknown_part(client: TestClient) -> None:
    assert_problem(client.post("/predict", files={"video": (None, b"x")}), 422, "unknown-part")


def test_a_part_given_twice(client: TestClient, parts: Mapping[str, Part]) -> None:
    twice = [("text", parts["text"]), ("text", parts["text"])]
    assert_problem(client.post("/predict", files=twice), 422, "duplicate-part", "text")


@pytest.mark.parametrize(
    "text", [b"", b"  \n\t ", b"\xff\xfe caf\xe9", b"a\x00b"], ids=["empty", "blank", "bytes", "NUL"]
)
def test_a_text_that_is_none(client: TestClient, text: bytes) -> None:
    assert_problem(client.post("/predict", files={"text": (None, text)}), 422, "corrupt-part", "text")


def test_a_text_at_its_limit_and_one_past_it(client: TestClient) -> None:
    words = (b"word " * 2**14)[: 2**16 - 1]
    assert client.post("/predict", files={"text": (None, words)}).status_code == 200
    assert client.post("/predict", files={"text": (None, words + b".")}).status_code == 200
    assert_problem(client.post("/predict", files={"text": (None, words + b"..")}), 422, "text-too-long", "text")


def test_a_body_past_its_limit(client: TestClient) -> None:
    too_much = {"audio": ("a.wav", bytes(25 * 2**20), "audio/wav")}
    assert_problem(client.post("/predict", files=too_much), 413, "body-too-large")


def test_a_sound_that_is_none(client: TestClient) -> None:
    response = client.post("/predict", files={"audio": ("a.wav", b"This is not a sound at all.", "audio/wav")})
    assert_problem(response, 415, "unsupported-part", "audio")


def test_a_sound_cut_in_its_header(client: TestClient, parts: Mapping[str, Part]) -> None:
    response = client.post("/predict", files={"audio": ("a.wav", parts["audio"][1][:30], "audio/wav")})
    assert_problem(response, 422, "corrupt-part", "audio")


@pytest.mark.parametrize("cell", ["nan", "1e999", "1_000", "", "wide"])
def test_a_cell_that_is_no_finite_number(client: TestClient, cell: str) -> None:
    face = still_face(ACTION_UNIT_COLUMNS).decode().splitlines()
    cells = face[2].split(",")
    cells[7] = cell
    face[2] = ",".join(cells)
    response = client.post("/predict", files={"openface": ("a.csv", "\n".join(face).encode(), "text/csv")})
    problem = assert_problem(response, 422, "corrupt-part", "openface")
    assert "line 3" in problem["errors"][0]["place"]
    assert ACTION_UNIT_COLUMNS[2] in problem["errors"][0]["place"]


def test_silence_and_no_face_leave_nothing_usable(client: TestClient) -> None:
    silence = io.BytesIO()
    soundfile.write(silence, np.zeros(16_000), 16_000, format="WAV")
    nobody = still_face(ACTION_UNIT_COLUMNS).replace(b",0.98,1,", b",0.98,0,")
    files = {"audio": ("a.wav", silence.getvalue(), "audio/wav"), "openface": ("a.csv", nobody, "text/csv")}
    problem = assert_problem(client.post("/predict", files=files), 422, "nothing-usable")
    assert sorted(fault["part"] for fault in problem["errors"]) == ["audio", "openface"]

    with_text = client.post("/predict", files={**files, "text": (None, b"Still, there are words.")})
    assert with_text.status_code == 200
    answer = with_text.json()
    assert sorted(warning["code"] for warning in answer["warnings"]) == ["audio_silent", "visual_no_face"]
    assert answer["modalities"]["audio"]["reason"] == "silent"
    assert answer["modalities"]["visual"]["reason"] == "no_face"


def test_a_fault_of_the_service_is_a_problem_too(application: FastAPI, client: TestClient) -> None:
    # No request is known to cause one; a route that raises shows what would become of it.
    async def broken(_: Request) -> Response:
        raise ValueError("secret words")

    application.router.add_route("/broken", broken)
    assert_problem(client.get("/broken"), 500, "internal")


def test_trouble_is_a_value() -> None:
    assert ErrorResponse(None, 404, "Not found", "Not found") == trouble(HTTPException(404, "Not found"))
