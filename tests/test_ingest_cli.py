"""`pystream ingest`: what it prints, where, and its exit codes."""

from __future__ import annotations

import gzip
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest

import pystream

COMMAND = [sys.executable, "-m", "pystream", "ingest"]


def run(path: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *arguments], cwd=path, input=stdin, capture_output=True, check=False, timeout=120
    )


def values(path: Path, topic: str = "t") -> list[bytes]:
    with pystream.open(path / "s") as store:
        return [record.value for record in store[topic].records()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "a.csv").write_text("k,t,v\na,2024-01-01,1\nb,2024-01-02,2\n")
    with pystream.open(tmp_path / "s") as store:
        store.topic("t", create=True)
    return tmp_path


def test_summary_and_quiet(path):
    done = run(path, "s", "t", "a.csv", "--key", "k", "--timestamp", "t")
    assert done.returncode == 0
    assert done.stdout == b""
    assert done.stderr.startswith(b"2 rows, 36 B read in 0.")
    assert done.stderr.endswith(b" rows/s\n")
    assert values(path) == [b'{"k":"a","t":"2024-01-01","v":1}', b'{"k":"b","t":"2024-01-02","v":2}']
    again = run(path, "s", "t", "a.csv", "--restart", "--quiet", "--key", "k", "--timestamp", "t")
    assert (again.returncode, again.stdout, again.stderr) == (0, b"", b"")


def test_json_summary(path):
    (path / "bad.csv").write_text("a\n1\n2,3\n")
    done = run(path, "s", "t", "a.csv", "bad.csv", "--json", "--bad-rows", "skip")
    said = json.loads(done.stdout)
    assert said.pop("seconds") > 0
    assert said == {
        "topic": "t",
        "sources": ["a.csv", "bad.csv"],
        "rows": 3,
        "rows_total": 3,
        "bad_rows": 1,
        "bytes": 44,
        "resumed": False,
        "complete_before": False,
        "partitions": {"0": 3},
        "unused_columns": [],
    }
    assert done.stderr == b"pystream: skipped bad.csv:3: 2 fields, where 1 is due: '2,3'\n"


def test_create(tmp_path):
    (tmp_path / "a.csv").write_text("k,v\n" + "".join(f"k{i},{i}\n" for i in range(10)))
    done = run(
        tmp_path,
        "s",
        "t",
        "a.csv",
        "--create",
        "--partitions",
        "3",
        "--topic-compression",
        "lz4",
        "--key",
        "k",
    )
    assert done.returncode == 0, done.stderr
    with pystream.open(tmp_path / "s") as store:
        options = store["t"].options
        assert (options.partitions, options.compression) == (3, "lz4")
        assert sum(end for _, end in store["t"].offsets().values()) == 10


def test_nothing_is_made_for_a_mistake(tmp_path):
    for arguments in (["missing.csv"], ["x.csv", "--dtype", "infer"], ["*.none"]):
        (tmp_path / "x.csv").write_text("a\nb\n")
        assert run(tmp_path, "s", "t", *arguments, "--create").returncode in (1, 2)
        assert not (tmp_path / "s").exists()


def test_dtype(tmp_path):
    pq.write_table(
        pa.table({"ts": pa.array([5, 6], pa.timestamp("ns")), "px": [0.5, 1.5]}), tmp_path / "a.parquet"
    )
    done = run(tmp_path, "s", "t", "a.parquet", "--create", "--dtype", "infer", "--timestamp", "ts")
    assert done.returncode == 0, done.stderr
    done = run(tmp_path, "s", "u", "a.parquet", "--create", "--dtype", "px:f4")
    assert done.returncode == 0
    assert done.stderr.startswith(
        b"pystream: columns that the topic's dtype has no field for are left out: ts\n"
    )
    with pystream.open(tmp_path / "s") as store:
        assert [array["px"].tolist() for array in store["t"].partition(0).arrays()] == [[0.5, 1.5]]
        assert store["u"].options.dtype == [("px", "f4")]


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (b"a,b\n1,2\n3,4\n", ["--format", "csv"]),
        (gzip.compress(b"a,b\n1,2\n3,4\n"), ["--format", "csv"]),
        (b'{"a":1,"b":2}\n{"a":3,"b":4}\n', []),
        (b'{"a":1,"b":2}\n{"a":3,"b":4}', ["--format", "jsonl", "--compression", "none"]),
        ("stream", []),
    ],
)
def test_standard_input(path, data, options):
    if data == "stream":
        sink = pa.BufferOutputStream()
        table = pa.table({"a": [1, 3], "b": [2, 4]})
        with ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        data = sink.getvalue().to_pybytes()
    done = run(path, "s", "t", "-", *options, stdin=data)
    assert done.returncode == 0, done.stderr
    assert values(path) == [b'{"a":1,"b":2}', b'{"a":3,"b":4}']
    assert not list(path.glob("s/ingest/*"))
    again = run(path, "s", "t", "-", *options, "--json", stdin=data)  # each time anew
    assert again.returncode == 0
    if data[:2] != b"\x1f\x8b":
        end_mark = 8 if data[:4] == b"\xff\xff\xff\xff" else 0  # of a stream, which no batch holds
        assert json.loads(again.stdout)["bytes"] == len(data) - end_mark


