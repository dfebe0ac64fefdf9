"""Columns as text: UTF-8 checked, base64, hexadecimal, moments in ISO 8601, anything else as JSON.

Each function takes and gives Arrow arrays; a null stays a null. What cannot be text is told row by row.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import cache
from itertools import islice
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

DAY_NS: Final = 86_400 * 10**9
MOMENT_BYTES: Final = len("2013-01-01T00:00:00.000000000Z")
_DAY_MIN: Final = -719_162  # 0001-01-01
_DAY_MAX: Final = 2_932_896  # 9999-12-31
_DAYS_TABLE_MAX: Final = 1 << 16
_UNIT_NS: Final = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}


class Bad(NamedTuple):
    """A row that is not what it should be."""

    row: int
    reason: str


Converted = tuple[Any, list[Bad]]
"""An array, and the rows that cannot be in it; where there are such rows the array means nothing."""


def utf8(column: pa.Array) -> Converted:
    """Bytes as the text they are."""
    plain = binary(column)
    try:
        return plain.cast(pa.string()), []
    except pa.ArrowInvalid:
        rows = enumerate(plain.to_pylist())
        return None, [Bad(row, reason) for row, data in rows if (reason := _not_utf8(data))]


def _not_utf8(data: bytes | None) -> str:
    try:
        (data or b"").decode()
    except UnicodeDecodeError as error:
        return f"is not UTF-8 (byte 0x{data[error.start]:02x} at {error.start})" if data else ""
    return ""


def base64(column: pa.Array) -> Converted:
    """Bytes in base64, the standard alphabet, padded."""
    return _each(column, b64encode), []


def hexadecimal(column: pa.Array) -> Converted:
    """Bytes as two hexadecimal digits each."""
    return _each(column, bytes.hex), []


def _each(column: pa.Array, encode: Callable[[bytes], str | bytes]) -> pa.Array:
    values = binary(column).to_pylist()
    return pa.array([None if data is None else encode(data) for data in values], pa.string())


ENCODERS: Final[dict[str, Callable[[pa.Array], Converted]]] = {
    "utf8": utf8,
    "base64": base64,
    "hex": hexadecimal,
}


def binary(column: pa.Array) -> pa.Array:
    """Bytes, whether of a fixed width or not, as Arrow's plain binary."""
    return column.cast(pa.binary()) if pa.types.is_fixed_size_binary(column.type) else column


def padded(column: pa.Array) -> Converted:
    """Bytes of NumPy's kind S, which ends where its zeros begin, as text."""
    found, bad = utf8(column)
    return (found if bad else pc.ascii_rtrim(found, characters="\0")), bad


def wide(column: pa.Array, dtype: np.dtype[Any]) -> Converted:
    """Bytes of NumPy's kind U as text."""
    data = b"".join(each.as_py() or bytes(dtype.itemsize) for each in column)
    try:
        return pa.array(np.frombuffer(data, dtype).tolist(), pa.string()), []
    except (ValueError, UnicodeError) as error:
        return None, [Bad(0, f"is not text ({error})")]


# ---- moments ------------------------------------------------------------------------------------------


def moments(column: pa.Array) -> pa.Array:
    """Timestamps of any unit as ISO 8601 with nine digits; with a Z where they are in UTC.

    Arrow's own cast takes a microsecond and a half for each; tables of days, seconds and thousands make
    it twenty times faster.
    """
    unit = _UNIT_NS[column.type.unit]
    count = len(column)
    numbers = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    if unit != 1:
        days, rest = np.divmod(numbers, DAY_NS // unit)
        seconds, parts = np.divmod(rest, 10**9 // unit)
        parts *= unit
    else:
        seconds_all, parts = np.divmod(numbers, 10**9)
        days, seconds = np.divmod(seconds_all, 86_400)
    width = MOMENT_BYTES if column.type.tz else MOMENT_BYTES - 1
    if count and (days.min() < _DAY_MIN or days.max() > _DAY_MAX):
        return column.cast(pa.string())  # beyond the years 1 to 9999: of no fixed length
    digits = np.empty((count, width), np.uint8)
    digits[:, :10] = _dates(days)
    digits[:, 10] = ord("T")
    digits[:, 11:19] = _clock()[seconds]
    digits[:, 19] = ord(".")
    thousands, last = np.divmod(parts, 1000)
    first, middle = np.divmod(thousands, 1000)
    for at, group in ((20, first), (23, middle), (26, last)):
        digits[:, at : at + 3] = _thousands()[group]
    if column.type.tz:
        digits[:, 29] = ord("Z")
    offsets = np.arange(count + 1, dtype=np.int32) * np.int32(width)
    text = pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(digits))
    return pc.if_else(column.is_valid(), text, None) if column.null_count else text


@cache
def _clock() -> npt.NDArray[np.uint8]:
    """The 86,400 times of a day."""
    text = b"".join(b"%02d:%02d:%02d" % (s // 3600, s // 60 % 60, s % 60) for s in range(86_400))
    return np.frombuffer(text, np.uint8).reshape(-1, 8)


@cache
def _thousands() -> npt.NDArray[np.uint8]:
    return np.frombuffer(b"".join(b"%03d" % n for n in range(1000)), np.uint8).reshape(-1, 3)


def _dates(days: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Days since the epoch as YYYY-MM-DD, ten bytes each."""
    if not len(days):
        return np.empty((0, 10), np.uint8)
    low, high = int(days.min()), int(days.max())
    if high - low < _DAYS_TABLE_MAX:
        wanted, at = np.arange(low, high + 1), days - low
    else:
        wanted, at = np.unique(days, return_inverse=True)
    text = np.datetime_as_string(wanted.astype("M8[D]")).astype("S10")
    table: npt.NDArray[np.uint8] = text.view(np.uint8).reshape(-1, 10)[at]
    return table


# ---- JSON ---------------------------------------------------------------------------------------------


def json_text(column: pa.Array) -> pa.Array:
    """Nested values as JSON text, one by one."""
    return pa.array([None if each is None else dumps(each) for each in column.to_pylist()], pa.string())


def dumps(value: object) -> str:
    """A value as compact JSON. Moments in ISO 8601, bytes in base64, decimals as text; not a number: null."""
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain)
    except ValueError:
        return json.dumps(
            _finite(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain
        )


def _plain(value: object) -> object:
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray)):
        return b64encode(value).decode()
    if isinstance(value, (Decimal, timedelta)):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return value


def headers(column: pa.Array, encode: str, none: str | None) -> Converted:
    """Headers as a JSON array of {"key": ..., "value": ...}; `none` where a record has none."""
    flat = column.flatten()
    if not len(flat):
        return pa.array([none] * len(column), pa.string()), []
    values, bad = ENCODERS[encode](flat.field("value"))
    lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    if bad:
        row_of = np.repeat(np.arange(len(column)), lengths)
        return None, [Bad(int(row_of[each.row]), f"header {each.reason}") for each in bad]
    keys = flat.field("key").to_pylist()
    pairs = iter([{"key": key, "value": value} for key, value in zip(keys, values.to_pylist(), strict=True)])
    rows = [dumps(list(islice(pairs, length))) if length else none for length in lengths.tolist()]
    return pa.array(rows, pa.string()), []
