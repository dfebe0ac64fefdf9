"""A producer: records go into batches, and batches go out behind the caller's back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

from pystream import options as opt
from pystream import serializers
from pystream._native.limits import CODECS, RECORDS_PER_BATCH_MAX, SEGMENT_BYTES_MAX
from pystream._native.producer import RecordMetadata
from pystream._native.sender import SendingCore
from pystream.altering import following
from pystream.errors import ClosedError

if TYPE_CHECKING:
    from pystream.partition import Hold
    from pystream.serializers import SerializerLike
    from pystream.stats import ProducerStats
    from pystream.topic import Topic

LINGER_NS_MAX: Final = 3600 * 10**9
BUFFER_BYTES_DEFAULT: Final = 32 << 20
BUFFER_BYTES_MAX: Final = 64 << 30

Partitioner: TypeAlias = str | Callable[[bytes | None, int], int]
"""How a record finds its partition: "murmur2", "sticky", or a function of key and number of partitions."""

OnDelivery: TypeAlias = Callable[[Exception | None, RecordMetadata], object]
"""Called with None, or why the record did not go out, and with where it went."""


class Producer(SendingCore):
    """Collects records into batches and appends them. Made by `Topic.producer`; may be shared by threads.

    `send` accepts a record and acknowledges nothing: what lingers in a batch dies with the process.
    A record is acknowledged when `flush` has returned or its delivery callback was called. Records of one
    producer keep their order within a partition.

    When records do not go out, the next `send`, `flush` or `close` raises `DeliveryError` with their number
    and, as its cause, the reason; a `send` that raises has not taken its own record. Where the reason may
    pass (the disk is full), they stay queued and are tried again, so do not send them once more; `close`
    gives up what is left. Delivery callbacks tell what became of each.

    Delivery callbacks run in a thread that calls `send`, `flush` or `close`, one at a time; those of a
    partition in the order of its records. `flush` and `close` return when they have been called, in whatever
    thread; within a callback, they leave that to the call it is in.

    A context manager: leaving it flushes and closes, whatever happened inside.

    Args:
        topic: the topic to write to.
        batch_bytes: a batch goes out when it is this full; 1 B to 2 GiB, never more than a segment holds.
            256 KiB by default.
        batch_records: or when it has this many records; 1 to 16,777,216, which is the default.
        linger: or when its first record is this old; seconds, 0 to 1 h; 5 ms by default.
        buffer_bytes: `send` waits while this much waits to go out; `batch_bytes` to 64 GiB. 32 MiB by
            default, or `batch_bytes` if that is more. Open batches share half of it: over more partitions
            than it holds whole batches, 64 by default, they begin smaller, and may have to go out before
            they are full.
        partitioner: "murmur2" (the default): a record with a key goes where Kafka's Java client would send
            it, one without joins the batch of the moment. "sticky": all join the batch of the moment. Or
            a function of (key, number of partitions) that returns the partition.
        on_delivery: called for each record with (error or None, `RecordMetadata`).
        compression: "none" or "lz4" for this producer's batches; the topic's by default.
        exclusive: hold every partition for exclusive writing until the producer is closed, as
            `Partition.exclusive` does; `PartitionHeldError` when somebody else holds one.
        value: how values become bytes: "utf8", "json", "msgpack", a function, or a `Serializer`; the topic's
            by default, "bytes" for none. `send` raises `SerializationError` for what it cannot write, and
            has taken nothing.
        key: likewise for keys. Partitions are chosen by the bytes that it makes.
    """

    __slots__ = ("_holds", "_topic")

    _holds: list[Hold]
    _topic: Topic

    def __init__(
        self,
        topic: Topic,
        *,
        batch_bytes: opt.Size = "256KiB",
        batch_records: int | None = None,
        linger: opt.Duration = 0.005,
        buffer_bytes: opt.Size | None = None,
        partitioner: Partitioner | None = None,
        on_delivery: OnDelivery | None = None,
        compression: str | None = None,
        exclusive: bool = False,
        value: SerializerLike | None = None,
        key: SerializerLike | None = None,
    ) -> None:
        batch = opt.parse_size("batch_bytes", batch_bytes, minimum=1, maximum=SEGMENT_BYTES_MAX)
        buffer = max(BUFFER_BYTES_DEFAULT, batch)
        if buffer_bytes is not None:
            buffer = opt.parse_size("buffer_bytes", buffer_bytes, minimum=batch, maximum=BUFFER_BYTES_MAX)
        records = RECORDS_PER_BATCH_MAX
        if batch_records is not None:
            records = opt.parse_int("batch_records", batch_records, minimum=1, maximum=RECORDS_PER_BATCH_MAX)
        codec = topic.options.compression
        if compression is not None:
            codec = opt.parse_choice("compression", compression, CODECS)
        exclusive = opt.parse_flag("exclusive", exclusive)
        self._holds = []
        if exclusive:  # where one is refused, those held so far are let go with the list
            self._holds = [topic.partition(index).exclusive() for index in range(topic.partitions)]
        values, keys = serializers.parse_writer("value", value), serializers.parse_writer("key", key)
        super().__init__(
            [topic.partition(index)._log() for index in range(topic.partitions)],
            batch_bytes=batch,
            batch_records=records,
            linger_ns=opt.parse_duration("linger", linger, maximum=LINGER_NS_MAX),
            buffer_bytes=buffer,
            partitioner=partitioner,
            on_delivery=on_delivery,
            codec=CODECS[codec],
            parse_time=opt.parse_timestamp,
            schema=serializers.schema_with(
                topic._stored_schema,
                topic.value_serializer if values is None else values,
                topic.key_serializer if keys is None else keys,
            ),
        )
        self._topic = topic
        topic._store._users.add(self)
        following(topic._store._handle).listen(topic, self)

    @property
    def topic(self) -> str:
        """The name of the topic it writes to."""
        return self._topic.name

    def send_many(
        self,
        values: Any,
        *,
        keys: Any = None,
        headers: Any = None,
        timestamps: Any = None,
        partition: int | None = None,
    ) -> None:
        """Append many records now, as batches of their own, after those sent before.

        When it returns they are acknowledged.

        Each batch is whole or not there at all. The arguments are checked before anything is written.

        Args:
            values: n values: a list of bytes (None: a null value), an array of `dtype` or of `value_bytes`
                wide items, or an Arrow array; where there is a serializer (`value=`), what that takes.
            keys: None, or n keys, each bytes or None, or what `key=` takes.
            headers: None, or for each record None, a dict, or a list of (str, bytes or None).
            timestamps: None (now), one moment for all, or n moments: `datetime64` or int64 nanoseconds in
                an array, or a list.
            partition: where all go; by their keys when left out.

        Raises:
            TypeError, ValueError: values, or lengths, that cannot be stored.
            SerializationError: (a `ValueError`) a serializer failed; `index` says where. Nothing is written.
            RecordTooLargeError: a record that no batch holds.
            DeliveryError: records could not be appended: these, or ones sent before.
            ClosedError, ForkedError: the producer is closed, or was made by a parent process.
        """
        super().send_many(
            values,
            keys=keys,
            headers=headers,
            timestamps=opt.parse_times("timestamps", timestamps),
            partition=partition,
        )

    def flush(self, timeout: opt.Duration | None = None, durable: bool = False) -> None:
        """Wait until everything sent before is appended, and so safe from the death of any process.

        Args:
            timeout: seconds to wait; None: as long as it takes.
            durable: wait until it is on the disk, too.

        Raises:
            LockTimeoutError: `timeout` passed. What is left stays queued; or callbacks that another thread
                calls have not returned.
            DeliveryError: records could not go out.
            StorageError: a sync failed.
            ClosedError, ForkedError: the producer is closed, or was made by a parent process.
        """
        super().flush(opt.parse_timeout("timeout", timeout), opt.parse_flag("durable", durable))

    def stats(self) -> ProducerStats:  # type: ignore[override]
        """What it has done since it was made, and what it has in hand. From any thread, and after `close`."""
        from pystream.stats import ProducerStats  # only for who asks

        counters = super().stats()
        last = counters.pop("last_ns")
        return ProducerStats(**counters, last_delivery_ns=last or None)

    def close(self, timeout: opt.Duration | None = None) -> None:
        """Flush, and accept no more. Twice is once.

        Args:
            timeout: seconds to go on trying where records cannot go out for now; None: one more try.

        Raises:
            DeliveryError: records were given up: their number, and as its cause the reason.
        """
        try:
            super().close(opt.parse_timeout("timeout", timeout))
        finally:
            for hold in self._holds:
                hold.release()

    def _topic_has_grown(self, topic: Topic) -> None:
        """Send to the partitions that the topic has got, too."""
        if self.closed:
            return
        fresh = [topic.partition(index) for index in range(self.partitions, topic._options.partitions)]
        holds = [partition.exclusive() for partition in fresh] if self._holds else []
        with suppress(ClosedError):  # meanwhile
            self.grow([partition._log() for partition in fresh])
            self._holds += holds

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = ", closed" if self.closed else ""
        return f"<pystream.Producer of {self.topic!r}{state}>"
