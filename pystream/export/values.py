"""JSON values: checked and embedded as they are, or taken apart into typed columns.

Blocks of values are parsed by Arrow, all at once. Arrow knows nothing of where a value ends, so a block
counts as parsed only when each value begins with a brace and ends with one, and there are as many rows as
values: a value that opened something and left it open would need a comma before the next one's brace, so
each is at least one row, hence exactly one. Whatever does not pass is looked at value by value.

Types are unified over the whole range before a row is written: integers become floating point where they
meet it, integers beyond 64 bits decimals, and a field that holds things of different kinds (numbers here,
text there) becomes text, the field's own JSON. Text that looks like a moment stays text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from pystream.export.request import Fields
from pystream.export.text import Bad, Converted, binary, dumps

INT64_MAX: Final = 2**63 - 1
DECIMAL_DIGITS_MAX: Final = 38
_BIG: Final = pa.decimal128(DECIMAL_DIGITS_MAX, 0)
_PARSE_BYTES: Final = 1 << 20
_NOTHING: Final = pa.schema([("\0nothing is called this", pa.int8())])
_CONSTANT: Final = r"[:,\[]\s*-?(NaN|Inf)"
_BEYOND_64_BITS: Final = "92[2-9][0-9]{16}|9[3-9][0-9]{17}|[0-9]{20}"


class Clash(Exception):
    """Types that have nothing in common."""


# ---- whole blocks ---------------------------------------------------------------------------------------


def _lines(values: pa.Array) -> tuple[pa.Buffer, bool] | None:
    """The values, none of them null, one after the other with line ends between, and whether they hold
    line ends themselves. None unless each is in braces."""
    offsets = np.frombuffer(values.buffers()[1], np.int32)[values.offset : values.offset + len(values) + 1]
    if (offsets[1:] == offsets[:-1]).any():
        return None
    data = np.frombuffer(values.buffers()[2], np.uint8)
    if (data[offsets[:-1]] != ord("{")).any() or (data[offsets[1:] - 1] != ord("}")).any():
        return None
    folded = bool((data[offsets[0] : offsets[-1]] == ord("\n")).any())
    joined = pc.binary_join_element_wise(values, b"\n", b"")
    ends = np.frombuffer(joined.buffers()[1], np.int32)[joined.offset :]
    return joined.buffers()[2].slice(int(ends[0]), int(ends[len(values)] - ends[0])), folded


def _parse(values: pa.Array, schema: pa.Schema | None, others: str) -> pa.Table | None:
    """All values by Arrow; None when it cannot vouch for each of them.

    Raises:
        pa.ArrowInvalid: something in them does not parse, or not fit.
    """
    lines = _lines(values)
    if lines is None:
        return None
    text, folded = lines
    longest = int(pc.max(pc.binary_length(values)).as_py())
    table = pj.read_json(
        pa.BufferReader(text),
        read_options=pj.ReadOptions(block_size=max(_PARSE_BYTES, 2 * longest + 2)),
        parse_options=pj.ParseOptions(
            explicit_schema=schema,
            newlines_in_values=folded,
            unexpected_field_behavior="infer" if schema is None else others,
        ),
    )
    return table if table.num_rows == len(values) else None


def _text(values: pa.Array) -> bytes:
    """The bytes of all values."""
    ends = np.frombuffer(values.buffers()[1], np.int32)[values.offset :]
    first, last = int(ends[0]), int(ends[len(values)])
    text: bytes = values.buffers()[2].slice(first, last - first).to_pybytes()
    return text


def _has_long_number(values: pa.Array) -> bool:
    """Whether there may be an integer that is beyond 64 bits: the first look is cheap, the second is exact
    about the number of digits.
    """
    # Of 19 bytes in a row, three that lie six apart are among every sixth.
    sixth = np.frombuffer(_text(values), np.uint8)[::6] - np.uint8(ord("0")) < 10
    if not (sixth[:-2] & sixth[1:-1] & sixth[2:]).any():
        return False
    return bool(pc.any(pc.match_substring_regex(values, _BEYOND_64_BITS)).as_py())


def _has_constants(values: pa.Array) -> bool:
    """Whether there may be a NaN or an infinity, which Arrow takes for numbers and JSON does not have."""
    text = _text(values)
    if b"NaN" not in text and b"Inf" not in text:
        return False
    return bool(pc.any(pc.match_substring_regex(values, _CONSTANT)).as_py())


def _is_utf8(values: pa.Array) -> bool:
    try:
        values.cast(pa.string())
    except pa.ArrowInvalid:
        return False
    return True


# ---- embedding ------------------------------------------------------------------------------------------


def embedded(column: pa.Array) -> Converted:
    """Values of any JSON as the text they are, each on one line."""
    values = binary(column)
    there = values.drop_null()
    if not len(there):
        return values.cast(pa.string()), []
    if not _sound(there):
        bad = []
        for row, data in enumerate(values.to_pylist()):
            if data is not None and (reason := _flaw(data)):
                bad.append(Bad(row, reason))
        if bad:
            return None, bad
    text = values.cast(pa.string())
    for end in ("\n", "\r"):  # JSON has line ends between its tokens only
        if end.encode() in _text(there):
            text = pc.replace_substring(text, end, " ")
    return text, []


def _sound(values: pa.Array) -> bool:
    """Whether it is certain that each value is a JSON object, without looking at each."""
    if not _is_utf8(values) or _has_constants(values):
        return False
    try:
        return _parse(values, _NOTHING, "ignore") is not None
    except pa.ArrowInvalid:
        return False


def _flaw(data: bytes) -> str:
    """What is wrong with a value as JSON; "" for nothing."""
    try:
        json.loads(data.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        return f"is not UTF-8 (byte 0x{data[error.start]:02x} at {error.start})"
    except (ValueError, RecursionError) as error:
        return f"is not JSON: {error}"
    return ""


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


# ---- inference ------------------------------------------------------------------------------------------


def infer(columns: Iterable[pa.Array], *, skip_bad: bool) -> Fields | Bad:
    """The fields of all values and their types, or the first bad value of the last column that was drawn.

    Bad values are passed over when `skip_bad`: they are told of when they are parsed.
    """
    fields: dict[str, Any] = {}
    for column in columns:
        for found in _infer_block(binary(column)):
            if isinstance(found, Bad):
                if not skip_bad:
                    return found
                continue
            for name, kind in found.items():
                fields[name] = _field(fields[name], kind) if name in fields else kind
    return Fields({name: None if kind is Clash else _settled(kind) for name, kind in fields.items()})


def _field(left: Any, right: Any) -> Any:
    """The type of a field that was `left` so far; `Clash` for one that is text by now."""
    if left is Clash or right is Clash:
        return Clash
    try:
        return unify(left, right)
    except Clash:
        return Clash


def _infer_block(values: pa.Array) -> Iterator[dict[str, Any] | Bad]:
    there = values.drop_null()
    if not len(there):
        return
    try:
        table = _parse(there, None, "infer") if _is_utf8(there) and not _has_constants(there) else None
    except pa.ArrowInvalid:
        table = None
    if table is not None:
        types = {field.name: _plain(field.type) for field in table.schema}
        exact = not any(_has_float(kind) for kind in types.values())
        if exact or not _has_long_number(there):
            yield types
            return
    for row, data in enumerate(values.to_pylist()):
        if data is None:
            continue
        try:
            value = _object(data)
        except ValueError as error:
            yield Bad(row, str(error))
        else:
            yield {name: _kind_or_clash(each) for name, each in value.items()}


def _object(data: bytes) -> dict[str, Any]:
    """A value that must be a JSON object. ValueError says why it is not."""
    if flaw := _flaw(data):
        raise ValueError(flaw)
    value = json.loads(data)
    if not isinstance(value, dict):
        raise ValueError(f"is JSON but no object, and only an object has fields: {_shortened(data.decode())}")
    return value


def _shortened(text: str, most: int = 60) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def _plain(kind: Any) -> Any:
    """An inferred type without Arrow's guess that some text is a moment."""
    if pa.types.is_temporal(kind):
        return pa.string()
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _plain(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(_plain(kind.value_type))
    return kind


def _has_float(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        return any(_has_float(field.type) for field in kind)
    if pa.types.is_list(kind):
        return _has_float(kind.value_type)
    return bool(pa.types.is_floating(kind))


def _kind_or_clash(value: object) -> Any:
    try:
        return _kind(value)
    except Clash:
        return Clash


def _kind(value: object) -> Any:
    """The type of one value as Python reads it."""
    if value is None:
        return pa.null()
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int):
        if -INT64_MAX - 1 <= value <= INT64_MAX:
            return pa.int64()
        if abs(value) < 10**DECIMAL_DIGITS_MAX:
            return _BIG
        raise Clash
    if isinstance(value, float):
        return pa.float64()
    if isinstance(value, str):
        return pa.string()
    if isinstance(value, dict):
        return pa.struct([(name, _kind(each)) for name, each in value.items()])
    assert isinstance(value, list)
    item = pa.null()
    for each in value:
        item = unify(item, _kind(each))
    return pa.list_(item)


def unify(left: Any, right: Any) -> Any:
    """The type that holds both.

    Raises:
        Clash: there is none.
    """
    if left == right or pa.types.is_null(right):
        return left
    if pa.types.is_null(left):
        return right
    if pa.types.is_struct(left) and pa.types.is_struct(right):
        types = {field.name: field.type for field in left}
        for field in right:
            types[field.name] = unify(types[field.name], field.type) if field.name in types else field.type
        return pa.struct(list(types.items()))
    if pa.types.is_list(left) and pa.types.is_list(right):
        return pa.list_(unify(left.value_type, right.value_type))
    kinds = {str(left), str(right)}
    if kinds == {"int64", "double"} or kinds == {str(_BIG), "double"}:
        return pa.float64()
    if kinds == {"int64", str(_BIG)}:
        return _BIG
    raise Clash


def _settled(kind: Any) -> Any:
    """A type to write: a field that was null throughout is text, and empty objects are their JSON."""
    if pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_struct(kind):
        if not len(list(kind)):
            return None
        fields = [(field.name, _settled(field.type)) for field in kind]
        return None if any(each is None for _, each in fields) else pa.struct(fields)
    if pa.types.is_list(kind):
        item = _settled(kind.value_type)
        return None if item is None else pa.list_(item)
    return kind


# ---- columns --------------------------------------------------------------------------------------------


def columns(column: pa.Array, fields: Fields) -> tuple[list[Any], list[Bad]]:
    """One array a field, in their order; null where a value is null, or has no such field."""
    values = binary(column)
    schema = pa.schema([(name, kind or pa.string()) for name, kind in fields.types.items()])
    there = values.drop_null()
    if not len(there):
        return [pa.nulls(len(values), field.type) for field in schema], []
    texts = [name for name, kind in fields.types.items() if kind is None]
    table = None
    if _is_utf8(there) and not _has_constants(there):
        try:
            table = _parse(_with_texts(there, texts) if texts else there, schema, fields.others)
        except (pa.ArrowInvalid, ValueError):
            table = None
    if table is None:
        table, bad = _one_by_one(values, schema, fields.others, texts)
        if bad:
            return [], bad
    assert table is not None
    found = [pa.concat_arrays(table.column(field.name).chunks) for field in schema]
    if values.null_count:
        at = pc.subtract(pc.cumulative_sum(values.is_valid().cast(pa.int64())), 1)
        at = pc.if_else(values.is_valid(), at, pa.scalar(None, pa.int64()))
        found = [each.take(at) for each in found]
    return found, []


def _with_texts(values: pa.Array, texts: list[str]) -> pa.Array:
    """The values with some fields replaced by their JSON. ValueError for one that is no object."""
    return pa.array([_with_text(data, texts) for data in values.to_pylist()], pa.binary())


def _with_text(data: bytes, texts: list[str]) -> bytes:
    value = _object(data)
    for name in texts:
        if value.get(name) is not None:
            value[name] = dumps(value[name])
    return dumps(value).encode()


def _one_by_one(
    values: pa.Array, schema: pa.Schema, others: str, texts: list[str]
) -> tuple[pa.Table | None, list[Bad]]:
    """For a block that Arrow did not take: the bad values, or, when they are fine one by one, all of them."""
    bad = []
    good = []
    for row, data in enumerate(values.to_pylist()):
        if data is None:
            continue
        try:
            # Written anew, a value is on one line and in braces, and of two fields of a name the last counts.
            good.append((row, _with_text(data, texts)))
        except UnicodeEncodeError as error:
            bad.append(Bad(row, f"has text that no UTF-8 can hold ({error.reason})"))
        except ValueError as error:
            bad.append(Bad(row, str(error)))
    bad += _misfits(good, schema, others)
    if bad:
        return None, sorted(bad)
    return _parse(pa.array([data for _, data in good], pa.binary()), schema, others), []


def _misfits(rows: list[tuple[int, bytes]], schema: pa.Schema, others: str) -> list[Bad]:
    """The rows that do not fit the schema, found by halving."""
    if not rows:
        return []
    try:
        if _parse(pa.array([data for _, data in rows], pa.binary()), schema, others) is not None:
            return []
        reason = "is not one JSON object"
    except pa.ArrowInvalid as error:
        reason = str(error)
    if len(rows) > 1:
        middle = len(rows) // 2
        return _misfits(rows[:middle], schema, others) + _misfits(rows[middle:], schema, others)
    row, data = rows[0]
    return [Bad(row, f"does not fit the schema: {_explained(reason, data, schema)}")]


def _explained(reason: str, data: bytes, schema: pa.Schema) -> str:
    if "unexpected field" in reason:
        strange = [name for name in json.loads(data) if name not in schema.names]
        names = ", ".join(map(repr, strange)) or "one inside another"
        return f'it has a field that is not in schema=: {names}; add it, or end the schema with "..."'
    return reason.removeprefix("JSON parse error: ").removesuffix(" in row 0")
