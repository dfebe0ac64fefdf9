"""`pystream export`: what it prints, what it says when it is asked for what cannot be, and its exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pystream
from exports import found, lines, read, wanted
from harness import T0

Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs the command in an empty directory beside a store with a topic of text and one of what is not."""
    with pystream.open(tmp_path / "s") as store:
        topic = store.topic("t", create=True, partitions=2)
        for index in (0, 1):
            values = [b'{"n":%d,"s":"x"}' % i for i in range(10)]
            topic.partition(index).append(
                values, keys=[b"k"] * 10, timestamps=[T0 + i * 10**9 for i in range(10)]
            )
        store.topic("bad", create=True).append([b"fine", *[b"\xff"] * 14, b"{}"])
    (tmp_path / "here").mkdir()

    def command(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "pystream", "export", *map(str, arguments)],
            cwd=tmp_path / "here",
            env={**os.environ, "COLUMNS": "200"},
            stdout=options.pop("stdout", subprocess.PIPE),
            stderr=subprocess.PIPE,
            timeout=120,
            check=False,
            **options,
        )

    return command


def said(result: subprocess.CompletedProcess[bytes]) -> str:
    return result.stderr.decode()


def test_a_file_and_a_summary(run: Run, tmp_path: Path) -> None:
    result = run("../s", "t", "a.csv")
    assert (result.returncode, result.stdout) == (0, b"")
    assert re.fullmatch(r"20 rows, [\d.]+ (B|KiB) in \d+\.\d\d s, [\d,]+ rows/s\n", said(result))
    with pystream.open(tmp_path / "s") as store:
        assert found(tmp_path / "here/a.csv") == wanted(store["t"].records(), "utf8")
    assert said(run("../s", "t", "a.csv", "--overwrite", "-q")) == ""


def test_json_for_programs(run: Run, tmp_path: Path) -> None:
    result = run(
        "../s", "t", "dir", "--format", "jsonl", "--split", "partition", "--json", "-q", "--columns", "value"
    )
    assert (result.returncode, said(result)) == (0, "")
    document = json.loads(result.stdout)
    assert document.pop("seconds") > 0
    sizes = [(tmp_path / f"here/dir/part-0000{i}.jsonl").stat().st_size for i in (0, 1)]
    assert document == {
        "records": 20,
        "skipped": 0,
        "bytes": sum(sizes),
        "columns": ["value"],
        "offsets": {"0": {"start": 0, "stop": 10}, "1": {"start": 0, "stop": 10}},
        "files": [
            {"path": str(tmp_path / f"here/dir/part-0000{i}.jsonl"), "records": 10, "bytes": sizes[i]}
            for i in (0, 1)
        ],
    }


def test_ranges_and_choices(run: Run, tmp_path: Path) -> None:
    here = tmp_path / "here"
    run("../s", "t", "a.jsonl", "-p", 1, "--from", 3, "--until", 5, "--columns", "offset,partition")
    assert lines(here / "a.jsonl") == [{"offset": 3, "partition": 1}, {"offset": 4, "partition": 1}]
    moments = "2023-11-14T22:13:22Z", "2023-11-14T22:13:24"
    run("../s", "t", "b.jsonl", "--from", moments[0], "--until", moments[1], "--columns", "partition,offset")
    assert [tuple(line.values()) for line in lines(here / "b.jsonl")] == [(0, 2), (0, 3), (1, 2), (1, 3)]
    run("../s", "t", "c.parquet", "--max", 12, "--value", "json", "--columns", "n")
    assert read(here / "c.parquet")["n"].to_pylist() == [*range(10), 0, 1]
    run(
        "../s",
        "t",
        "d.tsv.gz",
        "-p",
        0,
        "-p",
        1,
        "--value",
        "json",
        "--schema",
        "n:int16,...",
        "--columns",
        "n,offset",
    )
    assert read(here / "d.tsv.gz").column_names == ["n", "offset"]
    run(
        "../s", "t", "e", "--by", "day", "--format", "feather", "--compression", "zstd", "--rows-per-file", 15
    )
    assert sorted(path.name for path in here.rglob("*.feather")) == [
        "part-00000.feather",
        "part-00001.feather",
    ]
    assert run("../s", "t", "f.csv", "--from", "latest", "--json").stdout.startswith(b'{\n  "records": 0,')


