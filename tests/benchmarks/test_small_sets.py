"""The benchmark of small sets, on generated corpora at tiny sizes."""

import json
from pathlib import Path

import pytest

from benchmarks.small_sets import (
    CASES,
    EPOCHS,
    TABLES,
    examples_of,
    main,
    open_case,
    write_manifest,
)
from model.training.datasets.manifest import ManifestCorpus
from tests.support.corpus import write_composite2
from tests.support.training import tiny_recipe


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_composite2(tmp_path_factory.mktemp("data"), rounds=1)


@pytest.mark.parametrize(
    ("case", "size", "train"), [("voice", 0, 20), ("voice", 10, 8), ("face", 20, 16), ("composite2", 10, 8)]
)
def test_a_case_becomes_a_manifest_of_its_modalities(
    data: Path, tmp_path: Path, case: str, size: int, train: int
) -> None:
    parts = examples_of(case, open_case(case, data), size, seed=0)
    corpus = ManifestCorpus(write_manifest(tmp_path, parts))
    assert len(corpus.examples("train")) == train
    for part in parts:
        assert [e.label for e in corpus.examples(part)] == [e.label for e in parts[part]]
        assert all(e.sources.keys() == CASES[case].present for e in corpus.examples(part))


def test_every_section_writes_its_table(
    data: Path, tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = "".join(f"<!-- small-sets: {name} -->\nold\n<!-- /small-sets -->\nkept\n" for name in TABLES)
    document, out, recipe = tmp_path / "page.md", tmp_path / "out.json", tmp_path / "recipe.json"
    document.write_text(page, encoding="utf-8")
    recipe.write_text(tiny_recipe(epochs=1, teacher=True).model_dump_json(), encoding="utf-8")
    for name, value in {
        "OWN": "nemo",
        "CHOICE": ("nemo",),
        "CLIPS": 20,
        "DEFAULT_WEIGHTS": tiny_weights,
        "DOCUMENT": document,
    }.items():
        monkeypatch.setattr(f"benchmarks.small_sets.{name}", value)
    monkeypatch.setattr("benchmarks.own_clips.CLIPS", 20)
    monkeypatch.setattr("model.baselines.references.TREES", 5)
    options = ["--data", str(data), "--cases", "face", "--sizes", "0", "--config", str(recipe), "--json", str(out)]
    main([*options, "--cache", str(tmp_path / "cache"), "--seeds", "0", "--record"])
    figures = json.loads(out.read_text(encoding="utf-8"))
    assert figures["lists"].keys() == {"face, all"}
    assert figures["epochs"]["0"]["macro_f1"].keys() == {*EPOCHS, "late-fusion", "classical"}
    assert figures["shares"]["nemo"]["0"]["macro_f1"].keys() == {"0.0", "0.25", "0.5", "0.75", "1.0"}
    assert len(figures["own"]["0"]["predicted"]["shipped"]) == len(figures["own"]["0"]["labels"]) > 0
    written = document.read_text(encoding="utf-8")
    assert "old" not in written
    assert written.count("kept") == len(TABLES)
    assert "| faces of photographs | " in written
    main([*options, "--sections", "--record"])  # the figures of an earlier run
    assert document.read_text(encoding="utf-8") == written
