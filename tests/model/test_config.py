"""Validation of the configuration of a checkpoint."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from model.config import AudioConfig, ModelConfig, NetworkConfig, Slots, TextConfig, VisualConfig
from model.modality import MODALITIES, Modality
from tests.support.network import ABLATIONS, ablation_config, tiny_config

CONFIG = tiny_config()


def changed(**changes: Any) -> dict[str, Any]:
    return {**CONFIG.model_dump(), **changes}


def network(**changes: Any) -> dict[str, Any]:
    return {**CONFIG.network.model_dump(), **changes}


def clip_audio(encoder: str, slots: int = 1) -> ModelConfig:
    """A config with one audio slot per clip."""
    imputed = network(imputed_slots={"text": 4, "audio": 1, "visual": 1})
    return tiny_config(audio={"encoder": encoder}, slots={"text": 12, "audio": slots, "visual": 1}, network=imputed)


def test_config_survives_a_round_trip_through_json() -> None:
    for config in (CONFIG, ModelConfig.paper()):
        assert ModelConfig.model_validate_json(config.model_dump_json()) == config


def test_branches_and_ensemble_are_written_only_where_chosen() -> None:
    assert {"branches", "ensemble"}.isdisjoint(CONFIG.network.model_dump())
    shipped = json.loads((Path(__file__).parents[2] / "weights" / "default" / "config.json").read_bytes())
    assert NetworkConfig.model_validate(shipped["network"]).model_dump(mode="json") == shipped["network"]
    assert set(CONFIG.precomputed.model_dump()) == {"audio", "visual"}
    for name, fields in ABLATIONS.items():
        config = ablation_config(name)
        assert {"branches", "ensemble"} & set(config.network.model_dump()) == set(fields)
        assert ModelConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    "branches", [(), ("cascade",), ("cascade", "transformer"), ("transformer",) * 2, ("transformer", "recurrent")]
)
def test_other_branches_are_rejected(branches: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="branches must be transformer, alone or with") as error:
        NetworkConfig.model_validate(network(branches=branches))
    assert error.value.error_count() == 1


def test_config_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        CONFIG.name = "other"  # type: ignore[misc]  # the type forbids it as well


def test_unknown_keys_are_rejected() -> None:
    with pytest.raises(ValidationError, match="hiden"):
        NetworkConfig.model_validate(network(hiden=3))


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (CONFIG, (384, 33, 35)),
        (tiny_config(audio=AudioConfig(dynamics=True)), (384, 66, 35)),
        (clip_audio("whisper"), (384, 384, 35)),
        (clip_audio("both"), (384, 483, 35)),
        (tiny_config(text=TextConfig(size=768), visual=VisualConfig(columns="all")), (768, 33, 709)),
        (ModelConfig.paper(), (768, 33, 709)),
        (tiny_config(precomputed={"audio": 73, "visual": 100}), (384, 73, 100)),
        (tiny_config(precomputed={"visual": 5}), (384, 33, 5)),
        (tiny_config(precomputed={"text": 100}), (100, 33, 35)),
    ],
)
def test_feature_sizes_follow_from_the_features_chosen(config: ModelConfig, sizes: tuple[int, ...]) -> None:
    assert tuple(config.feature_size(m) for m in MODALITIES) == sizes


def test_slots_by_modality() -> None:
    slots = Slots(text=3, audio=4, visual=5)
    assert [slots.of(m) for m in MODALITIES] == [3, 4, 5]


@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_two_three_four_and_seven_classes_are_valid(count: int) -> None:
    names = tuple("abcdefg"[:count])
    assert ModelConfig.model_validate(changed(classes=names)).classes == names


@pytest.mark.parametrize("classes", [("one",), tuple("abcde"), ("same", "same", "other")])
def test_other_numbers_of_classes_and_duplicates_are_rejected(classes: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="2, 3, 4 or 7 different names"):
        ModelConfig.model_validate(changed(classes=classes))


@pytest.mark.parametrize("modality", MODALITIES)
def test_imputed_slots_cannot_exceed_the_slots(modality: Modality) -> None:
    imputed = {m.value: CONFIG.slots.of(m) + (m == modality) for m in MODALITIES}
    with pytest.raises(ValidationError, match=f"{modality}: more slots imputed"):
        ModelConfig.model_validate(changed(network=network(imputed_slots=imputed)))


def test_mean_over_frames_requires_one_slot() -> None:
    slots = {**CONFIG.slots.model_dump(), "visual": 2}
    with pytest.raises(ValidationError, match="exactly one visual slot"):
        ModelConfig.model_validate(changed(slots=slots))
    assert ModelConfig.model_validate(changed(slots=slots, visual={"reduce": "frames"})).slots.visual == 2


@pytest.mark.parametrize("encoder", ["whisper", "both"])
def test_audio_features_of_a_clip_require_one_slot(encoder: str) -> None:
    with pytest.raises(ValidationError, match="exactly one audio slot"):
        clip_audio(encoder, slots=2)
    assert clip_audio("acoustic", slots=2).slots.audio == 2
    with pytest.raises(ValidationError, match="encoder"):
        clip_audio("mp3")


@pytest.mark.parametrize("hidden", [15, 18])
def test_hidden_size_must_be_even_and_divisible_by_heads(hidden: int) -> None:
    with pytest.raises(ValidationError, match="even and a multiple of heads"):
        NetworkConfig.model_validate(network(hidden=hidden))


@pytest.mark.parametrize("widths", [(16, 8, 16), (16, 12, 10, 8, 10, 12, 17)])
def test_autoencoder_has_seven_layers_and_ends_in_hidden(widths: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match="seven widths, the last equal to hidden"):
        NetworkConfig.model_validate(network(autoencoder=widths))


@pytest.mark.parametrize(("field", "value"), [("dropout", 1.0), ("heads", 0), ("residual_blocks", 0)])
def test_numbers_out_of_range_are_rejected(field: str, value: float) -> None:
    with pytest.raises(ValidationError, match=field):
        NetworkConfig.model_validate(network(**{field: value}))


def test_precomputed_features_fill_any_number_of_slots() -> None:
    slots = {"text": 4, "audio": 9, "visual": 9}
    given = changed(slots=slots, audio={"encoder": "whisper"})
    with pytest.raises(ValidationError, match="one audio slot"):
        ModelConfig.model_validate(given)
    config = ModelConfig.model_validate({**given, "precomputed": {"audio": 5, "visual": 3}})
    assert config.feature_size(Modality.AUDIO) == 5


@pytest.mark.parametrize("classes", [("1", "0"), ("0", "0.0"), ("0", "nan"), ("low", "high")])
def test_the_classes_of_a_regression_are_ascending_numbers(classes: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="must be numbers in ascending order"):
        ModelConfig.model_validate(changed(classes=classes, task="regression"))


def test_class_values_are_the_classes_as_numbers() -> None:
    config = ModelConfig.model_validate(changed(classes=("-1.5", "0", "2"), task="regression"))
    assert config.class_values == (-1.5, 0.0, 2.0)
