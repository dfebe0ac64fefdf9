"""Where a backup goes: what is there already, the directory beside it in which it is made, and the swap.

Beside PATH there may be, in the same directory:

  .NAME.backup-ID    what is being made; after the swap, what was there before
  .NAME.replaced-ID  the last backup, where the file system cannot swap two names in one step

Each is locked (`flock`) by who makes it. What nobody has locked is a dead process's: removed by the next
backup, or given its name back when that process died between the two steps.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from pystream import metadata
from pystream import options as opt
from pystream._native.backup import Site
from pystream._native.limits import PARTITIONS_MAX
from pystream.backups.trees import read_bytes, remove_tree
from pystream.errors import CorruptLogError, OptionError, StorageError, StoreNotFoundError
from pystream.metadata import BACKUP_FILE, LIVE_FILE

if TYPE_CHECKING:
    from pystream.store import Store

FORMAT: Final = "pystream backup"

NAME_BYTES_MAX: Final = 255 - len("..replaced-") - 16
"""Of the last component of a path."""
_CANNOT_EXCHANGE: Final = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


@dataclass(frozen=True, slots=True)
class Previous:
    """The backup that is to be replaced."""

    path: str
    topics: dict[str, tuple[str, dict[str, Any]]]
    """By uuid: a topic's name, and what backup.json says of its partitions."""

    def segment(self, uuid: str, partition: int, base: int) -> tuple[str, int] | None:
        """The path of a segment that it has, and how many records are in it."""
        name, partitions = self.topics.get(uuid, ("", {}))
        for found, records in partitions.get(str(partition), {}).get("segments", ()):
            if found == base:
                directory = os.path.join(metadata.topic_directory(self.path, name), str(partition))
                return os.path.join(directory, f"{base:020}.log"), records
        return None


