"""Recipes: JSON round trip, defaults and invalid values."""

import pytest
from pydantic import ValidationError

from model.training.settings import AdapterSettings, Recipe, TrainingSettings


def test_the_default_recipe_survives_a_json_round_trip() -> None:
    recipe = Recipe.default()
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_the_default_recipe_uses_action_units_and_whisper() -> None:
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
def test_invalid_settings_are_rejected(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        TrainingSettings.model_validate(wrong)


def test_no_item_needs_to_have_two_missing_modalities() -> None:
    assert TrainingSettings(complete_share=0.7, one_missing_share=0.3).one_missing_share == 0.3


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        AdapterSettings().epochs = 3  # type: ignore[misc]  # the type forbids it as well
