"""The stored state of a training run is read as written, or rejected."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.errors import CheckpointError
from model.training.training_state import (
    FACTS,
    MovingAverage,
    load_state,
    optimiser_tensors,
    restore_optimiser,
    save_state,
    with_prefix,
)

TENSORS = {"network.a": torch.arange(6.0).reshape(2, 3), "best.b": torch.tensor(3)}


def test_a_saved_state_is_loaded_unchanged(tmp_path: Path) -> None:
    save_state(tmp_path / "new" / "run", TENSORS, {"epoch": 3, "recipe": "r", "report": {"history": [0.5]}})
    state = load_state(tmp_path / "new" / "run")
    assert state is not None
    tensors, facts = state
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], value) for name, value in TENSORS.items())
    assert (facts["epoch"], facts["recipe"], facts["report"]) == (3, "r", {"history": [0.5]})


def test_without_a_saved_state_nothing_is_loaded(tmp_path: Path) -> None:
    assert load_state(tmp_path / "run") is None


def test_tensors_of_any_layout_are_saved(tmp_path: Path) -> None:
    turned = TENSORS["network.a"].clone().T.requires_grad_()
    save_state(tmp_path, {"a": turned}, {"epoch": 1})
    state = load_state(tmp_path)
    assert state is not None
    assert torch.equal(state[0]["a"], turned.detach())


def test_only_the_last_state_is_kept(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        save_state(tmp_path, {"a": torch.tensor(epoch)}, {"epoch": epoch})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0003-state.safetensors", FACTS]
    state = load_state(tmp_path)
    assert state is not None
    assert (int(state[0]["a"]), state[1]["epoch"]) == (3, 3)


@pytest.mark.parametrize(
    ("tensors", "facts"),
    [
        ({"a": "no tensor"}, {"epoch": 2}),  # breaks before the tensors are written
        ({"a": torch.tensor(2)}, {"epoch": 2, "report": object()}),  # breaks while the facts are
    ],
    ids=["tensors", "facts"],
)
def test_a_failed_write_keeps_the_old_state(tmp_path: Path, tensors: dict[str, Any], facts: dict[str, Any]) -> None:
    save_state(tmp_path, {"a": torch.tensor(1)}, {"epoch": 1})
    with pytest.raises((AttributeError, TypeError)):
        save_state(tmp_path, tensors, facts)
    state = load_state(tmp_path)
    assert state is not None
    assert (int(state[0]["a"]), state[1]["epoch"]) == (1, 1)


def test_a_failed_write_does_not_prevent_the_next(tmp_path: Path) -> None:
    save_state(tmp_path, {"a": torch.tensor(1)}, {"epoch": 1})
    with pytest.raises(TypeError):
        save_state(tmp_path, {"a": torch.tensor(2)}, {"epoch": 2, "report": object()})
    save_state(tmp_path, {"a": torch.tensor(3)}, {"epoch": 2})
    state = load_state(tmp_path)
    assert state is not None
    assert int(state[0]["a"]) == 3


def cut_tensors(folder: Path) -> None:
    (path,) = folder.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-3])


def remove_tensors(folder: Path) -> None:
    next(folder.glob("*.safetensors")).unlink()


def write(content: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / FACTS).write_text(content, encoding="utf-8")

    return damage


@pytest.mark.parametrize(
    "damage",
    [cut_tensors, remove_tensors, write("{"), write("{}"), write("[]")],
    ids=["cut", "removed", "no JSON", "no name", "no object"],
)
def test_an_unreadable_state_is_an_error(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    save_state(tmp_path, TENSORS, {"epoch": 1})
    damage(tmp_path)
    with pytest.raises(CheckpointError, match="state of the interrupted run cannot be read"):
        load_state(tmp_path)


def train(network: nn.Module, optimiser: torch.optim.Optimizer, steps: int) -> None:
    for step in range(steps):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        network(x).square().mean().backward()
        optimiser.step()


def test_a_restored_optimiser_continues_exactly() -> None:
    torch.manual_seed(0)
    network = nn.Linear(4, 3)
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.1)
    train(network, optimiser, 5)
    saved: dict[str, Tensor] = {name: value.clone() for name, value in optimiser_tensors(optimiser).items()}
    twin = copy.deepcopy(network)
    fresh = torch.optim.AdamW(twin.parameters(), lr=0.1)
    restore_optimiser(fresh, saved | {"network.weight": torch.zeros(1)})
    train(network, optimiser, 3)
    train(twin, fresh, 3)
    assert torch.equal(twin.weight, network.weight)
    assert torch.equal(twin.bias, network.bias)


def test_tensors_are_found_under_their_prefix() -> None:
    assert with_prefix(TENSORS, "network.").keys() == {"a"}
    assert with_prefix(TENSORS, "guidance.") == {}


def constant(value: float) -> nn.Linear:
    linear = nn.Linear(1, 1, bias=False)
    nn.init.constant_(linear.weight, value)
    return linear


def test_the_average_follows_faster_at_the_start() -> None:
    network = constant(0.0)
    average = MovingAverage(network, decay=0.5)
    expected = 0.0
    for step, value in enumerate((1.0, 3.0, 2.0, -1.0, 0.5), start=1):
        nn.init.constant_(network.weight, value)
        average.update_parameters(network)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert value_of(average) == pytest.approx(expected, rel=1e-6)
    assert average.updates == 5
    assert network.weight.item() == 0.5


def test_an_average_is_restored_with_its_updates() -> None:
    network = constant(7.0)
    average = MovingAverage(network, decay=0.9, updates=40)
    assert average.updates == 40
    nn.init.constant_(network.weight, 8.0)
    average.update_parameters(network)
    decay = 42 / 51
    assert value_of(average) == pytest.approx(decay * 7 + (1 - decay) * 8)


def value_of(average: MovingAverage) -> float:
    (parameter,) = average.module.parameters()
    return parameter.item()
