from pathlib import Path

import pytest

from model.errors import ConfigError
from model.training.datasets.registry import open_corpus
from tests.support.corpus import write_composite2, write_manifest


def test_corpora_open_by_name(tmp_path: Path) -> None:
    data = write_composite2(tmp_path, rounds=1)
    for name in ("composite", "composite2", "voices", "faces"):
        assert open_corpus(name, data).name == name
    rows = [
        {"id": f"{split}{label}", "split": split, "text": "t", "label": label}
        for split in ("train", "val")
        for label in "xy"
    ]
    assert open_corpus("manifest", write_manifest(tmp_path, rows)).name == "manifest"


def test_an_unknown_name_says_which_are_known(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="unknown corpus 'iemocap'; known are composite, composite2, voices, faces, manifest"
    ):
        open_corpus("iemocap", tmp_path)
