"""`pystream top`: its rates, and its screens as a terminal shows them."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import struct
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pyte
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pystream
from commands import WAIT_S, Terminal, in_shell, pystream_
from pystream.cli import toprates, topview
from pystream.cli.toprates import GroupLine, Line, Picture

S = 10**9


# ---- rates ----------------------------------------------------------------------------------------------


def test_rates_are_what_was_done_in_between(store: pystream.Store) -> None:
    topic = store.topic("t", create=True, partitions=2)
    topic.append([b"x" * 100] * 10, partition=0)
    group = store.consumer("t", group="g", timeout=0)
    first = store.stats()
    topic.append([b"x" * 100] * 30, partition=0)
    topic.append([b"x" * 100] * 10, partition=1)
    for number, _ in enumerate(group):
        if number == 20:
            break
    store.topic("new", create=True).append([b"x"])
    now = store.stats()
    found = toprates.picture(first, now, 2.0, by_partition=False)
    line = found.lines[1]
    assert (line.topic, line.partition, line.in_records, line.out_records) == ("t", None, 20.0, 10.0)
    assert line.in_bytes == (now["t"].stored_bytes - first["t"].stored_bytes) / 2
    assert (line.records, line.lag_records) == (50, 30) and line.lag_ns is not None
    assert found.lines[0].in_records == 0  # it was not there before
    assert (found.in_records, found.out_records, found.topics, found.partitions) == (20.0, 10.0, 2, 3)
    lag = found.groups[0]
    assert (lag.group, lag.topic, lag.members, lag.records_per_second) == ("g", "t", 2, 10.0)
    assert lag.lag_records == 30 and lag.caught_up_seconds is None  # more came than went
    parts = toprates.picture(first, now, 2.0, by_partition=True)
    assert [(each.topic, each.partition) for each in parts.lines] == [("new", 0), ("t", 0), ("t", 1)]
    assert sum(each.in_records for each in parts.lines) == 20.0
    assert len(parts.groups) == 2 and sum(each.lag_records for each in parts.groups) == 30
    alone = toprates.picture(None, now, 2.0, by_partition=False)
    assert alone.seconds == 0 and alone.in_records == 0 and alone.lines[1].records == 50
    for _ in group:
        pass
    group.commit()
    done = store.stats()
    ended = toprates.picture(now, done, 3.0, by_partition=False).groups[0]
    assert (ended.lag_records, ended.caught_up_seconds, ended.records_per_second) == (0, 0.0, 10.0)
    group.close()
    json.dumps(found.as_dict())


def test_a_topic_made_anew_begins_anew(store: pystream.Store) -> None:
    store.topic("t", create=True).append([b"x"] * 100)
    first = store.stats()
    store.delete_topic("t")
    store.topic("t", create=True).append([b"x"] * 500)
    assert toprates.picture(first, store.stats(), 1.0, by_partition=False).in_records == 0


def line(topic: str, **values: Any) -> Line:
    numbers: dict[str, Any] = dict.fromkeys(Line.__dataclass_fields__, 0)
    return Line(**(numbers | {"topic": topic, "partition": None, "lag_ns": None, "error": None} | values))


def a_picture(lines: list[Line], groups: list[GroupLine], errors: tuple[str, ...] = ()) -> Picture:
    return Picture("/a/s.ps", 0, 1.0, tuple(lines), tuple(groups), len(lines), 7, 5, 6, 7, errors)


def test_orders() -> None:
    lines = [
        line("b", in_bytes=2, lag_records=None),
        line("a", in_bytes=2),
        line("c", disk_bytes=1, lag_records=5),
    ]
    assert [each.topic for each in toprates.in_order(lines, "name")] == ["a", "b", "c"]
    assert [each.topic for each in toprates.in_order(lines, "in")] == ["a", "b", "c"]
    assert [each.topic for each in toprates.in_order(lines, "disk")] == ["c", "a", "b"]
    assert [each.topic for each in toprates.in_order(lines, "lag")] == ["c", "a", "b"]


# ---- texts ----------------------------------------------------------------------------------------------


def test_numbers_for_people() -> None:
    counts = {0: "0", 0.5: "0.5", 7: "7", 12.4: "12", 9999: "9,999", 9999.5: "10.0k", 123_456: "123.5k",
              999_949: "999.9k", 999_950: "1.0M", 4.5e9: "4.5G", 1.2e13: "12.0T"}  # fmt: skip
    assert {number: topview.count_text(number) for number in counts} == counts
    ages = {None: "?", 0: "0", 20_000_000: "20ms", 1_500_000_000: "1.5s", 99 * S: "99.0s", 100 * S: "1m40s",
            3599 * S: "59m59s", 2 * 3600 * S + 300 * S: "2h05m", 76 * 3600 * S: "3d04h"}  # fmt: skip
    assert {ns: topview.age_text(ns) for ns in ages} == ages


NAMES = st.text("abc-_.", min_size=1, max_size=249)
LINES = st.lists(
    st.builds(
        line,
        NAMES,
        partition=st.none() | st.integers(0, 65535),
        in_records=st.floats(0, 1e9),
        in_bytes=st.floats(0, 1e12),
        lag_records=st.none() | st.integers(0, 10**15),
        lag_ns=st.none() | st.integers(0, 10**19),
        disk_bytes=st.integers(0, 10**15),
        records=st.integers(0, 10**15),
        poisoned=st.integers(0, 1),
        error=st.none() | st.just("it is broken"),
    ),
    max_size=60,
)
GROUPS = st.lists(
    st.builds(
        GroupLine, NAMES, NAMES, st.none(), st.integers(0, 99), st.floats(0, 1e9), st.integers(0, 10**12),
        st.none() | st.integers(0, 10**18), st.none() | st.floats(0, 1e9),
    ),
    max_size=30,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    lines=LINES,
    groups=GROUPS,
    errors=st.lists(st.text("xyz ", max_size=300), max_size=4),
    width=st.integers(1, 250),
    height=st.integers(1, 80),
    order=st.sampled_from(list(toprates.ORDERS)),
    scroll=st.integers(-5, 100),
)
def test_a_screen_is_never_larger_than_the_terminal(
    lines: list[Line],
    groups: list[GroupLine],
    errors: list[str],
    width: int,
    height: int,
    order: str,
    scroll: int,
) -> None:
    view = topview.View(order)
    view.scroll(scroll)
    picture = a_picture(lines, groups, tuple(errors))
    shown = view.screen(picture, width, height)
    assert len(shown) == height
    for text in shown:
        assert "\n" not in text.plain
    for text in (
        *topview.table(topview.LINE_CELLS, lines, width),
        *topview.table(topview.GROUP_CELLS, groups, width),
    ):
        assert len(text) <= max(width, 60), text.plain  # where there is room for the least columns
    if height >= 10 and lines:
        names = {topview.table(topview.LINE_CELLS, [each], 400)[1].plain.split(" ")[0] for each in lines}
        seen = "\n".join(text.plain for text in shown)
        assert width < 80 or any(name[:8] in seen for name in names)
    topview.plain(picture, order, width)


# ---- the command without a terminal ---------------------------------------------------------------------


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    path = tmp_path / "events.ps"
    with pystream.open(path) as store:
        clicks = store.topic("clicks", create=True, partitions=2, compression="lz4")
        clicks.append([b"x" * 100] * 30, partition=1)
        for number in range(30):
            store.topic(f"sensor-{number:02}", create=True)
        with store.consumer("clicks", group="billing") as consumer:
            for number, _ in enumerate(consumer):
                if number == 7:
                    break
    return path


def test_once(filled: Path) -> None:
    result = pystream_("top", filled, "--once", "--interval", "100ms")
    assert result.returncode == 0 and result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0].startswith("pystream top  events.ps") and "31 topics, 32 partitions" in lines[0]
    assert "30 records" in lines[1] and lines[2].split()[:2] == ["Topic", "In/s"]
    assert lines[3].split()[0] == "clicks" and "billing" in result.stdout and "\x1b" not in result.stdout
    parts = pystream_(
        "top", filled, "--once", "--interval", "100ms", "-p", "-t", "clicks", "--sort", "records"
    )
    assert [text.split()[:2] for text in parts.stdout.splitlines()[3:5]] == [["clicks", "1"], ["clicks", "0"]]


def test_json(filled: Path) -> None:
    result = pystream_("top", filled, "--json", "--count", "2", "--interval", "0.1", "--sort", "records")
    documents = [json.loads(text) for text in result.stdout.splitlines()]
    assert len(documents) == 2 and result.returncode == 0
    first = documents[0]["lines"][0]
    assert (first["topic"], first["records"], first["in_records"]) == ("clicks", 30, 0)
    assert 0.1 <= documents[0]["seconds"] < 30 and documents[0]["topics"] == 31
    assert documents[0]["groups"][0]["group"] == "billing"
    assert documents[1]["taken_ns"] > documents[0]["taken_ns"]


def test_wrong_usage(filled: Path, tmp_path: Path) -> None:
    for arguments, word in (
        (["--interval", "10ms"], "from 0.1 to 3600 seconds"),
        (["--interval", "3600.1"], "from 0.1 to 3600 seconds"),
        (["--count", "0"], "count"),
        (["--sort", "size"], "--sort"),
    ):
        result = pystream_("top", filled, *arguments)
        assert result.returncode == 2 and word in result.stderr, (arguments, result.stderr)
    result = pystream_("top", filled, "-t", "click")
    assert result.returncode == 3 and "did you mean 'clicks'" in result.stderr
    assert pystream_("top", tmp_path / "none").returncode == 3


def test_who_reads_no_more_ends_it(filled: Path) -> None:
    result = in_shell('"$@" | head -n 1; exit "${PIPESTATUS[0]}"', "top", filled, "--interval", "100ms")
    assert result.returncode == 0 and result.stdout.startswith("pystream top") and result.stderr == ""


# ---- in a terminal --------------------------------------------------------------------------------------


class Screen(Terminal):
    """`pystream top` in a terminal, and what that shows."""

    def __init__(self, *arguments: object, columns: int = 80, rows: int = 24, **environment: str) -> None:
        command = [sys.executable, "-m", "pystream", "top", *map(str, arguments), "--interval", "100ms"]
        self.screen = pyte.Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        super().__init__(command, columns, rows, **environment)

    def resize(self, columns: int, rows: int) -> None:
        self.screen.resize(rows, columns)
        fcntl.ioctl(self.file, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def feed(self) -> None:
        if select.select([self.file], [], [], 0.05)[0]:
            data = os.read(self.file, 65536)
            self.raw += data
            self.stream.feed(data)

    def shows(self, *words: str, absent: str = "\0") -> list[str]:
        """The screen, once all of these are on it, and `absent` is not."""
        end = time.monotonic() + WAIT_S
        while True:
            self.feed()
            lines = [text.rstrip() for text in self.screen.display]
            whole = "\n".join(lines)
            if all(word in whole for word in words) and absent not in whole:
                return lines
            assert time.monotonic() < end, f"never {words}:\n{whole}"

    def finish(self, typing: str = "") -> int:
        self.type(typing)
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            try:
                self.feed()
            except OSError:
                break
        os.close(self.file)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_keys(filled: Path) -> None:
    top = Screen(filled)
    lines = top.shows("1-", "of 31, by name", "q quit")
    assert len(lines) == 24 and lines[0].startswith("pystream top  events.ps")
    assert lines[3].split()[:2] == ["Topic", "In/s"] and lines[4].startswith("clicks ")
    assert any(text.startswith("billing") for text in lines) and lines[-1].startswith("1-")
    top.type("\x1b[6~")
    lines = top.shows("sensor-20", absent="sensor-01 ")
    assert lines[3].startswith("Topic")
    top.type("\x1b[H")
    top.shows("clicks ", "1-")
    top.type("j")
    top.shows("2-")
    top.type("t")
    lines = top.shows("of 32, by name")
    assert lines[3].split()[:3] == ["Topic", "P", "In/s"] and lines[4].split()[:2] == ["clicks", "0"]
    top.type("s")
    top.shows("by in")
    top.type("\x1b[Z\x1bOP?")  # keys it does not know
    top.type(" ")
    paused = top.shows("paused")
    with pystream.open(filled) as store:
        store["clicks"].append([b"x"] * 1000, partition=0)
    time.sleep(0.3)
    top.feed()
    assert [text.rstrip() for text in top.screen.display][1] == paused[1]
    top.type(" ")
    top.shows("1,030 records", absent="paused")
    assert top.finish("q") == 0


def test_the_terminal_is_given_back(filled: Path) -> None:
    for typing, number, code in (
        ("q", 0, 0),
        ("\x03", 0, 0),
        ("", signal.SIGTERM, 143),
        ("", signal.SIGHUP, 129),
    ):
        top = Screen(filled)
        before = termios.tcgetattr(top.file)
        top.shows("q quit")
        assert not termios.tcgetattr(top.file)[3] & termios.ICANON
        if number:
            os.kill(top.pid, number)
        else:
            top.type(typing)
        end = time.monotonic() + WAIT_S
        while b"\x1b[?1049l" not in top.raw and time.monotonic() < end:
            top.feed()
        assert top.raw.count(b"\x1b[?1049h") == top.raw.count(b"\x1b[?1049l") == 1
        assert top.raw.endswith(b"\x1b[?25h\x1b[?1049l"), "the cursor is there again"
        after = termios.tcgetattr(top.file) if before else before
        assert top.finish() == code
        assert b"Traceback" not in top.raw
        assert after[3] == before[3]


def test_other_sizes(filled: Path) -> None:
    top = Screen(filled, columns=200, rows=50)
    lines = top.shows("sensor-29", "Segments", "Unsynced", "Out B/s", "space pause")
    assert lines[-1].endswith("space pause")
    top.resize(40, 10)
    lines = top.shows("q quit", absent="Out B/s")
    assert len(lines) == 10 and lines[3].split()[0] == "Topic" and lines[-1].startswith("1-")
    top.resize(20, 3)
    top.shows("1-")
    top.resize(120, 30)
    assert top.shows("Records", "sensor-15")[4].startswith("clicks")
    assert top.finish("q") == 0


def test_stopped_and_continued(filled: Path) -> None:
    top = Screen(filled)
    top.shows("q quit")
    os.kill(top.pid, signal.SIGTSTP)
    end = time.monotonic() + WAIT_S
    while b"\x1b[?1049l" not in top.raw and time.monotonic() < end:
        top.feed()
    assert os.waitpid(top.pid, os.WUNTRACED)[1] == 0x137F  # stopped by SIGSTOP
    assert termios.tcgetattr(top.file)[3] & termios.ICANON
    top.screen.reset()
    os.kill(top.pid, signal.SIGCONT)
    top.shows("clicks ", "q quit")
    assert top.finish("q") == 0


def test_what_happens_meanwhile_is_seen(filled: Path) -> None:
    top = Screen(filled, "--topic", "clicks", "--topic", "sensor-00", "--partitions")
    top.shows("2 topics, 3 partitions")
    with pystream.open(filled) as store:
        store["clicks"]
        store.delete_topic("sensor-00")
        top.shows("1 topic, 2 partitions")
        store["clicks"].partition(0)._log().poison(5)
        top.shows("poisoned")
    assert top.finish("q") == 0


def test_a_count_and_no_keys(filled: Path) -> None:
    top = Screen(filled, "--count", "3")
    assert top.finish() == 0
    assert b"clicks" in top.raw
    plain = Screen(filled, "--count", "2", TERM="dumb")
    assert plain.finish() == 0
    assert b"\x1b" not in plain.raw and plain.raw.count(b"pystream top") == 2
