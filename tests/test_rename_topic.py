"""Renamed topics: the same records under another name, for everybody, whoever has them open or dies."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import administrators
import deleters
import pystream
from harness import Life, contents, quick_directory
from pystream import TopicDeletedError, TopicRenamedError

OPENED = {
    "append",
    "append to one not yet opened",
    "get",
    "tail",
    "flush",
    "poll",
    "end",
    "time",
    "wait",
}
"""Uses of an earlier name that say where the topic is by now."""


@pytest.fixture
def path() -> Iterator[Path]:
    with quick_directory() as directory:
        yield directory / "s"


def create(store: pystream.Store, name: str = "t", partitions: int = 2) -> pystream.Topic:
    return store.topic(name, create=True, partitions=partitions, segment_bytes=65536)


def values(topic: pystream.Topic) -> list[bytes | None]:
    return [record.value for record in topic.records()]


def test_renamed(path: Path) -> None:
    with pystream.open(path) as store:
        topic = create(store)
        topic.append([b"a"], partition=0)
        batch = next(topic.batches())
        never_opened = store.topic("t")
        assert store.rename_topic("t", "u") is None
        assert store.topics() == ["u"]
        assert os.listdir(path / "topics") == ["u"]
        for use in (
            lambda: topic.append([b"b"], partition=0),
            lambda: topic.append([b"b"], partition=1),
            lambda: list(topic.records()),
            lambda: topic.partition(0)[0],
            lambda: topic.partition(0).flush(),
            lambda: topic.partition(0).end_offset,
            lambda: topic.producer(),
            lambda: never_opened.append([b"b"], partition=0),
        ):
            with pytest.raises(TopicRenamedError, match="renamed to 'u'") as caught:
                use()
            assert caught.value.new_name == "u"
            assert caught.value.topic == "t"
            assert isinstance(caught.value, (TopicDeletedError, LookupError))
        assert bytes(batch.values[0]) == b"a"
        found = store["u"]
        assert (found.uuid, found.created) == (topic.uuid, topic.created)
        assert values(found) == [b"a"]
        assert found.append([b"c"], partition=0) == 1
        assert topic.options.partitions == 2  # what is known of it stays known
        with pytest.raises(pystream.TopicNotFoundError, match="no topic 't'"):
            store.alter_topic("t", retention="1d")
        another = create(store, "t")
        assert another.uuid != topic.uuid
        assert another.append([b"another's"], partition=0) == 0
        with pytest.raises(TopicRenamedError):
            topic.append([b"b"], partition=0)
    with pystream.open(path) as store:
        assert {name: values(store[name]) for name in store} == {"t": [b"another's"], "u": [b"a", b"c"]}
    assert pystream.verify(path).sound


def test_renamed_and_back(path: Path) -> None:
    """Handles of before are used no more, but nobody is told that the topic was deleted."""
    with pystream.open(path) as store, pystream.open(path, "r") as reading:
        topic = create(store)
        topic.append([b"a"], partition=0)
        seen = reading["t"]
        assert values(seen) == [b"a"]
        store.rename_topic("t", "u")
        store.rename_topic("u", "t")
        for use in (
            lambda: topic.append([b"b"], partition=0),
            lambda: values(topic),
            lambda: topic.partition(0).delete_records(0),
            lambda: values(seen),
        ):
            with pytest.raises(TopicRenamedError, match=r"has its name again .*open it anew") as caught:
                use()
            assert caught.value.new_name == "t"
        assert values(store["t"]) == values(reading["t"]) == [b"a"]  # at once, and not at the second attempt
        assert store["t"].append([b"b"], partition=0) == 1


def test_changes_and_numbers_of_another_topic(path: Path) -> None:
    """What has the name of a topic that was renamed or deleted is not altered, or counted, in its place."""
    with pystream.open(path) as store:
        topic = create(store)
        store.rename_topic("t", "u")
        uses = (
            lambda: topic.alter(retention="1d"),
            lambda: topic.add_partitions(1),
            lambda: topic.stats(),
            lambda: topic.partition(0).stats(),
        )
        for there in (False, True):
            if there:
                create(store, "t")
            for use in uses:
                with pytest.raises(TopicRenamedError, match="renamed to 'u'"):
                    use()
        store.delete_topic("u")
        for use in uses:
            with pytest.raises(TopicDeletedError, match="the topic was deleted") as caught:
                use()
            assert not isinstance(caught.value, TopicRenamedError)
        assert (store["t"].partitions, store["t"].options.retention_ns) == (2, None)


def test_refused(path: Path) -> None:
    store = pystream.open(path)
    create(store, "clicks").append([b"a"], partition=0)
    create(store, "views")
    store.flush()
    before = contents(path)
    with pytest.raises(pystream.TopicNotFoundError, match=r"no topic 'click' .*did you mean 'clicks'"):
        store.rename_topic("click", "x")
    for new in ("views", "clicks"):
        with pytest.raises(pystream.TopicExistsError, match=f"topic '{new}' already"):
            store.rename_topic("clicks", new)
    for name in ("", ".", "..", "a/b", ".deleted+0", "__x", "x" * 250):
        for arguments in ((name, "x"), ("clicks", name)):
            with pytest.raises(pystream.OptionError, match="topic name"):
                store.rename_topic(*arguments)
    with pytest.raises(TypeError, match="topic name must be a str"):
        store.rename_topic("clicks", None)  # type: ignore[arg-type]
    assert contents(path) == before
    store.close()
    with pytest.raises(pystream.ClosedError):
        store.rename_topic("clicks", "x")
    with pystream.open(path, "r") as reading, pytest.raises(pystream.ReadOnlyError):
        reading.rename_topic("clicks", "x")
    assert contents(path) == before


def test_names_as_long_as_allowed(store: pystream.Store) -> None:
    create(store)
    store.rename_topic("t", "n" * 249)
    assert store.topics() == ["n" * 249]
    with pytest.raises(pystream.OptionError, match="at most 249"):
        store.rename_topic("n" * 249, "n" * 250)


def test_an_empty_directory_is_no_topic(store: pystream.Store) -> None:
    create(store)
    (Path(store.path) / "topics/empty").mkdir()
    store.rename_topic("t", "empty")
    create(store)
    directory = Path(store.path) / "topics/full"
    directory.mkdir()
    (directory / "something").write_bytes(b"")
    with pytest.raises(pystream.TopicExistsError):
        store.rename_topic("t", "full")
    assert store.topics() == ["empty", "t"]
    assert store["t"].append([b"x"], partition=0) == 0


def test_what_was_not_synced_is(path: Path) -> None:
    """Nobody is left who would sync what handles of the earlier name wrote."""
    with pystream.open(path, sync_interval=3600) as store:
        topic = create(store)
        topic.append([b"a"], partition=0)
        topic.append([b"b"], partition=1)
        assert topic.partition(0).durable_offset == 0
        store.rename_topic("t", "u")
        assert [store["u"].partition(index).durable_offset for index in (0, 1)] == [1, 1]


def test_a_damaged_topic_can_be_renamed(store: pystream.Store) -> None:
    create(store)
    file = Path(store.path) / "topics/t/topic.json"
    file.write_bytes(b"nonsense")
    store.rename_topic("t", "u")
    assert (Path(store.path) / "topics/u/topic.json").read_bytes() == b"nonsense"


def test_other_processes_hear_of_it(path: Path) -> None:
    with pystream.open(path) as store:
        create(store)
        holder = Life(deleters.hold_everything, str(path), "t")
        assert holder.receive() == "ready"  # and has appended what it does
        waiter = Life(deleters.wait_for_records, str(path), "t")
        assert waiter.receive() == "ready"
        time.sleep(0.2)
        store.rename_topic("t", "u")
        begun = time.monotonic()
        assert waiter.receive() == "TopicRenamedError"
        assert time.monotonic() - begun < 5
        holder.channel.send("go")
        said = holder.receive()
        assert {use for use, what in said.items() if what == "TopicRenamedError"} >= OPENED, said
        assert said["flush producer"] == "DeliveryError"
        assert said["open"] == "TopicNotFoundError"
        assert holder.receive() == b"mine"  # the batch in hand
        assert holder.end() == waiter.end() == 0
        assert values(store["u"]) == [b"mine", b"mine, too"]
        assert os.listdir(path / "topics") == ["u"]


def test_a_writer_is_never_half_in_either(path: Path) -> None:
    """Somebody appends as quickly as possible while the topic goes and another one comes in its place."""
    for turn, durability in enumerate(("interval", "sync", "none", "interval")):
        with pystream.open(path) as store:
            name, new = f"t{turn}", f"u{turn}"
            store.topic(name, create=True, segment_bytes=65536, durability=durability)
            writer = Life(deleters.append_until_refused, str(path), name, 3000, durability)
            time.sleep(0.3 + 0.1 * turn)
            store.rename_topic(name, new)
            other = store.topic(name, create=True, segment_bytes=65536)
            other.append([b"new"])
            kind, acknowledged = writer.received()[-1]
            assert writer.end() == 0
            assert kind == "TopicRenamedError"
            assert values(other) == [b"new"]
            there = values(store[new])
            assert len(there) >= acknowledged
            assert all(value is not None and value.startswith(b"old") for value in there)
    assert pystream.verify(path).sound


def test_a_holder_is_waited_for(path: Path) -> None:
    with pystream.open(path) as store:
        create(store)
        with pystream.open(path) as mine, mine["t"].partition(0).exclusive():
            store.rename_topic("t", "u")  # holds of this process end
        life = Life(deleters.hold_partition, str(path), "u")
        assert life.receive() == "holding"
        with pytest.raises(pystream.PartitionHeldError, match="cannot be renamed now"):
            store.rename_topic("u", "v", timeout=0.2)
        assert store.topics() == ["u"]
        life.kill()
        assert life.end() == -signal.SIGKILL
        store.rename_topic("u", "v")
        assert store.topics() == ["v"]


@pytest.mark.parametrize("pattern", ["^[tu]$"])
@pytest.mark.parametrize("group", [None, "g"])
@pytest.mark.parametrize("mode", ["rw", "r"])
def test_who_reads_by_a_pattern_goes_on(path: Path, pattern: str, group: str | None, mode: str) -> None:
    if group is not None and mode == "r":
        return  # members write
    options: dict[str, Any] = {} if group is None else {"group": group}
    with pystream.open(path) as store:
        topic = create(store)
        topic.append([b"one"], partition=0)
        topic.append([b"two"], partition=1)
        reading = Life(administrators.consume_on, str(path), mode, pattern, options)
        assert reading.receive() == "ready"
        time.sleep(0.5)
        store.rename_topic("t", "u")
        store["u"].append([b"three"], partition=1)
        time.sleep(1.5)
        store["u"].append([b"end"], partition=0)
        seen, ended = reading.receive(60)
        assert ended is None
        assert sorted(value for *_, value in seen) == [b"end", b"one", b"three", b"two"]
        assert seen[-1] == ("u", 0, 1, b"end")
        assert reading.end() == 0


@pytest.mark.parametrize("group", [None, "g"])
def test_who_reads_by_name_is_told(path: Path, group: str | None) -> None:
    options: dict[str, Any] = {} if group is None else {"group": group}
    with pystream.open(path) as store:
        topic = create(store)
        topic.append([b"one"], partition=0)
        reading = Life(administrators.consume_on, str(path), "rw", "t", options)
        assert reading.receive() == "ready"
        time.sleep(0.5)
        store.rename_topic("t", "u")
        seen, (kind, text) = reading.receive(60)
        assert (kind, [value for *_, value in seen]) == ("TopicRenamedError", [b"one"])
        assert "renamed to 'u'" in text
        assert reading.end() == 0


def test_offsets_of_groups_stay(store: pystream.Store) -> None:
    topic = create(store)
    topic.append([b"a", b"b", b"c"], partition=0)
    with store.consumer("t", group="g", auto_commit=False) as consumer:
        assert next(iter(consumer)).value == b"a"
        consumer.commit({("t", 0): 2}, durable=True)
    store.rename_topic("t", "u")
    described = store.group("g").describe().partitions[0]
    assert (described.topic, described.committed, described.lag) == ("u", 2, 1)
    assert store.group("g").committed() == {("u", 0, None): pystream.OffsetAndMetadata(2, "", 0)}
    create(store, "t").append([b"x", b"y", b"z"], partition=0)
    with store.consumer("u", group="g", timeout=0.2) as consumer:
        assert [record.value for record in consumer] == [b"c"]
    with store.consumer("t", group="g", timeout=0.2) as consumer:
        assert [record.value for record in consumer] == [b"x", b"y", b"z"]


def test_to_and_fro(path: Path) -> None:
    """Several processes do so at once, while another one appends by whatever name it finds."""
    with pystream.open(path) as store:
        create(store, partitions=1)
    lives = [Life(administrators.rename_to_and_fro, str(path), "t", f"u{number}", 25) for number in range(3)]
    for life in lives:
        assert life.receive() == "ready"
    sent, stop = [], threading.Event()

    def write() -> None:
        with pystream.open(path) as store:
            while not stop.is_set():
                try:
                    (name,) = store.topics()
                    store[name].append([b"%d" % len(sent)])
                except (pystream.TopicNotFoundError, TopicDeletedError, ValueError):
                    continue
                sent.append(len(sent))

    writer = threading.Thread(target=write)
    writer.start()
    assert sum(life.receive(60) for life in lives) > 0
    for life in lives:
        assert life.end() == 0
    stop.set()
    writer.join()
    with pystream.open(path) as store:
        (name,) = store.topics()
        assert [int(value or b"") for value in values(store[name])] == sent
    assert not [entry for entry in os.listdir(path / "topics") if "+" in entry]
    assert pystream.verify(path).sound


def test_a_backup_follows(path: Path) -> None:
    with pystream.open(path) as store:
        create(store).append([b"a"], partition=0)
        store.backup(path.parent / "b")
        store.rename_topic("t", "u")
        store["u"].append([b"b"], partition=0)
        store.backup(path.parent / "b")
    with pystream.open(path.parent / "b", "r") as copy:
        assert copy.topics() == ["u"]
        assert values(copy["u"]) == [b"a", b"b"]
