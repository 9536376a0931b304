import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from model.baselines.systems import TITLES
from model.checkpoint import load_checkpoint, verify_hashes
from model.errors import CheckpointError, ConfigError, CorpusError
from model.modality import SUBSETS
from model.pipeline import Pipeline, choose_device
from model.training import commands, plots
from model.training.commands import RUNS, evaluate, read_recipe, train
from model.training.datasets.manifest import ManifestCorpus
from model.training.missing_patterns import RATES
from model.training.pretraining import MODALITIES_PRETRAINED
from model.training.settings import Recipe
from tests.support.corpus import write_composite2, write_manifest, write_openface, write_tone
from tests.support.native_corpora import write_mosi
from tests.support.training import tiny_recipe

PITCHES = {"negative": 140.0, "neutral": 220.0, "positive": 400.0}
WORDS = {"negative": "awful", "neutral": "ordinary", "positive": "wonderful"}
LACKING: Sequence[tuple[str, ...]] = ((), (), ("audio",), ("openface",), ("text",), ("audio", "openface"))


def manifest(
    folder: Path,
    splits: dict[str, int],
    labels: Sequence[str] = tuple(PITCHES),
    lacks: Sequence[tuple[str, ...]] = LACKING,
) -> Path:
    """A manifest with files, some of whose cells are empty, `splits` rows a part."""
    rows: list[dict[str, object]] = []
    for split, count in splits.items():
        for number in range(count):
            label, name = labels[number % len(labels)], f"{split}-{number}"
            row: dict[str, object] = {"id": name, "split": split, "label": label, "text": f"it was {WORDS[label]}"}
            lacking = lacks[number % len(lacks)]
            if "audio" not in lacking:
                row["audio"] = write_tone(folder / "clips" / f"{name}.wav", PITCHES[label], seed=number).relative_to(
                    folder
                )
            if "openface" not in lacking:
                path = write_openface(folder / "clips" / f"{name}.csv", label, frames=3, seed=number)
                row["openface"] = path.relative_to(folder)
            if "text" in lacking:
                del row["text"]
            rows.append(row)
    return write_manifest(folder, rows)


