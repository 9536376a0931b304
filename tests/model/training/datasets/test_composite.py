from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from model.errors import ConfigError
from model.modality import COMPLETE, Modality
from model.training.datasets.base import SPLITS, ActionUnitMeansSource, Example, SoundSource, Split, TextSource
from model.training.datasets.composite import Composite2Corpus, CompositeCorpus, PairedCorpus
from model.training.datasets.ravdess import parse_clip_name
from model.training.datasets.recordings import FacesCorpus, VoicesCorpus
from tests.support.corpus import ACTORS, PAIRINGS, TEXT_EMOTIONS, clip_name, real_data, spoil, write_composite2

T, A, V = Modality
CORPORA = {"composite": CompositeCorpus, "composite2": Composite2Corpus}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_composite2(tmp_path_factory.mktemp("data"), rounds=20)


@pytest.fixture(scope="module")
def composite(data: Path) -> CompositeCorpus:
    return CompositeCorpus(data)


@pytest.fixture(scope="module")
def composite2(data: Path) -> Composite2Corpus:
    return Composite2Corpus(data)


@pytest.fixture(params=CORPORA)
def corpus(request: pytest.FixtureRequest, composite: CompositeCorpus, composite2: Composite2Corpus) -> PairedCorpus:
    return composite if request.param == "composite" else composite2


@pytest.fixture(scope="module")
def real() -> CompositeCorpus:
    return CompositeCorpus(real_data())


@pytest.fixture(scope="module")
def real2() -> Composite2Corpus:
    folder = real_data()
    if not (folder / "composite2" / "train.csv").is_file():
        pytest.skip("no composite2/train.csv in the folder of real corpora")
    return Composite2Corpus(folder)


def drawn(corpus: PairedCorpus, epochs: int) -> list[Example]:
    return [e for n in range(epochs) for e in corpus.redraw(np.random.default_rng(n))]


def clips(example: Example) -> tuple[str, str]:
    voice, face = example.sources[A], example.sources[V]
    assert isinstance(voice, SoundSource)
    assert isinstance(face, ActionUnitMeansSource)
    return voice.path.stem, face.clip


def origins(examples: Iterable[Example], modality: Modality) -> set[str]:
    return {e.origins[modality] for e in examples}


def shares(examples: Iterable[Example], modality: Modality, polarity: str) -> dict[str, float]:
    counts = Counter(e.origins[modality] for e in examples if e.modality_labels[modality] == polarity)
    return {origin: count / counts.total() for origin, count in counts.items()}


def test_rows_become_complete_examples_in_file_order(corpus: PairedCorpus) -> None:
    for split in SPLITS[:3] if corpus.name == "composite" else SPLITS:
        examples = corpus.examples(split)
        prefix = split if corpus.name == "composite" else f"{split}2"
        assert [e.id for e in examples][:280] == [f"{prefix}-{n:05d}" for n in range(280)]
        assert {e.presence for e in examples} == {COMPLETE}
    first = corpus.examples("train")[0]
    assert first.sources[T] == TextSource("number 0 was awful for train")
    assert (first.label, first.decided_by) == ("negative", "congruent")
    assert set(first.modality_labels.values()) == {"negative"}


def test_redrawing_is_repeatable_and_differs_between_epochs(corpus: PairedCorpus) -> None:
    first = corpus.redraw(np.random.default_rng(1))
    assert corpus.redraw(np.random.default_rng(1)) == first
    assert corpus.redraw(np.random.default_rng(2)) != first


def test_redrawing_keeps_sentences_and_native_rows(corpus: PairedCorpus) -> None:
    fixed, redrawn = corpus.examples("train"), corpus.redraw(np.random.default_rng(0))
    for before, after in zip(fixed, redrawn, strict=True):
        assert (after.id, after.sources[T], after.origins[T]) == (before.id, before.sources[T], before.origins[T])
        assert after.emotions.get(T) == before.emotions.get(T)
        if before.decided_by == "native":
            assert after == before


def test_redrawn_pairs_have_the_frequencies_of_the_file(corpus: PairedCorpus) -> None:
    counts = Counter(
        e.decided_by for e in drawn(corpus, 20) if e.modality_labels[T] == "neutral" and e.decided_by != "native"
    )
    # 8 of the 14 pairings have a neutral text: two congruent and two of each other kind.
    assert counts.total() == 20 * 20 * 8
    for kind in ("congruent", "voice+face", "voice", "face"):
        assert counts[kind] / counts.total() == pytest.approx(0.25, abs=0.03)  # five standard deviations are 0.04


