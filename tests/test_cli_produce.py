"""`pystream produce`: what it appends, what it refuses and how it says so, and how it ends."""

import fcntl
import signal
import subprocess
import sys
import termios
import time

import pytest
from click.testing import CliRunner

import pystream
from pystream.cli import cli

WAIT_S = 60


def command(*arguments):
    return [sys.executable, "-m", "pystream", *map(str, arguments)]


def produce(*arguments, text=b""):
    """The command as people run it."""
    return subprocess.run(
        command("produce", *arguments), input=text, capture_output=True, timeout=WAIT_S, check=False
    )


def invoke(*arguments, text=b""):
    """The command in this process: quicker; exit codes of pystream's own errors are the frame's."""
    return CliRunner().invoke(cli, ["produce", *map(str, arguments)], input=text)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "store"
    with pystream.open(path) as store:
        store.topic("t", create=True)
        store.topic("three", create=True, partitions=3)
        store.topic("ticks", create=True, dtype=[("ts", "i8"), ("px", "f8")])
        store.topic("stamped", create=True, timestamp_type="append")
        store.topic("small", create=True, segment_bytes="64KiB")
    return path


def records(path, topic="t"):
    with pystream.open(path, create=False) as store:
        return list(store[topic].records())


def values(path, topic="t"):
    return [record.value for record in records(path, topic)]


# ---- what it appends ----------------------------------------------------------------------------------


def test_standard_input(path):
    result = produce(path, "t", text=b"one\n\ntw\xffo\nlast without end")
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    assert values(path) == [b"one", b"", b"tw\xffo", b"last without end"]
    assert produce(path, "t").returncode == 0  # of nothing, nothing
    assert len(values(path)) == 4


def test_files_and_standard_input_between_them(path, tmp_path):
    (tmp_path / "a").write_bytes(b"1\n2")
    (tmp_path / "b").write_bytes(b"5\n")
    result = produce(path, "t", tmp_path / "a", "-", tmp_path / "b", text=b"3\n4")
    assert result.returncode == 0, result.stderr
    assert values(path) == [b"1", b"2", b"3", b"4", b"5"]


def test_a_megabyte_comes_out_as_it_went_in(path):
    text = b"".join(b"%d %s\n" % (i, b"x" * (i % 211)) for i in range(10_000))
    assert produce(path, "t", text=text).returncode == 0
    result = subprocess.run(command("consume", path, "t"), capture_output=True, timeout=WAIT_S, check=True)
    assert result.stdout == text


def test_create_makes_store_and_topic(tmp_path):
    result = produce(
        tmp_path / "new", "t", "--create", "--partitions", 2, "--compression", "lz4", text=b"a\nb"
    )
    assert (result.returncode, result.stderr) == (0, b"")
    with pystream.open(tmp_path / "new", create=False) as store:
        topic = store["t"]
        assert (topic.partitions, topic.options.compression) == (2, "lz4")
        assert [record.value for record in topic.records()] == [b"a", b"b"]
    assert invoke(tmp_path / "new", "t", "--create", text=b"c").exit_code == 0
    assert sorted(values(tmp_path / "new")) == [b"a", b"b", b"c"]


def test_keys_nulls_headers_and_timestamp(path):
    result = invoke(
        *(path, "t", "-k", r"\t", "--null-text", "-", "-H", "a=1", "--header", r"b=x\xff=", "--strip-cr"),
        *("--timestamp", "2026-01-31T12:00:00+01:00"),
        text=b"k\tv\r\nno key\nk2\t-\n-\tv2\n",
    )
    assert result.exit_code == 0, result.output
    found = records(path)
    assert [(r.key, r.value) for r in found] == [
        (b"k", b"v"),
        (None, b"no key"),
        (b"k2", None),
        (None, b"v2"),
    ]
    assert {r.headers for r in found} == {(("a", b"1"), ("b", b"x\xff="))}
    assert {r.timestamp for r in found} == {1769857200 * 10**9}


