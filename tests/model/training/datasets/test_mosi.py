from pathlib import Path

import numpy as np
import pytest

from model.errors import CorpusError
from model.modality import MODALITIES
from model.training.datasets.base import SPLITS, PrecomputedSource, Split, TextSource
from model.training.datasets.mosi import MosiCorpus
from model.training.datasets.word_vectors import SIZE
from tests.support.corpus import real_data
from tests.support.native_corpora import rewrite, write_meld, write_mosi

T, A, V = MODALITIES


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_mosi(tmp_path)


def videos(corpus: MosiCorpus, split: Split) -> set[str]:
    return {example.id.split("_")[0] for example in corpus.examples(split)}


def test_an_utterance_has_its_sentence_and_the_vectors_of_its_row(data: Path) -> None:
    example = MosiCorpus(data).examples("test")[1]
    assert (example.id, example.label, example.score) == ("v6_1", "negative", None)
    assert example.sources[T] == TextSource("it was a bad film")
    for modality, file in ((A, "audio_is73.npy"), (V, "video_3dcnn100.npy")):
        source = example.sources[modality]
        assert isinstance(source, PrecomputedSource)
        np.testing.assert_array_equal(source.values, np.load(data / "mosi" / file)[31:32])


def test_the_sign_of_the_score_is_the_class(data: Path) -> None:
    labels = [example.label for example in MosiCorpus(data).examples("test")][:5]
    assert labels == ["negative", "negative", "neutral", "positive", "positive"]


def test_validation_videos_are_cut_from_the_training_videos(data: Path) -> None:
    corpus = MosiCorpus(data)
    assert videos(corpus, "test") == {"v6", "v7"}
    assert len(videos(corpus, "val")) == 1
    assert videos(corpus, "train") | videos(corpus, "val") == {f"v{n}" for n in range(6)}
    assert not videos(corpus, "train") & videos(corpus, "val")
    assert videos(MosiCorpus(data), "val") == videos(corpus, "val")


def test_scores_are_kept_for_regression(data: Path) -> None:
    corpus = MosiCorpus(data, regression=True)
    assert corpus.classes == ("-3", "-2", "-1", "0", "1", "2", "3")
    assert [(e.score, e.label) for e in corpus.examples("test")][:5] == [
        (-3, "-3"),
        (-1.4, "-1"),
        (0, "0"),
        (0.6, "1"),
        (2.6, "3"),
    ]


def test_a_vector_of_zeros_is_a_missing_modality(data: Path) -> None:
    vectors = np.load(data / "mosi" / "video_3dcnn100.npy")
    vectors[31] = 0
    np.save(data / "mosi" / "video_3dcnn100.npy", vectors)
    assert MosiCorpus(data).examples("test")[1].presence.name == "text+audio"


@pytest.mark.parametrize(
    ("record", "change", "message"),
    [
        (3, {"label": "3.5"}, r"line 5: the label 3\.5 is outside \[-3, 3\]"),
        (3, {"label": "good"}, "line 5: column label holds no finite number"),
        (3, {"row": "7"}, "line 5: row '7' where the vectors of row 3 follow"),
        (3, {"text": " "}, "line 5: the text is empty"),
        (3, {"id": "v0_0"}, "line 5: id 'v0_0' is there twice"),
        (3, {"bclstm_split": "valid"}, "line 5: unknown bclstm_split 'valid'"),
        (3, {"bclstm_split": "test"}, "line 5: video 'v0' is in test here, in train before"),
    ],
)
def test_an_error_of_a_row_names_its_line(data: Path, record: int, change: dict[str, object], message: str) -> None:
    rewrite(data / "mosi" / "utterances.csv", {record: change})
    with pytest.raises(CorpusError, match=rf"utterances\.csv, {message}"):
        MosiCorpus(data)


def test_vectors_of_another_number_of_utterances_are_refused(data: Path) -> None:
    np.save(data / "mosi" / "audio_is73.npy", np.zeros((39, 73), dtype=np.float32))
    with pytest.raises(CorpusError, match=r"audio_is73\.npy: holds 39 vectors for 40 utterances"):
        MosiCorpus(data)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_a_value_that_is_not_finite_names_its_row(data: Path, value: float) -> None:
    vectors = np.load(data / "mosi" / "audio_is73.npy")
    vectors[4, 7] = value
    np.save(data / "mosi" / "audio_is73.npy", vectors)
    with pytest.raises(CorpusError, match=r"audio_is73\.npy: row 4 \(v0_4\): audio row 0, column 7 holds no finite"):
        MosiCorpus(data)


