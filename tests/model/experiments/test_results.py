import json
from pathlib import Path

import pytest

from model.errors import ConfigError
from model.experiments.results import RESULT, load_result, load_results
from tests.support.experiments import write_cell


def test_finished_cells_are_loaded_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for corpus, variant, seed in (("mosi", "tate", 1), ("mosi", "tate", 0), ("composite2", "emmr", 0)):
        write_cell(tmp_path, corpus, variant, seed)
    (tmp_path / "cells" / "mosi" / "ae" / "0-abc" / "run").mkdir(parents=True)  # not finished
    found = load_results(tmp_path)
    assert [(r.corpus, r.variant, r.seed) for r in found] == [
        ("composite2", "emmr", 0), ("mosi", "tate", 0), ("mosi", "tate", 1),
    ]  # fmt: skip
    assert found[1].answers()["test_answers"].shape[0] == 7
    assert found[0].representation() is not None
    assert load_results(tmp_path / "absent") == []


@pytest.mark.parametrize("content", ["{", "[]", '{"corpus": "mosi"}'])
def test_a_result_that_cannot_be_read_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / RESULT).write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match="is no result of a cell") as raised:
        load_result(tmp_path)
    assert str(tmp_path / RESULT) in str(raised.value)


def test_the_gate_is_given_where_there_is_one(tmp_path: Path) -> None:
    result = write_cell(tmp_path, "mosi", "emmr", splits=("test", "ood"))
    content = json.loads((result.folder / RESULT).read_text(encoding="utf-8"))
    content["evaluations"]["test"]["gate"] = None
    content["evaluations"]["ood"]["gate"] = {"n": 6}
    (result.folder / RESULT).write_text(json.dumps(content), encoding="utf-8")
    assert load_result(result.folder).gate == {"ood": {"n": 6}}
