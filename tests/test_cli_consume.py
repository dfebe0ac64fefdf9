"""`pystream consume`: ranges, formats, following, what it refuses, and how it ends."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner

import pystream
from pystream.cli import cli

WAIT_S = 60
NOON = 1769860800 * 10**9  # 2026-01-31T12:00:00Z
MINUTE = 60 * 10**9


def command(*arguments):
    return [sys.executable, "-m", "pystream", *map(str, arguments)]


def consume(*arguments, **options):
    """The command as people run it."""
    return subprocess.run(
        command("consume", *arguments), capture_output=True, timeout=WAIT_S, check=False, **options
    )


def invoke(*arguments):
    """The command in this process: quicker; exit codes of pystream's own errors are the frame's."""
    return CliRunner().invoke(cli, ["consume", *map(str, arguments)])


def shown(*arguments):
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout_bytes


@pytest.fixture
def path(tmp_path):
    """A store with a topic t of ten records, a minute apart, of which the odd ones have keys; and others."""
    path = tmp_path / "store"
    with pystream.open(path) as store:
        topic = store.topic("t", create=True)
        topic.append(
            [b"v%d" % i for i in range(10)],
            keys=[b"k%d" % i if i % 2 else None for i in range(10)],
            timestamps=np.array([NOON + i * MINUTE for i in range(10)]),
        )
        two = store.topic("two", create=True, partitions=2)
        two.append([b"a", b"b"], partition=0, timestamps=np.array([NOON, NOON + MINUTE]))
        two.append([b"c", b"d"], partition=1, timestamps=np.array([NOON, NOON + MINUTE]))
        odd = store.topic("odd", create=True)
        odd.append([None], keys=[b"\xff"], headers=[[("h", b"1"), ("h", None)]], timestamps=NOON + 1)
        ticks = store.topic("ticks", create=True, dtype=[("px", "f8"), ("qty", "i4")])
        ticks.append(np.array([(1.5, 2), (float("nan"), -1)], ticks.options.dtype), timestamps=NOON)
        store.topic("empty", create=True)
    return path


# ---- ranges -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "first", "end"),
    [
        ([], 0, 10),
        (["--from", "earliest"], 0, 10),
        (["--from", "latest"], 10, 10),
        (["--from", "7"], 7, 10),
        (["--from", "10"], 10, 10),
        (["--until", "3"], 0, 3),
        (["--until", "0"], 0, 0),
        (["--until", "latest"], 0, 10),
        (["--until", "99"], 0, 10),
        (["--from", "3", "--until", "5"], 3, 5),
        (["--from", "5", "--until", "3"], 5, 5),
        (["--from", "2026-01-31T12:02:00Z", "--until", "2026-01-31T12:04"], 2, 4),
        (["--from", "2026-01-31T13:00:30+01:00"], 1, 10),
        (["--until", "2026-01-31"], 0, 0),
        (["--from", "2027-01-01"], 10, 10),
        (["--max", "4"], 0, 4),
        (["-n", "0"], 0, 0),
        (["-n", "99"], 0, 10),
        (["--from", "8", "--max", "1", "-p", "0"], 8, 9),
    ],
)
@pytest.mark.parametrize("follow", [[], ["--follow", "--timeout", "0.05"]])
def test_ranges(path, options, first, end, follow):
    assert shown(path, "t", *options, *follow) == b"".join(b"v%d\n" % i for i in range(first, end))


def test_times_ago(path):
    with pystream.open(path) as store:
        store["t"].append([b"now"])
    assert shown(path, "t", "--from", "15m") == b"now\n"


def test_partitions_one_after_the_other(path):
    assert shown(path, "two") == b"a\nb\nc\nd\n"
    assert shown(path, "two", "-p", 1) == b"c\nd\n"
    assert shown(path, "two", "-p", 1, "-p", 0, "-p", 1, "-n", 3) == b"a\nb\nc\n"
    assert shown(path, "two", "--from", "2026-01-31T12:01") == b"b\nd\n"
    assert shown(path, "two", "-p", 1, "--from", 1) == b"d\n"
    assert shown(path, "empty") == b""


# ---- formats ------------------------------------------------------------------------------------------


def test_lines_with_columns(path):
    options = ["--until", 2]
    assert shown(path, "t", *options, "--keys") == b"v0\nk1\tv1\n"  # as produce --key-separator reads them
    assert shown(path, "t", *options, "--keys", "-k", ": ", "--null-text", "NULL") == b"NULL: v0\nk1: v1\n"
    assert shown(path, "t", *options, "--offsets", "--keys") == b"0\t\tv0\n1\tk1\tv1\n"
    everything = ["--partitions", "--offsets", "--times", "--headers", "--keys", "--key-separator", "|"]
    wanted = b"0|0|2026-01-31T12:00:00Z|||v0\n0|1|2026-01-31T12:01:00Z||k1|v1\n"
    assert shown(path, "t", *options, *everything) == wanted
    wanted = b"0|0|2026-01-31T12:00:00.000000001Z|h=1,h=~|\xff|~"
    assert shown(path, "odd", *everything, "--null-text", "~", "-d", r"\n") == wanted + b"\n"
    assert shown(path, "odd", *everything, "--null-text", "~", "-0") == wanted + b"\0"
    assert shown(path, "odd") == b"\n"
    assert shown(path, "odd", "--null-text", "gone") == b"gone\n"


def test_delimiter(path):
    assert shown(path, "t", "-n", 2, "-0") == b"v0\0v1\0"
    assert shown(path, "t", "-n", 2, "--delimiter", ";") == b"v0;v1;"


def test_hex(path):
    assert (
        shown(path, "t", "-n", 2, "--format", "hex", "--keys", "--offsets") == b"0\t\t7630\n1\t6b31\t7631\n"
    )
    assert shown(path, "odd", "--format", "hex", "--keys", "--null-text", "-") == b"ff\t-\n"
    assert shown(path, "ticks", "-n", 1, "--format", "hex") == b"000000000000f83f02000000\n"


@pytest.mark.parametrize("option", ["--json", "--format=json"])
def test_json(path, option):
    lines = [json.loads(line) for line in shown(path, "t", option).splitlines()]
    assert lines[1] == {
        "topic": "t",
        "partition": 0,
        "offset": 1,
        "timestamp": "2026-01-31T12:01:00Z",
        "key": "k1",
        "value": "v1",
        "headers": [],
    }
    assert [line["offset"] for line in lines] == list(range(10)) and lines[0]["key"] is None
    (odd,) = [json.loads(line) for line in shown(path, "odd", option).splitlines()]
    assert odd["key_base64"] == "/w==" and odd["value"] is None
    assert odd["timestamp"] == "2026-01-31T12:00:00.000000001Z"
    assert odd["headers"] == [{"name": "h", "value": "1"}, {"name": "h", "value": None}]
    ticks = [json.loads(line)["value"] for line in shown(path, "ticks", option).splitlines()]
    assert ticks == [{"px": 1.5, "qty": 2}, {"px": "nan", "qty": -1}]


def test_raw_values_of_a_dtype_are_their_bytes(path):
    with pystream.open(path) as store:
        wanted = b"".join(record.value + b"\n" for record in store["ticks"].records())
    assert shown(path, "ticks") == wanted


def test_table(path, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    lines = shown(path, "t", "--format", "table", "-n", 2).decode().splitlines()
    assert lines[0].split() == ["offset", "time", "(UTC)", "key", "value"]
    assert lines[1].split() == ["0", "2026-01-31", "12:00:00.000", "-", "v0"]
    assert lines[2].split() == ["1", "2026-01-31", "12:01:00.000", "k1", "v1"]
    lines = shown(path, "two", "--format", "table").decode().splitlines()
    assert lines[0].split()[0] == "part" and len(lines) == 5
    (_, row) = shown(path, "odd", "--format", "table", "--headers").decode().splitlines()
    assert re.split("  +", row.strip()) == ["0", "2026-01-31 12:00:00.000", r"\xff", "h=1, h=-", "-"]
    assert '{"px":1.5,"qty":2}' in shown(path, "ticks", "--format", "table").decode()
    with pystream.open(path) as store:
        store.topic("long", create=True).append([b"x" * 500, b"\x1b[31m\ttab\r\n", "日本語".encode() * 20])
    text = shown(path, "long", "--format", "table").decode()
    assert "x" * 500 in text and r"\x1b[31m\ttab\r\n" in text and "\x1b" not in text
    monkeypatch.setenv("COLUMNS", "60")
    rows = shown(path, "long", "--format", "table").decode().splitlines()
    assert all(len(row) <= 60 for row in rows) and rows[1].endswith("x…") and rows[3].endswith("…")


@pytest.mark.parametrize(("columns", "term"), [(80, "xterm"), (200, "xterm"), (80, "dumb")])
def test_table_in_a_terminal(path, columns, term):
    with pystream.open(path) as store:
        store.topic("wide", create=True).append([b"word " * 100] * 3, keys=[b"key " * 20] * 3)
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
    pid, fd = pty.fork()
    if pid == 0:
        line = f"stty cols {columns}; exec {' '.join(command('consume', path, 'wide', '--format', 'table'))}"
        os.execvpe("bash", ["bash", "-c", line], environment | {"TERM": term, "PYTHONUTF8": "1"})
    text = b""
    while True:
        try:
            data = os.read(fd, 65536)
        except OSError:
            break
        if not data:
            break
        text += data
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(fd)
    assert (b"\x1b" in text) == (term != "dumb")
    lines = re.sub("\x1b\\[[0-9;]*m", "", text.decode()).splitlines()
    assert len(lines) == 4
    assert all(len(line) == columns for line in lines[1:])  # as wide as the terminal, and cut there


# ---- following ----------------------------------------------------------------------------------------


def test_follow_shows_what_another_process_appends(path):
    with subprocess.Popen(
        command("consume", path, "two", "--follow", "-n", 7), stdout=subprocess.PIPE
    ) as process:
        assert {process.stdout.readline() for _ in range(4)} == {b"a\n", b"b\n", b"c\n", b"d\n"}
        delays = []
        with pystream.open(path) as store:
            topic = store["two"]
            for i in range(3):
                time.sleep(0.1)  # it waits
                began = time.monotonic()
                topic.append([b"new %d" % i], partition=i % 2)
                assert process.stdout.readline() == b"new %d\n" % i
                delays.append(time.monotonic() - began)
        assert process.wait(WAIT_S) == 0
    assert sorted(delays)[1] < 0.25


@pytest.mark.parametrize("until", ["12", "2026-01-31T12:12"])
def test_follow_until(path, until):
    """Ends with the record before, also when that was not there when it began."""
    with subprocess.Popen(
        command("consume", path, "t", "--follow", "--from", 9, "--until", until), stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"v9\n"
        with pystream.open(path) as store:
            stamps = np.array([NOON + i * MINUTE for i in (10, 11, 12, 13)])
            store["t"].append([b"v10", b"v11", b"v12", b"v13"], timestamps=stamps)
        assert process.stdout.read() == b"v10\nv11\n"
        assert process.wait(WAIT_S) == 0


def test_follow_ends_when_nothing_comes(path):
    began = time.monotonic()
    assert shown(path, "t", "--follow", "--timeout", "200ms") == shown(path, "t")
    assert time.monotonic() - began >= 0.2
    assert shown(path, "t", "-f", "--timeout", "0", "--json") == shown(path, "t", "--json")
    assert shown(path, "two", "--follow", "--until", "latest") == shown(path, "two")
    assert shown(path, "two", "--follow", "--until", "earliest") == b""


# ---- how it ends --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [[], ["--follow"], ["--follow", "--json"], ["--json"], ["--format", "table"]]
)
def test_a_reader_that_goes_away(path, options):
    """As `| head -1` does: a quiet end, at once, even when there is nothing to write."""
    line = f"{' '.join(command('consume', path, 't', *options))} | head -1; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", line], capture_output=True, timeout=WAIT_S, check=False)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.count(b"\n") == 1


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_interrupted_while_it_follows(path, options):
    with subprocess.Popen(
        command("consume", path, "t", "--follow", *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        for _ in range(10):
            assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 130
        assert process.stdout.read() == b""
        assert b"Traceback" not in process.stderr.read()


def test_interrupted_while_nobody_reads(path):
    with pystream.open(path) as store:
        topic = store.topic("large", create=True)
        for _ in range(40):
            topic.append([b"x" * 1000] * 100)
    with subprocess.Popen(
        command("consume", path, "large"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout.read(1) == b"x"
        time.sleep(0.3)  # now the pipe is full
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 130
        assert b"Traceback" not in process.stderr.read()


def test_output_that_fails(path):
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            command("consume", path, "t"), stdout=full, stderr=subprocess.PIPE, timeout=WAIT_S, check=False
        )
    assert result.returncode == 3
    assert b"No space left on device" in result.stderr and b"Traceback" not in result.stderr


# ---- what it refuses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["t", "--from", "noon"], "'noon': give earliest, latest, an offset"),
        (["t", "--until", "-"], "give earliest, latest, an offset"),
        (["t", "--max", "-1"], "-1 is not in the range"),
        (["t", "-p", "-1"], "-1 is not in the range"),
        (["t", "--timeout", "1"], "--timeout is for --follow"),
        (["t", "--follow", "--timeout", "soon"], "'soon': not a duration"),
        (["t", "--follow", "--timeout", "-1"], "'-1'"),
        (["t", "--format", "xml"], "'xml' is not one of"),
        (["t", "--json", "--format", "hex"], "--json and --format hex contradict each other"),
        (["t", "--json", "--keys"], "--keys is not for --format json, which always has it"),
        (["t", "--json", "--headers"], "--headers is not for --format json, which always has it"),
        (["t", "--json", "--null-text", "x"], "--null-text is not for --format json"),
        (["t", "--format", "table", "--offsets"], "--offsets is not for --format table, which always has it"),
        (["t", "--format", "table", "-k", ","], "--key-separator is not for --format table"),
        (["t", "--format", "hex", "-0"], "--null is not for --format hex"),
        (["t", "--format", "hex", "-d", ","], "--delimiter is not for --format hex"),
        (["t", "-d", ",", "-0"], "--delimiter and --null contradict each other"),
        (["t", "-d", ""], "'' is 0 bytes; it must be 1"),
        (["two", "--from", "1"], "--from 1: topic 'two' has 2 partitions, each with offsets of its own"),
        (["two", "--until", "1"], "--until 1: topic 'two' has 2 partitions"),
        ([], "Missing argument 'TOPIC'"),
    ],
)
def test_wrong_usage(path, arguments, message):
    result = invoke(path, *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["t", "--from", "11"], 3, "offset 11 is not in 't'/0: it holds 0 up to, not including, 10"),
        (["t", "--from", "11", "--follow"], 3, "offset 11 is not in 't'/0"),
        (["t", "-p", "1"], 2, "partition=1: topic 't' has only partition 0"),
        (["tt"], 3, "no topic 'tt'"),
    ],
)
def test_wrong_places(path, arguments, code, message):
    result = consume(path, *arguments)
    assert (result.returncode, result.stdout) == (code, b"")
    assert message in result.stderr.decode() and b"Traceback" not in result.stderr


def test_no_store(tmp_path):
    result = consume(tmp_path / "none", "t")
    assert result.returncode == 3
    assert b"none: does not exist" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_damage_is_named_and_what_comes_before_it_is_printed(path):
    with pystream.open(path) as store:
        topic = store.topic("hurt", create=True)
        for i in range(5):
            topic.append([b"record %d" % i])
        topic.partition(0).flush()
    (segment,) = (path / "topics" / "hurt" / "0").glob("*.log")
    data = bytearray(segment.read_bytes())
    data[data.index(b"record 3")] ^= 1
    segment.write_bytes(data)
    result = consume(path, "hurt")
    assert result.returncode == 3
    assert b"Traceback" not in result.stderr and b"'hurt' partition 0" in result.stderr
    assert result.stdout == b"record 0\nrecord 1\nrecord 2\n"
