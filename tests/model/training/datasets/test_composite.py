from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from model.errors import CorpusError
from model.modality import COMPLETE, Modality
from model.training.datasets.base import ActionUnitMeansSource, Example, SoundSource, TextSource
from model.training.datasets.composite import CompositeCorpus
from model.training.datasets.ravdess import parse_clip_name
from tests.support.corpus import ACTORS, PAIRINGS, TEXT_EMOTIONS, clip_name, real_data, spoil, write_composite


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_composite(tmp_path_factory.mktemp("data"), rounds=20)


@pytest.fixture(scope="module")
def corpus(data: Path) -> CompositeCorpus:
    return CompositeCorpus(data)


def clips(example: Example) -> tuple[str, str]:
    voice, face = example.sources[Modality.AUDIO], example.sources[Modality.VISUAL]
    assert isinstance(voice, SoundSource)
    assert isinstance(face, ActionUnitMeansSource)
    return voice.path.stem, face.clip


def test_every_row_of_a_part_becomes_a_complete_example_in_file_order(corpus: CompositeCorpus) -> None:
    examples = corpus.examples("train")
    assert [example.id for example in examples[:3]] == ["train-00000", "train-00001", "train-00002"]
    assert {example.presence for example in examples} == {COMPLETE}
    first = examples[0]
    assert first.sources[Modality.TEXT] == TextSource("number 0 was awful for train")
    assert (first.label, first.decided_by) == ("negative", "congruent")
    assert set(first.modality_labels.values()) == {"negative"}


def test_emotions_are_known_of_voices_faces_and_the_sentences_of_meld(corpus: CompositeCorpus) -> None:
    for example in (*corpus.examples("train"), *corpus.redraw(np.random.default_rng(0))):
        assert {Modality.AUDIO, Modality.VISUAL} <= example.emotions.keys()
        told = example.emotions.get(Modality.TEXT)
        assert told in {None, TEXT_EMOTIONS[example.modality_labels[Modality.TEXT]]}
    known = [Modality.TEXT in e.emotions for e in corpus.examples("train")]
    assert any(known)
    assert not all(known)  # CMU-MOSI and RAVDESS's own sentences


def test_surprised_faces_of_training_actors_are_beside_the_examples(corpus: CompositeCorpus) -> None:
    faces = [other.sources[Modality.VISUAL] for other in corpus.unclassed()]
    assert [face.clip for face in faces if isinstance(face, ActionUnitMeansSource)] == [
        clip_name(8, actor, repetition) for actor in ACTORS["train"] for repetition in (1, 2)
    ]
    assert all(other.emotions == {Modality.VISUAL: "surprised"} for other in corpus.unclassed())
    assert all(other.origins == {Modality.VISUAL: "ravdess"} for other in corpus.unclassed())


def test_origins_tell_the_corpus_of_each_modality_also_when_redrawn(corpus: CompositeCorpus) -> None:
    for example in (*corpus.examples("train"), *corpus.redraw(np.random.default_rng(0))):
        assert example.origins.keys() == set(Modality)
        assert {example.origins[Modality.AUDIO], example.origins[Modality.VISUAL]} == {"ravdess"}
        native = example.decided_by == "native"
        assert example.origins[Modality.TEXT] in ({"ravdess"} if native else {"meld", "mosi"})
        assert (example.origins[Modality.TEXT] == "meld") == (Modality.TEXT in example.emotions)


def test_there_is_no_content_beside_the_pairs_and_none_of_unseen_corpora(corpus: CompositeCorpus) -> None:
    assert corpus.examples("ood") == ()
    assert corpus.unimodal("train") == ()


def test_sound_files_of_every_example_exist(corpus: CompositeCorpus) -> None:
    for example in corpus.examples("test"):
        sound = example.sources[Modality.AUDIO]
        assert isinstance(sound, SoundSource)
        assert sound.path.is_file()


def test_modalities_carry_the_label_exactly_where_decided_by_says_so(corpus: CompositeCorpus) -> None:
    seen = {example.decided_by: example for example in corpus.examples("train") if example.label == "positive"}
    order = (Modality.TEXT, Modality.AUDIO, Modality.VISUAL)
    carried = {
        kind: [example.modality_labels[modality] == "positive" for modality in order] for kind, example in seen.items()
    }
    assert carried == {
        "congruent": [True, True, True],
        "text": [True, False, False],
        "voice+face": [False, True, True],
        "voice": [False, True, False],
        "face": [False, False, True],
        "native": [False, True, True],
    }


def test_redrawing_is_repeatable_and_differs_between_epochs(corpus: CompositeCorpus) -> None:
    first = corpus.redraw(np.random.default_rng(1))
    assert corpus.redraw(np.random.default_rng(1)) == first
    assert corpus.redraw(np.random.default_rng(2)) != first


