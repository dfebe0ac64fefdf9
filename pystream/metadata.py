"""`store.json` and `topic.json`: what a directory is, and the options it was made with.

Each is one JSON object in one exact form (sorted keys, two spaces, ASCII, a closing newline), with the
xxh3 of that form without the checksum itself. A file that differs from what its content would be written
as is damaged, so any flipped byte is found. Files are written under a temporary name, synced, renamed,
and the directory synced; a topic's whole directory is made that way, so creation is atomic between
processes.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID, uuid4

from pystream._native.deletion import point
from pystream._native.hashing import xxh3_hex
from pystream._native.limits import FORMAT_VERSION
from pystream.errors import (
    CorruptLogError,
    FormatVersionError,
    LockTimeoutError,
    OptionError,
    PystreamError,
    StorageError,
    StoreNotFoundError,
)
from pystream.topicoptions import TopicOptions as TopicOptions

if TYPE_CHECKING:
    from pystream._native.log import StoreHandle

STORE_FILE: Final = "store.json"
TOPIC_FILE: Final = "topic.json"
TOPICS_DIRECTORY: Final = "topics"
LOCKS_FILE: Final = "locks"
LIVE_FILE: Final = "live"
BACKUP_FILE: Final = "backup.json"
MAINTENANCE_FILE: Final = "maintenance.json"
JOBS_DIRECTORY: Final = "ingest"
JOB_FORMAT: Final = "pystream ingest job"

# What is being made bears this prefix, what is being removed another. '+' is in no topic name, so neither can
# ever pass for a topic.
_TEMPORARY: Final = ".tmp+"
# What may stand in a directory that counts as empty: an unfinished creation, and ext4's own.
_NOT_CONTENT: Final = ("lost+found",)

# Features this version knows. An unknown incompatible one refuses the file, an unknown compatible one
# is passed over.
_INCOMPATIBLE_KNOWN: Final[frozenset[str]] = frozenset()


class Identity(NamedTuple):
    """What a store or a topic is called by machines, and when it was made."""

    uuid: UUID
    created: datetime


# ---- documents ------------------------------------------------------------------------------------


def encode(document: Mapping[str, object]) -> bytes:
    """The one form of a document, its checksum included."""
    body = {name: value for name, value in document.items() if name != "checksum"}
    return _render({**body, "checksum": xxh3_hex(_render(body))})


def decode(data: bytes, *, format: str, path: str) -> dict[str, Any]:
    """The document that `encode` wrote, after every check.

    Raises:
        CorruptLogError: not exactly what was written.
        FormatVersionError: written by a version, or with features, that this code does not know.
    """
    try:
        document: dict[str, Any] = json.loads(data)
        sound = isinstance(document, dict) and encode(document) == data
    except (ValueError, RecursionError):
        sound = False
    if not sound or document.get("format") != format:
        raise CorruptLogError(f"{path}: damaged: not what was written there (checksum differs)", path=path)
    if document.get("version") != FORMAT_VERSION:
        raise FormatVersionError(
            f"{path}: written in format version {document.get('version')}; this pystream reads version "
            f"{FORMAT_VERSION}",
            path=path,
        )
    if unknown := sorted(set(document.get("incompatible", ())) - _INCOMPATIBLE_KNOWN):
        raise FormatVersionError(
            f"{path}: needs {', '.join(map(repr, unknown))}, which this version of pystream does not have",
            path=path,
        )
    return document


def _render(document: Mapping[str, object]) -> bytes:
    text = json.dumps(document, sort_keys=True, indent=2, ensure_ascii=True, allow_nan=False)
    return text.encode("ascii") + b"\n"


def new_document(format: str) -> dict[str, object]:
    """The members that every document begins with."""
    return {
        "format": format,
        "version": FORMAT_VERSION,
        "incompatible": [],
        "compatible": [],
        "uuid": uuid4().hex,
        "created": datetime.now(UTC).isoformat(timespec="microseconds"),
    }


def _identity(document: Mapping[str, Any]) -> Identity:
    return Identity(UUID(hex=document["uuid"]), datetime.fromisoformat(document["created"]))


# ---- stores ---------------------------------------------------------------------------------------


def read_store(path: str) -> Identity:
    """What STORE/store.json says.

    Raises:
        StoreNotFoundError: there is no such file.
        CorruptLogError, FormatVersionError: see `decode`.
    """
    file = os.path.join(path, STORE_FILE)
    with storage_errors(file):
        try:
            data = read_bytes(file)
        except (FileNotFoundError, NotADirectoryError):
            raise StoreNotFoundError(f"{path}: no pystream store there", path=path) from None
    with _damage(file):
        return _identity(decode(data, format="pystream store", path=file))


def create_store(path: str) -> None:
    """Make the empty directory `path` a store; if another process has done so meanwhile, that one counts.

    Raises:
        StoreNotFoundError: the directory holds other things.
        StorageError: a system call failed.
    """
    file = os.path.join(path, STORE_FILE)
    with storage_errors(path), _open_directory(path) as directory:
        fcntl.flock(directory, fcntl.LOCK_EX)  # dies with the process; closed with the descriptor
        if os.path.lexists(file):
            return
        content = [name for name in os.listdir(path) if not _is_temporary(name) and name not in _NOT_CONTENT]
        if content:
            raise StoreNotFoundError(
                f"{path}: not a pystream store (it holds {content[0]!r} but no {STORE_FILE}); "
                "a store is made only in a new or empty directory",
                path=path,
            )
        for name in os.listdir(path):
            if _is_temporary(name):  # whoever made it is dead: it had the lock
                os.unlink(os.path.join(path, name))
        temporary = _temporary_name(path)
        try:
            _write_synced(temporary, encode(new_document("pystream store")))
            point(None, "create.store_written")
            os.rename(temporary, file)
            point(None, "create.store_renamed")
            os.fsync(directory)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
    parent = os.path.dirname(os.path.abspath(path))
    with storage_errors(parent):
        sync_directory(parent)


# ---- topics ---------------------------------------------------------------------------------------


def list_topics(path: str) -> list[str]:
    """The names of a store's topics, sorted."""
    with storage_errors(path):
        try:
            entries = os.listdir(os.path.join(path, TOPICS_DIRECTORY))
        except FileNotFoundError:
            return []
    return sorted(name for name in entries if "+" not in name and has_topic(path, name))


