"""What an export is asked for: formats, encodings and columns, checked before anything is read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import pyarrow as pa

from pystream import options as opt
from pystream.errors import OptionError

SYSTEM_COLUMNS: Final = ("offset", "partition", "timestamp", "key", "value", "headers")

REST: Final = "..."
"""The last word of a schema that lets other fields of the values be, and leaves them out."""


class Format(NamedTuple):
    """One way to write rows. The first codec is the default."""

    extensions: tuple[str, ...]
    codecs: tuple[str, ...]
    is_text: bool


FORMATS: Final = {
    "parquet": Format((".parquet", ".pq"), ("snappy", "none", "gzip", "zstd", "lz4", "brotli"), False),
    "csv": Format((".csv", ".tsv"), ("none", "gzip", "zstd"), True),
    "jsonl": Format((".jsonl", ".ndjson", ".json"), ("none", "gzip", "zstd"), True),
    "arrow": Format((".arrow", ".ipc"), ("none", "lz4", "zstd"), False),
    "arrow-stream": Format((".arrows",), ("none", "lz4", "zstd"), False),
    "feather": Format((".feather",), ("lz4", "none", "zstd"), False),
}
"""arrow and feather are Arrow IPC files, arrow-stream is the Arrow IPC stream."""

SUFFIXES: Final = {".gz": "gzip", ".zst": "zstd"}
"""Extensions after the format's own, of text that is compressed as a whole."""

FOREIGN_SUFFIXES: Final = (".bz2", ".xz", ".lz4", ".zip", ".br", ".lzma")
"""Extensions of compressed files that no export makes."""

VALUES: Final = ("bytes", "utf8", "base64", "hex", "json")
KEYS: Final = ("bytes", "utf8", "base64", "hex")

_TYPES: Final = {
    "bool": pa.bool_(),
    "int": pa.int64(),
    "float": pa.float64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "double": pa.float64(),
    "str": pa.string(),
    "string": pa.string(),
    "utf8": pa.string(),
    "text": pa.string(),
    "timestamp": pa.timestamp("ns", "UTC"),
    **{f"timestamp[{unit}]": pa.timestamp(unit) for unit in ("s", "ms", "us", "ns")},
    **{f"timestamp[{unit}, UTC]": pa.timestamp(unit, "UTC") for unit in ("s", "ms", "us", "ns")},
    **{name: getattr(pa, name)() for name in ("int8", "int16", "int32", "int64")},
    **{name: getattr(pa, name)() for name in ("uint8", "uint16", "uint32", "uint64")},
}
_DECIMAL: Final = re.compile(r"decimal\((\d{1,2}), ?(\d{1,2})\)")
_DECIMAL_DIGITS_MAX: Final = 38


@dataclass(frozen=True)
class Fields:
    """The fields of JSON values that become columns. A type of None: JSON text, whatever the field holds."""

    types: dict[str, Any]
    others: str = "error"
    """What other fields of a value do: "error", or "ignore"."""


@dataclass(frozen=True)
class Request:
    """How rows are written."""

    format: str
    codec: str
    value: str | None
    """None: as the topic stores it, in a topic with a dtype."""
    key: str
    columns: tuple[str, ...]
    fields: Fields | None
    skip_bad: bool
    delimiter: str = ","

    @property
    def is_text(self) -> bool:
        return FORMATS[self.format].is_text

    @property
    def named(self) -> tuple[str, ...]:
        """The fields among the columns."""
        return tuple(name for name in self.columns if name not in SYSTEM_COLUMNS)

    @property
    def embeds(self) -> bool:
        """Whether JSON values are written whole, as they are."""
        return self.format == "jsonl" and self.value == "json" and self.fields is None and not self.named

    @property
    def infers(self) -> bool:
        """Whether the fields of JSON values are columns, and have to be found in the values."""
        wanted = "value" in self.columns or bool(self.named)
        return self.value == "json" and self.fields is None and wanted and not self.embeds

    @property
    def extension(self) -> str:
        """What the name of a file in this form ends with."""
        formats = FORMATS[self.format]
        name = ".tsv" if self.format == "csv" and self.delimiter == "\t" else formats.extensions[0]
        suffix = {codec: suffix for suffix, codec in SUFFIXES.items()}.get(self.codec, "")
        return name + (suffix if formats.is_text else "")


