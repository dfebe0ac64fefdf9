"""`pystream topics alter`, `rename`, `add-partitions`, `delete-records`, `truncate-before`, `copy`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import pystream
from commands import Terminal, pystream_
from harness import contents
from pystream.topicoptions import ALTERABLE

T0 = 1_700_000_000_000_000_000


@pytest.fixture
def events(tmp_path: Path) -> Path:
    path = tmp_path / "events.ps"
    with pystream.open(path, maintenance=False) as store:
        clicks = store.topic("clicks", create=True, partitions=2)
        for partition in (0, 1):
            clicks.append(
                [b"%d" % n for n in range(100)],
                timestamps=[T0 + n * 10**9 for n in range(100)],
                partition=partition,
            )
        store.topic("one", create=True).append([b"a", b"b", b"c"])
    return path


def options_of(path: Path, topic: str = "clicks") -> pystream.TopicOptions:
    with pystream.open(path, "r") as store:
        return store[topic].options


# ---- alter --------------------------------------------------------------------------------------------


def test_alter(events: Path) -> None:
    result = pystream_("topics", "alter", events, "clicks", "--compression", "lz4", "--segment-bytes", "1MiB")
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr == (
        "compression: none -> lz4, from the next producer\n"
        "segment-bytes: 128MiB -> 1MiB, from the next segment\n"
    )
    result = pystream_("topics", "alter", events, "clicks", "--compression", "lz4")
    assert (result.returncode, result.stderr) == (0, "nothing to change: all is so already\n")
    more = ["--reset", "segment-bytes", "--durability", "sync"]
    result = pystream_("topics", "alter", events, "clicks", *more, "--json")
    assert json.loads(result.stdout) == {
        "topic": "clicks",
        "changes": [
            {"option": "durability", "before": "interval", "after": "sync", "acts": "at once"},
            {"option": "segment_bytes", "before": "1MiB", "after": "128MiB", "acts": "from the next segment"},
        ],
    }
    result = pystream_("topics", "alter", events, "clicks", "--segment-age", "3600", "-q")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    options = options_of(events)
    assert (options.compression, options.durability, options.segment_age_ns) == ("lz4", "sync", 3600 * 10**9)


def test_what_may_delete_records_is_asked(events: Path) -> None:
    before = contents(events)
    for options in (["--retention", "7d"], ["--retention-bytes", "1GiB"], ["--cleanup", "compact"]):
        result = pystream_("topics", "alter", events, "clicks", *options, input="")
        assert result.returncode == 2
        assert result.stderr == (
            "pystream: nobody can be asked, for standard input is no terminal: give --yes\n"
        )
    assert contents(events).keys() == before.keys()
    assert options_of(events).retention_ns is None
    result = pystream_("topics", "alter", events, "clicks", "--retention", "30000d", "--yes")
    assert (result.returncode, result.stderr) == (0, "retention: forever -> 30000d, at once\n")
    for options in (["--retention", "40000d"], ["--retention", "forever"], ["--reset", "retention"]):
        result = pystream_("topics", "alter", events, "clicks", *options, input="")
        assert result.returncode == 0, result.stderr
    assert options_of(events).retention_ns is None


def command_of(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "pystream", *map(str, arguments)]


def test_answers_on_a_terminal(events: Path) -> None:
    for answer, code, says in (("n\n", 1, "nothing was changed"), ("y\n", 0, "at once")):
        terminal = Terminal(command_of("topics", "alter", events, "clicks", "--retention", "30000d"))
        terminal.until("may be deleted by that, for good. Go on?")
        assert terminal.end(answer) == code
        assert says in terminal.shown
    assert options_of(events).retention_ns == 30000 * 86400 * 10**9


REFUSED = {
    ("--retention", "0"): "'--retention': '0': must be from 0.001 to 9.22337e+09 seconds, or 'forever'",
    ("--retention", "soon"): "'--retention': 'soon': not a duration",
    ("--retention-bytes", "65535"): "'--retention-bytes': '65535': must be from 65536",
    ("--retention-topic-bytes", "x"): "'--retention-topic-bytes': 'x': not a size",
    ("--cleanup", "shrink"): "'--cleanup': 'shrink': must be one of 'delete', 'compact', 'compact,delete'",
    ("--min-cleanable-dirty-ratio", "1.5"): "'--min-cleanable-dirty-ratio': 1.5: must be from 0 to 1",
    ("--min-compaction-lag", "-1s"): "'--min-compaction-lag': '-1s': not a duration",
    ("--segment-age", "0s"): "'--segment-age': '0s': must be from 0.001 to",
    ("--max-message-bytes", "1023"): "'--max-message-bytes': '1023': must be from 1024",
    ("--reset", "color"): "'color' is not one of",
    ("--min-compaction-lag", "1e300"): "'--min-compaction-lag': '1e300': must be from 0 to",
    ("--dtype", "f8"): "--dtype: cannot be altered, for it says what the records are that are there",
    ("--key-bytes", "8"): "--key-bytes: cannot be altered",
    (
        "--partitions",
        "5",
    ): "--partitions: altered by `pystream topics add-partitions`; there can never be fewer",
    ("--retention", "1d", "--reset", "retention"): "--retention and --reset retention: give one of them",
    (): "what is to change? Give an option, or --reset one; --help lists them",
}


@pytest.mark.parametrize("options", REFUSED)
def test_alter_refuses(events: Path, options: tuple[str, ...]) -> None:
    result = pystream_("topics", "alter", events, "clicks", *options)
    assert result.returncode == 2
    assert REFUSED[options] in result.stderr


def test_every_option_can_be_altered_and_reset() -> None:
    from pystream.cli.changes import alter

    given = {parameter.name for parameter in alter.params}
    assert set(ALTERABLE) <= given
    resets = next(parameter for parameter in alter.params if parameter.name == "resets")
    assert {name.replace("-", "_") for name in resets.type.choices} == set(ALTERABLE)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "command",
    [
        ["alter", "--compression", "lz4"],
        ["rename", "x"],
        ["add-partitions", "1"],
        ["delete-records", "0:1"],
        ["truncate-before", "1d"],
        ["copy", "b.ps"],
    ],
)
def test_there_is_no_such_topic(events: Path, command: list[str]) -> None:
    arguments = [command[0], events, "click", *command[1:]]
    result = pystream_("topics", *arguments, cwd=events.parent)
    assert result.returncode == 3
    assert "no topic 'click'" in result.stderr and "did you mean 'clicks'?" in result.stderr
    elsewhere = [command[0], events.parent / "no.ps", "clicks", *command[1:]]
    result = pystream_("topics", *elsewhere, cwd=events.parent)
    assert result.returncode == 3
    assert "does not exist" in result.stderr
    assert not (events.parent / "no.ps").exists()
    assert not (events.parent / "b.ps").exists()


# ---- rename, add-partitions ---------------------------------------------------------------------------


def test_rename(events: Path) -> None:
    result = pystream_("topics", "rename", events, "clicks", "views")
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr == "topic 'clicks' is called 'views' now\n"
    result = pystream_("topics", "rename", events, "views", "one")
    assert (result.returncode, result.stderr) == (3, "pystream: there is a topic 'one' already\n")
    result = pystream_("topics", "rename", events, "views", "__views")
    assert result.returncode == 2
    assert "reserved" in result.stderr
    with pystream.open(events) as store:
        assert store.topics() == ["one", "views"]


def test_add_partitions(events: Path) -> None:
    result = pystream_("topics", "add-partitions", events, "clicks", 2)
    assert (result.returncode, result.stderr) == (0, "topic 'clicks' has 4 partitions now, 2 before\n")
    result = pystream_("topics", "add-partitions", events, "clicks", "--to", 4)
    assert (result.returncode, result.stderr) == (0, "topic 'clicks' has 4 partitions already\n")
    result = pystream_("topics", "add-partitions", events, "clicks", "--to", 6, "--json")
    assert json.loads(result.stdout) == {"topic": "clicks", "before": 4, "partitions": 6}
    for arguments, says in (
        ([], "how many? Give COUNT, or --to"),
        ([1, "--to", 9], "how many? Give COUNT, or --to"),
        (["--to", 5], "there can never be fewer"),
        ([0], "must be from 1 to 65535"),
        ([65531], "at most 65530 more"),
    ):
        result = pystream_("topics", "add-partitions", events, "clicks", *arguments)
        assert result.returncode == 2, result.stderr
        assert says in result.stderr


# ---- delete-records, truncate-before ------------------------------------------------------------------


def test_delete_records(events: Path) -> None:
    result = pystream_("topics", "delete-records", events, "clicks", "0:40", "1:0", input="")
    assert result.returncode == 2
    assert "give --yes" in result.stderr
    result = pystream_("topics", "delete-records", events, "clicks", "0:40", "1:0", "--yes")
    assert result.returncode == 0
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["Partition", "Began", "at", "Begins", "at", "End"],
        ["0", "0", "40", "100"],
        ["1", "0", "0", "100"],
    ]
    result = pystream_("topics", "delete-records", events, "one", "2", "-y", "--json")
    assert json.loads(result.stdout) == [{"topic": "one", "partition": 0, "before": 0, "start": 2}]
    result = pystream_("topics", "delete-records", events, "one", "1")  # nothing goes: nothing is asked
    assert result.returncode == 0, result.stderr
    with pystream.open(events, "r") as store:
        assert store["clicks"].offsets() == {0: (40, 100), 1: (0, 100)}
        assert [record.value for record in store["one"].records()] == [b"c"]


def test_delete_records_refuses(events: Path) -> None:
    for arguments, code, says in (
        (["clicks", "5"], 2, "topic 'clicks' has 2 partitions: give PARTITION:5"),
        (["clicks", "0:5", "0:6"], 2, "partition 0 is given twice"),
        (["clicks", "x"], 2, "'x': give PARTITION:OFFSET, such as 0:1000"),
        (["clicks", "0:-1"], 2, "give PARTITION:OFFSET"),
        (["clicks", "2:1"], 2, "partition=2: topic 'clicks' has partitions 0 to 1"),
        (["clicks", "1:50", "0:101"], 3, "'clicks'/0 ends at offset 100; 101 is beyond"),
        (["clicks"], 2, "Missing argument"),
    ):
        result = pystream_("topics", "delete-records", events, *arguments, "--yes")
        assert result.returncode == code, result.stderr
        assert says in result.stderr
    with pystream.open(events, "r") as store:
        assert store["clicks"].offsets() == {0: (0, 100), 1: (0, 100)}


def test_truncate_before(events: Path) -> None:
    moment = "2023-11-14T22:13:50Z"  # T0 and 30 s
    result = pystream_("topics", "truncate-before", events, "clicks", moment, "--yes", "--json")
    assert [(cut["partition"], cut["start"]) for cut in json.loads(result.stdout)] == [(0, 30), (1, 30)]
    result = pystream_("topics", "truncate-before", events, "clicks", "35", "--partition", 1, "--yes", "-q")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    result = pystream_("topics", "truncate-before", events, "clicks", "latest", "--partition", 1, "--yes")
    assert result.returncode == 0
    with pystream.open(events, "r") as store:
        assert store["clicks"].offsets() == {0: (30, 100), 1: (100, 100)}
    for arguments, says in (
        (["clicks", "40"], "offsets are a partition's own, and topic 'clicks' has 2"),
        (["clicks", "earliest"], "before the earliest record there is nothing"),
        (["clicks", "whenever"], "'whenever': give earliest, latest, an offset"),
    ):
        result = pystream_("topics", "truncate-before", events, *arguments, "--yes")
        assert result.returncode == 2
        assert says in result.stderr


def test_the_question(events: Path) -> None:
    terminal = Terminal(command_of("topics", "truncate-before", events, "clicks", "latest"))
    terminal.until("Delete 200 offsets in 2 partitions of topic 'clicks', for good?")
    assert terminal.end("n\n") == 1
    assert "nothing was changed" in terminal.shown
    with pystream.open(events, "r") as store:
        assert store["clicks"].offsets() == {0: (0, 100), 1: (0, 100)}


# ---- copy ---------------------------------------------------------------------------------------------


def test_copy(events: Path) -> None:
    target = events.parent / "archive.ps"
    result = pystream_("topics", "copy", events, "clicks", target)
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr.startswith(f"copied 200 records of 2 partitions to topic 'clicks' in {target}, ")
    result = pystream_("topics", "copy", events, "clicks", target)
    assert result.returncode == 3
    assert "there is a topic 'clicks' already" in result.stderr
    result = pystream_("topics", "copy", events, "clicks", target, "--append", "--json", "--partition", 1)
    document = json.loads(result.stdout)
    assert (document["records"], document["partitions"], document["topic"]) == (100, {"1": 100}, "clicks")
    with pystream.open(target, "r") as store:
        assert store["clicks"].offsets() == {0: (0, 100), 1: (0, 200)}
    result = pystream_(
        "topics", "copy", events, "clicks", events, "part", "--start", "2023-11-14T22:13:50Z", "--stop",
        "2023-11-14T22:14:00Z", "--compression", "lz4", "--retention", "forever", "-q",
    )  # fmt: skip
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    with pystream.open(events, "r") as store:
        assert store["part"].offsets() == {0: (0, 10), 1: (0, 10)}
        assert store["part"].options.compression == "lz4"


def test_copy_refuses(events: Path) -> None:
    target = events.parent / "b.ps"
    for arguments, code, says in (
        ([events], 3, f"there is a topic 'clicks' already in {events}; give a NEW_NAME, or --append"),
        ([events, "x", "--append"], 3, "no topic 'x'"),
        ([target, "x", "--append"], 3, "does not exist"),
        (
            [target, "--append", "--compression", "lz4"],
            2,
            "compression=: the topic that is appended",
        ),
        ([target, "--start", "5"], 2, "each with offsets of its own; choose one with --partition"),
        ([target, "--partition", 7], 2, "partition=7"),
        ([target, "__x"], 2, "reserved"),
        ([events.parent / "no" / "b.ps"], 3, "its parent directory"),
    ):
        result = pystream_("topics", "copy", events, "clicks", *arguments)
        assert result.returncode == code, result.stderr
        assert says in result.stderr
    with pystream.open(target, create=True) as store:
        assert store.topics() == []


def test_a_bar_is_drawn_on_a_terminal(events: Path) -> None:
    terminal = Terminal(command_of("topics", "copy", events, "clicks", events.parent / "b.ps"))
    assert terminal.end() == 0
    assert "copying" in terminal.shown and "200/200" in terminal.shown
    assert "copied 200 records" in terminal.shown


# ---- where one looks for them -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["alter", "rename", "copy", "add-partitions", "delete-records"])
def test_commands_of_topics_are_found(name: str) -> None:
    result = pystream_(name, "s")
    assert result.returncode == 2
    assert f"did you mean 'topics {name}'?" in result.stderr


def test_options_that_differ_say_how_to_change_them(events: Path) -> None:
    result = pystream_("topics", "create", events, "clicks", "--if-not-exists", "--retention", "7d")
    assert result.returncode == 2
    assert result.stderr == (
        "pystream: retention='7d': topic 'clicks' exists with retention='forever'; "
        "`pystream topics alter` changes that\n"
    )


def test_described(events: Path) -> None:
    def described() -> str:
        return pystream_("topics", "describe", events, "clicks").stdout

    said = described()
    assert "cleanup      delete\nretention    forever\n" in said
    assert "segments     of 128.0 MiB, ended when full, or after 7d\n" in said
    assert "batches      as large as a segment holds\n" in said
    with pystream.open(events, maintenance=False) as store:
        store.alter_topic("clicks", retention="30000d", retention_bytes="1GiB", retention_topic_bytes="1TiB")
        store.alter_topic("clicks", segment_age="never", max_message_bytes="1MiB")
    said = described()
    assert "retention    30000d, 1.0 GiB a partition, 1.0 TiB in all\n" in said
    assert "segments     of 128.0 MiB, ended when full\n" in said
    assert "batches      of 1.0 MiB at most\n" in said
    with pystream.open(events, maintenance=False) as store:
        store.alter_topic("clicks", cleanup="compact", min_compaction_lag="1h")
    said = described()
    assert "1.0 TiB in all (not heeded: cleanup is compact)\n" in said
    assert "compaction   when 50% is new; of records older than 1h; tombstones stay 1d\n" in said
