"""What `pystream top` shows: two looks at a store, one after the other, made into rates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pystream.stats import GroupLag, PartitionStats, StoreStats, TopicStats


@dataclass(frozen=True, slots=True)
class Line:
    """A topic, or a partition, with its rates (of a second)."""

    topic: str
    partition: int | None
    """None: the whole topic."""
    in_records: float
    in_bytes: float
    """As stored."""
    out_records: float
    """By all consumer groups together, as their committed offsets say."""
    out_bytes: float
    records: int
    stored_bytes: int
    raw_bytes: int
    disk_bytes: int
    reclaimable_bytes: int
    segments: int
    unsynced_records: int
    waited_for: int
    poisoned: int
    lag_records: int | None
    """Of the group that is furthest behind; None: no group reads it."""
    lag_ns: int | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class GroupLine:
    """A consumer group in a topic, or in a partition."""

    group: str
    topic: str
    partition: int | None
    members: int
    records_per_second: float
    lag_records: int
    lag_ns: int | None
    caught_up_seconds: float | None
    """When it will have caught up, at the present rates; None: it does not."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A store between two looks."""

    path: str
    taken_ns: int
    seconds: float
    """Between the two looks; 0: there was only one, so that no rates are known."""
    lines: tuple[Line, ...]
    groups: tuple[GroupLine, ...]
    topics: int
    partitions: int
    records: int
    disk_bytes: int
    free_bytes: int
    errors: tuple[str, ...]

    @property
    def in_records(self) -> float:
        return sum(line.in_records for line in self.lines)

    @property
    def in_bytes(self) -> float:
        return sum(line.in_bytes for line in self.lines)

    @property
    def out_records(self) -> float:
        return sum(line.out_records for line in self.lines)

    @property
    def out_bytes(self) -> float:
        return sum(line.out_bytes for line in self.lines)

    def as_dict(self) -> dict[str, Any]:
        document = asdict(self)
        totals = {
            name: getattr(self, name) for name in ("in_records", "in_bytes", "out_records", "out_bytes")
        }
        return (
            {name: document[name] for name in document if name not in ("lines", "groups")}
            | totals
            | {
                "lines": document["lines"],
                "groups": document["groups"],
            }
        )


def picture(before: StoreStats | None, now: StoreStats, seconds: float, *, by_partition: bool) -> Picture:
    """What has changed from one look to the next, `seconds` later.

    A topic or partition that was not there before has no rates yet; nor has one that lost records.
    """
    lines: list[Line] = []
    groups: list[GroupLine] = []
    for topic in now.topics.values():
        old = before.topics.get(topic.name) if before is not None else None
        if old is not None and old.uuid != topic.uuid:
            old = None
        parts = [_partition(part, _same(old, part), seconds) for part in topic.partitions]
        if by_partition:
            lines += parts
            for part in topic.partitions:
                previous = _same(old, part)
                groups += _groups(
                    part, previous, topic.name, part.partition, _gained(part, previous), seconds
                )
        else:
            lines.append(_topic(topic, parts))
            gained = sum(_gained(part, _same(old, part)) for part in topic.partitions)
            groups += _groups_of_topic(topic, old, gained, seconds)
    return Picture(
        path=now.path,
        taken_ns=now.taken_ns,
        seconds=seconds if before is not None else 0.0,
        lines=tuple(lines),
        groups=tuple(groups),
        topics=len(now.topics),
        partitions=sum(len(topic.partitions) for topic in now.topics.values()),
        records=now.records,
        disk_bytes=now.disk_bytes,
        free_bytes=now.free_bytes,
        errors=now.errors,
    )


def _same(old: TopicStats | None, part: PartitionStats) -> PartitionStats | None:
    if old is None or part.partition >= len(old.partitions):
        return None
    return old.partitions[part.partition]


def _gained(now: PartitionStats, before: PartitionStats | None) -> int:
    return max(now.log_end - before.log_end, 0) if before is not None else 0


def _bytes_in(now: PartitionStats, before: PartitionStats | None, gained: int) -> float:
    if before is None or not gained:
        return 0.0
    if now.log_start == before.log_start and now.stored_bytes >= before.stored_bytes:
        return float(now.stored_bytes - before.stored_bytes)
    return gained * _record_bytes(now)  # something was deleted or compacted meanwhile


def _record_bytes(part: PartitionStats) -> float:
    return part.stored_bytes / part.records if part.records else 0.0


def _done(now: GroupLag, before: GroupLag | None, start: int) -> int:
    """Records that a group has done meanwhile. From `start` on, where it had committed nothing."""
    if before is None or now.committed is None:
        return 0
    return max(now.committed - (start if before.committed is None else before.committed), 0)


