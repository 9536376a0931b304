import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.features.visual.plain_numbers import (
    MAX_DIGITS,
    parse_plain,
)
from model.types import DoubleArray


def parse(*lines: bytes) -> tuple[DoubleArray, list[int]]:
    columns = lines[0].count(b",") + 1
    return parse_plain(lines, columns, np.arange(columns))


PLAIN = (
    *(b"0", b"7", b"-1", b"0.5", b".5", b"5.", b"-.5", b"-5.", b"  -0.25", b" 1", b"0000001", b"9999999"),
    *(b"1234567.7654321", b"-0.0000001", b"0.1", b"0.3", b"503.8", b"-956.215", b"0.98"),
)

NOT_PLAIN = (
    *(
        b"",
        b" ",
        b"-",
        b".",
        b"-.",
        b" .",
        b"1 ",
        b"+1",
        b"1e3",
        b"--1",
        b"- 1",
        b"1-",
        b"1-1",
        b"1 1",
        b"1.1.1",
        b"..",
    ),
    *(b"12345678", b"0.12345678", b"nan", b"inf", b"1_0", b"\t1", b"1\r", b"1\0", b"\xd9\xa1", b":", b"/", b"0x1"),
)


@pytest.mark.parametrize("cell", PLAIN)
def test_plain_number_equals_float(cell: bytes) -> None:
    values, other = parse(cell + b",8," + cell)
    assert other == []
    assert values.tolist() == [[float(cell), 8.0, float(cell)]]


@pytest.mark.parametrize("cell", NOT_PLAIN)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_only_rows_with_other_notation_are_returned_as_such(cell: bytes, place: int) -> None:
    cells = [b"1", b"2", b"3"]
    cells[place] = cell
    values, other = parse(b"4,5,6", b",".join(cells), b"7,8,9", b",".join(cells))
    assert other == [1, 3]
    assert values[[0, 2]].tolist() == [[4, 5, 6], [7, 8, 9]]


def test_minus_zero_keeps_its_sign() -> None:
    values, _ = parse(b"-0.000,0.000")
    assert np.signbit(values).tolist() == [[True, False]]


def test_used_columns_are_returned_in_the_given_order() -> None:
    values, other = parse_plain([b"1,2,3", b"4,5,x", b"6,x,7"], 3, np.array([1, 0]))
    assert values[:2].tolist() == [[2, 1], [5, 4]]
    assert other == [2]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "-", " ", "  -"]),
            st.text("0123456789", min_size=1, max_size=MAX_DIGITS),
            st.none() | st.text("0123456789", max_size=MAX_DIGITS),
        ),
        min_size=1,
        max_size=40,
    )
)
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_value_is_bit_equal_to_float(numbers: list[tuple[str, str, str | None]]) -> None:
    cells = [lead + whole + ("" if part is None else "." + part) for lead, whole, part in numbers]
    values, other = parse(",".join(cells).encode())
    assert other == []
    assert values.tobytes() == np.array([float(cell) for cell in cells]).tobytes()


@given(st.lists(st.text("0123 .-,e+", max_size=12), min_size=1, max_size=5))
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
def test_plain_rows_are_accepted_by_float(lines: list[str]) -> None:
    columns = max(line.count(",") for line in lines) + 1
    rows = [line + "," * (columns - 1 - line.count(",")) for line in lines]
    values, other = parse_plain([row.encode() for row in rows], columns, np.arange(columns))
    for number in set(range(len(rows))) - set(other):
        assert values[number].tolist() == [float(cell) for cell in rows[number].split(",")]
