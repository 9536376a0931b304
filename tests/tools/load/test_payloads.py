import pytest
from starlette.testclient import TestClient

from tools.load.client import Request
from tools.load.payloads import audio, invalid, long_sound, valid


def status(client: TestClient, request: Request) -> int:
    head = dict(line.split(": ", 1) for line in request.head.decode().split("\r\n")[1:] if line)
    return client.post("/predict", content=request.body, headers={"Content-Type": head["Content-Type"]}).status_code


@pytest.mark.parametrize("request_", invalid(), ids=lambda request: request.name)
def test_invalid_requests_get_the_expected_status(client: TestClient, request_: Request) -> None:
    assert status(client, request_) in request_.expected
    assert 200 not in request_.expected


@pytest.mark.parametrize("request_", valid()[:7], ids=lambda request: request.name)
def test_valid_requests_of_every_subset_get_a_200(client: TestClient, request_: Request) -> None:
    assert status(client, request_) == 200


def test_long_sounds_get_a_200(client: TestClient) -> None:
    assert status(client, audio(long_sound(6.0))) == 200


def test_content_length_is_that_of_the_body() -> None:
    for request in (*valid(), *invalid()):
        assert f"Content-Length: {len(request.body)}\r\n".encode() in request.head
