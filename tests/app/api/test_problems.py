import io
from collections.abc import Iterator, Mapping
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

from app.api.problems import PROBLEM_TYPES, StatusError, as_service_error
from app.engine.warmup import still_face
from app.errors import BodyTooLarge, CorruptPart, NoRoom, NothingUsable, NotReady, QueueFull, ServiceError, Unavailable
from model.errors import CorruptModality, EmptyModality, ModalityTooLarge, UnsupportedFormat
from model.features.visual.table import ACTION_UNIT_COLUMNS
from model.modality import Modality
from tests.support.service import Part

FIELDS = ["type", "title", "status", "detail", "instance", "request_id", "errors"]
BOUNDARY = "limit"


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


def subclasses(kind: type[ServiceError]) -> Iterator[type[ServiceError]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from subclasses(subclass)


CLASSES = [kind for kind in subclasses(ServiceError) if kind not in (Unavailable, StatusError)]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_service_error_is_a_problem_type(kind: type[ServiceError]) -> None:
    entry = PROBLEM_TYPES[kind.code]
    assert (entry.status, entry.title) == (kind.status, kind.title)


def test_every_problem_type_has_an_error_status_a_title_and_a_summary() -> None:
    assert all(400 <= entry.status < 600 and entry.title and entry.summary for entry in PROBLEM_TYPES.values())


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
def test_each_exception_maps_to_a_status(error: Exception, status: int, code: str | None) -> None:
    mapped = as_service_error(error)
    assert (mapped.status, mapped.code) == (status, code or "")


def test_an_unknown_exception_is_not_quoted() -> None:
    assert "secret" not in as_service_error(ValueError("secret words")).detail


def test_part_and_place_are_stated() -> None:
    (fault,) = as_service_error(CorruptModality(Modality.VISUAL, "not a number", "line 7, column AU12_r")).faults
    assert (fault.part, fault.place, fault.detail) == ("openface", "line 7, column AU12_r", "not a number")


def test_nothing_usable_names_every_empty_part() -> None:
    empty = {m: EmptyModality(m, "silent", "nothing there") for m in (Modality.AUDIO, Modality.VISUAL)}
    assert [fault.part for fault in NothingUsable(empty).faults] == ["audio", "openface"]


def test_an_unavailable_service_sends_retry_after() -> None:
    assert QueueFull("full", 3).headers == {"Retry-After": "3"}


def test_a_body_not_read_completely_closes_the_connection() -> None:
    assert BodyTooLarge("too large").headers == {"Connection": "close"}
    assert NoRoom("full").headers == {"Connection": "close", "Retry-After": "5"}


def test_problem_types_can_be_listed_and_looked_up(client: TestClient) -> None:
    listed = client.get("/problems").json()
    assert [entry["code"] for entry in listed] == list(PROBLEM_TYPES)
    assert client.get("/problems/queue-full").json()["status"] == 429
    assert_problem(client.get("/problems/no-such"), 404, None)


# ---- over HTTP


def test_an_unknown_path_is_not_found(client: TestClient) -> None:
    assert_problem(client.get("/nowhere"), 404, None)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/predict"), ("POST", "/health"), ("DELETE", "/"), ("PUT", "/model")]
)
def test_an_unsupported_method_is_not_allowed(client: TestClient, method: str, path: str) -> None:
    response = client.request(method, path)
    assert_problem(response, 405, None)
    assert response.headers["allow"]


def test_an_invalid_query_option_is_refused(client: TestClient) -> None:
    problem = assert_problem(client.post("/predict?explain=perhaps", data={"text": "Fine."}), 422, "invalid-query")
    assert problem["errors"][0]["place"] == "query.explain"


def test_a_body_of_another_type_is_refused(client: TestClient) -> None:
    response = client.post("/predict", content=b"<text>Fine.</text>", headers={"content-type": "application/xml"})
    assert_problem(response, 415, "unsupported-content-type")


def test_a_missing_body_is_an_unsupported_content_type(client: TestClient) -> None:
    assert_problem(client.post("/predict"), 415, "unsupported-content-type")


def test_an_empty_form_is_refused(client: TestClient) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    assert_problem(client.post("/predict", content=b"", headers=headers), 422, "empty-form")


def test_a_truncated_body_is_malformed(client: TestClient) -> None:
    body = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="text"\r\n\r\nFine.\r\n--{BOUNDARY}'
    headers = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
    assert_problem(client.post("/predict", content=body, headers=headers), 400, "malformed-body")
    assert client.post("/predict", content=body + "--\r\n", headers=headers).status_code == 200


def test_an_unknown_part_is_refused(client: TestClient) -> None:
    assert_problem(client.post("/predict", files={"video": (None, b"x")}), 422, "unknown-part")


def test_a_duplicate_part_is_refused(client: TestClient, parts: Mapping[str, Part]) -> None:
    twice = [("text", parts["text"]), ("text", parts["text"])]
    assert_problem(client.post("/predict", files=twice), 422, "duplicate-part", "text")


