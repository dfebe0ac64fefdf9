"""What is in a store, and what goes on in it, as numbers: of the store, its topics, its partitions.

They are found from files, as they are at that moment: no partition is opened for it, nothing is written, and
a store of ten thousand partitions takes a fraction of a second. Counters of producers and consumers are
theirs alone: what one object has done since it was made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar
from uuid import UUID

__all__ = [
    "ConsumerStats",
    "GroupLag",
    "PartitionStats",
    "ProcessStats",
    "ProducerStats",
    "StoreStats",
    "TopicStats",
]


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, UUID) else value


class _Document:
    """What can be turned into a dict of plain values."""

    __slots__ = ()
    _derived: ClassVar[tuple[str, ...]] = ()

    def to_dict(self) -> dict[str, Any]:
        """All of it as a dict of numbers, texts, lists and dicts, for JSON."""
        names = [field.name for field in fields(self)]  # type: ignore[arg-type]
        return {name: _plain(getattr(self, name)) for name in (*names, *self._derived)}


@dataclass(frozen=True, slots=True)
class ProcessStats(_Document):
    """What this process has done with a partition since it opened it (counters, never falling), and holds."""

    appends: int
    """Batches appended."""
    appended_records: int
    appended_bytes: int
    """Of those batches, as stored."""
    syncs: int
    rolls: int
    """Segments begun."""
    mends: int
    """Appends of a writer that died, finished or undone."""
    cuts: int
    """Torn tails cut off."""
    wakes: int
    """Calls to the kernel because somebody waited for an append."""
    sync_lag_max_ns: int
    """The longest that a record has waited for the interval sync that covered it, in nanoseconds."""
    lent_segments: int
    """Segments that readers, batches, arrays or memoryviews of this process hold."""
    lent_bytes: int
    """Of their files: deleting them gives no space back before they are let go."""
    pinned_bytes: int
    """Of those, what is of files that were deleted or replaced already."""


@dataclass(frozen=True, slots=True)
class GroupLag(_Document):
    """How far a consumer group is behind in a partition, or in a topic."""

    group: str
    lag_records: int
    """Offsets between what is done and the high watermark."""
    lag_ns: int | None
    """How old the first of these records is, to within its batch, in nanoseconds; 0 when there are none, None
    when it has no timestamp."""
    committed: int | None = None
    """The offset up to which all is done; None: nothing was committed yet (or it is a topic's)."""
    members: int = 0
    """Consumers that read it: 0 or 1 of a partition."""


@dataclass(frozen=True, slots=True)
class PartitionStats(_Document):
    """A partition at one moment."""

    topic: str
    partition: int
    used: bool
    """Whether anybody has opened it for writing yet."""
    records: int = 0
    """Offsets between log start and high watermark; of a compacted topic, `exact=True` counts the records."""
    raw_bytes: int = 0
    """What `stored_bytes` would be without compression; unless `exact`, by a sample of batches."""
    stored_bytes: int = 0
    """Bytes of its segments that are in use, headers included."""
    disk_bytes: int = 0
    """What all its files take on the disk, with what is reserved."""
    segments: int = 0
    oldest_timestamp_ns: int | None = None
    """Of the first batch that is kept, nanoseconds since the epoch."""
    newest_timestamp_ns: int | None = None
    """The largest in the newest segment that has records."""
    log_start: int = 0
    """The first offset that can be read."""
    high_watermark: int = 0
    """The first offset that cannot be read yet."""
    log_end: int = 0
    """The offset that the next record gets."""
    durable_offset: int = 0
    """Everything below it survives a power failure."""
    leader_epoch: int = 0
    reclaimable_bytes: int = 0
    """On the disk, what the next pass of maintenance can free: segments below the log start, and those that
    `retention` and `retention_bytes` have no room for any more."""
    dirty_bytes: int = 0
    """Of a compacted topic: bytes of finished segments that no compaction has seen yet."""
    waited_for: bool = False
    """Somebody waits for the next append, or did when the last one came."""
    poison_errno: int | None = None
    """The errno of the failed write or sync since which nothing is appended; None: it is sound."""
    exact: bool = False
    """Records and raw bytes were counted batch by batch."""
    groups: tuple[GroupLag, ...] = ()
    """One for each consumer group that reads it, or has committed an offset."""
    process: ProcessStats | None = None
    """This process's part; None: it has not opened the partition."""
    error: str | None = None
    """What kept the rest from being known."""

    _derived: ClassVar[tuple[str, ...]] = ("poisoned", "unsynced_records", "lent_bytes", "pinned_bytes")

    @property
    def poisoned(self) -> bool:
        """A write or sync has failed: it takes no more records before its store is opened anew everywhere."""
        return self.poison_errno is not None

    @property
    def unsynced_records(self) -> int:
        """Offsets that a power failure could take: between durable offset and log end."""
        return max(self.log_end - self.durable_offset, 0)

    @property
    def lent_bytes(self) -> int:
        """What readers in this process hold; see `ProcessStats`."""
        return self.process.lent_bytes if self.process is not None else 0

    @property
    def pinned_bytes(self) -> int:
        """What they hold of deleted files; see `ProcessStats`."""
        return self.process.pinned_bytes if self.process is not None else 0


class _Totals(_Document):
    """Sums over parts: partitions of a topic, topics of a store."""

    _derived: ClassVar[tuple[str, ...]] = (
        "records",
        "raw_bytes",
        "stored_bytes",
        "disk_bytes",
        "segments",
        "reclaimable_bytes",
        "dirty_bytes",
        "unsynced_records",
        "lent_bytes",
        "pinned_bytes",
        "waited_for",
        "poisoned",
        "oldest_timestamp_ns",
        "newest_timestamp_ns",
        "exact",
    )

    def _parts(self) -> Iterable[Any]:
        raise AssertionError("of a subclass")

    def _sum(self, name: str) -> int:
        return sum(getattr(part, name) for part in self._parts())

    def _times(self, name: str) -> list[int]:
        return [time for part in self._parts() if (time := getattr(part, name)) is not None]

    @cached_property
    def records(self) -> int:
        """As `PartitionStats.records`, of all parts."""
        return self._sum("records")

    @cached_property
    def raw_bytes(self) -> int:
        """As `PartitionStats.raw_bytes`, of all parts."""
        return self._sum("raw_bytes")

    @cached_property
    def stored_bytes(self) -> int:
        """As `PartitionStats.stored_bytes`, of all parts."""
        return self._sum("stored_bytes")

    @cached_property
    def disk_bytes(self) -> int:
        """As `PartitionStats.disk_bytes`, of all parts."""
        return self._sum("disk_bytes")

    @cached_property
    def segments(self) -> int:
        """How many, of all parts."""
        return self._sum("segments")

    @cached_property
    def reclaimable_bytes(self) -> int:
        """As `PartitionStats.reclaimable_bytes`, of all parts."""
        return self._sum("reclaimable_bytes")

    @cached_property
    def dirty_bytes(self) -> int:
        """As `PartitionStats.dirty_bytes`, of all parts."""
        return self._sum("dirty_bytes")

    @cached_property
    def unsynced_records(self) -> int:
        """As `PartitionStats.unsynced_records`, of all parts."""
        return self._sum("unsynced_records")

    @cached_property
    def lent_bytes(self) -> int:
        """As `PartitionStats.lent_bytes`, of all parts."""
        return self._sum("lent_bytes")

    @cached_property
    def pinned_bytes(self) -> int:
        """As `PartitionStats.pinned_bytes`, of all parts."""
        return self._sum("pinned_bytes")

    @cached_property
    def waited_for(self) -> int:
        """Partitions for whose next append somebody waits."""
        return self._sum("waited_for")

    @cached_property
    def poisoned(self) -> int:
        """Partitions that take no more records."""
        return self._sum("poisoned")

    @cached_property
    def oldest_timestamp_ns(self) -> int | None:
        """The smallest of the parts' own."""
        return min(self._times("oldest_timestamp_ns"), default=None)

    @cached_property
    def newest_timestamp_ns(self) -> int | None:
        """The largest of the parts' own."""
        return max(self._times("newest_timestamp_ns"), default=None)

    @cached_property
    def exact(self) -> bool:
        """All parts were counted batch by batch."""
        return all(part.exact for part in self._parts())


@dataclass(frozen=True)
class TopicStats(_Totals):
    """A topic at one moment: its partitions, and their sums."""

    name: str
    uuid: UUID
    partitions: tuple[PartitionStats, ...]
    excess_bytes: int = 0
    """On the disk, what `retention_topic_bytes` has no room for, beyond what each partition can free."""

    def __getitem__(self, partition: int) -> PartitionStats:
        """A partition's."""
        return self.partitions[partition]

    def _parts(self) -> Iterable[PartitionStats]:
        return self.partitions

    @cached_property
    def reclaimable_bytes(self) -> int:
        """As `PartitionStats.reclaimable_bytes`, of all partitions, and what `retention_topic_bytes` adds."""
        return self._sum("reclaimable_bytes") + self.excess_bytes

    @cached_property
    def groups(self) -> tuple[GroupLag, ...]:
        """The lag of each consumer group: the sum of its records, the largest of its ages."""
        found: dict[str, list[GroupLag]] = {}
        for partition in self.partitions:
            for lag in partition.groups:
                found.setdefault(lag.group, []).append(lag)
        return tuple(
            GroupLag(
                group,
                sum(lag.lag_records for lag in lags),
                max((lag.lag_ns for lag in lags if lag.lag_ns is not None), default=None),
                members=sum(lag.members for lag in lags),
            )
            for group, lags in sorted(found.items())
        )

    @property
    def errors(self) -> tuple[str, ...]:
        """What could not be found out."""
        return tuple(f"{self.name}/{p.partition}: {p.error}" for p in self.partitions if p.error is not None)

    _derived: ClassVar[tuple[str, ...]] = (*_Totals._derived, "groups", "errors")


@dataclass(frozen=True)
class StoreStats(_Totals):
    """A store at one moment: its topics, and their sums."""

    path: str
    uuid: UUID
    taken_ns: int
    """When, nanoseconds since the epoch."""
    topics: Mapping[str, TopicStats]
    """By name, in order."""
    free_bytes: int
    """Of the file system, for users without privileges."""
    size_bytes: int
    """Of the file system."""
    min_free_bytes: int
    """What appends of this process leave free."""
    low_on_space: bool
    """Appends of this process are refused, for what they would leave free is less than that."""
    problems: tuple[str, ...] = ()
    """Topics and groups that could not be read."""

    def __getitem__(self, topic: str) -> TopicStats:
        """A topic's."""
        return self.topics[topic]

    def _parts(self) -> Iterable[TopicStats]:
        return self.topics.values()

    @property
    def partitions(self) -> Iterator[PartitionStats]:
        """All partitions, topic by topic."""
        return (partition for topic in self.topics.values() for partition in topic.partitions)

    @property
    def errors(self) -> tuple[str, ...]:
        """What could not be found out."""
        return (*self.problems, *(error for topic in self.topics.values() for error in topic.errors))

    _derived: ClassVar[tuple[str, ...]] = (*_Totals._derived, "errors")


@dataclass(frozen=True, slots=True)
class ProducerStats(_Document):
    """What a producer has done since it was made (counters, which never fall), and what it has in hand."""

    records: int
    """Delivered."""
    bytes: int
    """Of the batches delivered, as stored."""
    batches: int
    failed_records: int
    """Given up."""
    errors: int
    """Tries to append a batch that failed."""
    retries: int
    """Those of them after which the batch waits for another try."""
    last_delivery_ns: int | None
    """When the last batch was delivered, nanoseconds since the epoch; None: none was yet."""
    pending_records: int
    """In hand: sent and not delivered yet."""
    pending_bytes: int


@dataclass(frozen=True, slots=True)
class ConsumerStats(_Document):
    """What a consumer has done since it was made (counters, which never fall), and where it is."""

    records: int
    """Handed out, by themselves or in batches."""
    bytes: int
    """Of the stored batches that they came from."""
    batches: int
    """Stored batches that they came from."""
    errors: int
    """Asks for records that failed: damage, a deleted topic."""
    skipped_records: int
    """Offsets that were deleted before they were read, and so passed over."""
    last_batch_ns: int | None
    """When it came to its last batch, nanoseconds since the epoch, to a few milliseconds; None: to none."""
    partitions: int
    """That it reads now."""
    lag_records: int
    """Offsets between its positions and the ends of those partitions."""
