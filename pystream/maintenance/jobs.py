"""What is done to a partition, or to a topic, in steps that each take little time."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, Final, Protocol

from pystream._native import retention
from pystream.maintenance.report import PartitionWork
from pystream.maintenance.rules import has_rules

if TYPE_CHECKING:
    from pystream._native.log import LogHandle
    from pystream.maintenance.places import Place, Tended, TopicPlace

FILES_MAX: Final = 64
"""Segments that one step removes at most."""
MAP_BYTES: Final = 64 << 20
"""Memory for the keys that one pass of compaction tells apart."""
SLICE_NS: Final = 50_000_000
"""How long one step of compaction takes."""

LIGHT: Final = "light"
HEAVY: Final = "heavy"
Steps = Generator[str, None, None]
"""Ends when all is done; gives a word for the step that comes next. HEAVY ones read and write many bytes."""


class Times(Protocol):
    """A clock to judge records by."""

    def now(self) -> int: ...


class Job:
    """Steps, and what they have done so far. One thread at a time goes on with it, not always the same."""

    def __init__(self, subject: Tended, steps: Steps, work: list[PartitionWork]) -> None:
        self.subject = subject
        self.work = work
        self.next = LIGHT
        self.is_over = False
        self.error: Exception | None = None
        """What ended it before all was done."""
        self._steps = steps
        subject.busy = True

    def step(self) -> None:
        """Do one step."""
        try:
            self.next = next(self._steps)
        except StopIteration:
            self.is_over = True
        except Exception as error:
            self.is_over, self.error = True, error

    def close(self) -> None:
        """End it, wherever it is."""
        self.is_over = True
        try:
            self._steps.close()
        except Exception as error:
            self.error = self.error or error
        self.subject.busy = False

    @property
    def did_nothing(self) -> bool:
        return all(done.is_empty for done in self.work)


def partition_job(place: Place, clock: Times, compacts: bool, bytes_per_second: int | None) -> Job:
    """All that is due in a partition: retention, rolling, compaction, left-overs.

    Args:
        compacts: False: the first two only.
        bytes_per_second: how fast compaction reads and writes; None: as fast as it can.
    """
    done = PartitionWork(place.topic.name, place.index)
    return Job(place, _tend(place, clock, compacts, bytes_per_second, done), [done])


def topic_job(topic: TopicPlace) -> Job:
    """The oldest segments of a topic's partitions, until what is left is not too much."""
    work = [PartitionWork(topic.name, place.index) for place in topic.places]
    return Job(topic, _bound(topic, work), work)


def _tend(
    place: Place, clock: Times, compacts: bool, bytes_per_second: int | None, done: PartitionWork
) -> Steps:
    handle = place.open()
    try:
        yield from _retain(handle, place, clock.now(), done)
        due = place.due
        if compacts and (due.compact or due.sweep):
            yield from _compact(handle, place, clock.now(), bytes_per_second, done)
    finally:
        place.topic.store._handle.give_back(handle)


def _retain(handle: LogHandle, place: Place, now_ns: int, done: PartitionWork) -> Steps:
    options = place.topic.options
    rule: dict[str, Any] = {}
    if options.deletes and options.retention_ns is not None:
        rule["min_timestamp"] = now_ns - options.retention_ns
    if options.deletes and options.retention_bytes is not None:
        rule["max_bytes"] = options.retention_bytes
    if options.segment_age_ns is not None and has_rules(options):
        rule["roll_before"] = now_ns - options.segment_age_ns
    while True:
        step = retention.retain(handle, **rule, max_files=FILES_MAX)
        done.segments_removed += step.files
        done.bytes_removed += step.bytes
        done.rolled += int(step.rolled)
        if step.files:
            done.log_start = step.log_start
        if not step.more:
            return
        yield LIGHT


def _compact(
    handle: LogHandle, place: Place, now_ns: int, bytes_per_second: int | None, done: PartitionWork
) -> Steps:
    from pystream._native import compact as native

    options = place.topic.options
    if place.due.sweep:
        done.swept += native.sweep_leftovers(handle)
    if not place.due.compact:
        return
    lag_ns = options.min_compaction_lag_ns
    yield HEAVY
    if handle.durable_offset < retention.segments(handle)[-1].base:
        handle.sync()  # what is not on the disk is not compacted
    found = native.compactable(handle, now_ns=now_ns, lag_ns=lag_ns)
    if not found.due and not (found.dirty_bytes and found.ratio >= options.min_cleanable_dirty_ratio):
        return
    more, cleaned = True, -1
    while more:
        yield HEAVY
        compactor = native.Compactor(
            handle,
            now_ns=now_ns,
            lag_ns=lag_ns,
            delete_retention_ns=options.delete_retention_ns,
            map_bytes=MAP_BYTES,
            bytes_per_second=bytes_per_second or 0,
        )
        try:
            while compactor.run(SLICE_NS):
                yield HEAVY
        finally:
            compactor.close()
            result = compactor.result
            done.records_removed += result.records_removed
            done.bytes_read += result.read_bytes
            done.bytes_written += result.written_bytes
        done.compactions += int(result.ran)
        more = result.ran and result.more and result.cleaned_offset > cleaned
        cleaned = result.cleaned_offset


def _bound(topic: TopicPlace, work: list[PartitionWork]) -> Steps:
    give_back = topic.store._handle.give_back
    handles: dict[int, LogHandle] = {}
    try:
        for place in topic.places:
            if place.seen is not None and place.seen.segments > 1:
                handles[place.index] = place.open()
                yield LIGHT
        while topic.bound is not None:
            stored = sum(place.stored_bytes for place in topic.places if place.index not in handles)
            ends = _victims(handles.items(), topic.bound - stored)
            if not ends:
                return
            for index, end in ends.items():
                retention.delete_before(handles[index], end)
                step = retention.retain(handles[index], max_files=FILES_MAX)
                done = work[index]
                done.segments_removed += step.files
                done.bytes_removed += step.bytes
                done.log_start = step.log_start
            yield LIGHT
    finally:
        for handle in handles.values():
            give_back(handle)


def _victims(handles: Iterable[tuple[int, LogHandle]], bound: int) -> dict[int, int]:
    """Up to which offset each partition is to go, for all together to take little more than `bound` bytes.

    The oldest finished segments go, by their largest timestamps, as many as one step removes.
    """
    total, waiting, oldest = 0, {}, []
    for index, handle in handles:
        *finished, active = retention.segments(handle)
        total += active.bytes + sum(segment.bytes for segment in finished)
        waiting[index] = iter(finished)
        oldest += [(segment.max_timestamp or 0, index, segment) for segment in finished[:1]]
        next(waiting[index], None)
    heapify(oldest)
    ends: dict[int, int] = {}
    for _ in range(FILES_MAX):
        if not oldest:
            break
        _, index, segment = heappop(oldest)
        if total - segment.bytes < bound:
            break
        total -= segment.bytes
        ends[index] = segment.end
        following = next(waiting[index], None)
        if following is not None:
            heappush(oldest, (following.max_timestamp or 0, index, following))
    return ends