def test_voices_faces_and_sentences_of_meld_have_emotions(composite: CompositeCorpus) -> None:
    for example in (*composite.examples("train"), *composite.redraw(np.random.default_rng(0))):
        assert {Modality.AUDIO, Modality.VISUAL} <= example.emotions.keys()
        emotion = example.emotions.get(Modality.TEXT)
        assert emotion in {None, TEXT_EMOTIONS[example.modality_labels[Modality.TEXT]]}
    known = [Modality.TEXT in e.emotions for e in composite.examples("train")]
    assert any(known)
    assert not all(known)  # CMU-MOSI and RAVDESS's own sentences


def test_surprised_faces_of_training_actors_are_unclassed(composite: CompositeCorpus) -> None:
    faces = [other.sources[Modality.VISUAL] for other in composite.unclassed()]
    assert [face.clip for face in faces if isinstance(face, ActionUnitMeansSource)] == [
        clip_name(8, actor, repetition) for actor in ACTORS["train"] for repetition in (1, 2)
    ]
    assert all(other.emotions == {Modality.VISUAL: "surprised"} for other in composite.unclassed())
    assert all(other.origins == {Modality.VISUAL: "ravdess"} for other in composite.unclassed())


def test_origins_name_the_corpus_of_each_modality(composite: CompositeCorpus) -> None:
    for example in (*composite.examples("train"), *composite.redraw(np.random.default_rng(0))):
        assert example.origins.keys() == set(Modality)
        assert {example.origins[Modality.AUDIO], example.origins[Modality.VISUAL]} == {"ravdess"}
        native = example.decided_by == "native"
        assert example.origins[Modality.TEXT] in ({"ravdess"} if native else {"meld", "mosi"})
        assert (example.origins[Modality.TEXT] == "meld") == (Modality.TEXT in example.emotions)


def test_composite_has_no_unseen_corpora_and_no_unimodal_content(composite: CompositeCorpus) -> None:
    assert composite.examples("ood") == ()
    assert composite.unimodal("train") == ()


def test_sound_files_of_every_example_exist(composite: CompositeCorpus) -> None:
    for example in composite.examples("test"):
        sound = example.sources[Modality.AUDIO]
        assert isinstance(sound, SoundSource)
        assert sound.path.is_file()


def test_modalities_carry_the_label_where_decided_by_says_so(composite: CompositeCorpus) -> None:
    seen = {example.decided_by: example for example in composite.examples("train") if example.label == "positive"}
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


def test_redrawn_clips_are_of_one_training_actor(composite: CompositeCorpus) -> None:
    allowed = set(PAIRINGS)
    for epoch in range(3):
        for example in composite.redraw(np.random.default_rng(epoch)):
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
            assert carriers, "at least one modality carries the label"


def test_clips_are_drawn_uniformly_within_a_polarity(composite: CompositeCorpus) -> None:
    emotions: Counter[int] = Counter()
    for epoch in range(20):
        for example in composite.redraw(np.random.default_rng(epoch)):
            if example.decided_by == "congruent" and example.label == "negative":
                emotions[parse_clip_name(clips(example)[0]).emotion] += 1
    assert set(emotions) == {4, 5, 6, 7}
    for count in emotions.values():
        assert count / emotions.total() == pytest.approx(0.25, abs=0.06)


def test_sentences_keep_their_pair_where_the_actor_lacks_a_clip(data: Path, tmp_path: Path) -> None:
    folder = spoil(data, tmp_path, "composite/train.csv", ",", ",")
    path = folder / "composite" / "train.csv"
    header, *rows = path.read_text(encoding="utf-8").splitlines()
    # Actor 1 keeps neutral clips only: a carrying voice of another polarity has no face of that actor.
    kept = [
        row
        for row in rows
        if not row.endswith(",1") or "03-01-0" not in row.replace("03-01-01", "").replace("03-01-02", "")
    ]
    path.write_text("\n".join([header, *kept]), encoding="utf-8")
    corpus = CompositeCorpus(folder)
    fixed = {example.id: example for example in corpus.examples("train")}
    kept_pairs = 0
    for epoch in range(5):
        for example in corpus.redraw(np.random.default_rng(epoch)):
            voice, face = (parse_clip_name(name) for name in clips(example))
            assert voice.actor == face.actor
            kept_pairs += example.decided_by != "native" and example == fixed[example.id]
    assert kept_pairs > 0


