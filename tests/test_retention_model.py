"""Retention, compared with a list: appends, deletions, rules and reopenings in any order."""

from __future__ import annotations

import os
import time
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import pystream
from harness import LONG, T0, quick_directory
from pystream._native.retention import SegmentFacts

SECOND = 10**9


def open_store(path: object, **options: Any) -> pystream.Store:
    """Without maintenance of its own: what goes, goes by the test."""
    return pystream.open(
        str(path), **({} if options.get("mode") == "r" else {"maintenance": False}), **options
    )


class Machine(RuleBasedStateMachine):
    """Appends, deletions, rules and reopenings, beside a list of what was appended."""

    @initialize(
        durability=st.sampled_from(["interval", "sync", "none"]),
        compression=st.sampled_from([None, "lz4"]),
        io=st.sampled_from(["mmap", "pwrite"]),
    )
    def begin(self, durability: str, compression: str | None, io: str) -> None:
        self.directory = quick_directory()
        self.path = self.directory.__enter__() / "s"
        self.io = io
        self.reader: pystream.Store | None = None
        self.open()
        self.store.topic(
            "t", create=True, segment_bytes=65536, durability=durability, compression=compression
        )
        self.times: list[int] = []
        self.start = 0

    def open(self) -> None:
        self.store = open_store(self.path, io=self.io)

    @property
    def partition(self) -> pystream.Partition:
        return self.store.topic("t").partition(0)

    @rule(count=st.integers(1, 40), size=st.integers(0, 1500), moment=st.integers(-50, 50))
    def append(self, count: int, size: int, moment: int) -> None:
        end = len(self.times)
        values = [b"%d:" % (end + i) + os.urandom(size) for i in range(count)]
        stamps = T0 + moment + np.arange(count) % 7
        assert self.partition.append(values, timestamps=stamps) == end
        self.times += stamps.tolist()

    @precondition(lambda self: self.times)
    @rule(data=st.data())
    def delete_records(self, data: st.DataObject) -> None:
        before = data.draw(st.integers(0, len(self.times)))
        self.start = max(self.start, before)
        assert self.partition.delete_records(before) == self.start

    def facts(self) -> list[SegmentFacts]:
        segments = self.partition._log().segments()
        assert segments[-1].end == len(self.times) and segments[0].base <= self.start
        for one, following in pairwise(segments):
            assert one.end == following.base > self.start
        for one in segments:
            if one.end > one.base:
                assert one.max_timestamp == max(self.times[one.base : one.end])
        return segments

    @rule(moment=st.integers(-60, 60), files=st.integers(1, 5))
    def by_age(self, moment: int, files: int) -> None:
        segments = self.facts()
        for one in segments:
            if one.end == one.base or one.max_timestamp >= T0 + moment:
                break
            self.start = max(self.start, one.end)
        done = self.partition._log().retain(min_timestamp=T0 + moment, max_files=files)
        last = segments[-1]
        assert done.rolled == (last.end > last.base and last.max_timestamp < T0 + moment)
        assert done.log_start == self.start and done.files <= files

    @rule(size=st.integers(0, 400_000), files=st.integers(1, 5))
    def by_size(self, size: int, files: int) -> None:
        segments = self.facts()
        total = sum(one.bytes for one in segments)
        for one in segments[:-1]:
            total -= one.bytes
            if total < size:
                break
            self.start = max(self.start, one.end)
        done = self.partition._log().retain(max_bytes=size, max_files=files)
        assert done.log_start == self.start and done.files <= files and not done.rolled

    @rule()
    def roll(self) -> None:
        segments = self.facts()
        done = self.partition._log().retain(roll_before=time.time_ns() + 3600 * SECOND)
        assert done.rolled == (segments[-1].end > segments[-1].base)

    @rule()
    def clear(self) -> None:
        while self.partition._log().retain().more:
            pass
        names = os.listdir(self.path / "topics/t/0")
        assert sum(name.endswith(".log") for name in names) == len(self.facts())

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.open()

    @rule()
    def look(self) -> None:
        """Somebody who only reads sees the same, whenever he came."""
        if self.reader is None:
            self.reader = open_store(self.path, mode="r")
        self.check(self.reader.topic("t").partition(0))

    @rule()
    def leave(self) -> None:
        if self.reader is not None:
            self.reader.close()
            self.reader = None

    def check(self, partition: pystream.Partition) -> None:
        assert (partition.beginning_offset, partition.end_offset) == (self.start, len(self.times))
        found = [(record.offset, record.timestamp, record.value) for record in partition]
        assert [offset for offset, _, _ in found] == list(range(self.start, len(self.times)))
        assert [moment for _, moment, _ in found] == self.times[self.start :]
        assert all(value is not None and value.startswith(b"%d:" % offset) for offset, _, value in found)

    @invariant()
    def nothing_else_is_gone(self) -> None:
        if hasattr(self, "times"):
            self.check(self.partition)

    def teardown(self) -> None:
        if not hasattr(self, "times"):
            return
        try:
            assert self.store.verify().sound
            self.leave()
            self.store.close()
        finally:
            self.directory.__exit__(None, None, None)


TestModel = Machine.TestCase
TestModel.settings = settings(
    max_examples=200 if LONG else 15,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