def _previous(before: PartitionStats | None, group: str) -> GroupLag | None:
    return next((lag for lag in before.groups if lag.group == group), None) if before is not None else None


def _partition(now: PartitionStats, before: PartitionStats | None, seconds: float) -> Line:
    gained = _gained(now, before)
    done = sum(_done(lag, _previous(before, lag.group), now.log_start) for lag in now.groups)
    per = 1 / seconds if seconds > 0 else 0.0
    return Line(
        topic=now.topic,
        partition=now.partition,
        in_records=gained * per,
        in_bytes=_bytes_in(now, before, gained) * per,
        out_records=done * per,
        out_bytes=done * _record_bytes(now) * per,
        records=now.records,
        stored_bytes=now.stored_bytes,
        raw_bytes=now.raw_bytes,
        disk_bytes=now.disk_bytes,
        reclaimable_bytes=now.reclaimable_bytes,
        segments=now.segments,
        unsynced_records=now.unsynced_records,
        waited_for=int(now.waited_for),
        poisoned=int(now.poisoned),
        lag_records=max((lag.lag_records for lag in now.groups), default=None),
        lag_ns=max((lag.lag_ns for lag in now.groups if lag.lag_ns is not None), default=None),
        error=now.error,
    )


_SUMMED: Final = (
    "in_records",
    "in_bytes",
    "out_records",
    "out_bytes",
    "records",
    "stored_bytes",
    "raw_bytes",
    "disk_bytes",
    "reclaimable_bytes",
    "segments",
    "unsynced_records",
    "waited_for",
    "poisoned",
)


def _topic(topic: TopicStats, parts: Sequence[Line]) -> Line:
    sums: dict[str, Any] = {name: sum(getattr(part, name) for part in parts) for name in _SUMMED}
    sums["reclaimable_bytes"] = topic.reclaimable_bytes
    lags = topic.groups
    return Line(
        topic=topic.name,
        partition=None,
        lag_records=max((lag.lag_records for lag in lags), default=None),
        lag_ns=max((lag.lag_ns for lag in lags if lag.lag_ns is not None), default=None),
        error=topic.errors[0] if topic.errors else None,
        **sums,
    )


def _groups(
    now: PartitionStats,
    before: PartitionStats | None,
    topic: str,
    partition: int | None,
    gained: int,
    seconds: float,
) -> Iterable[GroupLine]:
    for lag in now.groups:
        done = _done(lag, _previous(before, lag.group), now.log_start)
        yield _group(lag, topic, partition, done, gained, seconds)


def _groups_of_topic(
    topic: TopicStats, old: TopicStats | None, gained: int, seconds: float
) -> Iterable[GroupLine]:
    done: dict[str, int] = {}
    for part in topic.partitions:
        for lag in part.groups:
            was = _previous(_same(old, part), lag.group)
            done[lag.group] = done.get(lag.group, 0) + _done(lag, was, part.log_start)
    for lag in topic.groups:
        yield _group(lag, topic.name, None, done[lag.group], gained, seconds)


def _group(
    lag: GroupLag, topic: str, partition: int | None, done: int, gained: int, seconds: float
) -> GroupLine:
    rate = done / seconds if seconds > 0 else 0.0
    nearer = (done - gained) / seconds if seconds > 0 else 0.0
    left = 0.0 if lag.lag_records == 0 else lag.lag_records / nearer if nearer > 0 else None
    return GroupLine(lag.group, topic, partition, lag.members, rate, lag.lag_records, lag.lag_ns, left)


# ---- order ----------------------------------------------------------------------------------------------

ORDERS: Final[dict[str, Callable[[Line], Any]]] = {
    "name": lambda line: 0,
    "in": lambda line: -line.in_bytes,
    "out": lambda line: -line.out_bytes,
    "lag": lambda line: -(line.lag_records or 0),
    "disk": lambda line: -line.disk_bytes,
    "records": lambda line: -line.records,
    "unsynced": lambda line: -line.unsynced_records,
}
"""What lines can be sorted by: the most first, then by name."""


def in_order(lines: Iterable[Line], order: str) -> list[Line]:
    """The lines, sorted."""
    return sorted(lines, key=lambda line: (ORDERS[order](line), line.topic, line.partition or 0))


def groups_in_order(groups: Iterable[GroupLine]) -> list[GroupLine]:
    """Groups, those furthest behind first."""
    return sorted(groups, key=lambda each: (-each.lag_records, each.group, each.topic, each.partition or 0))
