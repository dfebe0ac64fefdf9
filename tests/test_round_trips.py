"""Files into a topic and out again: what `ingest` reads and `export` writes, beside pyarrow's own reading."""

from __future__ import annotations

import io
import json
import zipfile
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.json
import pyarrow.parquet
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import pystream
from exports import data_of, read
from harness import T0, quick_directory
from pystream.cli import cli
from pystream.demo import DemoError, flights
from pystream.export import export
from pystream.ingest import infer_dtype, ingest

COUNT = 3000
SOURCES = (
    "a.csv",
    "a.csv.gz",
    "a.csv.zst",
    "a.tsv",
    "a.jsonl",
    "a.jsonl.gz",
    "a.parquet",
    "a.arrow",
    "a.feather",
)
TARGETS = ("b.csv", "b.csv.gz", "b.jsonl", "b.jsonl.zst", "b.parquet", "b.arrow", "b.arrows", "b.feather")


def table(count: int = COUNT) -> pa.Table:
    """Text that wants quoting, numbers, truth, nulls."""
    pick = np.random.default_rng(7)
    words = ["plain", "a,b", 'say "hi"', "tab\there", "é\u2028", "007", "x" * 100, "true", " "]
    return pa.table(
        {
            "id": pa.array(np.arange(count)),
            "user": pa.array([f"user-{i}" for i in pick.integers(0, 40, count)]),
            "word": pa.array([words[i] for i in pick.integers(0, len(words), count)]),
            "px": pa.array(pick.normal(size=count), mask=pick.random(count) < 0.1),
            "n": pa.array(pick.integers(-(2**62), 2**62, count), mask=pick.random(count) < 0.1),
            "ok": pa.array(pick.random(count) < 0.5),
        }
    )


def write(rows: pa.Table, path: Path) -> None:
    """By pyarrow; JSON lines, which it does not write, by Python."""
    name = path.name
    if name.endswith(".parquet"):
        pa.parquet.write_table(rows, path, row_group_size=700)
    elif name.endswith(".feather"):
        pa.feather.write_feather(rows, path)
    elif name.endswith(".arrow"):
        with pa.ipc.new_file(path, rows.schema) as writer:
            writer.write_table(rows, max_chunksize=500)
    else:
        codec = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
        with pa.output_stream(str(path), compression=codec) as stream:
            if "jsonl" in name:
                stream.write("".join(json.dumps(row) + "\n" for row in rows.to_pylist()).encode())
            else:
                delimiter = "\t" if ".tsv" in name else ","
                pa.csv.write_csv(rows, stream, pa.csv.WriteOptions(delimiter=delimiter))


def own_reading(path: Path) -> pa.Table:
    """What pyarrow makes of a file that it, or the export, has written."""
    name = path.name.removesuffix(".gz").removesuffix(".zst")
    if name.endswith((".csv", ".tsv")):
        return pa.csv.read_csv(
            io.BytesIO(data_of(path)),
            parse_options=pa.csv.ParseOptions(
                delimiter="\t" if name.endswith(".tsv") else ",", newlines_in_values=True
            ),
            convert_options=pa.csv.ConvertOptions(
                strings_can_be_null=True, quoted_strings_can_be_null=False, column_types={"word": pa.string()}
            ),
        )
    return read(path)


def sorted_rows(rows: pa.Table) -> list[tuple[Any, ...]]:
    return sorted((tuple(row.values()) for row in rows.to_pylist()), key=str)


# ---- every format into every format -----------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES)
def test_rows_as_json(store: pystream.Store, tmp_path: Path, source: str) -> None:
    """One partition: the same rows in the same order, whatever they came from and go to."""
    write(table(), tmp_path / source)
    wanted = own_reading(tmp_path / source)
    topic = store.topic("t", create=True, compression="lz4")
    assert (
        ingest(topic, tmp_path / source, types={"word": "string"} if "sv" in source else None).rows == COUNT
    )
    for target in TARGETS:
        result = export(topic, tmp_path / target, value="json", columns="value")
        assert result.records == COUNT
        got = own_reading(tmp_path / target)
        assert got.column_names == wanted.column_names
        assert got.to_pylist() == wanted.to_pylist(), target
        (tmp_path / target).unlink()


