"""Where an export goes: whole or not at all, whatever ends it; directories of files."""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pytest

import pystream
from exports import data_of, found, read, wanted
from harness import T0
from pystream.export import OutputExistsError, export, output
from pystream.export import blocks as blocks_module

HOUR = 3_600 * 10**9
ALL = "offset,partition,timestamp,key,value,headers"


@pytest.fixture
def hours(store: pystream.Store) -> pystream.Topic:
    """Two partitions over 60 hours from 2023-11-14T22:13:20Z, not in order of time; one record has none."""
    topic = store.topic("hours", create=True, partitions=2)
    for index in (0, 1):
        times = np.array([T0 + i * 7 % 60 * HOUR for i in range(120)])
        topic.partition(index).append([b"%d" % i for i in range(120)], timestamps=times)
    topic.partition(1).append([b"never"], timestamps=np.full(1, "NaT", "M8[ns]"))
    return topic


def names(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def rest(tmp_path: Path) -> list[str]:
    """What is there beside the store."""
    return sorted(path.name for path in tmp_path.iterdir() if path.name != "store")


@pytest.fixture(params=["unnamed", "beside"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file without a name until it is complete, and how it is done where the system has no such files."""
    if request.param == "beside":
        real = os.open

        def without(path: Any, flags: int, *more: Any, **named: Any) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, "not supported")
            return real(path, flags, *more, **named)

        monkeypatch.setattr(output.os, "open", without)
    return str(request.param)


# ---- one file -------------------------------------------------------------------------------------------


def test_a_file_appears_when_it_is_complete(
    hours: pystream.Topic, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks_module, "BLOCK_ROWS", 50)
    seen: list[list[str]] = []
    export(hours, tmp_path / "a.csv", progress=lambda progress: seen.append(rest(tmp_path)))
    assert len(seen) > 3
    assert all("a.csv" not in each for each in seen)
    assert all(len(each) == (way == "beside") for each in seen)
    assert rest(tmp_path) == ["a.csv"]
    assert found(tmp_path / "a.csv") == wanted(hours.records(), "utf8")
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / "a.csv").stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("name", ["a.parquet", "a.csv.gz", "a.jsonl", "a.arrow", "dir"])
def test_nothing_is_left_of_one_that_fails(
    hours: pystream.Topic, tmp_path: Path, way: str, name: str, error: type[BaseException]
) -> None:
    def fail(progress: Any) -> None:
        raise error("stopped")

    options = {"format": "parquet", "by": "hour"} if name == "dir" else {}
    with pytest.raises(error, match="stopped"):
        export(hours, tmp_path / name, progress=fail, **options)
    assert rest(tmp_path) == []


def test_an_existing_file_is_kept(hours: pystream.Topic, tmp_path: Path, way: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text("mine")
    with pytest.raises(OutputExistsError, match=r"a.csv: exists; overwrite=True replaces it"):
        export(hours, path)
    with pytest.raises(FileExistsError):
        export(hours, path)

    def fail(progress: Any) -> None:
        assert path.read_text() == "mine"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        export(hours, path, overwrite=True, progress=fail)
    assert path.read_text() == "mine"
    export(hours, path, overwrite=True)
    assert found(path) == wanted(hours.records(), "utf8")
    assert rest(tmp_path) == ["a.csv"]


def test_one_that_appears_meanwhile_is_kept(hours: pystream.Topic, tmp_path: Path, way: str) -> None:
    path = tmp_path / "a.csv"
    with pytest.raises(OutputExistsError, match="appeared meanwhile"):
        export(hours, path, progress=lambda progress: path.write_text("theirs"))
    assert path.read_text() == "theirs"
    assert rest(tmp_path) == ["a.csv"]


KILLED = """
import os, signal, sys
import pystream
from pystream.export import blocks, export
blocks.BLOCK_ROWS = 20
left = int(sys.argv[3])
def progress(each):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
with pystream.open(sys.argv[1]) as store:
    export(store["hours"], sys.argv[2], overwrite=True, progress=progress, **eval(sys.argv[4]))
"""


@pytest.mark.parametrize("after", [1, 5, 9])
@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "dir"])
def test_a_kill_leaves_what_was_there(hours: pystream.Topic, tmp_path: Path, name: str, after: int) -> None:
    target = tmp_path / name
    options = {"format": "csv", "split": "partition"} if name == "dir" else {}
    export(hours, target, max_records=3, **options)
    before = {
        each: (tmp_path / each).read_bytes() for each in names(tmp_path) if not each.startswith("store")
    }
    process = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path / "store", target, str(after), repr(options)], timeout=120
    )
    assert process.returncode == -signal.SIGKILL
    for each, data in before.items():
        assert (tmp_path / each).read_bytes() == data
    strange = [each for each in rest(tmp_path) if each != name]
    assert strange == [] or (name == "dir" and re.fullmatch(r"\.dir\.[0-9a-f]{12}\.part", *strange))
    export(hours, target, overwrite=True, **options)


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.csv.gz", "a.jsonl", "a.arrow", "a.feather"])
def test_a_full_disk(
    hours: pystream.Topic, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = output.FileOutput._unnamed

    def full(self: Any) -> Any:
        real(self).close()
        return open("/dev/full", "wb", buffering=0)

    monkeypatch.setattr(output.FileOutput, "_unnamed", full)
    with pytest.raises(pystream.StorageError) as caught:
        export(hours, tmp_path / name)
    assert caught.value.errno == errno.ENOSPC
    assert str(tmp_path / name) in str(caught.value)
    assert rest(tmp_path) == []


def test_a_link_is_followed(hours: pystream.Topic, tmp_path: Path) -> None:
    (tmp_path / "real.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("real.csv")
    export(hours, tmp_path / "link.csv", overwrite=True)
    assert (tmp_path / "link.csv").is_symlink()
    assert found(tmp_path / "real.csv") == wanted(hours.records(), "utf8")
    (tmp_path / "dangling.csv").symlink_to("nowhere")
    with pytest.raises(pystream.OptionError, match="is a link to nowhere, which is not there"):
        export(hours, tmp_path / "dangling.csv")


def test_a_device_is_written_as_it_stands(hours: pystream.Topic) -> None:
    assert export(hours, "/dev/null", format="csv").records == 241
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize("format", ["csv", "jsonl", "arrow", "arrow-stream"])
def test_an_open_file(hours: pystream.Topic, tmp_path: Path, format: str) -> None:
    file = io.BytesIO()
    result = export(hours, file, format=format)
    assert not file.closed
    assert result.records == 241
    path = tmp_path / {"arrow": "a.arrows", "arrow-stream": "a.arrows"}.get(format, f"a.{format}")
    path.write_bytes(file.getvalue())
    assert found(path) == wanted(hours.records(), "utf8" if format in ("csv", "jsonl") else "bytes")


# ---- directories ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet", "arrow", "arrow-stream", "feather"])
def test_a_file_a_partition(hours: pystream.Topic, tmp_path: Path, format: str) -> None:
    result = export(hours, tmp_path / "dir", format=format, split="partition")
    extension = {"arrow-stream": "arrows"}.get(format, format)
    assert names(tmp_path / "dir") == [f"part-00000.{extension}", f"part-00001.{extension}"]
    for index in (0, 1):
        path = tmp_path / f"dir/part-0000{index}.{extension}"
        form = "utf8" if format in ("csv", "jsonl") else "bytes"
        assert found(path) == wanted(hours.partition(index), form)
        assert result.files[index] == (str(path), 120 + index, path.stat().st_size)
    assert result.bytes == sum(file.bytes for file in result.files)


@pytest.mark.parametrize("most", [1, 119, 120, 121, 240, 241, 242])
def test_so_many_rows_a_file(hours: pystream.Topic, tmp_path: Path, most: int) -> None:
    result = export(hours, tmp_path / "dir", format="jsonl", rows_per_file=most, compression="gzip")
    count = -(-241 // most)
    assert names(tmp_path / "dir") == [f"part-{i:05}.jsonl.gz" for i in range(count)]
    assert [file.records for file in result.files] == [most] * (241 // most) + [241 % most] * (241 % most > 0)
    rows = [row for name in names(tmp_path / "dir") for row in found(tmp_path / "dir" / name)]
    assert rows == wanted(hours.records(), "utf8")


def test_rows_and_partitions(hours: pystream.Topic, tmp_path: Path) -> None:
    export(hours, tmp_path / "dir", format="csv", split="partition", rows_per_file=100, delimiter="\t")
    assert names(tmp_path / "dir") == [
        "part-00000-00000.tsv", "part-00000-00001.tsv", "part-00001-00000.tsv", "part-00001-00001.tsv",
    ]  # fmt: skip
    assert found(tmp_path / "dir/part-00001-00001.tsv") == wanted(list(hours.partition(1))[100:], "utf8")


@pytest.mark.parametrize("by", ["day", "hour"])
@pytest.mark.parametrize("split", [None, "partition"])
def test_by_time(
    hours: pystream.Topic, tmp_path: Path, by: str, split: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks_module, "BLOCK_ROWS", 37)
    export(hours, tmp_path / "dir", format="parquet", by=by, split=split)
    places: dict[str, list[pystream.Record]] = {}
    for record in hours.records():
        moment = None if record.timestamp is None else str(np.datetime64(record.timestamp, "ns"))
        place = f"date={moment[:10] if moment else output.NO_TIME}"
        if by == "hour":
            place += f"/hour={moment[11:13] if moment else output.NO_TIME}"
        place += f"/part-{record.partition if split else 0:05}.parquet"
        places.setdefault(place, []).append(record)
    assert names(tmp_path / "dir") == sorted(places)
    for place, records in places.items():
        assert found(tmp_path / "dir" / place) == wanted(records, "bytes")
    # As others read it.
    table = pa.dataset.dataset(tmp_path / "dir", partitioning="hive").to_table()
    assert table.num_rows == 241
    assert "date" in table.column_names


def test_a_time_before_the_epoch(topic: pystream.Topic, tmp_path: Path) -> None:
    topic.append([b"a", b"b"], timestamps=np.array(["1969-12-31T23:59:59.999999999", "1970-01-01"], "M8[ns]"))
    export(topic, tmp_path / "dir", format="csv", by="hour")
    assert names(tmp_path / "dir") == [
        "date=1969-12-31/hour=23/part-00000.csv",
        "date=1970-01-01/hour=00/part-00000.csv",
    ]


def test_more_days_than_files_may_be_open(
    hours: pystream.Topic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was closed for others goes on in another."""
    monkeypatch.setattr(output, "OPEN_FILES_MAX", 4)
    monkeypatch.setattr(output, "PENDING_BYTES_MAX", 1000)
    monkeypatch.setattr(blocks_module, "BLOCK_ROWS", 10)
    result = export(hours, tmp_path / "dir", format="parquet", by="hour", columns=ALL)
    assert len(result.files) > 61
    assert any(name.endswith("part-00001.parquet") for name in names(tmp_path / "dir"))
    rows = [row for name in names(tmp_path / "dir") for row in found(tmp_path / "dir" / name)]
    assert sorted(rows, key=str) == sorted(wanted(hours.records(), "bytes"), key=str)


def test_an_empty_topic_has_a_file_with_its_columns(topic: pystream.Topic, tmp_path: Path) -> None:
    export(topic, tmp_path / "dir", format="parquet", split="partition")
    assert read(tmp_path / "dir/part-00000.parquet").column_names == [
        "offset",
        "timestamp",
        "key",
        "value",
        "headers",
    ]
    export(topic, tmp_path / "days", format="csv", by="day")
    assert names(tmp_path / "days") == [f"date={output.NO_TIME}/part-00000.csv"]


def test_a_directory_is_replaced_only_if_an_export_made_it(hours: pystream.Topic, tmp_path: Path) -> None:
    target = tmp_path / "dir"
    target.mkdir()
    export(hours, target, format="csv", split="partition")
    with pytest.raises(OutputExistsError, match="dir: is not empty; overwrite=True replaces it"):
        export(hours, target, format="csv", by="day")
    export(hours, target, format="jsonl", by="day", overwrite=True)
    assert all(name.startswith("date=") for name in names(target))
    (target / "notes.txt").write_text("mine")
    before = names(target)
    with pytest.raises(
        OutputExistsError, match=r"holds 'notes.txt', which no export has written: not replaced"
    ):
        export(hours, target, format="csv", split="partition", overwrite=True)
    assert names(target) == before
    assert rest(tmp_path) == ["dir"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dir", {}, "is a directory; name a file"),
        ("none/a.csv", {}, "there is no directory"),
        ("none/dir", {"format": "csv", "by": "day"}, "there is no directory"),
        ("file", {"format": "csv", "by": "day"}, "is a file; several files are written into a directory"),
        ("a", {}, "its name does not say the format"),
        ("a.csv", {"split": "key"}, "split='key': must be one of 'partition'"),
        ("a.csv", {"by": "week"}, "by='week': must be one of 'day', 'hour'"),
        ("new", {"by": "day"}, "format= is needed for a directory"),
        ("a.csv", {"rows_per_file": 0}, "rows_per_file=0: must be from 1"),
        ("a.csv", {"max_records": -1}, "max_records=-1: must be from 0"),
        ("a.csv", {"format": "xml"}, "format='xml': must be one of"),
        ("a.csv", {"compression": "lz4"}, "compression='lz4': csv has none, gzip, zstd"),
        ("a.csv.bz2", {}, "nothing is written as .bz2; compressed text ends in .gz or .zst"),
        ("a.parquet.gz", {}, "parquet compresses inside the file"),
        ("a.parquet.zst", {}, "parquet compresses inside the file"),
        ("a.arrow.gz", {}, "arrow is not compressed as gzip"),
        ("a.csv", {"value": "bytes"}, 'value="bytes": csv holds text'),
        ("a.jsonl", {"key": "bytes"}, 'key="bytes": jsonl holds text'),
        ("a.csv", {"value": "text"}, "value='text': must be one of"),
        ("a.csv", {"columns": "offset,offset"}, "'offset' is there twice"),
        ("a.csv", {"columns": "offset,,key"}, "an empty name"),
        ("a.csv", {"columns": "offset,price"}, 'the fields of JSON values are columns with value="json"'),
        ("a.csv", {"schema": "a:int"}, 'schema= is for the fields of JSON values: give value="json" too'),
        ("a.csv", {"bad_values": "keep"}, "bad_values='keep': must be"),
        ("a.csv", {"delimiter": ";;"}, "must be one ASCII character"),
        ("a.csv", {"delimiter": '"'}, "must be one ASCII character"),
        ("a.jsonl", {"delimiter": ";"}, "delimiter= is for csv, and this is jsonl"),
        ("a.csv", {"partitions": [2]}, "partition=2: topic 'hours' has partitions 0 to 1"),
        ("a.csv", {"start": 5}, "start=5: an offset belongs to one partition, and these are 2"),
        ("a.csv", {"stop": 5}, "stop=5: an offset belongs to one partition, and these are 2"),
    ],
)  # fmt: skip
def test_what_is_refused(
    hours: pystream.Topic, tmp_path: Path, name: str, options: dict[str, Any], message: str
) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(pystream.OptionError, match=re.escape(message)):
        export(hours, tmp_path / name, **options)
    assert rest(tmp_path) == ["dir", "file"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "format= is needed for standard output"),
        ({"format": "parquet"}, "cannot go to standard output"),
        ({"format": "feather"}, "cannot go to standard output"),
        ({"format": "csv", "by": "day"}, "need a directory, not an open file"),
    ],
)
def test_what_an_open_file_is_refused(hours: pystream.Topic, options: dict[str, Any], message: str) -> None:
    with pytest.raises(pystream.OptionError, match=message):
        export(hours, io.BytesIO(), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"progress": 3}, "progress= must be a function, not int"),
        ({"on_bad": 3}, "on_bad= must be a function, not int"),
        ({"partitions": 0}, "partitions= must be a list of numbers, not int"),
        ({"columns": 3}, "columns= must be a list of names"),
        ({"columns": ["offset", 3]}, "columns= must hold names, not int"),
        ({"value": "json", "schema": 3}, "schema= must be"),
        ({"value": "json", "schema": ["a:int"]}, "schema= must be"),
        ({"value": "json", "schema": {"a": int}}, "schema= must be"),
    ],
)
def test_options_of_the_wrong_type(
    hours: pystream.Topic, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        export(hours, tmp_path / "a.csv", **options)
    assert rest(tmp_path) == []


def test_what_bytes_cannot_be_written_to(hours: pystream.Topic, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="a path, or a file open for writing, not int"):
        export(hours, 3, format="csv")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=re.escape('open it with "wb"')):
        export(hours, io.StringIO(), format="csv")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"topic must be a pystream\.Topic, not str"):
        export("hours", tmp_path / "a.csv")  # type: ignore[arg-type]
    assert rest(tmp_path) == []


def test_a_schema_as_a_dictionary(topic: pystream.Topic, tmp_path: Path) -> None:
    topic.partition(0).append([b'{"a": 1, "b": "x"}'])
    schema = {"b": "string", "a": "int32"}
    export(topic, tmp_path / "a.csv", value="json", columns="value", schema=schema)
    assert (tmp_path / "a.csv").read_text() == '"b","a"\n"x",1\n'


def test_an_offset_out_of_range(hours: pystream.Topic, tmp_path: Path) -> None:
    with pytest.raises(pystream.OffsetOutOfRangeError):
        export(hours, tmp_path / "a.csv", start=121, partitions=[0])
    assert export(hours, tmp_path / "a.csv", start=120, partitions=[0]).records == 0
    assert data_of(tmp_path / "a.csv").count(b"\n") == 1
    assert rest(tmp_path) == ["a.csv"]
