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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID, uuid4

import numpy as np

from pystream import options as opt
from pystream._native.deletion import point
from pystream._native.hashing import xxh3_hex
from pystream._native.limits import CODECS, DURABILITIES, FORMAT_VERSION, FRAME_HEADER_BYTES
from pystream.errors import (
    CorruptLogError,
    FormatVersionError,
    OptionError,
    PystreamError,
    StorageError,
    StoreNotFoundError,
)

if TYPE_CHECKING:
    from pystream._native.log import StoreHandle

STORE_FILE: Final = "store.json"
TOPIC_FILE: Final = "topic.json"
TOPICS_DIRECTORY: Final = "topics"
LOCKS_FILE: Final = "locks"
LIVE_FILE: Final = "live"
BACKUP_FILE: Final = "backup.json"
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


@dataclass(frozen=True, slots=True, eq=False)
class TopicOptions:
    """How a topic stores its records. Fixed when the topic is made."""

    partitions: int = 1
    """Partitions, 1 to 65,536."""
    compression: str = "none"
    """Codec of new batches: "none" or "lz4"."""
    durability: str = "interval"
    """"interval", "sync" or "none"."""
    dtype: np.dtype[Any] | None = None
    """NumPy type of each value, or None."""
    value_bytes: int | None = None
    """Bytes of every value, or None when they vary (or follow from `dtype`)."""
    key_bytes: int | None = None
    """Bytes of every key that is not null, or None when they vary."""
    segment_bytes: int = 128 << 20
    """Bytes of a segment file."""
    index_interval_bytes: int = 16 << 10
    """Bytes of log between two entries of the sparse index."""
    timestamp_type: str = "create"
    """"create": the producer's clock or the timestamp given. "append": the log's clock at append."""

    def __post_init__(self) -> None:
        if self.dtype is not None and self.value_bytes is not None:
            raise OptionError("dtype= and value_bytes= both say how wide a value is: give one of them")
        width = self.value_width
        record = FRAME_HEADER_BYTES + max(width, 0) + (self.key_bytes or 0)
        if record > self.segment_bytes // 2:
            raise OptionError(
                f"segment_bytes={self.segment_bytes}: too small for records of {record - FRAME_HEADER_BYTES} "
                f"bytes; must be at least twice a batch of one record ({2 * record} bytes)"
            )

    @property
    def value_width(self) -> int:
        """Bytes of every value, or -1 when they vary."""
        if self.dtype is not None:
            return self.dtype.itemsize
        return -1 if self.value_bytes is None else self.value_bytes

    @property
    def key_width(self) -> int:
        """Bytes of every key, or -1 when they vary."""
        return -1 if self.key_bytes is None else self.key_bytes

    @classmethod
    def parse(cls, given: Mapping[str, object]) -> dict[str, Any]:
        """Check the options that were given (those not None) and bring them to their stored form."""
        return {name: _PARSERS[name](value) for name, value in given.items() if value is not None}

    def differing(self, given: Mapping[str, object]) -> str | None:
        """The first option given that is not as stored here, or None."""
        for name, wanted in given.items():
            existing = getattr(self, name)
            # NumPy holds that dtype("f8") == None, so None is compared by identity.
            if (existing is None) != (wanted is None) or existing != wanted:
                return name
        return None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TopicOptions):
            return NotImplemented
        return self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(tuple(self.to_json().items()))

    def to_json(self) -> dict[str, object]:
        document: dict[str, object] = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.dtype is not None:
            document["dtype"] = opt.dtype_to_text(self.dtype)
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> TopicOptions:
        known = {field.name: document[field.name] for field in fields(cls)}
        if known["dtype"] is not None:
            known["dtype"] = opt.dtype_from_text(known["dtype"])
        return cls(**cls.parse(known))


_PARSERS: Final[dict[str, Any]] = {
    "partitions": opt.parse_partitions,
    "compression": lambda value: opt.parse_choice("compression", value, CODECS),
    "durability": lambda value: opt.parse_choice("durability", value, DURABILITIES),
    "dtype": opt.parse_dtype,
    "value_bytes": lambda value: opt.parse_width("value_bytes", value),
    "key_bytes": lambda value: opt.parse_width("key_bytes", value),
    "segment_bytes": opt.parse_segment_bytes,
    "index_interval_bytes": opt.parse_index_interval_bytes,
    "timestamp_type": lambda value: opt.parse_choice("timestamp_type", value, ("create", "append")),
}


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
    return os.path.isfile(os.path.join(topic_directory(path, name), TOPIC_FILE))


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


def create_topic(path: str, name: str, options: TopicOptions, store: StoreHandle | None = None) -> bool:
    """Make a topic's directory, whole or not at all. False when another process was first.

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
            os.rename(temporary, target)  # refused by the kernel when a non-empty directory is there
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


def sweep_unfinished(path: str) -> None:
    """Remove what creators of topics that died have left in the store in `path`. Never fails: what cannot be
    removed now will be another time."""
    topics = os.path.join(path, TOPICS_DIRECTORY)
    with suppress(OSError):
        for name in filter(_is_temporary, os.listdir(topics)):
            with suppress(OSError), _open_directory(os.path.join(topics, name)) as directory:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)  # its maker lives: leave it alone
                remove_tree(os.path.join(topics, name))


def _new_directory(parent: str) -> tuple[str, int]:
    """A directory to be filled and renamed, and its descriptor, locked until then for `sweep_unfinished`."""
    while True:
        path = _temporary_name(parent)
        os.mkdir(path)
        descriptor = -1
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                return path, descriptor
        except FileNotFoundError:
            pass  # swept before it was locked
        except BaseException:
            if descriptor >= 0:
                os.close(descriptor)
            with suppress(OSError):
                os.rmdir(path)
            raise
        if descriptor >= 0:
            os.close(descriptor)


# ---- files ----------------------------------------------------------------------------------------


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


@contextmanager
def _open_directory(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
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