def test_keys_choose_partitions_as_a_producer_does(path):
    lines = [b"user-%d=%d" % (i % 17, i) for i in range(500)]
    assert invoke(path, "three", "-k", "=", text=b"\n".join(lines)).exit_code == 0
    with pystream.open(path) as store:
        other = store.topic("other", create=True, partitions=3)
        with other.producer() as producer:
            for line in lines:
                key, _, value = line.partition(b"=")
                producer.send(value, key)
        for index in range(3):
            wanted = [(r.key, r.value) for r in other.partition(index)]
            assert [(r.key, r.value) for r in store["three"].partition(index)] == wanted


def test_partition(path):
    assert invoke(path, "three", "-p", 2, text=b"a\nb").exit_code == 0
    assert invoke(path, "three", "-p", 2, "-k", ":", text=b"k:c").exit_code == 0
    with pystream.open(path) as store:
        assert [len(list(store["three"].partition(i))) for i in range(3)] == [0, 0, 3]


@pytest.mark.parametrize("options", [["-0"], ["--null"], ["-d", r"\0"], ["--delimiter", r"\x00"]])
def test_delimiter(path, options):
    assert invoke(path, "t", *options, text=b"a\nb\0c").exit_code == 0
    assert values(path) == [b"a\nb", b"c"]


def test_json(path):
    first = b'{"key": "k", "value": "v", "headers": {"a": "b"}, "timestamp": "2026-01-31T12:00:00Z"}'
    text = first + b'\n\n{"value": null}'
    assert invoke(path, "t", "--format", "json", "-H", "all=1", text=text).exit_code == 0
    first, second = records(path)
    assert (first.key, first.value, first.headers) == (b"k", b"v", (("a", b"b"), ("all", b"1")))
    assert first.timestamp == 1769860800 * 10**9
    assert (second.key, second.value, second.headers) == (None, None, (("all", b"1"),))
    assert abs(second.timestamp - time.time_ns()) < 60e9


def test_json_timestamps_of_ones_own(path):
    line = b'{"value": "", "timestamp": "2026-01-31T12:00:00Z"}\n{"value": ""}'
    assert invoke(path, "t", "--format", "json", "--timestamp", "2020-01-01", text=line).exit_code == 0
    assert [r.timestamp for r in records(path)] == [1769860800 * 10**9, 1577836800 * 10**9]
    options = ["--format", "json", "--timestamp", "2020-01-01", "--no-timestamps"]
    assert invoke(path, "t", *options, text=line).exit_code == 0
    assert [r.timestamp for r in records(path)][2:] == [1577836800 * 10**9] * 2
    assert invoke(path, "stamped", "--format", "json", "--no-timestamps", text=line).exit_code == 0
    assert len(records(path, "stamped")) == 2


def test_json_of_a_dtype(path):
    assert invoke(path, "ticks", "--format", "json", text=b'{"value": {"px": 1.5, "ts": 7}}').exit_code == 0
    with pystream.open(path) as store:
        (batch,) = store["ticks"].batches()
        assert batch.array.tolist() == [(7, 1.5)]


def test_summary(path):
    assert b"2 records, 3 B in " in produce(path, "t", "-v", text=b"a\nb").stderr
    assert b"1 record, 1 B in " in produce(path, "t", "--verbose", "--durable", text=b"a").stderr
    assert produce(path, "t", "-v", "-q", text=b"a").stderr == b""


def test_durable(path):
    assert invoke(path, "three", "--durable", "-k", ":", text=b"a:1\nb:2\nc:3\nd").exit_code == 0
    with pystream.open(path) as store:
        for index in range(3):
            partition = store["three"].partition(index)
            assert partition.durable_offset == partition.end_offset


