"""Recipes: what is read from a file is what was written, and nothing impossible is accepted."""

import pytest
from pydantic import ValidationError

from model.training.settings import AdapterSettings, Recipe, TrainingSettings


def test_the_default_recipe_comes_back_from_its_json() -> None:
    recipe = Recipe.default()
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_the_default_recipe_serves_any_openface_file_and_hears_with_whisper() -> None:
    config = Recipe.default().model
    assert (config.visual.columns, config.visual.reduce, config.slots.visual) == ("action_units", "mean", 1)
    assert config.text.adapter_rank > 0
    assert (config.audio.encoder, config.audio.conditioned, config.slots.audio) == ("whisper", True, 1)
    assert config.classes == ("negative", "neutral", "positive")


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"learning_rate": 0},
        {"time_mask": 1.0},
        {"average_decay": 1.0},
        {"complete_share": 0.7, "one_missing_share": 0.7},
        {"epoch": 3},
        {"pretraining_clips": 0},
        {"expert_steps": 0},
        {"verdict_steps": 0},
        {"taught_pretraining_epochs": -1},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_schedule_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        TrainingSettings.model_validate(wrong)


def test_shares_may_leave_nothing_to_lose_two() -> None:
    assert TrainingSettings(complete_share=0.7, one_missing_share=0.3).one_missing_share == 0.3


def test_settings_cannot_be_changed_on_the_way() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        AdapterSettings().epochs = 3  # type: ignore[misc]  # the type forbids it as well
