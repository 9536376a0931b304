from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from model.errors import ConfigError, CorpusError
from model.modality import COMPLETE, Modality
from model.training.datasets.base import ActionUnitMeansSource, Example, SoundSource, Split, TextSource
from model.training.datasets.composite2 import Composite2Corpus
from model.training.datasets.faces import FacesCorpus
from model.training.datasets.signals import SPLITS
from model.training.datasets.voices import VoicesCorpus
from tests.support.corpus import PAIRINGS, real_data, spoil, write_composite2

T, A, V = Modality


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_composite2(tmp_path_factory.mktemp("data"), rounds=20)


@pytest.fixture(scope="module")
def corpus(data: Path) -> Composite2Corpus:
    return Composite2Corpus(data)


def drawn(corpus: Composite2Corpus, epochs: int) -> list[Example]:
    return [e for n in range(epochs) for e in corpus.redraw(np.random.default_rng(n))]


def origins(examples: Iterable[Example], modality: Modality) -> set[str]:
    return {e.origins[modality] for e in examples}


def shares(examples: Iterable[Example], modality: Modality, polarity: str) -> dict[str, float]:
    counts = Counter(e.origins[modality] for e in examples if e.modality_labels[modality] == polarity)
    return {origin: count / counts.total() for origin, count in counts.items()}


def test_every_row_of_a_part_becomes_a_complete_example_in_file_order(corpus: Composite2Corpus) -> None:
    for split in SPLITS:
        examples = corpus.examples(split)
        assert [e.id for e in examples] == [f"{split}2-{n:05d}" for n in range(280)]
        assert {e.presence for e in examples} == {COMPLETE}
    first = corpus.examples("train")[0]
    assert first.sources[T] == TextSource("number 0 was awful for train")
    assert (first.label, first.decided_by) == ("negative", "congruent")
    assert set(first.modality_labels.values()) == {"negative"}


def test_each_modality_has_its_origin_and_its_emotion(corpus: Composite2Corpus) -> None:
    examples = corpus.examples("train")
    assert origins(examples, T) == {"meld", "mosi"}
    assert origins(examples, A) == {"ravdess", "nemo", "emotiontts_kr"}
    assert origins(examples, V) == {"ravdess", "stills"}
    for example in examples:
        assert {A, V} <= example.emotions.keys()
        assert (T in example.emotions) == (example.origins[T] == "meld")


def test_the_last_part_has_voices_of_corpora_that_no_other_part_has(corpus: Composite2Corpus) -> None:
    assert origins(corpus.examples("ood"), A) == {"emovo"}
    assert [e.sources[T] for e in corpus.examples("ood")] == [e.sources[T] for e in corpus.examples("test")]


def test_no_voice_and_no_face_is_in_two_parts_even_when_redrawn(corpus: Composite2Corpus) -> None:
    train = [*corpus.examples("train"), *drawn(corpus, 5), *corpus.unimodal("train")]
    used = {m: {e.sources[m] for e in train if m in e.sources} for m in (A, V)}
    parts: tuple[Split, ...] = ("val", "test", "ood")
    for part in parts:
        for example in (*corpus.examples(part), *corpus.unimodal(part)):
            assert all(example.sources[m] not in used[m] for m in (A, V) if m in example.sources)


def test_content_of_a_single_modality_is_all_that_its_part_has(corpus: Composite2Corpus, data: Path) -> None:
    voices, faces = VoicesCorpus(data), FacesCorpus(data)
    for split in SPLITS:
        assert corpus.unimodal(split) == (*voices.examples(split), *faces.examples(split))
        ids = [e.id for e in (*corpus.unimodal(split), *corpus.examples(split))]
        assert len(set(ids)) == len(ids)
    assert corpus.unclassed() == (*voices.unclassed(), *faces.unclassed())
    assert Counter(next(iter(other.origins.items())) for other in corpus.unclassed()) == {
        (A, "ravdess"): 4,
        (A, "nemo"): 4,
        (V, "ravdess"): 4,
        (V, "stills"): 3,
    }


