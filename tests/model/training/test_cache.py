"""The disk cache of features: keys, damaged entries, errors and batches."""

import io
import itertools
import multiprocessing
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from model.errors import CorpusError, CorruptModality, EmptyModality
from model.modality import Modality
from model.training.cache import FeatureCache
from model.training.datasets.base import (
    ActionUnitMeansSource,
    ComputedSource,
    OpenFaceSource,
    SoundSource,
    TextSource,
)
from model.types import FloatArray


class Counting:
    """Computes `byte_features` and records the sources."""

    def __init__(self) -> None:
        self.seen: list[ComputedSource] = []

    def __call__(self, sources: Sequence[ComputedSource]) -> list[FloatArray]:
        self.seen += sources
        return byte_features(sources)


def byte_features(sources: Sequence[ComputedSource]) -> list[FloatArray]:
    return [first_bytes(source) for source in sources]


def first_bytes(source: ComputedSource) -> FloatArray:
    """The first bytes of a file, a sentence's length, or the values; `(1, d)`."""
    match source:
        case SoundSource(path, augmentation):
            return np.array([[*path.read_bytes()[:3], augmentation]], dtype=np.float32)
        case OpenFaceSource(path):
            return np.array([[*path.read_bytes()[:3]]], dtype=np.float32)
        case ActionUnitMeansSource(_, values):
            return np.array([values], dtype=np.float32)
        case TextSource(text):
            return np.array([[len(text)]], dtype=np.float32)


def faulty_features(sources: Sequence[SoundSource]) -> list[FloatArray]:
    """Raises for files named `silent` and `corrupt`."""
    (source,) = sources
    if source.path.stem.startswith("silent"):
        raise EmptyModality(Modality.AUDIO, "silent", "no frame above -60 dB")
    if source.path.stem.startswith("corrupt"):
        raise CorruptModality(Modality.AUDIO, "not readable to its end", "byte 7")
    return byte_features(sources)


def files(folder: Path, *contents: bytes) -> list[SoundSource]:
    paths = [folder / f"{number}.wav" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return [SoundSource(path) for path in paths]


def entries(cache: FeatureCache) -> list[Path]:
    return sorted(cache.folder.rglob("*.feature"))


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "cache", "recipe")


@pytest.fixture
def clips(tmp_path: Path) -> list[SoundSource]:
    return files(tmp_path, b"abc", b"xyz")


def test_features_are_computed_once_and_then_read(cache: FeatureCache, clips: list[SoundSource]) -> None:
    compute = Counting()
    first = cache.get_or_compute(clips * 2, compute)
    again = FeatureCache(cache.folder, "recipe").get_or_compute(clips, compute)
    assert compute.seen == clips
    for features in (first, again):
        assert set(features) == set(clips)
        np.testing.assert_array_equal(features[clips[1]], [[120, 121, 122, 0]])
        assert features[clips[1]].dtype == np.float32


def test_a_moved_or_copied_file_keeps_its_features(cache: FeatureCache, clips: list[SoundSource]) -> None:
    compute = Counting()
    cache.get_or_compute(clips, compute)
    moved = clips[0].path.rename(clips[0].path.with_name("moved.wav"))
    cache.get_or_compute([SoundSource(moved)], compute)
    assert compute.seen == clips


@pytest.mark.parametrize("recipe", ["recipe", "another recipe"])
def test_a_changed_file_or_recipe_is_computed_anew(cache: FeatureCache, clips: list[SoundSource], recipe: str) -> None:
    cache.get_or_compute(clips, byte_features)
    clips[0].path.write_bytes(b"new")
    compute = Counting()
    features = FeatureCache(cache.folder, recipe).get_or_compute(clips, compute)
    np.testing.assert_array_equal(features[clips[0]], [[110, 101, 119, 0]])
    assert compute.seen == (clips[:1] if recipe == "recipe" else clips)


def test_variants_and_kinds_of_content_have_separate_entries(cache: FeatureCache, clips: list[SoundSource]) -> None:
    path = clips[0].path
    sources: list[ComputedSource] = [SoundSource(path), SoundSource(path, 1), OpenFaceSource(path), TextSource("abc")]
    features = cache.get_or_compute(sources, byte_features)
    assert len(entries(cache)) == 4
    assert [features[source].tolist() for source in sources] == [
        [[97, 98, 99, 0]],
        [[97, 98, 99, 1]],
        [[97, 98, 99]],
        [[3]],
    ]


def test_action_units_are_keyed_by_their_values(cache: FeatureCache) -> None:
    compute = Counting()
    cache.get_or_compute([ActionUnitMeansSource("a", (1.0, 2.0)), ActionUnitMeansSource("a", (1.0, 3.0))], compute)
    cache.get_or_compute([ActionUnitMeansSource("b", (1.0, 3.0))], compute)
    assert len(compute.seen) == 2


