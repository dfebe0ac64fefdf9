"""Deleting a topic, crash-safe and clear to all processes that have it open.

The rename of the topic's directory is the moment of deletion: before it the topic is whole, after it the
topic is gone, for whoever opens the store and whatever dies in between. What is left behind under the
hidden name is removed by the deleter, or by whoever next opens the store, or creates or deletes a topic.
`csrc/ps_topic.h` says why handles of the old topic never touch a later one of the same name.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import TYPE_CHECKING, Final

from pystream._native.deletion import TopicLock, point
from pystream.errors import LockTimeoutError, PartitionHeldError, PystreamError
from pystream.metadata import (
    LOCKS_FILE,
    TOPICS_DIRECTORY,
    announce,
    storage_errors,
    sweep_unfinished,
    sync_directory,
    topic_directory,
    topic_lock,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pystream._native.log import StoreHandle

HEAD_FILE: Final = "head"

# Like what is being made, what is being removed has '+' in its name, which no topic's has.
TOMBSTONE: Final = ".deleted+"


class _Lock(TopicLock):
    """A `TopicLock` for `closing`."""

    def close(self) -> None:
        self.release()


def delete_topic(store: StoreHandle, path: str, name: str, timeout_ns: int) -> bool:
    """Delete the topic `name` of the store in `path`. False: there is none, any more.

    Args:
        timeout_ns: how long to wait for writers that hold a lock, -1: for ever.

    Raises:
        LockTimeoutError: a writer kept its lock for longer. Nothing has changed.
        StorageError: a system call failed. When the sync of the directory did, the topic is deleted, but may
            come back after a power failure.
    """
    directory = topic_directory(path, name)
    topics = os.path.join(path, TOPICS_DIRECTORY)
    with storage_errors(directory), ExitStack() as held:
        store.release_holds(name)
        try:
            lock = held.enter_context(locked_out(store, path, name, timeout_ns, "deleted"))
        except (FileNotFoundError, NotADirectoryError):
            return False
        point(store, "delete.locked")
        tombstone = os.path.join(topics, TOMBSTONE + os.urandom(8).hex())
        os.rename(directory, tombstone)
        announce(topics)
        point(store, "delete.renamed")
        try:
            sync_directory(topics)
            point(store, "delete.synced")
        finally:
            tell_holders(store, tombstone, lock.mark, "delete.marked")
    store.drop_deleted()
    point(store, "delete.unlocked")
    _remove(store, tombstone)
    sweep(store, path)
    return True


@contextmanager
def locked_out(store: StoreHandle, path: str, name: str, timeout_ns: int, what: str) -> Iterator[TopicLock]:
    """Everybody locked out of a topic, those who would change it, and those who write to it.

    Args:
        timeout_ns: for each of the two, -1: for ever.
        what: is to become of the topic, for messages.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no such topic, any more.
        LockTimeoutError: somebody kept a lock for longer.
    """
    directory = topic_directory(path, name)
    with topic_lock(path, name, timeout_ns):
        try:
            lock = _Lock(store, directory, name, 1 + max(partitions(directory), default=-1), timeout_ns)
        except LockTimeoutError as error:
            _name_holder(directory, name, what, error)
            raise
        with closing(lock):
            if not lock.in_place():  # `locks` itself was replaced: by whom?
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), directory)
            yield lock


def sweep(store: StoreHandle, path: str) -> None:
    """Finish what creators and deleters of topics that died have left in the store in `path`.

    Never fails: what cannot be removed now, or is in somebody's hands, will be another time.
    """
    sweep_unfinished(path)
    topics = os.path.join(path, TOPICS_DIRECTORY)
    with suppress(OSError):
        for entry in os.listdir(topics):
            if not entry.startswith(TOMBSTONE):
                continue
            tombstone = os.path.join(topics, entry)
            with suppress(OSError, PystreamError):
                # The locks go last, so where there are none, all heads are marked, or gone.
                if os.path.exists(os.path.join(tombstone, LOCKS_FILE)) and not _finish(store, tombstone):
                    continue
                _remove(store, tombstone)


def _name_holder(directory: str, name: str, what: str, error: LockTimeoutError) -> None:
    """Say who keeps a partition for exclusive writing, where somebody does."""
    from pystream.inspection import read_head  # only on the way to an error

    for partition in partitions(directory):
        try:
            head = read_head(os.path.join(directory, str(partition), HEAD_FILE))
        except PystreamError:  # never opened
            continue
        if head.held:
            raise PartitionHeldError(
                f"topic {name!r} cannot be {what} now: process {head.holder} holds partition {partition} "
                "for exclusive writing",
                topic=name,
                partition=partition,
                path=directory,
            ) from error


def _finish(store: StoreHandle, tombstone: str) -> bool:
    """Mark what a deleter that died has not. False: writers that do not know yet, or a deleter, are at it."""
    try:
        lock = _Lock(store, tombstone, None, 1 + max(partitions(tombstone), default=-1), 0)
    except LockTimeoutError:
        return False
    with closing(lock):
        tell_holders(store, tombstone, lock.mark, "delete.marked")
    return True


def tell_holders(store: StoreHandle, directory: str, mark: Callable[[str], object], told: str) -> None:
    """Have `mark` tell, by each partition's head, whoever has it open; `told` is the fault point after each.
    Where a head cannot be marked, they find out at their next file."""
    for partition in partitions(directory):
        with suppress(PystreamError):
            mark(os.path.join(directory, str(partition), HEAD_FILE))
        point(store, told)


def _remove(store: StoreHandle, tombstone: str) -> None:
    from shutil import rmtree  # slow to import, and wanted only here

    with suppress(OSError):
        for partition in partitions(tombstone):
            rmtree(os.path.join(tombstone, str(partition)), ignore_errors=True)
            point(store, "delete.removing")
        for entry in os.listdir(tombstone):
            if entry != LOCKS_FILE:
                file = os.path.join(tombstone, entry)
                with suppress(OSError):
                    os.unlink(file)
        point(store, "delete.emptied")
        os.unlink(os.path.join(tombstone, LOCKS_FILE))
    rmtree(tombstone, ignore_errors=True)
    point(store, "delete.removed")


def partitions(directory: str) -> Iterator[int]:
    """The numbers of the partitions that have a directory there, from the first."""
    return iter(sorted(int(entry) for entry in os.listdir(directory) if entry.isdecimal()))