def test_redrawing_is_repeatable_keeps_sentences_and_differs_between_epochs(corpus: Composite2Corpus) -> None:
    first, fixed = corpus.redraw(np.random.default_rng(1)), corpus.examples("train")
    assert corpus.redraw(np.random.default_rng(1)) == first
    assert corpus.redraw(np.random.default_rng(2)) != first
    assert [e.id for e in first] == [e.id for e in fixed]
    assert [e.sources[T] for e in first] == [e.sources[T] for e in fixed]
    assert [(e.emotions.get(T), e.origins[T]) for e in first] == [(e.emotions.get(T), e.origins[T]) for e in fixed]


def test_redrawn_pairs_obey_the_rule_of_the_file(corpus: Composite2Corpus, data: Path) -> None:
    polarity = {e.sources[A]: e.label for e in VoicesCorpus(data).examples("train")}
    polarity |= {e.sources[V]: e.label for e in FacesCorpus(data).examples("train")}
    carriers = {"congruent": {T, A, V}, "text": {T}, "voice+face": {A, V}, "voice": {A}, "face": {V}}
    for example in drawn(corpus, 3):
        assert (example.modality_labels[T], example.decided_by, example.label) in set(PAIRINGS)
        for modality in (A, V):
            assert polarity[example.sources[modality]] == example.modality_labels[modality]
        expected = {m: example.label if m in carriers[str(example.decided_by)] else "neutral" for m in Modality}
        assert example.modality_labels == expected


def test_redrawn_pairs_have_the_frequencies_of_the_file(corpus: Composite2Corpus) -> None:
    counts = Counter(e.decided_by for e in drawn(corpus, 20) if e.modality_labels[T] == "neutral")
    # 8 of the 14 pairings have a neutral text: two congruent and two of each other kind.
    assert counts.total() == 20 * 20 * 8
    for kind in ("congruent", "voice+face", "voice", "face"):
        assert counts[kind] / counts.total() == pytest.approx(0.25, abs=0.04)


@pytest.mark.parametrize("polarity", ["negative", "neutral", "positive"])
def test_corpora_are_drawn_equally_often_however_large(corpus: Composite2Corpus, polarity: str) -> None:
    examples = drawn(corpus, 20)
    third, half = (pytest.approx(share, abs=0.05) for share in (1 / 3, 1 / 2))
    assert shares(examples, A, polarity) == {"ravdess": third, "nemo": third, "emotiontts_kr": third}
    assert shares(examples, V, polarity) == {"ravdess": half, "stills": half}


def test_clips_are_drawn_uniformly_within_a_corpus(corpus: Composite2Corpus) -> None:
    counts = Counter(
        e.sources[A] for e in drawn(corpus, 40) if (e.origins[A], e.modality_labels[A]) == ("nemo", "neutral")
    )
    assert len(counts) == 4  # two speakers, two clips each
    for count in counts.values():
        assert count / counts.total() == pytest.approx(0.25, abs=0.06)


def test_voice_and_face_are_drawn_independently(corpus: Composite2Corpus) -> None:
    examples = [e for e in drawn(corpus, 20) if e.label == "positive" and e.decided_by == "congruent"]
    for origin in ("ravdess", "nemo", "emotiontts_kr"):
        faces = shares([e for e in examples if e.origins[A] == origin], V, "positive")
        assert faces == {"ravdess": pytest.approx(0.5, abs=0.1), "stills": pytest.approx(0.5, abs=0.1)}


def test_recordings_can_be_kept_out_of_a_drawing(corpus: Composite2Corpus) -> None:
    sentences = corpus.examples("val")
    rng = np.random.default_rng(0)
    examples = corpus.draw(sentences, lambda recording: recording.signal.origin != "nemo", "train", rng)
    assert [e.sources[T] for e in examples] == [e.sources[T] for e in sentences]
    assert origins(examples, A) == {"ravdess", "emotiontts_kr"}
    assert origins(examples, V) == {"ravdess", "stills"}


