"""A store: one directory of topics, opened by this process."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Never
from uuid import UUID
from weakref import WeakKeyDictionary, WeakSet

from pystream import deletion, metadata, serializers
from pystream import options as opt
from pystream._native.limits import DURABILITIES, IO_VERBS, PARTITIONS_MAX
from pystream._native.log import StoreHandle
from pystream.consumer import Consumer, Start
from pystream.errors import (
    ClosedError,
    CorruptLogError,
    ForkedError,
    OptionError,
    ReadOnlyError,
    StoreNotFoundError,
    TopicNotFoundError,
    UnsafeFileSystemError,
)
from pystream.metadata import TopicOptions
from pystream.serializers import SerializerLike
from pystream.topic import Topic

if TYPE_CHECKING:
    import numpy.typing as npt

    from pystream.aio import AsyncConsumer
    from pystream.producer import Producer

DURABILITY_DEFAULT: Final = "interval"
SYNC_INTERVAL_DEFAULT_NS: Final = 10**9
DELETE_TIMEOUT_DEFAULT_S: Final = 30


class _Settings(NamedTuple):
    """What all `Store` objects on one directory in this process have in common."""

    durability: str
    sync_interval_ns: int
    io: str
    io_is_auto: bool
    filesystem: str


_lock = threading.RLock()
_settings: WeakKeyDictionary[StoreHandle, _Settings] = WeakKeyDictionary()


def _after_fork() -> None:
    global _lock  # another thread of the parent may have held it
    _lock = threading.RLock()
    _settings.clear()


os.register_at_fork(after_in_child=_after_fork)


def open(
    path: str | os.PathLike[str],
    mode: str = "rw",
    *,
    create: bool | None = None,
    durability: str | None = None,
    sync_interval: opt.Duration | None = None,
    io: str = "auto",
    force: bool = False,
    **later: Never,
) -> Store:
    """Open the store in directory `path`, making it when it is not there.

    Opening a store twice in a process shares it: each `Store` is closed by itself, and the last one
    closes the files.

    Args:
        path: the store's directory. Only its last component is ever created, and only a directory that
            is empty is made a store.
        mode: "rw", or "r" to read only. Nothing at all is written then, so that it works on a disk that is
            mounted read-only, without permission to write, and on a full one. Writers go on beside it, and
            their records are seen as they come, by looking for them every so often (up to 50 ms). What a
            crash has torn is left out, and left as it is: mending is for the next who opens to write.
        create: False refuses to make a store where there is none. True by default, except to read.
        durability: for new topics that do not say their own: "interval" (the default: synced every
            `sync_interval`), "sync" (an acknowledged record is on the disk), "none" (left to the kernel).
        sync_interval: seconds between the syncs of "interval" topics, 1 ms to 1 h; 1 s by default.
        io: how records are stored: "mmap", "pwrite", or "auto": by the file system, and "pwrite" for topics
            with durability "sync", whose appends wait for the disk less that way.
        force: open on a network or user-space file system all the same, where locks and power failures
            keep no promise.

    Raises:
        StoreNotFoundError: no store there (and `create=False`, or the parent directory is missing, or
            `path` is a file, or a directory that holds other things).
        UnsafeFileSystemError: a file system that cannot keep the promises, without `force=True`.
        OptionError: an option's value is refused, or differs from that of a `Store` already open here, or is
            for writers and `mode` is "r".
        CorruptLogError, FormatVersionError: `store.json` is damaged, or too new.
        StorageError: a system call failed.
    """
    opt.refuse_unknown("open", later)
    read_only = opt.parse_choice("mode", mode, ("r", "rw")) == "r"
    create = not read_only if create is None else opt.parse_flag("create", create)
    force = opt.parse_flag("force", force)
    if read_only:
        _refuse_for_readers(
            create=create, durability=durability, sync_interval=sync_interval, io=io != "auto"
        )
    directory = _parse_path(path)
    given: dict[str, Any] = {}
    if durability is not None:
        given["durability"] = opt.parse_choice("durability", durability, DURABILITIES)
    if sync_interval is not None:
        given["sync_interval_ns"] = opt.parse_duration(
            "sync_interval", sync_interval, minimum=opt.SYNC_INTERVAL_NS_MIN, maximum=opt.SYNC_INTERVAL_NS_MAX
        )
    if opt.parse_choice("io", io, ("auto", *IO_VERBS)) != "auto":
        given["io"] = io
    _find_or_create(directory, create, io, force)
    identity = metadata.read_store(directory)
    given["io"], filesystem = _choose_io(directory, io, force)
    with _lock, metadata.storage_errors(directory):
        handle = StoreHandle.acquire(directory, read_only)
        try:
            settings = _settings.get(handle)
            if settings is None:
                settings = _Settings(
                    durability=given.get("durability", DURABILITY_DEFAULT),
                    sync_interval_ns=given.get("sync_interval_ns", SYNC_INTERVAL_DEFAULT_NS),
                    io=given["io"],
                    io_is_auto=io == "auto",
                    filesystem=filesystem,
                )
                _settings[handle] = settings
                if not read_only:
                    deletion.sweep(handle, directory)
            elif conflict := _conflict(settings, given, io):
                name, wanted, existing = conflict
                raise OptionError(
                    f"{name}={wanted!r}: {directory} is already open in this process with {name}={existing!r}"
                )
        except BaseException:
            handle.release()
            raise
    return Store(directory, handle, settings, identity)


def _refuse_for_readers(**given: object) -> None:
    for name, value in given.items():
        if value:
            raise OptionError(f"{name}= is for stores that are written to; leave it out with mode='r'")


def _conflict(settings: _Settings, given: Mapping[str, Any], io: str) -> tuple[str, object, object] | None:
    for name, wanted in given.items():
        existing = getattr(settings, name)
        if wanted == existing or (name == "io" and io == "auto"):
            continue
        if name == "sync_interval_ns":
            return "sync_interval", wanted / 1e9, existing / 1e9
        return name, wanted, existing
    return None


def _parse_path(path: object) -> str:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a str or os.PathLike, not {type(path).__name__}")
    text = os.fspath(path)
    if not isinstance(text, str):
        raise TypeError("path must be a str, not bytes")
    if not text or "\0" in text:
        raise OptionError(f"path={text!r}: " + ("is empty" if not text else "holds a NUL character"))
    length = len(os.fsencode(os.path.realpath(text)))
    if length > opt.STORE_PATH_BYTES_MAX:
        raise OptionError(
            f"path={text!r}: has {length} bytes in full; a store's may have {opt.STORE_PATH_BYTES_MAX} bytes"
        )
    return os.path.abspath(text)


def _find_or_create(path: str, create: bool, io: str, force: bool) -> None:
    """See that `path` is a store's directory, made now if that was asked for and may be."""
    if os.path.isfile(os.path.join(path, metadata.STORE_FILE)):
        return
    with metadata.storage_errors(path):
        if os.path.lexists(path) and not os.path.isdir(path):
            raise StoreNotFoundError(f"{path}: not a directory; a store is a directory", path=path)
        if not create:
            missing = "is not a pystream store" if os.path.isdir(path) else "does not exist"
            raise StoreNotFoundError(f"{path}: {missing} (create=False)", path=path)
        parent = os.path.dirname(path)
        if not os.path.isdir(parent):
            raise StoreNotFoundError(
                f"{path}: its parent directory {parent} does not exist; only the last component is created",
                path=path,
            )
        _choose_io(path if os.path.isdir(path) else parent, io, force)  # before anything is made
        with suppress(FileExistsError):
            os.mkdir(path)
    metadata.create_store(path)


