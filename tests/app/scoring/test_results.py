import csv
import json
from pathlib import Path
from typing import Any

import pytest

from app.api.schemas import AudioUse, InputWarning, Modalities, TextUse, Transcript, VisualUse
from app.scoring.results import FORMATS, Failure, columns_of, open_results
from app.scoring.rows import Row
from model.errors import ConfigError
from tests.support.answers import prediction

GIVEN = prediction(detected=True)
MODEL = GIVEN.model
FAILURE = Failure("Corrupt part", 'it is,\n"cut" (audio; byte 7)')
WORDS = Transcript(text="Hi,\n you.", confidence=0.5, language="en", seconds=1.0, truncated=False, words=[])
ANSWER = GIVEN.model_copy(
    update={
        "modalities": Modalities(
            text=TextUse(status="present", source="transcribed", transcript=WORDS),
            audio=AudioUse(status="missing", reason="silent"),
            visual=VisualUse(status="missing", reason="not_provided"),
        ),
        "key_missing": GIVEN.key_missing.model_copy(update={"modalities": ["visual", "audio"], "threshold": 0.25}),
        "warnings": [InputWarning(code="clipped", detail="x"), InputWarning(code="channel", detail="y")],
    }
)


def write(path: Path, *ids: str) -> None:
    """Write an answer for each id, a failure where it begins with an x."""
    with open_results(path, MODEL) as results:
        for name in ids:
            if name not in results.done:
                results.write(Row(name, "a label"), FAILURE if name.startswith("x") else ANSWER)
        results.finish()


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    from pyarrow import parquet

    rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    return rows


def lines_of(path: Path) -> Path:
    """The file that has the lines while they are written."""
    return path.with_name(f"{path.name}.partial.jsonl") if path.suffix == ".parquet" else path


@pytest.fixture(params=FORMATS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == ".parquet":
        pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    return tmp_path / f"out{request.param}"


def test_a_line_has_every_figure_of_an_answer(path: Path) -> None:
    write(path, 'é,"1"', "x")
    answer, failure = read(path)
    assert tuple(answer) == tuple(failure) == columns_of(MODEL.classes)
    if path.suffix == ".csv":
        assert (answer["warnings"], answer["key_missing_modalities"]) == ("clipped channel", "visual audio")
        assert (answer["confidence"], answer["key_missing_detected"]) == ("0.75", "true")
        empty = ""
    else:
        assert (answer["warnings"], answer["key_missing_modalities"]) == (["clipped", "channel"], ["visual", "audio"])
        assert (answer["confidence"], answer["key_missing_detected"]) == (0.75, True)
        empty = None
    assert (answer["id"], answer["label"], answer["polarity"]) == ('é,"1"', "a label", "negative")
    assert (answer["audio_status"], answer["audio_reason"]) == ("missing", "silent")
    assert (answer["text_source"], answer["transcribed_text"]) == ("transcribed", "Hi, you.")
    assert float(answer["transcribed_confidence"]) == 0.5
    assert failure["text_source"] == empty
    assert (answer["polarity_full"], answer["polarity_available"]) == ("negative", "positive")
    assert answer["error_title"] == failure["polarity"] == failure["p_negative"] == empty
    assert (failure["id"], failure["error_title"]) == ("x", "Corrupt part")
    assert failure["error_detail"] == 'it is, "cut" (audio; byte 7)'
    assert answer["model"] == failure["model"] == "tiny 0123456789ab"


def test_rows_that_are_there_are_not_written_again(path: Path) -> None:
    write(path, "a", "x")
    write(path, "a", "x", "b")
    assert [row["id"] for row in read(path)] == ["a", "x", "b"]
    with open_results(path, MODEL) as results:
        assert results.done == {"a", "x", "b"}
        assert results.failures == 1


def test_a_line_cut_at_any_byte_is_written_again(path: Path) -> None:
    with open_results(path, MODEL) as results:
        results.write(Row("a"), ANSWER)
        kept = lines_of(path).stat().st_size
        results.write(Row("b"), ANSWER)
    whole = lines_of(path).read_bytes()
    for end in (*range(0, kept, 40), *range(kept, len(whole), 40), len(whole) - 1, len(whole)):
        lines_of(path).write_bytes(whole[:end])
        with open_results(path, MODEL) as results:
            assert results.done == {"a", "b"} if end == len(whole) else results.done <= {"a"}
            assert ("a" in results.done) is (end >= kept)
        write(path, "a", "b")
        assert [row["id"] for row in read(path)] == ["a", "b"]
        path.unlink()


def test_the_parquet_file_is_written_at_the_end(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    path = tmp_path / "out.parquet"
    with open_results(path, MODEL) as results:
        results.write(Row("a"), ANSWER)
    assert not path.exists()
    write(path, "a", "b")
    assert [file.name for file in tmp_path.iterdir()] == ["out.parquet"]
    assert [row["id"] for row in read(path)] == ["a", "b"]
    path.write_bytes(b"PAR1")
    with pytest.raises(ConfigError) as caught:
        write(path, "a")
    assert "not a Parquet file" in str(caught.value)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize("other", [b"id,text\na,b\n", b'{"id": "a"}\n', b"\xff\n", b"[]\n"])
def test_a_file_of_other_content_is_left_alone(tmp_path: Path, suffix: str, other: bytes) -> None:
    path = tmp_path / f"out{suffix}"
    path.write_bytes(other)
    with pytest.raises(ConfigError) as caught:
        write(path, "a")
    assert "line 1" in str(caught.value)
    assert path.read_bytes() == other


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_results_of_other_weights_are_left_alone(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    write(path, "a")
    before = path.read_bytes()
    other = MODEL.model_copy(update={"version": "ba9876543210"})
    with pytest.raises(ConfigError) as caught, open_results(path, other):
        pytest.fail("the results of other weights were accepted")
    assert "other weights: tiny 0123456789ab" in str(caught.value)
    assert path.read_bytes() == before


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    with open_results(tmp_path / "out.csv", MODEL), pytest.raises(ConfigError) as caught:
        write(tmp_path / "out.csv", "a")
    assert "another process" in str(caught.value)


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        write(tmp_path / "nowhere" / "out.csv", "a")
    assert "cannot be written" in str(caught.value)
