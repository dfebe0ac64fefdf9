"""Random operations on a store, with backups in between: each is what was there at that moment."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import backups
import pystream
from backups import DTYPE, backup_of, content, leftovers
from harness import LONG, Life, quick_directory

KINDS: tuple[dict[str, Any], ...] = (
    {"segment_bytes": 65536},
    {"segment_bytes": 65536, "compression": "lz4", "partitions": 3},
    {"dtype": DTYPE, "durability": "sync"},
)

OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 2), st.integers(1, 30)),
        st.tuples(st.just("roll"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("delete"), st.integers(0, 2), st.just(0)),
        st.tuples(st.just("consume"), st.integers(0, 2), st.integers(1, 40)),
        st.tuples(st.just("reopen"), st.just(0), st.just(0)),
        st.tuples(st.just("tear"), st.just(0), st.integers(1, 500)),
        st.tuples(st.just("repair"), st.just(0), st.just(0)),
        st.tuples(st.just("backup"), st.sampled_from([0, 0, 0, 1]), st.just(0)),
        st.tuples(st.just("restore"), st.just(0), st.just(0)),
    ),
    min_size=3,
    max_size=25,
)


class Machine:
    """A store, and what is done to it."""

    def __init__(self, here: Path) -> None:
        self.here = here
        self.path = here / "s"
        self.store = pystream.open(self.path)
        self.backups: dict[Path, Any] = {}
        self.number = 0

    def topic(self, kind: int) -> pystream.Topic:
        return self.store.topic(f"t{kind}", create=True, **KINDS[kind])

    def append(self, kind: int, count: int) -> None:
        topic = self.topic(kind)
        partition = count % topic.partitions
        self.number += 1
        if kind == 2:
            topic.append(np.array([(self.number, i) for i in range(count)], dtype=DTYPE), partition=partition)
        else:
            values = [b"%d:%d" % (self.number, i) + bytes(count * 30) for i in range(count)]
            topic.append(values, partition=partition, keys=[b"k", None] * (count // 2) + [b""] * (count % 2))

    def roll(self, kind: int, _: int) -> None:
        for _ in range(3):
            self.topic(kind).append([bytes(30_000)], partition=0)

    def delete(self, kind: int, _: int) -> None:
        if f"t{kind}" in self.store:
            self.store.delete_topic(f"t{kind}")

    def consume(self, kind: int, count: int) -> None:
        with self.store.consumer(self.topic(kind).name, group=f"g{kind}", timeout=0) as consumer:
            for _, _ in zip(range(count), consumer, strict=False):
                pass

    def reopen(self, *_: int) -> None:
        self.store.close()
        self.store = pystream.open(self.path)

    def tear(self, _: int, count: int) -> None:
        """What a power failure may leave behind the last batch: recovery cuts it off."""
        self.append(0, 1)
        self.store.close()
        log = max((self.path / "topics/t0/0").glob("*.log"))
        data = log.read_bytes().rstrip(b"\0")
        end = len(data) + -len(data) % 64
        with open(log, "r+b") as file:
            file.seek(min(end + 128, log.stat().st_size - 8))
            file.write(b"torn"[: count % 4 + 1])
        self.store = pystream.open(self.path)

    def repair(self, *_: int) -> None:
        """One batch becomes a gap."""
        self.append(0, 2)
        self.store.close()
        log = max((self.path / "topics/t0/0").glob("*.log"))
        data = bytearray(log.read_bytes())
        place = data.find(b"%d:1" % self.number)
        if place >= 0:
            data[place] ^= 1
            with open(log, "r+b") as file:
                file.write(data)
            assert pystream.repair(self.path, execute=True).needed
        self.store = pystream.open(self.path)

    def backup(self, which: int, _: int) -> None:
        path = self.here / f"b{which}"
        made = self.store.backup(path)
        assert made.incremental == (path in self.backups)
        self.backups[path] = content(self.store)
        for other, expected in self.backups.items():
            assert backup_of(other) == expected
        assert made.records == sum(map(len, self.backups[path].values()))
        with pystream.open(path, "r") as copy:
            for name in copy.groups():
                mine = {
                    one.topic + str(one.partition): one
                    for one in self.store.group(name).describe().partitions
                }
                for one in copy.group(name).describe().partitions:
                    assert one.committed == mine[one.topic + str(one.partition)].committed
                    assert (one.committed or 0) <= one.end_offset

    def restore(self, *_: int) -> None:
        """A copy of the backup takes the store's place."""
        for path in sorted(self.backups)[:1]:
            self.store.close()
            shutil.rmtree(self.path)
            shutil.copytree(path, self.path)
            self.store = pystream.open(self.path)
            assert content(self.store) == self.backups[path]


@settings(max_examples=400 if LONG else 60, deadline=None)
@given(OPERATIONS)
def test_random_operations(operations: list[tuple[str, int, int]]) -> None:
    with quick_directory() as here:
        machine = Machine(here)
        try:
            for name, one, other in [*operations, ("backup", 0, 0), ("append", 0, 5), ("backup", 0, 0)]:
                getattr(machine, name)(one, other)
        finally:
            machine.store.close()
        assert leftovers(here) == []


@pytest.mark.parametrize(
    "point", ["append.header", "append.log_end", "roll.sealed", "roll.created", "roll.moved"]
)
def test_after_a_death(point: str) -> None:
    """A writer died; the backup is made by who recovers what he left, and by who only reads."""
    with quick_directory() as here:
        with pystream.open(here / "s") as store:
            topic = store.topic("t", create=True, segment_bytes=65536)
            topic.append([bytes(9000)] * 2)
        life = Life(backups.append_until_dead, str(here / "s"), fault=f"{point}:2:kill")
        assert life.end() < 0
        with pystream.open(here / "s", "r") as store:
            store.backup(here / "b")
            assert backup_of(here / "b") == content(store)
        with pystream.open(here / "s") as store:
            store.backup(here / "b")
            assert backup_of(here / "b") == content(store)
            store["t"].append([b"on"])
            store.backup(here / "b")
            assert backup_of(here / "b") == content(store)
