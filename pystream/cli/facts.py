"""What `pystream describe` and `pystream topics` know of a store: gathered once, shown as tables or JSON.

The store is opened to read, so that nothing is written: a partition that was never used has no files, and is
given none, and what a crash has torn is left out. What cannot be read is described as far as it can be, with
what is wrong.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import click

import pystream
from pystream import metadata
from pystream._native.limits import FORMAT_VERSION
from pystream.cli.common import (
    EXIT_FAILED,
    Column,
    bytes_text,
    error_text,
    fail,
    show_facts,
    show_json,
    show_table,
    time_text,
    warn,
)
from pystream.options import duration_text

if TYPE_CHECKING:
    from datetime import datetime

    import numpy as np

_SEGMENT: Final = re.compile(r"([0-9]{20})\.log")
_BLOCK_BYTES: Final = 512  # of st_blocks, whatever the file system's own are


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment file: the offset of its first record, its length, and what it takes on the disk."""

    base_offset: int
    file_bytes: int
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class PartitionFacts:
    """A partition. Offsets are as of one moment; `error` is what kept the rest from being known."""

    partition: int
    path: str
    used: bool
    start: int = 0
    end: int = 0
    durable: int = 0
    leader_epoch: int = 0
    stored_bytes: int = 0
    disk_bytes: int = 0
    first_timestamp: int | None = None
    last_timestamp: int | None = None
    segments: tuple[Segment, ...] = ()
    error: str | None = None

    @property
    def records(self) -> int:
        """Offsets between start and end; without compaction, each is a record."""
        return self.end - self.start

    def as_dict(self) -> dict[str, Any]:
        facts = asdict(self)
        facts["segments"] = [asdict(segment) for segment in self.segments]
        return {"partition": self.partition, "records": self.records, **facts}


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """A topic and its partitions; without partitions when only its options were asked for."""

    name: str
    topic: pystream.Topic | None
    partitions: tuple[PartitionFacts, ...] = ()
    error: str | None = None

    @property
    def records(self) -> int:
        return sum(partition.records for partition in self.partitions)

    @property
    def stored_bytes(self) -> int:
        return sum(partition.stored_bytes for partition in self.partitions)

    @property
    def disk_bytes(self) -> int:
        return sum(partition.disk_bytes for partition in self.partitions)

    @property
    def first_timestamp(self) -> int | None:
        known = [p.first_timestamp for p in self.partitions if p.first_timestamp is not None]
        return min(known, default=None)

    @property
    def last_timestamp(self) -> int | None:
        known = [p.last_timestamp for p in self.partitions if p.last_timestamp is not None]
        return max(known, default=None)

    def errors(self) -> Iterator[str]:
        """Everything that could not be read."""
        if self.error is not None:
            yield self.error
        for partition in self.partitions:
            if partition.error is not None:
                yield f"{self.name}/{partition.partition}: {partition.error}"

    def as_dict(self, *, totals: bool = True, partitions: bool = True) -> dict[str, Any]:
        facts: dict[str, Any] = {"topic": self.name, "error": self.error}
        if self.topic is not None:
            facts |= {
                "uuid": str(self.topic.uuid),
                "created": self.topic.created.isoformat(),
                "options": self.topic.options.to_json(),
            }
        if totals:
            names = ("records", "stored_bytes", "disk_bytes", "first_timestamp", "last_timestamp")
            facts |= {name: getattr(self, name) for name in names}
        if partitions:
            facts["partitions"] = [partition.as_dict() for partition in self.partitions]
        return facts


# ---- gathering ----------------------------------------------------------------------------------------