@pytest.mark.parametrize("content", [b"", b"not an array", b"\x80\x04."])
def test_a_file_that_is_no_array_is_refused(data: Path, content: bytes) -> None:
    (data / "mosi" / "audio_is73.npy").write_bytes(content)
    with pytest.raises(CorpusError, match=r"audio_is73\.npy: holds no NumPy array"):
        MosiCorpus(data)


def test_arrays_of_objects_and_other_shapes_are_refused(data: Path) -> None:
    path = data / "mosi" / "audio_is73.npy"
    np.save(path, np.array([{}] * 40, dtype=object), allow_pickle=True)
    with pytest.raises(CorpusError, match="holds no NumPy array: Object arrays"):
        MosiCorpus(data)
    np.save(path, np.zeros((40, 2, 3)))
    with pytest.raises(CorpusError, match="no two-dimensional array of numbers"):
        MosiCorpus(data)


def test_a_missing_file_is_named(data: Path) -> None:
    (data / "mosi" / "audio_is73.npy").unlink()
    with pytest.raises(CorpusError, match=r"audio_is73\.npy: cannot be read: No such file"):
        MosiCorpus(data)


def test_static_vectors_replace_the_sentences_word_by_word(data: Path) -> None:
    corpus, plain = MosiCorpus(write_meld(data), words="static"), MosiCorpus(data)
    assert corpus.name == "mosi-static"
    for split in SPLITS[:3]:
        for example, other in zip(corpus.examples(split), plain.examples(split), strict=True):
            text = example.sources[T]
            assert isinstance(text, PrecomputedSource)
            assert text.values.shape == (5, SIZE)  # "it was a … film"
            assert (example.id, example.label) == (other.id, other.label)
            assert all(example.sources[modality] == other.sources[modality] for modality in (A, V))
    first, *others = (e.sources[T] for e in corpus.examples("test"))
    assert isinstance(first, PrecomputedSource)
    for source in others:
        assert isinstance(source, PrecomputedSource)
        np.testing.assert_array_equal(source.values[[0, 1, 2, 4]], first.values[[0, 1, 2, 4]])
    assert MosiCorpus(data, words="static").examples("val") == corpus.examples("val")


def test_static_vectors_are_trained_without_test_videos(data: Path) -> None:
    path = data / "mosi" / "utterances.csv"
    content = path.read_text(encoding="utf-8")
    before, after = content.split("\n30,", 1)  # the first row of the test videos
    path.write_text(f"{before}\n30,{after.replace('film', 'picture')}", encoding="utf-8")
    corpus = MosiCorpus(write_meld(data), words="static")
    lengths = {
        split: {len(s.values) for e in corpus.examples(split) if isinstance(s := e.sources[T], PrecomputedSource)}
        for split in SPLITS[:3]
    }
    assert lengths == {"train": {5}, "val": {5}, "test": {4}}


def test_vectors_of_a_file_are_used_for_the_words_it_has(data: Path) -> None:
    (data / "mosi" / "glove.txt").write_text("film 1 2 3\nbad 4 5 6\n", encoding="utf-8")
    example = MosiCorpus(data, words="glove").examples("test")[1]
    source = example.sources[T]
    assert isinstance(source, PrecomputedSource)
    np.testing.assert_allclose(
        source.values / source.values[0, 0], [[1, 5 / 4, 6 / 4], [1 / 4, 2 / 4, 3 / 4]], rtol=1e-6
    )
    (data / "mosi" / "glove.txt").write_text("awful 1 2 3\n", encoding="utf-8")
    presences = [e.presence.name for e in MosiCorpus(data, words="glove").examples("test")][:2]
    assert presences == ["text+audio+visual", "audio+visual"]


def test_the_real_corpus_has_the_published_sizes() -> None:
    corpus = MosiCorpus(real_data())
    assert len(corpus.examples("train")) + len(corpus.examples("val")) == 1447
    assert len(corpus.examples("test")) == 752
    assert {e.presence.name for e in corpus.examples("train")} == {"text+audio+visual"}
    sources = corpus.examples("val")[0].sources.values()
    assert [s.values.shape for s in sources if isinstance(s, PrecomputedSource)] == [(1, 73), (1, 100)]
