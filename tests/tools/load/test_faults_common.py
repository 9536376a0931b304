import pytest

from tools.load.client import Response
from tools.load.faults_common import evaluate, is_problem
from tools.load.generator import Exchange

OK, REJECTED = frozenset({200}), frozenset({422})
PROBLEM = b'{"status": 422, "request_id": "a"}'


def background(*statuses: int) -> list[Exchange]:
    return [Exchange(0.0, "text", OK, Response(status, 0.1)) for status in statuses]


def test_cases_pass_when_only_the_victims_are_rejected() -> None:
    found = evaluate("case", [Response(422, 0.1, body=PROBLEM)], background(200, 200), 0.5, REJECTED)
    assert found.passed
    assert found.figures["background requests affected"] == 0


@pytest.mark.parametrize(
    ("victims", "statuses", "recovered", "failure"),
    [
        ([], [200], 0.5, "there was no victim"),
        ([Response(500, 0.1, body=b'{"status": 500, "request_id": "a"}')], [200], 0.5, "a victim got"),
        ([Response(422, 0.1, body=b"Unprocessable")], [200], 0.5, "not application/problem"),
        ([Response(422, 0.1, body=PROBLEM)], [200, 503], 0.5, "background requests were affected"),
        ([Response(422, 0.1, body=PROBLEM)], [200], None, "did not recover"),
    ],
)
def test_cases_fail_for_each_error(
    victims: list[Response], statuses: list[int], recovered: float | None, failure: str
) -> None:
    found = evaluate("case", victims, background(*statuses), recovered, REJECTED)
    assert len(found.failures) == 1
    assert failure in found.failures[0]


def test_background_requests_without_a_response_are_affected() -> None:
    others = [*background(200, 429), Exchange(0.0, "text", OK, Response(0, 1.0, error="closed"))]
    found = evaluate("case", [Response(422, 0.1, body=PROBLEM)], others, 0.5, REJECTED)
    assert found.figures["background requests affected"] == 2


def test_problems_have_a_status_and_a_request_id() -> None:
    assert is_problem(Response(422, 0.1, body=PROBLEM))
    assert not is_problem(Response(500, 0.1, body=PROBLEM))
    assert not is_problem(Response(422, 0.1, body=b"[]"))