@pytest.mark.parametrize("source", ["a.csv", "a.parquet"])
def test_several_partitions(store: pystream.Store, tmp_path: Path, source: str) -> None:
    """By key: the rows as a multiset, and in order for each key."""
    write(table(), tmp_path / source)
    wanted = own_reading(tmp_path / source)
    topic = store.topic("t", create=True, partitions=5)
    ingest(topic, tmp_path / source, key="user", types={"word": "string"} if "sv" in source else None)
    export(topic, tmp_path / "b.parquet", value="json", key="utf8", columns="partition,key,value")
    got = own_reading(tmp_path / "b.parquet")
    assert set(got["partition"].to_pylist()) == set(range(5))
    assert got["key"].to_pylist() == got["user"].to_pylist()
    fields = got.select(wanted.column_names)
    assert sorted_rows(fields) == sorted_rows(wanted)
    in_order: dict[str, list[int]] = defaultdict(list)
    before: dict[str, list[int]] = defaultdict(list)
    for row in fields.to_pylist():
        in_order[row["user"]].append(row["id"])
    for row in wanted.to_pylist():
        before[row["user"]].append(row["id"])
    assert in_order == before
    homes = {(row["key"], row["partition"]) for row in got.to_pylist()}
    assert len(homes) == len(before)
    # A file a partition holds the same.
    result = export(topic, tmp_path / "dir", format="jsonl", value="json", columns="value", split="partition")
    assert len(result.files) == 5
    lines = [line for file in result.files for line in data_of(Path(file.path)).splitlines()]
    assert sorted(map(json.loads, lines), key=str) == sorted(wanted.to_pylist(), key=str)


@pytest.mark.parametrize("target", ["b.parquet", "b.csv", "b.jsonl", "b.arrow"])
def test_records_of_a_dtype(store: pystream.Store, tmp_path: Path, target: str) -> None:
    count = 5000
    pick = np.random.default_rng(3)
    rows = pa.table(
        {
            "ts": pa.array(T0 + np.arange(count) * 10**6, pa.timestamp("ns")),
            "px": pa.array(pick.normal(size=count)),
            "qty": pa.array(pick.integers(-(2**31), 2**31, count), pa.int32()),
            "buy": pa.array(pick.random(count) < 0.5),
        }
    )
    write(rows, tmp_path / "a.parquet")
    topic = store.topic("t", create=True, dtype=infer_dtype(tmp_path / "a.parquet"))
    assert topic.options.dtype == np.dtype([("ts", "M8[ns]"), ("px", "f8"), ("qty", "i4"), ("buy", "?")])
    ingest(topic, tmp_path / "a.parquet")
    export(topic, tmp_path / target, columns="value")
    got = own_reading(tmp_path / target)
    if target == "b.jsonl":  # which has no type for moments: pyarrow guesses, to the second
        got = pa.json.read_json(
            tmp_path / target,
            parse_options=pa.json.ParseOptions(explicit_schema=pa.schema([("ts", pa.timestamp("ns"))])),
        )
    assert (
        got["ts"].cast(pa.timestamp("ns")).cast(pa.int64()).to_pylist()
        == rows["ts"].cast(pa.int64()).to_pylist()
    )
    for name in ("px", "qty", "buy"):
        assert got[name].to_pylist() == rows[name].to_pylist()


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.csv.gz", "a.jsonl.zst"])
def test_lines_as_they_are(store: pystream.Store, tmp_path: Path, name: str) -> None:
    """Raw lines come out as the values of a column, byte for byte."""
    write(table(500), tmp_path / name)
    lines = data_of(tmp_path / name).decode().split("\n")[:-1]
    topic = store.topic("t", create=True)
    ingest(topic, tmp_path / name, value="raw")
    export(topic, tmp_path / "b.parquet", columns="value")
    values = [value.decode() for value in read(tmp_path / "b.parquet")["value"].to_pylist()]
    assert values == lines[1:] if "csv" in name else values == lines
    if "jsonl" in name:
        export(topic, tmp_path / "b.jsonl", value="json", columns="value")
        assert data_of(tmp_path / "b.jsonl") == data_of(tmp_path / name)


def test_an_export_goes_in_again(store: pystream.Store, tmp_path: Path) -> None:
    """A topic out and into another: keys, timestamps and values are the same."""
    first = store.topic("first", create=True)
    first.append(
        [b"%d" % i if i % 3 else 'é "x",\n'.encode() for i in range(300)],
        keys=[b"k%d" % (i % 7) for i in range(300)],
        timestamps=np.arange(300) * 1_000_003 + T0,
    )
    for name in ("a.csv", "a.parquet", "a.jsonl", "a.feather"):
        export(first, tmp_path / name, columns="timestamp,key,value", value="utf8", key="utf8")
        second = store.topic(f"second.{name}", create=True)
        ingest(second, tmp_path / name, key="key", timestamp="timestamp", value_column="value",
               types={"*": "string"} if name == "a.csv" else None)  # fmt: skip
        assert [(r.timestamp, r.key, r.value) for r in second.records()] == [
            (r.timestamp, r.key, r.value) for r in first.records()
        ]


