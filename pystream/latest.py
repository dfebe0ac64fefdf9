"""A topic as a table: of each key the last value."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from typing import TYPE_CHECKING, Any

from pystream import options as opt
from pystream._native.reader import PartitionReader
from pystream._native.table import Table
from pystream.errors import OffsetOutOfRangeError
from pystream.places import TopicPartition

if TYPE_CHECKING:
    from pystream._native.log import LogHandle
    from pystream._native.table import Entry
    from pystream.consumer import Consumer
    from pystream.topic import Topic

_log = logging.getLogger("pystream")

LOOK_NS = 500_000_000
"""How long it may take until a partition that was added is read."""
BEHIND_NS_MIN = 1_000_000_000
"""Reading that took no longer than this is not asked whether it took too long."""


def _now_ns() -> int:
    """A clock that goes on while the machine sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class _Place:
    """How far one partition has been read.

    whole_ns: all that had been appended by then, by `_now_ns`, is in the table.
    """

    __slots__ = ("epoch", "log", "position", "reader", "whole_ns")

    def __init__(self, log: LogHandle) -> None:
        self.log = log
        self.position = -1
        self.epoch = -1
        self.whole_ns = 0
        self.reader: PartitionReader | None = None


class _Values(ValuesView[Any]):
    """The values as they are when iteration begins."""

    _mapping: Latest

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._mapping._pairs())


class _Items(ItemsView[Any, Any]):
    """Keys and values as they are when iteration begins."""

    _mapping: Latest

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return self._mapping._pairs()


