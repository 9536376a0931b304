"""The commands of docs/training.md, from a semicolon export with 50 clips to an answer of fine-tuned weights."""

import csv
import json
from pathlib import Path

import pytest
import soundfile
from typer.testing import CliRunner

from app.cli import cli
from model.training.settings import Recipe
from tests.support.speech import SAMPLE_RATE, speak
from tests.support.training import tiny_training

ROOT = Path(__file__).parents[3]
PERSONS = ("anna", "ben", "cleo", "dan", "eve")
VOICES = {"Positive ": ("en+f3", 190), "neg": ("en+m2", 130), "neutral": ("en-us", 160)}


def write_export(folder: Path) -> Path:
    """Write 50 rows of five persons, as Excel exports them; the sound of a label is the same in all its rows."""
    (folder / "clips").mkdir()
    for number, (voice, rate) in enumerate(VOICES.values()):
        soundfile.write(folder / "clips" / f"{number}.wav", speak("It is what it is.", rate, voice), SAMPLE_RATE)
    path = folder / "my.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(("Audio", "Group", "Label"))
        for row in range(50):
            number = row % len(VOICES)
            writer.writerow((f"clips\\{number}.wav", PERSONS[row // 10], list(VOICES)[number]))
    return path


def test_an_export_of_fifty_clips_becomes_weights_that_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("model.baselines.references.TREES", 5)
    data, out, init = write_export(tmp_path), tmp_path / "weights" / "mine", ROOT / "weights" / "default"
    recipe = Recipe(model=Recipe.default().model, training=tiny_training(epochs=1, teacher=True))
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json(), encoding="utf-8")
    tiny = ("--config", str(tmp_path / "recipe.json"), "--workers", "1", "--device", "cpu")
    own = ("--corpus", "manifest", "--data", str(data))

    trained = CliRunner().invoke(cli, ["train", *own, "--init", str(init), "--out", str(out), *tiny])
    assert trained.exit_code == 0, trained.output
    assert "macro-F1 on validation" in trained.output
    again = CliRunner().invoke(cli, ["train", *own, "--out", str(out), *tiny])
    assert again.exit_code != 0
    assert "--overwrite" in again.output
    evaluated = CliRunner().invoke(
        cli, ["evaluate", *own, "--weights", str(out), "--split", "val", "--device", "cpu", "--json", "val.json"]
    )
    assert evaluated.exit_code == 0, evaluated.output
    assert json.loads(Path("val.json").read_text(encoding="utf-8"))["patterns"]["audio"]["n"] == 10
    answered = CliRunner().invoke(
        cli, ["predict", "--weights", str(out), "--audio", "clips/0.wav", "--transcribe", "never", "--json"]
    )
    assert answered.exit_code == 0, answered.output
    assert json.loads(answered.stdout)["probabilities"].keys() == {"negative", "neutral", "positive"}
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "Fine-tuned from the weights default" in card
    assert (out / "LICENSE").is_file()
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    for command in (
        "train --corpus manifest --data my.csv --init weights/default --out weights/mine",
        "evaluate",
        "predict",
    ):
        assert f".venv/bin/emmr {command}" in page