def _choose_io(path: str, io: str, force: bool) -> tuple[str, str]:
    """How to store on the file system at `path`, and what that is called."""
    chosen, filesystem = StoreHandle.choose_io(path)
    if chosen == "refused":
        if not force:
            raise UnsafeFileSystemError(
                f"{path}: on {filesystem}, a network or user-space file system, where locks and syncs may "
                "not hold; use a local file system, or force=True to do without the guarantees",
                path=path,
            )
        chosen = "pwrite"
    if io == "mmap" and chosen != "mmap" and not force:
        raise UnsafeFileSystemError(
            f"{path}: io='mmap' is not safe on {filesystem}, where a full disk ends the process; use "
            "io='auto', or force=True",
            path=path,
        )
    return (chosen if io == "auto" else io), filesystem


class Store:
    """A directory of topics. Made by `pystream.open`; may be shared by threads, not by forked processes.

    A context manager: leaving it closes the store, its producers (flushed) and its consumers.
    """

    def __init__(
        self, path: str, handle: StoreHandle, settings: _Settings, identity: metadata.Identity
    ) -> None:
        self._path = path
        self._handle = handle
        self._settings = settings
        self._identity = identity
        self._closed = False
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
                self._path, name, TopicOptions(**{"durability": self._settings.durability, **given})
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

    def consumer(
        self,
        *topics: str,
        start: Start = "earliest",
        timeout: opt.Duration | None = None,
        spin: opt.Duration = 20e-6,
        value: SerializerLike | Mapping[str, SerializerLike] | None = None,
        key: SerializerLike | Mapping[str, SerializerLike] | None = None,
        **later: Never,
    ) -> Consumer:
        """A consumer of all partitions of `topics` (none: `subscribe` or `assign` later).

        Args:
            topics: names of existing topics.
            start: where partitions begin that are not placed otherwise: "earliest", "latest", a moment
                (the first record at or after it, else the end), or a mapping of partitions to offsets,
                where those left out begin at the earliest. See `Consumer`.
            timeout: seconds without a record after which iteration ends; None: never.
            spin: seconds to look again and again before sleeping, 0 to 1; sooner woken for more CPU.
            value: what values of records are read through: "utf8", "json", "msgpack", a function of bytes, a
                pair (serialize, deserialize) or a `Serializer`; or {topic: one of these}, where values of
                topics left out are bytes. Bytes by default, whatever a `Topic` says.
            key: likewise for keys.

        Raises:
            TopicNotFoundError, OptionError, UnsupportedError, TypeError, ClosedError: as `topic` does.
            OffsetOutOfRangeError: an offset in `start` is not in its partition.
        """
        opt.refuse_unknown("consumer", later)
        self._check()
        return Consumer(self, topics, start=start, timeout=timeout, spin=spin, value=value, key=key)

    def async_consumer(
        self,
        *topics: str,
        start: Start = "earliest",
        timeout: opt.Duration | None = None,
        value: SerializerLike | Mapping[str, SerializerLike] | None = None,
        key: SerializerLike | Mapping[str, SerializerLike] | None = None,
        **later: Never,
    ) -> AsyncConsumer:
        """A consumer for asyncio: `async for`, `await poll()`. Arguments and errors are those of `consumer`.

        An event loop does not spin, so there is no `spin`.
        """
        opt.refuse_unknown("async_consumer", later)
        self._check()
        consumer = Consumer(self, topics, start=start, timeout=timeout, spin=0, value=value, key=key)
        from pystream.aio import AsyncConsumer  # asyncio takes longer to import than all of pystream

        return AsyncConsumer(consumer)

    def close(self) -> None:
        """Close consumers, flush and close producers, and give up the store. Twice is once.

        Raises:
            DeliveryError: records of a producer could not go out. The store is closed all the same.
        """
        if self._closed:
            return
        self._closed = True
        if self._handle.forked:
            return  # the files and the records still in builders are the parent's
        failed: BaseException | None = None
        for user in list(self._users):
            try:
                user.close()
            except BaseException as error:
                failed = failed or error
        try:
            with _lock:
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
