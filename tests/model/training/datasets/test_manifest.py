import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from model.errors import CorpusError
from model.modality import Modality
from model.training.datasets.base import OpenFaceSource, SoundSource, Split, TextSource
from model.training.datasets.manifest import ManifestCorpus
from tests.support.corpus import write_csv, write_manifest, write_openface, write_tone

Rows = list[dict[str, object]]


def two_classes(count: int = 4) -> Rows:
    """Enough rows to train and validate on, all with text."""
    return [
        {"id": f"u{n}", "split": "val" if n < 2 else "train", "text": f"line {n}", "label": ("no", "yes")[n % 2]}
        for n in range(count)
    ]


def test_rows_have_the_modalities_of_their_filled_cells(tmp_path: Path) -> None:
    sound = write_tone(tmp_path / "clips" / "a.flac")
    face = write_openface(tmp_path / "clips" / "a.csv")
    rows = two_classes()
    rows[2] |= {"audio": "clips/a.flac", "openface": str(face)}
    rows[3] |= {"text": "", "audio": "clips/a.flac"}
    whole, only_sound = ManifestCorpus(write_manifest(tmp_path, rows)).examples("train")
    assert whole.sources == {
        Modality.TEXT: TextSource("line 2"),
        Modality.AUDIO: SoundSource(sound),
        Modality.VISUAL: OpenFaceSource(face),
    }
    assert only_sound.sources == {Modality.AUDIO: SoundSource(sound)}


def test_splits_and_order_are_those_of_the_file(tmp_path: Path) -> None:
    corpus = ManifestCorpus(write_manifest(tmp_path, two_classes(6)))
    assert [example.id for example in corpus.examples("train")] == ["u2", "u3", "u4", "u5"]
    assert [example.id for example in corpus.examples("val")] == ["u0", "u1"]
    assert corpus.examples("test") == ()


def test_redrawing_returns_the_training_examples(tmp_path: Path) -> None:
    corpus = ManifestCorpus(write_manifest(tmp_path, two_classes()))
    assert corpus.redraw(np.random.default_rng(0)) == corpus.examples("train")


def test_manifests_have_no_unseen_corpora_and_no_unimodal_content(tmp_path: Path) -> None:
    corpus = ManifestCorpus(write_manifest(tmp_path, two_classes()))
    assert corpus.examples("ood") == ()
    assert corpus.unimodal("train") == ()


def test_json_lines_are_equivalent_to_csv(tmp_path: Path) -> None:
    rows = two_classes()
    path = tmp_path / "manifest.jsonl"
    path.write_text("\n\n".join(json.dumps(row | {"audio": None}) for row in rows) + "\n", encoding="utf-8")
    from_csv = ManifestCorpus(write_manifest(tmp_path, rows))
    from_json = ManifestCorpus(path)
    assert from_json.classes == from_csv.classes
    for split in ("train", "val"):
        assert from_json.examples(split) == from_csv.examples(split)


def test_numbers_in_json_lines_are_ids_and_labels(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    records = [row | {"id": n, "label": n % 2} for n, row in enumerate(two_classes())]
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    assert ManifestCorpus(path).classes == ("0", "1")


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["positive", "negative"], ("negative", "positive")),
        (["positive", "neutral", "negative"], ("negative", "neutral", "positive")),
        (["sad", "happy", "neutral", "angry"], ("angry", "happy", "neutral", "sad")),
        (list("gfedcba"), tuple("abcdefg")),
    ],
)
def test_classes_are_in_polarity_order_or_sorted(tmp_path: Path, labels: list[str], classes: tuple[str, ...]) -> None:
    rows: Rows = [
        {"id": f"{split}-{label}", "split": split, "text": "x", "label": label}
        for split in ("train", "val")
        for label in labels
    ]
    assert ManifestCorpus(write_manifest(tmp_path, rows)).classes == classes


def unsplit(count: int) -> Rows:
    return [{"id": f"u{n}", "text": f"line {n}", "label": "abc"[n % 3]} for n in range(count)]


def parts(corpus: ManifestCorpus) -> Mapping[str, set[str]]:
    return {split: {e.id for e in corpus.examples(split)} for split in ("train", "val", "test")}


def test_empty_split_columns_are_drawn_whatever_the_order_of_rows(tmp_path: Path) -> None:
    rows = unsplit(300)
    drawn = parts(ManifestCorpus(write_manifest(tmp_path, rows)))
    assert {split: len(ids) for split, ids in drawn.items()} == {"train": 241, "val": 30, "test": 29}
    assert parts(ManifestCorpus(write_manifest(tmp_path, rows[::-1], "reversed.csv"))) == drawn


def test_drawn_splits_are_stratified_by_label(tmp_path: Path) -> None:
    corpus = ManifestCorpus(write_manifest(tmp_path, unsplit(300)))
    expected: dict[Split, int] = {"train": 80, "val": 10, "test": 10}
    for split, count in expected.items():
        counts = Counter(example.label for example in corpus.examples(split))
        assert all(abs(counts[label] - count) <= 1 for label in "abc")