def parse_request(
    path: str | None,
    *,
    dtype: Any,
    partitions: int,
    format: str | None = None,
    compression: str | None = None,
    value: str | None = None,
    key: str | None = None,
    columns: str | Iterable[str] | None = None,
    schema: Any = None,
    bad_values: str = "stop",
    delimiter: str | None = None,
) -> Request:
    """Check what was asked for, and fill in what was not.

    Args:
        path: the output; None: standard output or a file object.
        dtype: the topic's.
        partitions: the topic's.

    Raises:
        OptionError: see `pystream.export.export`.
    """
    name, codec = _format_and_codec(path, format, compression)
    is_text = FORMATS[name].is_text
    if bad_values not in ("stop", "skip"):
        raise OptionError(f'bad_values={bad_values!r}: must be "stop" or "skip"')
    value = _value_form(name, is_text, value, dtype)
    key = opt.parse_choice("key", key if key is not None else "utf8" if is_text else "bytes", KEYS)
    if is_text and key == "bytes":
        raise OptionError(f'key="bytes": {name} holds text: give key="utf8", key="base64" or key="hex"')
    fields = None if schema is None else parse_schema(schema)
    if fields is not None and value != "json":
        raise OptionError('schema= is for the fields of JSON values: give value="json" too')
    if delimiter is not None and name != "csv":
        raise OptionError(f"delimiter= is for csv, and this is {name}")
    if delimiter is None:
        delimiter = "\t" if path is not None and _stem(path).endswith(".tsv") else ","
    if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n':
        raise OptionError(f"delimiter={delimiter!r}: must be one ASCII character, not a quote or a line end")
    names = _columns(columns, partitions)
    has_fields = value == "json" or (dtype is not None and dtype.names is not None)
    if not has_fields and (unknown := [name for name in names if name not in SYSTEM_COLUMNS]):
        hint = "" if dtype is not None else '; the fields of JSON values are columns with value="json"'
        raise OptionError(f"columns={unknown[0]!r}: must be of {', '.join(SYSTEM_COLUMNS)}{hint}")
    return Request(name, codec, value, key, names, fields, bad_values == "skip", delimiter)


def _value_form(name: str, is_text: bool, value: str | None, dtype: Any) -> str | None:
    if dtype is not None:
        if value not in (None, "base64", "hex") or (value is not None and not is_text):
            raise OptionError(
                f"value={value!r}: the topic has a dtype, so its fields are the columns; leave value= out"
            )
        return value
    form = opt.parse_choice("value", value if value is not None else "utf8" if is_text else "bytes", VALUES)
    if is_text and form == "bytes":
        raise OptionError(
            f'value="bytes": {name} holds text: give value="utf8", value="base64", value="hex" or '
            'value="json"'
        )
    return form


def _format_and_codec(path: str | None, format: str | None, compression: str | None) -> tuple[str, str]:
    names = ", ".join(FORMATS)
    suffix = None
    if path is not None:
        suffix = SUFFIXES.get(os.path.splitext(path)[1].lower())
    if format is None:
        if path is None:
            raise OptionError(f"format= is needed for standard output: one of {names}")
        extension = os.path.splitext(_stem(path))[1]
        found = [name for name, each in FORMATS.items() if extension in each.extensions]
        if not found and extension in FOREIGN_SUFFIXES:
            raise OptionError(
                f"{path}: nothing is written as {extension}; compressed text ends in .gz or .zst"
            )
        if not found:
            known = " ".join(extension for each in FORMATS.values() for extension in each.extensions)
            raise OptionError(
                f"{path}: its name does not say the format: end it in one of {known}, or give format=, "
                f"one of {names}"
            )
        format = found[0]
    format = opt.parse_choice("format", format, FORMATS)
    if path is None and format == "arrow":
        format = "arrow-stream"
    if path is None and format in ("parquet", "feather"):
        raise OptionError(
            f"format={format!r}: cannot go to standard output, which has no place to go back to; "
            "give a file, or csv, jsonl or arrow"
        )
    codecs = FORMATS[format].codecs
    if compression is None:
        if suffix is not None and suffix not in codecs:
            raise OptionError(f"{path}: {format} is not compressed as {suffix}")
        if suffix is not None and not FORMATS[format].is_text:
            raise OptionError(
                f"{path}: {format} compresses inside the file: leave the suffix out, and give "
                f"compression={suffix!r}"
            )
        compression = suffix or codecs[0]
    if compression not in codecs:
        raise OptionError(f"compression={compression!r}: {format} has {', '.join(codecs)}")
    return format, compression


