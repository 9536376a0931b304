"""Every baseline: it learns, answers every subset, and depends on nothing that is missing."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from model.baselines.base import Reference
from model.baselines.mmin import MMIN
from model.baselines.systems import BASELINES, TITLES, build_network, count_parameters, decide
from model.checkpoint import load_checkpoint, save_checkpoint
from model.config import SYSTEMS, ModelConfig, System
from model.features.normalization import Preprocessing, Statistics
from model.modality import COMPLETE, MODALITIES, SUBSETS, Modality, ModalitySet
from model.network.batch import collate
from model.network.emmr import EMMR
from model.pipeline import Pipeline
from tests.support.baselines import (
    CONFIG,
    NEURAL,
    REFERENCES,
    batch_of,
    config_of,
    fitted,
    hide,
    labelled,
    neural,
    with_content,
)
from tests.support.network import random_utterances, tiny_config

ALL = (*NEURAL, *REFERENCES)
CONTENT: dict[str, Callable[[Tensor], Tensor]] = {
    "random": lambda x: torch.randn(x.shape, generator=torch.Generator().manual_seed(3)) * 10,
    "nan": lambda x: torch.full_like(x, torch.nan),
    "infinite": lambda x: torch.full_like(x, torch.inf),
}


@pytest.mark.parametrize("system", NEURAL)
def test_a_network_overfits_a_small_batch(system: System) -> None:
    network = neural(system)
    batch, answer = batch_of(labelled(CONFIG, 12))
    optimiser = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=5e-3)
    losses = []
    for stage in range(len(network.stages)):
        network.begin(stage)
        network.train()
        for _ in range(20):
            loss, terms = network.loss(batch, answer)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(terms["answer"]))
    network.eval()
    assert torch.equal(network(batch).argmax(dim=1), answer.targets.labels)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("system", REFERENCES)
def test_a_reference_predicts_held_out_utterances(system: System) -> None:
    network = fitted(system)
    batch, answer = batch_of(labelled(CONFIG, 15, seed=2))
    for subset in SUBSETS:
        predicted = network(hide(batch, [subset] * 15)).argmax(dim=1)
        assert (predicted == answer.targets.labels).float().mean() > 0.8, subset.name


@pytest.mark.parametrize("system", ALL)
def test_a_mixed_padded_batch_gives_the_answers_of_each_alone(system: System) -> None:
    network = fitted(system)
    utterances = random_utterances(CONFIG, SUBSETS, longest=9)
    together = decide(network, collate(utterances, CONFIG))
    assert len(together) == 7
    for utterance, decision in zip(utterances, together, strict=True):
        (alone,) = decide(network, collate([utterance], CONFIG))
        np.testing.assert_allclose(decision.probabilities, alone.probabilities, atol=1e-5)
        assert sum(decision.probabilities) == pytest.approx(1)


@pytest.mark.parametrize("system", ALL)
def test_every_present_modality_changes_the_answer(system: System) -> None:
    network = fitted(system)
    batch, _ = batch_of(labelled(CONFIG, 6))
    read = (Modality.TEXT,) if system == "mctn" else MODALITIES
    for modality in read:
        alone = hide(batch, [ModalitySet.of(modality)] * 6)
        assert len({tuple(row) for row in network(alone).tolist()}) > 1, modality


@pytest.mark.parametrize("content", CONTENT)
@pytest.mark.parametrize("system", ALL)
def test_missing_content_changes_no_answer(system: System, content: str) -> None:
    network = fitted(system)
    batch, _ = batch_of(labelled(CONFIG, 7))
    hidden = hide(batch, SUBSETS)
    answers = network(hidden)
    assert torch.isfinite(answers).all()
    assert torch.equal(network(with_content(hidden, ~hidden.present, CONTENT[content])), answers)


@pytest.mark.parametrize("stage", [0, -1])
@pytest.mark.parametrize("system", NEURAL)
def test_content_that_is_not_held_changes_no_gradient(system: System, stage: int) -> None:
    _, answer = batch_of(labelled(CONFIG, 7))
    batch = collate(random_utterances(CONFIG, SUBSETS, longest=6), CONFIG, room_to_impute=True)
    found = []
    for given in (batch, with_content(batch, ~batch.held, CONTENT["nan"])):
        network = neural(system)
        network.begin(range(len(network.stages))[stage])
        loss, parts = network.loss(given, answer)
        loss.backward()
        assert all(torch.isfinite(part) for part in parts.values())
        found.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("system", NEURAL)
def test_a_network_trains_without_any_complete_utterance(system: System) -> None:
    network = neural(system)
    subset = ModalitySet.of(Modality.AUDIO)
    batch = collate(random_utterances(CONFIG, [subset] * 3), CONFIG, room_to_impute=True)
    _, answer = batch_of(labelled(CONFIG, 3))
    loss, _ = network.loss(batch, answer)
    assert torch.isfinite(loss)


@pytest.mark.parametrize("system", ALL)
def test_a_baseline_gives_probabilities_alone(system: System) -> None:
    (decision,) = decide(fitted(system), collate(random_utterances(CONFIG, [SUBSETS[4]]), CONFIG), explain=True)
    assert decision.full == decision.available == decision.probabilities
    assert (decision.key_score, decision.key_modalities, decision.votes, decision.ensemble) == (None, (), None, None)
    assert not decision.branch_weights


def test_a_network_in_training_mode_does_not_decide() -> None:
    with pytest.raises(ValueError, match="training mode"):
        decide(neural("ae").train(), collate(random_utterances(CONFIG, [COMPLETE]), CONFIG))


@pytest.mark.parametrize("system", NEURAL)
def test_the_published_sizes_are_supported(system: System) -> None:
    config = ModelConfig.paper().model_copy(update={"system": system})
    network = build_network(config).eval()
    utterances = random_utterances(config, [COMPLETE, SUBSETS[5]], longest=4)
    assert len(decide(network, collate(utterances, config))) == 2


@pytest.mark.parametrize("classes", [("0", "1"), ("a", "b", "c", "d")])
@pytest.mark.parametrize("system", ALL)
def test_other_numbers_of_classes_are_supported(system: System, classes: tuple[str, ...]) -> None:
    network = build_network(config_of(system, classes=classes)).eval()
    (decision,) = decide(network, collate(random_utterances(CONFIG, [COMPLETE]), CONFIG))
    assert len(decision.probabilities) == len(classes)


def test_every_system_has_a_title_and_a_class() -> None:
    assert tuple(TITLES) == SYSTEMS
    assert tuple(BASELINES) == SYSTEMS[1:]
    assert isinstance(build_network(CONFIG), EMMR)


def test_parameters_are_counted_without_frozen_copies() -> None:
    config = ModelConfig.paper()
    counts = count_parameters(config)
    assert tuple(counts) == SYSTEMS
    assert {system for system, count in counts.items() if count == 0} == set(REFERENCES)
    assert counts["emmr"] == sum(p.numel() for p in EMMR(config).parameters())
    mmin = MMIN(config)
    frozen = sum(p.numel() for p in mmin.frozen.parameters())
    assert counts["mmin"] == sum(p.numel() for p in mmin.parameters()) - frozen

    def layers(*widths: int) -> int:
        return sum(a * b + b for a, b in pairwise(widths))

    sizes = [config.feature_size(m) for m in MODALITIES]
    encoders, decoders = (
        sum(layers(*w) for w in ws)
        for ws in (
            [(d, 128, 128, 128) for d in sizes],
            [(128, 128, 128, d) for d in sizes],
        )
    )
    assert counts["ae"] == encoders + decoders + layers(384, 256, 128, 256, 384) + layers(384, 128, 128, 3)


@pytest.mark.parametrize("system", ALL)
def test_a_checkpoint_restores_a_baseline(system: System, tmp_path: Path) -> None:
    config = tiny_config(system=system)
    network = build_network(config)
    if isinstance(network, Reference):
        network.fit(labelled(config, 12), labelled(config, 6, seed=1), seed=0)
    network.eval()
    sizes = {m: CONFIG.feature_size(m) for m in (Modality.AUDIO, Modality.VISUAL)}
    statistics = {m: Statistics(np.zeros(d, np.float32), np.ones(d, np.float32)) for m, d in sizes.items()}
    version = save_checkpoint(tmp_path, network, Preprocessing(statistics))
    loaded = load_checkpoint(tmp_path, torch.device("cpu"))
    assert (loaded.version, loaded.config.system) == (version, system)
    assert loaded.network.state_dict().keys() == network.state_dict().keys()
    utterances = random_utterances(config, SUBSETS)
    decisions = Pipeline(loaded, torch.device("cpu")).decide(utterances)
    expected = decide(network, collate(utterances, config))
    for decision, other in zip(decisions, expected, strict=True):
        np.testing.assert_allclose(decision.probabilities, other.probabilities, atol=1e-6)
        assert (decision.key_score, decision.threshold, decision.key_by_modality) == (None, None, {})


def test_the_config_of_emmr_does_not_name_the_system() -> None:
    assert "system" not in CONFIG.model_dump()
    assert ModelConfig.model_validate_json(CONFIG.model_dump_json()).system == "emmr"
    assert ModelConfig.model_validate_json(config_of("tate").model_dump_json()).system == "tate"