def test_by_the_command_line(tmp_path: Path) -> None:
    write(table(), tmp_path / "a.csv")
    wanted = own_reading(tmp_path / "a.csv")
    store, source, target = (str(tmp_path / name) for name in ("s", "a.csv", "b.parquet"))
    run = CliRunner().invoke
    arguments = ["ingest", store, "t", source, "--create", "--partitions", "3", "--key", "user"]
    result = run(cli, [*arguments, "--type", "word=string", "-q"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    arguments = ["export", store, "t", target, "--value", "json", "--columns", "value", "--json", "-q"]
    result = run(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["records"] == COUNT
    assert sorted_rows(own_reading(tmp_path / "b.parquet")) == sorted_rows(wanted)


# ---- real data --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The flights of a real year, or of one like it where the data set is not installed."""
    path = tmp_path_factory.mktemp("real") / "flights.csv"
    try:
        with zipfile.ZipFile(flights.find_data()) as archive:
            path.write_bytes(archive.read(archive.namelist()[0]))
        return path, flights.PACKAGED_FLIGHTS
    except DemoError:
        names = (*flights.NUMBER_COLUMNS, *flights.TEXT_COLUMNS)
        with path.open("w", encoding="utf-8") as text:
            text.write(",".join(names) + "\n")
            for i in range(50_000):
                cells = ["NA" if (i * 7 + at) % 31 == 0 else str((i * 13 + at) % 2400) for at in range(14)]
                hour = f"{np.datetime64('2013-01-01T05', 'h') + i % 8760}:00:00Z"
                text.write(",".join([*cells, f"C{i % 16}", f"N{i % 997}", "JFK", f"D{i % 105}", hour]) + "\n")
        return path, 50_000


def test_a_year_of_flights(store: pystream.Store, tmp_path: Path, real: tuple[Path, int]) -> None:
    path, count = real
    topic = store.topic("flights", create=True, partitions=4, compression="lz4")
    ingest(topic, path, key="carrier", timestamp="time_hour")
    export(topic, tmp_path / "b.parquet", value="json", key="utf8", columns="timestamp,key,value")
    got = pa.parquet.read_table(tmp_path / "b.parquet")
    wanted = pa.csv.read_csv(path)
    assert got.num_rows == wanted.num_rows == count
    assert got["key"].equals(got["carrier"])
    got = got.append_column("hours", got["timestamp"])
    wanted = wanted.append_column("hours", wanted["time_hour"].cast(pa.timestamp("ns", "UTC")))
    assert got.column_names == ["timestamp", "key", *wanted.column_names]
    names = [name for name in wanted.column_names if name != "time_hour"]
    order = [(name, "ascending") for name in names]
    got = got.select(names).sort_by(order).combine_chunks()
    wanted = wanted.select(names).sort_by(order).combine_chunks()
    for name in names:
        kind = wanted.schema.field(name).type
        assert got[name].cast(kind).equals(wanted[name]), name
    # A part of it by time: as many as the source has then.
    start, stop = (datetime(2013, month, 1, tzinfo=UTC) for month in (3, 4))
    assert start < stop
    months = np.asarray(wanted["hours"].cast(pa.int64()))
    inside = int(((months >= start.timestamp() * 1e9) & (months < stop.timestamp() * 1e9)).sum())
    assert 0 < inside < count
    result = export(topic, tmp_path / "days", format="parquet", by="day", columns="timestamp")
    march = sum(file.records for file in result.files if "date=2013-03-" in file.path)
    assert march == inside
    assert result.records == count


# ---- any table --------------------------------------------------------------------------------------------

CELLS = {
    "i": st.none() | st.integers(-(2**63), 2**63 - 1),
    "f": st.none() | st.floats(allow_nan=False, allow_infinity=False),
    "b": st.none() | st.booleans(),
    "s": st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8),
}
TYPES = {"i": pa.int64(), "f": pa.float64(), "b": pa.bool_(), "s": pa.string()}
TABLES = st.lists(st.fixed_dictionaries(CELLS), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(TABLES, st.sampled_from(["a.parquet", "a.arrow", "a.feather", "a.jsonl"]), st.sampled_from(TARGETS))
def test_any_table(rows: list[dict[str, Any]], source: str, target: str) -> None:
    made = pa.Table.from_pylist(rows, schema=pa.schema(list(TYPES.items())))
    with quick_directory() as directory, pystream.open(directory / "s") as store:
        write(made, directory / source)
        topic = store.topic("t", create=True, segment_bytes="64KiB")
        ingest(topic, directory / source)
        schema = ",".join(f"{name}:{kind}" for name, kind in TYPES.items())
        export(topic, directory / target, value="json", schema=schema, columns="value")
        if "jsonl" in target:
            got = [json.loads(line) for line in data_of(directory / target).splitlines()]
        elif "csv" in target:
            got = pa.csv.read_csv(
                io.BytesIO(data_of(directory / target)),
                parse_options=pa.csv.ParseOptions(newlines_in_values=True),
                convert_options=pa.csv.ConvertOptions(
                    column_types=TYPES,
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                    null_values=[""],
                ),
            ).to_pylist()
        else:
            got = own_reading(directory / target).to_pylist()
        assert got == made.to_pylist()