def has_topic(path: str, name: str) -> bool:
    """Whether there is such a topic. One that cannot be looked at is one: who reads it hears why not."""
    try:
        found = os.stat(os.path.join(topic_directory(path, name), TOPIC_FILE))
    except (FileNotFoundError, NotADirectoryError, ValueError):  # a name that no file can have
        return False
    except OSError as error:
        return error.errno != errno.ENAMETOOLONG
    return stat.S_ISREG(found.st_mode)


def topic_directory(path: str, name: str) -> str:
    return os.path.join(path, TOPICS_DIRECTORY, name)


def read_topic(path: str, name: str) -> tuple[Identity, TopicOptions] | None:
    """What a topic's topic.json says; None when there is no such topic.

    Raises:
        CorruptLogError, FormatVersionError: see `decode`.
    """
    file = os.path.join(topic_directory(path, name), TOPIC_FILE)
    with storage_errors(file):
        try:
            data = read_bytes(file)
        except (FileNotFoundError, NotADirectoryError):
            return None
    with _damage(file):
        document = decode(data, format="pystream topic", path=file)
        return _identity(document), TopicOptions.from_json(document["options"])


def create_topic(
    path: str,
    name: str,
    options: TopicOptions,
    store: StoreHandle | None = None,
    fill: Callable[[str, int], None] | None = None,
) -> bool:
    """Make a topic's directory, whole or not at all. False when another process was first.

    Args:
        fill: called before it gets its name, with the path it has until then and a descriptor of it, to put
            more into it. What that raises ends it.

    Raises:
        StorageError: a system call failed; nothing is left behind. When the sync of the directory did, the
            topic is there, but may be gone after a power failure.
    """
    topics = os.path.join(path, TOPICS_DIRECTORY)
    target = topic_directory(path, name)
    with storage_errors(target):
        os.makedirs(topics, exist_ok=True)
        if all(map(_is_temporary, os.listdir(topics))):  # else whoever made a topic has seen to it
            sync_directory(path)
        temporary, made = _new_directory(topics)
        try:
            point(store, "create.begun")
            document = {**new_document("pystream topic"), "options": options.to_json()}
            _write_synced(os.path.join(temporary, TOPIC_FILE), encode(document))
            _write_synced(os.path.join(temporary, LOCKS_FILE), b"")
            for partition in range(options.partitions):
                os.mkdir(os.path.join(temporary, str(partition)))
            os.fsync(made)
            point(store, "create.written")
            if fill is not None:
                fill(temporary, made)
            os.rename(temporary, target)  # refused by the kernel when a non-empty directory is there
            announce(topics)
            point(store, "create.renamed")
        except BaseException as error:
            remove_tree(temporary)
            if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise
        finally:
            os.close(made)
        sync_directory(topics)
        point(store, "create.synced")
    return True


