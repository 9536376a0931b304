"""Features of a corpus: computed or cached, with statistics and normalised slots."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from model.config import AudioConfig, TextConfig
from model.errors import ConfigError, CorpusError
from model.features.audio.acoustic import acoustic_features
from model.features.audio.conditioning import condition
from model.features.audio.raw_features import extract_voice
from model.features.extractor import FeatureExtractor
from model.features.normalization import reduce_to_slots
from model.features.text.encoder import TextEncoder
from model.modality import Modality
from model.training.augmentation import variant
from model.training.datasets.base import (
    ActionUnitMeansSource,
    Example,
    OpenFaceSource,
    PrecomputedSource,
    SoundSource,
    Source,
    TextSource,
)
from model.training.datasets.composite import CompositeCorpus
from model.training.prepare import RawFeatures, prepare_split, raw_features, slots_of
from model.training.trainer import RunPaths
from model.types import FloatArray
from tests.support.corpus import SAMPLE_RATE, tone, write_openface, write_tone
from tests.support.network import tiny_config

CONFIG = tiny_config()
T, A, V = Modality


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(TextConfig(), torch.device("cpu"))


@pytest.fixture(scope="session")
def corpus(composite_data: Path) -> CompositeCorpus:
    return CompositeCorpus(composite_data)


@pytest.fixture
def raw(corpus: CompositeCorpus, paths: RunPaths) -> RawFeatures:
    return raw_features([*corpus.examples("train"), *corpus.examples("val")], CONFIG, paths.cache, paths.workers)


def sources_of(examples: Sequence[Example]) -> set[Source]:
    return {source for example in examples for source in example.sources.values()}


def test_every_clip_of_a_corpus_has_features(corpus: CompositeCorpus, raw: RawFeatures) -> None:
    used = sources_of([*corpus.examples("train"), *corpus.examples("val")])
    assert set(raw.sounds) == {s for s in used if isinstance(s, SoundSource)}
    assert set(raw.faces) == {s for s in used if isinstance(s, ActionUnitMeansSource)}
    for source, face in raw.faces.items():
        assert isinstance(source, ActionUnitMeansSource)
        np.testing.assert_array_equal(face, np.array([source.values], dtype=np.float32))
    assert {x.shape for x in raw.sounds.values()} == {(13, 33)}  # 0.4 s


def test_statistics_count_each_training_clip_once(corpus: CompositeCorpus, raw: RawFeatures) -> None:
    training = sources_of(corpus.examples("train"))
    frames = np.concatenate([x for s, x in raw.sounds.items() if s in training]).astype(np.float64)
    measured = raw.measure([*corpus.examples("train")] * 2, CONFIG).statistics
    np.testing.assert_allclose(measured[A].mean, frames.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(measured[A].std, np.maximum(frames.std(axis=0), 1e-3), rtol=1e-3)
    faces = np.concatenate([x for s, x in raw.faces.items() if s in training])
    np.testing.assert_allclose(measured[V].mean, faces.mean(axis=0), atol=1e-4)


def test_statistics_count_corpora_equally() -> None:
    rng = np.random.default_rng(0)
    sizes = {"large": 30, "small": 3}
    examples = [
        Example(f"{origin}-{n}", "neutral", {A: SoundSource(Path(f"{origin}-{n}"))}, origins={A: origin})
        for origin, size in sizes.items()
        for n in range(size)
    ]
    sounds: dict[Source, FloatArray] = {
        e.sources[A]: (rng.standard_normal((13, 33)) + 10 * (e.origins[A] == "small")).astype(np.float32)
        for e in examples
    }
    raw = RawFeatures(sounds, {})
    measured = raw.measure(examples, CONFIG).statistics[A]
    np.testing.assert_allclose(measured.mean, 5, atol=0.5)
    np.testing.assert_allclose(measured.std, np.sqrt(26), atol=0.3)


def test_a_modality_without_content_has_unit_statistics(raw: RawFeatures) -> None:
    only_text = [Example("x", "neutral", {T: TextSource("a")})]
    for modality, statistics in raw.measure(only_text, CONFIG).statistics.items():
        assert statistics.mean.shape == (CONFIG.feature_size(modality),)
        assert not statistics.mean.any()
        assert (statistics.std == 1).all()


def test_slots_equal_those_of_the_extractor(
    corpus: CompositeCorpus, raw: RawFeatures, encoder: TextEncoder, paths: RunPaths
) -> None:
    examples = corpus.examples("val")
    preprocessing = raw.measure(corpus.examples("train"), CONFIG)
    extractor = FeatureExtractor(CONFIG, preprocessing, encoder)
    slots = slots_of(examples, raw, extractor, paths.cache, "plain")
    assert sources_of(examples) <= slots.keys()
    example = examples[0]
    text, sound = example.sources[T], example.sources[A]
    assert isinstance(text, TextSource)
    np.testing.assert_allclose(slots[text], extractor.text([text.text])[0].array, atol=1e-5)
    expected = reduce_to_slots(preprocessing.statistics[A].normalise(raw.sounds[sound]), 20, "pool")
    np.testing.assert_array_equal(slots[sound], expected)
    again = prepare_split(corpus, "val", CONFIG, preprocessing, encoder, "plain", paths.cache, paths.workers)
    assert all(np.array_equal(slots[source], array) for source, array in again.items())


def test_computed_features_are_read_from_the_cache(tmp_path: Path) -> None:
    path = write_tone(tmp_path / "a.wav")
    examples = [Example("x", "neutral", {A: SoundSource(path)})]
    first = raw_features(examples, CONFIG, tmp_path / "cache", 1).sounds
    (entry,) = (tmp_path / "cache").rglob("*.feature")
    written = entry.stat().st_mtime_ns
    again = raw_features(examples, CONFIG, tmp_path / "cache", 1).sounds
    assert entry.stat().st_mtime_ns == written
    np.testing.assert_array_equal(first[SoundSource(path)], again[SoundSource(path)])


def test_other_features_have_other_entries(tmp_path: Path) -> None:
    source = SoundSource(write_tone(tmp_path / "a.wav"))
    examples = [Example("x", "neutral", {A: source})]
    dynamic = tiny_config(audio=AudioConfig(dynamics=True))
    sizes = [raw_features(examples, c, tmp_path / "cache", 1).sounds[source].shape[1] for c in (CONFIG, dynamic)]
    assert sizes == [33, 66]


def test_variants_of_each_clip_are_computed_on_request(tmp_path: Path) -> None:
    path = write_tone(tmp_path / "a.wav")
    examples = [Example("x", "neutral", {A: SoundSource(path)})]
    sounds = raw_features(examples, CONFIG, tmp_path / "cache", 1, varied=examples, variants=2).sounds
    assert set(sounds) == {SoundSource(path, k) for k in range(3)}
    waveform, _ = soundfile.read(path, dtype="float32")
    expected = extract_voice(variant(waveform, 2), dynamics=False, silence_dbfs=-60.0).array
    np.testing.assert_allclose(sounds[SoundSource(path, 2)], expected, atol=1e-4)


def test_variants_are_conditioned_like_clips(tmp_path: Path) -> None:
    path = write_tone(tmp_path / "a.wav")
    examples = [Example("x", "neutral", {A: SoundSource(path)})]
    config = tiny_config(audio=AudioConfig(conditioned=True))
    sounds = raw_features(examples, config, tmp_path / "cache", 1, varied=examples, variants=1).sounds
    waveform, _ = soundfile.read(path, dtype="float32")
    for index in range(2):
        expected = acoustic_features(condition(variant(waveform, index)))
        np.testing.assert_allclose(sounds[SoundSource(path, index)], expected, atol=1e-4)


def test_an_openface_file_gives_the_mean_of_its_frames(tmp_path: Path) -> None:
    source = OpenFaceSource(write_openface(tmp_path / "face.csv", "positive", frames=7))
    faces = raw_features([Example("x", "positive", {V: source})], CONFIG, tmp_path / "cache", 1).faces
    cells = np.genfromtxt(tmp_path / "face.csv", delimiter=",", skip_header=1)[:, 5:]
    np.testing.assert_allclose(faces[source], cells.mean(axis=0, keepdims=True), rtol=1e-5)


def test_a_silent_clip_is_missing(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "quiet.wav", np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    source = SoundSource(tmp_path / "quiet.wav")
    sounds = raw_features([Example("x", "neutral", {A: source})], CONFIG, tmp_path / "cache", 1).sounds
    assert source not in sounds


@pytest.mark.parametrize(("name", "modality"), [("torn.flac", A), ("face.csv", V)])
def test_an_error_names_content_that_cannot_be_read(tmp_path: Path, name: str, modality: Modality) -> None:
    path = tmp_path / name
    soundfile.write(tmp_path / "whole.flac", tone(), SAMPLE_RATE)
    path.write_bytes((tmp_path / "whole.flac").read_bytes()[:900])
    source = SoundSource(path) if modality == A else OpenFaceSource(path)
    with pytest.raises(CorpusError, match=name.replace(".", r"\.")):
        raw_features([Example("x", "neutral", {modality: source})], CONFIG, tmp_path / "cache", 1)


def precomputed(audio: int, count: int = 3) -> list[Example]:
    """Examples with audio vectors of so many features, two slots each."""
    rng = np.random.default_rng(0)
    return [
        Example(str(n), "neutral", {A: PrecomputedSource(Path("a"), str(n), A, rng.random((2, audio), np.float32))})
        for n in range(count)
    ]


def test_precomputed_features_are_normalised_like_computed_ones(encoder: TextEncoder, tmp_path: Path) -> None:
    config, examples = tiny_config(precomputed={"audio": 7}), precomputed(7)
    raw = raw_features(examples, config, tmp_path, 1)
    preprocessing = raw.measure(examples, config)
    slots = slots_of(examples, raw, FeatureExtractor(config, preprocessing, encoder), tmp_path, "plain")
    together = np.concatenate([slots[example.sources[A]] for example in examples])
    assert together.shape == (6, 7)
    np.testing.assert_allclose(together.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(together.std(axis=0), 1, atol=1e-4)


def test_precomputed_texts_are_slots_without_normalisation(encoder: TextEncoder, tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((30, 7), np.float32)
    source = PrecomputedSource(Path("words"), "x", T, values)
    config, examples = tiny_config(precomputed={"text": 7}), [Example("x", "neutral", {T: source})]
    raw = raw_features(examples, config, tmp_path, 1)
    slots = slots_of(examples, raw, FeatureExtractor(config, raw.measure(examples, config), encoder), tmp_path, "plain")
    assert config.slots.text == 12
    expected = [values[30 * n // 12 : -(-30 * (n + 1) // 12)].mean(axis=0) for n in range(12)]
    np.testing.assert_allclose(slots[source], expected, rtol=1e-5)
    with pytest.raises(ConfigError) as error:
        raw_features(examples, tiny_config(), tmp_path, 1)
    assert "has 7 precomputed text features, and model.precomputed.text" in str(error.value)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (None, r"has 7 precomputed audio features, and model\.precomputed\.audio of the configuration is not set"),
        (8, "is 8"),
    ],
)
def test_precomputed_features_of_another_size_are_refused(tmp_path: Path, size: int | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        raw_features(precomputed(7), tiny_config(precomputed={"audio": size}), tmp_path, 1)


def test_sounds_are_refused_where_precomputed_features_are_expected(tmp_path: Path) -> None:
    examples = [Example("x", "neutral", {A: SoundSource(write_tone(tmp_path / "a.wav"))})]
    with pytest.raises(ConfigError, match=r"has no precomputed audio features, and .* is 7"):
        raw_features(examples, tiny_config(precomputed={"audio": 7}), tmp_path, 1)
