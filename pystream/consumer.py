"""A consumer: several partitions read as one endless stream."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from re import Pattern
from types import TracebackType
from typing import TYPE_CHECKING, Literal, TypeAlias, overload

from pystream import options as opt
from pystream import serializers
from pystream._native.fetcher import Attention, Fetcher
from pystream._native.reader import PartitionReader
from pystream.altering import following
from pystream.errors import ClosedError, OptionError
from pystream.falling import Falls, OutOfRange, parse_policy
from pystream.partition import Partition, Position
from pystream.places import (
    OffsetAndMetadata,
    OffsetAndTimestamp,
    PartitionLike,
    Start,
    TopicPartition,
    Topics,
    check_start,
    parse_topics,
)

if TYPE_CHECKING:
    from uuid import UUID

    from pystream._native.batch import Batch, Record
    from pystream._native.schema import Schema
    from pystream.group.documents import Committed
    from pystream.group.membership import Membership
    from pystream.group.patterns import Follower
    from pystream.group.settings import GroupOptions
    from pystream.serializers import SerializerLike
    from pystream.stats import ConsumerStats
    from pystream.store import Store
    from pystream.topic import Topic

SPIN_NS_MAX = 10**9


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
        topics: Iterable[str | Pattern[str]],
        *,
        group: GroupOptions | None = None,
        start: Start = "earliest",
        out_of_range: OutOfRange | None = None,
        timeout: opt.Duration | None = None,
        spin: opt.Duration = 20e-6,
        durable: bool = False,
        value: SerializerLike | Mapping[str, SerializerLike] | None = None,
        key: SerializerLike | Mapping[str, SerializerLike] | None = None,
    ) -> None:
        self._store = store
        self._start = start
        self._falls = Falls(self, parse_policy(out_of_range, start))
        self._timeout_ns = opt.parse_timeout("timeout", timeout)
        self._spin_ns = opt.parse_duration("spin", spin, maximum=SPIN_NS_MAX)
        self._durable = opt.parse_flag("durable", durable)
        self._values = serializers.parse_readers("value", value)
        self._keys = serializers.parse_readers("key", key)
        self._topics: dict[str, Topic] = {}
        self._schemas: dict[str, Schema] = {}
        self._readers: dict[_Key, PartitionReader] = {}
        self._fetcher = Fetcher(spin_ns=self._spin_ns)
        self._membership: Membership | None = None
        self._follower: Follower | None = None
        self._growth: Attention | None = None
        self._asker: threading.Thread | None = None  # who asks for records
        self._closed = False
        names = tuple(topics)
        for mapping in (value, key):
            for topic in mapping if isinstance(mapping, Mapping) else ():
                self._topic(topic)
        if isinstance(start, Mapping):
            for partition in start:
                self._partition(partition)
        else:
            check_start(start)
        if group is not None:
            from pystream.group.membership import Membership

            self._membership = Membership(self, group)
        store._users.add(self)
        if names:
            try:
                self.subscribe(names)
            except BaseException:
                self._close(clean=False)
                raise

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._closed

    @property
    def skipped(self) -> int:
        """How many offsets were deleted before it had read them, and so passed over, since it was made."""
        return self._falls.skipped

    # ---- what is read -----------------------------------------------------------------------------

    @property
    def group(self) -> str | None:
        """The name of its group, or None."""
        return self._membership.options.name if self._membership is not None else None

    @property
    def member_id(self) -> str | None:
        """What its group calls it, 16 hexadecimal digits; None without a group, or before it has joined."""
        return (self._membership.member_id or None) if self._membership is not None else None

    @property
    def generation(self) -> int | None:
        """How often its group has shared out partitions; None without a group, or when that was deleted."""
        return self._membership.generation if self._membership is not None else None

    def subscribe(self, topics: Topics) -> None:
        """Read all partitions of `topics`, and nothing else. Partitions read before keep their place.

        In a group: the share of them that falls to this consumer. It takes at once what nobody else has, and
        the rest as the others give it up, which each does when it next asks for records.

        Args:
            topics: names of existing topics, or a pattern that whole names are to match: compiled, or text
                that begins with "^". Topics that match and are made later are read, too, from the moment
                they are there; those that are deleted are dropped. None at all: read nothing.

        Raises:
            TopicNotFoundError: a topic does not exist; nothing changes.
            OptionError: not a regular expression; or the group's members share out in another way.
        """
        self._check()
        self._forget_deleted()
        names, pattern = parse_topics(topics)
        if self._membership is not None:
            for name in names:
                self._topic(name)
            self._membership.subscribe(names, pattern)
            return
        if pattern is not None:
            from pystream.group.patterns import Follower

            follower = Follower(
                self._store.path, pattern, self._follow, read_only=self._store._handle.read_only
            )
            self._stop_following()
            self._follower = follower
            self._fetcher.attend(follower.attention)
            names = follower.topics()
        else:
            self._stop_following()
            self._growth = Attention(self._grow)
            self._fetcher.attend(self._growth)
        self._read_all(names)
        for name in names if pattern is None else ():
            following(self._store._handle).listen(self._topics[name], self)

    def _read_all(self, names: Iterable[str], places: Mapping[tuple[UUID, int], int] | None = None) -> None:
        found = [self._topic(name) for name in names]
        self._assign(
            {
                (topic.name, index): places.get((topic.uuid, index)) if places else None
                for topic in found
                for index in range(topic.partitions)
            }
        )

    def _follow(self, names: tuple[str, ...]) -> None:
        """Topics that match have come or gone, or have other names."""
        places = self._forget_deleted()
        for (name, index), reader in self._readers.items():
            if name not in names:  # renamed a moment ago, perhaps
                places[self._topics[name].uuid, index] = reader.position
        self._read_all((name for name in names if name in self._topics or name in self._store), places)

    def _topic_has_grown(self, topic: Topic) -> None:
        growth, count = self._growth, topic._options.partitions
        if growth is not None and (topic.name, count - 1) not in self._readers:
            growth.want()

    def _grow(self, waited: bool) -> None:
        """Topics that are read have got partitions, perhaps. All that these hold came since."""
        if waited:
            self._store._refresh_options()
        names = {name for name, _ in self._readers}
        wanted: dict[_Key, Position | None] = dict.fromkeys(self._readers)
        for name in names:
            for index in range(self._topics[name]._options.partitions):
                wanted.setdefault((name, index), "earliest")
        if len(wanted) > len(self._readers):
            self._assign(wanted)

    def _stop_following(self) -> None:
        self._fetcher.attend(None)
        self._growth = None
        if self._follower is not None:
            self._follower.close()
            self._follower = None

    def assign(self, partitions: Iterable[TopicPartition | tuple[str, int] | tuple[str, int, int]]) -> None:
        """Read these partitions, and nothing else, each from its offset if it names one.

        Those that name none keep their place, or begin where `start` says. In a group: they begin at their
        committed offsets, and no other member may read them; nor may others subscribe to topics then.

        Raises:
            TopicNotFoundError, OptionError: no such topic or partition; nothing changes.
            PartitionOwnedError: another member of the group reads one of them; nothing changes.
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
        if self._membership is not None:
            for key, offset in wanted.items():
                if offset is not None:
                    self._place(key, offset, "offset")
            self._membership.assign(wanted)
            return
        self._stop_following()
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
        if self._store._closed or self._membership is not None or not self._readers:  # else the logs know
            self._check_assigned()
        batch = self._fetcher.poll(-1 if timeout is None else opt.parse_timeout("timeout", timeout))
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

    def lag(self) -> dict[TopicPartition, int]:
        """For each partition assigned, how many offsets lie between its position and its end."""
        self._check()
        return {
            TopicPartition(*key): max(self._partition_of(key).end_offset - reader.position, 0)
            for key, reader in sorted(self._readers.items())
        }

    def stats(self) -> ConsumerStats:
        """What it has done since it was made, and where it is. From any thread, also once it is closed."""
        from pystream.measuring import of_consumer

        return of_consumer(self)

    # ---- what is done -----------------------------------------------------------------------------

    def commit(
        self,
        offsets: Mapping[PartitionLike, int | OffsetAndMetadata] | None = None,
        *,
        durable: bool = False,
    ) -> None:
        """Say that everything is done up to here: whoever reads the partition next begins there.

        It survives the death of any process at once, and a power failure from the next `sync_interval` on.
        With `auto_commit=True` it is seldom needed: a record, or a batch, is committed when the next is
        asked for.

        Args:
            offsets: for each partition the offset of the next record to do, perhaps with metadata. None: all
                that was handed out is done, the record or the batch in hand included.
            durable: return only when it would survive a power failure, the records below it included.

        Raises:
            FencedMemberError: the consumer was put out of its group, as it was silent for longer than its
                `session_timeout`. Nothing was committed.
            LockTimeoutError: committed, but not durable yet: another process has been saving for 30 s.
            OffsetOutOfRangeError: the partition has no such offset; nothing was committed.
            OptionError: no group; a partition that is not assigned; metadata of more than 4,096 bytes.
            StorageError: a system call failed.
        """
        membership = self._member()
        durable = opt.parse_flag("durable", durable)
        wanted: dict[_Key, int | Committed] | None = None
        if offsets is not None:
            if not isinstance(offsets, Mapping):
                raise TypeError(f"offsets= must be {{(topic, partition): offset}}, not {type(offsets)}")
            wanted = {}
            from pystream.group.offsets import parse_commit

            for given, entry in offsets.items():
                self._reader(given)
                wanted[self._partition(given)] = parse_commit(self._partition_of(given), entry)
        membership.commit(wanted, durable=durable)

    @overload
    def committed(self, partition: PartitionLike, *, metadata: Literal[False] = False) -> int | None: ...
    @overload
    def committed(self, partition: PartitionLike, *, metadata: Literal[True]) -> OffsetAndMetadata | None: ...
    def committed(
        self, partition: PartitionLike, *, metadata: bool = False
    ) -> int | OffsetAndMetadata | None:
        """The group's committed offset in any partition, whoever reads it; None: there is none.

        Args:
            metadata: give an `OffsetAndMetadata`.

        Raises:
            OptionError: no group; no such partition.
        """
        membership = self._member()
        found = membership.committed(self._partition(partition))
        if found is None:
            return None
        if opt.parse_flag("metadata", metadata):
            return OffsetAndMetadata(found.offset, found.metadata, found.epoch)
        return found.offset

    def seek_to_committed(self, *partitions: PartitionLike) -> None:
        """Go on at the committed offset of these partitions, or of all; where there is none, as `start`
        says; where it is not in the log any more, as when a partition is taken over."""
        from pystream.group.offsets import seek_to_committed

        member = self._member()
        keys = [self._partition(partition) for partition in partitions] or list(self._readers)
        seek_to_committed(self, member, keys)

    def heartbeat(self) -> None:
        """Tell the group that this consumer lives, while it does something that takes longer than its
        `session_timeout`. Asking for records, waiting for them and committing say so, too. From any
        thread."""
        self._member().heartbeat()

    # ---- life -------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop reading. Ends a wait in another thread. Twice is once; batches handed out stay good.

        In a group: `on_revoked` is called, what was handed out is committed, durably, and the others take
        over. Where it is closed on account of an exception, or while another thread reads from it, what is in
        hand is not committed, and will be given out again.
        """
        self._close(clean=sys.exception() is None)

    def _close(self, *, clean: bool) -> None:
        if self._closed:
            return
        try:
            if self._membership is not None and not self._store._handle.forked:
                asker = self._asker or threading.current_thread()
                clean &= asker is threading.current_thread() or not asker.is_alive()
                self._membership.leave(clean=clean, closing=True)
        finally:
            self._closed = True
            self._fetcher.close()
            if self._follower is not None:
                self._follower.close()

    def __del__(self) -> None:
        membership = getattr(self, "_membership", None)
        if membership is not None:
            membership.abandon()

    def __enter__(self) -> Consumer:
        self._check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(clean=error is None)

    def __repr__(self) -> str:
        state = ", closed" if self._closed else ""
        topics = ", ".join(map(repr, sorted({topic for topic, _ in self._readers}))) or "nothing"
        count = len(self._readers)
        return f"<pystream.Consumer of {topics}, {count} partition{'s' * (count != 1)}{state}>"

    # ---- inside -----------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._closed or self._fetcher.closed:  # or about to be, by another thread
            raise ClosedError("the consumer is closed")
        self._store._check()

    def _check_assigned(self) -> None:
        self._check()
        if self._membership is not None:
            self._asker = threading.current_thread()
        if not self._readers and not self._awaits():
            raise OptionError("the consumer reads nothing yet: subscribe() to topics or assign() partitions")

    def _awaits(self) -> bool:
        """Whether partitions may come to it."""
        return self._follower is not None or (self._membership is not None and self._membership.joined)

    def _member(self) -> Membership:
        self._check()
        if self._membership is None:
            raise OptionError(
                "the consumer is in no group: store.consumer(..., group=NAME) makes one that is"
            )
        return self._membership

    def _forget_deleted(self) -> dict[tuple[UUID, int], int]:
        """Stop reading topics that were deleted or renamed; their names may be others' now. How far they were
        read."""
        places = {}
        for name in [name for name, topic in self._topics.items() if topic._is_deleted()]:
            topic = self._topics.pop(name)
            for key in [key for key in self._readers if key[0] == name]:
                reader = self._readers.pop(key)
                places[topic.uuid, key[1]] = reader.position
                self._fetcher.remove(reader)
        return places

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
        if key in self._readers:
            return self._readers[key]
        what = f"{key[0]!r}/{key[1]} is not assigned to this consumer"
        raise OptionError(what, topic=key[0], partition=key[1])

    def _place(self, given: PartitionLike, position: Position, name: str) -> int:
        return self._partition_of(given)._place(name, position, self._durable)

    def _seek_all(self, partitions: tuple[PartitionLike, ...], where: str) -> None:
        for key in [self._partition(given) for given in partitions] or list(self._readers):
            self.seek(key, where)

    def _first_place(self, key: _Key) -> int:
        if not isinstance(self._start, Mapping):
            return self._place(key, self._start, "start")
        for given, position in self._start.items():
            if tuple(given[:2]) == key:
                return self._place(key, position, "start")
        return self._place(key, "earliest", "start")

    def _assign(self, wanted: Mapping[_Key, Position | None]) -> None:
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
            if place is not None:
                self._make_reader(key, place) if key not in self._readers else self._readers[key].seek(place)

    def _make_reader(self, key: _Key, place: int) -> PartitionReader:
        log = self._partition_of(key)._log()
        reader = self._falls.reader(log, place, self._schemas[key[0]], self._durable)
        self._fetcher.add(reader)
        self._readers[key] = reader
        return reader
