"""Records as JSON lines, and back: what `consume --format json` prints and `produce --format json` reads.

One object a line: topic, partition, offset, timestamp, key, value, headers. Keys and values that are not
UTF-8 stand in base64 as key_base64 and value_base64; so does a header's value. Timestamps are ISO 8601 in
UTC to the nanosecond: numbers of that size do not survive every JSON tool. Values of a dtype= topic are
objects with a member a field.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Iterator
from datetime import UTC, datetime
from json.encoder import encode_basestring as quote
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

import pystream
from pystream.cli.common import time_text
from pystream.options import parse_time

FIELDS: Final = ("key", "value", "timestamp", "headers")
"""What is taken over from a line; what else `consume` prints says where the record was."""
IGNORED: Final = ("topic", "partition", "offset")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MOMENT: Final = re.compile(
    r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d)?)(?:\.(\d{1,9}))?(Z|[+-]\d\d(?::?\d\d)?)?", re.ASCII
)
_DENSE: Final = (",", ":")


class Fields(NamedTuple):
    """A record as a line said it."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    timestamp: int | None
    """Nanoseconds; None: the line has none."""
    stamped: bool
    """Whether the line spoke of a timestamp at all, if only to say null."""


# ---- records to lines ---------------------------------------------------------------------------------


def _member(name: str, data: bytes | None) -> str:
    """`"name":...` of bytes."""
    if data is None:
        return f'"{name}":null'
    try:
        return f'"{name}":{quote(data.decode())}'
    except UnicodeDecodeError:
        return _encoded(name, data)


def _encoded(name: str, data: bytes | None) -> str:
    return f'"{name}_base64":"{b64encode(data or b"").decode()}"'


def _header(name: str, value: bytes | None) -> str:
    raw = name.encode(errors="surrogateescape")
    return f"{{{_member('name', raw)},{_member('value', value)}}}"


def encode(batch: pystream.Batch, dtype: npt.DTypeLike | None = None) -> Iterator[bytes]:
    """The lines of a batch, each with its newline.

    Args:
        dtype: of the topic's values, or None.
    """
    values = None if dtype is None else objects(batch.array)
    head = f'{{"topic":{quote(batch.topic)},"partition":{batch.partition},"offset":'
    second, prefix = None, ""
    for i, record in enumerate(batch):
        nanoseconds = record.timestamp
        if nanoseconds is None:
            stamp = "null"
        else:  # most records of a batch lie in the same second
            whole, rest = divmod(nanoseconds, 10**9)
            if whole != second:
                second, prefix = whole, time_text(whole * 10**9)[:-1]
            stamp = f'"{prefix}.{rest:09}Z"' if rest else f'"{prefix}Z"'
        if values is not None:
            value = f'"value":{values[i]}'
        else:
            value = _member("value", record.value) if dtype is None else _encoded("value", record.value)
        headers = ",".join([_header(*header) for header in record.headers])
        yield (
            f'{head}{record.offset},"timestamp":{stamp},{_member("key", record.key)},{value},'
            f'"headers":[{headers}]}}\n'
        ).encode()


def objects(array: npt.NDArray[Any]) -> list[str] | None:
    """The items of an array, each as JSON; None where some dtype or some text cannot be said in it."""
    try:
        items = _plain(array)
        texts = [json.dumps(item, ensure_ascii=False, separators=_DENSE, allow_nan=False) for item in items]
        "".join(texts).encode()
    except ValueError:  # UnicodeError is one
        return None
    return texts


