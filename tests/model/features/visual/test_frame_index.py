import io

import numpy as np
import pytest

from model.errors import ModalityError
from model.features.visual.frame_index import BLOCK_ROWS, index_frames
from model.features.visual.table import ACTION_UNIT_COLUMNS, OpenFaceLimits
from model.types import DoubleArray
from tests.support.openface import simulate_openface_csv

LIMITS = OpenFaceLimits(max_bytes=2**20, max_line_bytes=2**12, max_columns=64, max_rows=100)


def index(content: bytes, limits: OpenFaceLimits = LIMITS) -> DoubleArray:
    return np.concatenate(list(index_frames(io.BytesIO(content), "action_units", 0.5, limits)))


def csv_of(*times: float | str) -> bytes:
    units = ",".join(["0"] * len(ACTION_UNIT_COLUMNS))
    header = ",".join(["timestamp", "confidence", "success", *ACTION_UNIT_COLUMNS])
    return "".join(f"{line}\n" for line in (header, *(f"{time},0.9,1,{units}" for time in times))).encode()


def test_rows_have_times_and_positions() -> None:
    content = simulate_openface_csv(3, "action_units", newline="\r\n")
    rows = index(content)
    assert rows[:, 0] == pytest.approx([0, 1 / 30, 2 / 30], abs=1e-3)
    lines = content.splitlines(keepends=True)
    assert [content[int(begin) : int(end)] for _, _, begin, end in rows] == lines[1:]


def test_rows_without_success_or_confidence_are_not_usable() -> None:
    content = simulate_openface_csv(4, "action_units", success=[1, 0, 1, 1], confidence=[0.9, 0.9, 0.4, 0.9])
    assert index(content)[:, 1].tolist() == [1, 0, 0, 1]


def test_semicolons_and_decimal_commas_are_read() -> None:
    content = simulate_openface_csv(2, "action_units").replace(b",", b";").replace(b".", b",")
    assert index(content)[:, 0] == pytest.approx([0, 0.033])


def test_many_rows_come_in_blocks() -> None:
    content = csv_of(*(n / 30 for n in range(BLOCK_ROWS + 1)))
    limits = OpenFaceLimits(max_rows=BLOCK_ROWS + 1)
    blocks = list(index_frames(io.BytesIO(content), "action_units", 0.5, limits))
    assert [len(block) for block in blocks] == [BLOCK_ROWS, 1]


def test_a_file_without_rows_has_no_block() -> None:
    assert list(index_frames(io.BytesIO(csv_of()), "action_units", 0.5, LIMITS)) == []


CORRUPT = {
    "backwards": (csv_of(1, 0.5), "goes backwards", "line 3, column timestamp"),
    "nan": (csv_of("nan"), "not a number of seconds", "line 2, column timestamp"),
    "negative": (csv_of(-1), "not a number of seconds", "line 2, column timestamp"),
    "infinite": (csv_of("1e999"), "not a number of seconds", "line 2, column timestamp"),
    "cells": (csv_of(0) + b"1,2\n", "2 cells stand under 38", "line 3"),
    "blank": (csv_of(0) + b"\n" + csv_of(1).splitlines()[1], "a blank line", "line 3"),
    "rows": (csv_of(*range(101)), "at most 100 rows", "line 102"),
    "line": (csv_of(0) + b"x" * 5_000, "a line may hold", "line 3"),
    "no time": (simulate_openface_csv(1, "action_units", mode="image"), "needs the column timestamp", "line 1"),
    "utf-16": (csv_of(0).decode().encode("utf-16"), "must be in UTF-8", None),
    "json": (b'{"a": 1}\n', "is JSON", "line 1"),
    "bytes": (csv_of(*range(99)) + b" " * 2**12 * 300, "at most", None),
}


@pytest.mark.parametrize("name", CORRUPT)
def test_errors_name_the_line(name: str) -> None:
    content, detail, place = CORRUPT[name]
    limits = OpenFaceLimits(max_bytes=2**14, max_line_bytes=2**12, max_rows=100) if name == "bytes" else LIMITS
    with pytest.raises(ModalityError) as caught:
        index(content.replace(b" " * 2**12, b" " * 2**11 + b"\n"), limits)
    assert detail in caught.value.detail
    if name != "bytes":
        assert caught.value.place == place


def test_blank_lines_may_follow_the_last_row() -> None:
    assert len(index(csv_of(0, 1) + b"\n\r\n")) == 2
