"""Serializers: what keys and values are outside of a log, where they are bytes.

`value=` and `key=` of `Store.topic`, `Topic.producer` and `Store.consumer` take

- a name: "utf8", "json", "msgpack"; "bytes" for none;
- a function: a producer and a topic write through it, a consumer reads through it;
- a pair of functions (serialize, deserialize), of which one may be None;
- a `Serializer`.

None stays None both ways: a null value, a tombstone, or no key, is never shown to a serializer. Nothing about
serializers is stored: a topic holds bytes, whoever reads says what they mean.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import date, datetime, time
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias
from uuid import UUID

import numpy as np

from pystream._native.serial import CodedSchema, Coder, is_plain_and_finite, may_exceed_int64
from pystream.errors import OptionError

if TYPE_CHECKING:
    from pystream._native.schema import Schema

Serialize: TypeAlias = Callable[[Any], Any]
"""From an object to bytes or a bytes-like object."""

Deserialize: TypeAlias = Callable[[bytes], Any]
"""From bytes to an object."""


@dataclass(frozen=True, slots=True)
class Serializer:
    """How values, or keys, become bytes, and how bytes become them again.

    Attributes:
        name: what errors call it.
        serialize: from an object to bytes or a bytes-like object; None: bytes are written as they are.
        deserialize: from bytes to an object; None: bytes are read as they are.
    """

    name: str
    serialize: Serialize | None = None
    deserialize: Deserialize | None = None


SerializerLike: TypeAlias = (
    str | Serializer | Callable[[Any], Any] | tuple[Serialize | None, Deserialize | None]
)
"""A name, a `Serializer`, a function, or a pair (serialize, deserialize)."""


# ---- those that come with pystream --------------------------------------------------------------------


def _to_utf8(text: Any) -> bytes:
    if not isinstance(text, str):
        raise TypeError(f"it takes str, not {type(text).__name__}")
    return text.encode()


def _from_utf8(data: bytes) -> str:
    return data.decode()


BYTES: Final = Serializer("bytes")
"""None at all: bytes go in, bytes come out."""

UTF8: Final = Serializer("utf8", _to_utf8, _from_utf8)
"""Text as UTF-8; anything but str is refused."""


def _json_default(value: Any) -> Any:
    """What JSON has no word for but everyone writes alike. For both writers of JSON, so that they agree."""
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (np.integer, np.floating, np.bool_)):
        return value.item()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    raise TypeError(f"{type(value).__name__} is no type that JSON knows")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_json_encoder: Final = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_json_default
)
_json_decoder: Final = json.JSONDecoder(parse_constant=_refuse_constant)


def _to_json(value: Any) -> bytes:
    return _json_encoder.encode(value).encode()


def _from_json(data: bytes) -> Any:
    return _json_decoder.decode(data.decode())


def _make_json() -> Serializer:
    """JSON by orjson where it is installed and agrees with the standard library, which has the last word.

    orjson writes NaN as null, knows integers of 64 bits only and reads longer ones as floats, refuses some
    keys and types: all these go the other way, so that what is accepted does not depend on what is installed.
    """
    try:
        import orjson
    except ImportError:
        return Serializer("json", _to_json, _from_json)
    dumps, loads, failed = orjson.dumps, orjson.loads, orjson.JSONDecodeError
    options = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS

    def serialize(value: Any) -> bytes:
        try:
            data = dumps(value, _json_default, options)
        except TypeError:
            return _to_json(value)
        if b"null" in data and not is_plain_and_finite(value):
            return _to_json(value)
        return data

    def deserialize(data: bytes) -> Any:
        if may_exceed_int64(data):
            return _from_json(data)
        try:
            return loads(data)
        except failed:
            return _from_json(data)

    return Serializer("json", serialize, deserialize)


def _make_msgpack() -> Serializer:
    try:
        import msgpack
    except ImportError as error:
        raise ModuleNotFoundError(
            "the serializer 'msgpack' needs the package msgpack: pip install 'pystream-log[serializers]'",
            name="msgpack",
        ) from error
    packb, unpackb = msgpack.packb, msgpack.unpackb

    def deserialize(data: bytes) -> Any:
        return unpackb(data, strict_map_key=False)  # else it would not read all that it wrote

    return Serializer("msgpack", packb, deserialize)


_MAKERS: Final[Mapping[str, Callable[[], Serializer]]] = {
    "bytes": lambda: BYTES,
    "json": _make_json,
    "msgpack": _make_msgpack,
    "utf8": lambda: UTF8,
}


@cache
def named(name: str) -> Serializer:
    """The serializer called "bytes", "utf8", "json" or "msgpack".

    "json" writes UTF-8 without spaces, keys in the order in which they come, and refuses NaN and infinities;
    datetimes, dates, times, UUIDs, enums, dataclasses and NumPy's numbers are written, and read back as what
    JSON makes of them. It is faster with orjson, which may spell floats in another way (0.00002, 2e-05);
    they are the same numbers, and all else is the same to the byte.

    Raises:
        OptionError: there is no such serializer.
        ModuleNotFoundError: it needs a package that is not installed.
    """
    if name not in _MAKERS:
        raise OptionError(f"there is no serializer {name!r}; there are {', '.join(map(repr, _MAKERS))}")
    return _MAKERS[name]()


# ---- options --------------------------------------------------------------------------------------------


def parse(option: str, given: object, *, reads: bool = False) -> Serializer | None:
    """The serializer that `value=` or `key=` asks for; None when it was left out.

    Args:
        option: "value" or "key".
        reads: a plain function deserializes, as for consumers; else it serializes.

    Raises:
        OptionError: no serializer of that name, or one that does nothing.
        TypeError: of another type.
        ModuleNotFoundError: it needs a package that is not installed.
    """
    if given is None:
        return None
    if isinstance(given, Serializer):
        return _check_functions(option, given)
    if isinstance(given, str):
        if given not in _MAKERS:
            raise OptionError(
                f"{option}={given!r}: there is no such serializer; there are "
                f"{', '.join(map(repr, _MAKERS))}, functions, and pairs (serialize, deserialize)"
            )
        return named(given)
    if isinstance(given, tuple) and len(given) == 2:
        first, second = given
        name = _name_of(second if first is None else first)
        return _check_functions(option, Serializer(name, first, second))
    if given is bytes or given is str:
        raise OptionError(
            f"{option}= wants a function or a name, not a type: say {option}="
            + ('"bytes"' if given is bytes else '"utf8"')
        )
    if callable(given):
        name = _name_of(given)
        return Serializer(name, None, given) if reads else Serializer(name, given, None)
    hint = ""
    if callable(getattr(given, "dumps", None)) and callable(getattr(given, "loads", None)):
        hint = "; of this one, the pair (x.dumps, x.loads)"
    raise TypeError(
        f"{option}= must be the name of a serializer, a function, a pair (serialize, deserialize) or a "
        f"Serializer, not {type(given).__name__}{hint}"
    )


def _name_of(function: object) -> str:
    return getattr(function, "__qualname__", None) or repr(function)


def _check_functions(option: str, serializer: Serializer) -> Serializer:
    for verb in ("serialize", "deserialize"):
        function = getattr(serializer, verb)
        if function is not None and not callable(function):
            raise TypeError(f"{option}=: {verb} must be a function or None, not {type(function).__name__}")
    return serializer


def parse_writer(option: str, given: object) -> Serializer | None:
    """The same for a producer, which must be able to write through it."""
    serializer = parse(option, given)
    if serializer is not None and serializer.serialize is None and serializer.deserialize is not None:
        raise OptionError(
            f'{option}={serializer.name}: only deserializes, a producer has to serialize; {option}="bytes" '
            "takes bytes as they are"
        )
    return serializer


def parse_reader(option: str, given: object) -> Serializer | None:
    """The same for a consumer, which must be able to read through it."""
    serializer = parse(option, given, reads=True)
    if serializer is not None and serializer.deserialize is None and serializer.serialize is not None:
        raise OptionError(
            f'{option}={serializer.name}: only serializes, a consumer has to deserialize; {option}="bytes" '
            "gives bytes as they are"
        )
    return serializer


def parse_readers(option: str, given: object) -> Callable[[str], Serializer | None]:
    """The same for several topics: one serializer for all, or {topic: serializer}, others bytes."""
    if not isinstance(given, Mapping):
        serializer = parse_reader(option, given)
        return lambda _: serializer
    found = {}
    for topic, each in given.items():
        if not isinstance(topic, str):
            raise TypeError(
                f"{option}=: the keys of the mapping are names of topics, not {type(topic).__name__}"
            )
        found[topic] = parse_reader(f"{option}[{topic!r}]", each)
    return found.get


def check_dtype(topic: str, value: Serializer | None, dtype: object) -> None:
    """A topic with a type has no use for a serializer of values.

    Raises:
        OptionError: it has both.
    """
    if dtype is not None and value is not None and _coder(value) is not None:
        raise OptionError(
            f"value={value.name}: topic {topic!r} has a dtype, which says what its values are; leave value= "
            "away",
            topic=topic,
        )


def schema_with(schema: Schema, value: Serializer | None, key: Serializer | None) -> Schema:
    """The schema for somebody who reads or writes a topic through these; the schema itself for nobody's.

    Raises:
        OptionError: a serializer of values for a topic with a dtype.
    """
    check_dtype(schema.topic, value, schema.dtype)
    values, keys = _coder(value), _coder(key)
    return schema if values is None and keys is None else CodedSchema(schema, values, keys)


def _coder(serializer: Serializer | None) -> Coder | None:
    if serializer is None or (serializer.serialize is None and serializer.deserialize is None):
        return None
    return Coder(serializer.name, serializer.serialize, serializer.deserialize, serializer is UTF8)
