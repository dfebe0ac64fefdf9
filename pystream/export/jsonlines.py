"""Rows as JSON lines, column by column: no row is ever a Python object."""

from __future__ import annotations

from collections.abc import Set
from json.encoder import encode_basestring
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pystream.export import text

_QUOTE: Final = ord('"')
_BACKSLASH: Final = ord("\\")
_FIRST_PRINTED: Final = ord(" ")


def render(rows: pa.RecordBatch, json_columns: Set[str]) -> pa.Buffer:
    """The rows as objects, one a line, UTF-8.

    Args:
        json_columns: whose text is JSON already.
    """
    pieces: list[Any] = []
    before = "{"
    for field, column in zip(rows.schema, rows.columns, strict=True):
        before += encode_basestring(field.name) + ":"
        shown = column if field.name in json_columns else _scalar(column)
        if shown is None:  # it only needs quotes: they stand in what is between
            pieces += [before + '"', column]
            before = '",'
        else:
            pieces += [before, shown.fill_null("null") if shown.null_count else shown]
            before = ","
    return _data(pc.binary_join_element_wise(*pieces, before[:-1] + "}\n", ""))


def render_bare(rows: pa.RecordBatch) -> pa.Buffer:
    """The JSON of the only column, one a line."""
    return _data(pc.binary_join_element_wise(rows.column(0).fill_null("null"), "\n", ""))


def _data(joined: pa.Array) -> pa.Buffer:
    ends = np.frombuffer(joined.buffers()[1], np.int32)[joined.offset :]
    return joined.buffers()[2].slice(int(ends[0]), int(ends[len(joined)] - ends[0]))


def _scalar(column: pa.Array) -> Any:
    """A column as text of JSON; None for one that only needs quotes."""
    kind = column.type
    if pa.types.is_string(kind):
        if not _is_plain(column):
            quoted = [None if each is None else encode_basestring(each) for each in column.to_pylist()]
            return pa.array(quoted, pa.string())
        if not column.null_count:
            return None
        return pc.binary_join_element_wise('"', column, '"', "")
    if pa.types.is_floating(kind):
        return _float(column)
    if pa.types.is_duration(kind):
        return column.cast(pa.int64()).cast(pa.string())
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.string())
    if pa.types.is_nested(kind):
        return text.json_text(column)
    return pc.binary_join_element_wise('"', column.cast(pa.string()), '"', "")


def _float(column: pa.Array) -> Any:
    """JSON has no NaN and no infinity: they are null. A whole number keeps a point, and so its type."""
    if pa.types.is_float16(column.type):
        column = column.cast(pa.float32())
    written = pc.if_else(pc.is_finite(column), column, pa.scalar(None, column.type)).cast(pa.string())
    whole = pc.match_substring_regex(written, "^-?[0-9]+$")
    if pc.any(whole).as_py():
        return pc.if_else(whole, pc.binary_join_element_wise(written, ".0", ""), written)
    return written


def _is_plain(column: pa.Array) -> bool:
    """Whether text holds nothing that JSON escapes."""
    if not len(column) or column.buffers()[2] is None:
        return True
    ends = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]
    data = np.frombuffer(column.buffers()[2], np.uint8)[ends[0] : ends[-1]]
    if not len(data) or data.min() >= _FIRST_PRINTED:
        return not ((data == _QUOTE) | (data == _BACKSLASH)).any()
    return False
