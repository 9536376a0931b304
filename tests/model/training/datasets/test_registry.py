from pathlib import Path

import pytest

from model.errors import ConfigError
from model.training.datasets.base import SPLITS
from model.training.datasets.registry import CORPORA, open_corpus
from tests.support.corpus import write_composite2, write_manifest
from tests.support.native_corpora import (
    write_csd,
    write_iemocap,
    write_meld,
    write_mmsa,
    write_mosi,
    write_ravdess,
)


def test_corpora_open_by_name(tmp_path: Path) -> None:
    data = write_composite2(tmp_path, rounds=1)
    for name in ("composite", "composite2", "composite-2", "composite-4", "composite-7", "voices", "faces"):
        assert open_corpus(name, data).name == name
    rows = [
        {"id": f"{split}{label}", "split": split, "text": "t", "label": label}
        for split in ("train", "val")
        for label in "xy"
    ]
    assert open_corpus("manifest", write_manifest(tmp_path, rows)).name == "manifest"


def test_corpora_in_the_layout_of_their_releases_open_by_name(tmp_path: Path) -> None:
    writers = {"mosi": write_mosi, "meld": write_meld, "ravdess": write_ravdess, "iemocap": write_iemocap}
    places = {name: write(tmp_path / name) for name, write in writers.items()}
    write_meld(places["mosi"])
    (places["mosi"] / "mosi" / "glove.txt").write_text("good 0.1 0.2\n", encoding="utf-8")
    places |= {"csd": write_csd(tmp_path / "csd"), "mmsa": write_mmsa(tmp_path / "features.pkl")}
    names = [name for name in CORPORA if name.partition("-")[0] in places]
    assert len(names) == 15
    for name in names:
        corpus = open_corpus(name, places[name.partition("-")[0]])
        assert corpus.name == name
        for split in SPLITS[:3]:
            examples = corpus.examples(split)
            assert examples
            assert {example.label for example in examples} <= set(corpus.classes)


def test_an_unknown_name_says_which_are_known(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"unknown corpus 'iemocap'; known are composite, composite2, composite-2, .*, manifest"
    ):
        open_corpus("iemocap", tmp_path)
