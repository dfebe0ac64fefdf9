"""A consumer: several partitions read as one endless stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from re import Pattern
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from pystream import options as opt
from pystream import serializers
from pystream._native.reader import Fetcher, PartitionReader
from pystream.errors import ClosedError, OptionError, UnsupportedError
from pystream.partition import Partition, Position

if TYPE_CHECKING:
    from pystream._native.batch import Batch, Record
    from pystream._native.schema import Schema
    from pystream.serializers import SerializerLike
    from pystream.store import Store
    from pystream.topic import Topic

SPIN_NS_MAX = 10**9


class TopicPartition(NamedTuple):
    """A partition of a topic, and perhaps a place in it."""

    topic: str
    partition: int
    offset: int | None = None


class OffsetAndTimestamp(NamedTuple):
    """A record found by time: its offset, and its timestamp in nanoseconds since the epoch."""

    offset: int
    timestamp: int


PartitionLike: TypeAlias = TopicPartition | tuple[str, int]
"""A `TopicPartition`, or a plain (topic, partition)."""

Start: TypeAlias = Position | Mapping[PartitionLike, Position]
"""Where partitions begin: "earliest", "latest", a moment, or {(topic, partition): offset, moment or word}."""

_Key: TypeAlias = tuple[str, int]


class Consumer:
    """Reads partitions as records or batches arrive. Made by `Store.consumer`.

    Iterating it gives records, for ever, or until none came for `timeout` seconds; iterating again goes on
    where it stopped. A record counts as consumed when the next one is asked for: until then `position`
    is its own offset. Partitions take turns, a batch at a time; within one, order is kept.

    Keys and values of records pass through `value=` and `key=`, where given; batches' columns are bytes.
    A record that cannot be deserialized raises `SerializationError` and is not consumed: iterating again
    raises it again, `seek` to the offset behind it passes over it.

    A consumer is used by one thread; `close` may come from another: a `poll` under way raises `ClosedError`,
    an iteration under way stops.
    """

    def __init__(
        self,
        store: Store,
        topics: Iterable[str],
        *,
        start: Start = "earliest",
        timeout: opt.Duration | None = None,
        spin: opt.Duration = 20e-6,
        value: SerializerLike | Mapping[str, SerializerLike] | None = None,
        key: SerializerLike | Mapping[str, SerializerLike] | None = None,
    ) -> None:
        self._store = store
        self._start = start
        self._timeout_ns = opt.parse_timeout("timeout", timeout)
        self._spin_ns = opt.parse_duration("spin", spin, maximum=SPIN_NS_MAX)
        self._values, self._keys = (
            serializers.parse_readers("value", value),
            serializers.parse_readers("key", key),
        )
        self._topics: dict[str, Topic] = {}
        self._schemas: dict[str, Schema] = {}
        self._readers: dict[_Key, PartitionReader] = {}
        self._fetcher = Fetcher(spin_ns=self._spin_ns)
        self._closed = False
        names = tuple(topics)
        for mapping in (value, key):
            for topic in mapping if isinstance(mapping, Mapping) else ():
                self._topic(topic)
        if isinstance(start, Mapping):
            for partition in start:
                self._partition(partition)
        else:
            self._check_start(start)
        if names:
            self.subscribe(names)
        store._users.add(self)

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._closed

    # ---- what is read -----------------------------------------------------------------------------

    def subscribe(self, topics: str | Iterable[str]) -> None:
        """Read all partitions of `topics`, and nothing else. Partitions read before keep their place.

        Raises:
            TopicNotFoundError: a topic does not exist; nothing changes.
            UnsupportedError: a pattern instead of names.
        """
        self._check()
        self._forget_deleted()
        names = [topics] if isinstance(topics, (str, Pattern)) else list(topics)
        for name in names:
            if isinstance(name, Pattern) or (isinstance(name, str) and name.startswith("^")):
                raise UnsupportedError("subscription by pattern is not available in this version of pystream")
            if not isinstance(name, str):
                several = "; give several one by one: consumer(*names)" * isinstance(name, (list, tuple))
                raise TypeError(f"topic name must be a str, not {type(name).__name__}{several}")
        found = [self._topic(name) for name in dict.fromkeys(names)]
        self._assign({(topic.name, index): None for topic in found for index in range(topic.partitions)})

    def assign(self, partitions: Iterable[TopicPartition | tuple[str, int] | tuple[str, int, int]]) -> None:
        """Read these partitions, and nothing else, each from its offset if it names one.

        Those that name none keep their place, or begin where `start` says.

        Raises:
            TopicNotFoundError, OptionError: no such topic or partition; nothing changes.
            OffsetOutOfRangeError: an offset is not in its partition; nothing changes.
        """
        self._check()
        self._forget_deleted()
        wanted: dict[_Key, int | None] = {}
        for given in partitions:
            if not isinstance(given, tuple) or len(given) not in (2, 3):
                raise TypeError(f"expected (topic, partition) or (topic, partition, offset), not {given!r}")
            where = TopicPartition(*given)
            wanted[self._partition(where[:2])] = where.offset
        self._assign(wanted)

    def assignment(self) -> list[TopicPartition]:
        """The partitions being read, in order."""
        self._check()
        return [TopicPartition(*key) for key in sorted(self._readers)]

    def pause(self, *partitions: PartitionLike) -> None:
        """Read nothing from these partitions until they are resumed. They keep their place."""
        for reader in [self._reader(partition) for partition in partitions]:
            reader.pause()

    def resume(self, *partitions: PartitionLike) -> None:
        """Read these partitions again."""
        for reader in [self._reader(partition) for partition in partitions]:
            reader.resume()

    def paused(self) -> list[TopicPartition]:
        """The partitions that are paused, in order."""
        self._check()
        return [TopicPartition(*key) for key, reader in sorted(self._readers.items()) if reader.paused]

    # ---- reading ----------------------------------------------------------------------------------

    def poll(self, timeout: opt.Duration | None = None) -> Batch | None:
        """The next batch, or None when none came within `timeout`.

        The batch is consumed at once: `position` is behind it. It lends the mapped file and stays good
        whatever is closed. Its records pass through the consumer's serializers, its columns do not.

        Args:
            timeout: seconds to wait; None: until there is one; 0: not at all.

        Raises:
            OptionError: nothing is assigned.
            CorruptLogError: stored bytes are not what was written.
            TopicDeletedError: a topic was deleted. `subscribe` or `assign` anew to go on without it.
            ClosedError: the consumer is closed, perhaps meanwhile.
        """
        self._check_assigned()
        batch = self._fetcher.poll(opt.parse_timeout("timeout", timeout))
        if batch is None:
            self._check()  # closed meanwhile
        return batch

    def __iter__(self) -> Iterator[Record]:
        self._check_assigned()
        return self._fetcher.records(self._timeout_ns)

    def batches(self) -> Iterator[Batch]:
        """Batches as they come, until none came for `timeout` seconds; see `poll`."""
        self._check_assigned()
        return iter(partial(self._fetcher.poll, self._timeout_ns), None)

    # ---- places -----------------------------------------------------------------------------------

    def position(self, partition: PartitionLike) -> int:
        """The offset of the next record to consume.

        Raises:
            OptionError: the partition is not assigned.
        """
        return self._reader(partition).position

    def seek(self, partition: PartitionLike, offset: Position) -> None:
        """Go on at `offset`, "earliest", "latest", or a moment.

        Raises:
            OffsetOutOfRangeError: the partition does not have that offset (nor ends there).
            OptionError: the partition is not assigned.
        """
        reader = self._reader(partition)
        reader.seek(self._place(partition, offset, "offset"))

    def seek_to_beginning(self, *partitions: PartitionLike) -> None:
        """Go on at the earliest record of these partitions, or of all."""
        self._seek_all(partitions, "earliest")

    def seek_to_end(self, *partitions: PartitionLike) -> None:
        """Go on with the next record appended to these partitions, or to all."""
        self._seek_all(partitions, "latest")

    def beginning_offsets(self, partitions: Iterable[PartitionLike]) -> dict[PartitionLike, int]:
        """For each partition, assigned or not, the offset of its earliest record."""
        return {given: self._partition_of(given).beginning_offset for given in partitions}

    def end_offsets(self, partitions: Iterable[PartitionLike]) -> dict[PartitionLike, int]:
        """For each partition, assigned or not, the offset after its last record."""
        return {given: self._partition_of(given).end_offset for given in partitions}

    def offsets_for_times(
        self, times: Mapping[PartitionLike, opt.Time]
    ) -> dict[PartitionLike, OffsetAndTimestamp | None]:
        """For each partition, the first record whose timestamp is at or after the time; None if none is."""
        found: dict[PartitionLike, OffsetAndTimestamp | None] = {}
        for given, time in times.items():
            hit = self._partition_of(given)._log().find_time(opt.parse_time("time", time))
            found[given] = None if hit is None else OffsetAndTimestamp(*hit)
        return found

    # ---- life -------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop reading. Ends a wait in another thread. Twice is once; batches handed out stay good."""
        self._closed = True
        self._fetcher.close()

    def __enter__(self) -> Consumer:
        self._check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = ", closed" if self._closed else ""
        topics = ", ".join(map(repr, sorted({topic for topic, _ in self._readers}))) or "nothing"
        count = len(self._readers)
        return f"<pystream.Consumer of {topics}, {count} partition{'s' * (count != 1)}{state}>"

    # ---- inside -----------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._closed:
            raise ClosedError("the consumer is closed")
        self._store._check()

    def _check_assigned(self) -> None:
        self._check()
        if not self._readers:
            raise OptionError("the consumer reads nothing yet: subscribe() to topics or assign() partitions")

    def _forget_deleted(self) -> None:
        """Stop reading topics that were deleted; their names may be those of others now."""
        for name in [name for name, topic in self._topics.items() if topic._is_deleted()]:
            del self._topics[name]
            for key in [key for key in self._readers if key[0] == name]:
                self._fetcher.remove(self._readers.pop(key))

    def _topic(self, name: object) -> Topic:
        if not isinstance(name, str):
            raise TypeError(f"topic name must be a str, not {type(name).__name__}")
        if name not in self._topics:
            topic = self._store.topic(name)
            self._schemas[name] = serializers.schema_with(
                topic._stored_schema, self._values(name), self._keys(name)
            )
            self._topics[name] = topic
        return self._topics[name]

    def _partition(self, given: object) -> _Key:
        """The key of an existing partition."""
        if not isinstance(given, tuple) or len(given) not in (2, 3):
            raise TypeError(f"expected a TopicPartition or (topic, partition), not {given!r}")
        if type(given[1]) is int and given[:2] in self._readers:
            return given[0], given[1]
        partition = self._topic(given[0]).partition(given[1])
        return partition.topic, partition.index

    def _partition_of(self, given: PartitionLike) -> Partition:
        self._check()
        topic, index = self._partition(given)
        return self._topics[topic].partition(index)

    def _reader(self, given: PartitionLike) -> PartitionReader:
        self._check()
        key = self._partition(given)
        if key not in self._readers:
            raise OptionError(
                f"{key[0]!r}/{key[1]} is not assigned to this consumer", topic=key[0], partition=key[1]
            )
        return self._readers[key]

    def _place(self, given: PartitionLike, position: Position, name: str) -> int:
        partition = self._partition_of(given)
        offset = partition._resolve(name, position)
        partition._check_offset(offset)
        return offset

    def _seek_all(self, partitions: tuple[PartitionLike, ...], where: str) -> None:
        for key in [self._partition(given) for given in partitions] or list(self._readers):
            self.seek(key, where)

    def _check_start(self, start: Position) -> None:
        if isinstance(start, str):
            opt.parse_choice("start", start, ("earliest", "latest"))
        elif hasattr(start, "__index__"):
            raise OptionError(
                f"start={start}: an offset belongs to one partition; give {{(topic, partition): offset}}"
            )
        else:
            opt.parse_time("start", start)

    def _first_place(self, key: _Key) -> int:
        if not isinstance(self._start, Mapping):
            return self._place(key, self._start, "start")
        for given, position in self._start.items():
            if tuple(given[:2]) == key:
                return self._place(key, position, "start")
        return self._place(key, "earliest", "start")

    def _assign(self, wanted: Mapping[_Key, int | None]) -> None:
        """Put the readers of `wanted` in place of the present ones; all places are found first."""
        places: dict[_Key, int | None] = {}
        for key, offset in wanted.items():
            if offset is not None:
                places[key] = self._place(key, offset, "offset")
            else:
                places[key] = None if key in self._readers else self._first_place(key)
        for key in self._readers.keys() - places.keys():
            self._fetcher.remove(self._readers[key])  # refused while it is being read from
            del self._readers[key]
        for key, place in places.items():
            if key not in self._readers:
                assert place is not None
                reader = PartitionReader(self._partition_of(key)._log(), place, schema=self._schemas[key[0]])
                self._fetcher.add(reader)
                self._readers[key] = reader
            elif place is not None:
                self._readers[key].seek(place)