@pytest.fixture(autouse=True)
def _computing(tmp_path: Path, feature_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute features in this process, and share them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("model.training.commands.DEFAULT_CACHE", feature_cache)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    monkeypatch.setattr("model.baselines.references.TREES", 5)  # of the forests that training is compared with


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.json"
    path.write_text(tiny_recipe().model_dump_json(), encoding="utf-8")
    return path


def train_on(data: Path, out: Path, recipe: Path, **changes: Any) -> int:
    arguments: dict[str, Any] = {
        "corpus": "manifest", "data": data, "out": out, "config": recipe, "seed": 0, "epochs": None, "resume": False,
        "device": "cpu", "cache": commands.DEFAULT_CACHE, "workers": 1,
    }  # fmt: skip
    return train(**(arguments | changes))


def test_weights_trained_on_a_manifest_can_be_evaluated(
    tmp_path: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out, results = manifest(tmp_path, {"train": 18, "val": 6, "test": 12}), tmp_path / "mine", tmp_path / "r.json"
    assert train_on(data, out, recipe) == 0
    checkpoint = load_checkpoint(out, choose_device("cpu"))
    assert (checkpoint.config.name, checkpoint.config.classes) == ("mine", tuple(PITCHES))
    assert checkpoint.card.startswith("# mine\n")
    assert (tmp_path / RUNS / "mine" / "seed-0" / "state.json").is_file()

    assert evaluate("manifest", data, "test", out, results, "cpu") == 0
    measured = json.loads(results.read_text(encoding="utf-8"))
    assert measured["patterns"].keys() == {s.name for s in SUBSETS}
    assert measured["rates"].keys() == {str(rate) for rate in RATES}
    assert measured["decided_by"] == {}
    for scores in (*measured["patterns"].values(), *measured["rates"].values()):
        assert 0 <= scores["accuracy"] <= 1
        assert 0 <= scores["macro_f1"] <= 1
    assert measured["patterns"]["text+audio+visual"]["n"] == 4
    assert measured["patterns"]["text+audio+visual"]["left_out"] == 8
    # Training writes the same figures as the evaluation of the weights.
    assert measured == json.loads((out / "results.json").read_text(encoding="utf-8"))

    output = " ".join(capsys.readouterr().out.split())
    compared = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    assert compared["verdict"] in output
    assert f"tensorboard --logdir {tmp_path / RUNS / 'mine'}" in output
    assert "warning: class 'negative' has 6 training rows" in output
    report = (out / "report.html").read_text(encoding="utf-8")
    for heading in (
        "Course of the training",
        "Confusion",
        "Reliability by what is present",
        "Compared with references",
    ):
        assert heading in report
    for word in ("| negative | 6 | 2 | 4 |", compared["verdict"], "too small to tell how accurate"):
        assert word in checkpoint.card
    assert "RAVDESS" not in checkpoint.card


def test_the_composite_corpus_is_scored_by_what_carries_the_label(
    tmp_path: Path, composite_data: Path, recipe: Path
) -> None:
    assert train_on(composite_data, tmp_path / "w", recipe, corpus="composite", epochs=1) == 0
    measured = json.loads((tmp_path / "w" / "results.json").read_text(encoding="utf-8"))
    assert measured["decided_by"].keys() == {"congruent", "text", "voice+face", "voice", "face", "native"}
    assert measured["gate"]["n"] == 6 * measured["n"]


@pytest.fixture(scope="module")
def second_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_composite2(tmp_path_factory.mktemp("second"), rounds=1)


def test_the_second_composite_corpus_is_evaluated_with_a_report(
    tmp_path: Path, second_data: Path, tiny_weights: Path
) -> None:
    json_out, report = tmp_path / "out.json", tmp_path / "out.html"
    assert evaluate("composite2", second_data, "ood", tiny_weights, json_out, "cpu", report) == 0
    measured = json.loads(json_out.read_text(encoding="utf-8"))
    assert {scores["n"] for scores in measured["patterns"].values()} == {measured["n"]}
    assert len(measured["steps"]) == 9
    assert measured["key_missing"]["n"] == 6 * measured["n"]
    assert measured["corpora"] is None
    assert "composite2, ood: weights" in report.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("corpus", "split", "origins"),
    [("voices", "ood", {"emovo"}), ("faces", "test", {"stills", "ravdess"})],
)
def test_corpora_of_one_modality_are_evaluated_separately(
    tmp_path: Path, second_data: Path, tiny_weights: Path, corpus: str, split: str, origins: set[str]
) -> None:
    json_out = tmp_path / "out.json"
    assert evaluate(corpus, second_data, split, tiny_weights, json_out, "cpu") == 0
    measured = json.loads(json_out.read_text(encoding="utf-8"))
    assert measured["corpora"]["by_corpus"].keys() == origins
    assert sum(figures["n"] for figures in measured["corpora"]["by_corpus"].values()) == measured["n"]
    assert measured["corpora"]["mean"]["uar"] is not None
    assert (measured["key_missing"], measured["gate"], measured["steps"]) == (None, None, [])


@pytest.mark.parametrize("system", ["ae", "late-fusion"])
def test_another_system_is_trained_and_evaluated(tmp_path: Path, recipe: Path, system: str) -> None:
    data, out = manifest(tmp_path, {"train": 18, "val": 6, "test": 6}), tmp_path / "other"
    assert train_on(data, out, recipe, system=system, epochs=1) == 0
    checkpoint = load_checkpoint(out, choose_device("cpu"))
    assert checkpoint.config.system == system
    assert TITLES[checkpoint.config.system] in checkpoint.card
    assert evaluate("manifest", data, "test", out, tmp_path / "r.json", "cpu", system=system) == 0
    measured = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert measured["patterns"].keys() == {s.name for s in SUBSETS}
    assert (measured["key_missing"], measured["gate"]) == (None, None)
    with pytest.raises(ConfigError, match=f"are of {system}, not of emmr"):
        evaluate("manifest", data, "test", out, None, "cpu", system="emmr")


def test_an_unknown_system_is_refused(tmp_path: Path, recipe: Path) -> None:
    with pytest.raises(ConfigError, match="unknown system 'mmim'; known are emmr, ae"):
        train_on(tmp_path / "absent", tmp_path / "w", recipe, system="mmim")


def test_a_report_without_its_packages_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs matplotlib"):
        evaluate("corpse", tmp_path, "test", tmp_path, None, "cpu", tmp_path / "out.html")


def test_two_processes_train_the_weights_of_one_and_one_writes(tmp_path: Path, feature_cache: Path) -> None:
    # Neither the batch size divides the rows nor the number of processes the remainder. Without dropout, because each
    # process draws masks for its own rows; and without class balance and rows of one modality, whose weights and labels
    # make means that are not over all rows (see `DistributedContext.shard`).
    data = manifest(tmp_path, {"train": 46, "val": 21}, lacks=LACKING[:-1])
    settings = {"epochs": 5, "batch_size": 15, "learning_rate": 2e-3, "class_balance": 0.0}
    recipe = tiny_recipe(**settings)
    network = recipe.model.network.model_copy(update={"dropout": 0.0})
    path = tmp_path / "recipe.json"
    path.write_text(
        recipe.model_copy(update={"model": recipe.model.model_copy(update={"network": network})}).model_dump_json(),
        encoding="utf-8",
    )
    assert train_on(data, tmp_path / "one" / "w", path) == 0
    # torchrun chooses a free port, so that runs on one machine do not collide.
    ran = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
            "--no-python", Path(sys.executable).parent / "emmr", "train", "--corpus", "manifest", "--data", data,
            "--out", tmp_path / "two" / "w", "--config", path, "--device", "cpu", "--cache", feature_cache,
        ],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("validation macro-F1") == 1 + recipe.training.epochs  # each epoch, and the result
    assert verify_hashes(tmp_path / "two" / "w")
    runs = [tmp_path / number / RUNS / "w" / "seed-0" for number in ("one", "two")]
    assert len({frozenset(path.name for path in run.iterdir()) for run in runs}) == 1
    one, two = (
        load_checkpoint(tmp_path / number / "w", choose_device("cpu")).network.state_dict() for number in ("one", "two")
    )
    assert max(float((two[name] - value).abs().max()) for name, value in one.items()) < 1e-2
    alone, together = (json.loads((run / "state.json").read_text(encoding="utf-8"))["report"] for run in runs)
    assert alone["best_macro_f1"] > 0.6
    assert together["by_pattern"] == pytest.approx(alone["by_pattern"], abs=0.06)  # one of 21 items
    assert together["history"] == pytest.approx(alone["history"], abs=0.03)


