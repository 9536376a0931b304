"""The checks of a sequence; a few sequences run against a service with tiny weights."""

import json
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tools.fuzz import run_sequences
from tools.fuzz.run_http import Answer, is_same
from tools.fuzz.run_sequences import STEPS, Sequence, Violation, comparable, idle, left_over
from tools.load.client import Request
from tools.load.service import Service

Expected = dict[str, Any]


@pytest.fixture(scope="module")
def service(tiny_weights: Path) -> Iterator[Service]:
    with run_sequences.started(tiny_weights) as running:
        yield running


@pytest.fixture(scope="module")
def expected(service: Service) -> Expected:
    return run_sequences.first_answers(service)


@pytest.mark.parametrize("name", [name for name in STEPS if name != "drain"])
def test_steps_leave_nothing_behind(service: Service, expected: Expected, name: str) -> None:
    before = idle(service)
    sequence = Sequence(service, random.Random(5), expected)
    sequence.begin()
    STEPS[name][1](sequence)
    while sequence.held:
        sequence.abandon()
    assert left_over(service, before) == ""


def test_another_answer_is_a_violation(service: Service, expected: Expected) -> None:
    changed = {name: answer | {"confidence": 2.0} for name, answer in expected.items()}
    with pytest.raises(Violation, match="another answer than at first"):
        Sequence(service, random.Random(0), changed).upload()


def test_an_upload_that_stays_is_left_over(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    before = idle(service)
    request = next(one for one in run_sequences._valid() if one.name == "large")
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(request.wire[:-1])
        while service.metric("emmr_spooled_bytes") == 0:
            pass
        monkeypatch.setattr("tools.load.faults_common.SETTLE_SECONDS", 0.0)
        assert left_over(service, before, seconds=0.0).startswith("left over: ")


def test_a_drain_answers_what_is_under_way(service: Service, expected: Expected) -> None:
    """Runs last: it ends the shared service."""
    sequence = Sequence(service, random.Random(3), expected)
    sequence.begin()
    sequence.drain()
    assert sequence.drained
    assert not service.running


class Scripted(Sequence):
    """A sequence whose service always gives the same answer."""

    def __init__(self, status: int, body: object) -> None:
        super().__init__(service=None, rng=random.Random(0), expected={})  # type: ignore[arg-type]  # `ask` is replaced
        self._answer = Answer(status, {}, json.dumps(body).encode())

    def ask(self, request: Request) -> Answer:
        return self._answer


def test_unexpected_statuses_are_violations() -> None:
    for step, status in ((Sequence.upload, 500), (Sequence.upload_invalid, 200), (Sequence.health, 503)):
        with pytest.raises(Violation, match=f"got {status}"):
            step(Scripted(status, {}))
    with pytest.raises(Violation, match="reload got 500"):
        Scripted(500, {}).reload()


@pytest.mark.parametrize(
    ("second", "same"),
    [
        ({"a": [0.5, None], "b": "x"}, True),
        ({"a": [0.500001, None], "b": "x"}, True),
        ({"a": [0.51, None], "b": "x"}, False),
        ({"a": [0.5], "b": "x"}, False),
        ({"a": [0.5, None], "b": "y"}, False),
        ({"a": [0.5, None]}, False),
    ],
)
def test_answers_are_the_same_within_rounding(second: object, same: bool) -> None:
    assert is_same({"a": [0.5, None], "b": "x"}, second) is same


def test_what_differs_from_request_to_request_is_not_compared() -> None:
    assert comparable({"polarity": "a", "request_id": "1", "timings_ms": {}}) == {"polarity": "a"}
