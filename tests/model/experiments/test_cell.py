import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.config import SYSTEMS
from model.errors import ConfigError
from model.experiments import cell as module
from model.experiments.cell import prepare_corpus, reduced_corpus, run_cell
from model.experiments.grid import Cell
from model.experiments.results import ANSWERS, REPRESENTATION, RESULT, CellResult, load_result
from model.modality import MODALITIES, SUBSETS, Modality, ModalitySet
from model.training.datasets.mosi import MosiCorpus
from model.training.missing_patterns import RATES
from model.training.trainer import RunPaths
from tests.support.native_corpora import write_mosi

TEXT = ModalitySet.of(Modality.TEXT)


@pytest.fixture(scope="module")
def results(cells: Mapping[str, Cell], mosi_data: Path, paths: RunPaths) -> dict[str, CellResult]:
    for cell in cells.values():
        run_cell(cell, mosi_data, paths)
    return {variant: load_result(cell.folder(paths.folder)) for variant, cell in cells.items()}


@pytest.mark.parametrize("variant", ["emmr", "ae", "late-fusion", "only-text"])
def test_a_result_describes_run_machine_and_cost(
    results: Mapping[str, CellResult], cells: Mapping[str, Cell], variant: str
) -> None:
    result, cell = results[variant], cells[variant]
    assert (result.corpus, result.variant, result.seed) == ("mosi", variant, 0)
    assert (result.system, result.config_hash) == (variant if variant in SYSTEMS else "emmr", cell.config_hash)
    assert result.recipe == cell.recipe.model_dump(mode="json")
    assert len(result.commit) in (0, 40)
    assert result.machine.keys() == {"cpu", "cores", "torch", "device"}
    assert result.seconds.keys() == {"prepare", "train", "test"}
    assert (result.seconds["train"] or 0) > 0
    assert result.cost["ms"] > 0
    assert result.cost["operations"] > 0
    assert (result.parameters == 0) == (variant == "late-fusion")
    assert 1 <= result.best_epoch <= result.epochs <= 2
    assert len(result.losses) == (0 if variant == "late-fusion" else result.epochs)
    assert all(np.isfinite(list(losses.values())).all() for losses in result.losses)
    assert result.evaluations.keys() == {"test"}
    assert result.evaluations["test"]["diagrams"] == {}


@pytest.mark.parametrize("variant", ["emmr", "ae", "late-fusion"])
def test_answers_give_the_figures_of_the_evaluation(results: Mapping[str, CellResult], variant: str) -> None:
    answers, evaluation = results[variant].answers(), results[variant].evaluations["test"]
    labels, table, rates = answers["test_labels"], answers["test_answers"], answers["test_rates"]
    assert table.shape == (7, 10, 3)
    assert (answers["test_ids"].tolist()[0], str(table.dtype), rates.shape) == ("v6_0", "float32", (6, 10))
    assert table.sum(axis=-1) == pytest.approx(np.ones((7, 10)), abs=1e-5)
    for row, subset in enumerate(SUBSETS):
        accuracy = (table[row].argmax(axis=-1) == labels).mean()
        assert evaluation["patterns"][subset.name]["accuracy"] == pytest.approx(accuracy)
    for rate, kept in zip(RATES, rates, strict=True):
        accuracy = (table[kept, np.arange(10)].argmax(axis=-1) == labels).mean()
        assert evaluation["rates"][str(rate)]["accuracy"] == pytest.approx(accuracy)


def test_rates_are_drawn_equally_for_every_system(results: Mapping[str, CellResult]) -> None:
    first, second = (results[variant].answers()["test_rates"] for variant in ("emmr", "ae"))
    assert (first == second).all()
    assert (first[0] == 0).all()
    assert set(first[-1].tolist()) <= {0, 1, 2, 3}


def test_a_partial_variant_answers_from_its_modalities_alone(results: Mapping[str, CellResult]) -> None:
    result = results["only-text"]
    answers = result.answers()
    given = ~np.isnan(answers["test_answers"]).any(axis=-1)  # (7, N)
    assert given.tolist() == [[subset == TEXT] * 10 for subset in SUBSETS]
    assert set(answers["test_rates"].ravel().tolist()) == {SUBSETS.index(TEXT)}
    assert result.validation.keys() == {"text"}
    assert result.doubt == {"test": {}}
    assert result.reconstruction == {}


