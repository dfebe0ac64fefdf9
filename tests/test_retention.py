"""Old records leave: by hand, by age, by size; for readers of every kind, in this process and others."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import pystream
from harness import LONG, T0, Life
from pystream._native.retention import delete_before

SECOND = 10**9


def open_store(path: Path | str, **options: Any) -> pystream.Store:
    """Without maintenance of its own: what goes, goes by the test."""
    return pystream.open(path, **({} if options.get("mode") == "r" else {"maintenance": False}), **options)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


@pytest.fixture
def store(path: Path) -> Iterator[pystream.Store]:
    with open_store(path) as store:
        yield store


def fill(store: pystream.Store, batches: int = 40, **options: Any) -> pystream.Partition:
    """Batches of ten records of 600 bytes, a second apart; some ten to a segment."""
    topic = store.topic("t", create=True, segment_bytes="64KiB", **options)
    for number in range(batches):
        append(topic.partition(0), number)
    return topic.partition(0)


def append(partition: pystream.Partition, number: int) -> int:
    values = [b"%06d" % (number * 10 + i) * 100 for i in range(10)]
    return partition.append(values, timestamps=T0 + number * SECOND)


@pytest.fixture
def partition(store: pystream.Store) -> pystream.Partition:
    return fill(store)


def files(path: Path, suffix: str = ".log") -> list[str]:
    return sorted(name for name in os.listdir(path / "topics" / "t" / "0") if name.endswith(suffix))


def offsets(partition: pystream.Partition) -> list[int]:
    found = []
    for record in partition:
        assert record.value is not None and record.value[:6] == b"%06d" % record.offset
        found.append(record.offset)
    return found


# ---- by hand ----------------------------------------------------------------------------------------


def test_delete_records(partition: pystream.Partition, path: Path) -> None:
    before = len(files(path))
    assert partition.delete_records(0) == 0
    assert partition.delete_records(195) == 195
    assert partition.delete_records(190) == 195, "never back"
    assert (partition.beginning_offset, partition.end_offset) == (195, 400)
    assert len(files(path)) < before, "as far as whole segments go"
    assert len(files(path, ".index")) == len(files(path))
    assert offsets(partition) == list(range(195, 400))
    assert partition[195].offset == 195 and partition.tail(1000)[0].offset == 195
    with pytest.raises(pystream.OffsetOutOfRangeError, match="it holds 195 up to, not including, 400"):
        partition[194]
    with pytest.raises(pystream.OffsetOutOfRangeError):
        partition.records(194)
    assert partition.delete_records(400) == 400
    assert offsets(partition) == [] and partition.tail(3) == []
    assert append(partition, 40) == 400
    assert offsets(partition) == list(range(400, 410))


def test_limits(partition: pystream.Partition) -> None:
    for bad in (-1, 401, 2**63, -(2**63) - 1):
        with pytest.raises(pystream.OffsetOutOfRangeError) as caught:
            partition.delete_records(bad)
        assert caught.value.topic == "t" and caught.value.partition == 0
    for wrong in ("1", 1.0, None, True, datetime.now(UTC)):
        with pytest.raises(TypeError, match="before must be an offset"):
            partition.delete_records(wrong)  # type: ignore[arg-type]
    assert partition.beginning_offset == 0
    with pytest.raises(ValueError, match="max_bytes"):
        partition._log().retain(max_bytes=-1)


def test_truncate_before(partition: pystream.Partition) -> None:
    assert partition.truncate_before("earliest") == 0
    assert partition.truncate_before(7) == 7
    assert partition.truncate_before(np.datetime64(T0 + 12 * SECOND, "ns")) == 120
    assert partition.truncate_before(datetime.fromtimestamp(T0 / 1e9 + 20, UTC)) in (200, 210)
    with pytest.raises(TypeError):
        partition.truncate_before(1.5)  # type: ignore[arg-type]
    with pytest.raises(pystream.OptionError):
        partition.truncate_before("newest")
    assert partition.truncate_before(datetime(2200, 1, 1, tzinfo=UTC)) == 400, "all of them are older"
    append(partition, 40)
    assert partition.truncate_before("latest") == 410


@pytest.mark.parametrize("durability", ["interval", "sync", "none"])
def test_it_stays_deleted(path: Path, durability: str) -> None:
    for turn in range(3):
        with open_store(path) as store:
            partition = fill(store, durability=durability)
            partition.delete_records(partition.beginning_offset + 95)
        with open_store(path) as store:
            partition = store.topic("t").partition(0)
            start, end = 95 * (turn + 1), 400 * (turn + 1)
            assert (partition.beginning_offset, partition.end_offset) == (start, end)
            assert [record.offset for record in partition] == list(range(start, end))
            assert partition.verify().sound
        assert pystream.verify(path).sound


def test_a_moment_before_the_log_start(store: pystream.Store, path: Path) -> None:
    """Records that are gone, but for their file, are passed over; a later moment finds what it did."""
    partition = fill(store)
    for start in (5, 10, 204, 399):  # in a batch, between two, in the middle of a segment, before the last
        partition.delete_records(start)
        assert partition.offset_for_time(T0) == start
        assert next(partition.records(datetime(1980, 1, 1, tzinfo=UTC))).offset == start
        assert partition.truncate_before(datetime(1980, 1, 1, tzinfo=UTC)) == start
        assert partition.offset_for_time(T0 + 39 * SECOND) == max(start, 390)
        with open_store(path, mode="r") as reading:
            assert reading["t"].partition(0).offset_for_time(T0) == start
    partition.delete_records(400)
    assert partition.offset_for_time(T0) is None


def test_the_partitions_behind_begin_at_their_log_start(store: pystream.Store) -> None:
    """What "earliest" and a moment stand for moves along while others are read; an offset stays."""
    topic = store.topic("t", create=True, partitions=2)
    for index in range(2):
        append(topic.partition(index), 0)
    moment = datetime(1980, 1, 1, tzinfo=UTC)
    ways = [topic.records(), topic.records(moment), topic.records({0: 0}), topic.records({1: moment})]
    fixed = topic.records({1: 3})
    batches = topic.batches()
    for one in (*ways, fixed, batches):
        next(one)
    topic.partition(1).delete_records(4)
    for one in ways:
        assert [record.offset for record in one if record.partition] == list(range(4, 10))
    assert [len(batch) for batch in batches] == [6]
    with pytest.raises(pystream.OffsetOutOfRangeError, match="below the log start, which is 4"):
        list(fixed)


def test_readers_only(path: Path) -> None:
    with open_store(path) as store:
        partition = fill(store)
        with open_store(path, mode="r") as reading:
            seen = reading.topic("t").partition(0)
            scan = seen.scan()
            first = next(scan)
            partition.delete_records(205)
            assert seen.beginning_offset == 205
            with pytest.raises(pystream.OffsetOutOfRangeError, match="log start, which is 205"):
                list(scan)
            assert bytes(first.values[9])[:6] == b"000009"
            assert offsets(seen) == list(range(205, 400))
            with pytest.raises(pystream.ReadOnlyError):
                seen.delete_records(300)
            with pytest.raises(pystream.ReadOnlyError):
                seen._log().retain()
    with open_store(path, mode="r") as reading:
        assert offsets(reading.topic("t").partition(0)) == list(range(205, 400))


def test_deleted_topic(store: pystream.Store, partition: pystream.Partition) -> None:
    store.delete_topic("t")
    with pytest.raises(pystream.TopicDeletedError):
        partition.delete_records(10)


# ---- by rule ----------------------------------------------------------------------------------------


def test_segments(partition: pystream.Partition, path: Path) -> None:
    segments = partition._log().segments()
    assert len(segments) == len(files(path)) >= 4
    assert [f"{one.base:020}.log" for one in segments] == files(path)
    for one, following in pairwise(segments):
        assert one.end == following.base
        assert one.max_timestamp == T0 + (one.end // 10 - 1) * SECOND
        assert one.bytes == os.stat(path / "topics/t/0" / f"{one.base:020}.log").st_size
    assert segments[-1].end == 400 and segments[-1].max_timestamp == T0 + 39 * SECOND
    partition.delete_records(segments[1].base + 1)
    assert partition._log().segments() == segments[1:]


def test_without_timestamps_a_segment_is_as_old_as_its_file(store: pystream.Store, path: Path) -> None:
    topic = store.topic("t", create=True, segment_bytes="64KiB")
    begun = time.time_ns()
    for _ in range(40):
        topic.append([bytes(600)] * 10, timestamps=np.full(10, np.iinfo("i8").min))
    log = topic.partition(0)._log()
    oldest = path / "topics/t/0" / files(path)[0]
    assert log.segments()[0].max_timestamp == os.stat(oldest).st_mtime_ns >= begun - SECOND
    assert log.retain(min_timestamp=begun - SECOND).files == 0
    assert log.retain(min_timestamp=time.time_ns() + SECOND).log_start == 400


# ---- those who read meanwhile -----------------------------------------------------------------------


def test_what_was_lent_stays(store: pystream.Store) -> None:
    topic = store.topic("a", create=True, dtype=[("n", "i8"), ("x", "f8")], segment_bytes="64KiB")
    for first in range(0, 40_000, 1000):
        rows = np.zeros(1000, topic.options.dtype)
        rows["n"] = np.arange(first, first + 1000)
        topic.append(rows)
    partition = topic.partition(0)
    kept = {
        "array": next(partition.arrays()),
        "batch": next(partition.scan()),
        "arrow": pa.record_batch(next(partition.scan())),
        "view": next(partition.scan()).values[3],
        "record": partition[3],
    }
    log = partition._log()
    assert log.retain(max_bytes=0).files >= 3
    pinned = log.stats()["pinned_bytes"]
    assert 0 < pinned <= log.stats()["lent_bytes"]
    assert kept["array"]["n"].tolist() == list(range(1000))
    assert kept["batch"].array["n"][999] == 999
    assert kept["arrow"].num_rows == 1000
    assert bytes(kept["view"][:8]) == (3).to_bytes(8, "little")
    assert len(list(partition.scan())) > 0
    for name in ("array", "batch", "arrow"):
        del kept[name]
        assert log.stats()["pinned_bytes"] == pinned
    kept.clear()
    assert log.stats()["pinned_bytes"] == 0


def deleted_files(path: Path) -> set[str]:
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        names = {line.split(maxsplit=5)[-1].strip() for line in maps}
    return {name for name in names if name.startswith(str(path)) and name.endswith(".log (deleted)")}


def test_space_is_given_back(path: Path) -> None:
    """By a process that only reads, and that has every segment mapped."""
    with open_store(path) as store:
        partition = fill(store)
        with open_store(path, mode="r") as reading:
            seen = reading.topic("t").partition(0)
            assert len(offsets(seen)) == 400
            partition._log().retain(max_bytes=0)
            assert offsets(seen)[-1] == 399
            assert deleted_files(path) == set()
            assert seen._log().stats()["segments"] == 1


def test_waiting_readers_give_space_back(path: Path) -> None:
    with open_store(path) as store:
        partition = fill(store)
        assert len(offsets(partition)) == 400
        life = Life(retain_elsewhere, str(path))
        assert life.receive() >= 3
        assert life.end() == 0
        assert deleted_files(path) != set()
        assert not partition.wait(10_000, timeout=0.05)
        assert deleted_files(path) == set()


def test_consumers_that_wait_give_space_back(path: Path) -> None:
    with open_store(path) as store:
        partition = fill(store)
        with store.consumer("t") as consumer:
            while consumer.position(("t", 0)) < 400:
                consumer.poll(timeout=1)
            life = Life(retain_elsewhere, str(path))
            assert life.receive() >= 3
            assert life.end() == 0
            assert deleted_files(path) != set()
            assert consumer.poll(timeout=0.05) is None
            assert deleted_files(path) == set()
        assert partition.beginning_offset > 0


def test_readers_that_go_on_give_space_back(path: Path) -> None:
    """At the latest where they come to another segment."""
    with open_store(path) as store:
        partition = fill(store)
        assert len(offsets(partition)) == 400
        life = Life(retain_elsewhere, str(path), 20)
        assert life.receive() >= 3
        assert life.end() == 0
        assert deleted_files(path) != set()
        assert sum(len(batch) for batch in partition.scan(400)) == 200
        assert deleted_files(path) == set()


def retain_elsewhere(channel: Any, path: str, batches: int = 0) -> None:
    """Remove what is finished, and go on writing."""
    with open_store(path) as store:
        partition = store.topic("t").partition(0)
        channel.send(partition._log().retain(max_bytes=0).files)
        for number in range(40, 40 + batches):
            append(partition, number)


def test_every_way_of_reading_says_out_of_range(partition: pystream.Partition, store: pystream.Store) -> None:
    """What stands in a place that is deleted: an error of its own, never damage, never a silence."""
    topic = store.topic("t")
    ways: list[Callable[[], Iterator[Any]]] = [
        lambda: partition.records(),
        lambda: partition.scan(),
        lambda: topic.records(),
        lambda: topic.batches(),
    ]
    begun = [way() for way in ways]
    for one in begun:
        next(one)
    stream = pa.RecordBatchReader.from_stream(topic)
    stream.read_next_batch()
    partition._log().retain(max_bytes=0)
    for one in begun:
        with pytest.raises(pystream.OffsetOutOfRangeError, match="below the log start"):
            for _ in one:
                pass
    with pytest.raises((pa.ArrowException, OSError), match="below the log start"):
        stream.read_all()
    assert len(list(topic.records())) == partition.end_offset - partition.beginning_offset
    assert partition.offset_for_time(T0) == partition.beginning_offset


def test_readers_race_retention(path: Path) -> None:
    """Readers of all kinds, in this process, while segments go under them: whatever they get is right."""
    with open_store(path) as store:
        partition = fill(store)
        stop = threading.Event()
        wrong: list[BaseException] = []

        def guarded(work: Callable[[], object]) -> None:
            while not stop.is_set() and not wrong:
                try:
                    work()
                except pystream.OffsetOutOfRangeError:
                    pass
                except BaseException as error:
                    wrong.append(error)

        def write() -> None:
            append(partition, partition.end_offset // 10)
            partition._log().retain(max_bytes=150_000, max_files=2)

        works = [
            write,
            lambda: offsets(partition),
            lambda: partition.tail(50),
            lambda: partition.offset_for_time(T0 + partition.beginning_offset // 10 * SECOND + 1),
            lambda: partition[partition.beginning_offset],
            lambda: partition._log().segments(),
        ]
        threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        time.sleep(6 if LONG else 2)
        stop.set()
        for thread in threads:
            thread.join()
        assert not wrong, wrong
        assert partition.beginning_offset > 400, "nothing went"
        assert store.verify().sound


# ---- consumers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["earliest", "latest", "raise", None])
def test_a_consumer_falls_off(
    partition: pystream.Partition, store: pystream.Store, caplog: pytest.LogCaptureFixture, where: Any
) -> None:
    with store.consumer("t", out_of_range=where) as consumer:
        place = ("t", 0)
        records = iter(consumer)
        assert next(records).offset == 0
        partition.delete_records(205)
        # What is in hand already is given out; then what is gone is passed over.
        assert [next(records).offset for _ in range(9)] == list(range(1, 10))
        caplog.set_level(logging.WARNING)
        if where == "raise":
            with pytest.raises(pystream.OffsetOutOfRangeError) as caught:
                next(records)
            assert "its place in 't'/0 was 10, but the log starts at 205" in str(caught.value)
            assert (caught.value.topic, caught.value.partition, caught.value.offset) == ("t", 0, 10)
            assert not caplog.records
        if where == "latest":
            assert consumer.poll(0) is None
            assert consumer.position(place) == 400 and consumer.skipped == 390
            append(partition, 40)
            assert next(iter(consumer)).offset == 400
        else:
            assert next(iter(consumer)).offset == 205
            assert consumer.skipped == 195
        if where != "raise":
            (warning,) = caplog.records
            assert warning.name == "pystream.retention"
            assert "fell off the log" in warning.getMessage() and "195 offsets" in warning.getMessage()


def test_out_of_range_is_checked(store: pystream.Store, partition: pystream.Partition) -> None:
    with pytest.raises(pystream.OptionError, match="out_of_range"):
        store.consumer("t", out_of_range="oldest")  # type: ignore[arg-type]


def test_a_group_comes_too_late(
    partition: pystream.Partition, store: pystream.Store, caplog: pytest.LogCaptureFixture
) -> None:
    with store.consumer("t", group="g") as consumer:
        assert [record.offset for _, record in zip(range(20), consumer, strict=False)] == list(range(20))
    partition.delete_records(205)
    with store.consumer("t", group="g", out_of_range="raise") as consumer:
        with pytest.raises(pystream.OffsetOutOfRangeError, match="the log starts at 205"):
            consumer.poll()
        batch = consumer.poll()
        assert batch is not None and batch.base_offset <= 205 and batch.offsets[0] == 205
    partition.delete_records(305)
    with store.consumer("t", group="g") as consumer:
        assert next(iter(consumer)).offset == 305
    assert "fell off the log" in caplog.text


@pytest.mark.parametrize("policy", ["earliest", "latest", "raise"])
def test_back_to_a_committed_offset_that_was_deleted(
    partition: pystream.Partition, store: pystream.Store, policy: Any
) -> None:
    with store.consumer("t", group="g", out_of_range=policy, auto_commit=False) as consumer:
        consumer.commit({("t", 0): 20})
        partition.delete_records(205)
        if policy == "raise":
            with pytest.raises(pystream.OffsetOutOfRangeError, match="the log starts at 205") as caught:
                consumer.seek_to_committed()
            assert caught.value.offset == 20
        else:
            consumer.seek_to_committed()
        place = 400 if policy == "latest" else 205
        assert (consumer.position(("t", 0)), consumer.skipped) == (place, place - 20)


def test_a_consumer_falls_off_in_asyncio(partition: pystream.Partition, store: pystream.Store) -> None:
    async def run() -> list[int]:
        found = []
        async with store.async_consumer("t", timeout=1) as consumer:
            async for record in consumer:
                found.append(record.offset)
                if record.offset == 5:
                    partition.delete_records(395)
                if record.offset == 399:
                    return found
        return found

    assert asyncio.run(run()) == [*range(10), *range(395, 400)]


# ---- what stays behind ------------------------------------------------------------------------------


def test_what_is_left_below_the_log_start_is_no_damage(path: Path) -> None:
    with open_store(path) as store:
        log = fill(store)._log()
        delete_before(log, 300)
        assert log.retain(max_files=2).more
        left = files(path)
        backup = path.parent / "b"
        assert store.backup(backup)
        assert store.verify().sound
    os.unlink(path / "topics/t/0" / left[0])  # as a power failure may leave them, in any order
    os.unlink(path / "topics/t/0" / files(path, ".index")[0])
    assert pystream.verify(path).sound
    assert [one.log_start for one in _heads(path)] == [300]
    with open_store(path) as store:
        partition = store.topic("t").partition(0)
        assert offsets(partition) == list(range(300, 400))
        assert not partition._log().retain().more
        assert len(files(path)) == len(files(path, ".index")) == len(partition._log().segments())
        assert store.verify().sound
    with open_store(backup) as store:
        partition = store.topic("t").partition(0)
        assert (partition.beginning_offset, partition.end_offset) == (300, 400)
        assert offsets(partition) == list(range(300, 400))
        assert store.verify().sound
    assert files(backup)[0] >= left[1], "only what is kept is copied"


def _heads(path: Path) -> list[Any]:
    from pystream.inspection import read_head

    return [read_head(path / "topics/t/0/head")]


def test_backup_and_verify_beside_retention(path: Path) -> None:
    with open_store(path) as store:
        partition = fill(store)
        stop = threading.Event()

        def churn() -> None:
            while not stop.is_set():
                append(partition, partition.end_offset // 10)
                with suppress(pystream.LockTimeoutError):  # a backup keeps it off for as long as it copies
                    partition._log().retain(max_bytes=200_000)

        thread = threading.Thread(target=churn)
        thread.start()
        try:
            for turn in range(10 if LONG else 3):
                report = store.verify()
                assert report.sound, report.findings
                where = path.parent / f"b{turn}"
                store.backup(where)
                with open_store(where) as copy:
                    copied = copy.topic("t").partition(0)
                    assert offsets(copied) == list(range(copied.beginning_offset, copied.end_offset))
                    assert copy.verify().sound
        finally:
            stop.set()
            thread.join()
