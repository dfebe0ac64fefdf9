"""What the tests of export share: files read back by pyarrow, and records as a file should have them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

import pystream

NAMES = (
    "a.parquet",
    "a.csv",
    "a.tsv",
    "a.csv.gz",
    "a.jsonl",
    "a.jsonl.zst",
    "a.arrow",
    "a.arrows",
    "a.feather",
)
"""A file of each kind."""


def data_of(path: Path) -> bytes:
    """The bytes of a file, taken out of gzip and zstd."""
    with pa.input_stream(str(path), compression="detect") as stream:
        return bytes(stream.read())


def read(path: Path) -> pa.Table:
    """A file as pyarrow reads it."""
    name = path.name.removesuffix(".gz").removesuffix(".zst")
    if name.endswith(".parquet"):
        return pa.parquet.ParquetFile(path).read()
    if name.endswith((".arrow", ".feather")):
        with pa.OSFile(str(path)) as file:
            return pa.ipc.open_file(file).read_all()
    data = data_of(path)
    if name.endswith(".arrows"):
        return pa.ipc.open_stream(data).read_all()
    if name.endswith(".jsonl"):
        return pa.json.read_json(pa.BufferReader(data))
    assert name.endswith((".csv", ".tsv"))
    return pa.csv.read_csv(
        io.BytesIO(data),
        parse_options=pa.csv.ParseOptions(
            delimiter="\t" if name.endswith(".tsv") else ",", newlines_in_values=True
        ),
        convert_options=pa.csv.ConvertOptions(
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            column_types={"timestamp": pa.timestamp("ns", "UTC"), "key": pa.string(), "value": pa.string()},
        ),
    )


def plain(value: bytes | None, form: str) -> Any:
    """A key or value as a file has it."""
    if value is None or form == "bytes":
        return value
    if form == "utf8":
        return value.decode()
    return base64.b64encode(value).decode() if form == "base64" else value.hex()


def wanted(records: Iterable[pystream.Record], form: str) -> list[tuple[Any, ...]]:
    """Offset, partition, timestamp, key, value and headers of records, as `found` gives those of a file."""
    return [
        (
            record.offset,
            record.partition,
            record.timestamp,
            plain(record.key, form),
            plain(record.value, form),
            [(name, plain(value, form)) for name, value in record.headers],
        )
        for record in records
    ]


def found(path: Path) -> list[tuple[Any, ...]]:
    """The rows of a file with all six columns."""
    if ".jsonl" in path.name:  # by Python's own reader: pyarrow's has a type for each column
        lines = [json.loads(line) for line in data_of(path).splitlines()]
        columns = {name: [line[name] for line in lines] for name in (lines[0] if lines else ())}
        if not lines:
            return []
        columns["timestamp"] = to_ns(pa.array(columns["timestamp"], pa.string()))
    else:
        table = read(path)
        columns = {name: table[name].to_pylist() for name in table.column_names if name != "timestamp"}
        columns["timestamp"] = table["timestamp"].cast(pa.int64()).to_pylist()
    headers = [
        [(pair["key"], pair["value"]) for pair in (json.loads(each) if isinstance(each, str) else each or [])]
        for each in columns["headers"]
    ]
    rest = (columns[name] for name in ("offset", "partition", "timestamp", "key", "value"))
    return list(zip(*rest, headers, strict=True))


def to_ns(text: pa.Array) -> list[int | None]:
    """Moments written as ISO 8601, as nanoseconds."""
    assert all(each is None or each.endswith("Z") for each in text.to_pylist())
    bare = pa.array([None if each is None else each[:-1] for each in text.to_pylist()], pa.string())
    result: list[int | None] = bare.cast(pa.timestamp("ns")).cast(pa.int64()).to_pylist()
    return result


def lines(path: Path) -> list[Any]:
    """The objects of a file of JSON lines."""
    return [json.loads(line) for line in data_of(path).splitlines()]
