"""The native floor of ingest: rows of text, their partition, and rows of columns as JSON."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pystream._native import rows
from pystream._native.hashing import murmur2
from pystream.ingest.text import parts_of


def split(
    data: bytes, *, quote: int = ord('"'), cr: bool = True, last: bool = True
) -> tuple[list[bytes], int]:
    starts, ends, consumed = rows.split_rows(data, 0, ord(","), quote, cr, last)
    return [data[start:end] for start, end in zip(starts, ends, strict=True)], consumed


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"\n\r\n\r", []),
        (b"a\nb", [b"a", b"b"]),
        (b"a\rb\r\nc\n", [b"a", b"b", b"c"]),
        (b'"a\nb",c\nd', [b'"a\nb",c', b"d"]),
        (b'a,"b""\n",c\nd\n', [b'a,"b""\n",c', b"d"]),
        (b'a"b\nc"\n', [b'a"b', b'c"']),
        (b'"a"x"\nb\n', [b'"a"x"', b"b"]),
        (b'"never closed\nb\n', [b'"never closed\nb\n']),
        (b'"ends in a quote"', [b'"ends in a quote"']),
        (b',""\n"",\n', [b',""', b'"",']),
    ],
)
def test_split(data, expected):
    assert split(data)[0] == expected


@given(st.binary(max_size=60).map(lambda data: bytes(b'a,"\n\r'[byte % 5] for byte in data)))
def test_split_in_two_is_split_at_once(data):
    """Wherever a block ends, the rows are the same."""
    whole, _ = split(data)
    for cut in range(len(data) + 1):
        first, consumed = split(data[:cut], last=False)
        second, _ = split(data[consumed:])
        assert first + second == whole


@given(st.lists(st.lists(st.text(alphabet='a,"\n\r', max_size=5), min_size=2, max_size=4), max_size=8))
def test_split_finds_the_rows_of_the_csv_module(table):
    out = io.StringIO(newline="")
    csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(table)
    found, consumed = split(out.getvalue().encode())
    assert len(found) == len(table)
    assert consumed == len(out.getvalue())
    assert [next(csv.reader(io.StringIO(row.decode(), newline=""))) for row in found] == table


def test_split_more_rows_than_were_expected():
    data = b"a\n" * 100_000
    found, consumed = split(data)
    assert (len(found), consumed) == (100_000, 200_000)


@given(st.binary(max_size=200))
def test_lines_are_those_of_python(data):
    lines = [line for line in data.split(b"\n") if line]
    assert split(data, quote=-1, cr=False)[0] == lines
    starts, ends, _ = rows.split_rows(data, 0, 0, -1, False, True)
    gathered, offsets = rows.gather(data, starts, ends)
    assert [bytes(gathered[a:b]) for a, b in itertools.pairwise(offsets)] == lines


@given(st.lists(st.one_of(st.none(), st.binary(max_size=20))), st.integers(1, 65536), st.integers(0, 3))
def test_partitions_are_those_of_kafka(keys, partitions, skip):
    array = pa.array(keys, pa.binary())[skip:]
    found = rows.partition_of(parts_of(array), len(array), partitions)
    expected = [-1 if key is None else (murmur2(key) & 0x7FFFFFFF) % partitions for key in keys[skip:]]
    assert found.tolist() == expected


def render(cell: str, texts: list[bytes | None]) -> list[bytes | None]:
    array = pa.array(texts, pa.binary())
    data, offsets, bad = rows.json_rows([(b'{"a":', rows.CELLS[cell], parts_of(array))], len(texts))
    return [
        None if bad[i] >= 0 else bytes(data[offsets[i] : offsets[i + 1]])[len(b'{"a":') : -1]
        for i in range(len(texts))
    ]


@given(st.lists(st.one_of(st.none(), st.text(max_size=40)), max_size=20))
def test_texts_as_json(texts):
    found = render("text", [None if text is None else text.encode() for text in texts])
    assert [json.loads(item or b"x") for item in found] == texts


@given(st.lists(st.binary(max_size=24), max_size=20))
def test_bytes_that_are_no_text_are_found(items):
    for item, found in zip(items, render("text", items), strict=True):
        try:
            text = item.decode()
        except UnicodeDecodeError:
            assert found is None
        else:
            assert found is not None
            assert json.loads(found) == text


@given(st.one_of(st.integers().map(str), st.floats(allow_nan=False, allow_infinity=False).map(repr)))
def test_numbers_as_json(text):
    assert render("number", [text.encode()]) == [text.encode()]
    (found,) = render("float", [text.encode()])
    assert isinstance(json.loads(found or b""), float)


@pytest.mark.parametrize(
    ("cell", "text", "expected"),
    [
        ("number", b" 12\t", b"12"),
        ("number", b"+5", b"5"),
        ("number", b".5", b"0.5"),
        ("number", b"-.5e-3", b"-0.5e-3"),
        ("number", b"5.", b"5.0"),
        ("number", b"0", b"0"),
        ("number", b"-0.0", b"-0.0"),
        ("number", b"007", None),
        ("number", b"", b"null"),
        ("number", b"NA", b"null"),
        ("number", b"NaN", b"null"),
        ("number", b"-Infinity", b"null"),
        ("number", b"inf", b"null"),
        ("number", b"1e", None),
        ("number", b".", None),
        ("number", b"-", None),
        ("number", b"1 2", None),
        ("number", b"0x10", None),
        ("number", b"1_000", None),
        ("float", b"5", b"5.0"),
        ("float", b"1e+20", b"1e+20"),
        ("float", b"nan", b"null"),
        ("bool", b"TRUE", b"true"),
        ("bool", b"0", b"false"),
        ("bool", b"n/a", b"null"),
        ("bool", b"inf", None),
        ("bool", b"yes", None),
        ("text", b"", b'""'),
        ("text_or_null", b"", b"null"),
        ("text_or_null", b"null", b"null"),
        ("text_or_null", b"x", b'"x"'),
        ("json", b"[1]", b"[1]"),
    ],
)
def test_cells(cell, text, expected):
    assert render(cell, [text]) == [expected]


def test_rows_that_grow_beyond_the_guess():
    texts = ["\x01" * size for size in range(0, 3000, 7)]
    assert [json.loads(item or b"") for item in render("text", [text.encode() for text in texts])] == texts


def test_no_columns_and_no_rows():
    data, offsets, _ = rows.json_rows([], 3)
    assert bytes(data) == b"{}{}{}"
    assert offsets.tolist() == [0, 2, 4, 6]
    data, offsets, bad = rows.json_rows([], 0)
    assert (len(data), offsets.tolist(), len(bad)) == (0, [0], 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: rows.gather(b"abc", np.array([0], "i4"), np.array([4], "i4")),
            "row 0 does not lie in the data",
        ),
        (
            lambda: rows.gather(b"abc", np.array([2], "i4"), np.array([1], "i4")),
            "row 0 does not lie in the data",
        ),
        (lambda: rows.gather(b"abc", np.array([0], "i4"), np.array([], "i4")), "as many ends as starts"),
        (
            lambda: rows.partition_of((None, np.array([0, 5], "i4"), b"abc", 0), 1, 3),
            "a buffer of 3 bytes, where 5",
        ),
        (
            lambda: rows.partition_of((None, np.array([3, 2], "i4"), b"abc", 0), 1, 3),
            "the offsets of a column fall",
        ),
        (
            lambda: rows.partition_of((None, np.array([0], "i4"), b"abc", 0), 1, 3),
            "a buffer of 4 bytes, where 8",
        ),
        (lambda: rows.partition_of((None, np.array([0], "i4"), b"", 0), 0, 0), "no partitions"),
    ],
)
def test_columns_that_make_no_sense_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_infinities_of_python_are_null():
    assert render("float", [repr(math.inf).encode(), repr(-math.inf).encode()]) == [b"null", b"null"]
