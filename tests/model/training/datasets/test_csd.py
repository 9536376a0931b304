import json
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from model.errors import ConfigError, CorpusError
from model.modality import MODALITIES
from model.training.datasets.base import SPLITS, PrecomputedSource, TextSource
from model.training.datasets.csd import CsdCorpus
from tests.support.native_corpora import write_csd

T, A, V = MODALITIES
LABELS, WORDS, AUDIO, VISUAL = (
    f"CMU_MOSI_{name}.csd" for name in ("Opinion_Labels", "TimestampedWords", "COVAREP", "Visual_Facet_42")
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_csd(tmp_path / "csd")


def change(path: Path, place: str, value: Any) -> None:
    """Replace a dataset, or delete it where the value is None."""
    with h5py.File(path, "a") as file:
        del file[place]
        if value is not None:
            file[place] = value


def test_words_and_vectors_are_those_within_each_label_interval(folder: Path) -> None:
    (folder / "folds.json").write_text(json.dumps({"train": ["video0"], "valid": ["video1"], "test": ["video2"]}))
    corpus = CsdCorpus(folder)
    first, second = corpus.examples("train")
    assert (first.id, first.label, second.id, second.label) == ("video0[0]", "positive", "video0[1]", "negative")
    assert (first.sources[T], second.sources[T]) == (TextSource("good film"), TextSource("really bad"))
    for example, start, end in ((first, 0.0, 2.0), (second, 2.0, 5.0)):
        audio, visual = example.sources[A], example.sources[V]
        assert isinstance(audio, PrecomputedSource)
        assert isinstance(visual, PrecomputedSource)
        np.testing.assert_allclose(audio.values[:, 0], np.arange(start, end, 0.1), atol=1e-6)
        assert visual.values.shape == (end - start, 3)


def test_videos_of_no_fold_are_left_out(folder: Path) -> None:
    (folder / "folds.json").write_text(json.dumps({"train": ["video0"], "valid": ["video1"], "test": ["video2"]}))
    corpus = CsdCorpus(folder)
    assert [len(corpus.examples(split)) for split in ("train", "val", "test")] == [2, 2, 2]


def test_videos_are_drawn_without_folds(folder: Path) -> None:
    corpus = CsdCorpus(folder)
    assert [len(corpus.examples(split)) for split in ("train", "val", "test")] == [16, 2, 2]
    assert [e.id for e in CsdCorpus(folder).examples("test")] == [e.id for e in corpus.examples("test")]


def test_scores_are_kept_for_regression(folder: Path) -> None:
    corpus = CsdCorpus(folder, regression=True)
    assert {(e.score, e.label) for e in corpus.examples("train")} == {(2.4, "2"), (-1.2, "-1")}


def test_a_video_without_a_modality_lacks_it(folder: Path) -> None:
    change(folder / AUDIO, "COVAREP/data/video3", None)
    corpus = CsdCorpus(folder)
    examples = [e for split in SPLITS for e in corpus.examples(split)]
    assert {e.presence.name for e in examples if e.id.startswith("video3[")} == {"text+visual"}


@pytest.mark.parametrize(
    ("file", "place", "value", "message"),
    [
        (AUDIO, "COVAREP/data/video3/features", np.full((50, 2), np.nan), "video video3, row 0: audio row 0, column 0"),
        (AUDIO, "COVAREP/data/video3/features", np.zeros((3, 2)), r"video video3: features \(3, 2\) and intervals"),
        (AUDIO, "COVAREP/data/video3/features", None, "video video3: no features"),
        (AUDIO, "COVAREP/data/video3/intervals", np.full((50, 2), np.nan), "video video3: row 0 of the intervals is"),
        (AUDIO, "COVAREP/data/video3/features", np.full((50, 2), b"a"), "video video3: the features are no numbers"),
        (LABELS, "Opinion Segment Labels/data/video3/features", [[1.0], [4.0]], "video video3: row 1 holds no score"),
        (
            LABELS,
            "Opinion Segment Labels/data/video3/features",
            [[np.nan], [1.0]],
            "video video3: row 0 holds no score",
        ),
        (VISUAL, "FACET_4.2/data", None, "holds no computational sequence"),
    ],
)
def test_an_error_names_the_file_and_the_video(folder: Path, file: str, place: str, value: Any, message: str) -> None:
    change(folder / file, place, value)
    with pytest.raises(CorpusError, match=rf"{file}: {message}"):
        CsdCorpus(folder)


def test_content_of_another_file_is_refused(folder: Path) -> None:
    place = "COVAREP/data/video3/features"
    (folder / "other").write_bytes(bytes(800))
    with h5py.File(folder / AUDIO, "a") as file:
        del file[place]
        file.create_dataset(place, (50, 2), np.float64, external=[(str(folder / "other"), 0, 800)])
    with pytest.raises(CorpusError, match=r"COVAREP\.csd: video video3: features are stored in another file"):
        CsdCorpus(folder)
    with h5py.File(folder / "linked.h5", "w") as other:
        other["x"] = np.zeros((50, 2))
    change(folder / AUDIO, place, h5py.ExternalLink(str(folder / "linked.h5"), "x"))
    with pytest.raises(CorpusError, match=r"COVAREP\.csd: video video3: features are stored in another file"):
        CsdCorpus(folder)


def test_each_kind_needs_exactly_one_file(folder: Path) -> None:
    (folder / VISUAL).rename(folder / "CMU_MOSI_openSMILE_IS09.csd")
    with pytest.raises(CorpusError, match=r"one \.csd file of audio .*: CMU_MOSI_COVAREP\.csd, CMU_MOSI_openSMILE"):
        CsdCorpus(folder)
    (folder / AUDIO).unlink()
    with pytest.raises(CorpusError, match=r"one \.csd file of visual \(facet or openface\): there is none"):
        CsdCorpus(folder)


def test_a_file_that_is_not_hdf5_is_refused(folder: Path) -> None:
    (folder / WORDS).write_bytes(b"no HDF5")
    with pytest.raises(CorpusError, match=r"TimestampedWords\.csd: cannot be read as HDF5"):
        CsdCorpus(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "needs a list of video ids"),
        ('{"train": [], "valid": []}', "needs a list of video ids for each of train, valid, test"),
        ('{"train": ["video1"], "valid": ["video1"], "test": []}', "video 'video1' is in two parts"),
    ],
)
def test_folds_that_cannot_be_used_are_refused(folder: Path, content: str, message: str) -> None:
    (folder / "folds.json").write_text(content)
    with pytest.raises(CorpusError, match=rf"folds\.json: {message}"):
        CsdCorpus(folder)


def test_an_absent_package_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ConfigError, match="needs h5py: install the train extra"):
        CsdCorpus(folder)