def find_topic(path: str, uuid: UUID) -> str | None:
    """The name of the topic with this uuid, whatever it was before. Reads every topic's file, so it is for
    errors and the like."""
    for name in list_topics(path):
        with suppress(PystreamError):
            found = read_topic(path, name)
            if found is not None and found[0].uuid == uuid:
                return name
    return None


def topic_stamp(path: str, name: str) -> tuple[int, int] | None:
    """What changes whenever a topic's options do: time of change and inode of its file. None: no topic."""
    try:
        found = os.stat(os.path.join(topic_directory(path, name), TOPIC_FILE))
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def rewrite_topic(
    path: str,
    name: str,
    directory: int,
    edit: Callable[[TopicOptions], TopicOptions],
    store: StoreHandle | None = None,
) -> tuple[TopicOptions, TopicOptions]:
    """Put other options in place of a topic's, in one step; those before, and those now.

    The new file is made among the topics, and not in this one: so the time of change of STORE/topics tells
    everybody that something about the topics has changed.

    Args:
        directory: of the topic, open and locked by `topic_lock`. The file goes there, though another topic
            should have the name by then.
        edit: makes the new ones from the present ones; nothing is written where they are the same.

    Raises:
        CorruptLogError, FormatVersionError: the present file is damaged, or too new.
        StorageError: a system call failed. Unless that was the last sync, nothing has changed.
    """
    file = os.path.join(topic_directory(path, name), TOPIC_FILE)
    with storage_errors(file), _damage(file):
        with open(os.open(TOPIC_FILE, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory), "rb") as present:
            document = decode(present.read(), format="pystream topic", path=file)
        before = TopicOptions.from_json(document["options"])
    after = edit(before)
    if after == before:
        return before, before
    data = encode({**document, "options": {**document["options"], **after.to_json()}})
    topics = os.path.join(path, TOPICS_DIRECTORY)
    with storage_errors(file):
        temporary, made = _new_file(topics)
        try:
            point(store, "alter.begun")
            with open(made, "wb", closefd=False) as out:
                out.write(data)
            os.fsync(made)
            point(store, "alter.written")
            os.rename(temporary, TOPIC_FILE, dst_dir_fd=directory)
            announce(topics)
            point(store, "alter.renamed")
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        finally:
            os.close(made)
        os.fsync(directory)
        point(store, "alter.synced")
    return before, after


@contextmanager
def topic_lock(path: str, name: str, timeout_ns: int) -> Iterator[int]:
    """Be the only one who changes, renames or deletes a topic: a descriptor of its directory, locked. Records
    can be appended and read meanwhile. The lock dies with the process.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no such directory.
        LockTimeoutError: another one kept the lock for longer than `timeout_ns` (-1: for ever).
    """
    place = topic_directory(path, name)
    deadline = None if timeout_ns < 0 else time.monotonic_ns() + timeout_ns
    pause = 0.001
    while True:
        with _open_directory(place) as directory:
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if deadline is not None and time.monotonic_ns() >= deadline:
                    raise LockTimeoutError(
                        f"topic {name!r}: another process kept changing it for longer than the timeout",
                        topic=name,
                        path=place,
                    ) from None
            else:
                now, there = os.fstat(directory), os.stat(place)
                if (now.st_dev, now.st_ino) == (there.st_dev, there.st_ino):
                    yield directory
                    return
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


