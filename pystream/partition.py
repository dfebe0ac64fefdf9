"""One partition of a topic: append to it, read from any offset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import date, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pystream import options as opt
from pystream._native.arrow import ArrowStream
from pystream._native.producer import append_batch
from pystream._native.reader import PartitionReader
from pystream._native.retention import delete_before
from pystream.errors import LockTimeoutError, OffsetOutOfRangeError, OptionError

if TYPE_CHECKING:
    import numpy.typing as npt

    from pystream._native.batch import Batch, Record
    from pystream._native.log import LogHandle
    from pystream.stats import PartitionStats
    from pystream.topic import Topic
    from pystream.verified import Report

Position: TypeAlias = int | str | datetime | np.datetime64
"""A place in a partition: an offset, "earliest", "latest", or a moment (the first record at or after it).

An int is always an offset. A moment after which there is no record stands for the end.
"""


class Hold:
    """A partition held for exclusive writing. Made by `Partition.exclusive`; a context manager.

    Ends with `release`, with the `with` block, with the store, or with the process, however that ends.
    """

    __slots__ = ("_log",)

    def __init__(self, log: LogHandle, timeout_ns: int) -> None:
        self._log: LogHandle | None = None
        log.hold(timeout_ns)
        self._log = log

    def release(self) -> None:
        """Let other processes append again. An append under way ends first. Twice is once."""
        log, self._log = self._log, None
        if log is not None:
            log.release()

    def __enter__(self) -> Hold:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()

    def __repr__(self) -> str:
        log = self._log
        return f"<pystream.Hold on {log.topic!r}/{log.partition}>" if log else "<pystream.Hold, released>"


class Partition:
    """A partition. Made by `Topic.partition`; files are opened at first use and closed with the store.

    Iterating it gives its records, from the earliest to the end as it was when iteration began.
    """

    __slots__ = ("_handle", "_index", "_topic")

    def __init__(self, topic: Topic, index: int) -> None:
        self._topic = topic
        self._index = index
        self._handle: LogHandle | None = None

    @property
    def topic(self) -> str:
        """The name of its topic."""
        return self._topic.name

    @property
    def index(self) -> int:
        """Its number in the topic, from 0."""
        return self._index

    @property
    def beginning_offset(self) -> int:
        """The offset of the earliest record kept (the log start offset)."""
        return self._log().start_offset

    @property
    def end_offset(self) -> int:
        """The offset after the last record that can be read; the next record's, when nobody else appends."""
        return self._log().high_watermark

    @property
    def high_watermark(self) -> int:
        """The offset up to which records can be read: in a "sync" topic, up to which they are on the disk."""
        return self._log().high_watermark

    @property
    def durable_offset(self) -> int:
        """The offset below which every record is known to be on the disk."""
        return self._log().durable_offset

    def append(
        self,
        values: Any,
        *,
        keys: Any = None,
        headers: Any = None,
        timestamps: Any = None,
        timeout: opt.Duration | None = None,
    ) -> int:
        """Append records as one batch, all or none; they are acknowledged when this returns.

        Arrays are read where they lie, first for the checksum and then for the copy: no other thread may
        change them meanwhile, or the batch would not match its checksum.

        Args:
            values: n values: a list of bytes (None: a null value), an array of `dtype` or of `value_bytes`
                wide items, or an Arrow array; where the topic has a serializer (`value=`), what that takes.
            keys: None, or n keys, each bytes or None, or what the topic's `key=` takes.
            headers: None, or for each record None, a dict, or a list of (str, bytes or None).
            timestamps: None (now), one moment for all, or n moments: `datetime64` or int64 nanoseconds in
                an array, or a list.
            timeout: seconds to wait for other writers; None: as long as it takes.

        Returns:
            The offset of the first record; of nothing (n = 0), the end, and nothing is written.

        Raises:
            TypeError, ValueError: values, or lengths, that cannot be stored. Nothing is written.
            SerializationError: (a `ValueError`) a serializer failed; `index` says where. Nothing is written.
            RecordTooLargeError, BatchTooLargeError: more than a batch may hold. Nothing is written.
            LockTimeoutError: other writers held the partition for `timeout`. Nothing is written.
            StorageError: the disk is full, or failed; `PoisonedError` when this or an earlier write or sync
                failed. Nothing is acknowledged; but of a "sync" topic, whose batch is stored before it is
                synced, the records may be there all the same.
            ClosedError, ForkedError: the store is closed, or was opened by a parent process.
        """
        log = self._handle
        if log is None or self._topic._store._closed:  # else the log itself knows whether it can be used
            log = self._log()
        return append_batch(
            log,
            values,
            keys,
            headers,
            None if timestamps is None else opt.parse_times("timestamps", timestamps),
            -1 if timeout is None else opt.parse_timeout("timeout", timeout),
            opt.parse_timestamp,
            None,
            self._topic._schema,
        )

    def delete_records(self, before: int) -> int:
        """Delete the records below the offset `before`, durably: the log starts there from now on.

        Nobody can read them any more once this has returned, in any process, and no power failure brings them
        back. Their space is given back as far as whole segments are below; the rest of it when the log start
        moves on. Batches and arrays that were handed out stay good, and keep their space until they are let
        go. Consumers that have not come so far go on as their `out_of_range` says. Writers are not held up,
        nor waited for.

        Args:
            before: the offset of the first record to keep; the end deletes all there is, and an offset below
                the beginning nothing.

        Returns:
            Where the log starts now: `before`, or later where it had already.

        Raises:
            OffsetOutOfRangeError: `before` is negative, or beyond the end.
            ReadOnlyError: the store was opened to read only.
            LockTimeoutError: maintenance by another process kept the partition for half a minute.
            StorageError: a system call failed; `PoisonedError` when the disk did.
            ClosedError, ForkedError, TopicDeletedError: as for `append`.
        """
        if isinstance(before, (bool, np.bool_)) or not hasattr(before, "__index__"):
            raise TypeError(
                f"before must be an offset, not {type(before).__name__}; a moment goes to .truncate_before()"
            )
        log = self._log()
        offset = before.__index__()
        if not 0 <= offset <= opt.INT64_MAX:
            raise self._out_of_range(offset, f"give an offset from 0 to {log.high_watermark}, the end")
        start = delete_before(log, offset)
        with suppress(LockTimeoutError):  # then whoever looks after the partition removes them
            while log.retain().more:
                pass
        return start

    def truncate_before(self, position: Position) -> int:
        """Delete the records before a place; see `delete_records`, which takes an offset.

        Args:
            position: an offset, "latest" (all there is), or a moment: everything before the first record that
                is not older, or all, where every record is.

        Returns:
            Where the log starts now.

        Raises:
            OptionError, TypeError: what `position` cannot be.
            OffsetOutOfRangeError and others: as for `delete_records`.
        """
        return self.delete_records(self._resolve("position", position))

    def exclusive(self, timeout: opt.Duration | None = 0) -> Hold:
        """Hold the partition for exclusive writing: only this process, with all its threads, appends to it.

        Appends are quicker while it is held, because the kernel need not be asked each time; those of other
        processes wait, or raise `LockTimeoutError` when they have a timeout. Reading is as ever.

            with partition.exclusive():
                partition.append(values)

        Args:
            timeout: seconds to wait for another holder; None: as long as it takes.

        Raises:
            PartitionHeldError: somebody holds it already; the message names the process.
            ClosedError, ForkedError: the store is closed, or was opened by a parent process.
        """
        return Hold(self._log(), opt.parse_timeout("timeout", timeout))

    def __getitem__(self, offset: int) -> Record:
        """The record at `offset`.

        Raises:
            OffsetOutOfRangeError: (a `LookupError`) before the beginning, or at or beyond the end.
            SerializationError: the topic's serializer cannot read it.
        """
        if isinstance(offset, slice):
            raise TypeError("a partition is read by one offset; for several use .records(start, stop)")
        if isinstance(offset, (bool, np.bool_)) or not hasattr(offset, "__index__"):
            raise TypeError(f"offset must be an int, not {type(offset).__name__}")
        offset = offset.__index__()
        log = self._log()
        if offset < 0:
            raise self._out_of_range(offset, "offsets are not negative; for the last records use .tail(n)")
        if not log.start_offset <= offset < log.high_watermark:
            raise self._out_of_range(offset)
        batch = PartitionReader(log, offset, offset + 1, self._topic._schema).next_batch()
        if batch is None:
            raise self._out_of_range(offset, "the record is no longer there")
        return batch[0]

    def __iter__(self) -> Iterator[Record]:
        return self.records()

    def tail(self, n: int = 10) -> list[Record]:
        """The last `n` records, or as many as there are, in order.

        Raises:
            OptionError: `n` is negative.
            SerializationError: the topic's serializer cannot read one of them.
        """
        count = opt.parse_int("n", n, minimum=0, maximum=opt.INT64_MAX)
        log = self._log()
        end, span = log.high_watermark, count
        while count > 0:  # what was compacted has gaps: then from further back
            start = max(log.start_offset, end - span)
            try:
                found = list(PartitionReader(log, start, max(start, end), self._topic._schema))
            except OffsetOutOfRangeError:
                if start >= log.start_offset:
                    raise
                continue  # they were deleted meanwhile: those that are left
            if len(found) >= count or start <= log.start_offset:
                return found[-count:]
            span *= 4
        return []

    def records(self, start: Position | None = None, stop: Position | None = None) -> Iterator[Record]:
        """The records from `start` up to, not including, `stop`; see `scan`.

        Raises:
            OffsetOutOfRangeError, CorruptLogError: as for `scan`.
            SerializationError: the topic's serializer cannot read a record, which it names (while iterating).
        """
        return self._reader(start, stop)

    def scan(self, start: Position | None = None, stop: Position | None = None) -> Iterator[Batch]:
        """The batches that hold the offsets from `start` up to, not including, `stop`.

        Batches at the edges are sliced. Nothing is copied: batches lend the mapped file. Their columns are
        bytes; their records come through the topic's serializers.

        Args:
            start: an offset, "earliest" (the default), "latest" or a moment.
            stop: likewise; the end as it is now when left out, and when it lies beyond that end.

        Raises:
            OffsetOutOfRangeError: `start` is before the beginning or beyond the end.
            CorruptLogError: stored bytes are not what was written (while iterating).
        """
        return iter(self._reader(start, stop).next_batch, None)

    def arrays(
        self, start: Position | None = None, stop: Position | None = None
    ) -> Iterator[npt.NDArray[Any]]:
        """The values from `start` up to `stop` as arrays, one a batch, straight from the mapped file.

        Each is one-dimensional and read-only, of the topic's `dtype`, or of void items of `value_bytes`.

        Raises:
            OptionError: the topic has neither `dtype` nor `value_bytes`.
            OffsetOutOfRangeError, CorruptLogError: as for `scan`.
        """
        if self._topic.options.value_width < 0:
            raise OptionError(
                f"topic {self.topic!r} has values of varying length: use .scan() and batch.values, or make "
                "the topic with dtype= or value_bytes=",
                topic=self.topic,
                partition=self._index,
            )
        return (batch.array for batch in self.scan(start, stop))

    def offset_for_time(self, time: opt.Time) -> int | None:
        """The offset of the first record whose timestamp is at or after `time`; None when there is none.

        Args:
            time: an aware `datetime`, a `numpy.datetime64`, or int nanoseconds since the epoch.
        """
        found = self._log().find_time(opt.parse_time("time", time))
        return None if found is None else found[0]

    def wait(self, offset: int, timeout: opt.Duration | None = None) -> bool:
        """Wait until the record at `offset` can be read.

        Args:
            timeout: seconds to wait; None: for ever; 0: only look.

        Returns:
            True when it can be read, False when `timeout` passed.
        """
        wanted = opt.parse_int("offset", offset, minimum=0, maximum=opt.INT64_MAX)
        return self._log().wait(wanted, 0, opt.parse_timeout("timeout", timeout))

    def stats(self, *, exact: bool = False) -> PartitionStats:
        """What is in the partition, how far consumer groups are, and what this process has done with it.

        It is not opened for that.

        Args:
            exact: count records and raw bytes batch by batch; see `Store.stats`.

        Raises:
            TopicDeletedError: the topic was deleted.
            ClosedError: the store is closed.
            StorageError: a system call failed.
        """
        from pystream import measuring

        topic = self._topic
        exact = opt.parse_flag("exact", exact)
        with topic._telling_where():
            return measuring.of_partition(topic._store, topic.name, topic.uuid, self._index, exact)

    def verify(self, *, progress: Callable[[int, int], object] | None = None) -> Report:
        """Check every file of the partition; see `pystream.verify`.

        Raises:
            TopicNotFoundError: its topic was deleted.
            ClosedError: the store is closed.
            StorageError: a directory cannot be read.
        """
        store = self._topic._store
        store._check()
        from pystream.verification import verify

        return verify(store.path, self.topic, self._index, progress=progress)

    def flush(self, durable: bool = True) -> None:
        """Put everything appended so far, by anyone, on the disk.

        Args:
            durable: False waits for nothing: what `append` returned is already safe from the death of
                any process.

        Raises:
            StorageError: the sync failed; the partition is poisoned until the store is opened again.
        """
        log = self._log()
        if durable:
            log.sync()

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The partition from the earliest record to the end as it is now, as an Arrow stream; see `Topic`."""
        reader = self._reader(None, None)
        return ArrowStream(self._topic._schema, [reader]).__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        return f"<pystream.Partition {self.topic!r}/{self._index}>"

    def _log(self) -> LogHandle:
        self._topic._store._check()
        if self._handle is None:
            self._handle = self._topic._open_log(self._index)
        return self._handle

    def _reader(self, start: Position | None, stop: Position | None) -> PartitionReader:
        log = self._log()
        while True:
            first = self._resolve("start", "earliest" if start is None else start)
            end = log.high_watermark
            last = end if stop is None else min(end, self._resolve("stop", stop))
            moved = first < log.start_offset
            if first > end or (moved and hasattr(start, "__index__")):
                raise self._out_of_range(first)
            try:
                return PartitionReader(log, first, max(first, last), self._topic._schema)
            except OffsetOutOfRangeError:  # what a word stands for was deleted this moment: it moves along
                if hasattr(start, "__index__") or first >= log.start_offset:
                    raise

    def _resolve(self, name: str, position: object) -> int:
        """The offset that a position stands for now. Offsets are taken as they are."""
        log = self._log()
        if isinstance(position, str):
            word = opt.parse_choice(name, position, ("earliest", "latest"))
            return log.start_offset if word == "earliest" else log.high_watermark
        if hasattr(position, "__index__"):
            return opt.parse_int(name, position, minimum=0, maximum=opt.INT64_MAX)
        if not isinstance(position, (date, np.datetime64)):
            kind = type(position).__name__
            raise TypeError(f"{name}= must be an offset, 'earliest', 'latest' or a moment, not {kind}")
        found = log.find_time(opt.parse_time(name, position))
        return log.high_watermark if found is None else found[0]

    def _place(self, name: str, position: object, durable: bool) -> int:
        """The same, checked; `durable`: of what is on the disk."""
        while True:
            offset = self._resolve(name, position)
            if durable and position == "latest":
                offset = min(offset, self.durable_offset)
            # What a word or a moment stands for may be deleted this moment: then it stands for another.
            moved = offset < self.beginning_offset
            if offset > self._log().high_watermark or (moved and hasattr(position, "__index__")):
                raise self._out_of_range(offset)
            if not moved:
                return offset

    def _out_of_range(self, offset: int, hint: str | None = None) -> OffsetOutOfRangeError:
        log = self._log()
        hint = hint or f"it holds {log.start_offset} up to, not including, {log.high_watermark}"
        return OffsetOutOfRangeError(
            f"offset {offset} is not in {self.topic!r}/{self._index}: {hint}",
            topic=self.topic,
            partition=self._index,
            offset=offset,
        )