@pytest.mark.parametrize(("format", "count"), [("csv", 21), ("jsonl", 20)])
def test_standard_output(run: Run, format: str, count: int) -> None:
    result = run("../s", "t", "-", "--format", format)
    assert result.returncode == 0
    assert result.stdout.count(b"\n") == count
    assert said(result).startswith("20 rows in ")


def test_an_arrow_stream_on_standard_output(run: Run, tmp_path: Path) -> None:
    result = run("../s", "t", "-", "--format", "arrow")
    (tmp_path / "a.arrows").write_bytes(result.stdout)
    assert read(tmp_path / "a.arrows").num_rows == 20


# What is asked for, the exit code, and what is said.
REFUSED: list[tuple[str, int, str]] = [
    ("../none t a.csv", 3, "does not exist"),
    ("../s none a.csv", 3, "no topic 'none'"),
    ("../s t a", 2, "its name does not say the format: end it in one of .parquet .pq .csv .tsv .jsonl"),
    ("../s t old.csv", 2, "pystream: old.csv: exists; --overwrite replaces it\n"),
    (
        "../s t .",
        2,
        "pystream: .: is a directory; name a file, or write several: one a partition (--split "
        "partition), a day (--by day) or so many rows (--rows-per-file)",
    ),
    ("../s t x/a.csv", 2, "x/a.csv: there is no directory "),
    ("../s t full --by day --format csv", 2, "full: is not empty; --overwrite replaces it"),
    ("../s t full --by day --format csv --overwrite", 2, "holds 'mine.txt', which no export has written"),
    ("../s t dir --by day", 2, "--format is needed for a directory"),
    ("../s t -", 2, "--format is needed for standard output: one of parquet, csv, jsonl"),
    ("../s t - --format parquet", 2, "--format parquet: cannot go to standard output"),
    (
        "../s t - --format csv --json",
        2,
        "--json prints to standard output, where the records go: name a file",
    ),
    ("../s t - --format csv --by day", 2, "--split, --by and --rows-per-file need a directory"),
    ("../s t a.csv --from 5", 2, "--from 5: an offset belongs to one partition, and these are 2"),
    ("../s t a.csv --until 5", 2, "--until 5: an offset belongs"),
    ("../s t a.csv --from 11 -p 0", 3, "offset 11 is not in 't'/0"),
    ("../s t a.csv --from soon", 2, "give earliest, latest, an offset"),
    ("../s t a.csv -p 2", 2, "--partition 2: topic 't' has partitions 0 to 1"),
    ("../s t a.csv --max -1", 2, "--max"),
    (
        "../s t a.csv --columns offset,n",
        2,
        "--columns n: must be of offset, partition, timestamp, key, value, headers; the fields of "
        "JSON values are columns with --value json",
    ),
    (
        "../s t a.csv --columns z --value json",
        2,
        "--columns z: no such column; there are offset, partition, timestamp, key, value, headers, n, s",
    ),
    ("../s t a.csv --value bytes", 2, "--value bytes: csv holds text: give --value utf8, --value base64"),
    ("../s t a.csv --value text", 2, "Invalid value for '--value'"),
    ("../s t a.csv --schema n:int", 2, "--schema is for the fields of JSON values: give --value json too"),
    ("../s t a.csv --value json --schema n:thing", 2, "--schema n:thing: no type 'thing'; there are bool"),
    (
        "../s t a.csv --value json --schema n:int",
        1,
        "t/0 offset 0: value does not fit the schema: it has a field that is not in --schema: 's'",
    ),
    ("../s t a.csv --compression lzma", 2, "--compression lzma: csv has none, gzip, zstd"),
    ("../s t a.csv --delimiter ab", 2, "--delimiter ab: must be one ASCII character"),
    (
        "../s bad a.csv",
        1,
        "pystream: bad/0 offset 1: value is not UTF-8 (byte 0xff at 0); base64 or hex, as in "
        "--value base64, writes any bytes; --bad-values skip leaves such records out\n",
    ),
    ("../s bad a.jsonl --value json", 1, "bad/0 offset 0: value is not JSON: "),
]


