"""The limits that many partitions run into, and what each takes of them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

import pystream
from maintainers import VALUE_BYTES, fill, segments


def held() -> tuple[int, int]:
    """Maps and descriptors of this process."""
    with open("/proc/self/maps", "rb") as maps:
        return sum(1 for _ in maps), len(os.listdir("/proc/self/fd"))


def test_a_refused_map_is_told_with_its_limit(tmp_path: Path) -> None:
    """Of that call; what was open goes on, and the call works once there is room."""
    with pystream.open(tmp_path / "s", maintenance=False) as store:
        topic = store.topic("t", create=True, partitions=2)
        topic.append([b"before"], partition=0)
        store._handle.arm(f"map:1:errno={errno.ENOMEM}:1000")
        with pytest.raises(pystream.StorageError) as caught:
            topic.append([b"refused"], partition=1)
        assert caught.value.errno == errno.ENOMEM
        assert "vm.max_map_count" in str(caught.value)
        assert topic.append([b"goes on"], partition=0) == 1
        store._handle.arm(None)
        assert topic.append([b"after"], partition=1) == 0


def test_what_a_partition_takes(tmp_path: Path) -> None:
    count = 50
    with pystream.open(tmp_path / "s", maintenance=False) as store:
        topic = store.topic("t", create=True, partitions=count, durability="none")
        topic.append([b"first"], partition=0)
        maps, files = held()
        for index in range(1, count):
            topic.append([b"x"], partition=index)
        more_maps, more_files = held()
        assert more_maps - maps <= 4 * (count - 1)
        assert more_files - files <= count - 1
    with pystream.open(tmp_path / "s", "r") as store:
        topic = store.topic("t")
        list(topic.partition(0).records())
        maps, files = held()
        for index in range(1, count):
            assert len(list(topic.partition(index).records())) == 1
        more_maps, more_files = held()
        assert more_maps - maps <= 4 * (count - 1)
        assert more_files - files <= count - 1


def test_looking_opens_nothing(tmp_path: Path) -> None:
    with pystream.open(tmp_path / "s", maintenance=False) as store:
        topic = store.topic("t", create=True, partitions=50, retention="7d", durability="none")
        for index in range(50):
            topic.append([b"x"], partition=index)
    with pystream.open(tmp_path / "s", maintenance=False) as store:
        store.stats(), store.maintain()  # what both import is there after that
        before = held()
        assert store.stats().records == 50
        assert store.topic("t").stats().segments == 50
        assert store.maintain().partitions_opened == 0
        assert store._handle.open_logs() == []
        assert held() <= (before[0] + 2, before[1])


def test_retention_reads_a_segment_once(tmp_path: Path) -> None:
    """What it knows of a finished one stays known while others go: else each of very many would be read again
    for every new one. Here one says something else, once it is known."""
    with pystream.open(tmp_path / "s", maintenance=False) as store:
        topic = store.topic("t", create=True, segment_bytes="64KiB", retention_bytes=10 * VALUE_BYTES)
        fill(topic, 20)
        store.maintain()
        before = segments(store, "t")
        os.truncate(f"{store.path}/topics/t/0/{before[5]:020}.log", 4096)
        fill(topic, 3)
        assert store.maintain().segments_removed == 3
        assert segments(store, "t") == [*before[3:], 20, 21, 22]