@pytest.mark.parametrize(
    "text", [b"", b"  \n\t ", b"\xff\xfe caf\xe9", b"a\x00b"], ids=["empty", "blank", "bytes", "NUL"]
)
def test_an_empty_or_undecodable_text_is_corrupt(client: TestClient, text: bytes) -> None:
    assert_problem(client.post("/predict", files={"text": (None, text)}), 422, "corrupt-part", "text")


def test_a_text_is_accepted_up_to_its_limit(client: TestClient) -> None:
    words = (b"word " * 2**14)[: 2**16 - 1]
    assert client.post("/predict", files={"text": (None, words)}).status_code == 200
    assert client.post("/predict", files={"text": (None, words + b".")}).status_code == 200
    assert_problem(client.post("/predict", files={"text": (None, words + b"..")}), 422, "text-too-long", "text")


def test_a_body_over_the_limit_is_too_large(client: TestClient) -> None:
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Content-Length": str(100 * 2**20)}
    assert_problem(client.post("/predict", content=b"--", headers=headers), 413, "body-too-large")


def test_an_unknown_audio_format_is_unsupported(client: TestClient) -> None:
    response = client.post("/predict", files={"audio": ("a.wav", b"This is not a sound at all.", "audio/wav")})
    assert_problem(response, 415, "unsupported-part", "audio")


def test_audio_truncated_in_its_header_is_corrupt(client: TestClient, parts: Mapping[str, Part]) -> None:
    response = client.post("/predict", files={"audio": ("a.wav", parts["audio"][1][:30], "audio/wav")})
    assert_problem(response, 422, "corrupt-part", "audio")


def test_a_face_that_is_not_in_the_file_is_unknown(client: TestClient, parts: Mapping[str, Part]) -> None:
    response = client.post("/predict?face_id=3", files={"openface": parts["openface"]})
    problem = assert_problem(response, 422, "unknown-face", "openface")
    assert "face_id 0" in problem["detail"]


def test_a_face_without_an_openface_file_is_refused(client: TestClient) -> None:
    problem = assert_problem(
        client.post("/predict?face_id=0", data={"text": "Hello."}), 422, "invalid-query", "openface"
    )
    assert problem["errors"][0]["place"] == "query.face_id"


@pytest.mark.parametrize("face", ["", "-1", "0.5", "one", "9" * 30])
def test_a_face_that_is_no_number_is_refused(client: TestClient, parts: Mapping[str, Part], face: str) -> None:
    response = client.post("/predict", params={"face_id": face}, files={"openface": parts["openface"]})
    assert (response.status_code, response.json()["type"]) == (422, "/problems/invalid-query")


@pytest.mark.parametrize("cell", ["nan", "1e999", "1_000", "", "wide"])
def test_a_cell_that_is_not_a_finite_number_is_corrupt(client: TestClient, cell: str) -> None:
    face = still_face(ACTION_UNIT_COLUMNS).decode().splitlines()
    cells = face[2].split(",")
    cells[7] = cell
    face[2] = ",".join(cells)
    response = client.post("/predict", files={"openface": ("a.csv", "\n".join(face).encode(), "text/csv")})
    problem = assert_problem(response, 422, "corrupt-part", "openface")
    assert "line 3" in problem["errors"][0]["place"]
    assert ACTION_UNIT_COLUMNS[2] in problem["errors"][0]["place"]


def test_silence_and_no_face_are_nothing_usable(client: TestClient) -> None:
    silence = io.BytesIO()
    soundfile.write(silence, np.zeros(16_000), 16_000, format="WAV")
    no_face = still_face(ACTION_UNIT_COLUMNS).replace(b",0.98,1,", b",0.98,0,")
    files = {"audio": ("a.wav", silence.getvalue(), "audio/wav"), "openface": ("a.csv", no_face, "text/csv")}
    problem = assert_problem(client.post("/predict", files=files), 422, "nothing-usable")
    assert sorted(fault["part"] for fault in problem["errors"]) == ["audio", "openface"]

    with_text = client.post("/predict", files={**files, "text": (None, b"Still, there are words.")})
    assert with_text.status_code == 200
    answer = with_text.json()
    assert sorted(warning["code"] for warning in answer["warnings"]) == ["audio_silent", "visual_no_face"]
    assert answer["modalities"]["audio"]["reason"] == "silent"
    assert answer["modalities"]["visual"]["reason"] == "no_face"


def test_an_unhandled_exception_is_an_internal_error(application: FastAPI, client: TestClient) -> None:
    async def broken(_: Request) -> Response:
        raise ValueError("secret words")

    application.router.add_route("/broken", broken)
    assert_problem(client.get("/broken"), 500, "internal")


def test_an_http_exception_keeps_its_status_detail_and_headers() -> None:
    error = as_service_error(HTTPException(405, "No.", {"Allow": "GET"}))
    assert (error.status, error.title, error.detail) == (405, "Method not allowed", "No.")
    assert error.headers == {"Allow": "GET"}
