"""A store: one directory of topics, opened by this process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from re import Pattern
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Never
from uuid import UUID
from weakref import WeakSet

from pystream import metadata
from pystream import options as opt
from pystream._native.log import StoreHandle
from pystream.administration import Administration
from pystream.consumer import Consumer
from pystream.places import Start
from pystream.serializers import SerializerLike

if TYPE_CHECKING:
    from pystream.aio import AsyncConsumer
    from pystream.backups import Backup
    from pystream.falling import OutOfRange
    from pystream.group import Group
    from pystream.group.settings import Callback, GroupOptions
    from pystream.maintenance.report import MaintenanceReport
    from pystream.producer import Producer
    from pystream.stats import StoreStats
    from pystream.verified import Report

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
    maintenance_ns: int
    """Between two passes of maintenance; 0: this process does none by itself."""


class Store(Administration):
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
    def closed(self) -> bool:
        """True after `close`."""
        return self._closed

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

    def stats(self, topics: str | Iterable[str] | None = None, *, exact: bool = False) -> StoreStats:
        """What is in the store at this moment, by topic and partition and in sum; how far consumer groups
        are; what this process has done; what is free on the disk.

        Found from files: no partition is opened for it, nothing is written, and it works with `mode="r"`. Of
        what a crash has left, it is told as the files say until the partition is next opened. From any
        thread; calls take turns.

        Args:
            topics: only these, one name or several; all by default.
            exact: count records and raw bytes batch by batch: exact for compacted topics, too, but the first
                time every batch header is read. By default records are offsets, and raw bytes are estimated
                from a sample of batches.

        Raises:
            TopicNotFoundError: one of `topics` does not exist.
            ClosedError: the store is closed.
            StorageError: a system call failed. What is damaged is told in `StoreStats.errors`.
        """
        from pystream import measuring

        exact = opt.parse_flag("exact", exact)
        if topics is not None and not isinstance(topics, Iterable):
            raise TypeError(f"topics must be a name or a list of names, not {type(topics).__name__}")
        names = None if topics is None else [topics] if isinstance(topics, str) else list(topics)
        for name in names or ():
            opt.check_topic_name(name)
        return measuring.of_store(self, names, exact)

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
        out_of_range: OutOfRange | None = None,
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
            out_of_range: where to go on when its place was deleted before it had read it (by retention, or by
                hand): "earliest" or "latest", with a warning of the logger "pystream.retention" that says how
                much was passed over (`Consumer.skipped` counts it), or "raise" `OffsetOutOfRangeError`, and
                go on at the earliest when asked again. Left out: as `start` says, if that is a word, else
                "earliest".
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
            out_of_range=out_of_range,
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
        out_of_range: OutOfRange | None = None,
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
            out_of_range=out_of_range,
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

    def maintain(
        self,
        topic: str | None = None,
        *,
        force_clock: bool = False,
        timeout: opt.Duration | None = None,
        progress: Callable[[MaintenanceReport], object] | None = None,
    ) -> MaintenanceReport:
        """Do all that is due by the topics' `retention`, `retention_bytes`, `segment_age` and `cleanup`, now.

        A process that writes does it by itself every few seconds (`open(..., maintenance=)`), gently; this
        goes on until nothing is left to do, for cron jobs, tests, and stores that only short-lived programs
        write. Others go on appending and reading meanwhile. One process at a time looks after a store:
        another one that is at it is waited for. What fails in one partition is in the report, and stops no
        other.

        Args:
            topic: the only one to look after; all by default.
            force_clock: believe the wall clock though it has jumped forward: see "Maintenance" in the guide.
            timeout: seconds after which to stop, in good order; None: when all is done.
            progress: called now and then, in this thread, with the report as it is so far.

        Raises:
            LockTimeoutError: another process went on maintaining the store for longer than `timeout`.
            TopicNotFoundError: there is no such topic.
            OptionError, TypeError: the name is none a topic can have, or not a duration.
            ReadOnlyError: the store was opened to read only.
            ClosedError: the store is closed.
            StorageError: a system call failed, and not only in one topic.
        """
        if topic is not None:
            opt.check_topic_name(topic)
        force_clock = opt.parse_flag("force_clock", force_clock)
        timeout_ns = opt.parse_timeout("timeout", timeout)
        opt.check_callable("progress", progress)
        self._check_writable()
        from pystream.maintenance.passes import maintain

        return maintain(self, topic=topic, force_clock=force_clock, timeout_ns=timeout_ns, progress=progress)

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
