"""Division of a batch among processes; `test_commands.py` has two train together."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from model.modality import Modality
from model.training.distributed import SINGLE_PROCESS, DistributedContext
from tests.support.training import toy


def test_shards_cover_all_rows_and_their_mean_is_the_batch_mean(training_batch: Callable[[int], Any]) -> None:
    item = training_batch(7)
    shares = [DistributedContext(rank, 3).shard(item) for rank in range(3)]
    assert sorted(e.id for own, _ in shares for e in own.examples) == sorted(e.id for e in item.examples)
    values = item.batch.features[Modality.VISUAL].sum(dim=(1, 2))
    means = [factor * float(own.batch.features[Modality.VISUAL].sum(dim=(1, 2)).mean()) for own, factor in shares]
    assert sum(means) / 3 == pytest.approx(float(values.mean()), rel=1e-4)
    for own, _ in shares:
        assert own.targets.labels.tolist() == [item.targets.labels[item.examples.index(e)] for e in own.examples]


def test_a_batch_with_fewer_rows_than_processes_is_not_divided(training_batch: Callable[[int], Any]) -> None:
    item = training_batch(2)
    for rank in range(3):
        own, factor = DistributedContext(rank, 3).shard(item)
        assert own is item
        assert factor == 1.0


def test_a_single_process_needs_no_communication(training_batch: Callable[[int], Any]) -> None:
    item = training_batch(5)
    module = torch.nn.Linear(1, 1)
    with DistributedContext.join(torch.device("cpu")) as context, context.main_process_first():
        assert context == SINGLE_PROCESS
        assert context.is_main
        assert context.shard(item) == (item, 1.0)
        module(torch.ones(1, 1)).sum().backward()
        context.average_gradients(module)
        assert module.weight.grad == torch.ones(1, 1)
        assert context.broadcast({"a": 1}) == {"a": 1}
        assert context.device(torch.device("cuda")) == torch.device("cuda")


@pytest.fixture
def training_batch() -> Callable[[int], Any]:
    from model.training.batches import BatchSource
    from tests.support.training import CONFIG, tiny_training

    def make(rows: int) -> Any:
        corpus, features = toy(train=rows)
        settings = tiny_training(batch_size=rows)
        return next(BatchSource(CONFIG, settings, features, 0).epoch(corpus.parts["train"], 0))

    return make