def test_drawn_splits_keep_a_single_example_in_training(tmp_path: Path) -> None:
    rows: Rows = [*unsplit(30), {"id": "rare", "text": "x", "label": "d"}]
    assert "rare" in parts(ManifestCorpus(write_manifest(tmp_path, rows)))["train"]


def test_twelve_rows_are_enough_for_a_validation_part(tmp_path: Path) -> None:
    assert parts(ManifestCorpus(write_manifest(tmp_path, unsplit(12))))["val"]


def test_empty_ids_are_named_by_line(tmp_path: Path) -> None:
    rows = two_classes()
    rows[2]["id"] = ""
    rows[1]["text"] = "a sentence\nover two lines"
    examples = ManifestCorpus(write_manifest(tmp_path, rows)).examples("train")
    assert [example.id for example in examples] == ["line-5", "u3"]


@pytest.mark.parametrize(
    ("row", "change", "line", "detail"),
    [
        (2, {"id": "u0"}, 4, "id 'u0' is already on line 2"),
        (2, {"split": "training"}, 4, "unknown split 'training'; known are train, val, test"),
        (2, {"split": "ood"}, 4, "unknown split 'ood'; known are train, val, test"),
        (2, {"split": ""}, 4, "the split is empty here, but not in every row"),
        (2, {"label": " "}, 4, "the label is empty"),
        (2, {"text": " "}, 4, "text, audio and openface are all empty"),
        (2, {"audio": "gone.wav"}, 4, "audio file 'gone.wav' does not exist"),
        (2, {"openface": "gone.csv"}, 4, "openface file 'gone.csv' does not exist"),
        (2, {"audio": "."}, 4, "audio file '.' does not exist"),
        (2, {"audio": "clips\\a.wav"}, 4, r"audio file 'clips\\a.wav' does not exist"),
        (2, {"audio": "C:\\a.wav"}, 4, r"audio file 'C:\\a.wav' is an absolute path of Windows"),
        (0, {"label": "maybe"}, 2, "label 'maybe' is in no row of the train split"),
        (3, {"text": "\0"}, 5, "holds a NUL byte"),
        (2, {"label": "maybe", "split": "train"}, 2, "label 'no' is in no row of the train split"),
    ],
)
def test_errors_of_a_row_name_file_and_line(
    tmp_path: Path, row: int, change: dict[str, object], line: int, detail: str
) -> None:
    rows = two_classes()
    rows[row] |= change
    path = write_manifest(tmp_path, rows)
    with pytest.raises(CorpusError) as caught:
        ManifestCorpus(path)
    assert (caught.value.path, caught.value.row) == (str(path), line)
    assert detail in caught.value.detail


@pytest.mark.parametrize(
    ("content", "line", "detail"),
    [
        (b"", 1, "missing column: label"),
        (b"id,split,text\n", 1, "missing column: label"),
        (b"id,label\n", 1, "has none of the columns text, audio, openface"),
        (b"id,split,text,audio,openface,label,id\n", 1, "column named more than once: id"),
        (b"id,split,text,audio,openface,label\n", None, "holds no rows"),
        (b"id,split,text,audio,openface,label\na,train,\x81,,,x\n", 2, "is neither UTF-8 nor Windows-1252"),
        (b"group,text,label\ns,a,x\ns,b,y\n", None, "the groups cannot be divided"),
        (b"id,split,text,audio,openface,label\na,train,t,,,x\n", None, "1 different labels where 2, 3, 4 or 7"),
        (b"id,split,text,audio,openface,label\na,train,t,,,x\nb,train,t,,,y\n", None, "no row is in the val split"),
        (b"id,split,text,audio,openface,label\na,val,t,,,x\nb,val,t,,,y\n", None, "no row is in the train split"),
    ],
)
def test_errors_of_a_file_name_it(tmp_path: Path, content: bytes, line: int | None, detail: str) -> None:
    path = tmp_path / "manifest.csv"
    path.write_bytes(content)
    with pytest.raises(CorpusError) as caught:
        ManifestCorpus(path)
    assert (caught.value.path, caught.value.row) == (str(path), line)
    assert detail in caught.value.detail


@pytest.mark.parametrize(
    ("record", "detail"),
    [
        (b"{", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[1]", "is not a JSON object"),
        (b'{"text": "\xff"}', "is not UTF-8"),
        (b'{"text": "a", "label": "x", "speaker": "s"}', "unknown key: speaker"),
        (b'{"text": ["a"], "label": "x"}', "text is neither a string nor a whole number"),
        (b'{"text": "a", "label": true}', "label is neither a string nor a whole number"),
        (b'{"text": "\\ud800", "label": "x"}', "half of a surrogate pair"),
        (b'{"text": "a"}', "the label is empty"),
    ],
)
def test_errors_of_a_json_line_name_it(tmp_path: Path, record: bytes, detail: str) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(b'{"text": "fine", "label": "x"}\n\n' + record)
    with pytest.raises(CorpusError) as caught:
        ManifestCorpus(path)
    assert caught.value.row == 3
    assert detail in caught.value.detail


def test_byte_order_marks_are_accepted(tmp_path: Path) -> None:
    path = write_manifest(tmp_path, two_classes())
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(ManifestCorpus(path).examples("train")) == 2


def test_errors_name_a_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"none\.csv: cannot be read: No such file"):
        ManifestCorpus(tmp_path / "none.csv")