def damage_cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def damage_flip(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def damage_empty(content: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [damage_cut, damage_flip, damage_empty])
def test_a_damaged_entry_is_computed_again(
    cache: FeatureCache, clips: list[SoundSource], damage: Callable[[bytes], bytes]
) -> None:
    expected = cache.get_or_compute(clips[:1], byte_features)[clips[0]]
    (entry,) = entries(cache)
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    compute = Counting()
    np.testing.assert_array_equal(cache.get_or_compute(clips[:1], compute)[clips[0]], expected)
    assert compute.seen == clips[:1]
    assert entry.read_bytes() == whole


def test_an_interrupted_run_keeps_its_results(cache: FeatureCache, tmp_path: Path) -> None:
    clips = files(tmp_path, b"aaa", b"bbb", b"ccc")

    def interrupted(sources: Sequence[SoundSource]) -> list[FloatArray]:
        if clips[2] in sources:
            raise KeyboardInterrupt
        return byte_features(sources)

    with pytest.raises(KeyboardInterrupt):
        cache.get_or_compute(clips, interrupted)
    compute = Counting()
    assert len(cache.get_or_compute(clips, compute)) == 3
    assert compute.seen == clips[2:]


def test_an_entry_is_never_partially_written(
    cache: FeatureCache, clips: list[SoundSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", cut_off)
    with pytest.raises(KeyboardInterrupt):
        cache.get_or_compute(clips, byte_features)
    assert [path for path in cache.folder.rglob("*") if path.is_file()] == []


def test_an_empty_modality_is_stored_with_its_reason(cache: FeatureCache, tmp_path: Path) -> None:
    silent = SoundSource(tmp_path / "silent.wav")
    silent.path.write_bytes(b"...")
    for features in (cache.get_or_compute([silent], faulty_features), cache.get_or_compute([silent], Counting())):
        assert features == {}
    (entry,) = entries(cache)
    assert b'"silent", "detail": "no frame above -60 dB"' in entry.read_bytes()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_the_content_names_the_file(cache: FeatureCache, tmp_path: Path, workers: int) -> None:
    clips = [SoundSource(tmp_path / name) for name in ("fine.wav", "corrupt.wav")]
    for clip in clips:
        clip.path.write_bytes(clip.path.stem.encode())
    before = set(threading.enumerate())
    with pytest.raises(CorpusError) as caught:
        cache.get_or_compute(clips, faulty_features, workers=workers)
    assert caught.value.path == str(tmp_path / "corrupt.wav")
    assert caught.value.detail == "audio: not readable to its end (byte 7)"
    # Nothing is left running, though `caught` refers to the frames of the computation.
    assert multiprocessing.active_children() == []
    for thread in set(threading.enumerate()) - before:
        # The thread of the progress bar has been stopped, but may need a moment to return.
        thread.join(10)
    assert set(threading.enumerate()) <= before


def test_an_error_names_a_file_that_does_not_exist(cache: FeatureCache, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"gone\.wav: cannot be read: No such file"):
        cache.get_or_compute([SoundSource(tmp_path / "gone.wav")], byte_features)


def delete_first(sources: Sequence[SoundSource]) -> list[FloatArray]:
    sources[0].path.unlink()
    return byte_features(sources)


def test_an_error_names_a_file_deleted_before_reading(cache: FeatureCache, clips: list[SoundSource]) -> None:
    with pytest.raises(CorpusError, match=r"0\.wav: cannot be read: No such file"):
        cache.get_or_compute(clips, delete_first)


def test_several_processes_compute_the_same(cache: FeatureCache, tmp_path: Path) -> None:
    contents = [b"%03d" % number for number in range(12)]
    clips = [*files(tmp_path, *contents), SoundSource(tmp_path / "silent.wav")]
    clips[-1].path.write_bytes(b"silent")
    features = cache.get_or_compute(clips, faulty_features, workers=2)
    assert [bytes(features[clip][0, :3].astype(np.uint8).tolist()) for clip in clips[:-1]] == contents
    assert clips[-1] not in features


def test_batches_are_bounded_and_contain_texts_of_similar_length(cache: FeatureCache) -> None:
    sentences = [TextSource("x" * length) for length in (9, 1, 8, 2, 7)]
    batches: list[list[int]] = []

    def compute(batch: Sequence[TextSource]) -> list[FloatArray]:
        batches.append([len(source.text) for source in batch])
        return byte_features(batch)

    features = cache.get_or_compute(sentences, compute, batch_size=2)
    assert batches == [[1, 2], [7, 8], [9]]
    assert [features[sentence].item() for sentence in sentences] == [9, 1, 8, 2, 7]
    cache.get_or_compute(sentences, compute, batch_size=2)
    assert len(batches) == 3, "all were kept"


def test_an_empty_modality_in_a_batch_is_an_error(cache: FeatureCache) -> None:
    def compute(batch: Sequence[TextSource]) -> list[FloatArray]:
        raise EmptyModality(Modality.TEXT, "empty", "not a sentence")

    with pytest.raises(CorpusError, match="text: not a sentence"):
        cache.get_or_compute([TextSource("x"), TextSource("y")], compute, batch_size=2)


def test_progress_is_shown_only_when_computing(cache: FeatureCache, clips: list[SoundSource]) -> None:
    shown = io.StringIO()
    cache = FeatureCache(cache.folder, "recipe", Console(file=shown, force_terminal=True, width=100))
    cache.get_or_compute(clips, byte_features, title="Sound")
    assert "Sound" in shown.getvalue()
    assert "100%" in shown.getvalue()
    shown.truncate(0)
    cache.get_or_compute(clips, byte_features, title="Sound")
    assert "Sound" not in shown.getvalue()


def test_the_work_of_reading_is_linear_in_the_number_of_entries(cache: FeatureCache) -> None:
    sources = [ActionUnitMeansSource("clip", (float(number),)) for number in range(1_000)]
    features = np.zeros((60, 33), dtype=np.float32)
    cache.get_or_compute(sources, lambda batch: [features for _ in batch])

    def calls(count: int) -> int:
        """Functions that are called while that many entries are read."""
        counted = itertools.count()
        sys.setprofile(lambda *_: next(counted))
        try:
            found = cache.get_or_compute(sources[:count], Counting())
        finally:
            sys.setprofile(None)
        assert len(found) == count
        return next(counted)

    assert calls(1_000) < 15 * calls(100)  # quadratic would be a hundred times