def _plain(array: npt.NDArray[Any]) -> list[Any]:
    """The items of an array as what JSON has. ValueError where there is no such thing."""
    if array.dtype.names is not None:
        columns = [_plain(array[name]) for name in array.dtype.names]
        return [dict(zip(array.dtype.names, row, strict=True)) for row in zip(*columns, strict=True)]
    if array.ndim > 1:
        return [_plain(row) for row in array]
    kind = array.dtype.kind
    if kind in "biuU":
        return list(array.tolist())
    if kind == "f" and array.dtype.itemsize <= 8:
        return [x if np.isfinite(x) else str(x) for x in array.tolist()]
    if kind == "S":
        return [item.decode() for item in array.tolist()]
    if kind == "M":
        return [None if text == "NaT" else str(text) for text in np.datetime_as_string(array)]
    if kind == "m":
        return [None if np.isnat(item) else int(item.astype(np.int64)) for item in array]
    raise ValueError(f"{array.dtype} has no form in JSON")


# ---- lines to records ---------------------------------------------------------------------------------


def decode(line: bytes, dtype: np.dtype[Any] | None = None) -> Fields:
    """What a line says.

    Args:
        dtype: of the topic's values, or None: values that are no text are kept as their JSON.

    Raises:
        ValueError: what is wrong with the line, and what would be right.
    """
    try:
        said = json.loads(line, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason} at byte {error.start + 1}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos + 1}") from None
    except RecursionError:
        raise ValueError("not usable: nested too deeply") from None
    if not isinstance(said, dict):
        raise ValueError(f'not an object but {_kind(said)}; a line is {{"value": ...}}')
    stamped = "timestamp" in said
    timestamp = _moment(said.pop("timestamp", None))
    headers = _headers(said.pop("headers", None))
    key = _take(said, "key", None, required=False)
    value = _take(said, "value", dtype, required=True)
    for name in IGNORED:
        said.pop(name, None)
    if said:
        known = ", ".join((*FIELDS, "key_base64", "value_base64", *IGNORED))
        raise ValueError(f"unknown member {next(iter(said))!r}; known are {known}")
    return Fields(key, value, headers, timestamp, stamped)


def _refuse_constant(text: str) -> None:
    raise ValueError(f"not JSON: {text} is no JSON number")


def _kind(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _bytes_of(name: str, text: object) -> bytes:
    if not isinstance(text, str):
        raise ValueError(f"{name} must be a string in base64, not {_kind(text)}")
    try:
        return b64decode(text, validate=True)
    except (Base64Error, ValueError):
        raise ValueError(f"{name} is not base64: {text[:40]!r}") from None


def _text_of(name: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} holds half of a surrogate pair; give bytes as {name}_base64") from None


def _take(said: dict[str, Any], name: str, dtype: np.dtype[Any] | None, *, required: bool) -> bytes | None:
    """A key or value, from either of its members."""
    encoded = f"{name}_base64"
    if encoded in said:
        if said.get(name) is not None:
            raise ValueError(f"{name} and {encoded} are both given")
        said.pop(name, None)
        return _bytes_of(encoded, said.pop(encoded))
    if name not in said:
        if required:
            raise ValueError(f'no {name}; give {name}, {encoded}, or "{name}": null for a tombstone')
        return None
    value = said.pop(name)
    if value is None:
        return None
    if dtype is not None:
        try:
            return np.array(_item(name, value, dtype), dtype).tobytes()
        except (OverflowError, TypeError) as error:
            raise ValueError(f"{name} does not fit {dtype}: {error}") from None
    if isinstance(value, str):
        return _text_of(name, value)
    if name == "key":
        raise ValueError(f"key must be a string or null, not {_kind(value)}")
    return _text_of(name, json.dumps(value, ensure_ascii=False, separators=_DENSE))


def _headers(said: Any) -> list[tuple[str, bytes | None]]:
    if said is None:
        return []
    if isinstance(said, dict):
        said = [{"name": name, "value": value} for name, value in said.items()]
    if not isinstance(said, list):
        raise ValueError(f"headers must be an array or an object, not {_kind(said)}")
    headers = []
    for i, header in enumerate(said):
        place = f"headers[{i}]"
        if not isinstance(header, dict) or not isinstance(header.get("name"), str):
            raise ValueError(f'{place} must be an object such as {{"name": "trace", "value": "abc"}}')
        header = dict(header)
        name = _text_of(f"{place}.name", header.pop("name")).decode()
        value = header.get("value")
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{place}.value must be a string or null, not {_kind(value)}")
        try:
            headers.append((name, _take(header, "value", None, required=True)))
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
        if header:
            raise ValueError(f"{place} has an unknown member {next(iter(header))!r}")
    return headers


def _moment(said: Any) -> int | None:
    """Nanoseconds of a timestamp: ISO 8601, or a number of nanoseconds."""
    if said is None:
        return None
    if isinstance(said, int) and not isinstance(said, bool):
        return parse_time("timestamp", said)
    match = _MOMENT.fullmatch(said) if isinstance(said, str) else None
    try:
        if match is None:
            raise ValueError
        moment = datetime.fromisoformat(match[1] + (match[3] or "Z"))
        if moment.tzinfo is None:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"timestamp {said!r} is neither ISO 8601, as 2026-01-31T12:00:00.5Z, nor nanoseconds"
        ) from None
    delta = moment - _EPOCH
    nanoseconds = (delta.days * 86400 + delta.seconds) * 10**9 + int((match[2] or "0").ljust(9, "0"))
    if not -(2**63) < nanoseconds < 2**63:
        raise ValueError(f"timestamp {said!r} is outside 1677-09-21 .. 2262-04-11")
    return nanoseconds