def by_group(sizes: Mapping[str, int]) -> Rows:
    return [
        {"id": f"{group}-{n}", "text": f"line {n}", "label": "abc"[n % 3], "group": group}
        for group, size in sizes.items()
        for n in range(size)
    ]


def write_groups(folder: Path, rows: Rows, name: str = "groups.csv") -> Path:
    path = folder / name
    write_csv(path, ("id", "split", "group", "text", "label"), rows)
    return path


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({f"p{n}": 30 for n in range(10)}, {"train": 240, "val": 30, "test": 30}),
        ({"a": 100, "b": 12, "c": 10}, {"train": 100, "val": 12, "test": 10}),
        ({"a": 20, "b": 20}, {"train": 20, "val": 20, "test": 0}),
    ],
)
def test_drawn_splits_keep_groups_whole(tmp_path: Path, sizes: dict[str, int], expected: dict[str, int]) -> None:
    rows = by_group(sizes)
    drawn = parts(ManifestCorpus(write_groups(tmp_path, rows)))
    assert {split: len(ids) for split, ids in drawn.items()} == expected
    groups = [{example_id.partition("-")[0] for example_id in ids} for ids in drawn.values()]
    assert sum(map(len, groups)) == len(sizes)
    assert parts(ManifestCorpus(write_groups(tmp_path, rows[::-1], "reversed.csv"))) == drawn


def test_rows_without_a_group_are_drawn_alone(tmp_path: Path) -> None:
    rows = by_group({"a": 60, "": 60})
    drawn = parts(ManifestCorpus(write_groups(tmp_path, rows)))
    assert sum(any(i.startswith("a-") for i in ids) for ids in drawn.values()) == 1
    assert all(drawn.values())


def test_a_class_of_one_group_is_in_training(tmp_path: Path) -> None:
    rows = by_group({f"p{n}": 9 for n in range(9)})
    rows += [{"id": f"r{n}", "text": "x", "label": "rare", "group": "rare"} for n in range(3)]
    corpus = ManifestCorpus(write_groups(tmp_path, rows))
    assert corpus.counts()["rare"] == {"train": 3, "val": 0, "test": 0}


def test_a_missing_group_column_is_a_notice(tmp_path: Path) -> None:
    with_groups = ManifestCorpus(write_groups(tmp_path, by_group({f"p{n}": 30 for n in range(10)})))
    assert with_groups.notices == []
    without = ManifestCorpus(write_manifest(tmp_path, unsplit(300)))
    assert [notice.partition(":")[0] for notice in without.notices] == ["no column group"]


def test_groups_in_several_given_parts_are_a_notice(tmp_path: Path) -> None:
    rows = [row | {"group": "anna", "split": ("train", "val")[n % 2]} for n, row in enumerate(by_group({"a": 90}))]
    (notice,) = ManifestCorpus(write_groups(tmp_path, rows)).notices
    assert notice == "1 groups are in several parts by the column split, for example 'anna'"


def test_few_rows_of_a_class_are_notices(tmp_path: Path) -> None:
    rows: Rows = [
        {"id": f"{split}{n}", "split": split, "text": "x", "label": label}
        for split, labels in {"train": "a" * 12 + "b" * 9, "val": "aa", "test": "ab"}.items()
        for n, label in enumerate(labels)
    ]
    assert ManifestCorpus(write_manifest(tmp_path, rows)).notices == [
        "class 'b' has 9 training rows, and 10 are the least to learn it from",
        "class 'b' has no row in the val part, so no figure on that part includes it",
    ]


def test_exports_with_backslashes_and_spellings_are_read(tmp_path: Path) -> None:
    sound = write_tone(tmp_path / "clips" / "a.wav")
    path = tmp_path / "export.csv"
    lines = ["Audio;Label;Split", "clips\\a.wav;Positive ;Train", "clips\\a.wav;neg;train", "clips\\a.wav;pos;VAL"]
    path.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    corpus = ManifestCorpus(path)
    assert corpus.classes == ("negative", "positive")
    assert corpus.examples("val")[0].sources == {Modality.AUDIO: SoundSource(sound)}


def test_a_single_modality_has_the_label_of_its_row(tmp_path: Path) -> None:
    rows = two_classes()
    rows[2] |= {"audio": write_tone(tmp_path / "a.wav")}
    both, text = ManifestCorpus(write_manifest(tmp_path, rows)).examples("train")
    assert both.modality_labels == {}
    assert text.modality_labels == {Modality.TEXT: text.label}


def test_json_labels_may_be_scores(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    records = [row | {"label": (-1.5, 0.25)[n % 2]} for n, row in enumerate(two_classes())]
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    assert ManifestCorpus(path).classes == ("negative", "positive")
