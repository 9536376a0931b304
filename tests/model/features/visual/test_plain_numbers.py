import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.features.visual.plain_numbers import MOST_DIGITS, parse_plain
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
def test_a_plain_number_is_what_float_makes_of_it(cell: bytes) -> None:
    values, odd = parse(cell + b",8," + cell)
    assert odd == []
    assert values.tolist() == [[float(cell), 8.0, float(cell)]]


@pytest.mark.parametrize("cell", NOT_PLAIN)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_row_with_anything_else_is_pointed_out_and_its_neighbours_are_not(cell: bytes, place: int) -> None:
    cells = [b"1", b"2", b"3"]
    cells[place] = cell
    values, odd = parse(b"4,5,6", b",".join(cells), b"7,8,9", b",".join(cells))
    assert odd == [1, 3]
    assert values[[0, 2]].tolist() == [[4, 5, 6], [7, 8, 9]]


def test_minus_zero_keeps_its_sign() -> None:
    values, _ = parse(b"-0.000,0.000")
    assert np.signbit(values).tolist() == [[True, False]]


def test_only_the_columns_asked_for_are_returned_in_the_order_asked_for() -> None:
    values, odd = parse_plain([b"1,2,3", b"4,5,x"], 3, np.array([1, 0]))
    assert values.tolist() == [[2, 1], [5, 4]]
    assert odd == [1]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "-", " ", "  -"]),
            st.text("0123456789", min_size=1, max_size=MOST_DIGITS),
            st.none() | st.text("0123456789", max_size=MOST_DIGITS),
        ),
        min_size=1,
        max_size=40,
    )
)
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_whatever_the_digits_the_value_is_float_s_to_the_last_bit(numbers: list[tuple[str, str, str | None]]) -> None:
    cells = [lead + whole + ("" if part is None else "." + part) for lead, whole, part in numbers]
    values, odd = parse(",".join(cells).encode())
    assert odd == []
    assert values.tobytes() == np.array([float(cell) for cell in cells]).tobytes()


@given(st.lists(st.text("0123 .-,e+", max_size=12), min_size=1, max_size=5))
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
def test_no_row_is_called_plain_that_float_would_not_take(lines: list[str]) -> None:
    columns = max(line.count(",") for line in lines) + 1
    rows = [line + "," * (columns - 1 - line.count(",")) for line in lines]
    values, odd = parse_plain([row.encode() for row in rows], columns, np.arange(columns))
    for number in set(range(len(rows))) - set(odd):
        assert values[number].tolist() == [float(cell) for cell in rows[number].split(",")]
