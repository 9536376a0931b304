"""Static word vectors: trained on sentences (PPMI and truncated SVD), or read from a file of GloVe or word2vec.

Levy, Goldberg & Dagan, TACL 3:211–225, 2015: PPMI, its smoothing, and the square root of the singular values.
"""
# Shapes: n words, d features.

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from model.errors import CorpusError
from model.types import FloatArray

WordVectors = Mapping[str, FloatArray]
"""Word in lower case → `(d,)`. Over all words and features the standard deviation is 1."""

SIZE: Final = 100  # d of trained vectors
WINDOW: Final = 8  # words on either side that count as context; of 2, 4 and 8 the best on CMU-MOSI's validation part
MIN_COUNT: Final = 2  # rarer words get no vector
CONTEXT_POWER: Final = 0.75  # smooths the context distribution (Levy et al. 2015)

_WORD: Final = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")


def split_words(text: str) -> list[str]:
    """The words of a sentence in lower case, without punctuation and numbers."""
    return _WORD.findall(text.replace("’", "'").lower())


def sentence_vectors(text: str, vectors: WordVectors) -> FloatArray:
    """The vectors of a sentence's words in order, `(T, d)`; words without one are left out, and T may be 0."""
    found = [vectors[word] for word in split_words(text) if word in vectors]
    return np.stack(found) if found else np.zeros((0, SIZE), dtype=np.float32)


def train_word_vectors(sentences: Iterable[str]) -> WordVectors:
    """Train on sentences; the same ones give the same vectors.

    The matrix of positive pointwise mutual information `max(0, log p(w, c) / (p(w) p(c)))` of words and contexts is
    reduced to `SIZE` dimensions: `U S^½` of its truncated SVD. Where there are fewer words, the last features are 0.
    """
    from sklearn.utils.extmath import randomized_svd  # of the `train` extra, which evaluation does not need

    texts = [split_words(text) for text in sentences]
    frequent = {word for word, count in Counter(word for text in texts for word in text).items() if count >= MIN_COUNT}
    words = sorted(frequent)
    if not words:
        return {}
    index = {word: number for number, word in enumerate(words)}
    kept = [[index[word] for word in text if word in index] for text in texts]
    ids = np.array([word for text in kept for word in text])
    sentence = np.repeat(np.arange(len(kept)), [len(text) for text in kept])
    pairs = [np.zeros((2, 0), dtype=np.int64)]
    for distance in range(1, WINDOW + 1):
        near = sentence[distance:] == sentence[:-distance]
        pairs.append(np.stack([ids[:-distance][near], ids[distance:][near]]))
    first, second = np.concatenate([*pairs, *(pair[::-1] for pair in pairs)], axis=1)
    counts = csr_array((np.ones(len(first)), (first, second)), shape=(len(words),) * 2).tocoo()  # sums equal pairs
    rows, columns = counts.coords
    row_sums = np.bincount(rows, counts.data, len(words))
    contexts = row_sums**CONTEXT_POWER / (row_sums**CONTEXT_POWER).sum()
    information = np.log(counts.data / (row_sums[rows] * contexts[columns]))
    ppmi = csr_array((np.maximum(information, 0), (rows, columns)), shape=counts.shape)
    u, s, _ = randomized_svd(ppmi, min(SIZE, len(words)), random_state=0)
    vectors = np.zeros((len(words), SIZE))
    vectors[:, : len(s)] = u * np.sqrt(s)
    return _scaled(words, vectors)


def read_word_vectors(path: Path, vocabulary: Collection[str]) -> WordVectors:
    """Read the vectors of some words from a text file: on each line a word and its numbers, separated by spaces.

    A first line of two numbers, as word2vec writes it, is skipped. Of several entries of a word the first counts.

    Raises:
        CorpusError: the file cannot be read, has a line of fewer numbers than the first, one that holds no finite
            numbers, or no word of the vocabulary; names the line.
    """
    found: dict[str, FloatArray] = {}
    size = 0
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, start=1):
                fields = line.rstrip().split(" ")
                if number == 1 and len(fields) == 2:
                    continue
                size = size or len(fields) - 1
                if not 0 < size < len(fields):
                    raise CorpusError(path, number, f"holds {len(fields) - 1} numbers, where the first has {size}")
                word = " ".join(fields[:-size])  # some words of GloVe contain a space
                if word in vocabulary and word not in found:
                    found[word] = _numbers(fields[-size:], path, number)
    except OSError as error:
        raise CorpusError(path, None, f"cannot be read: {error.strerror or error}") from error
    if not found:
        raise CorpusError(path, None, "holds no vector of a word of the corpus")
    return _scaled(list(found), np.stack(list(found.values())))


def _numbers(fields: list[str], path: Path, line: int) -> FloatArray:
    try:
        numbers = np.array(fields, dtype=np.float32)
    except ValueError as error:
        raise CorpusError(path, line, f"holds no numbers: {error}") from error
    if not np.isfinite(numbers).all():
        raise CorpusError(path, line, "holds a number that is not finite")
    return numbers


def _scaled(words: list[str], vectors: npt.NDArray[np.floating]) -> WordVectors:
    scaled = (vectors / (vectors.std() or 1.0)).astype(np.float32)
    return dict(zip(words, scaled, strict=True))