def test_redrawing_keeps_sentences_and_native_rows(corpus: CompositeCorpus) -> None:
    fixed, drawn = corpus.examples("train"), corpus.redraw(np.random.default_rng(0))
    assert [e.id for e in drawn] == [e.id for e in fixed]
    assert [e.sources[Modality.TEXT] for e in drawn] == [e.sources[Modality.TEXT] for e in fixed]
    for before, after in zip(fixed, drawn, strict=True):
        if before.decided_by == "native":
            assert after == before


def test_redrawn_pairs_obey_the_rule_of_the_file(corpus: CompositeCorpus) -> None:
    allowed = set(PAIRINGS)
    for epoch in range(3):
        for example in corpus.redraw(np.random.default_rng(epoch)):
            voice, face = (parse_clip_name(name) for name in clips(example))
            assert voice.actor == face.actor
            assert voice.actor in (1, 2), "only training actors"
            assert example.modality_labels[Modality.AUDIO] == voice.polarity
            assert example.modality_labels[Modality.VISUAL] == face.polarity
            if example.decided_by == "native":
                continue
            assert (example.modality_labels[Modality.TEXT], example.decided_by, example.label) in allowed
            if example.decided_by in {"congruent", "text", "voice+face"}:
                assert voice == face
            else:
                assert voice.polarity != face.polarity
            carriers = {m for m, polarity in example.modality_labels.items() if polarity == example.label}
            assert carriers, "someone carries the label"


def test_redrawn_pairs_have_the_frequencies_of_the_file(corpus: CompositeCorpus) -> None:
    counts: Counter[str | None] = Counter()
    for epoch in range(20):
        counts.update(
            example.decided_by
            for example in corpus.redraw(np.random.default_rng(epoch))
            if example.modality_labels[Modality.TEXT] == "neutral" and example.decided_by != "native"
        )
    # 8 of the 14 pairings have a neutral text: two congruent and two of each other kind.
    assert counts.total() == 20 * 20 * 8
    for kind in ("congruent", "voice+face", "voice", "face"):
        assert counts[kind] / counts.total() == pytest.approx(0.25, abs=0.03)  # five standard deviations are 0.04


def test_clips_are_drawn_uniformly_within_a_polarity(corpus: CompositeCorpus) -> None:
    emotions: Counter[int] = Counter()
    for epoch in range(20):
        for example in corpus.redraw(np.random.default_rng(epoch)):
            if example.decided_by == "congruent" and example.label == "negative":
                emotions[parse_clip_name(clips(example)[0]).emotion] += 1
    assert set(emotions) == {4, 5, 6, 7}
    for count in emotions.values():
        assert count / emotions.total() == pytest.approx(0.25, abs=0.06)


def test_a_sentence_keeps_its_pair_where_the_drawn_actor_lacks_the_clip_it_needs(data: Path, tmp_path: Path) -> None:
    folder = spoil(data, tmp_path, "composite/train.csv", ",", ",")
    path = folder / "composite" / "train.csv"
    header, *rows = path.read_text(encoding="utf-8").splitlines()
    # Actor 1 keeps neutral clips only, so that no face of his can be drawn to a carrying voice of another polarity.
    kept = [
        row
        for row in rows
        if not row.endswith(",1") or "03-01-0" not in row.replace("03-01-01", "").replace("03-01-02", "")
    ]
    path.write_text("\n".join([header, *kept]), encoding="utf-8")
    corpus = CompositeCorpus(folder)
    fixed = {example.id: example for example in corpus.examples("train")}
    stayed = 0
    for epoch in range(5):
        for example in corpus.redraw(np.random.default_rng(epoch)):
            voice, face = (parse_clip_name(name) for name in clips(example))
            assert voice.actor == face.actor
            stayed += example.decided_by != "native" and example == fixed[example.id]
    assert stayed > 0


def test_mis_encoded_sentences_of_meld_do_not_matter(data: Path, tmp_path: Path) -> None:
    folder = spoil(data, tmp_path, "meld/train_sent_emo.csv", "number 0 was", "number 0 was")
    path = folder / "meld" / "train_sent_emo.csv"
    path.write_bytes(path.read_bytes().replace(b"number 0 was", b"number\x92s \xc2\x85 was", 1))
    assert len(CompositeCorpus(folder).examples("train")) == len(CompositeCorpus(data).examples("train"))