def read_partition(topic: pystream.Topic, index: int) -> PartitionFacts:
    """All of one partition.

    Raises:
        OptionError: there is no such partition.
    """
    partition = topic.partition(index)
    path = f"{metadata.topic_directory(topic._store.path, topic.name)}/{index}"
    try:
        if not any(True for _ in _files(path)):
            return PartitionFacts(index, path, used=False)
        log = partition._log()
        start, end = log.start_offset, log.high_watermark
        first = next(partition.records(start, end), None)
        last = next(partition.records(end - 1, end), None) if end > start else None
        segments = tuple(sorted(_segments(path), key=lambda segment: segment.base_offset))
        return PartitionFacts(
            partition=index,
            path=path,
            used=True,
            start=start,
            end=end,
            durable=log.durable_offset,
            leader_epoch=log.leader_epoch,
            stored_bytes=log.stats()["stored_bytes"],
            disk_bytes=disk_bytes(path),
            first_timestamp=None if first is None else first.timestamp,
            last_timestamp=None if last is None else last.timestamp,
            segments=segments,
        )
    except pystream.PystreamError as error:
        return PartitionFacts(index, path, used=True, disk_bytes=disk_bytes(path), error=error_text(error))


def read_topic(store: pystream.Store, name: str, *, partitions: bool = True) -> TopicFacts:
    """A topic, with its partitions if they are wanted.

    Raises:
        TopicNotFoundError: there is no such topic.
    """
    try:
        topic = store.topic(name)
    except (pystream.CorruptLogError, pystream.FormatVersionError) as error:
        return TopicFacts(name, None, error=error_text(error))
    wanted = range(topic.partitions) if partitions else ()
    return TopicFacts(name, topic, tuple(read_partition(topic, index) for index in wanted))


def read_topics(store: pystream.Store, *, partitions: bool = True) -> list[TopicFacts]:
    """All topics. One that is deleted meanwhile is left out."""
    found = []
    for name in store.topics():
        try:
            found.append(read_topic(store, name, partitions=partitions))
        except pystream.TopicNotFoundError:
            continue
    return found


def disk_bytes(path: str) -> int:
    """What the files below a directory take on the disk; those that vanish meanwhile take nothing."""
    total = 0
    for entry in _files(path):
        try:
            if entry.is_dir(follow_symlinks=False):
                total += disk_bytes(entry.path)
            else:
                total += entry.stat(follow_symlinks=False).st_blocks * _BLOCK_BYTES
        except FileNotFoundError:
            continue
    return total


def _files(path: str) -> list[os.DirEntry[str]]:
    with metadata.storage_errors(path):
        try:
            with os.scandir(path) as entries:
                return list(entries)
        except FileNotFoundError:
            return []


def _segments(path: str) -> Iterator[Segment]:
    for entry in _files(path):
        if match := _SEGMENT.fullmatch(entry.name):
            found = entry.stat()
            yield Segment(int(match[1]), found.st_size, found.st_blocks * _BLOCK_BYTES)


# ---- showing ------------------------------------------------------------------------------------------


def show_store(store: pystream.Store, *, as_json: bool) -> None:
    """`pystream describe STORE`. Ends the command with 3 when something could not be read."""
    topics = read_topics(store)
    used = disk_bytes(store.path)
    if as_json:
        document = {
            "store": store.path,
            "uuid": str(store.uuid),
            "created": store.created.isoformat(),
            "format": FORMAT_VERSION,
            "filesystem": store.filesystem,
            "io": store.io,
            "records": sum(topic.records for topic in topics),
            "stored_bytes": sum(topic.stored_bytes for topic in topics),
            "disk_bytes": used,
        }
        show_json(document | {"topics": [topic.as_dict(partitions=False) for topic in topics]})
    else:
        stored = sum(topic.stored_bytes for topic in topics)
        show_facts(
            [
                ("store", store.path),
                ("uuid", store.uuid),
                ("created", _moment(store.created)),
                ("format", FORMAT_VERSION),
                ("file system", f"{store.filesystem}, written by {store.io}"),
                ("topics", f"{len(topics):,}"),
                ("records", f"{sum(topic.records for topic in topics):,}"),
                ("stored", _stored(stored, used)),
            ]
        )
        if topics:
            click.echo()
            show_topics_table(topics)
    end_with_errors(topics)