def test_a_slow_pipe_is_not_waited_for(path):
    """What a pipe gives is in the topic soon, though the block is not full."""
    process = subprocess.Popen(
        [*COMMAND, "s", "t", "-", "--format", "jsonl"], cwd=path, stdin=subprocess.PIPE
    )
    assert process.stdin is not None
    with pystream.open(path / "s") as store:
        for count in range(1, 4):
            process.stdin.write(b'{"n":%d}\n{"half' % count if count == 1 else b'":0}\n{"half')
            process.stdin.flush()
            assert store["t"].partition(0).wait(count - 1, timeout=30)
    process.stdin.write(b'":0}')
    process.stdin.close()
    assert process.wait(60) == 0
    assert values(path) == [b'{"n":1}', b'{"half":0}', b'{"half":0}', b'{"half":0}']


def test_bar_on_a_terminal(path):
    """Bytes, rows, rate and time left, and none of it left behind."""
    with open(path / "big.csv", "w") as file:
        file.write("a,b\n" + "".join(f"{i},some text of no great length\n" for i in range(300_000)))
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "s", "t", "big.csv"],
        cwd=path,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
    )
    os.close(theirs)
    shown, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline and select.select([ours], [], [], 60)[0]:
        try:
            piece = os.read(ours, 65536)
        except OSError:
            break
        shown += piece
    os.close(ours)
    assert process.wait(60) == 0
    text = shown.decode()
    assert "MiB" in text
    assert " rows " in text
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.rstrip().splitlines()[-1])
    assert re.fullmatch(r"300,000 rows, 10\.2 MiB read in [0-9.]+ s, [0-9,]+ rows/s", last.strip())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "Missing argument"),
        (["s"], 2, "Missing argument 'TOPIC'"),
        (["s", "t"], 2, "Missing argument 'SOURCE...'"),
        (["none", "t", "a.csv"], 3, "none: does not exist; `pystream topics create` makes a store"),
        (["s", "tt", "a.csv"], 3, "no topic 'tt' in"),
        (["s", "t", "b.csv"], 1, "pystream: b.csv: No such file or directory"),
        (["s", "t", "*.xyz"], 1, "pystream: *.xyz: no file matches"),
        (["s", "t", "."], 1, "pystream: .: a directory; name its files"),
        (["s", "t", "a.csv", "a.csv"], 2, "pystream: a.csv: the same file as a.csv"),
        (
            ["s", "t", "odd"],
            2,
            "odd: cannot tell its format; say which: csv, jsonl, parquet, arrow or arrow-stream (--format)",
        ),
        (["s", "t", "-"], 2, "standard input: cannot tell its format"),
        (["s", "t", "-", "--format", "parquet"], 2, "standard input: parquet is read from its end"),
        (["s", "t", "-", "--format", "csv", "--resume"], 2, "standard input can be read only once"),
        (["s", "t", "a.csv", "--format", "xml"], 2, "Invalid value for '--format'"),
        (["s", "t", "a.csv", "--format", "parquet"], 1, "pystream: a.csv: "),
        (
            ["s", "t", "a.csv", "--delimiter", ";;"],
            2,
            "pystream: --delimiter ;;: must be one ASCII character",
        ),
        (["s", "t", "a.csv", "--type", "v"], 2, "--type v: write NAME=string, NAME=number or NAME=bool"),
        (["s", "t", "a.csv", "--type", "w=string"], 2, "a.csv: no column 'w'; there are k, t, v"),
        (
            ["s", "t", "a.csv", "--type", "k=number"],
            1,
            "is no number; if the column holds text, say --type k=string",
        ),
        (["s", "t", "odd"], 2, "; or, if each line is to be a record as it stands, use `pystream produce`"),
        (
            ["s", "t", "latin.csv"],
            1,
            "latin.csv:2: column 'b': b'caf\\xe9 \\xe8' is not UTF-8: 'caf\\xe9 \\xe8,ü'\n",
        ),
        (["s", "t", "a.csv", "--key", "x"], 2, "a.csv: no column 'x'; there are k, t, v"),
        (
            ["s", "t", "bad.csv", "--bad-rows", "skip", "--bad-rows-to", "bad.csv"],
            2,
            "--bad-rows-to bad.csv: is one of the sources; name another file",
        ),
        (["s", "t", "a.csv", "--timestamp", "v"], 1, "a.csv:2: the timestamp '1' is not ISO 8601"),
        (
            ["s", "t", "a.csv", "--timestamp-unit", "s"],
            2,
            "--timestamp-format, --timestamp-unit and --timezone need --timestamp, the column",
        ),
        (
            ["s", "t", "a.csv", "--timestamp", "t", "--timezone", "X"],
            2,
            "pystream: --timezone X: no such time zone",
        ),
        (
            ["s", "t", "a.csv", "--value", "raw", "--value-column", "v"],
            2,
            "--value raw and --value-column v: give one of them",
        ),
        (["s", "t", "a.csv", "-p", "1"], 2, "--partition 1: topic 't' has only partition 0"),
        (
            ["s", "t", "a.csv", "--partitions", "2"],
            2,
            "--partitions is for a topic that is made here: add --create",
        ),
        (["s", "t", "a.csv", "--create", "--partitions", "2"], 2, "topic 't' exists with partitions=1"),
        (
            ["s", "u", "a.csv", "--create", "--dtype", "infer"],
            2,
            "no field can be inferred for column 'k' of string",
        ),
        (["s", "u", "a.csv", "--create", "--dtype", "a:zz"], 2, "field 'a': 'zz' is no NumPy type"),
        (
            ["s", "t", "a.csv", "--bad-rows-to", "x"],
            2,
            "--bad-rows-to keeps rows that are skipped: it needs --bad-rows skip",
        ),
        (["s", "t", "a.csv", "--resume", "--restart"], 2, "--resume and --restart contradict each other"),
        (["s", "t", "a.csv", "--checkpoint-every", "x"], 2, "--checkpoint-every x: not a duration"),
        (
            ["s", "t", "bad.csv"],
            1,
            "bad.csv:3: 2 fields, where 1 is due: '2,3'\npystream: rows before it are in the topic",
        ),
        (
            ["s", "t", "bad.csv", "--bad-rows", "skip", "--bad-rows-to", "no/such/place"],
            3,
            "no/such/place: No such file or directory",
        ),
    ],
)
def test_errors(path, arguments, code, message):
    (path / "odd").write_text("what is this")
    (path / "latin.csv").write_bytes("b,c\ncafé è,".encode("latin-1") + "ü\n".encode())
    (path / "bad.csv").write_text("a\n1\n2,3\n")
    done = run(path, *arguments, stdin=b"what is this")
    said = done.stderr.decode()
    assert done.returncode == code, said
    assert message in said
    assert "Traceback" not in said
    assert done.stdout == b""
    assert values(path) == []


