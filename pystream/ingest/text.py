"""Arrow columns as text: the form they have as keys, as values, and inside JSON.

Integers are decimal, floats the shortest text that gives the same number, booleans `true` and `false`, dates
and times ISO 8601 (aware timestamps in UTC with a Z), decimals their digits, durations the count of their
unit. Text and binary stay as they are; inside JSON, binary is base64, decimals are strings (many readers of
JSON take numbers for doubles), and NaN and infinities, which JSON has not, are null.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from pystream._native import rows

try:
    import orjson
except ImportError:  # json does the same, in a third of the speed
    orjson = None  # type: ignore[assignment]

Column: TypeAlias = Any
"""A `pyarrow.Array`; pyarrow has no types of its own."""

NESTED = "nested values have no text"


def parse_json(text: bytes) -> Any:
    """The value of a JSON text, strictly: no NaN, and UTF-8 only.

    Raises:
        ValueError: it is not JSON; says why, and where.
    """
    if orjson is not None:
        return orjson.loads(text)
    return json.loads(text.decode("utf-8"), parse_constant=_refuse_constant)


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def dump_json(value: Any) -> bytes:
    """One compact JSON text, in UTF-8, of what `plain` returns."""
    if orjson is not None:
        try:
            return orjson.dumps(value)
        except TypeError:  # an integer beyond 64 bits
            pass
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def decoded(array: Column) -> Column:
    """The array in one of Arrow's plain layouts: no dictionary, run ends, views or 64-bit offsets."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks() if array.num_chunks != 1 else array.chunk(0)
    while isinstance(array, pa.ExtensionArray):
        array = array.storage
    kind = array.type
    if pa.types.is_dictionary(kind):
        return decoded(array.dictionary_decode())
    if pa.types.is_run_end_encoded(kind):
        return decoded(pc.run_end_decode(array))
    if pa.types.is_large_string(kind) or kind == pa.string_view():
        return array.cast(pa.string())
    if pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind) or kind == pa.binary_view():
        return array.cast(pa.binary())
    if pa.types.is_float16(kind):
        return array.cast(pa.float32())
    return array


def parts_of(array: Column) -> tuple[Any, Any, Any, int]:
    """A string or binary array as the native floor takes it."""
    validity, offsets, data = array.buffers()
    return validity if array.null_count else None, offsets, data, array.offset


def is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_binary(kind))


def iso_text(array: Column) -> Column:
    """Dates, times and timestamps as ISO 8601."""
    if not pa.types.is_timestamp(array.type):
        return array.cast(pa.string())
    if array.type.tz is not None:
        array = array.cast(pa.timestamp(array.type.unit, "UTC"))
    return pc.replace_substring(array.cast(pa.string()), " ", "T", max_replacements=1)


def plain_text(array: Column) -> Column:
    """A column as a string or binary array, one text a slot; nulls stay null.

    Raises:
        TypeError: lists, structs and maps, which have no one text.
    """
    array = decoded(array)
    kind = array.type
    if is_text(kind):
        return array
    if pa.types.is_nested(kind):
        raise TypeError(f"{NESTED} ({kind})")
    if pa.types.is_temporal(kind) and not pa.types.is_duration(kind):
        return iso_text(array)
    if pa.types.is_floating(kind):
        texts = array.cast(pa.string())
        return pc.if_else(
            pc.match_substring_regex(texts, r"^-?[0-9]+$"),
            pc.binary_join_element_wise(texts, ".0", ""),
            texts,
        )
    if pa.types.is_duration(kind):
        array = array.cast(pa.int64())
    return array.cast(pa.string())


def object_text(value: Any) -> bytes | None:
    """The text of a value that came out of JSON; see `plain_text`.

    Raises:
        TypeError: a list or an object.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, (list, dict)):
        raise TypeError(NESTED)
    return repr(value).encode()


def json_cell(array: Column) -> tuple[int, Column]:
    """How a column is written into JSON: the cell, and the text that it takes."""
    array = decoded(array)
    kind = array.type
    if pa.types.is_string(kind):
        return rows.CELLS["text"], array
    if pa.types.is_null(kind):
        return rows.CELLS["json"], array.cast(pa.string())
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return rows.CELLS["json"], array.cast(pa.string())
    if pa.types.is_duration(kind):
        return rows.CELLS["json"], array.cast(pa.int64()).cast(pa.string())
    if pa.types.is_floating(kind):
        return rows.CELLS["float"], array.cast(pa.string())
    if pa.types.is_decimal(kind):
        return rows.CELLS["text"], array.cast(pa.string())
    if pa.types.is_temporal(kind):
        return rows.CELLS["text"], iso_text(array)
    values = array.to_pylist()
    if pa.types.is_binary(kind):
        texts = [None if value is None else base64.b64encode(value) for value in values]
        return rows.CELLS["text"], pa.array(texts, pa.binary())
    nested = [None if value is None else dump_json(plain(value)) for value in values]
    return rows.CELLS["json"], pa.array(nested, pa.binary())


def plain(value: Any) -> Any:
    """A Python value as JSON has it; see the head of this module."""
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dt.datetime):
        if value.tzinfo is not None:
            return value.astimezone(dt.UTC).replace(tzinfo=None).isoformat() + "Z"
        return value.isoformat()
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return value // dt.timedelta(microseconds=1)
    if isinstance(value, Decimal):
        return str(value)
    return value


def json_rows(
    names: Sequence[str], cells: Sequence[tuple[int, Column]], count: int
) -> tuple[Column, dict[int, int]]:
    """Rows of columns as JSON objects, keys in the order of `names`.

    Returns:
        The objects as a binary array, and {row: column that could not be written}; such rows are empty.
    """
    columns = []
    for index, (name, (cell, array)) in enumerate(zip(names, cells, strict=True)):
        lead = b"{" if index == 0 else b","
        columns.append((lead + dump_json(name) + b":", cell, parts_of(array)))
    data, offsets, bad = rows.json_rows(columns, count)
    found = {int(row): int(bad[row]) for row in (bad >= 0).nonzero()[0]}
    return binary_array(data, offsets), found


def binary_array(data: Any, offsets: Any) -> Column:
    """A binary array over int32 offsets and bytes, without a copy."""
    return pa.Array.from_buffers(
        pa.binary(), len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    )