def test_a_polarity_without_recordings_cannot_be_drawn(corpus: Composite2Corpus) -> None:
    with pytest.raises(ConfigError, match="in the train split to draw from"):
        corpus.draw(
            corpus.examples("train"), lambda r: r.signal.polarity == "neutral", "train", np.random.default_rng(0)
        )


@pytest.mark.parametrize(
    ("file", "old", "new", "line", "detail"),
    [
        ("composite2/train.csv", "train2-00001", "train2-00000", 3, "id 'train2-00000' is there twice"),
        ("composite2/ood.csv", "ood2-00001", "train2-00000", 3, "id 'train2-00000' is there twice"),
        ("composite2/test.csv", "number 0 was awful for test", " ", 2, "the sentence is empty"),
        ("composite2/test.csv", ",negative,congruent", ",sad,congruent", 2, "unknown label 'sad'"),
        ("composite2/test.csv", ",congruent,", ",luck,", 2, "unknown decided_by 'luck'"),
        ("composite2/test.csv", ",congruent,", ",native,", 2, "unknown decided_by 'native'"),
        ("composite2/test.csv", "decided_by", "decider", 1, "missing column: decided_by"),
        ("composite2/test.csv", ",negative,congruent", ",positive,congruent", 2, "text is negative, but"),
        ("composite2/test.csv", ",negative,congruent", ",negative,text", 2, "audio is negative, but"),
        ("composite2/test.csv", ",meld-dev-", ",meld-film-", 2, "is in neither MELD nor"),
        ("composite2/test.csv", "test2-00000", '"test2-00000', 2, "not readable as CSV"),
        ("voices/index.csv", ",angry,negative,", ",angry,bad,", 2, "unknown polarity 'bad'"),
        ("faces/stills.csv", ",ExpW,", ",,", 2, "the source is empty"),
        ("ravdess/au_mean.csv", ",0.", ",nan0.", 2, "column AU01_r holds no finite number"),
        ("meld/train_sent_emo.csv", ",negative,", ",grumpy,", 2, "unknown sentiment 'grumpy'"),
    ],
)
def test_a_fault_in_a_file_is_named_by_file_and_line(
    data: Path, tmp_path: Path, file: str, old: str, new: str, line: int, detail: str
) -> None:
    folder = spoil(data, tmp_path, file, old, new)
    with pytest.raises(CorpusError) as caught:
        Composite2Corpus(folder)
    assert (caught.value.path, caught.value.row) == (str(folder / file), line)
    assert detail in caught.value.detail


@pytest.mark.parametrize(
    ("part", "column", "content", "detail"),
    [
        ("train", "voice", "voices/nemo/none.flac", "voice 'voices/nemo/none.flac' is in no corpus"),
        ("train", "voice", "stills/expw/train_angry_0.jpg", "is in no corpus"),
        ("train", "face", "voices/nemo/AA_angry_1.flac", "is in no corpus"),
        ("train", "voice", "voices/nemo/CC_angry_1.flac", "is of the val split, where train is needed"),
        ("train", "voice", "voices/emovo/f1_angry_1.flac", "is of the ood split, where train is needed"),
        ("train", "face", "stills/raf-db/test_fear_0.jpg", "is of the test split, where train is needed"),
        ("val", "face", "ravdess/03-01-05-01-01-01-01", "is of the train split, where val is needed"),
        ("ood", "voice", "voices/nemo/DD_angry_1.flac", "is of the test split, where ood is needed"),
        ("ood", "face", "stills/expw/train_angry_0.jpg", "is of the train split, where test is needed"),
        ("train", "voice", "voices/nemo/AA_surprise_1.flac", "the audio shows an emotion without polarity"),
        ("train", "face", "stills/raf-db/train_surprise_1.jpg", "the visual shows an emotion without polarity"),
        ("train", "voice", "voices/nemo/AA_happy_1.flac", "audio is positive, but a negative row decided by congruent"),
        ("train", "face", "stills/raf-db/train_happy_1.jpg", "visual is positive, but a negative row decided by"),
    ],
)
def test_a_voice_or_face_that_does_not_fit_its_row_is_named(
    data: Path, tmp_path: Path, part: str, column: str, content: str, detail: str
) -> None:
    first = (data / "composite2" / f"{part}.csv").read_text(encoding="utf-8").splitlines()[1]
    cells = first.split(",")
    cells[2 if column == "voice" else 3] = content
    file = f"composite2/{part}.csv"
    folder = spoil(data, tmp_path, file, first, ",".join(cells))
    with pytest.raises(CorpusError) as caught:
        Composite2Corpus(folder)
    assert (caught.value.path, caught.value.row) == (str(folder / file), 2)
    assert detail in caught.value.detail


