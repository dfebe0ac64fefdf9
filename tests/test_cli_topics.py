"""`pystream topics` and `pystream describe`: what they do, what they print, what they refuse."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

import pystream
from commands import Terminal, pystream_
from harness import contents

T0 = 1_700_000_000_000_000_000


def files(path: Path) -> set[str]:
    return {str(file.relative_to(path)) for file in path.rglob("*")}


# ---- create -------------------------------------------------------------------------------------------


def test_create_makes_store_and_topic_and_says_so(tmp_path):
    path = tmp_path / "s.ps"
    result = pystream_("topics", "create", path, "clicks", "--partitions", 3)
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr == f"created store {path}\ncreated topic 'clicks' with 3 partitions\n"
    result = pystream_("topics", "create", path, "more")
    assert (result.returncode, result.stderr) == (0, "created topic 'more' with 1 partition\n")
    result = pystream_("topics", "create", path, "quiet", "--quiet")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    with pystream.open(path, create=False) as store:
        assert store.topics() == ["clicks", "more", "quiet"]
        assert store["clicks"].partitions == 3


def test_create_takes_every_option(tmp_path):
    path = tmp_path / "s"
    options = {
        "partitions": (5, 5),
        "compression": ("lz4", "lz4"),
        "durability": ("sync", "sync"),
        "value-bytes": ("16", 16),
        "key-bytes": ("1KiB", 1024),
        "segment-bytes": ("1MiB", 1 << 20),
        "index-interval-bytes": ("4096", 4096),
        "timestamp-type": ("append", "append"),
    }
    arguments = [part for name, (given, _) in options.items() for part in (f"--{name}", given)]
    assert pystream_("topics", "create", path, "t", *arguments).returncode == 0
    assert pystream_("topics", "create", path, "f", "--dtype", "f8").returncode == 0
    assert pystream_("topics", "create", path, "r", "--dtype", "ts:i8,px:f8,tag:S3").returncode == 0
    with pystream.open(path, create=False) as store:
        topic = store["t"].options
        for name, (_, wanted) in options.items():
            assert getattr(topic, name.replace("-", "_")) == wanted
        assert store["f"].options.dtype == np.dtype("f8")
        assert store["r"].options.dtype == np.dtype([("ts", "i8"), ("px", "f8"), ("tag", "S3")])


def test_every_option_of_a_topic_can_be_given(tmp_path):
    from dataclasses import fields

    from pystream.cli.topics import create
    from pystream.topicoptions import OPTIONS

    given = {parameter.name for parameter in create.params}
    assert {field.name for field in fields(pystream.TopicOptions)} == {o.stored for o in OPTIONS.values()}
    assert set(OPTIONS) <= given


def test_create_what_exists(events):
    result = pystream_("topics", "create", events, "clicks")
    assert result.returncode == 3
    assert result.stderr == (
        f"pystream: topic 'clicks' already exists in {events}; with --if-not-exists that is no error\n"
    )
    for options in ([], ["--partitions", 2], ["--compression", "lz4"]):
        result = pystream_("topics", "create", events, "clicks", "--if-not-exists", *options)
        assert (result.returncode, result.stderr) == (0, "topic 'clicks' is there already\n")
    result = pystream_("topics", "create", events, "clicks", "--if-not-exists", "--partitions", 3)
    assert result.returncode == 2
    assert result.stderr == (
        "pystream: partitions=3: topic 'clicks' exists with partitions=2; "
        "`pystream topics add-partitions` adds some\n"
    )


REFUSED = {
    ("--partitions", "0"): "'--partitions': 0: must be from 1 to 65536",
    ("--partitions", "65537"): "'--partitions': 65537: must be from 1 to 65536",
    ("--partitions", "many"): "'many' is not a valid integer",
    ("--compression", "zip"): "'zip' is not one of 'lz4', 'none'",
    ("--durability", "often"): "'often' is not one of 'interval', 'none', 'sync'",
    ("--timestamp-type", "event"): "'event' is not one of 'create', 'append'",
    ("--value-bytes", "16MB1"): "'--value-bytes': '16MB1': not a size",
    ("--value-bytes", "16777217"): "'--value-bytes': '16777217': must be from 0 to 16777216",
    ("--key-bytes", "-1"): "'--key-bytes': '-1': not a size",
    ("--segment-bytes", "65535"): "'--segment-bytes': '65535': must be from 65536 to 2147479552",
    ("--segment-bytes", "2GiB"): "'--segment-bytes': '2GiB': must be from 65536 to 2147479552 bytes",
    ("--index-interval-bytes", "1023"): "'--index-interval-bytes': '1023': must be from 1024",
    ("--dtype", "a:i8,b"): "'--dtype': 'a:i8,b': field 'b' is not NAME:TYPE",
    ("--dtype", "a:zz"): "'--dtype': 'a:zz': field 'a': 'zz' is no NumPy type",
    ("--dtype", "O"): "'--dtype': 'O': holds Python objects",
    ("--dtype", "f8", "--value-bytes", "8"): "--dtype and --value-bytes both say how wide a value is",
}


@pytest.mark.parametrize("options", REFUSED)
def test_create_refuses_and_makes_nothing(tmp_path, options):
    result = pystream_("topics", "create", tmp_path / "s", "t", *options)
    assert result.returncode == 2
    assert result.stderr.startswith("Usage: pystream topics create")
    assert REFUSED[options] in result.stderr
    assert files(tmp_path) == set()


def test_limits_of_create_are_within(tmp_path):
    path = tmp_path / "s"
    for number, options in enumerate(
        (
            ["--value-bytes", 0],
            ["--value-bytes", "16MiB"],
            ["--segment-bytes", "64KiB"],
            ["--segment-bytes", 2147479552],
            ["--index-interval-bytes", 1024],
        )
    ):
        result = pystream_("topics", "create", path, f"t{number}", *options)
        assert result.returncode == 0, result.stderr


def test_create_refuses_names_and_places(tmp_path):
    for name, said in {
        "a/b": "'/' is not allowed; use a-z, A-Z, 0-9, '.', '_' and '-'",
        "__x": "names that start with '__' are reserved",
        "": "topic name is empty",
        "n" * 250: "topic name has 250 characters: at most 249",
    }.items():
        result = pystream_("topics", "create", tmp_path / "s", name)
        assert result.returncode == 2
        assert said in result.stderr
    result = pystream_(
        "topics", "create", tmp_path / "s", "t", "--value-bytes", "40KiB", "--segment-bytes", "64KiB"
    )
    assert result.returncode == 2
    assert "segment_bytes=65536: too small for records of 40960 bytes" in result.stderr
    assert files(tmp_path) == set()
    result = pystream_("topics", "create", tmp_path / "no" / "s", "t")
    assert result.returncode == 3
    assert "its parent directory" in result.stderr and "does not exist" in result.stderr


# ---- list ---------------------------------------------------------------------------------------------


def test_list_prints_names_and_opens_nothing(events):
    (events / "live").unlink()
    before = files(events)
    result = pystream_("topics", "list", events)
    assert (result.returncode, result.stdout, result.stderr) == (0, "clicks\nticks\n", "")
    assert files(events) == before


def test_list_of_none(tmp_path):
    pystream.open(tmp_path / "s").close()
    result = pystream_("topics", "list", tmp_path / "s")
    assert (result.returncode, result.stdout) == (0, "")
    assert json.loads(pystream_("topics", "list", tmp_path / "s", "--json").stdout) == []


def test_list_long(events):
    result = pystream_("topics", "list", events, "--long")
    assert result.returncode == 0
    title, clicks, ticks = result.stdout.splitlines()
    assert title.split() == "Topic Partitions Codec Records Stored Oldest (UTC) Newest (UTC)".split()
    assert clicks.split()[:4] == ["clicks", "2", "lz4", "30"]
    assert clicks.split()[-2:] == ["2023-11-14", "22:13"]
    assert ticks.split() == ["ticks", "1", "none", "0", "0", "B", "-", "-"]


def test_list_as_json(events):
    clicks, ticks = json.loads(pystream_("topics", "list", events, "--json").stdout)
    assert clicks["topic"] == "clicks" and clicks["options"]["partitions"] == 2
    assert ticks["options"]["dtype"] == "[('ts', '<i8'), ('px', '<f8')]"
    assert "records" not in clicks
    clicks, ticks = json.loads(pystream_("topics", "list", events, "--long", "--json").stdout)
    assert (clicks["records"], ticks["records"]) == (30, 0)
    assert clicks["first_timestamp"] == clicks["last_timestamp"] == T0
    assert ticks["first_timestamp"] is None
    with pystream.open(events) as store:
        assert clicks["stored_bytes"] == store["clicks"].partition(1)._log().stats()["stored_bytes"]
        assert clicks["uuid"] == str(store["clicks"].uuid)


# ---- describe -----------------------------------------------------------------------------------------


def test_describing_writes_nothing(events):
    before = contents(events)
    for command in (
        ["describe", events],
        ["describe", events, "ticks"],
        ["describe", events, "clicks"],
        ["describe", events, "clicks", 0],
        ["describe", events, "clicks", 1],
        ["topics", "describe", events, "ticks"],
        ["topics", "list", "--long", events],
    ):
        assert pystream_(*command).returncode == 0
    assert contents(events) == before


def test_a_partition_never_used_is_said_to_be_so(events):
    result = pystream_("describe", events, "clicks", 0)
    assert result.stdout == "partition  clicks/0\nrecords    0; never used\n"


def test_describe_a_store(events):
    result = pystream_("describe", events)
    assert result.returncode == 0
    facts = dict(line.split("  ", 1) for line in result.stdout.splitlines()[:8])
    with pystream.open(events) as store:
        assert facts["store"].strip() == store.path
        assert facts["uuid"].strip() == str(store.uuid)
        assert facts["file system"].strip() == f"{store.filesystem}, written by {store.io}"
    assert (facts["topics"].strip(), facts["records"].strip()) == ("2", "30")
    table = result.stdout.split("\n\n")[1]
    assert table == pystream_("topics", "list", "--long", events).stdout
    document = json.loads(pystream_("describe", events, "--json").stdout)
    assert (document["records"], document["format"]) == (30, 1)
    assert document["topics"] == json.loads(pystream_("topics", "list", "-l", events, "--json").stdout)
    disk = sum(path.stat().st_blocks * 512 for path in events.rglob("*") if path.is_file())
    assert document["disk_bytes"] == disk


def test_describe_a_topic_by_either_command(events):
    result = pystream_("describe", events, "ticks")
    assert result.returncode == 0
    assert "values       ts:i8,px:f8 (16 B each)\n" in result.stdout
    assert result.stdout == pystream_("topics", "describe", events, "ticks").stdout
    result = pystream_("describe", events, "clicks", "--json")
    assert result.stdout == pystream_("topics", "describe", events, "clicks", "--json").stdout
    document = json.loads(result.stdout)
    zero, one = document["partitions"]
    assert (zero["used"], zero["start"], zero["end"], zero["segments"]) == (False, 0, 0, [])
    assert (one["used"], one["start"], one["end"], one["records"]) == (True, 0, 30, 30)
    assert one["first_timestamp"] == one["last_timestamp"] == T0
    assert one["error"] is None


@pytest.mark.parametrize(
    ("dtype", "shown"),
    [
        ("f8", "f8"),
        ([("a", "i8"), ("b", "S3")], "a:i8,b:S3"),
        ([("a", ">i4")], "a:>i4"),
        ([("at", "M8[ns]")], "at:M8[ns]"),
        ([("v", "f4", (3,))], "[('v', '<f4', (3,))]"),
        ([("p", [("x", "f4")])], "[('p', [('x', '<f4')])]"),
        ({"names": ["a"], "formats": ["i4"], "itemsize": 16}, None),
    ],
)
def test_a_dtype_is_shown_as_it_can_be_given(dtype, shown):
    from pystream.cli.common import parse_dtype_text
    from pystream.cli.facts import dtype_text

    wanted = np.dtype(dtype)
    text = dtype_text(wanted)
    if shown is None or "[(" in shown:
        assert text == str(wanted)
    else:
        assert text == shown
        assert parse_dtype_text(text) == wanted


def test_describe_a_partition_with_its_segments(tmp_path):
    with pystream.open(tmp_path / "s") as store:
        partition = store.topic("t", create=True, segment_bytes="64KiB").partition(0)
        for i in range(10):
            partition.append([bytes([i]) * 1000] * 30, timestamps=T0 + i * 10**9)
        partition.flush()
        bases = sorted(int(path.stem) for path in (tmp_path / "s/topics/t/0").glob("*.log"))
        assert len(bases) > 3
    document = json.loads(pystream_("describe", tmp_path / "s", "t", 0, "--json").stdout)
    assert [segment["base_offset"] for segment in document["segments"]] == bases
    assert (document["topic"], document["partition"], document["records"]) == ("t", 0, 300)
    assert document["durable"] == 300
    assert document["last_timestamp"] - document["first_timestamp"] == 9 * 10**9
    result = pystream_("describe", tmp_path / "s", "t", 0)
    assert "offsets       0 up to, not including, 300\n" in result.stdout
    assert "newest        2023-11-14T22:13:29Z\n" in result.stdout
    rows = result.stdout.split("\n\n")[1].splitlines()[1:]
    assert [int(row.split()[0]) for row in rows] == bases
    assert sum(int(row.split()[1]) for row in rows) == 300


def test_a_partition_in_use_by_others_is_described_as_it_is(events):
    with pystream.open(events) as store:
        store["clicks"].append([b"x"] * 5, partition=0)
        zero, one = json.loads(pystream_("describe", events, "clicks", "--json").stdout)["partitions"]
        assert (zero["end"], one["end"]) == (5, 30)
        store["clicks"].append([b"x"] * 5, partition=0)
        assert store["clicks"].partition(0).end_offset == 10


def test_damage_in_one_topic_does_not_hide_the_others(events):
    with open(events / "topics/ticks/topic.json", "r+b") as file:
        file.write(b"!")
    said = f"pystream: {events}/topics/ticks/topic.json: damaged: not what was written there"
    for command in (["describe"], ["topics", "list", "--long"]):
        result = pystream_(*command, events)
        assert result.returncode == 3
        assert result.stderr.startswith(said)
        rows = [line.split() for line in result.stdout.splitlines()]
        assert any(row[:4] == ["clicks", "2", "lz4", "30"] for row in rows)
        assert ["ticks", *"??????"] in rows
        result = pystream_(*command, events, "--json")
        assert result.returncode == 3
        document = json.loads(result.stdout)
        clicks, ticks = document["topics"] if command == ["describe"] else document
        assert clicks["error"] is None and "damaged" in ticks["error"]
    assert pystream_("topics", "list", events).stdout == "clicks\nticks\n"
    assert pystream_("describe", events, "ticks").returncode == 3


def test_damage_in_one_partition_does_not_hide_the_others(events):
    with pystream.open(events) as store:
        store["clicks"].append([b"x"] * 7, partition=0)
    (log,) = (events / "topics/clicks/1").glob("*.log")
    with open(log, "r+b") as file:
        file.write(b"\xff" * 64)
    result = pystream_("describe", events, "clicks")
    assert result.returncode == 3
    assert result.stderr.startswith("pystream: clicks/1: ") and result.stderr.count("\n") == 1
    rows = [line.split() for line in result.stdout.splitlines()]
    assert any(row[:4] == ["0", "0", "7", "7"] for row in rows)
    assert ["1", *"????????"] in rows
    document = json.loads(pystream_("describe", events, "clicks", "--json").stdout)
    assert [partition["error"] is None for partition in document["partitions"]] == [True, False]
    result = pystream_("describe", events, "clicks", 1)
    assert (result.returncode, result.stdout) == (3, "")
    assert "30?" not in result.stdout
    (row,) = (line for line in pystream_("describe", events).stdout.splitlines() if line.startswith("clicks"))
    assert row.split()[3] == "7?"


# ---- delete -------------------------------------------------------------------------------------------


def test_delete_asks_nobody_in_vain(events):
    result = pystream_("topics", "delete", events, "clicks", stdin=-3)
    assert result.returncode == 2
    assert result.stderr == (
        "pystream: nobody can be asked, for standard input is no terminal: give --yes to delete\n"
    )
    assert pystream_("topics", "list", events).stdout == "clicks\nticks\n"


def test_delete_with_yes(events):
    result = pystream_("topics", "delete", events, "clicks", "--yes")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "deleted topic 'clicks'\n")
    assert pystream_("topics", "list", events).stdout == "ticks\n"
    assert not (events / "topics/clicks").exists()
    result = pystream_("topics", "delete", events, "ticks", "-y", "-q")
    assert (result.returncode, result.stderr) == (0, "")
    assert os.listdir(events / "topics") == []


def test_delete_several(events):
    result = pystream_("topics", "delete", events, "clicks", "ticks", "clicks", "--yes")
    assert result.returncode == 0
    assert result.stderr == "deleted topic 'clicks'\ndeleted topic 'ticks'\n"


def test_delete_what_is_not_there_deletes_nothing_else(events):
    result = pystream_("topics", "delete", events, "clicks", "tick", "--yes")
    assert result.returncode == 3
    assert result.stderr == f"pystream: no topic 'tick' in {events}; did you mean 'ticks'?\n"
    assert pystream_("topics", "list", events).stdout == "clicks\nticks\n"
    result = pystream_("topics", "delete", events, "nothing", "ticks", "--yes", "--if-exists")
    assert (result.returncode, result.stderr) == (0, "deleted topic 'ticks'\n")
    result = pystream_("topics", "delete", events.parent / "none", "t", "--yes")
    assert result.returncode == 3
    assert "does not exist" in result.stderr


@pytest.mark.parametrize(
    ("typed", "code", "left"),
    [
        ("y\n", 0, ["ticks"]),
        ("n\n", 1, ["clicks", "ticks"]),
        ("\n", 1, ["clicks", "ticks"]),
        ("what\nyes\n", 0, ["ticks"]),
        ("\x03", 130, ["clicks", "ticks"]),
        ("\x04", 130, ["clicks", "ticks"]),
    ],
)
def test_delete_asks_in_a_terminal(events, typed, code, left):
    terminal = Terminal([sys.executable, "-m", "pystream", "topics", "delete", str(events), "clicks"])
    asked = terminal.until("[y/N]")
    assert "Delete topic 'clicks' and all its records (" in asked and "iB on disk)?" in asked
    assert terminal.end(typing=typed) == code
    assert ("nothing was deleted" in terminal.shown) == (code == 1)
    assert ("deleted topic 'clicks'" in terminal.shown) == (code == 0)
    assert "Traceback" not in terminal.shown
    assert pystream_("topics", "list", events).stdout.split() == left