class Latest(Mapping[Any, Any]):
    """The last value of each key of a topic, as a read-only mapping. Made by `Topic.latest`.

        prices = store.topic("prices", key="utf8", value="json").latest()
        prices["AAPL"]                        # of the last record with this key; KeyError when there is none
        prices.offset("AAPL"), prices.timestamp("AAPL")
        for symbol, price in prices.items(): ...
        while prices.wait(timeout=60): ...    # something has come

    Whatever is asked of it, it first reads what has been appended since, by any process, so it is as new as
    the log; `follow=False` keeps it as it was made until `refresh` is called. A record without a value (a
    tombstone) removes its key, records without a key are passed over. Iterating goes over the keys as they
    are at that moment.

    Keys and values pass through the topic's serializers, a value each time it is asked for. It reads any
    topic with keys, compacted or not (of a compacted one there is less to read), also where the store is
    open for reading only.

    It is kept in memory: about 160 bytes a key, and the bytes of key and value as they are stored. Threads
    may share it.

    A key is expected in one partition, as a producer puts it there. Where it is in several (an own
    partitioner, or partitions that were added), the record with the later timestamp counts. Records that
    retention removes from the log stay in the table. When it has fallen behind so far that records it has
    not read are gone, or records it has read were cut off by a power failure, the partition is read anew
    from its beginning.
    """

    def __init__(self, topic: Topic, *, follow: bool = True, durable: bool = False) -> None:
        self._topic = topic
        self._follow = opt.parse_flag("follow", follow)
        self._durable = opt.parse_flag("durable", durable)
        self._lock = threading.RLock()
        self._waiting = threading.Lock()  # one thread at a time waits
        self._waiter: Consumer | None = None
        self._table = Table(topic._schema)
        self._places: list[_Place] = []
        self._restarts = 0
        self._look_again_ns = 0
        self._changes = 0  # times that something was taken in
        if not self._follow:
            self.refresh()

    @property
    def topic(self) -> str:
        """The name of its topic."""
        return self._topic.name

    @property
    def restarts(self) -> int:
        """How often a partition was read anew because records were gone that had not been read, or tombstones
        may have been: it was not looked at for longer than `delete_retention`."""
        return self._restarts

    @property
    def positions(self) -> dict[int, int]:
        """For each partition the offset up to which it has been read."""
        with self._lock:
            return {number: place.position for number, place in enumerate(self._places)}

    # ---- keeping up -------------------------------------------------------------------------------

    def refresh(self) -> bool:
        """Take in all that was appended up to now.

        Returns:
            True when there was something.

        Raises:
            CorruptLogError: stored bytes are not what was written.
            TopicDeletedError, ClosedError, ForkedError: the topic, or the store, is gone.
        """
        changed = False
        with self._lock:
            self._look_again_ns = time.monotonic_ns() + LOOK_NS
            for number in range(len(self._places), self._topic.partitions):
                self._places.append(_Place(self._topic.partition(number)._log()))
            for place in self._places:
                changed = self._advance(place) or changed
            self._changes += changed
        return changed

    def wait(self, timeout: opt.Duration | None = None) -> bool:
        """Wait until there is something new, and take it in.

        Args:
            timeout: seconds to wait; None: for ever; 0: only look.

        Returns:
            True when there was something, False when `timeout` passed.

        Raises:
            As for `refresh`.
        """
        limit_ns = opt.parse_timeout("timeout", timeout)
        deadline = time.monotonic_ns() + limit_ns
        seen = self._changes
        while not self.refresh() and self._changes == seen:  # or another thread has taken it in
            left_ns = -1 if limit_ns < 0 else deadline - time.monotonic_ns()
            if limit_ns >= 0 and left_ns <= 0:
                return False
            self._sleep(left_ns)
        return True

    def _sleep(self, left_ns: int) -> None:
        """Until a record comes that is not in the table; a second at most, so that several may wait."""
        wait_s = 1.0 if left_ns < 0 else min(left_ns / 1e9, 1.0)
        if not self._waiting.acquire(timeout=wait_s):
            return
        try:
            waiter = self._waiter
            if waiter is None or waiter.closed:
                waiter = self._topic._store.consumer(start="latest", durable=self._durable)
                self._waiter = waiter
            wanted = {TopicPartition(self.topic, number): at for number, at in self.positions.items()}
            if set(waiter.assignment()) != set(wanted):
                waiter.assign(wanted)
            try:
                for partition, at in wanted.items():
                    waiter.seek(partition, at)
                waiter.poll(wait_s)
            except OffsetOutOfRangeError:
                return  # the table finds out itself
        finally:
            self._waiting.release()

    def _advance(self, place: _Place) -> bool:
        """Read one partition on. Lock held.

        Invariant: of a key that is in the table no tombstone was passed over. Compaction keeps each for
        `delete_retention`, so one that came after `whole_ns` is met by who has read on before that is over.
        """
        log, began_ns, again = place.log, _now_ns(), False
        if place.reader is not None and place.epoch != log.leader_epoch:
            end = log.epoch_end(place.epoch)
            if end is not None and end < place.position:
                self._restart(place, "records that were read have been cut off since")
            place.epoch = log.leader_epoch
        changed = False
        while True:
            try:
                if place.reader is None:
                    self._begin(place)
                assert place.reader is not None
                while (batch := place.reader.next_batch()) is not None:
                    self._table.apply(batch)
                    changed = True
                moved, place.position = place.reader.position != place.position, place.reader.position
                if moved and not again and self._is_late(place):
                    again = True  # if that takes as long, too, once more would not help
                    self._restart(place, "tombstones may have been removed that were not read yet")
                    began_ns = _now_ns()
                    continue
                place.whole_ns = began_ns
                return changed
            except OffsetOutOfRangeError:
                if place.reader is None:
                    continue  # the log start has moved since it was asked for
                self._restart(place, "records that were not read yet have been removed")
                changed = True

    def _begin(self, place: _Place) -> None:
        place.epoch = place.log.leader_epoch
        start = place.log.start_offset
        place.reader = PartitionReader(place.log, start, -1, self._topic._stored_schema, self._durable)
        place.position = start
        place.whole_ns = _now_ns()

    def _is_late(self, place: _Place) -> bool:
        """Whether it took so long to read on that compaction may have removed tombstones."""
        took_ns = _now_ns() - place.whole_ns
        if took_ns <= BEHIND_NS_MIN:
            return False
        options = self._topic.options
        return options.compacts and took_ns > options.delete_retention_ns

    def _restart(self, place: _Place, why: str) -> None:
        _log.warning(
            "latest() of topic %r reads partition %d anew from offset %d, having read up to %d: %s",
            self.topic,
            place.log.partition,
            place.log.start_offset,
            place.position,
            why,
        )
        self._restarts += 1
        self._table.forget(place.log.partition)
        place.reader = None

    # ---- the mapping ------------------------------------------------------------------------------

    def _now(self) -> Table:
        """The table, as new as it is to be. Lock held."""
        if self._follow and not self._is_current():
            self.refresh()
        return self._table

    def _is_current(self) -> bool:
        """Whether there is nothing to take in; new partitions are looked for now and then. Lock held."""
        store = self._topic._store._handle
        if time.monotonic_ns() >= self._look_again_ns or store.closed or store.forked:
            return False
        for place in self._places:
            log = place.log
            end = log.durable_offset if self._durable else log.high_watermark
            if end != place.position or log.leader_epoch != place.epoch:
                return False
        return True

    def _entry(self, key: Any) -> Entry:
        with self._lock:
            stored = self._table.stored(key)
            entry = self._now().entries.get(stored) if stored is not None else None
        if entry is None:
            raise KeyError(key)
        return entry

    def __getitem__(self, key: Any) -> Any:
        """The last value of `key`.

        Raises:
            KeyError: there is none, or it was removed.
            TypeError: keys are not of this type: without a serializer they are bytes.
            SerializationError: a serializer cannot make the key, or read the value.
        """
        return self._table.value(self._entry(key))

    def __contains__(self, key: object) -> bool:
        try:
            self._entry(key)
        except KeyError:
            return False
        return True

    def __len__(self) -> int:
        with self._lock:
            return len(self._now().entries)

    def __iter__(self) -> Iterator[Any]:
        with self._lock:
            table = self._now()
            there = list(table.entries.items())
        return (table.key(stored, entry) for stored, entry in there)

    def _pairs(self) -> Iterator[tuple[Any, Any]]:
        with self._lock:
            table = self._now()
            there = list(table.entries.items())
        return ((table.key(stored, entry), table.value(entry)) for stored, entry in there)

    def values(self) -> ValuesView[Any]:
        """The values, in no order that means anything."""
        return _Values(self)

    def items(self) -> ItemsView[Any, Any]:
        """Keys and values, all of one moment."""
        return _Items(self)

    def snapshot(self) -> dict[Any, Any]:
        """A dict of all keys and values, of one moment (`dict(table)` asks for one after the other)."""
        return dict(self._pairs())

    def offset(self, key: Any) -> int:
        """The offset of the last record with `key`. Raises KeyError."""
        return self._entry(key).offset

    def timestamp(self, key: Any) -> int | None:
        """The timestamp of the last record with `key`, in nanoseconds since 1970; None: it has none. Raises
        KeyError."""
        return self._entry(key).timestamp

    def partition(self, key: Any) -> int:
        """The partition of the last record with `key`. Raises KeyError."""
        return self._entry(key).partition

    def __repr__(self) -> str:
        return f"<pystream.Latest of topic {self.topic!r}, {len(self._table.entries)} keys>"