@pytest.mark.parametrize("file", ["composite2/ood.csv", "voices/index.csv", "faces/stills.csv", "mosi/utterances.csv"])
def test_a_missing_file_is_named(data: Path, tmp_path: Path, file: str) -> None:
    folder = spoil(data, tmp_path, file, ",", ",")
    (folder / file).unlink()
    with pytest.raises(CorpusError, match="cannot be read: No such file") as caught:
        Composite2Corpus(folder)
    assert caught.value.path == str(folder / file)


@pytest.fixture(scope="module")
def real() -> Composite2Corpus:
    folder = real_data()
    if not (folder / "composite2" / "train.csv").is_file():
        pytest.skip("no composite2/train.csv in the folder of real corpora")
    return Composite2Corpus(folder)


def test_the_real_corpus_has_its_published_counts(real: Composite2Corpus) -> None:
    assert [len(real.examples(split)) for split in SPLITS] == [11_273, 798, 1_226, 1_226]
    assert [len(real.unimodal(split)) for split in SPLITS] == [13_637, 1_104, 1_300, 868]
    assert len(real.unclassed()) == 1_177
    kinds = Counter(example.decided_by for example in real.examples("ood"))
    assert kinds == {"congruent": 769, "text": 291, "voice+face": 68, "face": 55, "voice": 43}


def test_unseen_corpora_and_other_parts_stay_out_of_training_in_the_real_corpus(real: Composite2Corpus) -> None:
    train = [*real.redraw(np.random.default_rng(0)), *real.examples("train"), *real.unimodal("train")]
    sounds = {s.path for e in train if isinstance(s := e.sources.get(A), SoundSource)}
    faces = {s.clip for e in train if isinstance(s := e.sources.get(V), ActionUnitMeansSource)}
    assert not {"emovo", "turev", "urdu"} & {path.parent.name for path in sounds}
    parts: tuple[Split, ...] = ("val", "test", "ood")
    for example in (e for part in parts for e in (*real.examples(part), *real.unimodal(part))):
        sound, face = example.sources.get(A), example.sources.get(V)
        assert not (isinstance(sound, SoundSource) and sound.path in sounds)
        assert not (isinstance(face, ActionUnitMeansSource) and face.clip in faces)


def test_redrawn_pairs_of_the_real_corpus_match_its_file_in_kinds_and_labels(real: Composite2Corpus) -> None:
    def kinds(examples: Iterable[Example]) -> dict[tuple[str | None, str], float]:
        counts = Counter((e.decided_by, e.label) for e in examples)
        return {key: count / counts.total() for key, count in counts.items()}

    fixed = real.examples("train")
    before, after = kinds(fixed), kinds(real.redraw(np.random.default_rng(0)))
    assert before.keys() == after.keys()
    for key, expected in before.items():
        deviation = np.sqrt(2 * expected * (1 - expected) / len(fixed))  # both are draws of the same rule
        assert after[key] == pytest.approx(expected, abs=5 * deviation), key
