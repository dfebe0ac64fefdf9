"""Consumers and producers for asyncio: what would block a thread is awaited instead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar, overload
from weakref import WeakKeyDictionary

from pystream import options as opt
from pystream._native import aio as native
from pystream._native.bells import Bell
from pystream._native.delivery import BufferFull
from pystream.errors import ClosedError

if TYPE_CHECKING:
    from pystream._native.batch import Batch, Record
    from pystream._native.producer import RecordMetadata
    from pystream.consumer import Consumer
    from pystream.partition import Position
    from pystream.places import OffsetAndMetadata, OffsetAndTimestamp, PartitionLike, TopicPartition, Topics
    from pystream.producer import Producer
    from pystream.stats import ConsumerStats, ProducerStats

T = TypeVar("T")

# Longer than any program runs; some loops count in small numbers.
TIMER_S_MAX: Final = 365 * 86400.0

_bells: WeakKeyDictionary[asyncio.AbstractEventLoop, Bell] = WeakKeyDictionary()


def _bell_of(loop: asyncio.AbstractEventLoop) -> Bell:
    """The bell that wakes a loop, which polls it from now on. To be called by the loop's thread."""
    bell = _bells.get(loop)
    if bell is None or bell.forked:
        bell = Bell()
        loop.add_reader(bell.fileno(), native.answer, bell)
        _bells[loop] = bell
    return bell


class _Deadline:
    """The end of one call's patience. timeout_ns: -1: there is none."""

    def __init__(self, timeout_ns: int) -> None:
        self.loop = asyncio.get_running_loop()
        seconds = min(timeout_ns / 1e9, TIMER_S_MAX)
        self.at = None if timeout_ns < 0 else self.loop.time() + seconds
        self.is_past = timeout_ns == 0
        self.has_rung = True

    async def wait(
        self,
        watch: Callable[[Bell, asyncio.Future[bool]], native.Watch | None],
        slice_ns: int | None = None,
    ) -> None:
        """Wait until the watch rings, a slice of so many ns is over, or the deadline: then `is_past`.

        Cancelled at any point, it leaves nothing behind.
        """
        future: asyncio.Future[bool] = self.loop.create_future()
        started = watch(_bell_of(self.loop), future)
        if started is None:
            await asyncio.sleep(0)
            return
        until = self.at
        if slice_ns is not None:
            slice_end = self.loop.time() + slice_ns / 1e9
            until = slice_end if until is None else min(until, slice_end)
        timer = None if until is None else self.loop.call_at(until, _run_out, future)
        try:
            self.has_rung = await future
            self.is_past = not self.has_rung and until == self.at
        finally:
            started.cancel()
            if timer is not None:
                timer.cancel()