@pytest.mark.parametrize(
    ("file", "old", "new", "line", "detail"),
    [
        ("composite/train.csv", "train-00001", "train-00000", 3, "id 'train-00000' is there twice"),
        ("composite/val.csv", "val-00001", "train-00000", 3, "id 'train-00000' is there twice"),
        ("composite/test.csv", "number 0 was awful for test", " ", 2, "the sentence is empty"),
        ("composite/test.csv", ",negative,congruent", ",sad,congruent", 2, "unknown label 'sad'"),
        ("composite/test.csv", ",congruent,", ",luck,", 2, "unknown decided_by 'luck'"),
        ("composite/test.csv", "decided_by", "decider", 1, "missing column: decided_by"),
        ("composite/test.csv", ",negative,congruent", ",positive,congruent", 2, "text is negative, but"),
        ("composite/test.csv", ",negative,congruent", ",negative,voice", 2, "text is negative, but"),
        ("composite/test.csv", ",meld-dev-", ",meld-film-", 2, "is in neither MELD nor"),
        ("composite/test.csv", ",19\r\n", ",18\r\n", 2, "name different actors"),
        ("composite/test.csv", ",19\r\n", ",x\r\n", 2, "name different actors"),
        ("composite/test.csv", ",19\r\n", ",19,20\r\n", 2, "9 cells where the header has 8"),
        ("composite/test.csv", "03-01-01-01-01-01-19", "03-01-01-02-01-01-19", None, "has no sound file"),
        ("composite/test.csv", "test-00000", '"test-00000', 2, "not readable as CSV"),
        ("ravdess/au_mean.csv", "03-01-02", "02-01-02", 4, "is not the name of a RAVDESS speech clip"),
        ("ravdess/au_mean.csv", "03-01-01-01-01-02-01", "03-01-01-01-01-01-01", 3, "is there twice"),
        ("ravdess/au_mean.csv", ",0.", ",nan0.", 2, "column AU01_r holds no finite number"),
        ("ravdess/au_mean.csv", ",0.", ",1_0.", 2, "column AU01_r holds no finite number"),
        ("meld/train_sent_emo.csv", ",negative,", ",grumpy,", 2, "unknown sentiment 'grumpy'"),
        ("meld/train_sent_emo.csv", ",anger,", ",wrath,", 2, "unknown emotion 'wrath'"),
        ("mosi/utterances.csv", ",pos,", ",good,", 2, "unknown label3 'good'"),
    ],
)
def test_a_fault_in_a_file_is_named_by_file_and_line(
    data: Path, tmp_path: Path, file: str, old: str, new: str, line: int | None, detail: str
) -> None:
    folder = spoil(data, tmp_path, file, old, new)
    with pytest.raises(CorpusError) as caught:
        CompositeCorpus(folder)
    assert caught.value.path == str(folder / file)
    assert detail in caught.value.detail
    assert caught.value.row is not None
    if line is not None:
        assert caught.value.row == line


def test_surprised_clips_are_refused_as_they_have_no_polarity(data: Path, tmp_path: Path) -> None:
    folder = spoil(data, tmp_path, "composite/test.csv", clip_name(1, 19), clip_name(8, 19))
    with pytest.raises(CorpusError, match="an emotion without polarity"):
        CompositeCorpus(folder)


@pytest.mark.parametrize("file", ["composite/val.csv", "ravdess/au_mean.csv", "meld/dev_sent_emo.csv"])
def test_a_missing_file_is_named(data: Path, tmp_path: Path, file: str) -> None:
    folder = spoil(data, tmp_path, file, ",", ",")
    (folder / file).unlink()
    with pytest.raises(CorpusError, match="cannot be read: No such file") as caught:
        CompositeCorpus(folder)
    assert caught.value.path == str(folder / file)


def test_the_real_corpus_has_its_published_counts() -> None:
    corpus = CompositeCorpus(real_data())
    assert [len(corpus.examples(split)) for split in ("train", "val", "test")] == [12_104, 902, 1_330]
    kinds = Counter(example.decided_by for example in corpus.examples("test"))
    assert kinds == {"congruent": 769, "text": 291, "native": 104, "voice+face": 68, "face": 55, "voice": 43}


def test_actors_of_the_real_corpus_stay_in_their_parts_even_when_redrawn() -> None:
    corpus = CompositeCorpus(real_data())

    def actors(examples: object) -> set[int]:
        assert isinstance(examples, tuple)
        return {parse_clip_name(name).actor for example in examples for name in clips(example)}

    assert actors(corpus.redraw(np.random.default_rng(0))) == set(range(1, 17))
    assert actors(corpus.examples("val")) == {17, 18}
    assert actors(corpus.examples("test")) == {19, 20}


def test_redrawn_pairs_of_the_real_corpus_match_its_file_in_kinds_labels_and_emotions() -> None:
    corpus = CompositeCorpus(real_data())
    fixed, drawn = corpus.examples("train"), corpus.redraw(np.random.default_rng(0))

    def shares(examples: object) -> dict[tuple[str | None, str, int, int], float]:
        assert isinstance(examples, tuple)
        counts = Counter(
            (e.decided_by, e.label, *(parse_clip_name(name).emotion for name in clips(e))) for e in examples
        )
        return {key: count / counts.total() for key, count in counts.items()}

    before, after = shares(fixed), shares(drawn)
    for key in before.keys() | after.keys():
        expected = before.get(key, 0.0)
        deviation = np.sqrt(2 * max(expected, 1e-4) * (1 - expected) / len(fixed))  # both are draws of the same rule
        assert after.get(key, 0.0) == pytest.approx(expected, abs=5 * deviation), key