def _item(name: str, value: Any, dtype: np.dtype[Any]) -> Any:
    """What NumPy makes an item of `dtype` from. Nothing is rounded, cut or wrapped that JSON said exactly."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        if not isinstance(value, list) or len(value) != shape[0]:
            raise ValueError(f"{name} must be an array of {shape[0]}, not {_kind(value)}")
        inner = base if len(shape) == 1 else np.dtype((base, shape[1:]))
        return [_item(f"{name}[{i}]", each, inner) for i, each in enumerate(value)]
    if dtype.names is not None:
        if not isinstance(value, dict):
            raise ValueError(f"{name} must be an object with {', '.join(dtype.names)}, not {_kind(value)}")
        odd = [field for field in dtype.names if field not in value] or [
            field for field in value if field not in dtype.names
        ]
        if odd:
            lacks = "lacks" if odd[0] in dtype.names else "has no field"
            raise ValueError(f"{name} {lacks} {odd[0]!r}; its fields are {', '.join(dtype.names)}")
        return tuple(_item(f"{name}.{field}", value[field], dtype[field]) for field in dtype.names)
    return _scalar(name, value, dtype)


def _scalar(name: str, value: Any, dtype: np.dtype[Any]) -> Any:
    kind = dtype.kind
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == "b" and isinstance(value, bool):
        return value
    if kind in "iu" and number and value == int(value):
        bounds = np.iinfo(dtype)
        if not bounds.min <= value <= bounds.max:
            raise ValueError(f"{name}={value} does not fit {dtype}: {bounds.min} to {bounds.max}")
        return int(value)
    if kind == "f" and (number or value in ("nan", "inf", "-inf")):
        return float(value)
    if kind == "S" and isinstance(value, str):
        return _fitting(name, _text_of(name, value), dtype.itemsize)
    if kind == "U" and isinstance(value, str):
        return _fitting(name, value, dtype.itemsize // 4)
    if kind == "m" and (value is None or (number and isinstance(value, int))):
        return np.array("NaT" if value is None else value, dtype)[()]
    if kind == "M" and (value is None or isinstance(value, str)):
        try:
            return np.datetime64("NaT" if value is None else value.removesuffix("Z")).astype(dtype)
        except ValueError:
            raise ValueError(f"{name}={value!r} is not ISO 8601") from None
    raise ValueError(f"{name} must be what fits {dtype}, not {_kind(value)}")


def _fitting(name: str, text: Any, most: int) -> Any:
    if len(text) > most:
        raise ValueError(f"{name} has a length of {len(text)}; at most {most} fit")
    return text