class Place:
    """The place of a backup, kept to oneself. A context manager: it is left without a trace unless `swap` was
    called.

    Raises:
        OptionError: the path is none that a store can have, or is in the store.
        StoreNotFoundError: its parent directory does not exist, or what is there is no backup of this store.
        StorageError: another process makes a backup there (errno EBUSY), or a system call failed.
        CorruptLogError, FormatVersionError: what is there says that it is a backup, but cannot be read.
    """

    def __init__(self, site: Site, store: Store, path: str | os.PathLike[str]) -> None:
        self._site = site
        self._store = store
        self.path = os.path.realpath(opt.parse_store_path(path))
        self._parent, self._name = os.path.split(self.path)
        self._names = re.compile(rf"\.{re.escape(self._name)}\.(backup|replaced)-[0-9a-f]{{16}}")
        self._check_place()
        id = os.urandom(8).hex()
        self.tree = os.path.join(self._parent, f".{self._name}.backup-{id}")
        """The directory in which it is made."""
        self._aside = os.path.join(self._parent, f".{self._name}.replaced-{id}")
        self._lock = -1
        self._swapping = False
        self.previous: Previous | None = None

    def __enter__(self) -> Place:
        with metadata.storage_errors(self.path):
            dead: list[tuple[str, int]] = []
            try:
                with _locked(self._parent):
                    dead = self._dead()
                    self._heal([name for name, _ in dead])
                    self.previous = self._look()
                    os.mkdir(self.tree, 0o700)
                    self._lock = _lock(self.tree)
                if dead:  # one may have died in the swap: the disk must not go back on it now
                    metadata.sync_directory(self._parent)
                for name, _ in dead:
                    self._sweep(name)
            except BaseException:
                self._leave()
                raise
            finally:
                _close(dead)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        if not self._swapping:
            remove_tree(self.tree)
        if self._lock >= 0:
            with suppress(OSError):  # which would say nothing of the backup
                fcntl.flock(self._lock, fcntl.LOCK_UN)  # a child that was forked meanwhile has it, too
                os.close(self._lock)
            self._lock = -1

    # ---- what is there ----------------------------------------------------------------------------------

    def _check_place(self) -> None:
        source = os.path.realpath(self._store.path)
        if self.path == source:
            raise OptionError(f"{self.path}: this is the store itself; its backup goes elsewhere")
        if _holds(source, self.path):
            raise OptionError(f"{self.path}: is inside the store {source}; its backup goes elsewhere")
        if _holds(self.path, source):
            raise OptionError(f"{self.path}: the store {source} is inside it; its backup goes elsewhere")
        if len(os.fsencode(self._name)) > NAME_BYTES_MAX:
            raise OptionError(
                f"{self.path}: its last component may have {NAME_BYTES_MAX} bytes, so that there is room for "
                "longer names beside it"
            )
        if not os.path.isdir(self._parent):
            raise StoreNotFoundError(
                f"{self.path}: its parent directory {self._parent} does not exist; only the last component "
                "is created",
                path=self.path,
            )
        if os.path.ismount(self.path):
            raise OptionError(
                f"{self.path}: a file system is mounted there, which cannot be replaced; name a directory in "
                "it"
            )

    def check_topic(self, name: str) -> None:
        """Raise `OptionError` where a copy of the topic could not be opened, for the length of its path."""
        longest = os.path.join(metadata.topic_directory(self.path, name), str(PARTITIONS_MAX - 1))
        if len(os.fsencode(longest)) > opt.PARTITION_PATH_BYTES_MAX:
            raise OptionError(
                f"{self.path}: too long for topic {name!r}; {longest} would have more than "
                f"{opt.PARTITION_PATH_BYTES_MAX} bytes",
                topic=name,
            )

    def _look(self) -> Previous | None:
        """What is at the path: None for nothing, or an empty directory."""
        if not os.path.lexists(self.path):
            return None
        if not os.path.isdir(self.path):
            raise StoreNotFoundError(f"{self.path}: not a directory; a backup is a directory", path=self.path)
        content = os.listdir(self.path)
        if not content:
            return None
        file = os.path.join(self.path, BACKUP_FILE)
        if BACKUP_FILE not in content:
            what = "is a store, and no backup" if metadata.STORE_FILE in content else f"holds {content[0]!r}"
            raise StoreNotFoundError(
                f"{self.path}: {what}; a backup goes into a new or empty directory, or replaces an older "
                "backup of the same store",
                path=self.path,
            )
        try:
            document = metadata.decode(read_bytes(file), format=FORMAT, path=file)
            of, where = str(document["store"]), str(document["source"])
            topics = {
                str(one["uuid"]): (str(name), dict(one["partitions"]))
                for name, one in document["topics"].items()
            }
        except CorruptLogError as error:
            raise CorruptLogError(
                f"{error}; it is left as it is: move it away, or name another directory", path=file
            ) from error
        if of != self._store.uuid.hex:
            raise StoreNotFoundError(
                f"{self.path}: a backup of another store, which was at {where}; name another directory",
                path=self.path,
            )
        self._check_untouched(self.path)
        return Previous(self.path, topics)

    def _check_untouched(self, path: str) -> None:
        """Who opens a backup to write makes it a store of its own, whose records are nowhere else."""
        if os.path.lexists(os.path.join(path, LIVE_FILE)):
            raise StoreNotFoundError(
                f"{self.path}: this backup was opened for writing since, and is a store of its own now: "
                "replacing it could lose what was written to it; name another directory",
                path=self.path,
            )

    # ---- what the dead have left ------------------------------------------------------------------------

    def _dead(self) -> list[tuple[str, int]]:
        """What others have left beside the path, each locked by us from now on."""
        found: list[tuple[str, int]] = []
        try:
            for name in sorted(os.listdir(self._parent)):
                path = os.path.join(self._parent, name)
                if not self._names.fullmatch(name) or os.path.islink(path):
                    continue
                try:
                    found.append((name, _lock(path)))
                except FileNotFoundError:
                    continue
                except BlockingIOError:
                    raise StorageError(
                        errno.EBUSY,
                        "another process is making a backup there; let it finish",
                        self.path,
                        path=self.path,
                        errno_=errno.EBUSY,
                    ) from None
        except BaseException:
            _close(found)
            raise
        return found

    def _heal(self, dead: list[str]) -> None:
        """Give the last backup its name back, where who had taken it died."""
        aside = [name for name in dead if f".{self._name}.replaced-" in name]
        if aside and not (os.path.isdir(self.path) and os.listdir(self.path)):
            os.rename(os.path.join(self._parent, aside[-1]), self.path)
            metadata.sync_directory(self._parent)

    def _sweep(self, name: str) -> None:
        path = os.path.join(self._parent, name)
        # Somebody had the last backup open for writing as it was being replaced.
        if not os.path.lexists(os.path.join(path, LIVE_FILE)):
            remove_tree(path)

    # ---- the swap ---------------------------------------------------------------------------------------

    def swap(self) -> None:
        """Put what was made, which is on the disk, in its place; what was there is removed."""
        with metadata.storage_errors(self.path):
            self._site.point("backup.synced")
            metadata.sync_directory(self._parent)
            self._site.point("backup.named")
            if self.previous is None:
                self._rename(self.tree, self.path)
                self._swapping = True
            else:
                self._check_untouched(self.path)
                self._exchange()
            self._site.point("backup.swapped")
            # Until this has succeeded, both are kept: who knows which of them the disk has.
            metadata.sync_directory(self._parent)
            self._site.point("backup.durable")
            remove_tree(self.tree)
            remove_tree(self._aside)
            self._site.point("backup.removed")

    def _rename(self, old: str, new: str) -> None:
        try:
            os.rename(old, new)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise StoreNotFoundError(
                f"{self.path}: something else has come there meanwhile; it is left as it is", path=self.path
            ) from None

    def _exchange(self) -> None:
        self._swapping = True  # before: an interrupt may come between the swap and the next line
        try:
            self._site.exchange(self.tree, self.path)
        except OSError as error:
            self._swapping = False
            if error.errno not in _CANNOT_EXCHANGE:
                raise
            os.rename(self.path, self._aside)
            self._swapping = True
            self._site.point("backup.aside")
            try:
                self._check_untouched(self._aside)
                self._rename(self.tree, self.path)
            except BaseException:
                os.rename(self._aside, self.path)
                self._swapping = False
                raise
            return
        if os.path.lexists(os.path.join(self.tree, LIVE_FILE)):  # opened between our look and the swap
            self._site.exchange(self.tree, self.path)
            self._swapping = False
            self._check_untouched(self.path)


def _holds(outer: str, inner: str) -> bool:
    return inner.startswith(outer.rstrip("/") + "/")


def _lock(path: str) -> int:
    """A descriptor that keeps a directory locked; `BlockingIOError`: somebody else does."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _close(locked: list[tuple[str, int]]) -> None:
    for _, descriptor in locked:
        with suppress(OSError):
            os.close(descriptor)


@contextmanager
def _locked(directory: str) -> Iterator[None]:
    """A directory locked for the moment that it takes to come, or to see that somebody is there."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
