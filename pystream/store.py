"""A store: one directory of topics, opened by this process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from re import Pattern
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Never
from uuid import UUID
from weakref import WeakSet

from pystream import deletion, metadata, serializers
from pystream import options as opt
from pystream._native.limits import PARTITIONS_MAX
from pystream._native.log import StoreHandle
from pystream.consumer import Consumer
from pystream.errors import (
    ClosedError,
    CorruptLogError,
    ForkedError,
    OptionError,
    ReadOnlyError,
    TopicNotFoundError,
)
from pystream.metadata import TopicOptions
from pystream.places import Start
from pystream.serializers import SerializerLike
from pystream.topic import Topic

if TYPE_CHECKING:
    import numpy.typing as npt

    from pystream.aio import AsyncConsumer
    from pystream.backups import Backup
    from pystream.group import Group
    from pystream.group.settings import Callback, GroupOptions
    from pystream.producer import Producer
    from pystream.verified import Report

DELETE_TIMEOUT_DEFAULT_S: Final = 30

# Held while a store is opened, or given up.
lock = threading.RLock()


def _after_fork() -> None:
    global lock  # another thread of the parent may have held it
    lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)


class Settings(NamedTuple):
    """What all `Store` objects on one directory in this process have in common."""

    durability: str
    sync_interval_ns: int
    min_free_bytes: int
    io: str
    io_is_auto: bool
    filesystem: str


class Store:
    """A directory of topics. Made by `pystream.open`; may be shared by threads, not by forked processes.

    A context manager: leaving it closes the store, its producers (flushed) and its consumers.
    """

    def __init__(
        self, path: str, handle: StoreHandle, settings: Settings, identity: metadata.Identity
    ) -> None:
        self._path = path
        self._handle = handle
        self._settings = settings
        self._identity = identity
        self._closed = self._closing = False
        self._users: WeakSet[Producer | Consumer] = WeakSet()

    @property
    def path(self) -> str:
        """The store's directory, absolute."""
        return self._path

    @property
    def uuid(self) -> UUID:
        """The store's identity, given when it was made."""
        return self._identity.uuid

    @property
    def created(self) -> datetime:
        """When the store was made, UTC."""
        return self._identity.created

    @property
    def durability(self) -> str:
        """What new topics get that do not say: "interval", "sync" or "none"."""
        return self._settings.durability

    @property
    def sync_interval(self) -> float:
        """Seconds between the syncs of topics with durability "interval"."""
        return self._settings.sync_interval_ns / 1e9

    @property
    def min_free_bytes(self) -> int:
        """Bytes of the file system that appends leave free; 0: none."""
        return self._settings.min_free_bytes

    @property
    def io(self) -> str:
        """How records are stored here, "sync" topics perhaps excepted: "mmap" or "pwrite"."""
        return self._settings.io

    @property
    def filesystem(self) -> str:
        """The kind of file system the store is on, such as "ext4"."""
        return self._settings.filesystem

    @property
    def mode(self) -> str:
        """As it was opened: "rw", or "r" to read only."""
        return "r" if self._handle.read_only else "rw"

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._closed

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
        value: SerializerLike | None = None,
        key: SerializerLike | None = None,
        **later: Never,
    ) -> Topic:
        """The topic called `name`, made first when `create=True` and it is not there.

        Options are fixed when a topic is made. Those given for a topic that exists must agree with it;
        those left out are as they are. `value` and `key` are not stored: they say how keys and values become
        bytes, and bytes become them, for whoever uses the object returned.

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
            }
        )
        serializers.check_dtype(name, values, dtype)
        found = metadata.read_topic(self._path, name)
        while found is None:
            if not create:
                raise TopicNotFoundError(self._not_found(name), topic=name)
            self._check_writable()
            directory = f"{metadata.topic_directory(self._path, name)}/{PARTITIONS_MAX - 1}"
            if len(os.fsencode(directory)) > opt.PARTITION_PATH_BYTES_MAX:
                raise OptionError(
                    f"topic name {name!r}: too long for this store's path; {directory} "
                    f"would have more than {opt.PARTITION_PATH_BYTES_MAX} bytes",
                    topic=name,
                )
            metadata.create_topic(
                self._path,
                name,
                TopicOptions(**{"durability": self._settings.durability, **given}),
                self._handle,
            )
            deletion.sweep(self._handle, self._path)
            found = metadata.read_topic(self._path, name)  # perhaps another process's, made meanwhile
            directory = metadata.topic_directory(self._path, name)
            if found is None and os.path.isdir(directory):  # else it was deleted meanwhile, too
                raise CorruptLogError(
                    f"{directory}: holds files but no {metadata.TOPIC_FILE}", topic=name, path=directory
                )
        identity, options = found
        if differing := options.differing(given):
            raise OptionError(
                f"{differing}={given[differing]!r}: topic {name!r} exists with "
                f"{differing}={getattr(options, differing)!r}",
                topic=name,
            )
        return Topic(self, name, identity, options, values, keys)

    def delete_topic(
        self, name: str, *, timeout: opt.Duration | None = DELETE_TIMEOUT_DEFAULT_S, **later: Never
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

    def verify(
        self,
        topic: str | None = None,
        *,
        progress: Callable[[int, int], object] | None = None,
        threads: int | None = None,
    ) -> Report:
        """Check every file of the store, or of one topic; see `pystream.verify`.

        What had been published when it began is checked, while others, and this process, go on.

        Raises:
            TopicNotFoundError: there is no such topic.
            ClosedError: the store is closed.
            StorageError: a directory cannot be read.
        """
        self._check()
        from pystream.verification import verify

        return verify(self._path, topic, progress=progress, threads=threads)

    def backup(
        self, path: str | os.PathLike[str], *, progress: Callable[[int, int], object] | None = None
    ) -> Backup:
        """Copy the store to another directory, while others, and this process, go on.

        All that was acknowledged before is in it, each batch checked; committed offsets and ingest jobs are
        no further than the records. A backup is a store: open it, or a copy of it. A later one to the same
        path copies only what is new, and replaces it in one step: on any failure it stays as it was.

        Args:
            path: a new or empty directory, or an older backup of this store.
            progress: called now and then, in this thread, with the bytes done and the bytes there are.

        Raises:
            CorruptLogError, FormatVersionError: something in the store is damaged, or too new.
            OptionError: the path cannot be a store's, or is in the store.
            StoreNotFoundError: the parent directory does not exist, or at `path` is something else than a
                backup of this store, or one that was opened for writing since.
            StorageError: another backup is made there (errno EBUSY), or a system call failed.
            ClosedError: the store is closed.
        """
        self._check()
        from pystream.backups import back_up

        return back_up(self, path, progress)

    def consumer(
        self,
        *topics: str | Pattern[str],
        group: str | None = None,
        assignor: str | None = None,
        session_timeout: opt.Duration | None = None,
        auto_commit: bool | None = None,
        truncated: str | None = None,
        client: str | None = None,
        on_assigned: Callback | None = None,
        on_revoked: Callback | None = None,
        on_lost: Callback | None = None,
        start: Start = "earliest",
        timeout: opt.Duration | None = None,
        spin: opt.Duration = 20e-6,
        durable: bool = False,
        value: SerializerLike | Mapping[str, SerializerLike] | None = None,
        key: SerializerLike | Mapping[str, SerializerLike] | None = None,
        **later: Never,
    ) -> Consumer:
        """A consumer of all partitions of `topics` (none: `subscribe` or `assign` later).

        With `group=` it shares them with the group's other consumers, in whatever process: each partition is
        read by one of them. When one dies, the others take over at once where it was; what it had consumed is
        committed, but for the record (or the batch) in its hand, which is given out again.

        Args:
            topics: names of existing topics, or one pattern; see `Consumer.subscribe`.
            group: name of a consumer group, by the rules of topics' names; made if it is not there.
            assignor: how the group shares out partitions: "sticky" (the default: evenly, and as few as can be
                move when consumers come and go), "range" or "roundrobin", as Kafka's. All use the same.
            session_timeout: seconds of silence, 0.1 to a day, after which a consumer that lives but hangs, or
                whose process is stopped, is put out of the group for the others to go on; 45 by default.
                Asking for records breaks the silence, so it must be longer than what is done with a record
                (or a batch). Death needs no timeout: it is heard of at once.
            auto_commit: True, the default: a record (or batch) is committed when the next one is asked for.
                False: `commit` does it.
            truncated: what to do where a power failure has cut the log below a committed offset: "raise" (the
                default) `LogTruncatedError`, and go on at the cut when asked again; or "resume" there at
                once.
            client: what the consumer is called in `Group.describe`; by default, its program.
            on_assigned: called with the consumer and the partitions that it begins to read.
            on_revoked: likewise before it gives partitions up: the place to finish what is in hand, and
                commit.
            on_lost: likewise after it has lost them, having been put out; `on_revoked` if left out.
            start: where partitions begin that are not placed otherwise, by a committed offset or by hand:
                "earliest", "latest", a moment (the first record at or after it, else the end), or a mapping
                of partitions to offsets, where those left out begin at the earliest. See `Consumer`.
            timeout: seconds without a record after which iteration ends; None: never.
            spin: seconds to look again and again before sleeping, 0 to 1; sooner woken for more CPU.
            durable: True: give only records that are on the disk, which a power failure cannot take back. In
                "interval" topics they come when a sync has covered them, in "none" topics if one is asked
                for; in "sync" topics all that can be read is on the disk anyway. "latest" is their end.
            value: what values of records are read through: "utf8", "json", "msgpack", a function of bytes, a
                pair (serialize, deserialize) or a `Serializer`; or {topic: one of these}, where values of
                topics left out are bytes. Bytes by default, whatever a `Topic` says.
            key: likewise for keys.

        Raises:
            TopicNotFoundError, OptionError, UnsupportedError, TypeError, ClosedError: as `topic` does.
            OffsetOutOfRangeError: an offset in `start` is not in its partition.
            ReadOnlyError: `group=`, and the store was opened to read only.
        """
        opt.refuse_unknown("consumer", later)
        self._check()
        options = self._group_options(
            group,
            assignor=assignor,
            session_timeout=session_timeout,
            auto_commit=auto_commit,
            truncated=truncated,
            client=client,
            on_assigned=on_assigned,
            on_revoked=on_revoked,
            on_lost=on_lost,
        )
        return Consumer(
            self,
            topics,
            group=options,
            start=start,
            timeout=timeout,
            spin=spin,
            durable=durable,
            value=value,
            key=key,
        )

    def async_consumer(
        self,
        *topics: str | Pattern[str],
        group: str | None = None,
        assignor: str | None = None,
        session_timeout: opt.Duration | None = None,
        auto_commit: bool | None = None,
        truncated: str | None = None,
        client: str | None = None,
        on_assigned: Callback | None = None,
        on_revoked: Callback | None = None,
        on_lost: Callback | None = None,
        start: Start = "earliest",
        timeout: opt.Duration | None = None,
        durable: bool = False,
        value: SerializerLike | Mapping[str, SerializerLike] | None = None,
        key: SerializerLike | Mapping[str, SerializerLike] | None = None,
        **later: Never,
    ) -> AsyncConsumer:
        """A consumer for asyncio: `async for`, `await poll()`. Arguments and errors are those of `consumer`.

        An event loop does not spin, so there is no `spin`. Callbacks of groups are called in the loop's
        thread, with the `Consumer` inside.
        """
        opt.refuse_unknown("async_consumer", later)
        self._check()
        options = self._group_options(
            group,
            assignor=assignor,
            session_timeout=session_timeout,
            auto_commit=auto_commit,
            truncated=truncated,
            client=client,
            on_assigned=on_assigned,
            on_revoked=on_revoked,
            on_lost=on_lost,
        )
        consumer = Consumer(
            self,
            topics,
            group=options,
            start=start,
            timeout=timeout,
            spin=0,
            durable=durable,
            value=value,
            key=key,
        )
        from pystream.aio import AsyncConsumer  # asyncio takes longer to import than all of pystream

        return AsyncConsumer(consumer)

    def _group_options(self, name: str | None, **given: Any) -> GroupOptions | None:
        if name is None and all(value is None for value in given.values()):
            return None
        from pystream.group.settings import parse_options

        options = parse_options(name, **given)
        self._check_writable()
        return options

    def groups(self) -> list[str]:
        """The names of the consumer groups, sorted.

        Raises:
            ClosedError: the store is closed.
            StorageError: the directory cannot be read.
        """
        self._check()
        from pystream.group.shared import list_groups

        return list_groups(self._path)

    def group(self, name: str) -> Group:
        """The consumer group called `name`: who is in it, how far it is, and setting it elsewhere.

        Raises:
            GroupNotFoundError: there is no such group; a consumer with `group=` makes one.
            OptionError, TypeError: the name is none a group can have.
            ClosedError: the store is closed.
        """
        self._check()
        opt.check_name("group", name)
        from pystream.group import Group

        return Group(self, name)

    def flush(self) -> None:
        """Put on the disk what was appended, by any process, to the partitions that are open here.

        Many are synced together in less time than one after the other. What lingers in a producer is not
        appended yet: flush that first.

        Raises:
            StorageError: a sync failed, the partition is poisoned; the others are synced all the same.
            ClosedError, ForkedError, ReadOnlyError: the store cannot be written to.
        """
        self._check_writable()
        self._handle.sync()

    def close(self) -> None:
        """Close consumers, flush and close producers, and give up the store. Twice is once.

        Raises:
            DeliveryError: records of a producer could not go out. The store is closed all the same.
        """
        if self._closed or self._closing:
            return
        self._closing = True
        if self._handle.forked:
            self._closed = True
            return  # the files and the records still in builders are the parent's
        failed: BaseException | None = None
        for user in list(self._users):  # while the store is open: they flush, and commit
            try:
                user.close()
            except BaseException as error:
                failed = failed or error
        self._closed = True
        try:
            with lock:
                self._handle.release()
        finally:
            if failed is not None:
                raise failed

    def __enter__(self) -> Store:
        self._check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = ", closed" if self._closed else ""
        return f"<pystream.Store {self._path!r}, io={self.io!r}, durability={self.durability!r}{state}>"

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
