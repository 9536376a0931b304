from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.baselines.systems import build_network
from model.checkpoint import Checkpoint, load_checkpoint
from model.errors import ConfigError
from model.network.emmr import EMMR
from model.training.initial import (
    CLASS_LAYERS,
    DEFAULT_SHARE,
    MIN_SELECTED,
    SHARES,
    average,
    fine_tuned_config,
    select_share,
    take_over,
)
from tests.support.network import tiny_config
from tests.support.training import make_trainer, toy


@pytest.fixture
def checkpoint(tiny_weights: Path) -> Checkpoint:
    return load_checkpoint(tiny_weights, torch.device("cpu"))


def test_equal_classes_take_over_every_tensor(checkpoint: Checkpoint) -> None:
    network = build_network(fine_tuned_config(checkpoint, checkpoint.config.classes, "mine"))
    take_over(network, checkpoint)
    theirs = checkpoint.network.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in network.state_dict().items())


def test_rows_of_classes_are_taken_over_by_name(checkpoint: Checkpoint) -> None:
    network = build_network(fine_tuned_config(checkpoint, ("glad", "negative"), "mine"))
    before = network.state_dict()["classifier.weight"].clone()
    take_over(network, checkpoint)
    after, theirs = network.state_dict(), checkpoint.network.state_dict()
    assert torch.equal(after["classifier.weight"][0], before[0])
    assert torch.equal(after["classifier.weight"][1], theirs["classifier.weight"][0])
    assert all(torch.equal(after[name], theirs[name]) for name in after if not name.startswith(CLASS_LAYERS))


def test_trained_parameters_are_averaged_with_the_initial_ones(checkpoint: Checkpoint) -> None:
    network = build_network(fine_tuned_config(checkpoint, checkpoint.config.classes, "mine"))
    trained = {name: value.clone() for name, value in network.state_dict().items()}
    theirs = checkpoint.network.state_dict()
    for share in (0.0, 0.25, 1.0):
        average(network, trained, checkpoint, share)
        for name, value in network.state_dict().items():
            torch.testing.assert_close(value, share * trained[name] + (1 - share) * theirs[name])


@pytest.mark.parametrize(
    ("utterances", "selected"),
    [(MIN_SELECTED - 1, DEFAULT_SHARE), (100, 0.75), (400, 1.0), (30, 0.25)],
)
def test_the_least_share_within_the_standard_error_is_selected(utterances: int, selected: float) -> None:
    scores = {0.0: 0.60, 0.25: 0.64, 0.5: 0.64, 0.75: 0.68, 1.0: 0.72}
    assert select_share(scores, utterances) == selected


def test_the_average_is_what_is_reported(checkpoint: Checkpoint, tmp_path: Path) -> None:
    corpus, features = toy(train=24, val=36, config=checkpoint.config)
    trainer = make_trainer(tmp_path, corpus, features, config=checkpoint.config, epochs=2, learning_rate=1e-2)
    trainer = replace(trainer, initial=checkpoint)
    network, report = trainer.fit()
    assert report.trained_share in SHARES[1:]
    assert report.by_pattern == trainer.validate(network)
    again, same = trainer.fit(resume=True)
    assert same == report
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in network.state_dict().items())


def test_other_classes_are_not_averaged(checkpoint: Checkpoint, tmp_path: Path) -> None:
    config = fine_tuned_config(checkpoint, ("glad", "negative", "neutral", "positive"), "mine")
    corpus, features = toy(train=9, val=6, config=config)
    trainer = make_trainer(tmp_path, corpus, features, config=config, epochs=1)
    _, report = replace(trainer, initial=checkpoint).fit()
    assert report.trained_share is None


def test_class_layers_are_all_tensors_whose_size_depends_on_classes() -> None:
    two, four = (EMMR(tiny_config(classes=tuple("abcd"[:count]))).state_dict() for count in (2, 4))
    different = {name for name, value in two.items() if value.shape != four[name].shape}
    assert different == {name for name in two if name.startswith(CLASS_LAYERS)}


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"system": "late-fusion"}, "these are late-fusion"),
        ({"precomputed": {"audio": 3}}, "precomputed features or of scores"),
        ({"task": "regression", "classes": ("-1", "0", "1")}, "precomputed features or of scores"),
    ],
)
def test_weights_that_cannot_be_fine_tuned_are_refused(
    checkpoint: Checkpoint, changes: dict[str, object], detail: str
) -> None:
    config = type(checkpoint.config).model_validate({**checkpoint.config.model_dump(), **changes})
    with pytest.raises(ConfigError) as caught:
        fine_tuned_config(replace(checkpoint, config=config), ("a", "b"), "mine")
    assert detail in str(caught.value)


def test_training_starts_from_the_given_weights(checkpoint: Checkpoint, tmp_path: Path) -> None:
    corpus, features = toy(train=9, val=6, config=checkpoint.config)
    trainer = make_trainer(tmp_path, corpus, features, config=checkpoint.config, epochs=1, learning_rate=1e-12)
    network, _ = replace(trainer, initial=checkpoint).fit()
    theirs = checkpoint.network.state_dict()
    assert all(torch.allclose(value, theirs[name], atol=1e-6) for name, value in network.state_dict().items())