def _stem(path: str) -> str:
    """A name without the suffix of compressed text, in lower case."""
    stem, extension = os.path.splitext(path.lower())
    return stem if extension in SUFFIXES else path.lower()


def _columns(columns: str | Iterable[str] | None, partitions: int) -> tuple[str, ...]:
    if columns is None:
        return tuple(name for name in SYSTEM_COLUMNS if name != "partition" or partitions > 1)
    names = opt.parse_names("columns", columns)
    if not names or "" in names:
        raise OptionError(f"columns={columns!r}: an empty name; give some of {', '.join(SYSTEM_COLUMNS)}")
    if twice := [name for at, name in enumerate(names) if name in names[:at]]:
        raise OptionError(f"columns={columns!r}: {twice[0]!r} is there twice")
    return names


# ---- schemas ------------------------------------------------------------------------------------------


def parse_schema(schema: str | pa.Schema | Mapping[str, str] | Sequence[tuple[str, str]]) -> Fields:
    """Fields and types from "name:type,...", from a dict or pairs, or from an Arrow schema.

    Raises:
        OptionError: no such type, a name twice, no field at all.
    """
    if isinstance(schema, pa.Schema):
        return Fields(_unique({}, [(field.name, field.type) for field in schema]))
    others = "error"
    if isinstance(schema, str):
        # Commas within brackets belong to the type: decimal(10, 2).
        parts = [part.strip() for part in re.split(r",(?![^(\[]*[)\]])", schema)]
        if parts[-1:] == [REST]:
            others = "ignore"
            parts.pop()
        pairs = []
        for part in parts:
            name, colon, kind = part.rpartition(":")
            if not colon or not name:
                raise OptionError(f'schema={schema!r}: {part!r} is not "name:type"')
            pairs.append((name.strip(), kind.strip()))
    else:
        pairs = _pairs(schema)
    return Fields(_unique(schema, [(name, _type_of(schema, kind)) for name, kind in pairs]), others)


def _pairs(schema: object) -> list[tuple[str, str]]:
    """Names and types from a dictionary, or from pairs of them."""
    items = schema.items() if isinstance(schema, Mapping) else schema
    pairs: list[Any] = list(items) if isinstance(items, Iterable) else [items]
    if any(not isinstance(pair, tuple | list) or [*map(type, pair)] != [str, str] for pair in pairs):
        raise TypeError('schema= must be "name:type,...", {name: type}, pairs of both, or an Arrow schema')
    return [(name, kind) for name, kind in pairs]


def _unique(schema: object, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    types = dict(pairs)
    if len(types) != len(pairs):
        raise OptionError(f"schema={schema!r}: a name is there twice")
    if not types:
        raise OptionError(f'schema={schema!r}: no field; write "name:type,..."')
    return types


def _type_of(schema: object, kind: str) -> Any:
    if kind == "json":
        return None
    if kind in _TYPES:
        return _TYPES[kind]
    if match := _DECIMAL.fullmatch(kind):
        precision, scale = int(match[1]), int(match[2])
        if 1 <= precision <= _DECIMAL_DIGITS_MAX and scale <= precision:
            return pa.decimal128(precision, scale)
        raise OptionError(
            f"schema={schema!r}: {kind}: 1 to {_DECIMAL_DIGITS_MAX} digits, no more of them after the point"
        )
    raise OptionError(
        f"schema={schema!r}: no type {kind!r}; there are {', '.join(_TYPES)}, decimal(digits, scale) and json"
    )
