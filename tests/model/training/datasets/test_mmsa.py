from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.errors import CorpusError
from model.modality import MODALITIES
from model.training.datasets.base import PrecomputedSource, TextSource
from model.training.datasets.mmsa import MmsaCorpus
from tests.support.native_corpora import mmsa_content, write_mmsa

T, A, V = MODALITIES


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "unaligned_50.pkl"


def values_of(corpus: MmsaCorpus, number: int = 0) -> list[tuple[int, ...]]:
    sources = corpus.examples("train")[number].sources
    return [source.values.shape for source in sources.values() if isinstance(source, PrecomputedSource)]


@pytest.mark.parametrize("lengths", [True, False])
def test_sequences_end_where_their_padding_begins(path: Path, lengths: bool) -> None:
    corpus = MmsaCorpus(write_mmsa(path, mmsa_content(lengths=lengths)))
    assert values_of(corpus) == [(4, 5), (3, 3)]
    assert [len(corpus.examples(split)) for split in ("train", "val", "test", "ood")] == [5, 5, 5, 0]
    example = corpus.examples("val")[0]
    assert (example.id, example.label) == ("valid0$_$1", "negative")
    assert example.sources[T] == TextSource("it was awful")


def test_padding_before_the_content_is_cut_too(path: Path) -> None:
    content = mmsa_content(lengths=False)
    content["train"]["audio"][0, :2] = 0
    assert values_of(MmsaCorpus(write_mmsa(path, content)))[0] == (2, 5)


def test_classes_are_signs_and_scores_are_kept_for_regression(path: Path) -> None:
    write_mmsa(path)
    assert [e.label for e in MmsaCorpus(path).examples("train")] == [
        "negative", "negative", "neutral", "positive", "positive"
    ]  # fmt: skip
    corpus = MmsaCorpus(path, regression=True)
    assert corpus.name == "mmsa-scores"
    assert [(e.score, e.label) for e in corpus.examples("train")][1] == (-1.4, "-1")


def test_empty_content_is_a_missing_modality(path: Path) -> None:
    content = mmsa_content()
    content["train"]["audio"][0], content["train"]["vision_lengths"][1] = 0, 0
    content["train"]["raw_text"][2] = " "
    examples = MmsaCorpus(write_mmsa(path, content)).examples("train")
    assert [e.presence.name for e in examples[:4]] == [
        "text+visual",
        "text+audio",
        "audio+visual",
        "text+audio+visual",
    ]


def test_minus_infinity_counts_as_zero(path: Path) -> None:
    content = mmsa_content()
    content["train"]["audio"][0, 1, 2] = -np.inf
    source = MmsaCorpus(write_mmsa(path, content)).examples("train")[0].sources[A]
    assert isinstance(source, PrecomputedSource)
    assert source.values[1, 2] == 0


def item(key: str, value: object) -> Any:
    def change(content: dict[str, dict[str, Any]]) -> None:
        content["valid"][key][3] = value

    return change


def whole(key: str, value: object) -> Any:
    def change(content: dict[str, dict[str, Any]]) -> None:
        content["valid"][key] = value

    return change


def without(key: str) -> Any:
    def change(content: dict[str, dict[str, Any]]) -> None:
        del content["valid"][key]

    return change


PLACE = r"valid, item 3 \(valid3\$_\$1\): "


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("audio"), "valid: missing key: audio"),
        (whole("vision", np.zeros((4, 2, 3))), "valid: vision holds no value for each of 5 ids"),
        (whole("vision", np.zeros((5, 3))), "valid: vision is no array of utterances, time steps and features"),
        (whole("audio", np.full((5, 2, 3), "a")), "valid: audio is no array of utterances"),
        (item("regression_labels", np.nan), PLACE + r"regression_labels holds no score in \[-3, 3\]"),
        (item("regression_labels", 3.2), PLACE + "regression_labels holds no score"),
        (item("audio_lengths", 7), PLACE + "audio_lengths holds no length of audio"),
        (item("vision_lengths", -1), PLACE + "vision_lengths holds no length of vision"),
        (item("audio", np.nan), PLACE + "audio row 0, column 0 holds no finite number"),
        (item("id", "valid2$_$1"), r"valid, item 3 \(valid2\$_\$1\): the id is there twice"),
        (item("id", 7), r"valid, item 3 \(7\): id and raw_text must be text"),
    ],
)
def test_an_error_names_the_part_and_the_utterance(path: Path, change: Any, message: str) -> None:
    content = mmsa_content()
    change(content)
    with pytest.raises(CorpusError, match=rf"unaligned_50\.pkl: {message}"):
        MmsaCorpus(write_mmsa(path, content))


@pytest.mark.parametrize("content", [[], {}, {"train": {}, "valid": {}}, {"train": 1, "valid": 2, "test": 3}])
def test_a_pickle_without_parts_is_refused(path: Path, content: object) -> None:
    with pytest.raises(CorpusError, match="holds no dictionary of the parts train, valid, test"):
        MmsaCorpus(write_mmsa(path, content))