def test_again(path):
    assert run(path, "s", "t", "a.csv").returncode == 0
    again = run(path, "s", "t", "a.csv")
    assert again.returncode == 2
    assert b"pystream: this source went into topic 't' before (2 rows, begun 20" in again.stderr
    assert b"--restart takes everything in once more" in again.stderr
    resumed = run(path, "s", "t", "a.csv", "--resume")
    assert (resumed.returncode, resumed.stderr) == (0, b"nothing to do: all of it is in the topic already\n")
    (path / "a.csv").write_text("k,t,v\nx,2024-01-01,1\nb,2024-01-02,2\n")
    changed = run(path, "s", "t", "a.csv", "--resume")
    assert changed.returncode == 1
    assert (
        b"a.csv: its content is not what it was; a job can only go on with the data it began with. --restart"
        in changed.stderr
    )


def test_only_the_first_bad_rows_are_shown(path):
    (path / "bad.csv").write_text("a\n" + "1,2\n" * 25 + "3\n")
    done = run(path, "s", "t", "bad.csv", "--bad-rows", "skip", "--bad-rows-to", "kept.jsonl")
    lines = done.stderr.decode().splitlines()
    assert [line.split(":")[2] for line in lines[:10]] == [str(number) for number in range(2, 12)]
    assert lines[10] == "pystream: skipped 15 more bad rows"
    assert lines[11].endswith(", 25 bad rows skipped")
    assert done.returncode == 0
    assert len((path / "kept.jsonl").read_text().splitlines()) == 25


def test_help_is_quick_and_complete(path):
    done = run(path, "--help")
    assert done.returncode == 0
    for option in (
        "--key",
        "--timestamp-format",
        "--bad-rows-to",
        "--resume",
        "--restart",
        "--dtype",
        "--checkpoint-every",
    ):
        assert option.encode() in done.stdout
    code = "import sys, pystream.cli.ingest; sys.exit('pyarrow' in sys.modules or 'rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