def sweep_unfinished(path: str) -> None:
    """Remove what makers of topics, and of their files, that died have left in the store in `path`. Never
    fails: what cannot be removed now will be another time."""
    topics = os.path.join(path, TOPICS_DIRECTORY)
    with suppress(OSError):
        for name in filter(_is_temporary, os.listdir(topics)):
            with suppress(OSError), _open(os.path.join(topics, name), 0) as made:
                fcntl.flock(made, fcntl.LOCK_EX | fcntl.LOCK_NB)  # its maker lives: leave it alone
                if stat.S_ISDIR(os.fstat(made).st_mode):
                    remove_tree(os.path.join(topics, name))
                else:
                    os.unlink(os.path.join(topics, name))


def _new_directory(parent: str) -> tuple[str, int]:
    """A directory to be filled and renamed, and its descriptor, locked until then for `sweep_unfinished`."""
    return _new_locked(parent, os.mkdir, os.O_RDONLY | os.O_DIRECTORY, os.rmdir)


def _new_file(parent: str) -> tuple[str, int]:
    """Likewise a file to be written."""
    return _new_locked(parent, _create, os.O_WRONLY, os.unlink)


def _create(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))


def _new_locked(
    parent: str, make: Callable[[str], None], flags: int, unmake: Callable[[str], None]
) -> tuple[str, int]:
    while True:
        path = _temporary_name(parent)
        make(path)
        descriptor = -1
        try:
            descriptor = os.open(path, flags | os.O_CLOEXEC)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                return path, descriptor
        except FileNotFoundError:
            pass  # swept before it was locked
        except BaseException:
            if descriptor >= 0:
                os.close(descriptor)
            with suppress(OSError):
                unmake(path)
            raise
        if descriptor >= 0:
            os.close(descriptor)


# ---- files ----------------------------------------------------------------------------------------


def announce(topics: str) -> None:
    """Set the time of change of STORE/topics anew when a rename is done, for who looks for changes by it.

    The kernel sets it before others can see what a rename did: who looks in between sees the new time with
    the old file, and would wait for another one.
    """
    with suppress(OSError):  # who may make a topic may do this
        os.utime(topics)


def sync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    with _open_directory(path) as directory:
        os.fsync(directory)


@contextmanager
def storage_errors(path: str) -> Iterator[None]:
    """Let an `OSError` of the operating system out as `StorageError`, with the path it concerns."""
    try:
        yield
    except StorageError as error:
        if error.filename is None:
            error.filename = error.path = path
        raise
    except PystreamError:
        raise
    except OSError as error:
        where = os.fsdecode(error.filename or path)
        if not os.path.isabs(where):  # it was named from the directory it is in
            where = path if os.path.basename(path) == where else os.path.join(path, where)
        raise StorageError(
            error.errno, error.strerror or str(error), where, path=where, errno_=error.errno
        ) from error


@contextmanager
def _damage(path: str) -> Iterator[None]:
    """A document whose checksum is right but whose content makes no sense."""
    try:
        yield
    except PystreamError as error:
        if not isinstance(error, OptionError):
            raise
        raise CorruptLogError(f"{path}: {error}", path=path) from error
    except (KeyError, TypeError, ValueError, SyntaxError) as error:
        raise CorruptLogError(f"{path}: an entry is missing or malformed: {error!r}", path=path) from error


def _open_directory(path: str) -> AbstractContextManager[int]:
    return _open(path, os.O_DIRECTORY)


@contextmanager
def _open(path: str, flags: int) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def remove_tree(path: str) -> None:
    """Remove a directory and all in it, as far as that can be done."""
    from shutil import rmtree  # slow to import, and wanted only here

    rmtree(path, ignore_errors=True)


def _temporary_name(directory: str) -> str:
    return os.path.join(directory, _TEMPORARY + os.urandom(8).hex())


def _is_temporary(name: str) -> bool:
    return name.startswith(_TEMPORARY)


def read_bytes(path: str) -> bytes:
    """What is in a file."""
    with open(path, "rb") as file:
        return file.read()


def _write_synced(path: str, data: bytes) -> None:
    """A new file, its bytes on the disk. Its name is not yet: that is the directory's sync."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
