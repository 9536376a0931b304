"""The model card says what the weights are, what they were made of, and on whom they must not be used."""

import numpy as np
import pytest

from model.config import TextConfig
from model.training.card import COMPOSITE_TERMS, USE, model_card
from model.training.evaluation import Evaluation, evaluate
from model.training.progress import FitReport
from model.training.settings import Recipe
from tests.support.network import tiny_config
from tests.support.predictor import CLASSES, ITEMS, Strongest
from tests.support.training import Toy, tiny_recipe, toy

CORPUS, _ = toy(train=9, val=3)
REPORTS = {4: FitReport(2, 0.61234, {"text": 0.6}, [0.5, 0.61234]), 7: FitReport(1, 0.5, {"text": 0.5}, [0.5])}


class Composite(Toy):
    name = "composite"


@pytest.fixture(scope="module")
def evaluations() -> dict[int, Evaluation]:
    return {
        4: evaluate(Strongest(), ITEMS, CLASSES),
        7: evaluate(Strongest(), ITEMS[:2] * 2, CLASSES),
    }


def test_the_card_tells_sizes_corpus_and_use(evaluations: dict[int, Evaluation]) -> None:
    card = model_card(tiny_recipe(), CORPUS, {4: REPORTS[4]}, {4: evaluations[4]}, 4)
    assert card.startswith("# default\n")
    assert "negative / neutral / positive" in card
    assert "- Voice: 33 acoustic features" in card
    assert "`action_units` (35), mean" in card
    assert "text 12, audio 20, visual 1" in card
    assert "toy, 9 training and 3 validation items; 1 seed(s)" in card
    assert USE in card


def test_what_the_weights_were_trained_on_and_its_terms_are_told_where_they_apply() -> None:
    composite = model_card(tiny_recipe(), Composite(CORPUS.parts), REPORTS, {}, 4)
    assert COMPOSITE_TERMS in composite
    for word in ("composed", "CC BY-NC-SA 4.0", "RAVDESS", "MELD", "CMU-MOSI", "GPL-3.0"):
        assert word in composite
    assert COMPOSITE_TERMS not in model_card(tiny_recipe(), CORPUS, REPORTS, {}, 4)


def test_whom_the_weights_must_not_be_used_on_is_told() -> None:
    card = model_card(tiny_recipe(), CORPUS, REPORTS, {}, 4)
    for word in ("must not be used", "hiring", "policing", "children", "twenty North American actors"):
        assert word in card


def test_the_selection_of_every_seed_is_shown_and_the_shipped_one_marked() -> None:
    card = model_card(tiny_recipe(), CORPUS, REPORTS, {}, 4)
    assert "| 4 | 2 | 0.6123 | shipped |" in card
    assert "| 7 | 1 | 0.5000 |  |" in card


@pytest.mark.parametrize(("rank", "told"), [(8, True), (0, False)])
def test_adapters_are_named_where_there_are_some(rank: int, told: bool) -> None:
    recipe = Recipe(model=tiny_config(text=TextConfig(adapter_rank=rank)))
    assert ("low-rank adapters of rank 8" in model_card(recipe, CORPUS, REPORTS, {}, 4)) is told


def test_test_figures_of_one_seed_stand_without_a_deviation(evaluations: dict[int, Evaluation]) -> None:
    card = model_card(tiny_recipe(), CORPUS, {4: REPORTS[4]}, {4: evaluations[4]}, 4)
    assert "standard deviation" not in card
    figure = evaluations[4]["patterns"]["text+audio+visual"]["macro_f1"]
    assert f"| text+audio+visual | {figure:.4f} |" in card


def test_test_figures_of_several_seeds_have_one(evaluations: dict[int, Evaluation]) -> None:
    card = model_card(tiny_recipe(), CORPUS, REPORTS, evaluations, 7)
    assert "mean ± standard deviation of 2 seeds" in card
    figures = [evaluations[seed]["patterns"]["text"]["accuracy"] for seed in (4, 7)]
    values = np.array([f for f in figures if f is not None])
    assert f"{values.mean():.3f} ± {values.std(ddof=1):.3f}" in card


def test_without_a_test_part_there_are_no_test_figures() -> None:
    assert "Test figures" not in model_card(tiny_recipe(), CORPUS, REPORTS, {}, 4)


def test_every_table_is_well_formed(evaluations: dict[int, Evaluation]) -> None:
    card = model_card(tiny_recipe(), Composite(CORPUS.parts), REPORTS, evaluations, 4)
    columns = 0
    for line in card.splitlines():
        cells = line.count("|")
        assert cells in (0, columns) or columns == 0, line
        columns = cells
