"""Renaming a topic, crash-safe and clear to all processes that have it open.

The rename of the topic's directory is the moment: before it the topic has the one name, after it the other,
whatever dies in between. Everybody is locked out meanwhile, as when a topic is deleted. Handles that were
opened under the earlier name are used no more, for they make files by that name, which may be another
topic's soon: who has one hears `TopicRenamedError`. Offsets of consumer groups go by the topic's uuid, which
stays.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from pystream._native.deletion import point
from pystream.deletion import HEAD_FILE, locked_out, partitions, tell_holders
from pystream.errors import StorageError, TopicExistsError
from pystream.metadata import TOPICS_DIRECTORY, announce, storage_errors, sync_directory, topic_directory

if TYPE_CHECKING:
    from pystream._native.log import StoreHandle


def rename_topic(store: StoreHandle, path: str, old: str, new: str, timeout_ns: int) -> bool:
    """Give the topic `old` of the store in `path` the name `new`. False: there is no `old`, any more.

    Args:
        timeout_ns: how long to wait for writers that hold a lock, -1: for ever.

    Raises:
        TopicExistsError: there is a topic called `new`.
        LockTimeoutError: a writer kept its lock for longer. Nothing has changed.
        StorageError: a system call failed. When the sync of the directory did, the topic is renamed, but may
            have its earlier name again after a power failure.
    """
    topics = os.path.join(path, TOPICS_DIRECTORY)
    source, target = topic_directory(path, old), topic_directory(path, new)
    with storage_errors(source), ExitStack() as held:
        store.release_holds(old)
        try:
            lock = held.enter_context(locked_out(store, path, old, timeout_ns, "renamed"))
        except (FileNotFoundError, NotADirectoryError):
            return False
        point(store, "rename.locked")
        try:
            os.rename(source, target)  # refused by the kernel when a non-empty directory is there
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise TopicExistsError(f"there is a topic {new!r} already", topic=new, path=target) from None
        announce(topics)
        point(store, "rename.renamed")
        try:
            sync_directory(topics)
            point(store, "rename.synced")
        finally:
            tell_holders(store, target, lock.mark_moved, "rename.marked")
    store.drop_deleted()
    point(store, "rename.unlocked")
    return True


def unsynced(directory: str) -> list[int]:
    """The partitions in a topic's directory that hold records which are not known to be durable."""
    from pystream.inspection import read_head

    found = []
    for partition in partitions(directory):
        with suppress(StorageError):  # never opened
            head = read_head(os.path.join(directory, str(partition), HEAD_FILE))
            if head.durable_offset < head.log_end:
                found.append(partition)
    return found