def show_topic(topic: TopicFacts, *, as_json: bool) -> None:
    """`pystream describe STORE TOPIC`. Ends the command with 3 when something could not be read."""
    if as_json:
        show_json(topic.as_dict())
    elif topic.topic is not None:
        options = topic.topic.options
        show_facts(
            [
                ("topic", topic.name),
                ("uuid", topic.topic.uuid),
                ("created", _moment(topic.topic.created)),
                ("records", f"{topic.records:,}"),
                ("stored", _stored(topic.stored_bytes, topic.disk_bytes)),
                ("compression", options.compression),
                ("durability", options.durability),
                ("values", _values(options)),
                ("keys", _width(options.key_bytes)),
                ("timestamps", _TIMESTAMPS[options.timestamp_type]),
                ("segments", _segment(options)),
                ("index", f"an entry every {bytes_text(options.index_interval_bytes)}"),
                ("batches", _largest(options)),
                ("cleanup", options.cleanup),
                ("retention", _retention(options)),
                *([("compaction", _compaction(options))] if options.compacts else []),
                ("partitions", f"{options.partitions:,}"),
            ]
        )
        click.echo()
        show_table(_PARTITION_COLUMNS, [_partition_row(partition) for partition in topic.partitions])
    end_with_errors([topic])


def show_partition(topic: str, partition: PartitionFacts, *, as_json: bool) -> None:
    """`pystream describe STORE TOPIC PARTITION`. Ends the command with 3 when it could not be read."""
    if as_json:
        show_json({"topic": topic, **partition.as_dict()})
    elif not partition.used:
        show_facts([("partition", f"{topic}/{partition.partition}"), ("records", "0; never used")])
    elif partition.error is None:
        show_facts(
            [
                ("partition", f"{topic}/{partition.partition}"),
                ("path", partition.path),
                ("offsets", f"{partition.start:,} up to, not including, {partition.end:,}"),
                ("records", f"{partition.records:,}"),
                ("durable", f"below {partition.durable:,}"),
                ("leader epoch", partition.leader_epoch),
                ("stored", _stored(partition.stored_bytes, partition.disk_bytes)),
                ("oldest", time_text(partition.first_timestamp) or "none"),
                ("newest", time_text(partition.last_timestamp) or "none"),
                ("segments", f"{len(partition.segments):,}"),
            ]
        )
        click.echo()
        ends = [segment.base_offset for segment in partition.segments[1:]] + [partition.end]
        show_table(
            [Column("Segment"), Column("Records", True), Column("File", True), Column("On disk", True)],
            [
                (
                    f"{segment.base_offset:020}",
                    # What a cut took away is in no segment, so an end can lie before its base.
                    f"{max(0, end - segment.base_offset):,}",
                    bytes_text(segment.file_bytes),
                    bytes_text(segment.disk_bytes),
                )
                for segment, end in zip(partition.segments, ends, strict=True)
            ],
        )
    end_with_errors([TopicFacts(topic, None, (partition,))])


def show_topics_table(topics: Sequence[TopicFacts]) -> None:
    """A line a topic."""
    columns = [
        Column("Topic"),
        Column("Partitions", True, rank=2),
        Column("Codec", rank=4),
        Column("Records", True),
        Column("Stored", True),
        Column("Oldest (UTC)", rank=3),
        Column("Newest (UTC)", rank=1),
    ]
    show_table(columns, [_topic_row(topic) for topic in topics])


def end_with_errors(topics: Sequence[TopicFacts]) -> None:
    """Say what could not be read, and end the command, if there was such a thing."""
    errors = [error for topic in topics for error in topic.errors()]
    for error in errors[:-1]:
        warn(error)
    if errors:
        fail(EXIT_FAILED, errors[-1])


