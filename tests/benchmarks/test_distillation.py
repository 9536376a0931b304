"""The benchmark of distillation, on a generated corpus at tiny sizes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.distillation import OPTIONS, Answers, Part, Student, cost, fidelity, fit, main, one_pass
from model.modality import SUBSETS
from model.network.batch import collate
from model.network.inference.fused import FusedNetwork
from model.network.inference.sparse import decide
from tests.support.corpus import write_composite2
from tests.support.network import random_network, random_utterances, tiny_config

HIDDEN, CLASSES = 4, 3


def answers(rng: np.random.Generator, count: int) -> Answers:
    return Answers(rng.dirichlet(np.ones(CLASSES), size=count), rng.uniform(0.01, 0.99, size=count))


def part(seed: int, count: int = 200) -> Part:
    """Cases whose teacher flips the classes where the first pooled feature is positive."""
    rng = np.random.default_rng(seed)
    path, pooled = answers(rng, count), rng.standard_normal((count, HIDDEN))
    flipped = np.where(pooled[:, :1] > 0, path.probabilities[:, ::-1], path.probabilities)
    odds = np.log(path.key_score / (1 - path.key_score))[:, None]
    inputs = np.concatenate([pooled, np.zeros((count, 6)), np.log(path.probabilities), odds], axis=1)
    return Part(
        inputs=torch.from_numpy(inputs).float(),
        teacher=Answers(flipped, path.key_score),
        transformer=path,
        uncalibrated=path,
        truth=flipped.argmax(axis=1),
        key=rng.random(count) < 0.5,
        missing=np.arange(count) % 2 + 1,
        ensemble=pooled[:, 0] > 0,
        unfamiliar=np.zeros(count, dtype=np.bool_),
    )


def test_the_one_pass_gives_the_logits_of_the_transformer_path() -> None:
    config = tiny_config()
    network = random_network(config)
    batch = collate(random_utterances(config, SUBSETS), config)
    pooled, logits = one_pass(FusedNetwork(network), batch)
    expected = [d.transformer for d in decide(network, batch, both_paths=True)]
    assert torch.allclose(logits.softmax(dim=-1), torch.tensor(expected), atol=1e-6)
    with torch.inference_mode():
        assert torch.allclose(network.classifier(pooled), logits, atol=1e-6)


def test_an_untrained_student_gives_the_answer_of_the_path() -> None:
    given = part(0)
    found = Student(HIDDEN, CLASSES, 8).answers(given.inputs)
    assert found.probabilities == pytest.approx(given.transformer.probabilities, abs=1e-5)
    assert found.key_score == pytest.approx(given.transformer.key_score, abs=1e-5)


def test_fitting_brings_a_student_closer_to_the_teacher() -> None:
    training, held_out = part(0, 2000), part(1)
    student, epoch, _ = fit(training, held_out, 32, 200, HIDDEN)
    rows = np.ones(len(held_out.inputs), dtype=np.bool_)
    own = fidelity(held_out, student.answers(held_out.inputs), rows)
    path = fidelity(held_out, held_out.transformer, rows)
    assert epoch > 0
    assert own["label_agreement"] > path["label_agreement"]
    assert own["mean_difference"] < path["mean_difference"] / 2


def test_the_teacher_differs_from_itself_nowhere() -> None:
    given = part(0)
    found = fidelity(given, given.teacher, given.missing == 1)
    assert (found["label_agreement"], found["largest_difference"], found["within_limit"]) == (1, 0, 1)
    assert found["key_correlation"] == pytest.approx(1)
    assert found["macro_f1"] == 1


def test_the_one_pass_takes_fewer_operations_than_the_sparse_path() -> None:
    found = cost(tiny_config(), 8, share=0.1)
    assert found["one_missing_fewer_operations"] > 1
    assert found["two_missing_fewer_operations"] > 1


def test_the_figures_and_the_table_are_written(
    tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document, results = tmp_path / "page.md", tmp_path / "results.json"
    document.write_text("before\n<!-- distillation -->\nold\n<!-- /distillation -->\nafter\n", encoding="utf-8")
    for name, value in {"DOCUMENT": document, "RESULTS": results, "WIDTHS": (2, 4)}.items():
        monkeypatch.setattr(f"benchmarks.distillation.{name}", value)
    monkeypatch.setattr("benchmarks.distillation.ModelConfig.paper", tiny_config)
    data, out = write_composite2(tmp_path / "data", rounds=1), tmp_path / "out.json"
    options = ["--data", str(data), "--cache", str(tmp_path / "cache"), "--weights", str(tiny_weights)]
    main([*options, "--epochs", "1", "--json", str(out), "--record"])
    facts = json.loads(out.read_text(encoding="utf-8"))["facts"]
    assert json.loads(results.read_text(encoding="utf-8"))["facts"] == facts
    for option in OPTIONS:
        assert 0 <= facts[f"test_two_missing_{option}_label_agreement"] <= 1
    written = document.read_text(encoding="utf-8")
    assert "old" not in written
    assert written.count("| whole network |") == 4
