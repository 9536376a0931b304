from pathlib import Path

import numpy as np
import pytest

from model.errors import CorpusError
from model.training.datasets.word_vectors import (
    MIN_COUNT,
    SIZE,
    read_word_vectors,
    sentence_vectors,
    split_words,
    train_word_vectors,
)
from model.types import FloatArray


def cosine(a: FloatArray, b: FloatArray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def sentences() -> list[str]:
    """Sentences of two topics; `cat` and `dog` never occur together."""
    return [
        f"the {noun} {verb} {place}"
        for noun, verb, place in (
            *((animal, verb, "outside") for animal in ("cat", "dog") for verb in ("sleeps", "eats", "runs")),
            *((food, verb, "inside") for food in ("soup", "stew") for verb in ("boils", "cools", "thickens")),
        )
    ]


def test_words_are_split_in_lower_case_without_punctuation() -> None:
    assert split_words("It wasn’t GOOD -- 10 of 10, like Zoë's dog!") == [
        "it",
        "wasn't",
        "good",
        "of",
        "like",
        "zoë's",
        "dog",
    ]


def test_words_of_equal_contexts_have_similar_vectors() -> None:
    vectors = train_word_vectors(sentences())
    assert cosine(vectors["cat"], vectors["dog"]) > 0.9
    assert cosine(vectors["soup"], vectors["stew"]) > 0.9
    assert abs(cosine(vectors["cat"], vectors["soup"])) < 0.3


def test_few_words_have_the_same_size_with_zeros() -> None:
    vectors = train_word_vectors(sentences())
    assert {vector.shape for vector in vectors.values()} == {(SIZE,)}
    assert all(not vector[len(vectors) :].any() for vector in vectors.values())
    assert np.stack(list(vectors.values())).std() == pytest.approx(1, rel=1e-5)


def test_rare_words_have_no_vector() -> None:
    vectors = train_word_vectors([*sentences(), "a unicorn"])
    assert "unicorn" not in vectors
    assert MIN_COUNT == 2
    assert train_word_vectors(["one two", "three"]) == {}


def test_training_is_deterministic() -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in rng.integers(300, size=9)) for _ in range(400)]
    first, second = train_word_vectors(texts), train_word_vectors(texts)
    assert len(first) > SIZE
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[word], second[word]) for word in first)


def test_words_without_a_vector_are_left_out_of_a_sentence() -> None:
    vectors = {"good": np.ones(3, dtype=np.float32), "film": np.zeros(3, dtype=np.float32)}
    assert sentence_vectors("A good, good film", vectors).tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0]]
    assert len(sentence_vectors("Nothing.", vectors)) == 0


@pytest.mark.parametrize("header", ["", "4 3\n"], ids=["GloVe", "word2vec"])
def test_a_file_gives_the_vectors_of_the_vocabulary(tmp_path: Path, header: str) -> None:
    path = tmp_path / "vectors.txt"
    lines = "film 3 0 0\n. . . 9 9 9\nother 5 5 5\ngood 0 0 -1.5\nfilm 7 7 7\n"
    path.write_text(header + lines, encoding="utf-8")
    vectors = read_word_vectors(path, {"film", "good", "absent"})
    assert vectors.keys() == {"film", "good"}
    ratio = vectors["film"][0] / 3
    np.testing.assert_allclose(vectors["good"], [0, 0, -1.5 * ratio], rtol=1e-6)
    assert np.stack(list(vectors.values())).std() == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("film 1 2 3\ngood 1 2\n", "line 2: holds 2 numbers, where the first has 3"),
        ("film 1 2 3\ngood 1 x 3\n", "line 2: holds no numbers: could not convert string to float: 'x'"),
        ("film 1 nan 3\n", "line 1: holds a number that is not finite"),
        ("film\n", "line 1: holds 0 numbers"),
        ("else 1 2 3\n", "holds no vector of a word of the corpus"),
        ("", "holds no vector of a word of the corpus"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_an_error_of_a_file_names_its_line(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "vectors.txt"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(CorpusError) as error:
        read_word_vectors(path, {"film", "good"})
    assert message in str(error.value)
    assert "vectors.txt" in str(error.value)
