"""A topic: a named log in one or more partitions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any, Never, TypeAlias

from pystream import metadata, serializers
from pystream import options as opt
from pystream._native.arrow import ArrowStream, topic_schema
from pystream._native.limits import CODECS, DURABILITIES, IO_VERBS
from pystream._native.schema import Schema
from pystream._native.writer import lag_ns_max
from pystream.errors import OptionError
from pystream.metadata import Identity, TopicOptions
from pystream.partition import Partition, Position
from pystream.producer import Producer
from pystream.serializers import Serializer, SerializerLike

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from pystream._native.batch import Batch, Record
    from pystream._native.log import LogHandle
    from pystream._native.reader import PartitionReader
    from pystream.aio import AsyncProducer
    from pystream.store import Store
    from pystream.verified import Report

Positions: TypeAlias = Position | Mapping[int, Position]
"""A place in every partition: "earliest", "latest" or a moment for all, or {partition: place}.

A plain offset is accepted where the topic has one partition.
"""


class Topic:
    """A topic. Made by `Store.topic`; opened partitions stay open until the store is closed.

    Serializers belong to this object, not to what is stored: what is appended through it, and the records
    read through it, pass through them. Batches' columns, arrays and Arrow exports are bytes always.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        identity: Identity,
        options: TopicOptions,
        value: Serializer | None = None,
        key: Serializer | None = None,
    ) -> None:
        self._store = store
        self._name = name
        self._identity = identity
        self._options = options
        self._value, self._key = value, key
        self._stored_schema = Schema(
            name,
            options.value_width,
            options.key_width,
            options.dtype,
            CODECS[options.compression],
            options.timestamp_type == "append",
        )
        self._schema = serializers.schema_with(self._stored_schema, value, key)
        self._partitions: dict[int, Partition] = {}

    @property
    def name(self) -> str:
        """Its name."""
        return self._name

    @property
    def uuid(self) -> UUID:
        """Its identity, given when it was made; a topic made later under the same name has another."""
        return self._identity.uuid

    @property
    def created(self) -> datetime:
        """When it was made, UTC."""
        return self._identity.created

    @property
    def partitions(self) -> int:
        """How many partitions it has."""
        return self._options.partitions

    @property
    def options(self) -> TopicOptions:
        """How it stores its records."""
        return self._options

    @property
    def value_serializer(self) -> Serializer | None:
        """What values written and read through this object pass through; None: they are bytes."""
        return self._value

    @property
    def key_serializer(self) -> Serializer | None:
        """What keys written and read through this object pass through; None: they are bytes."""
        return self._key

    def partition(self, index: int) -> Partition:
        """The partition with number `index`, from 0.

        Raises:
            OptionError: there is no such partition.
        """
        number = opt.parse_int("partition", index)
        if not 0 <= number < self.partitions:
            there = "only partition 0" if self.partitions == 1 else f"partitions 0 to {self.partitions - 1}"
            raise OptionError(
                f"partition={number}: topic {self._name!r} has {there}",
                topic=self._name,
            )
        found = self._partitions.get(number)
        return found if found is not None else self._partitions.setdefault(number, Partition(self, number))

    def append(
        self,
        values: Any,
        *,
        keys: Any = None,
        headers: Any = None,
        timestamps: Any = None,
        partition: int | None = None,
        timeout: opt.Duration | None = None,
    ) -> int:
        """Append records to one partition as one batch; see `Partition.append`.

        Args:
            partition: which; may be left out when the topic has one. To spread records by their keys, use
                a `producer`.

        Raises:
            OptionError: no such partition, or several and none named.
        """
        if partition is None:
            if self.partitions > 1:
                raise OptionError(
                    f"topic {self._name!r} has {self.partitions} partitions: say partition=, or use a "
                    "producer",
                    topic=self._name,
                )
            partition = 0
        return self.partition(partition).append(
            values, keys=keys, headers=headers, timestamps=timestamps, timeout=timeout
        )

    def producer(
        self,
        *,
        batch_bytes: opt.Size = "256KiB",
        batch_records: int | None = None,
        linger: opt.Duration = 0.005,
        buffer_bytes: opt.Size | None = None,
        partitioner: str | Callable[[bytes | None, int], int] | None = None,
        on_delivery: Callable[..., object] | None = None,
        compression: str | None = None,
        exclusive: bool = False,
        value: SerializerLike | None = None,
        key: SerializerLike | None = None,
        **later: Never,
    ) -> Producer:
        """A producer of this topic: collects records into batches, and appends them behind your back.

        See `Producer` for the options and for what its methods promise.
        """
        opt.refuse_unknown("producer", later)
        self._store._check_writable()
        return Producer(
            self,
            batch_bytes=batch_bytes,
            batch_records=batch_records,
            linger=linger,
            buffer_bytes=buffer_bytes,
            partitioner=partitioner,
            on_delivery=on_delivery,
            compression=compression,
            exclusive=exclusive,
            value=value,
            key=key,
        )

    def async_producer(
        self,
        *,
        batch_bytes: opt.Size = "256KiB",
        batch_records: int | None = None,
        linger: opt.Duration = 0.005,
        buffer_bytes: opt.Size | None = None,
        partitioner: str | Callable[[bytes | None, int], int] | None = None,
        on_delivery: Callable[..., object] | None = None,
        compression: str | None = None,
        exclusive: bool = False,
        value: SerializerLike | None = None,
        key: SerializerLike | None = None,
        **later: Never,
    ) -> AsyncProducer:
        """A producer for asyncio: `await send()`, `await flush()`. Options are those of `producer`."""
        opt.refuse_unknown("async_producer", later)
        producer = self.producer(
            batch_bytes=batch_bytes,
            batch_records=batch_records,
            linger=linger,
            buffer_bytes=buffer_bytes,
            partitioner=partitioner,
            on_delivery=on_delivery,
            compression=compression,
            exclusive=exclusive,
            value=value,
            key=key,
        )
        from pystream.aio import AsyncProducer  # asyncio takes longer to import than all of pystream

        return AsyncProducer(producer)

    def records(self, start: Positions = "earliest", stop: Positions | None = None) -> Iterator[Record]:
        """The records from `start` up to the end as it is now, partition by partition.

        Args:
            start: "earliest", "latest", a moment, or {partition: offset, moment or word}; partitions left
                out of a mapping begin at the earliest. A plain offset where there is one partition.
            stop: likewise; not included. Partitions left out go up to the end.

        Raises:
            OffsetOutOfRangeError: `start` is before the beginning or beyond the end of a partition.
            OptionError, TypeError: no such partition, or no such place.
            SerializationError: a serializer cannot read a record, which the error names (while iterating).
        """
        readers = self._readers(start, stop)
        if len(readers) == 1:
            return readers[0]
        return chain.from_iterable(readers)

    def batches(self, start: Positions = "earliest", stop: Positions | None = None) -> Iterator[Batch]:
        """The batches from `start` up to the end as it is now, partition by partition; see `records`.

        Batches at the edges are sliced. Nothing is copied: batches lend the mapped files.
        """
        return chain.from_iterable(iter(reader.next_batch, None) for reader in self._readers(start, stop))

    def offsets(self) -> dict[int, tuple[int, int]]:
        """For each partition the offset it begins at, and the one after its last record."""
        partitions = map(self.partition, range(self.partitions))
        return {p.index: (p.beginning_offset, p.end_offset) for p in partitions}

    def verify(self, *, progress: Callable[[int, int], object] | None = None) -> Report:
        """Check every file of the topic; see `pystream.verify`.

        Raises:
            TopicNotFoundError: it was deleted.
            ClosedError: the store is closed.
            StorageError: a directory cannot be read.
        """
        return self._store.verify(self._name, progress=progress)

    def flush(self) -> None:
        """Put on the disk what was appended, by any process, to all partitions, many of them together.

        What lingers in a producer is not appended yet: `Producer.flush(durable=True)` sees to both.

        Raises:
            StorageError: a sync failed, the partition is poisoned; the others are synced all the same.
            ClosedError, ForkedError, ReadOnlyError: the store cannot be written to.
        """
        self._store._check_writable()
        for index in range(self.partitions):
            self.partition(index)._log()
        self._store._handle.sync(self.uuid.bytes)

    def stats(self) -> dict[int, dict[str, int]]:
        """For each partition: offsets, what this process did, what is stored, what is lent.

        log_start, high_watermark, log_end, durable: offsets. appends, appended_records, appended_bytes,
        syncs, rolls, mends, cuts, wakes: by this process since it opened the store; `wakes` are calls to the
        kernel because somebody waited for an append. segments, stored_bytes: on disk. lent_segments,
        lent_bytes: held by readers and by what they lent. sync_lag_ns_max: the longest that a record waited
        for the interval sync that covered it.
        """
        found = {}
        for index in range(self.partitions):
            log = self.partition(index)._log()
            found[index] = log.stats() | {"sync_lag_ns_max": lag_ns_max(log)}
        return found

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The topic from the earliest record to the end as it is now, as an Arrow stream.

        One record batch a stored batch. `requested_schema` is ignored, as the protocol allows.
        """
        return ArrowStream(self._schema, self._readers("earliest", None)).__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> object:
        """The Arrow schema of the topic: offset, timestamp, key, value (or a column a field), headers."""
        self._store._check()
        return topic_schema(self._schema)

    def __repr__(self) -> str:
        sides = {"value": self._value, "key": self._key}
        through = [f", {side}={each.name}" for side, each in sides.items() if each]
        count = f"{self.partitions} partition{'s' * (self.partitions > 1)}"
        return f"<pystream.Topic {self._name!r}, {count}{''.join(through)}>"

    def _readers(self, start: Positions, stop: Positions | None) -> list[PartitionReader]:
        starts = self._positions("start", start)
        stops = self._positions("stop", stop)
        return [
            self.partition(index)._reader(starts.get(index), stops.get(index))
            for index in range(self.partitions)
        ]

    def _positions(self, name: str, positions: Positions | None) -> Mapping[int, Position]:
        """A position for each partition that has one."""
        if positions is None:
            return {}
        if isinstance(positions, Mapping):
            return {self.partition(index).index: position for index, position in positions.items()}
        if hasattr(positions, "__index__") and self.partitions > 1:
            raise OptionError(
                f"{name}={positions}: topic {self._name!r} has {self.partitions} partitions, each with "
                f"offsets of its own; give {{partition: offset}}",
                topic=self._name,
            )
        return dict.fromkeys(range(self.partitions), positions)

    def _open_log(self, index: int) -> LogHandle:
        """The native handle of a partition; the store keeps it and closes it."""
        settings = self._store._settings
        io, durability = settings.io, self._options.durability
        if settings.io_is_auto and durability == "sync":
            io = "pwrite"  # measured: dirty mapped pages take longer to sync
        directory = f"{metadata.topic_directory(self._store.path, self._name)}/{index}"
        with metadata.storage_errors(directory):
            return self._store._handle.open_log(
                directory,
                self._name,
                index,
                self.uuid.bytes,
                self._stored_schema,  # every Topic of this name shares the log
                segment_bytes=self._options.segment_bytes,
                index_interval_bytes=self._options.index_interval_bytes,
                durability=DURABILITIES[durability],
                io=IO_VERBS[io],
                sync_interval_ns=settings.sync_interval_ns,
                create=not self._store._handle.read_only,
                owner=self._uuid_there,
            )

    def _is_deleted(self) -> bool:
        """True when that is known: from a partition that was opened."""
        handles = (partition._handle for partition in self._partitions.values())
        return any(handle is not None and handle.deleted for handle in handles)

    def _uuid_there(self) -> bytes | None:
        """The uuid of the topic that has this one's name now, if there is one."""
        found = metadata.read_topic(self._store.path, self._name)
        return None if found is None else found[0].uuid.bytes