def _run_out(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(False)


class AsyncConsumer:
    """A `Consumer` for asyncio. Made by `Store.async_consumer`.

        async with store.async_consumer("clicks") as consumer:
            async for record in consumer:
                ...

    What waits is awaited: `poll`, iteration, `batches`; everything else does not wait, and is as in
    `Consumer`. A wait takes no thread: one native thread of the process sleeps for many, and a consumer with
    records at hand does not wait at all. It gives way to other tasks about every millisecond all the same.

    A wait that is cancelled has consumed nothing: the next one gives what it would have given. So
    `asyncio.timeout`, `wait_for` and task groups lose no records.

    One task at a time waits for records: a second one gets a `RuntimeError`. Others may `seek`, `pause`,
    `resume`, `assign` or `subscribe` meanwhile; the wait goes on with what is read then. Closing the consumer
    or the store, from any thread, ends it: `poll` raises `ClosedError`, an iteration stops.
    """

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._fetcher = consumer._fetcher
        self._turn = native.Turn()
        self._stream = self._fetcher.records(0)

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._consumer.closed

    # ---- what is read -----------------------------------------------------------------------------

    def subscribe(self, topics: Topics) -> None:
        """Read all partitions of `topics`, and nothing else; see `Consumer.subscribe`."""
        self._consumer.subscribe(topics)
        self._fetcher.nudge()

    def assign(self, partitions: Iterable[TopicPartition | tuple[str, int] | tuple[str, int, int]]) -> None:
        """Read these partitions, and nothing else; see `Consumer.assign`."""
        self._consumer.assign(partitions)
        self._fetcher.nudge()

    def assignment(self) -> list[TopicPartition]:
        """The partitions being read, in order."""
        return self._consumer.assignment()

    def pause(self, *partitions: PartitionLike) -> None:
        """Read nothing from these partitions until they are resumed. They keep their place."""
        self._consumer.pause(*partitions)
        self._fetcher.nudge()

    def resume(self, *partitions: PartitionLike) -> None:
        """Read these partitions again."""
        self._consumer.resume(*partitions)
        self._fetcher.nudge()

    def paused(self) -> list[TopicPartition]:
        """The partitions that are paused, in order."""
        return self._consumer.paused()

    # ---- reading ----------------------------------------------------------------------------------

    async def poll(self, timeout: opt.Duration | None = None) -> Batch | None:
        """The next batch, or None when none came within `timeout`; see `Consumer.poll`.

        Args:
            timeout: seconds to wait; None: until there is one; 0: not at all.

        Raises:
            RuntimeError: another task waits for records of this consumer.
            OptionError: nothing is assigned.
            CorruptLogError: stored bytes are not what was written.
            TopicDeletedError: a topic was deleted. `subscribe` or `assign` anew to go on without it.
            ClosedError: the consumer is closed, perhaps meanwhile.
        """
        self._consumer._check_assigned()
        batch = await self._fetch(self._poll_now, opt.parse_timeout("timeout", timeout))
        if batch is None:
            self._consumer._check()  # closed meanwhile
        return batch

    def __aiter__(self) -> AsyncIterator[Record]:
        self._consumer._check_assigned()
        return native.AsyncRecords(self._fetcher, self._turn, self._next_record)

    def batches(self) -> AsyncIterator[Batch]:
        """Batches as they come, until none came for the consumer's `timeout`; see `poll`."""
        self._consumer._check_assigned()
        return _Several(self, self._poll_now)

    async def _next_record(self) -> Record:
        record = await self._fetch(self._record_now, self._consumer._timeout_ns)
        if record is None:
            raise StopAsyncIteration
        return record

    def _poll_now(self) -> Batch | None:
        return self._fetcher.poll(0)

    def _record_now(self) -> Record | None:
        return next(self._stream, None)

    async def _fetch(self, take: Callable[[], T | None], timeout_ns: int) -> T | None:
        """What `take` gives, once it gives something; None: none in time, or closed meanwhile.

        Nothing is awaited between taking and returning, so that a cancellation finds nothing taken.
        """
        if self._turn.is_over():
            await asyncio.sleep(0)
            self._turn.begin()
        found = take()
        if found is not None or timeout_ns == 0:
            return found
        deadline = _Deadline(timeout_ns)
        while True:
            await deadline.wait(self._watch, self._fetcher.slice_ns)
            self._turn.begin()
            self._fetcher.waited(deadline.has_rung)
            if self._fetcher.closed:
                return None
            found = take()
            if found is not None or deadline.is_past:
                return found

    def _watch(self, bell: Bell, future: asyncio.Future[bool]) -> native.Watch | None:
        return native.watch_fetcher(self._fetcher, bell, future)

    # ---- places -----------------------------------------------------------------------------------

    def position(self, partition: PartitionLike) -> int:
        """The offset of the next record to consume; see `Consumer.position`."""
        return self._consumer.position(partition)

    def seek(self, partition: PartitionLike, offset: Position) -> None:
        """Go on at `offset`, "earliest", "latest", or a moment; see `Consumer.seek`."""
        self._consumer.seek(partition, offset)
        self._fetcher.nudge()

    def seek_to_beginning(self, *partitions: PartitionLike) -> None:
        """Go on at the earliest record of these partitions, or of all."""
        self._consumer.seek_to_beginning(*partitions)
        self._fetcher.nudge()

    def seek_to_end(self, *partitions: PartitionLike) -> None:
        """Go on with the next record appended to these partitions, or to all."""
        self._consumer.seek_to_end(*partitions)
        self._fetcher.nudge()

    def beginning_offsets(self, partitions: Iterable[PartitionLike]) -> dict[PartitionLike, int]:
        """For each partition, assigned or not, the offset of its earliest record."""
        return self._consumer.beginning_offsets(partitions)

    def end_offsets(self, partitions: Iterable[PartitionLike]) -> dict[PartitionLike, int]:
        """For each partition, assigned or not, the offset after its last record."""
        return self._consumer.end_offsets(partitions)

    def offsets_for_times(
        self, times: Mapping[PartitionLike, opt.Time]
    ) -> dict[PartitionLike, OffsetAndTimestamp | None]:
        """For each partition, the first record whose timestamp is at or after the time; None if none is."""
        return self._consumer.offsets_for_times(times)

    def lag(self) -> dict[TopicPartition, int]:
        """For each partition assigned, how many offsets lie between its position and its end."""
        return self._consumer.lag()

    def stats(self) -> ConsumerStats:
        """What it has done, and where it is; see `Consumer.stats`."""
        return self._consumer.stats()

    # ---- its group --------------------------------------------------------------------------------

    @property
    def group(self) -> str | None:
        """The name of its group, or None."""
        return self._consumer.group

    @property
    def member_id(self) -> str | None:
        """What its group calls it; see `Consumer.member_id`."""
        return self._consumer.member_id

    @property
    def generation(self) -> int | None:
        """How often its group has shared out partitions; None without a group."""
        return self._consumer.generation

    async def commit(
        self,
        offsets: Mapping[PartitionLike, int | OffsetAndMetadata] | None = None,
        *,
        durable: bool = False,
    ) -> None:
        """Say that everything is done up to here; see `Consumer.commit`.

        Only `durable=True` is waited for, in a thread of the loop's executor.
        """
        durable = opt.parse_flag("durable", durable)
        self._consumer.commit(offsets)
        if durable:
            await asyncio.get_running_loop().run_in_executor(None, self._consumer._member().save)

    @overload
    def committed(self, partition: PartitionLike, *, metadata: Literal[False] = False) -> int | None: ...
    @overload
    def committed(self, partition: PartitionLike, *, metadata: Literal[True]) -> OffsetAndMetadata | None: ...
    def committed(
        self, partition: PartitionLike, *, metadata: bool = False
    ) -> int | OffsetAndMetadata | None:
        """The group's committed offset in any partition; see `Consumer.committed`."""
        if opt.parse_flag("metadata", metadata):
            return self._consumer.committed(partition, metadata=True)
        return self._consumer.committed(partition)

    def seek_to_committed(self, *partitions: PartitionLike) -> None:
        """Go on at the committed offset of these partitions, or of all; see `Consumer.seek_to_committed`."""
        self._consumer.seek_to_committed(*partitions)
        self._fetcher.nudge()

    def heartbeat(self) -> None:
        """Tell the group that this consumer lives; see `Consumer.heartbeat`."""
        self._consumer.heartbeat()

    # ---- life -------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Stop reading. Ends a wait of another task. Twice is once; batches handed out stay good."""
        self._consumer.close()

    async def __aenter__(self) -> AsyncConsumer:
        self._consumer._check()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._consumer._close(clean=error is None)

    def __repr__(self) -> str:
        return repr(self._consumer).replace("Consumer", "AsyncConsumer", 1)


class _Several(AsyncIterator[T], Generic[T]):
    """What a consumer gives one by one, until its `timeout`."""

    def __init__(self, consumer: AsyncConsumer, take: Callable[[], T | None]) -> None:
        self._consumer = consumer
        self._take = take

    async def __anext__(self) -> T:
        found = await self._consumer._fetch(self._take, self._consumer._consumer._timeout_ns)
        if found is None:
            raise StopAsyncIteration
        return found


class AsyncProducer:
    """A `Producer` for asyncio. Made by `Topic.async_producer`.

        async with topic.async_producer() as producer:
            await producer.send(b"/home", key=b"user-17")

    As with `Producer`, `send` acknowledges nothing; `flush` does, or a delivery callback. Batches go out by
    the process's helper thread, and what waits for it is awaited: for room in the buffer, for delivery.
    Cancelling a wait takes back nothing: records on their way go on, and can be waited for again.

    Delivery callbacks run in the loop's thread, within `send`, `flush` and `close`; those of `send_many` in
    the thread that does it.

    Any number of tasks may use it. Leaving an `async with` flushes and closes, whatever happened inside.
    """

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        native.never_wait(producer)
        self._turn = native.Turn()

    @property
    def topic(self) -> str:
        """The name of the topic it writes to."""
        return self._producer.topic

    @property
    def closed(self) -> bool:
        """True once `close` was called, or the store was closed."""
        return self._producer.closed

    def stats(self) -> ProducerStats:
        """What it has done, and has in hand; see `Producer.stats`."""
        return self._producer.stats()

    async def send(
        self,
        value: Any,
        key: Any = None,
        *,
        headers: Any = None,
        timestamp: Any = None,
        partition: int | None = None,
        on_delivery: Callable[[Exception | None, RecordMetadata], object] | None = None,
    ) -> None:
        """Put one record into the open batch of its partition, when there is room.

        Cancelled, or raising, it has not taken the record. Arguments and errors are those of `Producer.send`.
        """
        if self._turn.is_over():
            await asyncio.sleep(0)
            self._turn.begin()
        deadline = None
        while True:
            seen = native.deliveries(self._producer)
            try:
                self._producer.send(
                    value,
                    key,
                    headers=headers,
                    timestamp=timestamp,
                    partition=partition,
                    on_delivery=on_delivery,
                )
                return
            except BufferFull:
                deadline = deadline or _Deadline(-1)
            await self._progress(deadline, seen)

    async def send_many(
        self,
        values: Any,
        *,
        keys: Any = None,
        headers: Any = None,
        timestamps: Any = None,
        partition: int | None = None,
    ) -> None:
        """Append many records now, as batches of their own, in a thread of the loop's executor.

        When it returns they are acknowledged. Cancelled, it goes on all the same, and arrays must not be
        changed until it has ended. Arguments and errors are those of `Producer.send_many`.
        """

        def work() -> None:
            self._producer.send_many(
                values, keys=keys, headers=headers, timestamps=timestamps, partition=partition
            )

        await asyncio.get_running_loop().run_in_executor(None, work)

    async def flush(self, timeout: opt.Duration | None = None, durable: bool = False) -> None:
        """Wait until everything sent before is appended, and so safe from the death of any process.

        Cancelled, what was sent goes out all the same; flush again to wait for it.

        Args:
            timeout: seconds to wait; None: as long as it takes.
            durable: wait until it is on the disk, too: synced by a thread of the loop's executor.

        Raises:
            LockTimeoutError: `timeout` passed; what is left stays queued.
            DeliveryError: records could not go out.
            StorageError: a sync failed.
            ClosedError, ForkedError: the producer is closed, perhaps meanwhile, or was made by a parent
                process.
        """
        durable = opt.parse_flag("durable", durable)
        deadline = _Deadline(opt.parse_timeout("timeout", timeout))
        departure = native.Departure(self._producer)
        while True:
            seen = native.deliveries(self._producer)
            is_done = departure.is_done()
            if is_done or native.has_news(self._producer):
                native.collect(self._producer)  # raises what went wrong
            if is_done:
                break
            if deadline.is_past:
                native.raise_late(self._producer)
            await self._progress(deadline, seen)
        if durable:
            await deadline.loop.run_in_executor(None, native.sync, self._producer)

    async def close(self, timeout: opt.Duration | None = None) -> None:
        """Flush, and accept no more. Twice is once. Cancelled, it stays open.

        Args:
            timeout: seconds to go on trying where records cannot go out for now; None: one more try.

        Raises:
            DeliveryError: records were given up: their number, and as its cause the reason.
        """
        timeout_ns = opt.parse_timeout("timeout", timeout)
        if self.closed:
            return
        deadline = _Deadline(timeout_ns)
        try:
            departure = native.Departure(self._producer)
            while True:
                seen = native.deliveries(self._producer)
                given_up = timeout_ns < 0 and native.has_error(self._producer)
                if given_up or deadline.is_past or departure.is_done():
                    break
                await self._progress(deadline, seen)
        except ClosedError:
            return  # by another task
        self._producer.close(0)

    async def _progress(self, deadline: _Deadline, seen: int) -> None:
        """Wait until something was delivered, or failed, since the count `seen`."""

        def watch(bell: Bell, future: asyncio.Future[bool]) -> native.Watch | None:
            return native.watch_producer(self._producer, bell, future, seen)

        await deadline.wait(watch)
        self._turn.begin()

    async def __aenter__(self) -> AsyncProducer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return repr(self._producer).replace("Producer", "AsyncProducer", 1)
