"""The benchmark of small sets, on generated corpora at tiny sizes."""

import json
from pathlib import Path

import pytest

from benchmarks.small_sets import CASES, examples_of, main, open_case, write_manifest
from model.training.datasets.manifest import ManifestCorpus
from tests.support.corpus import write_composite2
from tests.support.training import tiny_recipe


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_composite2(tmp_path_factory.mktemp("data"), rounds=1)


@pytest.mark.parametrize(("case", "size", "train"), [("voice", 0, 20), ("voice", 10, 8), ("face", 20, 16)])
def test_a_case_becomes_a_manifest_of_one_modality(
    data: Path, tmp_path: Path, case: str, size: int, train: int
) -> None:
    parts = examples_of(case, open_case(case, data), size, seed=0)
    corpus = ManifestCorpus(write_manifest(tmp_path, parts))
    assert len(corpus.examples("train")) == train
    for part in parts:
        assert [e.label for e in corpus.examples(part)] == [e.label for e in parts[part]]
        assert all(e.sources.keys() == {CASES[case]} for e in corpus.examples(part))


def test_the_figures_of_all_systems_are_reported(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.baselines.references.TREES", 5)
    recipe, out = tmp_path / "recipe.json", tmp_path / "out.json"
    recipe.write_text(tiny_recipe(epochs=1).model_dump_json(), encoding="utf-8")
    options = ["--data", str(data), "--cases", "face", "--sizes", "0", "--config", str(recipe)]
    main([*options, "--cache", str(tmp_path / "cache"), "--json", str(out)])
    report = json.loads(out.read_text(encoding="utf-8"))
    assert len(report["medians"]) == 6
    assert all(0 <= figure <= 1 for figure in report["medians"].values())
    assert isinstance(report["facts"]["face, all: not below the best reference on validation"], bool)
