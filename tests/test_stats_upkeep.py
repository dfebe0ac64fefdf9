"""Numbers while records leave: what is said to be reclaimable goes, what is counted can be read."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pystream
from harness import LONG, T0, quick_directory

S = 10**9


def fill(partition: pystream.Partition, batches: int, timestamps: Any = None, size: int = 6000) -> None:
    for _ in range(batches):
        partition.append([bytes(size)] * 3, timestamps=timestamps)


def open_idle(path: Path) -> pystream.Store:
    """A store in which maintenance runs only when it is asked to."""
    return pystream.open(path, maintenance=False)


def test_deleted_records(tmp_path: Path) -> None:
    with open_idle(tmp_path / "s") as store:
        partition = store.topic("t", create=True, segment_bytes="64KiB").partition(0)
        fill(partition, 20, T0)
        before = partition.stats()
        for offset in (1, 7, 30, 31, 59):
            partition.delete_records(offset)
            for exact in (False, True):
                stats = partition.stats(exact=exact)
                assert (stats.log_start, stats.records) == (offset, 60 - offset)
                assert stats.oldest_timestamp_ns == T0
        store.maintain()
        after = partition.stats()
        assert after.reclaimable_bytes == 0 and after.records == 1 and after.segments == 1
        assert after.stored_bytes < before.stored_bytes - 4 * 60_000
        assert after.disk_bytes < before.disk_bytes - 3 * 60_000  # the next segment is ready, perhaps


@pytest.mark.parametrize("option", ["retention_bytes", "retention_topic_bytes"])
def test_what_is_too_much(tmp_path: Path, option: str) -> None:
    with open_idle(tmp_path / "s") as store:
        topic = store.topic("t", create=True, partitions=2, segment_bytes="64KiB", **{option: "128KiB"})
        for index in range(2):
            fill(topic.partition(index), 15, T0 + index)
        stats = topic.stats()
        assert stats.reclaimable_bytes > 65536
        store.maintain()
        after = topic.stats()
        assert after.reclaimable_bytes == 0
        assert (
            stats.reclaimable_bytes - 2 * 65536
            <= stats.disk_bytes - after.disk_bytes
            <= stats.reclaimable_bytes + 65536
        )
        assert after.records == sum(1 for _ in topic.records())


def test_what_is_too_old(tmp_path: Path) -> None:
    now = time.time_ns()
    with open_idle(tmp_path / "s") as store:
        partition = store.topic("t", create=True, segment_bytes="64KiB", retention="1h").partition(0)
        fill(partition, 10, now - 3 * 3600 * S)
        assert partition.stats().reclaimable_bytes > 3 * 60_000  # the active one, too
        fill(partition, 1, now)
        some = partition.stats()
        assert 2 * 60_000 < some.reclaimable_bytes < some.disk_bytes
        store.maintain()
        after = partition.stats()
        assert after.reclaimable_bytes == 0 and after.records == sum(1 for _ in partition) < 33
        assert after.newest_timestamp_ns == now


def test_a_compacted_topic(tmp_path: Path) -> None:
    with open_idle(tmp_path / "s") as store:
        topic = store.topic("t", create=True, segment_bytes="64KiB", cleanup="compact", compression="lz4")
        partition = topic.partition(0)
        for number in range(80):
            keys = [b"k%d" % (number % 5), b"once%d" % number]
            partition.append([b"%d " % number * 300] * 2, keys=keys, timestamps=T0 + number)
        while partition.stats().segments < 3:
            partition.append([bytes(range(256)) * 60], keys=[b"end"])
        partition.flush()
        before = partition.stats(exact=True)
        assert before.dirty_bytes > 0 and before.exact
        assert before.records == before.high_watermark == sum(1 for _ in partition)
        store.maintain()
        rough, after = partition.stats(), partition.stats(exact=True)
        assert after.dirty_bytes == rough.dirty_bytes == 0 and after.error is None
        assert after.records == sum(1 for _ in partition) < rough.records == before.records
        assert after.stored_bytes < before.stored_bytes and after.exact
        assert topic.stats(exact=True).records == after.records
        with pystream.open(store.path, "r") as reading:
            assert reading.stats(exact=True)["t"][0].records == after.records


@settings(
    max_examples=150 if LONG else 20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_random_upkeep(data: st.DataObject) -> None:
    """Whatever was appended, deleted, compacted and reopened: exact counts are what can be read, and nothing
    is left to reclaim behind maintenance."""
    cleanup = data.draw(st.sampled_from(["delete", "compact", "compact,delete"]))
    bound = data.draw(st.sampled_from([None, "64KiB", "200KiB"]))
    with quick_directory() as place:
        path = Path(place) / "s"
        store = open_idle(path)
        topic = store.topic("t", create=True, segment_bytes="64KiB", cleanup=cleanup, retention_bytes=bound)
        try:
            for action in data.draw(
                st.lists(
                    st.sampled_from(["append", "append", "big", "delete", "maintain", "reopen"]), max_size=14
                )
            ):
                partition = topic.partition(0)
                if action in ("append", "big"):
                    count = data.draw(st.integers(1, 12))
                    keys = [b"k%d" % data.draw(st.integers(0, 3)) for _ in range(count)]
                    partition.append([bytes(20 if action == "append" else 5000)] * count, keys=keys)
                elif action == "delete":
                    low, high = partition.beginning_offset, partition.end_offset
                    partition.delete_records(data.draw(st.integers(low, high)))
                elif action == "maintain":
                    partition.flush()
                    store.maintain()
                    stats = partition.stats()
                    assert stats.reclaimable_bytes == 0
                else:
                    store.close()
                    store = open_idle(path)
                    topic = store.topic("t")
                    partition = topic.partition(0)
                for exact in (True, False):
                    stats = partition.stats(exact=exact)
                    assert stats.error is None and stats.exact is exact
                    offsets = [record.offset for record in partition]
                    assert stats.log_start == partition.beginning_offset
                    assert stats.high_watermark == partition.end_offset
                    divided = (
                        any(batch.offsets[0] != offsets[0] for batch in partition.scan())
                        and stats.log_start > 0
                        and "compact" in cleanup
                    )
                    if not exact:
                        assert stats.records == stats.high_watermark - stats.log_start
                    elif not divided:
                        assert stats.records == len(offsets)
                    else:  # of a batch with gaps that the log start divides, those below are not known
                        assert abs(stats.records - len(offsets)) <= 12
        finally:
            store.close()