_PARTITION_COLUMNS: Final = [
    Column("Partition", True),
    Column("Start", True, rank=3),
    Column("End", True),
    Column("Records", True),
    Column("Durable", True, rank=2),
    Column("Segments", True, rank=5),
    Column("Stored", True),
    Column("Oldest (UTC)", rank=4),
    Column("Newest (UTC)", rank=1),
]
_TIMESTAMPS: Final = {"create": "given, or the producer's clock", "append": "the clock at append"}
_UNREADABLE: Final = "?"


def _topic_row(topic: TopicFacts) -> tuple[str, ...]:
    if topic.topic is None:
        return (topic.name, *(_UNREADABLE,) * 6)
    return (
        topic.name,
        f"{topic.topic.partitions:,}",
        topic.topic.options.compression,
        f"{topic.records:,}" + _UNREADABLE * any(partition.error for partition in topic.partitions),
        bytes_text(topic.stored_bytes),
        _minute(topic.first_timestamp),
        _minute(topic.last_timestamp),
    )


def _partition_row(partition: PartitionFacts) -> tuple[str, ...]:
    if partition.error is not None:
        return (str(partition.partition), *(_UNREADABLE,) * 8)
    return (
        str(partition.partition),
        f"{partition.start:,}",
        f"{partition.end:,}",
        f"{partition.records:,}",
        f"{partition.durable:,}",
        f"{len(partition.segments):,}",
        bytes_text(partition.stored_bytes),
        _minute(partition.first_timestamp),
        _minute(partition.last_timestamp),
    )


def _minute(timestamp: int | None) -> str:
    """A timestamp as tables have room for: 2026-01-31 12:00."""
    return time_text(timestamp)[:16].replace("T", " ") or "-"


def _moment(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _stored(stored: int, disk: int) -> str:
    reserved = f" ({bytes_text(disk)} on disk, with what is reserved)" if disk > stored else ""
    return bytes_text(stored) + reserved


def _values(options: pystream.TopicOptions) -> str:
    if options.dtype is not None:
        return f"{dtype_text(options.dtype)} ({bytes_text(options.dtype.itemsize)} each)"
    return _width(options.value_bytes)


def _segment(options: pystream.TopicOptions) -> str:
    age = options.segment_age_ns
    ended = "when full" if age is None else f"when full, or after {duration_text(age)}"
    return f"of {bytes_text(options.segment_bytes)}, ended {ended}"


def _largest(options: pystream.TopicOptions) -> str:
    size = options.max_message_bytes
    return "as large as a segment holds" if size is None else f"of {bytes_text(size)} at most"


def _retention(options: pystream.TopicOptions) -> str:
    """How long, and how much: in full also where the cleanup does not go by it, which is said."""
    parts = []
    if options.retention_ns is not None:
        parts.append(duration_text(options.retention_ns))
    if options.retention_bytes is not None:
        parts.append(f"{bytes_text(options.retention_bytes)} a partition")
    if options.retention_topic_bytes is not None:
        parts.append(f"{bytes_text(options.retention_topic_bytes)} in all")
    text = ", ".join(parts) or "forever"
    return text if options.deletes or not parts else f"{text} (not heeded: cleanup is {options.cleanup})"


def _compaction(options: pystream.TopicOptions) -> str:
    return (
        f"when {options.min_cleanable_dirty_ratio:.0%} is new; of records older than "
        f"{duration_text(options.min_compaction_lag_ns)}; tombstones stay "
        f"{duration_text(options.delete_retention_ns)}"
    )


def _width(size: int | None) -> str:
    return "bytes of any length" if size is None else f"{bytes_text(size)} each"


def dtype_text(dtype: np.dtype[Any]) -> str:
    """A dtype as `--dtype` takes it, where it can be said that way; as NumPy prints it elsewhere."""
    from pystream.cli.common import parse_dtype_text

    if dtype.names is None:
        return dtype.str.lstrip("<|")
    fields = (f"{name}:{dtype[name].str.lstrip('<|')}" for name in dtype.names)
    text = ",".join(fields)
    try:
        return text if parse_dtype_text(text) == dtype else str(dtype)
    except pystream.OptionError:
        return str(dtype)
