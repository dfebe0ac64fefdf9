"""Opening a store: what its directory is, and what all that open it in this process have in common."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final, Never
from weakref import WeakKeyDictionary

from pystream import deletion, metadata
from pystream import options as opt
from pystream import store as stores
from pystream._native.limits import DURABILITIES, IO_VERBS, choose_io
from pystream._native.log import StoreHandle
from pystream.errors import OptionError, StoreNotFoundError, UnsafeFileSystemError
from pystream.store import Settings, Store

DURABILITY_DEFAULT: Final = "interval"
SYNC_INTERVAL_DEFAULT_NS: Final = 10**9
MAINTENANCE_DEFAULT_NS: Final = 5 * 10**9
MAINTENANCE_NS_MIN: Final = 10**7
MAINTENANCE_NS_MAX: Final = 86400 * 10**9

_settings: WeakKeyDictionary[StoreHandle, Settings] = WeakKeyDictionary()

os.register_at_fork(after_in_child=_settings.clear)


def open(
    path: str | os.PathLike[str],
    mode: str = "rw",
    *,
    create: bool | None = None,
    durability: str | None = None,
    sync_interval: opt.Duration | None = None,
    min_free_bytes: opt.Size | None = None,
    io: str = "auto",
    maintenance: opt.Duration | bool | None = None,
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
        min_free_bytes: bytes of the file system that this store leaves free; 0 by default. An append
            that would need more space than that raises `StorageError` with ENOSPC, as on a full disk, until
            an eighth more than that is free again. Each process goes by what it was told itself.
        io: how records are stored: "mmap", "pwrite", or "auto": by the file system, and "pwrite" for topics
            with durability "sync", whose appends wait for the disk less that way.
        maintenance: seconds between looks for what is due by the topics' `retention` and `cleanup`, 10 ms to
            a day; 5 s by default (None, or True). A thread that takes next to no time does it, once a
            partition has been opened for writing, in one process at a time. False: not in this process. See
            `Store.maintain`.
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
            create=create,
            durability=durability,
            sync_interval=sync_interval,
            min_free_bytes=min_free_bytes is not None,
            io=io != "auto",
            maintenance=maintenance not in (None, False),
        )
    directory = os.path.abspath(opt.parse_store_path(path))
    given: dict[str, Any] = {}
    if durability is not None:
        given["durability"] = opt.parse_choice("durability", durability, DURABILITIES)
    if sync_interval is not None:
        given["sync_interval_ns"] = opt.parse_duration(
            "sync_interval", sync_interval, minimum=opt.SYNC_INTERVAL_NS_MIN, maximum=opt.SYNC_INTERVAL_NS_MAX
        )
    if min_free_bytes is not None:
        given["min_free_bytes"] = opt.parse_size(
            "min_free_bytes", min_free_bytes, minimum=0, maximum=opt.MIN_FREE_BYTES_MAX
        )
    if opt.parse_choice("io", io, ("auto", *IO_VERBS)) != "auto":
        given["io"] = io
    if maintenance is not None:
        given["maintenance_ns"] = _parse_maintenance(maintenance)
    _find_or_create(directory, create, io, force)
    identity = metadata.read_store(directory)
    given["io"], filesystem = _choose_io(directory, io, force)
    with stores.lock, metadata.storage_errors(directory):
        handle = StoreHandle.acquire(directory, read_only)
        try:
            settings = _settings.get(handle)
            if settings is None:
                settings = Settings(
                    durability=given.get("durability", DURABILITY_DEFAULT),
                    sync_interval_ns=given.get("sync_interval_ns", SYNC_INTERVAL_DEFAULT_NS),
                    min_free_bytes=given.get("min_free_bytes", 0),
                    io=given["io"],
                    io_is_auto=io == "auto",
                    filesystem=filesystem,
                    maintenance_ns=given.get("maintenance_ns", MAINTENANCE_DEFAULT_NS),
                )
                _settings[handle] = settings
                handle.min_free_bytes = settings.min_free_bytes
                if not read_only:
                    deletion.sweep(handle, directory)
                    if settings.maintenance_ns:
                        handle.on_first_log(
                            partial(_start_maintenance, handle, directory, settings, identity)
                        )
            elif conflict := _conflict(settings, given, io):
                name, wanted, existing = conflict
                raise OptionError(
                    f"{name}={wanted!r}: {directory} is already open in this process with {name}={existing!r}"
                )
        except BaseException:
            handle.release()
            raise
    return Store(directory, handle, settings, identity)


def _parse_maintenance(value: object) -> int:
    """Nanoseconds between two passes; 0: none."""
    if value is False:
        return 0
    if value is True:
        return MAINTENANCE_DEFAULT_NS
    return opt.parse_duration("maintenance", value, minimum=MAINTENANCE_NS_MIN, maximum=MAINTENANCE_NS_MAX)


def _start_maintenance(
    handle: StoreHandle, directory: str, settings: Settings, identity: metadata.Identity
) -> None:
    from pystream.maintenance.maintainer import of  # not before there is something to maintain

    of(handle, directory, settings, identity).start()


def _refuse_for_readers(**given: object) -> None:
    for name, value in given.items():
        if value:
            raise OptionError(f"{name}= is for stores that are written to; leave it out with mode='r'")


def _conflict(settings: Settings, given: Mapping[str, Any], io: str) -> tuple[str, object, object] | None:
    for name, wanted in given.items():
        existing = getattr(settings, name)
        if wanted == existing or (name == "io" and io == "auto"):
            continue
        if name in ("sync_interval_ns", "maintenance_ns"):
            return name.removesuffix("_ns"), wanted / 1e9, existing / 1e9
        return name, wanted, existing
    return None


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
    with metadata.storage_errors(path):
        chosen, filesystem = choose_io(path)
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