def test_epochs_can_be_set_and_a_run_resumed(tmp_path: Path, recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = manifest(tmp_path, {"train": 9, "val": 3})
    assert train_on(data, tmp_path / "w", recipe, epochs=1) == 0
    output = capsys.readouterr().out
    assert "epoch   1" in output
    assert "epoch   2" not in output
    assert not (tmp_path / "w" / "results.json").exists()  # the corpus has no test part
    version = Pipeline.load(tmp_path / "w", "cpu").checkpoint.version
    assert train_on(data, tmp_path / "w", recipe, epochs=1, resume=True) == 0
    assert "epoch   1" not in capsys.readouterr().out
    assert Pipeline.load(tmp_path / "w", "cpu").checkpoint.version == version
    with pytest.raises(ConfigError, match="another recipe"):
        train_on(data, tmp_path / "w", recipe, epochs=2, resume=True)


def test_weights_are_overwritten_only_on_demand(tmp_path: Path, recipe: Path, tiny_weights: Path) -> None:
    data, out = manifest(tmp_path, {"train": 9, "val": 3}), tmp_path / "w"
    shutil.copytree(tiny_weights, out)
    before = verify_hashes(out)
    for resume in (False, True):  # there is no run to resume either
        with pytest.raises(ConfigError) as caught:
            train_on(data, out, recipe, resume=resume)
        assert "holds weights: --overwrite replaces them" in str(caught.value)
    assert verify_hashes(out) == before
    assert train_on(data, out, recipe, epochs=1, overwrite=True) == 0
    assert verify_hashes(out) != before
    with pytest.raises(ConfigError) as caught:
        train_on(data, data, recipe)
    assert "is a file" in str(caught.value)


def test_training_starts_from_weights_of_a_folder(tmp_path: Path, recipe: Path, tiny_weights: Path) -> None:
    data, out = manifest(tmp_path, {"train": 9, "val": 3}), tmp_path / "tuned"
    origin = tmp_path / "origin"
    shutil.copytree(tiny_weights, origin)
    (origin / "LICENSE").write_text("terms\n", encoding="utf-8")
    assert train_on(data, out, recipe, epochs=1, init=origin) == 0
    tuned, start = (load_checkpoint(folder, choose_device("cpu")) for folder in (out, origin))
    assert tuned.config == start.config.model_copy(update={"name": "tuned"})
    for modality, statistics in start.preprocessing.statistics.items():
        assert (tuned.preprocessing.statistics[modality].mean == statistics.mean).all()
    assert f"Fine-tuned from the weights {start.config.name}, version {start.version}." in tuned.card
    assert (out / "LICENSE").read_text(encoding="utf-8") == "terms\n"
    with pytest.raises(ConfigError) as caught:
        train_on(data, tmp_path / "other", recipe, init=origin, system="mmin")
    assert "--init starts a training of emmr, not of mmin" in str(caught.value)


@pytest.mark.parametrize(("rows", "epochs"), [(50, 60), (160, 20), (742, 8), (10_000, 8)])
def test_the_default_recipe_takes_enough_steps_on_small_sets(tmp_path: Path, rows: int, epochs: int) -> None:
    corpus = ManifestCorpus(manifest(tmp_path, {"train": 3, "val": 3}))
    corpus._splits["train"] = (corpus.examples("train")[0],) * rows
    settings = commands.suited_settings(Recipe.default().training, corpus, tuned=False)
    assert (settings.epochs, settings.select_epoch, settings.teacher) == (epochs, False, True)
    assert settings.expert_steps == (500 if epochs > 8 else 2000)
    clips = sum(
        min(rows, settings.pretraining_clips) for m in MODALITIES_PRETRAINED if m in corpus.examples("train")[0].sources
    )
    assert settings.taught_pretraining_epochs * -(-clips // settings.batch_size) >= commands.SMALL_SET_PRETRAINING_STEPS
    assert not commands.suited_settings(Recipe.default().training, corpus, tuned=True).teacher


def test_a_corpus_without_a_test_part_is_not_evaluated(tmp_path: Path, tiny_weights: Path) -> None:
    data = manifest(tmp_path, {"train": 9, "val": 3})
    with pytest.raises(ConfigError, match="no test examples"):
        evaluate("manifest", data, "test", tiny_weights, None, "cpu")


def test_a_bad_row_is_named_before_training(tmp_path: Path, recipe: Path) -> None:
    data = write_manifest(tmp_path, [{"id": "a", "text": "b", "label": ""}])
    with pytest.raises(CorpusError, match=r"manifest\.csv, line 2: the label is empty"):
        train_on(data, tmp_path / "w", recipe)
    assert not (tmp_path / "w").exists()


def test_the_number_of_classes_follows_the_corpus(tmp_path: Path, recipe: Path) -> None:
    data = manifest(tmp_path, {"train": 8, "val": 4, "test": 4}, labels=("negative", "positive"))
    assert train_on(data, tmp_path / "w", recipe, epochs=1) == 0
    assert Pipeline.load(tmp_path / "w", "cpu").config.classes == ("negative", "positive")


def test_classes_unknown_to_the_weights_are_refused(tmp_path: Path, tiny_weights: Path) -> None:
    rows: list[dict[str, object]] = [
        {"split": split, "text": f"{split} {label}", "label": label}
        for split in ("train", "val", "test")
        for label in ("glad", "sad")
    ]
    with pytest.raises(ConfigError, match="do not know the class 'glad'"):
        evaluate("manifest", write_manifest(tmp_path, rows), "test", tiny_weights, None, "cpu")


@pytest.mark.parametrize(
    ("corpus", "split", "message"), [("manifest", "exam", "unknown split 'exam'"), ("corpse", "test", "unknown corpus")]
)
def test_unknown_splits_and_corpora_are_refused(
    tmp_path: Path, tiny_weights: Path, corpus: str, split: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(corpus, tmp_path, split, tiny_weights, None, "cpu")


def test_missing_weights_are_an_error(tmp_path: Path) -> None:
    data = write_manifest(
        tmp_path,
        [{"split": s, "text": f"{s} {label}", "label": label} for s in ("train", "val") for label in ("a", "b")],
    )
    with pytest.raises(CheckpointError, match="is not a weights folder"):
        evaluate("manifest", data, "val", tmp_path / "nowhere", None, "cpu")


def test_the_default_recipe_is_used_without_a_file(recipe: Path) -> None:
    assert read_recipe(None) == Recipe.default()
    assert read_recipe(recipe) == tiny_recipe()


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"{}", b'{"model": {}, "training": {}}', b"\xff\xfe"])
def test_a_file_without_a_recipe_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "recipe.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"recipe\.json holds no recipe"):
        read_recipe(path)


def test_scores_are_learned_from_precomputed_vectors(tmp_path: Path, recipe: Path) -> None:
    data, out, results = write_mosi(tmp_path), tmp_path / "scores", tmp_path / "r.json"
    assert train_on(data, out, recipe, corpus="mosi-scores", epochs=1) == 0
    config = load_checkpoint(out, choose_device("cpu")).config
    assert (config.task, config.precomputed.audio, config.precomputed.visual) == ("regression", 73, 100)
    assert evaluate("mosi-scores", data, "test", out, results, "cpu") == 0
    scores = json.loads(results.read_text(encoding="utf-8"))["scores"]
    assert scores.keys() == {s.name for s in SUBSETS}
    assert all(0 <= figures["mae"] <= 6 and figures["n"] == 10 for figures in scores.values())
    with pytest.raises(ConfigError, match="the weights do not know the class 'negative'"):
        evaluate("mosi", data, "test", out, None, "cpu")
