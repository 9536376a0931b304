import pytest

from tools.load.client import Answer
from tools.load.scene import affected, is_problem, report
from tools.load.traffic import Exchange

OK, REFUSED = frozenset({200}), frozenset({422})
PROBLEM = '{"status": 422, "request_id": "a"}'


def others(*statuses: int) -> list[Exchange]:
    return [Exchange(0.0, "text", OK, Answer(status, 0.1)) for status in statuses]


def test_a_case_passes_when_the_victims_alone_are_refused() -> None:
    found = report("case", [Answer(422, 0.1, problem=PROBLEM)], others(200, 200), 0.5, REFUSED)
    assert found.passed
    assert found.figures["bystanders affected"] == 0


@pytest.mark.parametrize(
    ("victims", "bystanders", "recovered", "said"),
    [
        ([], [200], 0.5, "nobody was hit"),
        ([Answer(500, 0.1, problem='{"status": 500, "request_id": "a"}')], [200], 0.5, "a victim was answered"),
        ([Answer(422, 0.1, problem="Unprocessable")], [200], 0.5, "not application/problem"),
        ([Answer(422, 0.1, problem=PROBLEM)], [200, 503], 0.5, "bystanders were affected"),
        ([Answer(422, 0.1, problem=PROBLEM)], [200], None, "did not recover"),
    ],
)
def test_a_case_fails_for_each_thing_that_is_wrong(
    victims: list[Answer], bystanders: list[int], recovered: float | None, said: str
) -> None:
    found = report("case", victims, others(*bystanders), recovered, REFUSED)
    assert len(found.failures) == 1
    assert said in found.failures[0]


def test_bystanders_without_an_answer_are_affected_too() -> None:
    assert affected([*others(200, 429), Exchange(0.0, "text", OK, Answer(0, 1.0, lost="closed"))]) == 2


def test_a_problem_says_its_status_and_its_request() -> None:
    assert is_problem(Answer(422, 0.1, problem=PROBLEM))
    assert not is_problem(Answer(500, 0.1, problem=PROBLEM))
    assert not is_problem(Answer(422, 0.1, problem="[]"))