def test_emmr_has_paths_reconstructions_verdict_and_representations(results: Mapping[str, CellResult]) -> None:
    result, other = results["emmr"], results["ae"]
    answers = result.answers()
    both = np.stack([answers["test_transformer"], answers["test_ensemble"]])
    assert (answers["test_answers"][0] == both[:, 0]).all()
    assert (answers["test_answers"] == both).all(axis=-1).any(axis=0).all()  # each answer is that of a path
    assert result.reconstruction is not None
    assert result.reconstruction.keys() == set(MODALITIES)
    assert result.reconstruction["text"]["n"] == 10
    assert result.gate["test"]["n"] == 60
    assert result.doubt["test"]["all"].keys() == {"one_minus_max", "entropy", "verdict"}
    assert "test_transformer" not in other.answers()
    assert (other.reconstruction, other.gate) == (None, {})
    assert other.doubt["test"]["all"].keys() == {"one_minus_max", "entropy"}
    points = result.representation()
    assert points is not None
    assert {name: x.shape for name, x in points.items()} == {"labels": (10,), "0.0": (10, 16), "0.5": (10, 16)}
    assert other.representation() is None


def test_the_same_seed_writes_the_same_answers(
    results: Mapping[str, CellResult], cells: Mapping[str, Cell], mosi_data: Path, paths: RunPaths, tmp_path: Path
) -> None:
    run_cell(cells["ae"], mosi_data, replace(paths, folder=tmp_path))
    written = (cells["ae"].folder(tmp_path) / ANSWERS).read_bytes()
    assert written == (results["ae"].folder / ANSWERS).read_bytes()


def test_an_interrupted_cell_continues_to_the_same_answers(
    results: Mapping[str, CellResult],
    cells: Mapping[str, Cell],
    mosi_data: Path,
    paths: RunPaths,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    again, cell = replace(paths, folder=tmp_path), cells["emmr"]

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "fit_reliability", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_cell(cell, mosi_data, again)
    folder = cell.folder(tmp_path)
    assert {path.name for path in folder.iterdir()} == {"run"}
    run_cell(cell, mosi_data, again)
    assert {path.name for path in folder.iterdir()} == {RESULT, ANSWERS, REPRESENTATION}
    for name in (ANSWERS, REPRESENTATION):
        assert (folder / name).read_bytes() == (results["emmr"].folder / name).read_bytes()
    assert load_result(folder).seconds["train"] is None


def test_a_finished_cell_is_not_run_again(
    results: Mapping[str, CellResult], cells: Mapping[str, Cell], mosi_data: Path, paths: RunPaths
) -> None:
    path = results["ae"].folder / RESULT
    before = path.stat()
    run_cell(cells["ae"], mosi_data / "absent", paths)
    assert path.stat() == before
    assert json.loads(path.read_text(encoding="utf-8"))["variant"] == "ae"


def test_a_corpus_without_a_test_part_is_refused(cells: Mapping[str, Cell], paths: RunPaths, tmp_path: Path) -> None:
    data = write_mosi(tmp_path, test=0)
    with pytest.raises(ConfigError, match="mosi has no test examples") as raised:
        run_cell(cells["ae"], data, replace(paths, folder=tmp_path))
    assert "mosi" in str(raised.value)


def test_features_are_computed_once_for_all_cells(cells: Mapping[str, Cell], mosi_data: Path, paths: RunPaths) -> None:
    first, second = (prepare_corpus(cells[variant], mosi_data, paths) for variant in ("emmr", "ae"))
    assert first[1] is second[1]
    assert sum(path.is_file() for path in (paths.folder / "prepared" / "mosi").iterdir()) == 1  # adapters, no teacher


def test_a_reduced_corpus_has_evenly_spaced_examples(mosi_data: Path) -> None:
    corpus = MosiCorpus(mosi_data)
    reduced = reduced_corpus(corpus, limit=5)
    everything = corpus.examples("train")
    assert [example.id for example in reduced.examples("train")] == [everything[5 * number].id for number in range(5)]
    assert reduced.examples("ood") == ()
    assert (reduced.name, reduced.classes) == (corpus.name, corpus.classes)


def test_a_reduced_corpus_has_the_modalities_kept(mosi_data: Path) -> None:
    reduced = reduced_corpus(MosiCorpus(mosi_data), kept=TEXT)
    assert {example.presence for example in reduced.examples("test")} == {TEXT}
    assert reduced_corpus(reduced, kept=ModalitySet.of(Modality.AUDIO)).examples("test") == ()
