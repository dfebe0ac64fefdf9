"""Maintenance of compacted topics: in the background at a low priority, and all at once when asked."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

import pystream
from harness import eventually
from maintainers import segments
from pystream.maintenance.maintainer import Maintainer, _maintainers

SEGMENT = 65536


def update(
    topic: pystream.Topic, count: int, keys: int = 10, partition: int = 0, seed: int = 0
) -> dict[bytes, bytes]:
    """Append records of few keys; what each ends with."""
    rng = random.Random(seed)
    last = {}
    for number in range(count):
        key = b"key-%d" % rng.randrange(keys)
        last[key] = b"%d " % number + bytes(2000)
        topic.append([last[key]], keys=[key], partition=partition)
    return last


def table(topic: pystream.Topic) -> dict[bytes | None, bytes | None]:
    return {record.key: record.value for record in topic.records()}


def compacted(store: pystream.Store, **options: Any) -> pystream.Topic:
    return store.topic("t", create=True, cleanup="compact", segment_bytes=SEGMENT, **options)


def maintainer() -> Maintainer:
    (found,) = _maintainers.values()
    return found


def priorities() -> dict[str, int]:
    """The nice value of each thread that pystream has made, by name."""
    import threading

    return {
        thread.name: os.getpriority(os.PRIO_PROCESS, thread.native_id)
        for thread in threading.enumerate()
        if thread.name.startswith("pystream-") and thread.native_id is not None
    }


def test_at_once(tmp_path: Path) -> None:
    with pystream.open(tmp_path / "store", maintenance=False) as store:
        topic = compacted(store, partitions=2)
        last = [update(topic, 300, partition=index) for index in range(2)]
        report = store.maintain()
        assert [done.compactions for done in report.work] == [1, 1]
        assert report.records_removed > 400
        assert sum(1 for _ in topic.records()) < 150
        assert table(topic) == last[0] | last[1]
        assert all(done.bytes_read > done.bytes_written > 0 for done in report.work)
        assert store.maintain().did_nothing
        assert not store.verify().damage


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_not_before_it_is_worth_it(tmp_path: Path, ratio: float) -> None:
    with pystream.open(tmp_path / "store", maintenance=False) as store:
        topic = compacted(store, min_cleanable_dirty_ratio=ratio)
        update(topic, 300, keys=200)
        assert store.maintain().work[0].compactions == 1, "all of it is new"
        update(topic, 40)
        assert store.maintain().did_nothing is (ratio > 0)


def test_not_before_it_is_old_enough(tmp_path: Path) -> None:
    with pystream.open(tmp_path / "store", maintenance=False) as store:
        topic = compacted(store, min_compaction_lag="1h")
        update(topic, 200)
        assert store.maintain().did_nothing
        topic.alter(min_compaction_lag=0)
        assert store.maintain().records_removed > 100


def test_it_begins_again_when_a_tombstones_time_is_over(tmp_path: Path) -> None:
    with pystream.open(tmp_path / "store", maintenance=False) as store:
        topic = compacted(store, delete_retention=0.3)
        topic.append([None], keys=[b"gone"])
        update(topic, 200)
        store.maintain()
        assert b"gone" in table(topic)
        time.sleep(0.4)
        store.maintain()
        assert b"gone" not in table(topic)
        assert store.maintain().did_nothing


def test_in_the_background(tmp_path: Path) -> None:
    with pystream.open(tmp_path / "store", maintenance=0.02) as store:
        topic = compacted(store)
        nice = os.getpriority(os.PRIO_PROCESS, 0)
        last: dict[bytes, bytes] = {}
        seen: dict[str, int] = {}
        for turn in range(10):
            last |= update(topic, 200, seed=turn)
        eventually(lambda: sum(1 for _ in topic.records()) < 500, 30)
        seen |= priorities()
        assert table(topic) == last
        assert seen["pystream-maintenance"] == nice, "it has the GIL at times"
        assert seen["pystream-compaction"] == 19


def test_who_asks_does_not_wait_for_the_background(tmp_path: Path) -> None:
    """A compaction that would take a minute is given up, and done in the caller's thread."""
    from pystream.maintenance import shift

    with pystream.open(tmp_path / "store", maintenance=0.01) as store:
        topic = compacted(store)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shift, "BYTES_PER_SECOND", 50_000)
            last = update(topic, 600)
            eventually(lambda: "pystream-compaction" in priorities(), 30)
            began = time.monotonic()
            assert store.maintain().complete
            assert time.monotonic() - began < 10
        assert table(topic) == last
        assert sum(1 for _ in topic.records()) < 100


def test_retention_goes_on_beside_a_long_compaction(tmp_path: Path) -> None:
    from pystream.maintenance import shift

    with pystream.open(tmp_path / "store", maintenance=0.01) as store:
        topic = compacted(store)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shift, "BYTES_PER_SECOND", 50_000)
            update(topic, 600)
            eventually(lambda: "pystream-compaction" in priorities(), 30)
            other = store.topic("other", create=True, segment_bytes=SEGMENT, retention="1h")
            other.append([b"old"], timestamps=1_700_000_000_000_000_000)
            eventually(lambda: other.partition(0).beginning_offset == 1, 30)
            assert "pystream-compaction" in priorities()
        began = time.monotonic()
    assert time.monotonic() - began < 10, "closing ends it"


def test_both_ways_of_cleaning(tmp_path: Path) -> None:
    with pystream.open(tmp_path / "store", maintenance=False) as store:
        topic = store.topic(
            "t", create=True, cleanup="compact,delete", segment_bytes=SEGMENT, retention_bytes=2 * SEGMENT
        )
        last = update(topic, 400, keys=300)
        report = store.maintain()
        assert report.segments_removed > 0
        left = table(topic)
        assert left.items() <= last.items()
        assert len(segments(store, "t")) <= 5


def test_left_overs_of_a_compaction_that_was_killed(tmp_path: Path) -> None:
    with pystream.open(tmp_path / "store", maintenance=False) as store:
        topic = compacted(store)
        topic.append([b"x"], keys=[b"k"])
        stray = tmp_path / "store/topics/t/0/compact.123.tmp"
        stray.write_bytes(bytes(100))
        assert store.maintain().work[0].swept == 1
        assert not stray.exists()
