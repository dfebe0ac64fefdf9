"""A topic: a named log in one or more partitions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from typing import TYPE_CHECKING, Any, Never, TypeAlias, Unpack
from weakref import WeakSet

from pystream import metadata, serializers
from pystream import options as opt
from pystream._native.arrow import ArrowStream, topic_schema
from pystream._native.limits import CODECS, DURABILITIES, IO_VERBS
from pystream._native.schema import Schema
from pystream.altering import Listener, following
from pystream.errors import (
    OffsetOutOfRangeError,
    OptionError,
    PystreamError,
    TopicDeletedError,
    TopicRenamedError,
)
from pystream.metadata import Identity, TopicOptions
from pystream.partition import Partition, Position
from pystream.producer import Producer
from pystream.serializers import Serializer, SerializerLike
from pystream.topicoptions import TopicChanges

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from pystream._native.batch import Batch, Record
    from pystream._native.log import LogHandle
    from pystream._native.reader import PartitionReader
    from pystream.aio import AsyncProducer
    from pystream.altering import Change
    from pystream.latest import Latest
    from pystream.stats import TopicStats
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
        stamp: tuple[int, int] | None = None,
    ) -> None:
        self._store = store
        self._name = name
        self._identity = identity
        self._value, self._key = value, key
        self._stamp = stamp  # of the file that `options` are from; None: not known
        self._refuses_times = True  # if the topic stamps records itself
        self._go_by(options)
        self._partitions: dict[int, Partition] = {}
        self._listeners: WeakSet[Listener] = WeakSet()

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
        """How many partitions it has, as of now; see `add_partitions`."""
        return self.options.partitions

    @property
    def options(self) -> TopicOptions:
        """How it stores its records, and for how long, as of now: any process may `alter` that."""
        self._refresh()
        return self._options

    def alter(self, **options: Unpack[TopicChanges]) -> tuple[Change, ...]:
        """Change its options while it is used; see `Store.alter_topic`.

        Raises:
            TopicDeletedError, TopicRenamedError: what has its name now, if anything, is another topic.
        """
        self._check_there()
        return self._store.alter_topic(self._name, **options)

    def add_partitions(self, count: int | None = None, *, to: int | None = None) -> int:
        """Give the topic more partitions, while it is used; see `Store.add_partitions`.

        Raises:
            TopicDeletedError, TopicRenamedError: what has its name now, if anything, is another topic.
        """
        self._check_there()
        return self._store.add_partitions(self._name, count, to=to)

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
        if not 0 <= number < self._options.partitions and not 0 <= number < self.partitions:
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
            if self._options.partitions > 1:
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
        return chain.from_iterable(self._in_turn(readers, start))

    def batches(self, start: Positions = "earliest", stop: Positions | None = None) -> Iterator[Batch]:
        """The batches from `start` up to the end as it is now, partition by partition; see `records`.

        Batches at the edges are sliced. Nothing is copied: batches lend the mapped files.
        """
        readers = self._in_turn(self._readers(start, stop), start)
        return chain.from_iterable(iter(reader.next_batch, None) for reader in readers)

    def latest(self, *, follow: bool = True, durable: bool = False) -> Latest:
        """The topic as a table: a read-only mapping from each key to the value of its last record.

            prices = store.topic("prices", key="utf8", value="json").latest()
            prices["AAPL"], len(prices), prices.offset("AAPL")

        It takes in what has come since each time it is asked for something; see `Latest`.

        Args:
            follow: False leaves it as it is now, until its `refresh` is called.
            durable: only records that are known to be on the disk.

        Raises:
            CorruptLogError, TopicDeletedError, ClosedError: when it is asked for something, too.
        """
        from pystream.latest import Latest

        return Latest(self, follow=follow, durable=durable)

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

    def stats(self, *, exact: bool = False) -> TopicStats:
        """What is in the topic, partition by partition and in sum, how far its consumer groups are, and what
        this process has done with it.

        No partition is opened for it.

        Args:
            exact: count records and raw bytes batch by batch; see `Store.stats`.

        Raises:
            TopicDeletedError: the topic was deleted.
            ClosedError: the store is closed.
            StorageError: a system call failed.
        """
        from pystream import measuring

        exact = opt.parse_flag("exact", exact)
        with self._telling_where():
            return measuring.of_topic(self._store, self._name, self.uuid, exact)

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

    def _in_turn(self, readers: list[PartitionReader], start: Positions) -> Iterator[PartitionReader]:
        """What a word or a moment stood for may be deleted while the partitions before are read: then it
        stands for the log start as it is by then."""
        starts = self._positions("start", start)
        for index, reader in enumerate(readers):
            while reader.position < (first := self.partition(index).beginning_offset):
                if hasattr(starts.get(index), "__index__"):
                    break  # an offset is what it is, and the reader says that it is gone
                with suppress(OffsetOutOfRangeError):
                    reader.seek(first)
            yield reader

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

    def _go_by(self, options: TopicOptions) -> None:
        """These are the options from now on."""
        self._options = options
        # Who could say when records were made, and was heard, is not refused all of a sudden.
        self._refuses_times = self._refuses_times and options.timestamp_type == "append"
        self._stored_schema = Schema(
            self._name,
            options.value_width,
            options.key_width,
            options.dtype,
            CODECS[options.compression],
            self._refuses_times,
        )
        self._schema = serializers.schema_with(self._stored_schema, self._value, self._key)

    def _refresh(self) -> None:
        """Look whether the options were changed. Nothing happens to the object of a topic that is gone."""
        store = self._store
        if store._handle.closed or store._handle.forked:
            return
        stamp = metadata.topic_stamp(store.path, self._name)
        if stamp is None or stamp == self._stamp:
            return
        found = metadata.read_topic(store.path, self._name)
        if found is None or found[0].uuid != self.uuid:
            return
        self._stamp = stamp
        self._go_by(found[1])
        following(store._handle).apply(self)

    def _open_log(self, index: int, *, passing: bool = False) -> LogHandle:
        """A partition's native handle; the store keeps and closes it. `passing`: it is to be given back."""
        with suppress(PystreamError):  # it goes by what is known
            self._refresh()
        settings = self._store._settings
        io, durability = settings.io, self._options.durability
        if settings.io_is_auto and durability == "sync":
            io = "pwrite"  # measured: dirty mapped pages take longer to sync
        directory = f"{metadata.topic_directory(self._store.path, self._name)}/{index}"
        with metadata.storage_errors(directory), self._telling_where():
            log = self._store._handle.open_log(
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
                needs_keys=self._options.compacts,
                message_bytes_max=self._options.max_message_bytes or 0,
                passing=passing,
            )
        if self._options.deletes and self._options.retention_bytes is not None:
            log.keep_bytes = self._options.retention_bytes
        return log

    @contextmanager
    def _telling_where(self) -> Iterator[None]:
        """Say of a topic that is not there under this name whether it has another now."""
        try:
            yield
        except TopicRenamedError:
            raise
        except TopicDeletedError as error:
            name = metadata.find_topic(self._store.path, self.uuid)
            if name is None:
                raise
            what = f"renamed to {name!r}" if name != self._name else "renamed, and has its name again"
            how = "by that name" if name != self._name else "anew"
            renamed = TopicRenamedError(
                f"the topic was {what} (topic {self._name!r}); open it {how}", topic=self._name
            )
            renamed.new_name = name
            raise renamed from error

    def _check_there(self) -> None:
        """Raise unless it is this topic that has its name."""
        self._store._check_writable()
        with metadata.storage_errors(metadata.topic_directory(self._store.path, self._name)):
            if self._uuid_there() == self.uuid.bytes:
                return
        with self._telling_where():
            raise TopicDeletedError(f"the topic was deleted (topic {self._name!r})", topic=self._name)

    def _is_deleted(self) -> bool:
        """True when that is known: from a partition that was opened."""
        handles = (partition._handle for partition in self._partitions.values())
        return any(handle is not None and handle.deleted for handle in handles)

    def _uuid_there(self) -> bytes | None:
        """The uuid of the topic that has this one's name now, if there is one."""
        found = metadata.read_topic(self._store.path, self._name)
        return None if found is None else found[0].uuid.bytes
