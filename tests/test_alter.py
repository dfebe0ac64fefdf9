"""Altering a topic while others use it: who sees what when, and what a crash leaves."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import administrators
import pystream
from administrators import leftovers
from harness import Life, contents, eventually, quick_directory
from pystream import OptionError, altering, copying, metadata, renaming
from pystream.cli.changes import loses
from pystream.topicoptions import OPTIONS, TopicOptions

DAY = 86400 * 10**9
OTHERS_S = 5.0
"""Within that, other processes go by altered options; within about a second where nothing else runs."""


@pytest.fixture
def path() -> Iterator[Path]:
    with quick_directory() as directory:
        yield directory / "s"


# ---- what it does -------------------------------------------------------------------------------------


def test_altered(store: pystream.Store) -> None:
    topic = store.topic("t", create=True, retention="1h")
    other = store.topic("t")
    changes = topic.alter(retention="7d", segment_bytes="1MiB", compression="lz4", segment_age="never")
    assert [str(change) for change in changes] == [
        "compression: none -> lz4, from the next producer",
        "segment_bytes: 128MiB -> 1MiB, from the next segment",
        "retention: 1h -> 7d, at once",
        "segment_age: 7d -> never, at once",
    ]
    for seen in (topic, other, store.topic("t")):
        options = seen.options
        assert (options.retention_ns, options.segment_bytes, options.compression) == (7 * DAY, 1 << 20, "lz4")
        assert options.segment_age_ns is None
    assert topic.alter(retention=7 * 86400) == ()
    assert [str(change) for change in store.alter_topic("t", retention=None, segment_age=None)] == [
        "retention: 7d -> forever, at once",
        "segment_age: never -> 7d, at once",
    ]
    assert topic.alter(durability="sync")[0].before == "interval"
    assert topic.alter(durability=None)[0].after == "interval"


def test_the_default_of_durability_is_the_stores(path: Path) -> None:
    with pystream.open(path, durability="none") as store:
        topic = store.topic("t", create=True, durability="sync")
        assert str(topic.alter(durability=None)[0]) == "durability: sync -> none, at once"


def test_refused(path: Path) -> None:
    store = pystream.open(path)
    topic = store.topic("t", create=True, dtype="f8")
    before = contents(path)
    for name, value, why in (
        ("dtype", "i8", "dtype=: cannot be altered, for it says what the records are"),
        ("value_bytes", 8, "value_bytes=: cannot be altered"),
        ("key_bytes", None, "key_bytes=: cannot be altered"),
        ("partitions", 2, r"partitions=: altered by add_partitions\(\)"),
        ("retention", "0s", r"retention='0s': must be from 0\.001 to"),
        ("segment_bytes", 1, "segment_bytes=1: must be from 65536"),
        ("max_message_bytes", 1023, "max_message_bytes=1023: must be from 1024"),
    ):
        with pytest.raises(OptionError, match=why):
            topic.alter(**{name: value})
    with pytest.raises(
        TypeError, match="unexpected keyword argument 'color'; there are compression, durability"
    ):
        topic.alter(color="red")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="needs at least one option"):
        topic.alter()
    with pytest.raises(TypeError, match="cleanup"):
        topic.alter(retention="7d", cleanup=5)  # type: ignore[arg-type]
    with pytest.raises(pystream.TopicNotFoundError, match="no topic 'u'"):
        store.alter_topic("u", retention="7d")
    with pytest.raises(OptionError, match="reserved"):
        store.alter_topic("__t", retention="7d")
    assert contents(path) == before
    store.close()
    with pytest.raises(pystream.ClosedError):
        topic.alter(retention="7d")
    with pystream.open(path, "r") as reading, pytest.raises(pystream.ReadOnlyError):
        reading.topic("t").alter(retention="7d")
    assert contents(path) == before


def test_together_they_must_make_sense(store: pystream.Store) -> None:
    topic = store.topic("t", create=True, value_bytes=100_000)
    with pytest.raises(OptionError, match="segment_bytes=65536: too small for records of 100000 bytes"):
        topic.alter(segment_bytes="64KiB", retention="1d")
    with pytest.raises(OptionError, match="max_message_bytes=65536: too small"):
        topic.alter(max_message_bytes="64KiB")
    assert topic.options == TopicOptions(value_bytes=100_000)


def test_a_damaged_file_is_not_replaced(store: pystream.Store) -> None:
    store.topic("t", create=True)
    file = Path(store.path) / "topics/t/topic.json"
    file.write_bytes(file.read_bytes().replace(b"interval", b"intervax"))
    before = file.read_bytes()
    with pytest.raises(pystream.CorruptLogError, match=r"topic\.json"):
        store.alter_topic("t", retention="7d")
    assert file.read_bytes() == before
    assert not leftovers(Path(store.path))


def test_what_a_later_version_wrote_stays(store: pystream.Store) -> None:
    topic = store.topic("t", create=True)
    file = Path(store.path) / "topics/t/topic.json"
    document = json.loads(file.read_bytes())
    more = {**document, "hint": [1], "options": {**document["options"], "tier": "cold"}}
    file.write_bytes(metadata.encode(more))
    topic.alter(retention="7d")
    found = json.loads(file.read_bytes())
    assert (found["hint"], found["options"]["tier"], found["uuid"]) == ([1], "cold", document["uuid"])


# ---- limits and segments while in use -----------------------------------------------------------------


def test_segments_of_another_size(store: pystream.Store) -> None:
    topic = store.topic("t", create=True, segment_bytes="64KiB")
    partition = topic.partition(0)
    producer = topic.producer(linger=0)
    with pytest.raises(pystream.RecordTooLargeError, match="alter the topic: a larger segment_bytes="):
        producer.send(bytes(100_000))
    with pytest.raises(pystream.RecordTooLargeError):
        partition.append([bytes(100_000)])
    assert partition.append([b"small"]) == 0
    topic.alter(segment_bytes="1MiB")
    producer.send(bytes(100_000))
    producer.flush()
    assert partition.append([bytes(500_000)]) == 2
    topic.alter(segment_bytes="64KiB")
    with pytest.raises(pystream.RecordTooLargeError):
        partition.append([bytes(100_000)])
    with pytest.raises(pystream.RecordTooLargeError):
        producer.send(bytes(100_000))
    for _ in range(20):
        producer.send(bytes(60_000))
    producer.close()
    sizes = [len(record.value or b"") for record in partition.records()]
    assert sizes == [5, 100_000, 500_000, *[60_000] * 20]
    assert [record.offset for record in partition.records()] == list(range(23))


def test_an_empty_segment_that_is_too_small(path: Path) -> None:
    """It cannot be ended as it is: one offset is passed over, which readers do not mind."""
    with pystream.open(path) as store:
        topic = store.topic("t", create=True, segment_bytes="64KiB")
        partition = topic.partition(0)
        assert partition.end_offset == 0
        topic.alter(segment_bytes="1MiB")
        assert partition.append([bytes(200_000), b"b"]) == 1
        assert partition.append([b"c"]) == 3
        assert [record.offset for record in partition.records()] == [1, 2, 3]
        with store.consumer("t", timeout=0) as consumer:
            assert [record.offset for record in consumer] == [1, 2, 3]
    assert pystream.verify(path).sound
    with pystream.open(path) as store:
        assert [record.offset for record in store["t"].records()] == [1, 2, 3]
        assert store["t"].append([b"d"]) == 4


def test_a_limit_of_batches(store: pystream.Store) -> None:
    topic = store.topic("t", create=True)
    producer = topic.producer(batch_bytes="64KiB", linger=60)
    for number in range(300):
        producer.send(b"%d" % number + bytes(100))  # 30 KiB in one batch that was begun before
    topic.alter(max_message_bytes="4KiB")
    with pytest.raises(pystream.BatchTooLargeError, match="this topic takes 4096"):
        topic.append([bytes(1000)] * 5)
    producer.send(b"300" + bytes(5000))  # into the batch that was begun
    producer.flush()
    with pytest.raises(pystream.RecordTooLargeError, match="max_message_bytes="):
        producer.send(bytes(5000))
    for number in range(301, 600):
        producer.send(b"%d" % number + bytes(100))
    producer.flush()
    producer.send_many([b"%d" % number + bytes(100) for number in range(600, 900)])
    found = list(topic.batches())
    sizes = [sum(map(len, batch.values.to_pylist())) for batch in found]
    assert sizes[0] > 30_000
    assert max(sizes[1:]) <= 4096
    values = [record.value or b"" for record in topic.records()]
    assert [int(value.rstrip(b"\0")) for value in values] == list(range(900))
    topic.alter(max_message_bytes="unlimited")
    topic.append([bytes(1000)] * 50)
    topic.alter(max_message_bytes=1024)
    most = 1024 - 424 - 13  # what a batch, and what a record takes at most beside its value
    topic.append([bytes(most)])
    with pytest.raises(pystream.RecordTooLargeError, match=r"takes 1025 bytes .* at most 1024"):
        topic.append([bytes(most + 1)])
    producer.close()


def test_stamping(store: pystream.Store) -> None:
    long_ago = 1_500_000_000_000_000_000
    topic = store.topic("t", create=True)
    producer = topic.producer(linger=60)
    producer.send(b"a", timestamp=long_ago)
    topic.alter(timestamp_type="append")
    producer.flush()
    producer.send(b"b", timestamp=long_ago)  # who was heard before is not refused now, but overruled
    producer.flush()
    topic.append([b"c"], timestamps=[long_ago])
    fresh = store.topic("t")
    with pytest.raises(ValueError, match="stamps records itself"):
        fresh.append([b"x"], timestamps=[long_ago])
    topic.alter(timestamp_type="create")
    fresh.append([b"d"], timestamps=[long_ago])
    times = [record.timestamp or 0 for record in topic.records()]
    assert times[3] == long_ago
    assert all(time_ > long_ago for time_ in times[:3])
    producer.close()


def test_compression_of_those_opened_later(store: pystream.Store) -> None:
    topic = store.topic("t", create=True)
    before = topic.producer()
    topic.alter(compression="lz4")

    def bytes_of(write: Callable[[], object]) -> int:
        start = topic.partition(0).stats().stored_bytes
        write()
        return topic.partition(0).stats().stored_bytes - start

    data = [bytes(1000)] * 100
    assert bytes_of(lambda: before.send_many(data)) > 90_000
    with topic.producer() as after:
        assert bytes_of(lambda: after.send_many(data)) < 10_000
    assert bytes_of(lambda: topic.append(data)) < 10_000
    before.close()


def test_durability(path: Path) -> None:
    """Records are on the disk from the moment on that the topic is to sync, and until it is not."""
    with pystream.open(path, sync_interval=3600) as store:
        topic = store.topic("t", create=True, durability="interval")
        partition = topic.partition(0)
        topic.append([b"a"])
        assert partition.durable_offset == 0
        topic.alter(durability="sync")
        assert partition.durable_offset == 1
        topic.append([b"b"])
        assert (partition.durable_offset, partition.end_offset) == (2, 2)
        topic.alter(durability="none")
        topic.append([b"c"])
        assert (partition.durable_offset, partition.end_offset) == (2, 3)
        producer = topic.producer()
        producer.send(b"d")
        producer.flush()
        topic.alter(durability="sync")
        producer.send(b"e")
        producer.flush()
        assert (partition.durable_offset, partition.end_offset) == (5, 5)
        producer.close()
    with pystream.open(path, sync_interval=0.05) as store:
        topic = store["t"]
        topic.alter(durability="interval")
        topic.append([b"f"])
        eventually(lambda: topic.partition(0).durable_offset == 6)
        topic.alter(durability="none")
        topic.append([b"g"])
        time.sleep(0.3)
        assert topic.partition(0).durable_offset == 6
        topic.alter(durability="interval")
        eventually(lambda: topic.partition(0).durable_offset == 7)


def test_threads_append_while_it_is_altered(path: Path) -> None:
    with pystream.open(path) as store:
        topic = store.topic("t", create=True, segment_bytes="64KiB")
        stop, counts, failed = threading.Event(), [0] * 4, []

        def write(which: int) -> None:
            try:
                while not stop.is_set():
                    topic.append([b"%d:%d:" % (which, counts[which]) + bytes(3000)])
                    counts[which] += 1
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=write, args=(which,)) for which in range(4)]
        for thread in threads:
            thread.start()
        for turn in range(30):
            topic.alter(
                durability=("sync", "none", "interval")[turn % 3],
                segment_bytes=("64KiB", "256KiB", "128KiB")[turn % 3],
                index_interval_bytes=("1KiB", "64KiB")[turn % 2],
                timestamp_type=("append", "create")[turn % 2],
            )
        stop.set()
        for thread in threads:
            thread.join()
        assert not failed, failed
        seen: list[list[int]] = [[], [], [], []]
        for record in topic.records():
            which, number, _ = (record.value or b"").split(b":", 2)
            seen[int(which)].append(int(number))
        assert seen == [list(range(count)) for count in counts]
        assert topic.partition(0).end_offset == sum(counts)
    assert pystream.verify(path).sound


# ---- other processes ----------------------------------------------------------------------------------


def test_another_process_goes_by_them(path: Path) -> None:
    with pystream.open(path) as store:
        topic = store.topic("t", create=True, segment_bytes="64KiB")
        life = Life(administrators.append_with, str(path), "t")
        assert life.receive() == "ready"

        def tell(values: list[bytes]) -> Any:
            life.channel.send(values)
            return life.receive()

        said, _ = tell([bytes(100_000)])
        assert said[0] == "RecordTooLargeError"
        topic.alter(segment_bytes="1MiB", durability="sync", retention="1d")
        begun = time.monotonic()
        _, options = tell([b"a"])
        assert (options["retention_ns"], options["segment_bytes"]) == (DAY, 1 << 20)  # whoever asks, knows

        def synced() -> bool:
            tell([b"b"])
            partition = topic.partition(0)
            return partition.durable_offset == partition.end_offset

        eventually(synced, OTHERS_S)
        assert time.monotonic() - begun < OTHERS_S
        offset, _ = tell([bytes(100_000)])
        assert offset == topic.partition(0).end_offset - 1
        topic.alter(max_message_bytes="2KiB")
        eventually(lambda: isinstance(tell([bytes(3000)])[0], tuple), OTHERS_S)
        life.channel.send(None)
        assert life.end() == 0


def test_altering_at_once(path: Path) -> None:
    """Each changes an option of its own: none of them undoes what another one did."""
    with pystream.open(path) as store:
        topic = store.topic("t", create=True)
    wanted = {
        "retention": ["1d", "2d"],
        "retention_bytes": ["1MiB", "2MiB"],
        "cleanup": ["compact", "delete"],
        "min_compaction_lag": ["1s", "2s"],
    }
    lives = [
        Life(administrators.alter_for_ever, str(path), "t", option, values, 40)
        for option, values in wanted.items()
    ]
    grower = Life(administrators.grow_for_ever, str(path), "t", 20)
    for life in (*lives, grower):
        assert life.receive() == "ready"
    assert grower.receive() == list(range(2, 22))
    for life in lives:
        assert life.receive() == "done"
        assert life.end() == 0
    assert grower.end() == 0
    with pystream.open(path) as store:
        options = store["t"].options
        assert options == TopicOptions(
            partitions=21,
            retention_ns=2 * DAY,
            retention_bytes=2 << 20,
            cleanup="delete",
            min_compaction_lag_ns=2 * 10**9,
        )
        assert store["t"].append([b"x"], partition=20) == 0
    assert not leftovers(path)
    assert topic.uuid


def test_somebody_holds_the_lock(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pystream.administration, "TIMEOUT_DEFAULT_NS", 200_000_000)
    with pystream.open(path) as store:
        topic = store.topic("t", create=True)
        descriptor = os.open(path / "topics/t", os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for change in (lambda: topic.alter(retention="1d"), lambda: topic.add_partitions(1)):
            with pytest.raises(pystream.LockTimeoutError, match="another process kept changing it"):
                change()
        with pytest.raises(pystream.LockTimeoutError):
            store.delete_topic("t", timeout=0.1)
        with pytest.raises(pystream.LockTimeoutError):
            store.rename_topic("t", "u", timeout=0.1)
        os.close(descriptor)
        assert topic.alter(retention="1d")
        assert topic.append([b"x"]) == 0


# ---- what goes wrong ----------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["fsync", "rename", "mkdir"])
def test_a_call_that_fails(store: pystream.Store, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    """Each call in turn: all is as it was, or, where the last sync fails, as it was to be; and the same thing
    can be done again."""
    topic = store.topic("t", create=True, segment_bytes="64KiB")
    topic.append([b"a"])
    real = getattr(metadata.os, verb)
    for nth in range(1, 8):
        calls = 0

        def fail(*args: object, **kwargs: object) -> Any:
            nonlocal calls
            calls += 1
            if calls == nth:  # noqa: B023
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **kwargs)

        before = topic.options
        with monkeypatch.context() as patch:
            patch.setattr(metadata.os, verb, fail)
            try:
                topic.alter(retention=f"{nth + 1}d", retention_bytes=65536 + nth)
                topic.add_partitions(1)
            except pystream.StorageError as error:
                assert error.errno == errno.ENOSPC
        after = topic.options
        grown = after.partitions - before.partitions
        assert (after.retention_ns, after.retention_bytes) in (
            ((nth + 1) * DAY, 65536 + nth),
            (before.retention_ns, before.retention_bytes),
        )
        assert grown in (0, 1)
        assert not leftovers(Path(store.path))
        for index in range(after.partitions):
            topic.append([b"x"], partition=index)
        topic.alter(retention=f"{nth + 1}d", retention_bytes=65536 + nth)
        topic.add_partitions(to=before.partitions + 1)


def test_a_file_left_by_one_who_died_is_swept(path: Path) -> None:
    with pystream.open(path) as store:
        store.topic("t", create=True)
    life = Life(
        administrators.alter_for_ever, str(path), "t", "retention", ["7d"], 1, fault="alter.written:1:kill"
    )
    life.end()
    assert len(leftovers(path)) == 1
    with pystream.open(path) as store:
        assert not leftovers(path)
        assert store["t"].options == TopicOptions()


def test_every_point_is_played() -> None:
    sources = "".join(
        Path(module.__file__ or "").read_text() for module in (metadata, altering, copying, renaming)
    )
    points = set(re.findall(r'point\((?:store|handle), "([a-z_.]+)"\)', sources))
    from faults.points import PLACES

    assert points <= PLACES.keys()


# ---- any sequence -------------------------------------------------------------------------------------

VALUES: dict[str, list[Any]] = {
    "retention": ["1h", "7d", "forever", None],
    "retention_bytes": ["64KiB", 10**9, "unlimited", None],
    "cleanup": ["delete", "compact", "compact,delete", None],
    "segment_bytes": ["64KiB", "256KiB", "1MiB"],
    "durability": ["interval", "sync", "none", None],
    "compression": ["none", "lz4", None],
    "max_message_bytes": [30_000, "unlimited", None],
    "min_cleanable_dirty_ratio": [0, 0.25, None],
    "segment_age": ["1h", "never", None],
    "timestamp_type": ["create", "append", None],
    "index_interval_bytes": ["1KiB", "64KiB", None],
}

STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("alter"),
            st.dictionaries(st.sampled_from(sorted(VALUES)), st.integers(0, 3), min_size=1, max_size=4),
        ),
        st.tuples(st.just("grow"), st.integers(1, 2)),
        st.tuples(st.just("append"), st.integers(1, 20_000)),
        st.tuples(st.just("send"), st.integers(1, 20_000)),
        st.tuples(st.just("reopen"), st.none()),
        st.tuples(st.just("look"), st.none()),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
def test_any_sequence_of_changes(steps: list[tuple[str, Any]]) -> None:
    """Options are what they were last set to, everywhere, and no record is lost or moved."""
    with quick_directory() as directory:
        path = directory / "s"
        store = pystream.open(path, maintenance=False)
        topic = store.topic("t", create=True, segment_bytes="64KiB")
        producer = topic.producer(linger=0)
        model: dict[str, Any] = {"segment_bytes": 65536}
        partitions, records = 1, [[]]  # type: tuple[int, list[list[bytes]]]
        for number, (step, argument) in enumerate(steps):
            if step == "alter":
                given_ = {name: VALUES[name][at % len(VALUES[name])] for name, at in argument.items()}
                topic.alter(**given_)
                for name, value in given_.items():
                    option = OPTIONS[name]
                    default = getattr(TopicOptions(), option.stored)
                    model[option.stored] = default if value is None else option.read(value)
            elif step == "grow":
                partitions += argument
                assert topic.add_partitions(argument) == partitions
                records += [[] for _ in range(argument)]
            elif step in ("append", "send"):
                where = number % partitions
                value = b"%d:" % number + bytes(argument)
                if step == "append":
                    topic.append([value], keys=[b"k"], partition=where)
                else:
                    producer.send(value, b"k", partition=where)
                    producer.flush()
                records[where].append(value)
            elif step == "reopen":
                producer.close()
                store.close()
                store = pystream.open(path, maintenance=False)
                topic = store.topic("t")
                producer = topic.producer(linger=0)
            wanted = TopicOptions(**{**model, "partitions": partitions})
            assert topic.options == wanted
            assert store.topic("t").options == wanted
        for index, values in enumerate(records):
            assert [record.value for record in topic.partition(index).records()] == values
        producer.close()
        store.close()
        assert pystream.verify(path).sound


def test_what_loses_records() -> None:
    plain = TopicOptions()
    for before, after, wanted in (
        (plain, plain, False),
        (plain, TopicOptions(retention_ns=DAY), True),
        (TopicOptions(retention_ns=DAY), plain, False),
        (TopicOptions(retention_ns=DAY), TopicOptions(retention_ns=2 * DAY), False),
        (TopicOptions(retention_ns=2 * DAY), TopicOptions(retention_ns=DAY), True),
        (plain, TopicOptions(retention_bytes=65536), True),
        (plain, TopicOptions(cleanup="compact"), True),
        (plain, TopicOptions(cleanup="compact", retention_ns=DAY), True),
        (TopicOptions(cleanup="compact"), TopicOptions(cleanup="compact", retention_ns=DAY), False),
        (TopicOptions(cleanup="compact", retention_ns=DAY), TopicOptions(retention_ns=DAY), True),
        (TopicOptions(cleanup="compact,delete"), TopicOptions(cleanup="compact"), False),
    ):
        assert loses(before, after) is wanted, (before, after)
