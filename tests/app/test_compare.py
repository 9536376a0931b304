import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.compare import Answers, compare, comparison
from app.settings import Settings
from model.checkpoint import load_checkpoint, save_checkpoint
from model.config import ModelConfig
from model.errors import ConfigError, CorpusError
from model.network.emmr import EMMR
from tests.support.service import Part

CLASSES = ("negative", "neutral", "positive")


def answers(first: list[int], second: list[int], labels: list[int] | None = None, doubt: float = 0.2) -> Answers:
    def rows(decided: list[int]) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.stack([np.where(np.arange(3) == label, 1 - doubt, doubt / 2) for label in decided])

    subsets = ["text" if index % 2 else "text+audio" for index in range(len(first))]
    known = np.array(labels if labels is not None else [-1] * len(first))
    return Answers(
        np.stack([rows(first), rows(second)]), subsets, known, np.array([[1] * len(first), [0] * len(first)])
    )


def test_agreement_and_flips_are_counted() -> None:
    figures = comparison(CLASSES, answers([0, 0, 1, 2], [0, 2, 1, 1]))
    assert figures["all"]["agreement"]["share"] == 0.5
    assert figures["all"]["agreement"]["low"] < 0.5 < figures["all"]["agreement"]["high"]
    assert figures["all"]["flips"] == [[1, 0, 1], [0, 1, 0], [0, 1, 0]]
    assert figures["all"]["distance"] == pytest.approx(0.35)
    assert figures["all"]["key_missing"] == {"first": 1, "second": 0}
    assert figures["all"]["labelled"] is None


def test_subsets_are_compared_apart() -> None:
    figures = comparison(CLASSES, answers([0, 0, 1, 2], [0, 2, 1, 1]))
    assert {name: group["agreement"]["share"] for name, group in figures["by_subset"].items()} == {
        "text": 0,
        "text+audio": 1,
    }


def test_labels_give_scores_and_differences_with_intervals() -> None:
    truth = [0, 1, 2] * 20
    worse = [(label + (index % 2)) % 3 for index, label in enumerate(truth)]
    labelled = comparison(CLASSES, answers(worse, truth, truth))["all"]["labelled"]
    assert (labelled["n"], labelled["first"]["accuracy"], labelled["second"]["accuracy"]) == (60, 0.5, 1)
    difference = labelled["difference"]
    assert difference["accuracy"]["difference"] == pytest.approx(0.5)
    assert difference["macro_f1"]["low"] > 0
    assert difference["log_loss"]["high"] < 0
    for score in ("log_loss", "calibration_error"):
        expected = labelled["second"][score] - labelled["first"][score]
        assert difference[score]["difference"] == pytest.approx(expected)


def test_utterances_without_a_label_count_for_agreement_alone() -> None:
    figures = comparison(CLASSES, answers([0, 1], [0, 1], [0, -1]))
    assert (figures["all"]["n"], figures["all"]["labelled"]["n"]) == (2, 1)


@pytest.fixture(scope="module")
def other_weights(tiny_config: ModelConfig, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of another random network, with the preprocessing of the tiny ones."""
    import torch

    folder = tmp_path_factory.mktemp("other") / "weights"
    with torch.random.fork_rng():
        torch.manual_seed(8)
        network = EMMR(tiny_config)
    save_checkpoint(folder, network, load_checkpoint(tiny_weights, torch.device("cpu")).preprocessing)
    return folder


def test_two_weights_are_compared_over_a_manifest(
    tiny_weights: Path,
    other_weights: Path,
    parts: dict[str, Part],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "voice.wav").write_bytes(parts["audio"][1])
    manifest = tmp_path / "clips.csv"
    manifest.write_text("id,text,audio,label\na,Hello,,Pos\nb,,voice.wav,\nc,,none.wav,\n", encoding="utf-8")
    settings = [Settings(weights=folder, device="cpu") for folder in (tiny_weights, other_weights)]
    assert compare(settings, manifest, tmp_path / "out.json") == 0
    figures = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert {name: group["n"] for name, group in figures["by_subset"].items()} == {"text": 1, "audio": 1}
    assert figures["failed"] == [{"id": "c", "problem": "a file: No such file or directory"}]
    assert figures["weights"]["first"]["version"] != figures["weights"]["second"]["version"]
    assert figures["all"]["labelled"]["n"] == 1
    printed = capsys.readouterr().out
    assert "labels read by their meaning: 'Pos' as 'positive' (1)" in printed
    assert "calibration_error" in printed


def test_weights_agree_with_themselves(tiny_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "clips.jsonl").write_text('{"text": "Hello"}\n\n{"text": "No"}\n', encoding="utf-8")
    settings = [Settings(weights=tiny_weights, device="cpu")] * 2
    compare(settings, tmp_path / "clips.jsonl", tmp_path / "out.json")
    figures = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert (figures["all"]["n"], figures["all"]["agreement"]["share"], figures["all"]["distance"]) == (2, 1, 0)


def test_label_that_is_no_class_is_refused(tiny_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "clips.csv").write_text("id,text,label\na,Hello,great\n", encoding="utf-8")
    with pytest.raises(CorpusError) as refused:
        compare([Settings(weights=tiny_weights, device="cpu")] * 2, tmp_path / "clips.csv")
    assert "the label 'great' of a is no class" in str(refused.value)


def test_manifest_without_utterances_is_refused(tiny_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "clips.csv").write_text('id,text\na,""\n', encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        compare([Settings(weights=tiny_weights, device="cpu")] * 2, tmp_path / "clips.csv")
    assert "no utterance" in str(refused.value)