# ---- what it refuses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["t", "nowhere.txt"], "File 'nowhere.txt' does not exist"),
        (["t", "/"], "File '/' is a directory"),
        (["t", "--partitions", "2"], "--partitions is for the topic that --create makes"),
        (["t", "--compression", "lz4"], "--compression is for the topic that --create makes"),
        (["t", "--create", "--partitions", "0"], "0 is not in the range"),
        (["t", "-k", ""], "--key-separator is empty"),
        (["t", "-k", r"a\n"], "--key-separator holds the delimiter"),
        (["t", "-k", r"\q"], "after a backslash stands t, n, r, 0, xHH or a backslash"),
        (["t", "-k", "\\"], "after a backslash stands"),
        (["t", "-d", "ab"], "'ab' is 2 bytes; it must be 1"),
        (["t", "-d", "é"], "'é' is 2 bytes; it must be 1"),
        (["t", "-d", ";", "-0"], "--delimiter and --null contradict each other"),
        (["t", "-H", "novalue"], "'novalue' is not NAME=VALUE"),
        (["t", "-H", "=value"], "'=value' is not NAME=VALUE"),
        (["t", "--timestamp", "earliest"], "a place in the log, not a moment"),
        (["t", "--timestamp", "12345"], "too small for nanoseconds"),
        (["t", "--timestamp", "noon"], "'noon': give earliest"),
        (["t", "--linger", "soon"], "'soon': not a duration"),
        (["t", "--format", "xml"], "'xml' is not one of 'lines', 'json'"),
        (["t", "--format", "json", "-k", ":"], "--key-separator is for --format lines"),
        (["t", "--format", "json", "--null-text", ""], "--null-text is for --format lines"),
        (["t", "--format", "json", "-0"], "--delimiter is for --format lines"),
        (["t", "--format", "json", "--strip-cr"], "--strip-cr is for --format lines"),
        (["t", "--no-timestamps"], "--no-timestamps is for --format json"),
        (["t", "-p", "-1"], "-1 is not in the range"),
        (["ticks"], "topic 'ticks' has values of dtype"),
        (["stamped", "--timestamp", "2026-01-31"], "--timestamp: topic 'stamped' stamps its records itself"),
        ([], "Missing argument 'TOPIC'"),
    ],
)
def test_wrong_usage(path, arguments, message):
    result = invoke(path, *arguments, text=b"a\n")
    assert result.exit_code == 2
    assert message in " ".join(result.output.split()).replace("│ ", "")
    assert values(path) == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["t", "-p", "1"], 2, "partition=1: topic 't' has only partition 0"),
        (["three", "-p", "3"], 2, "partition=3: topic 'three' has partitions 0 to 2"),
        (["t", "--create", "--partitions", "2"], 2, "partitions=2: topic 't' exists with partitions=1"),
        (["bad name", "--create"], 2, "bad name"),
        (["tt"], 3, "did you mean 't'?; or give --create"),
    ],
)
def test_wrong_topics(path, arguments, code, message):
    result = produce(path, *arguments, text=b"a\n")
    assert (result.returncode, result.stdout) == (code, b"")
    assert message in result.stderr.decode()
    assert b"Traceback" not in result.stderr


def test_no_store(tmp_path):
    result = produce(tmp_path / "none", "t")
    assert result.returncode == 3
    assert b"none: does not exist" in result.stderr and b"or give --create" in result.stderr
    result = produce(tmp_path / "no" / "parent", "t", "--create")
    assert result.returncode == 3
    assert b"its parent directory" in result.stderr and b"--create" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_closed_standard_input(path):
    line = f"{' '.join(command('produce', path, 't'))} <&-"
    result = subprocess.run(["bash", "-c", line], capture_output=True, timeout=WAIT_S, check=False)
    assert result.returncode == 3
    assert b"standard input" in result.stderr and b"Traceback" not in result.stderr
    assert values(path) == []


def test_a_line_too_long(path, tmp_path):
    (tmp_path / "file").write_bytes(b"a\nb\n" + b"x" * 70_000)
    result = produce(path, "small", tmp_path / "file")
    assert result.returncode == 1
    assert f"{tmp_path / 'file'}, line 3: takes more than the" in result.stderr.decode()
    assert result.stderr.endswith(b"; the 2 records before it are appended\n")
    assert values(path, "small") == [b"a", b"b"]


