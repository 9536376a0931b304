import pytest
from starlette.testclient import TestClient

from tools.load.bodies import Sent, audio, endless, invalid, long_sound, valid


def answer(client: TestClient, request: Sent) -> int:
    head = dict(line.split(": ", 1) for line in request.head.decode().split("\r\n")[1:] if line)
    return client.post("/predict", content=request.body, headers={"Content-Type": head["Content-Type"]}).status_code


@pytest.mark.parametrize("request_", invalid(), ids=lambda one: one.name)
def test_a_bad_request_is_refused_as_it_says(client: TestClient, request_: Sent) -> None:
    assert answer(client, request_) in request_.expected
    assert 200 not in request_.expected


@pytest.mark.parametrize("request_", valid()[:7], ids=lambda one: one.name)
def test_a_good_request_of_every_subset_is_answered(client: TestClient, request_: Sent) -> None:
    assert answer(client, request_) == 200


def test_a_long_sound_is_answered_too(client: TestClient) -> None:
    assert answer(client, audio(long_sound(6.0))) == 200


def test_a_head_says_how_long_the_body_is() -> None:
    for request in (*valid(), *invalid()):
        assert f"Content-Length: {len(request.body)}\r\n".encode() in request.head


def test_the_same_seed_draws_the_same_requests() -> None:
    first, second = endless(valid(), 3), endless(valid(), 3)
    assert [next(first).name for _ in range(20)] == [next(second).name for _ in range(20)]