@pytest.mark.parametrize(("arguments", "code", "message"), REFUSED)
def test_what_is_refused(run: Run, tmp_path: Path, arguments: str, code: int, message: str) -> None:
    here = tmp_path / "here"
    (here / "old.csv").write_text("old")
    (here / "full").mkdir()
    (here / "full/mine.txt").write_text("mine")
    result = run(*arguments.split())
    assert message in said(result)
    assert (result.returncode, result.stdout) == (code, b"")
    assert "Traceback" not in said(result)
    assert sorted(path.name for path in here.iterdir()) == ["full", "old.csv"]


def test_bad_values_are_told_and_counted(run: Run, tmp_path: Path) -> None:
    result = run("../s", "bad", "a.csv", "--bad-values", "skip", "--json")
    assert result.returncode == 0
    told = said(result).splitlines()
    assert told[0] == "pystream: skipped bad/0 offset 1: value is not UTF-8 (byte 0xff at 0)"
    assert told[9].startswith("pystream: skipped bad/0 offset 10: ")
    assert told[10] == "pystream: skipped 4 more like these"
    assert told[11].endswith(", 14 skipped")
    document = json.loads(result.stdout)
    assert (document["records"], document["skipped"]) == (2, 14)
    assert read(tmp_path / "here/a.csv")["offset"].to_pylist() == [0, 15]


@pytest.fixture
def big(tmp_path: Path) -> Path:
    with pystream.open(tmp_path / "big") as store, store.topic("t", create=True).producer() as producer:
        producer.send_many([b'{"n":%d,"pad":"%s"}' % (i, b"x" * 50) for i in range(300_000)])
    return tmp_path / "big"


@pytest.mark.parametrize("format", ["csv", "jsonl", "arrow-stream"])
def test_a_reader_that_goes_away(big: Path, format: str) -> None:
    command = [sys.executable, "-m", "pystream", "export", str(big), "t", "-", "--format", format]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert len(process.stdout.read(1000)) == 1000
    process.stdout.close()
    complaint = process.stderr.read()
    process.stderr.close()
    assert (process.wait(60), complaint) == (0, b"")


def test_a_full_disk_under_standard_output(run: Run) -> None:
    with open("/dev/full", "wb") as full:
        result = run("../s", "t", "-", "--format", "csv", stdout=full)
    assert result.returncode == 3
    assert "No space left on device" in said(result)
    assert "Traceback" not in said(result)


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.jsonl.gz"])
def test_interrupted(big: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "here").mkdir()
    command = [sys.executable, "-m", "pystream", "export", str(big), "t", str(tmp_path / "here" / name)]
    began = time.monotonic()
    process = subprocess.Popen([*command, "--value", "base64"], stderr=subprocess.PIPE)
    assert process.stderr is not None
    # Wait until it has the topic open and is at work: a file of the topic is mapped.
    while "/topics/t/0/" not in Path(f"/proc/{process.pid}/maps").read_text():
        assert time.monotonic() - began < 60
        time.sleep(0.001)
    process.send_signal(2)
    complaint = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 130
    assert complaint == b""
    assert list((tmp_path / "here").iterdir()) == []


def test_without_pyarrow(run: Run, tmp_path: Path) -> None:
    code = (
        "import importlib.util, sys; real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'pyarrow' else real(name, *more)\n"
        "sys.argv = ['pystream', 'export', 's', 't', 'a.csv']\n"
        "from pystream.cli import run; run()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=tmp_path, timeout=60)
    assert result.returncode == 2
    assert b"this needs pyarrow. Install the extra: pip install 'pystream-log[arrow]'" in result.stderr


def test_the_help_is_quick(tmp_path: Path) -> None:
    code = (
        "import sys; from pystream.cli.export import export\n"
        "print(*(name for name in ('pyarrow', 'rich', 'pystream.export') if name in sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    assert result.stdout.strip() == b""