def test_a_line_of_a_wrong_width(path):
    with pystream.open(path) as store:
        store.topic("fixed", create=True, value_bytes=2)
    result = produce(path, "fixed", text=b"ab\nabc\n")
    assert result.returncode == 1
    assert b"standard input, line 2: the value has 3 bytes; " in result.stderr
    assert b"every value of topic 'fixed' has exactly 2; the record before it is appended" in result.stderr


@pytest.mark.parametrize(
    ("text", "message", "kept"),
    [
        (b'{"value": 1\n', "standard input, line 1: not JSON: ", []),
        (b'{"value": ""}\n\n{}\n{"value": ""}', "standard input, line 3: no value; give value", [b""]),
        (b'{"value": "a"}\n{"value": "%s"}\n' % (b"x" * 70_000), "line 2: record 0 takes", [b"a"]),
        (b'{"value": "%s' % (b"x" * 400_000), "line 1: is longer than a record of this topic can be", []),
    ],
)
def test_bad_json(path, text, message, kept):
    result = produce(path, "small", "--format", "json", text=text)
    assert result.returncode == 1, result.stderr
    assert message in result.stderr.decode() and b"Traceback" not in result.stderr
    assert values(path, "small") == kept


def test_json_with_timestamps_for_a_topic_that_has_its_own(path):
    line = b'{"value": "a"}\n{"value": "b", "timestamp": "2026-01-31T12:00:00Z"}'
    result = produce(path, "stamped", "--format", "json", text=line)
    assert result.returncode == 1
    assert b"line 2: the topic stamps its records itself; --no-timestamps" in result.stderr
    assert values(path, "stamped") == [b"a"]


def test_json_of_a_wrong_width(path):
    text = b'{"value_base64": "AAAA"}'
    result = produce(path, "ticks", "--format", "json", text=text)
    assert result.returncode == 1
    assert b"line 1: " in result.stderr and b"Traceback" not in result.stderr


# ---- how it ends --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("form", ["lines", "json"])
def test_interrupted(path, number, code, form):
    """What was read is appended; an unfinished line is not, and that is said."""
    texts = {"lines": b"one\ntwo\nunfin", "json": b'{"value": "one"}\n{"value": "two"}\n{"val'}
    options = ["--linger", "1h"] if form == "lines" else ["--format", "json"]
    with subprocess.Popen(
        command("produce", path, "t", *options), stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdin.write(texts[form])
        process.stdin.flush()
        waits_for_input(process.pid)
        process.send_signal(number)
        assert process.wait(WAIT_S) == code
        said = process.stderr.read().decode()
    assert said == "pystream: interrupted; 2 records appended; an unfinished line of 5 bytes was not\n"
    assert values(path) == [b"one", b"two"]


def waits_for_input(pid):
    """Return once the process has taken all that its pipe held."""
    end = time.monotonic() + WAIT_S
    with open(f"/proc/{pid}/fd/0", "rb") as pipe:
        while int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), "little"):
            assert time.monotonic() < end, "it never read"
            time.sleep(0.01)
    time.sleep(0.2)  # from the read to what becomes of it


def test_tail_shows_at_once(path):
    """`tail -f log | pystream produce`: each line can be read long before the pipe ends."""
    with (
        pystream.open(path) as store,
        subprocess.Popen(command("produce", path, "t"), stdin=subprocess.PIPE) as process,
    ):
        partition = store["t"].partition(0)
        delays = []
        for i in range(10):
            began = time.monotonic()
            process.stdin.write(b"%d\n" % i)
            process.stdin.flush()
            assert partition.wait(i, timeout=WAIT_S)
            delays.append(time.monotonic() - began)
        assert sorted(delays)[5] < 0.25
        process.stdin.close()
        assert process.wait(WAIT_S) == 0
