"""Columns as records of a NumPy dtype: which Arrow types make which fields, and rows as structured arrays.

Each field takes the column of its name; columns that no field names are left out. A null is NaN in a float
and makes the row bad in any other field. Nothing is rounded, cut or wrapped: what does not fit makes the row
bad. Times become `datetime64` of the field's unit where no digit is lost, booleans `?`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv

from pystream.errors import OptionError
from pystream.ingest.text import Column, decoded
from pystream.ingest.times import TimeRules, list_to_ns, to_ns
from pystream.options import INT64_MIN

_NOTHING = pa.array(pcsv.ConvertOptions().null_values, pa.string())
_TRUE = ("true", "True", "TRUE", "1")
_FALSE = ("false", "False", "FALSE", "0")


def dtype_from_schema(schema: pa.Schema, where: str) -> np.dtype[Any]:
    """The dtype whose fields are the columns of an Arrow schema.

    Integers, floats and booleans keep their width; timestamps become `M8` of their unit (aware ones in UTC),
    dates `M8[D]`, durations `m8` of their unit, fixed-size binary `S`.

    Raises:
        OptionError: a column of another type, or of a width that varies.
    """
    fields: list[tuple[str, str]] = []
    for column in schema:
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if pa.types.is_timestamp(kind):
            fields.append((column.name, f"M8[{kind.unit}]"))
        elif pa.types.is_date(kind):
            fields.append((column.name, "M8[D]"))
        elif pa.types.is_duration(kind):
            fields.append((column.name, f"m8[{kind.unit}]"))
        elif pa.types.is_fixed_size_binary(kind) and not pa.types.is_decimal(kind):
            fields.append((column.name, f"S{kind.byte_width}"))
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
            fields.append((column.name, np.dtype(kind.to_pandas_dtype()).str))
        else:
            hint = " (text has no fixed width: say one, such as S16)" if _is_textual(kind) else ""
            names = ", ".join(schema.names)
            raise OptionError(
                f"{where}: no field can be inferred for column {column.name!r} of {kind}{hint}; "
                f"give the dtype, with the columns wanted of {names}"
            )
    return np.dtype(fields)


def _is_textual(kind: Any) -> bool:
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_null(kind)
    )


def check_dtype(dtype: np.dtype[Any]) -> None:
    """Refuse a dtype with fields that no column can fill."""
    for name in dtype.names or ("",):
        field = dtype[name] if name else dtype
        if field.kind not in "iufbMmSU":
            called = f"field {name!r} of {field}" if name else str(field)
            raise OptionError(
                f"{called}: rows can fill numbers, booleans, times and texts of fixed width only"
            )


Values = npt.NDArray[Any]


def field_values(column: Any, dtype: np.dtype[Any], rules: TimeRules) -> tuple[Values, dict[int, str]]:
    """A column, or a list of what came out of JSON, as an array of one field's type.

    Returns:
        The array, and {row: reason} of those that do not fit.
    """
    if isinstance(column, list):
        if dtype.kind == "M":
            return _moments(list_to_ns(column, rules), dtype)
        if dtype.kind in "iuf" and not any(isinstance(value, (bool, str)) for value in column):
            try:
                return field_values(pa.array(column), dtype, rules)
            except (pa.ArrowException, OverflowError, ValueError, TypeError):
                pass
        return _one_by_one(column, dtype)
    array = decoded(column)
    if pa.types.is_binary(array.type) and dtype.kind != "S":
        try:
            array = array.cast(pa.string())
        except pa.ArrowInvalid:
            return _one_by_one(array.to_pylist(), dtype)
    if dtype.kind == "M":
        return _moments(to_ns(array, rules), dtype)
    if dtype.kind == "f" and pa.types.is_string(array.type):
        array = pc.if_else(pc.is_in(array, _NOTHING), pa.scalar(None, pa.string()), array)
    quick = _whole(array, dtype)
    return quick if quick is not None else _one_by_one(array.to_pylist(), dtype)


def _whole(array: Column, dtype: np.dtype[Any]) -> tuple[Values, dict[int, str]] | None:
    """A whole column at once, or None when some value needs a closer look."""
    if dtype.kind not in "iufb" or (array.null_count and dtype.kind != "f"):
        return None
    kind = array.type
    if dtype.kind == "b" and not pa.types.is_boolean(kind):
        return None
    if dtype.kind != "b" and not (
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_string(kind)
    ):
        return None
    try:
        if dtype.kind == "f":
            wide = array.cast(pa.float64())
            values = pc.fill_null(wide, math.nan).to_numpy(zero_copy_only=False)
            with np.errstate(over="ignore"):
                narrow = values.astype(dtype)
            return None if (np.isinf(narrow) & ~np.isinf(values)).any() else (narrow, {})
        target = pa.bool_() if dtype.kind == "b" else pa.from_numpy_dtype(dtype.newbyteorder("="))
        return array.cast(target).to_numpy(zero_copy_only=False).astype(dtype), {}
    except pa.ArrowException:
        return None


def _moments(
    found: tuple[npt.NDArray[np.int64], dict[int, str]], dtype: np.dtype[Any]
) -> tuple[Values, dict[int, str]]:
    ns, bad = found
    exact = ns.view("M8[ns]")
    values = exact.astype(dtype)
    lost = (values.astype("M8[ns]").view(np.int64) != ns) & (ns != INT64_MIN)
    for row in np.flatnonzero(lost):
        bad.setdefault(
            int(row), f"the time {exact[row]} is not a whole number of {np.datetime_data(dtype)[0]}"
        )
    return values, bad


def _one_by_one(column: list[Any], dtype: np.dtype[Any]) -> tuple[Values, dict[int, str]]:
    values = np.zeros(len(column), dtype)
    bad: dict[int, str] = {}
    for row, value in enumerate(column):
        try:
            values[row] = _one(value, dtype)
        except (ValueError, OverflowError, TypeError) as error:
            bad[row] = str(error)
    return values, bad


def _one(value: Any, dtype: np.dtype[Any]) -> Any:
    if isinstance(value, bytes) and dtype.kind != "S":
        value = value.decode()
    if isinstance(value, str) and dtype.kind not in "SU":
        value = value.strip() or None
    if value is None:
        if dtype.kind == "f":
            return math.nan
        raise ValueError(f"nothing, where {dtype} is due")
    if dtype.kind in "SU":
        return _fixed_text(value, dtype)
    if dtype.kind == "b":
        if isinstance(value, bool) or value in _TRUE or value in _FALSE:
            return value if isinstance(value, bool) else value in _TRUE
    elif dtype.kind == "m":
        if not isinstance(value, (str, bool, float)):
            return np.timedelta64(value).astype(dtype)
    elif dtype.kind == "f" and not isinstance(value, (bool, list, dict)):
        number = float(value)
        with np.errstate(over="ignore"):
            if math.isinf(float(dtype.type(number))) and not math.isinf(number):
                raise ValueError(f"{value} is too large for {dtype}")
        return number
    elif dtype.kind in "iu" and not isinstance(value, (bool, list, dict)):
        whole = int(value) if not isinstance(value, float) or value.is_integer() else None
        if whole is not None:
            limits = np.iinfo(dtype)
            if not limits.min <= whole <= limits.max:
                raise ValueError(f"{value} is outside {limits.min} .. {limits.max}, what {dtype} holds")
            return whole
    raise ValueError(f"{value!r} is not {dtype}")


def _fixed_text(value: Any, dtype: np.dtype[Any]) -> Any:
    if not isinstance(value, (str, bytes)):
        raise ValueError(f"{value!r} is not text")
    if dtype.kind == "S":
        data = value.encode() if isinstance(value, str) else value
        if len(data) > dtype.itemsize:
            raise ValueError(
                f"{value!r} has {len(data)} bytes, more than the {dtype.itemsize} of {dtype.str[1:]}"
            )
        return data
    text = value if isinstance(value, str) else value.decode()
    if len(text) > dtype.itemsize // 4:
        raise ValueError(
            f"{value!r} has {len(text)} characters, more than the {dtype.itemsize // 4} of {dtype.str[1:]}"
        )
    return text
