"""JSON and msgpack: what they write, read and refuse, and JSON alike with and without orjson."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import Enum
from typing import Any
from uuid import UUID

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import without
from pystream import Serializer, serializers
from pystream._native.serial import may_exceed_int64

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | TEXT
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def trees(leaves: Any) -> Any:
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
        max_leaves=12,
    )


def json_by_orjson() -> Serializer:
    return serializers._make_json()


def json_by_hand() -> Serializer:
    with without("orjson"):
        return serializers._make_json()


BOTH = pytest.mark.parametrize("make", [json_by_orjson, json_by_hand])


def test_both_kinds_of_json_are_tried() -> None:
    assert json_by_hand().serialize is serializers._to_json
    assert json_by_orjson().serialize is not serializers._to_json


@BOTH
@given(value=trees(SCALARS | FLOATS))
def test_any_json(make: Callable[[], Serializer], value: Any) -> None:
    serializer = make()
    data = serializer.serialize(value)
    assert json.loads(data) == value
    assert repr(serializer.deserialize(data)) == repr(value)  # 1 is not 1.0, and order counts
    for text in (json.dumps(value), json.dumps(value, indent=1, ensure_ascii=False)):
        assert repr(serializer.deserialize(text.encode())) == repr(value)


@given(trees(SCALARS))
def test_json_is_written_alike_without_orjson(value: Any) -> None:
    """To the byte, but for floats: they are the same numbers, perhaps spelt differently."""
    assert json_by_orjson().serialize(value) == json_by_hand().serialize(value)


class Color(Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: float


@BOTH
@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": 2}, b'{"b":1,"a":2}'),
        ("é\u2028", '"é\u2028"'.encode()),
        ((1, 2), b"[1,2]"),
        ({1: 2, None: 3}, b'{"1":2,"null":3}'),
        (2**64, b"18446744073709551616"),
        (-(2**63) - 1, b"-9223372036854775809"),
        ({"at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)}, b'{"at":"2026-01-02T03:04:05+00:00"}'),
        ([date(2026, 1, 2)], b'["2026-01-02"]'),
        (UUID(int=1), b'"00000000-0000-0000-0000-000000000001"'),
        (Color.RED, b'"red"'),
        ([Point(1, 2.5)], b'[{"x":1,"y":2.5}]'),
        ([np.int64(3), np.float32(0.5), np.bool_(True), np.float64(1.5)], b"[3,0.5,true,1.5]"),
    ],
)
def test_what_json_writes(make: Callable[[], Serializer], value: Any, text: bytes) -> None:
    assert make().serialize(value) == text


@BOTH
@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        [float("inf")],
        {"a": {"b": (None, -float("inf"))}},
        [None, Point(1, float("nan"))],
        [np.float64("nan")],
        [np.float32("nan")],
        {float("nan"): 1},
        "\ud800",
        {1, 2},
        b"bytes",
        {b"k": 1},
        Point,
    ],
)
def test_what_json_refuses(make: Callable[[], Serializer], value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        make().serialize(value)


@BOTH
@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"18446744073709551616", 2**64),
        (b"[-9223372036854775809]", [-(2**63) - 1]),
        (b"9223372036854775808", 2**63),
        (b"-9223372036854775808", -(2**63)),
        (b'{"a":1,"a":2}', {"a": 2}),
        (b'"\\ud800"', "\ud800"),
        (b" 1 ", 1),
        (b"[" * 2000 + b"]" * 2000, None),
    ],
)
def test_what_json_reads(make: Callable[[], Serializer], text: bytes, value: Any) -> None:
    read = make().deserialize
    if value is not None:
        assert repr(read(text)) == repr(value)
    else:  # too deep or not, it is so either way
        with pytest.raises(RecursionError):
            read(text)


@BOTH
@pytest.mark.parametrize(
    "text",
    [b"NaN", b"[Infinity]", b"-Infinity", b"", b"{", b"\xff", b"'a'", b"\xef\xbb\xbf1", "1".encode("utf-16")],
)
def test_what_json_does_not_read(make: Callable[[], Serializer], text: bytes) -> None:
    with pytest.raises(ValueError):
        make().deserialize(text)


@given(st.lists(st.sampled_from([b"-", b"1" * 18, b"7" * 19, b"9" * 20, b" ", b"0", b"12", b",", b"x" * 17])))
def test_long_integers_are_found(parts: list[bytes]) -> None:
    data = b"".join(parts)
    assert may_exceed_int64(data) == bool(re.search(rb"\d{20}|-\d{19}", data))


MSGPACK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.binary()
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.integers(0, 9) | st.text("ab"), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(MSGPACK)
def test_any_msgpack(value: Any) -> None:
    serializer = serializers.named("msgpack")
    data = serializer.serialize(value)
    assert data == msgpack.packb(value)
    assert serializer.deserialize(data) == value