def test_wrongly_encoded_sentences_of_meld_are_accepted(data: Path, tmp_path: Path) -> None:
    folder = spoil(data, tmp_path, "meld/train_sent_emo.csv", "number 0 was", "number 0 was")
    path = folder / "meld" / "train_sent_emo.csv"
    path.write_bytes(path.read_bytes().replace(b"number 0 was", b"number\x92s \xc2\x85 was", 1))
    assert len(CompositeCorpus(folder).examples("train")) == len(CompositeCorpus(data).examples("train"))


def test_each_modality_has_its_origin_and_its_emotion(composite2: Composite2Corpus) -> None:
    examples = composite2.examples("train")
    assert origins(examples, T) == {"meld", "mosi"}
    assert origins(examples, A) == {"ravdess", "nemo", "emotiontts_kr"}
    assert origins(examples, V) == {"ravdess", "stills"}
    for example in examples:
        assert {A, V} <= example.emotions.keys()
        assert (T in example.emotions) == (example.origins[T] == "meld")


def test_ood_voices_are_of_corpora_of_no_other_part(composite2: Composite2Corpus) -> None:
    assert origins(composite2.examples("ood"), A) == {"emovo"}
    assert [e.sources[T] for e in composite2.examples("ood")] == [e.sources[T] for e in composite2.examples("test")]


def test_no_voice_or_face_is_in_two_parts(composite2: Composite2Corpus) -> None:
    train = [*composite2.examples("train"), *drawn(composite2, 5), *composite2.unimodal("train")]
    used = {m: {e.sources[m] for e in train if m in e.sources} for m in (A, V)}
    parts: tuple[Split, ...] = ("val", "test", "ood")
    for part in parts:
        for example in (*composite2.examples(part), *composite2.unimodal(part)):
            assert all(example.sources[m] not in used[m] for m in (A, V) if m in example.sources)


def test_unimodal_content_is_all_that_a_part_has(composite2: Composite2Corpus, data: Path) -> None:
    voices, faces = VoicesCorpus(data), FacesCorpus(data)
    for split in SPLITS:
        assert composite2.unimodal(split) == (*voices.examples(split), *faces.examples(split))
        ids = [e.id for e in (*composite2.unimodal(split), *composite2.examples(split))]
        assert len(set(ids)) == len(ids)
    assert composite2.unclassed() == (*voices.unclassed(), *faces.unclassed())
    assert Counter(next(iter(other.origins.items())) for other in composite2.unclassed()) == {
        (A, "ravdess"): 4,
        (A, "nemo"): 4,
        (V, "ravdess"): 4,
        (V, "stills"): 3,
    }


def test_redrawn_pairs_follow_the_rule_of_the_file(composite2: Composite2Corpus, data: Path) -> None:
    polarity = {e.sources[A]: e.label for e in VoicesCorpus(data).examples("train")}
    polarity |= {e.sources[V]: e.label for e in FacesCorpus(data).examples("train")}
    carriers = {"congruent": {T, A, V}, "text": {T}, "voice+face": {A, V}, "voice": {A}, "face": {V}}
    for example in drawn(composite2, 3):
        assert (example.modality_labels[T], example.decided_by, example.label) in set(PAIRINGS)
        for modality in (A, V):
            assert polarity[example.sources[modality]] == example.modality_labels[modality]
        expected = {m: example.label if m in carriers[str(example.decided_by)] else "neutral" for m in Modality}
        assert example.modality_labels == expected


@pytest.mark.parametrize("polarity", ["negative", "neutral", "positive"])
def test_corpora_are_drawn_equally_often_whatever_their_size(composite2: Composite2Corpus, polarity: str) -> None:
    examples = drawn(composite2, 20)
    third, half = (pytest.approx(share, abs=0.05) for share in (1 / 3, 1 / 2))
    assert shares(examples, A, polarity) == {"ravdess": third, "nemo": third, "emotiontts_kr": third}
    assert shares(examples, V, polarity) == {"ravdess": half, "stills": half}


def test_clips_are_drawn_uniformly_within_a_corpus(composite2: Composite2Corpus) -> None:
    counts = Counter(
        e.sources[A] for e in drawn(composite2, 40) if (e.origins[A], e.modality_labels[A]) == ("nemo", "neutral")
    )
    assert len(counts) == 4  # two speakers, two clips each
    for count in counts.values():
        assert count / counts.total() == pytest.approx(0.25, abs=0.06)


