import numpy as np
import pytest
import torch

from model.baselines.systems import TITLES, build_network
from model.training.comparison import Comparison, Score, compare_with_references
from model.training.metrics import Interval
from tests.support.training import CONFIG, Toy, toy

CPU = torch.device("cpu")
CORPUS, FEATURES = toy(train=30, val=12, mixed=True)


def test_an_untrained_network_is_below_the_references() -> None:
    torch.manual_seed(0)
    found = compare_with_references(build_network(CONFIG).eval(), CORPUS, FEATURES, CONFIG, 0, CPU)
    assert found.below
    assert found.difference.high < 0
    assert list(found.scores) == [TITLES["emmr"], TITLES["late-fusion"], TITLES["classical"]]
    assert all(by_part.keys() == {"val"} and by_part["val"].n == 12 for by_part in found.scores.values())
    assert found.scores[TITLES[found.best]]["val"].macro_f1 > 0.9
    assert found.table().headers == ["system", "val, 12 items"]
    for by_part in found.scores.values():
        assert by_part["val"].low <= by_part["val"].macro_f1 <= by_part["val"].high
    untrained = found.scores[TITLES["emmr"]]["val"]
    assert 0 <= untrained.low < untrained.high < 1


def test_the_test_part_is_compared_where_there_is_one() -> None:
    corpus = Toy({**CORPUS.parts, "test": CORPUS.parts["val"][:5]})
    torch.manual_seed(0)
    found = compare_with_references(build_network(CONFIG).eval(), corpus, FEATURES, CONFIG, 0, CPU)
    assert {part: score.n for part, score in found.scores[found.system].items()} == {"val": 12, "test": 5}
    assert found.test is not None
    assert found.test.difference < 0
    assert list(found.labels["test"]) == [CONFIG.classes.index(e.label) for e in corpus.examples("test")]
    assert {name: len(by_part["test"]) for name, by_part in found.predicted.items()} == dict.fromkeys(found.scores, 5)
    assert f"On the test part it is below that reference: {found.test.difference:+.3f}" in found.verdict()


@pytest.mark.parametrize(
    ("difference", "stated", "certain"),
    [
        (Interval(-0.1, -0.2, -0.05), "EMMR is below the reference", True),
        (Interval(-0.1, -0.2, 0.05), "EMMR is below the reference", False),
        (Interval(0.1, 0.05, 0.2), "EMMR is not below the best reference", True),
        (Interval(0.0, 0.0, 0.0), "EMMR is not below the best reference", False),
    ],
)
def test_the_verdict_names_the_difference_and_its_doubt(difference: Interval, stated: str, certain: bool) -> None:
    score = Score(9, 0.5, 0.4, 0.6)
    found = Comparison("EMMR", {"EMMR": {"val": score}}, "classical", difference)
    assert found.verdict().startswith(stated)
    assert ("too small to tell the two apart" in found.verdict()) is not certain
    assert ("--system classical" in found.verdict()) is found.below
    assert found.table().rows == [["EMMR", "0.500 [0.400, 0.600]"]]
    assert np.isclose(found.difference.difference, difference.difference)
