"""`pystream groups`: what it does, what it prints, what it refuses."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest

import pystream
from commands import WAIT_S, Terminal, in_terminal, pystream_
from pystream import OffsetAndMetadata
from pystream.cli import cli

T0 = 1_700_000_000_000_000_000
S = 1_000_000_000
RECORDS = {("clicks", 0): 10, ("clicks", 1): 20, ("clicks", 2): 0, ("orders", 0): 1_200}
COMMITTED = {("clicks", 0): 4, ("clicks", 1): 20, ("orders", 0): 200}


@pytest.fixture
def groups(tmp_path):
    """A store with two topics, and a group "billing" that has read some of them and has no members."""
    path = tmp_path / "events.ps"
    with pystream.open(path) as store:
        store.topic("clicks", create=True, partitions=3)
        store.topic("orders", create=True)
        for (topic, partition), count in RECORDS.items():
            if count:
                times = [T0 + number * S for number in range(count)]
                store[topic].append([b"x"] * count, partition=partition, timestamps=times)
        with store.consumer("clicks", "orders", group="billing", client="web", auto_commit=False) as consumer:
            consumer.poll(timeout=0)  # joins
            consumer.commit({**COMMITTED, ("orders", 0): OffsetAndMetadata(200, "half way")})
    return path


@contextmanager
def member(path, group="billing", *topics):
    """A member that has all partitions of `topics`, by default of both, and commits nothing."""
    names = topics or ("clicks", "orders")
    with (
        pystream.open(path) as store,
        store.consumer(*names, group=group, client="web", auto_commit=False) as consumer,
    ):
        consumer.poll(timeout=0)
        yield consumer


def committed(path: Path, group: str = "billing") -> dict[tuple[str, int], int]:
    with pystream.open(path, "r") as store:
        found = store.group(group).describe().partitions
    return {(p.topic, p.partition): p.committed for p in found if p.committed is not None}


def state(path: Path) -> dict[str, tuple[int, int]]:
    return {
        str(file): (file.stat().st_mtime_ns, file.stat().st_size)
        for file in path.rglob("*")
        if file.is_file()
    }


def rows(text: str) -> list[list[str]]:
    return [re.split(r" {2,}", line.strip()) for line in text.splitlines()]


# ---- list ---------------------------------------------------------------------------------------------


def test_list(groups):
    with pystream.open(groups) as store, store.consumer("orders", group="audit") as consumer:
        consumer.poll(timeout=0)
        consumer.commit({("orders", 0): 1_200})
        before = state(groups / "topics")
        result = pystream_("groups", "list", groups)
        as_json = pystream_("groups", "list", groups, "--json")
        assert state(groups / "topics") == before
    assert (result.returncode, result.stderr) == (0, "")
    assert rows(result.stdout) == [
        ["Group", "State", "Members", "Partitions", "Lag"],
        ["audit", "stable", "1", "1", "0"],
        ["billing", "empty", "0", "3", "1,006"],
    ]
    audit, billing = json.loads(as_json.stdout)
    assert audit["generation"] > 0 and billing["generation"] > 0
    del audit["generation"], billing["generation"]
    assert audit == {
        "group": "audit",
        "error": None,
        "state": "stable",
        "assignor": "sticky",
        "members": 1,
        "partitions": 1,
        "lag": 0,
    }
    assert billing == {
        **audit,
        "group": "billing",
        "state": "empty",
        "members": 0,
        "partitions": 3,
        "lag": 1006,
    }


def test_list_of_no_groups(events):
    result = pystream_("groups", "list", events)
    assert (result.returncode, result.stderr) == (0, "")
    assert rows(result.stdout) == [["Group", "State", "Members", "Partitions", "Lag"]]
    assert pystream_("groups", "list", events, "--json").stdout == "[]\n"


def test_list_tells_what_it_can_of_a_damaged_group(groups):
    with member(groups, "audit", "orders"):
        pass
    for file in (groups / "groups" / "audit").iterdir():
        if file.name == "committed" or file.name.startswith("state+"):
            file.write_bytes(file.read_bytes().replace(b"e", b"f"))
    result = pystream_("groups", "list", groups)
    assert result.returncode == 3
    assert rows(result.stdout)[1:] == [
        ["audit", "?", "?", "?", "?"],
        ["billing", "empty", "0", "3", "1,006"],
    ]
    assert result.stderr.startswith("pystream: group 'audit': ") and "damaged" in result.stderr
    result = pystream_("groups", "list", groups, "--json")
    assert result.returncode == 3
    audit, billing = json.loads(result.stdout)
    assert audit == {
        "group": "audit",
        "error": result.stderr.removeprefix("pystream: group 'audit': ").strip(),
    }
    assert billing["lag"] == 1006
    result = pystream_("groups", "describe", groups, "audit")
    assert (result.returncode, result.stdout) == (3, "")
    assert "/groups/audit/" in result.stderr and "damaged" in result.stderr


# ---- describe -----------------------------------------------------------------------------------------


def test_describe_an_empty_group(groups):
    before = state(groups)
    result = pystream_("groups", "describe", groups, "billing")
    assert state(groups) == before
    assert (result.returncode, result.stderr) == (0, "")
    facts, partitions = result.stdout.split("\n\n")
    found = dict(rows(facts))
    assert int(found.pop("generation")) > 0
    assert found == {
        "group": "billing",
        "state": "empty",
        "assignor": "sticky",
        "members": "0",
        "partitions": "3",
        "lag": "1,006",
    }
    header, *lines = rows(partitions)
    assert header == [
        *("Topic", "Partition", "Committed", "End", "Lag", "Owner", "Pid", "Committed at (UTC)", "Metadata")
    ]
    now = datetime.now(UTC).replace(tzinfo=None)
    for line in lines:
        assert now - timedelta(minutes=10) < datetime.fromisoformat(line.pop(7)) <= now
    assert lines == [
        ["clicks", "0", "4", "10", "6", "-", "-"],
        ["clicks", "1", "20", "20", "0", "-", "-"],
        ["orders", "0", "200", "1,200", "1,000", "-", "-", "half way"],
    ]


def test_describe_a_group_with_a_member(groups):
    with member(groups) as consumer:
        result = pystream_("groups", "describe", groups, "billing")
        as_json = pystream_("groups", "describe", groups, "billing", "--json")
        who = consumer.member_id
    assert (result.returncode, result.stderr) == (0, "")
    facts, partitions, members = result.stdout.split("\n\n")
    assert dict(rows(facts))["state"] == "stable"
    assert [(line[0], line[1], line[5], line[6]) for line in rows(partitions)[1:]] == [
        (topic, str(partition), "web", str(os.getpid())) for topic, partition in RECORDS
    ]
    assert rows(partitions)[3][2:5] == ["-", "0", "0"]  # clicks/2: nothing there, nothing committed
    assert rows(members) == [
        ["Member", "Client", "Pid", "Alive", "Partitions", "Timeout", "Subscribes to"],
        [who, "web", str(os.getpid()), "yes", "4", "45 s", "clicks, orders"],
    ]
    found = json.loads(as_json.stdout)
    assert found["members"] == [
        {
            "member_id": who,
            "client": "web",
            "pid": os.getpid(),
            "alive": True,
            "topics": ["clicks", "orders"],
            "session_timeout_s": 45.0,
            "partitions": [{"topic": topic, "partition": partition} for topic, partition in RECORDS],
        }
    ]
    assert found["lag"] == 1006
    never, orders = found["partitions"][2:]
    assert datetime.fromisoformat(orders.pop("committed_at")).tzinfo is not None
    assert isinstance(orders.pop("durable"), bool)
    assert orders == {
        "topic": "orders",
        "partition": 0,
        "member_id": who,
        "pid": os.getpid(),
        "committed": 200,
        "metadata": "half way",
        "beginning_offset": 0,
        "end_offset": 1200,
        "lag": 1000,
    }
    assert (never["committed"], never["committed_at"], never["lag"]) == (None, None, 0)


def test_a_member_that_was_killed_is_shown_as_dead(groups):
    code = (
        "import pystream, sys\n"
        "store = pystream.open(sys.argv[1])\n"
        "consumer = store.consumer('clicks', group='billing')\n"
        "consumer.poll(timeout=0); print(consumer.member_id, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, groups], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        who = process.stdout.readline().strip()
        process.send_signal(signal.SIGKILL)
        process.wait(WAIT_S)
    result = pystream_("groups", "describe", groups, "billing", "--json")
    found = json.loads(result.stdout)
    assert [(m["member_id"], m["pid"], m["alive"]) for m in found["members"]] == [(who, process.pid, False)]
    facts, _, members = pystream_("groups", "describe", groups, "billing").stdout.split("\n\n")
    assert dict(rows(facts))["state"] == "empty"
    assert rows(members)[1][3] == "no"
    # It is in nobody's way.
    assert pystream_("groups", "reset", groups, "billing", "--to-latest", "--execute").returncode == 0
    assert pystream_("groups", "delete", groups, "billing", "--yes").returncode == 0


def test_describe_after_a_topic_was_deleted(groups):
    assert pystream_("topics", "delete", groups, "orders", "--yes").returncode == 0
    result = pystream_("groups", "describe", groups, "billing")
    assert (result.returncode, result.stderr) == (0, "")
    line = next(line for line in rows(result.stdout) if line[0] == "orders")
    assert line[:7] == ["orders", "0", "200", "deleted", "-", "-", "-"]
    assert rows(pystream_("groups", "list", groups).stdout)[1] == ["billing", "empty", "0", "3", "6"]


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_tables_fit_the_terminal(groups, columns):
    with member(groups):
        code, lines = in_terminal("groups", "describe", groups, "billing", columns=columns, NO_COLOR="1")
    assert code == 0
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in lines]
    assert max(map(len, lines)) <= columns
    text = "\n".join(lines)
    assert "1,000" in text and "orders" in text
    assert ("no room" in text) == (columns < 200)


# ---- reset --------------------------------------------------------------------------------------------

RESETS = {
    ("--to-earliest",): {("clicks", 0): 0, ("clicks", 1): 0, ("orders", 0): 0},
    ("--to-latest",): {("clicks", 0): 10, ("clicks", 1): 20, ("orders", 0): 1_200},
    ("--to-offset", "7"): {("clicks", 0): 7, ("clicks", 1): 7, ("orders", 0): 7},
    ("--to-time", "2023-11-14T22:13:25Z"): {("clicks", 0): 5, ("clicks", 1): 5, ("orders", 0): 5},
    ("--to-time", "2023-11-14 22:13:35"): {("clicks", 0): 10, ("clicks", 1): 15, ("orders", 0): 15},
    ("--to-time", "1h"): {("clicks", 0): 10, ("clicks", 1): 20, ("orders", 0): 1_200},
    ("--shift", "-4"): {("clicks", 0): 0, ("clicks", 1): 16, ("orders", 0): 196},
    ("--shift", "0"): COMMITTED,
    ("--to-latest", "--topic", "orders"): COMMITTED | {("orders", 0): 1_200},
    ("--to-latest", "--topic", "clicks"): COMMITTED
    | {("clicks", 0): 10, ("clicks", 1): 20, ("clicks", 2): 0},
    ("--to-earliest", "--topic", "clicks", "--partition", "1"): COMMITTED | {("clicks", 1): 0},
    ("--to-earliest", "--topic", "clicks", "--topic", "orders", "--partition", "0"): COMMITTED
    | {("clicks", 0): 0, ("orders", 0): 0},
}


@pytest.mark.parametrize("options", RESETS, ids=" ".join)
def test_reset(groups, options):
    before = state(groups)
    shown = pystream_("groups", "reset", groups, "billing", *options)
    assert (shown.returncode, shown.stderr) == (0, "nothing was changed: --execute does it\n")
    assert state(groups) == before
    done = pystream_("groups", "reset", groups, "billing", *options, "--execute")
    assert (done.returncode, done.stdout) == (0, shown.stdout)
    header, *lines = rows(done.stdout)
    assert header == ["Topic", "Partition", "Offset", "New offset"]
    wanted = RESETS[options]
    assert committed(groups) == wanted
    for topic, partition, old, new in lines:
        place = topic, int(partition)
        assert old == (f"{COMMITTED[place]:,}" if place in COMMITTED else "-")
        assert new == f"{wanted[place]:,}"
    assert {(topic, int(partition)) for topic, partition, *_ in lines} >= {
        place for place in wanted if wanted[place] != COMMITTED.get(place)
    }
    count = f"{len(lines)} partition{'s' * (len(lines) > 1)}"
    assert done.stderr == f"reset {count} of group 'billing'\n"


def test_a_consumer_begins_where_its_group_was_set(groups):
    options = ["--to-offset", 8, "--topic", "clicks", "--partition", 0, "--execute"]
    assert pystream_("groups", "reset", groups, "billing", *options).returncode == 0
    with pystream.open(groups) as store, store.consumer("clicks", group="billing", timeout=0.1) as consumer:
        assert [(record.partition, record.offset) for record in consumer] == [(0, 8), (0, 9)]
    assert committed(groups)["clicks", 0] == 10


def test_offsets_that_are_not_there_become_the_nearest_that_is(groups):
    result = pystream_("groups", "reset", groups, "billing", "--to-offset", 1_200, "--execute")
    assert result.returncode == 0
    assert committed(groups) == {("clicks", 0): 10, ("clicks", 1): 20, ("orders", 0): 1_200}
    assert result.stderr.splitlines() == [
        "pystream: clicks/0 has no offset 1,200: 10 is its end",
        "pystream: clicks/1 has no offset 1,200: 20 is its end",
        "reset 3 partitions of group 'billing'",
    ]
    result = pystream_("groups", "reset", groups, "billing", "--shift", -15, "--execute")
    assert result.stderr.splitlines()[0] == "pystream: clicks/0 has no offset -5: 0 is its beginning"
    assert committed(groups) == {("clicks", 0): 0, ("clicks", 1): 5, ("orders", 0): 1_185}


def test_reset_as_json(groups):
    for execute in (False, True):
        arguments = ["--shift", 1, "--topic", "clicks", "--json", *["--execute"] * execute]
        result = pystream_("groups", "reset", groups, "billing", *arguments)
        assert result.returncode == 0
        assert json.loads(result.stdout) == {
            "group": "billing",
            "executed": execute,
            "partitions": [
                {"topic": "clicks", "partition": 0, "old_offset": 4, "new_offset": 5},
                {"topic": "clicks", "partition": 1, "old_offset": 20, "new_offset": 20},
                {"topic": "clicks", "partition": 2, "old_offset": None, "new_offset": 0},
            ],
        }
        assert committed(groups)["clicks", 0] == 4 + execute


WRONG = {
    (): "where to? Give one of --to-earliest, --to-latest, --to-offset, --to-time and --shift",
    ("--to-earliest", "--to-latest"): "where to? Give one of",
    ("--to-offset", "0", "--shift", "0"): "where to? Give one of",
    ("--to-earliest", "--partition", "0"): "--partition is of a topic: give --topic, too",
    ("--to-offset", "-1"): "-1 is not in the range x>=0",
    ("--to-offset", "end"): "'end' is not a valid integer",
    ("--to-time", "yesterday"): "'yesterday': give a moment such as 2026-01-31T12:00:00Z, or how long ago",
    ("--to-time", "latest"): "'latest': give a moment",
    ("--to-time", "17"): "'17': give a moment",
    ("--shift", "all"): "'all' is not a valid integer",
    ("--to-earliest", "--topic", "clicks", "--partition", "3"): "topic 'clicks' has partitions 0 to 2",
    ("--to-earliest", "--topic", "clicks", "--partition", "-1"): "topic 'clicks' has partitions 0 to 2",
}


@pytest.mark.parametrize("options", WRONG, ids=" ".join)
@pytest.mark.parametrize("execute", [False, True], ids=["shown", "executed"])
def test_reset_refuses_wrong_usage(groups, options, execute):
    result = pystream_("groups", "reset", groups, "billing", *options, *["--execute"] * execute)
    assert (result.returncode, result.stdout) == (2, "")
    assert WRONG[options] in result.stderr
    assert committed(groups) == COMMITTED


@pytest.mark.parametrize("execute", [False, True], ids=["shown", "executed"])
def test_reset_is_refused_while_members_read(groups, execute):
    arguments = ["groups", "reset", groups, "billing", "--to-earliest", *["--execute"] * execute]
    with member(groups, "billing", "clicks"):
        result = pystream_(*arguments)
        assert (result.returncode, result.stdout) == (3, "")
        assert re.fullmatch(
            rf"pystream: 'clicks'/\d is read by a member of group 'billing', in process {os.getpid()}; .*\n",
            result.stderr,
        )
        # What nobody reads can be set.
        assert pystream_(*arguments, "--topic", "orders").returncode == 0
    assert committed(groups) == (COMMITTED | {("orders", 0): 0} if execute else COMMITTED)


def test_reset_of_what_is_not_there(groups):
    result = pystream_("groups", "reset", groups, "billing", "--to-latest", "--topic", "click")
    assert (result.returncode, result.stdout) == (3, "")
    assert result.stderr == f"pystream: no topic 'click' in {groups}; did you mean 'clicks'?\n"
    with member(groups, "fresh", "orders"):
        pass
    result = pystream_("groups", "reset", groups, "fresh", "--to-latest", "--execute")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "pystream: group 'fresh' has no committed offsets yet: name topics with --topic\n"
    result = pystream_("groups", "reset", groups, "fresh", "--to-offset", 9, "--topic", "orders", "--execute")
    assert result.returncode == 0
    assert committed(groups, "fresh") == {("orders", 0): 9}


@pytest.mark.parametrize(
    "command", ["describe", "reset --to-earliest", "reset --to-latest --execute", "delete -y"]
)
def test_no_such_group_or_store(groups, tmp_path, command):
    name, *options = command.split()
    for wrong, hint in {"biling": "; did you mean 'billing'?", "zzz": ""}.items():
        result = pystream_("groups", name, groups, wrong, *options)
        assert (result.returncode, result.stdout) == (3, "")
        assert result.stderr == f"pystream: no consumer group {wrong!r} in {groups}{hint}\n"
    result = pystream_("groups", name, groups, "no/group", *options)
    assert result.returncode == 2
    assert "'/' is not allowed" in result.stderr
    result = pystream_("groups", name, tmp_path / "none", "billing", *options)
    assert (result.returncode, result.stdout) == (3, "")
    assert result.stderr == (
        f"pystream: {tmp_path / 'none'}: does not exist; `pystream topics create` makes a store\n"
    )
    assert committed(groups) == COMMITTED


# ---- delete -------------------------------------------------------------------------------------------


def test_delete(groups):
    with member(groups, "audit", "orders"):
        pass
    result = pystream_("groups", "delete", groups, "billing", "audit", "billing", "--yes")
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr == "deleted group 'billing'\ndeleted group 'audit'\n"
    with pystream.open(groups, "r") as store:
        assert store.groups() == []
        assert store["orders"].partition(0).end_offset == 1_200
    with member(groups):
        pass
    result = pystream_("groups", "delete", groups, "billing", "-y", "--quiet")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_delete_asks_in_a_terminal_only(groups):
    result = pystream_("groups", "delete", groups, "billing", stdin=subprocess.DEVNULL)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "pystream: nobody can be asked, for standard input is no terminal: give --yes to delete\n"
    )
    command = [sys.executable, "-m", "pystream", "groups", "delete", str(groups), "billing"]
    terminal = Terminal(command)
    terminal.until("Delete group 'billing' and its committed offsets? [y/N]")
    assert terminal.end("n\n") == 1
    assert "nothing was deleted" in terminal.shown
    assert committed(groups) == COMMITTED
    terminal = Terminal(command)
    terminal.until("[y/N]")
    assert terminal.end("y\n") == 0
    assert "deleted group 'billing'" in terminal.shown
    with pystream.open(groups, "r") as store:
        assert store.groups() == []


def test_one_of_two_is_kept_when_asked_so(groups):
    with member(groups, "audit", "orders"):
        pass
    command = [sys.executable, "-m", "pystream", "groups", "delete", str(groups), "billing", "audit"]
    terminal = Terminal(command)
    terminal.until("'billing'")
    terminal.type("n\n")
    terminal.until("'audit'")
    assert terminal.end("y\n") == 1
    assert "not all were deleted" in terminal.shown
    with pystream.open(groups, "r") as store:
        assert store.groups() == ["billing"]


def test_delete_is_refused_while_there_are_members(groups):
    with member(groups, "billing", "clicks"):
        result = pystream_("groups", "delete", groups, "billing", "--yes")
    assert (result.returncode, result.stdout) == (3, "")
    assert result.stderr == (
        f"pystream: group 'billing' has members, in processes {os.getpid()}; "
        "its consumers must be closed first\n"
    )
    assert committed(groups)["orders", 0] == 200


def test_delete_what_is_not_there(groups):
    result = pystream_("groups", "delete", groups, "billing", "audit", "--yes")
    assert result.returncode == 3
    assert result.stderr.startswith(f"pystream: no consumer group 'audit' in {groups}")
    assert committed(groups) == COMMITTED  # nothing is deleted before all are known to be there
    result = pystream_("groups", "delete", groups, "billing", "audit", "--yes", "--if-exists")
    assert (result.returncode, result.stderr) == (0, "deleted group 'billing'\n")


# ---- names --------------------------------------------------------------------------------------------


def test_groups_are_completed_without_opening_the_store(groups, tmp_path):
    with member(groups, "audit", "orders"):
        pass

    def complete(command: str, store: object, incomplete: str) -> list[str]:
        group = cli.get_command(click.Context(cli), "groups")
        found = group.get_command(click.Context(group), command)
        context = click.Context(found, resilient_parsing=True)
        context.params["store"] = store
        (argument,) = (param for param in found.params if param.name == "group")
        return [item.value for item in argument.type.shell_complete(context, argument, incomplete)]

    before = state(groups)
    for command in ("describe", "reset", "delete"):
        assert complete(command, groups, "") == ["audit", "billing"]
        assert complete(command, str(groups), "b") == ["billing"]
        assert complete(command, None, "") == complete(command, tmp_path / "none", "") == []
        assert complete(command, "/dev/null", "") == []
    assert state(groups) == before


def test_a_group_mistyped(groups):
    result = pystream_("groups", "lst", groups)
    assert result.returncode == 2
    assert "no such command 'lst'; did you mean 'list'?" in result.stderr
    result = pystream_("reset", groups, "billing")
    assert result.returncode == 2
    assert "no such command 'reset'; did you mean 'groups reset'?" in result.stderr
