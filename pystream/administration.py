"""The topics of a store: finding, making, changing, renaming, copying and deleting them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Final, Never, Unpack, cast

from pystream import deletion, metadata, renaming, serializers
from pystream import options as opt
from pystream._native.limits import PARTITIONS_MAX
from pystream.altering import Change, add_partitions, alter_topic, following, parse_changes
from pystream.errors import (
    ClosedError,
    CorruptLogError,
    ForkedError,
    OptionError,
    PystreamError,
    ReadOnlyError,
    TopicExistsError,
    TopicNotFoundError,
)
from pystream.serializers import SerializerLike
from pystream.topic import Topic
from pystream.topicoptions import STORED, TopicChanges, TopicOptions

if TYPE_CHECKING:
    import numpy.typing as npt

    from pystream._native.log import StoreHandle
    from pystream.copying import Copied
    from pystream.store import Settings, Store
    from pystream.topic import Positions

TIMEOUT_DEFAULT_S: Final = 30
TIMEOUT_DEFAULT_NS: Final = TIMEOUT_DEFAULT_S * 10**9


class Administration:
    """What a `Store` does with whole topics; of one class with it, but a file of its own."""

    _path: str
    _handle: StoreHandle
    _settings: Settings
    _closed: bool

    @property
    def mode(self) -> str:
        """As it was opened: "rw", or "r" to read only."""
        return "r" if self._handle.read_only else "rw"

    def topics(self) -> list[str]:
        """The names of the topics, sorted.

        Raises:
            ClosedError: the store is closed.
            StorageError: the directory cannot be read.
        """
        self._check()
        return metadata.list_topics(self._path)

    def __iter__(self) -> Iterator[str]:
        return iter(self.topics())

    def __contains__(self, name: object) -> bool:
        self._check()
        return isinstance(name, str) and _is_name(name) and metadata.has_topic(self._path, name)

    def __getitem__(self, name: str) -> Topic:
        """The topic called `name`; `TopicNotFoundError` (a `LookupError`) when there is none."""
        return self.topic(name)

    def topic(
        self,
        name: str,
        *,
        create: bool = False,
        partitions: int | None = None,
        compression: str | None = None,
        durability: str | None = None,
        dtype: npt.DTypeLike | None = None,
        value_bytes: opt.Size | None = None,
        key_bytes: opt.Size | None = None,
        segment_bytes: opt.Size | None = None,
        index_interval_bytes: opt.Size | None = None,
        timestamp_type: str | None = None,
        retention: opt.Duration | None = None,
        retention_bytes: opt.Size | None = None,
        retention_topic_bytes: opt.Size | None = None,
        cleanup: str | None = None,
        min_cleanable_dirty_ratio: float | None = None,
        min_compaction_lag: opt.Duration | None = None,
        delete_retention: opt.Duration | None = None,
        segment_age: opt.Duration | None = None,
        max_message_bytes: opt.Size | None = None,
        value: SerializerLike | None = None,
        key: SerializerLike | None = None,
        **later: Never,
    ) -> Topic:
        """The topic called `name`, made first when `create=True` and it is not there.

        Options given for a topic that exists must agree with it, for another program may count on them:
        `alter_topic` changes them. Those left out are as they are. `value` and `key` are not stored: they say
        how keys and values become bytes, and bytes become them, for whoever uses the object returned.

        Args:
            name: 1 to 249 of `a-z A-Z 0-9 . _ -`; "." and ".." and names starting with "__" are refused.
            create: make the topic when it does not exist; atomic between processes.
            partitions: 1 (the default) to 65,536.
            compression: codec of batches, "none" (the default) or "lz4".
            durability: "interval", "sync" or "none"; the store's default when left out.
            dtype: NumPy type of each value; structured types are welcome, objects are not.
            value_bytes: exact bytes of each value, 0 to 16 MiB, where all are equally long.
            key_bytes: exact bytes of each key, 0 to 16 MiB, where all are equally long.
            segment_bytes: size of a segment file, 64 KiB to 2 GiB - 4 KiB, rounded up to 4 KiB; 128 MiB by
                default. No batch can be larger.
            index_interval_bytes: bytes of log between index entries, 1 KiB to 1 GiB; 16 KiB by default.
            timestamp_type: "create" (the default): the timestamp given, else the producer's clock.
                "append": the clock when the batch is appended.
            retention: how long records are kept, 1 ms to 292 years, or "forever" (the default). Segments go
                whole, once their newest timestamp is older than this.
            retention_bytes: how much each partition keeps, 64 KiB to 1 EiB, or "unlimited" (the default). The
                oldest segments go as long as this much is left without them.
            retention_topic_bytes: likewise for all partitions together.
            cleanup: "delete" (the default): records go as `retention` and `retention_bytes` say; "compact":
                the last record of each key stays, and those two have no effect; "compact,delete": both.
                Where it compacts, records without a key are refused.
            min_cleanable_dirty_ratio: share of the log, 0 to 1, that must be new since it was last compacted
                for that to be done again; 0.5 by default.
            min_compaction_lag: how long a record is left alone by compaction, 0 (the default) to 292 years.
            delete_retention: how long a tombstone (a key with a null value) stays after compaction has seen
                it, 0 to 292 years; a day by default.
            segment_age: how long a segment is written, 1 ms to 292 years, or "never" for until it is full; 7
                days by default. Only segments that are no longer written can be deleted or compacted.
            max_message_bytes: bytes of the largest batch, as stored, its header of 192 bytes included, 1 KiB
                to 2 GiB - 4 KiB, or "unlimited" (the default): what a segment holds.
            value: "utf8" (str), "json", "msgpack"; a pair of functions (serialize, deserialize), or a
                `Serializer`; a single function serializes, and values are read as bytes. Without it, or
                with "bytes", values are bytes. None stays None: a null value.
            key: likewise for keys.

        Raises:
            TopicNotFoundError: no such topic, and not `create`.
            OptionError: a name or value is refused, or an option differs from the existing topic's.
            ReadOnlyError: there is no such topic, and the store was opened to read only.
            UnsupportedError: the option belongs to a later version.
            TypeError: a value of a wrong type, or no such option.
            CorruptLogError, FormatVersionError: `topic.json` is damaged, or too new.
            ClosedError: the store is closed.
            StorageError: a system call failed; nothing is left behind.
            ModuleNotFoundError: a serializer needs a package that is not installed.
        """
        opt.refuse_unknown("topic", later)
        values, keys = serializers.parse("value", value), serializers.parse("key", key)
        create = opt.parse_flag("create", create)
        self._check()
        opt.check_topic_name(name)
        given = TopicOptions.parse(
            {
                "partitions": partitions,
                "compression": compression,
                "durability": durability,
                "dtype": dtype,
                "value_bytes": value_bytes,
                "key_bytes": key_bytes,
                "segment_bytes": segment_bytes,
                "index_interval_bytes": index_interval_bytes,
                "timestamp_type": timestamp_type,
                "retention": retention,
                "retention_bytes": retention_bytes,
                "retention_topic_bytes": retention_topic_bytes,
                "cleanup": cleanup,
                "min_cleanable_dirty_ratio": min_cleanable_dirty_ratio,
                "min_compaction_lag": min_compaction_lag,
                "delete_retention": delete_retention,
                "segment_age": segment_age,
                "max_message_bytes": max_message_bytes,
            }
        )
        serializers.check_dtype(name, values, dtype)
        stamp = metadata.topic_stamp(self._path, name)  # not younger than what is read
        found = metadata.read_topic(self._path, name)
        while found is None:
            if not create:
                raise TopicNotFoundError(self._not_found(name), topic=name)
            self._check_writable()
            self._check_path_length(name)
            metadata.create_topic(
                self._path,
                name,
                TopicOptions(**{"durability": self._settings.durability, **given}),
                self._handle,
            )
            deletion.sweep(self._handle, self._path)
            stamp = metadata.topic_stamp(self._path, name)
            found = metadata.read_topic(self._path, name)  # perhaps another process's, made meanwhile
            directory = metadata.topic_directory(self._path, name)
            if found is None and os.path.isdir(directory):  # else it was deleted meanwhile, too
                raise CorruptLogError(
                    f"{directory}: holds files but no {metadata.TOPIC_FILE}", topic=name, path=directory
                )
        identity, options = found
        if differing := options.differing(given):
            option = STORED[differing]
            wanted, existing = option.said(given[differing]), option.said(getattr(options, differing))
            raise OptionError(
                f"{option.name}={wanted}: topic {name!r} exists with {option.name}={existing}"
                f"{option.way_to_change}",
                topic=name,
            )
        topic = Topic(cast("Store", self), name, identity, options, values, keys, stamp)
        following(self._handle).add(topic)
        return topic

    def alter_topic(self, name: str, **options: Unpack[TopicChanges]) -> tuple[Change, ...]:
        """Change options of a topic while it is used, by any process, and nobody need be stopped.

        All at once or not at all, whatever dies meanwhile. This process goes by them when it returns, others
        within about a second. `Change.acts` says when each acts: at once; from the next segment on, for what
        is written is not written anew; or from the producer that is opened next.

        Batches that were begun before a limit was lowered are still taken. "sync" given to a topic that was
        not says nothing about records appended before, or by others within that second. "compact" given to a
        topic with records that have no key keeps these; new ones are refused.

        Args:
            name: an existing topic.
            options: as for `topic`, but for `partitions`, `dtype`, `value_bytes` and `key_bytes`; None puts
                one back to its default.

        Returns:
            What is different now, and when that acts; nothing where all was so before.

        Raises:
            OptionError: an option cannot be altered, or its value is refused. Nothing has changed.
            TypeError: a value of a wrong type, or no such option; or none at all.
            TopicNotFoundError: there is no such topic.
            LockTimeoutError: other processes kept changing it for half a minute.
            ReadOnlyError: the store was opened to read only.
            CorruptLogError, FormatVersionError: `topic.json` is damaged, or too new.
            ClosedError: the store is closed.
            StorageError: a system call failed.
        """
        changes = parse_changes(options, self._settings.durability)
        self._check_writable()
        opt.check_topic_name(name)
        found = alter_topic(self._handle, self._path, name, changes, TIMEOUT_DEFAULT_NS)
        if found is None:
            raise TopicNotFoundError(self._not_found(name, create=False), topic=name)
        return found

    def add_partitions(self, name: str, count: int | None = None, *, to: int | None = None) -> int:
        """Give a topic more partitions while it is used.

        They are empty, and there at once. Producers send to them within about a second; so do consumers that
        subscribe to the topic begin to read them, from their beginning, whatever `start` was; groups share
        out anew. There can never be fewer again.

        As in Kafka, records that are there stay where they are, but keys choose among more partitions from
        then on: records of one key may be in two, and their order among these is not kept.

        Args:
            name: an existing topic.
            count: how many to add.
            to: or how many there are to be; that many already is no error.

        Returns:
            How many it has now.

        Raises:
            OptionError: there would be fewer, or more than 65,536. Nothing has changed.
            TypeError: neither, both, or no int.
            TopicNotFoundError, LockTimeoutError, ReadOnlyError, CorruptLogError, FormatVersionError,
            ClosedError, StorageError: as for `alter_topic`.
        """
        if (count is None) == (to is None):
            both = "" if to is None else ", not both"
            raise TypeError(
                f"add_partitions() needs count, how many to add, or to=, how many there are to be{both}"
            )
        if count is not None:
            count = opt.parse_int("count", count, minimum=1, maximum=PARTITIONS_MAX - 1)
        if to is not None:
            to = opt.parse_int("to", to, minimum=1, maximum=PARTITIONS_MAX)
        self._check_writable()
        opt.check_topic_name(name)
        found = add_partitions(self._handle, self._path, name, count, to, TIMEOUT_DEFAULT_NS)
        if found is None:
            raise TopicNotFoundError(self._not_found(name, create=False), topic=name)
        return found

    def rename_topic(
        self, name: str, new_name: str, *, timeout: opt.Duration | None = TIMEOUT_DEFAULT_S
    ) -> None:
        """Give a topic another name, for every process.

        Its records, options and uuid stay, and so do the offsets of consumer groups. Whoever has it open
        hears `TopicRenamedError` (a `TopicDeletedError`), which says the new name: appends, reads, and
        consumers that wait; producers lose what was not appended yet, and say so (`DeliveryError`). Those
        who subscribe to a pattern that the new name matches go on. Nothing is made under the old name by
        those who had it open; a topic made there later is another one.

        Args:
            name: an existing topic.
            new_name: which no topic has.
            timeout: seconds to wait for writers that are in the midst of an append or a sync, or that hold
                a partition for exclusive writing; None: as long as it takes. Holds of this process end.

        Raises:
            TopicNotFoundError: there is no such topic, or another process deleted or renamed it meanwhile.
            TopicExistsError: there is a topic called `new_name`.
            LockTimeoutError: a writer went on for longer than `timeout`. Nothing has changed.
            OptionError, TypeError: a name is none that a topic can have.
            ReadOnlyError: the store was opened to read only.
            ClosedError: the store is closed.
            StorageError: a system call failed.
        """
        timeout_ns = opt.parse_timeout("timeout", timeout)
        self._check_writable()
        opt.check_topic_name(name)
        opt.check_topic_name(new_name)
        self._check_path_length(new_name)
        if not metadata.has_topic(self._path, name):
            raise TopicNotFoundError(self._not_found(name, create=False), topic=name)
        if name == new_name or metadata.has_topic(self._path, new_name):
            raise TopicExistsError(f"there is a topic {new_name!r} already", topic=new_name)
        self._sync_all(name)  # so that little is left for afterwards, when the handles that wrote are gone
        if not renaming.rename_topic(self._handle, self._path, name, new_name, timeout_ns):
            raise TopicNotFoundError(self._not_found(name, create=False), topic=name)
        self._sync_all(new_name)

    def copy_topic(
        self,
        name: str,
        target: Store | str | os.PathLike[str],
        new_name: str | None = None,
        *,
        start: Positions = "earliest",
        stop: Positions | None = None,
        partitions: Iterable[int] | None = None,
        append: bool = False,
        progress: Callable[[int, int], object] | None = None,
        **options: Any,
    ) -> Copied:
        """Copy a topic, or a range of it, to another store, or under another name to this one.

        Of what is there now, while others go on. Batch by batch, each checked; keys, headers, timestamps,
        nulls and order stay, and each record its partition; offsets begin at 0 and have no gaps, so they are
        others than the original's where its beginning was deleted, or it was compacted, or with `start`.
        Offsets of consumer groups are not copied.

        The copy gets its name when it is whole and on the disk: whatever ends in between, there is nothing.
        With `append=True`, what was copied by then is there, and another call would copy it again.

        Args:
            name: an existing topic.
            target: another store, or its path, where one is made if there is none; or this store.
            new_name: what the copy is to be called; as the original, when left out.
            start: as for `Topic.records`: "earliest", a moment, or {partition: offset or moment}; an offset,
                where one partition is copied.
            stop: likewise; not included. Up to the end, when left out.
            partitions: only the records of these; the copy has the others, too, but empty.
            append: put the records behind those of a topic that exists. Its options are for them: where it
                has `timestamp_type="append"`, they get new timestamps.
            progress: called now and then, in this thread, with the offsets passed over and those there are.
            options: those of the copy, as for `topic`, where they are to be others than the original's; not
                `partitions`, `dtype`, `value_bytes`, `key_bytes`.

        Raises:
            TopicNotFoundError: there is no such topic; or none to append to.
            TopicExistsError: there is a topic of the new name, and not `append`.
            OptionError, TypeError: an option or place is refused; or the records are none for that topic.
            OffsetOutOfRangeError: `start` is not in a partition, or what is there was deleted meanwhile.
            KeyRequiredError: `append`, to a topic that is compacted, of a record without a key.
            CorruptLogError: stored bytes are not what was written.
            RecordTooLargeError: a record is larger than a segment of the copy.
            ReadOnlyError: the target was opened to read only.
            ClosedError: a store is closed.
            StorageError: a system call failed.
        """
        from pystream import copying
        from pystream.opening import open as open_store

        append = opt.parse_flag("append", append)
        if append and options:
            raise OptionError(f"{next(iter(options))}=: the topic that is appended to keeps its options")
        opt.check_topic_name(name)
        if not metadata.has_topic(self._path, name):
            raise TopicNotFoundError(self._not_found(name, create=False), topic=name)
        topic = self.topic(name)
        wanted = None if append else copying.check_options(topic.options, options)
        new_name = name if new_name is None else new_name
        opt.check_topic_name(new_name)
        work = copying.begin(topic, start, stop, partitions, progress)
        with ExitStack() as opened:
            if not isinstance(target, Administration):
                target = opened.enter_context(open_store(target, create=not append))
            target._check_writable()
            if wanted is None:
                there = target.topic(new_name)
                if there.uuid == topic.uuid:
                    raise OptionError(f"topic {name!r} cannot be appended to itself", topic=name)
                return copying.append_to(work, topic.options, there)
            target._check_path_length(new_name)
            if metadata.has_topic(target._path, new_name):
                raise TopicExistsError(
                    f"there is a topic {new_name!r} already in {target._path}; give the copy another name, "
                    "or append=True",
                    topic=new_name,
                )
            return copying.copy_new(work, target, new_name, wanted)

    def _sync_all(self, name: str) -> None:
        """Put on the disk what anybody appended to a topic, as far as that can be done."""
        with suppress(PystreamError, FileNotFoundError):  # it may be renamed, or deleted, this moment
            partitions = renaming.unsynced(metadata.topic_directory(self._path, name))
            topic = self.topic(name)
            for partition in partitions:
                topic.partition(partition)._log().sync()

    def delete_topic(
        self, name: str, *, timeout: opt.Duration | None = TIMEOUT_DEFAULT_S, **later: Never
    ) -> None:
        """Delete a topic with all its records, for every process, for good.

        When it returns, the topic is gone, whatever dies from then on. Whoever has it open hears
        `TopicDeletedError`: appends, reads, flushes, and consumers that wait for records; producers lose what
        was not appended yet, and say so (`DeliveryError`). Batches that were handed out stay good, and
        the disk space of what they lend is free when they go; so is that of files that another process has
        open, when it finds out or closes the store. A topic made later under the same name is another topic:
        nothing that belonged to this one touches it.

        Args:
            name: an existing topic. Damaged ones can be deleted, too.
            timeout: seconds to wait for writers that are in the midst of an append or a sync, or that hold
                a partition for exclusive writing; None: as long as it takes. Holds of this process end.

        Raises:
            TopicNotFoundError: there is no such topic, or another process deleted it meanwhile.
            LockTimeoutError: a writer went on for longer than `timeout`. Nothing has changed.
            OptionError, TypeError: the name is none a topic can have, or there is no such option.
            ReadOnlyError: the store was opened to read only.
            ClosedError: the store is closed.
            StorageError: a system call failed.
        """
        opt.refuse_unknown("delete_topic", later)
        timeout_ns = opt.parse_timeout("timeout", timeout)
        self._check_writable()
        opt.check_topic_name(name)
        if not deletion.delete_topic(self._handle, self._path, name, timeout_ns):
            raise TopicNotFoundError(self._not_found(name, create=False), topic=name)

    def _check(self) -> None:
        if self._closed:
            raise ClosedError(f"the store {self._path} is closed", path=self._path)
        if self._handle.forked:
            raise ForkedError(
                f"the store {self._path} was opened before this process was forked; open it again here",
                path=self._path,
            )

    def _check_writable(self) -> None:
        self._check()
        if self._handle.read_only:
            raise ReadOnlyError(f"the store {self._path} was opened with mode='r'", path=self._path)

    def _check_path_length(self, name: str) -> None:
        directory = f"{metadata.topic_directory(self._path, name)}/{PARTITIONS_MAX - 1}"
        if len(os.fsencode(directory)) > opt.PARTITION_PATH_BYTES_MAX:
            raise OptionError(
                f"topic name {name!r}: too long for this store's path; {directory} "
                f"would have more than {opt.PARTITION_PATH_BYTES_MAX} bytes",
                topic=name,
            )

    def _refresh_options(self) -> None:
        """Go by what other processes have changed about the topics that this one uses. Cheap where nothing
        has; fails for no single topic."""
        following(self._handle).refresh(self._path)

    def _not_found(self, name: str, *, create: bool = True) -> str:
        from difflib import get_close_matches  # only on the way to an error

        near = get_close_matches(name, self.topics(), n=1)
        make = "create=True makes it" if self.mode == "rw" else "a store open to read makes none"
        hint = f"; did you mean {near[0]!r}?" if near else f"; {make}" if create else ""
        return f"no topic {name!r} in {self._path}{hint}"


def _is_name(name: str) -> bool:
    try:
        opt.check_topic_name(name)
    except OptionError:
        return False
    return True
