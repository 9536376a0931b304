from collections.abc import Mapping

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from tests.support.service import Part


@pytest.mark.parametrize(
    "path", ["/", "/web/style.css", "/health", "/health/live", "/health/ready", "/metrics", "/model", "/problems"]
)
def test_head_answers_what_get_does_without_the_body(client: TestClient, path: str) -> None:
    get, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert int(head.headers["content-length"]) > 0
    assert head.headers["x-request-id"]


def test_head_of_what_is_not_there_is_a_problem_without_its_body(client: TestClient) -> None:
    head = client.head("/nowhere")
    assert (head.status_code, head.content) == (404, b"")
    assert head.headers["content-type"] == "application/problem+json"


def test_head_of_what_only_takes_a_form_is_refused(client: TestClient, parts: Mapping[str, Part]) -> None:
    head = client.head("/predict")
    assert (head.status_code, head.headers["allow"]) == (405, "POST")


def test_head_counts_for_the_route_it_asks(client: TestClient, application: FastAPI) -> None:
    client.head("/problems")
    assert 'emmr_request_seconds_count{route="/problems",status="200"}' in client.get("/metrics").text