def test_voice_and_face_are_drawn_independently(composite2: Composite2Corpus) -> None:
    examples = [e for e in drawn(composite2, 20) if e.label == "positive" and e.decided_by == "congruent"]
    for origin in ("ravdess", "nemo", "emotiontts_kr"):
        faces = shares([e for e in examples if e.origins[A] == origin], V, "positive")
        assert faces == {"ravdess": pytest.approx(0.5, abs=0.1), "stills": pytest.approx(0.5, abs=0.1)}


def test_recordings_can_be_excluded_from_a_draw(composite2: Composite2Corpus) -> None:
    sentences = composite2.examples("val")
    rng = np.random.default_rng(0)
    examples = composite2.draw(sentences, lambda recording: recording.signal.origin != "nemo", "train", rng)
    assert [e.sources[T] for e in examples] == [e.sources[T] for e in sentences]
    assert origins(examples, A) == {"ravdess", "emotiontts_kr"}
    assert origins(examples, V) == {"ravdess", "stills"}


def test_polarities_without_recordings_cannot_be_drawn(composite2: Composite2Corpus) -> None:
    with pytest.raises(ConfigError, match="in the train split to draw from"):
        composite2.draw(
            composite2.examples("train"), lambda r: r.signal.polarity == "neutral", "train", np.random.default_rng(0)
        )


def test_the_real_composite_has_its_published_counts(real: CompositeCorpus) -> None:
    assert [len(real.examples(split)) for split in ("train", "val", "test")] == [12_104, 902, 1_330]
    kinds = Counter(example.decided_by for example in real.examples("test"))
    assert kinds == {"congruent": 769, "text": 291, "native": 104, "voice+face": 68, "face": 55, "voice": 43}


def test_actors_of_the_real_composite_stay_in_their_parts(real: CompositeCorpus) -> None:
    def actors(examples: object) -> set[int]:
        assert isinstance(examples, tuple)
        return {parse_clip_name(name).actor for example in examples for name in clips(example)}

    assert actors(real.redraw(np.random.default_rng(0))) == set(range(1, 17))
    assert actors(real.examples("val")) == {17, 18}
    assert actors(real.examples("test")) == {19, 20}


def test_redrawn_pairs_of_the_real_composite_match_its_file(real: CompositeCorpus) -> None:
    fixed, drawn = real.examples("train"), real.redraw(np.random.default_rng(0))

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


def test_the_real_composite2_has_its_published_counts(real2: Composite2Corpus) -> None:
    assert [len(real2.examples(split)) for split in SPLITS] == [11_273, 798, 1_226, 1_226]
    assert [len(real2.unimodal(split)) for split in SPLITS] == [13_637, 1_104, 1_300, 868]
    assert len(real2.unclassed()) == 1_177
    kinds = Counter(example.decided_by for example in real2.examples("ood"))
    assert kinds == {"congruent": 769, "text": 291, "voice+face": 68, "face": 55, "voice": 43}


def test_the_real_composite2_trains_on_no_other_part(real2: Composite2Corpus) -> None:
    train = [*real2.redraw(np.random.default_rng(0)), *real2.examples("train"), *real2.unimodal("train")]
    sounds = {s.path for e in train if isinstance(s := e.sources.get(A), SoundSource)}
    faces = {s.clip for e in train if isinstance(s := e.sources.get(V), ActionUnitMeansSource)}
    assert not {"emovo", "turev", "urdu"} & {path.parent.name for path in sounds}
    parts: tuple[Split, ...] = ("val", "test", "ood")
    for example in (e for part in parts for e in (*real2.examples(part), *real2.unimodal(part))):
        sound, face = example.sources.get(A), example.sources.get(V)
        assert not (isinstance(sound, SoundSource) and sound.path in sounds)
        assert not (isinstance(face, ActionUnitMeansSource) and face.clip in faces)


def test_redrawn_pairs_of_the_real_composite2_match_its_file(real2: Composite2Corpus) -> None:
    def kinds(examples: Iterable[Example]) -> dict[tuple[str | None, str], float]:
        counts = Counter((e.decided_by, e.label) for e in examples)
        return {key: count / counts.total() for key, count in counts.items()}

    fixed = real2.examples("train")
    before, after = kinds(fixed), kinds(real2.redraw(np.random.default_rng(0)))
    assert before.keys() == after.keys()
    for key, expected in before.items():
        deviation = np.sqrt(2 * expected * (1 - expected) / len(fixed))  # both are draws of the same rule
        assert after[key] == pytest.approx(expected, abs=5 * deviation), key
