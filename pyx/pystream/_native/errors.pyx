# cython: language_level=3, binding=False
"""Every exception of pystream, and the one place where a native status becomes one of them."""
import errno
import io
import os

from pystream._native.c_api cimport (
    PS_CLOSED, PS_CORRUPT, PS_DELETED, PS_FORKED, PS_HELD, PS_INTERRUPTED, PS_INVALID, PS_NO_MEMORY,
    PS_NOT_FOUND, PS_OS_ERROR, PS_OUT_OF_RANGE, PS_POISONED, PS_READ_ONLY, PS_TIMEOUT, PS_TOO_LARGE,
    PS_VERSION, ps_error,
)


class PystreamError(Exception):
    """Base of all errors that pystream raises of its own accord.

    Attributes, None where unknown: topic (str), partition (int), offset (int, of a record), segment (int, base
    offset of a segment), position (int, byte in that segment), path (str), errno_ (int, of a failed system call).
    """

    def __init__(self, *args, topic=None, partition=None, offset=None, segment=None, position=None, path=None,
                 errno_=None):
        super().__init__(*args)
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.segment = segment
        self.position = position
        self.path = path
        self.errno_ = errno_

    def __reduce__(self):
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(cls, args, attributes):
    error = cls.__new__(cls, *args)
    error.args = args
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


_ADVICE = {
    errno.ENOSPC: "free some space and try again: nothing needs to be closed or reopened",
    errno.EDQUOT: "free some space, or have the quota raised, and try again: nothing needs to be closed or reopened",
    errno.EMFILE: "raise this process's limit on open files (`ulimit -n`), or close what is not needed, and try again",
    errno.ENFILE: "the whole system has too many files open: raise fs.file-max, or close some, and try again",
    errno.ENOMEM: "the kernel refused memory or a map: free some, or raise the limit it ran into (memory, `ulimit -v`, "
                  "vm.max_map_count), and try again",
    errno.EROFS: "the file system is mounted read-only, perhaps because the kernel found an error (`dmesg`): mount it "
                 "writable again; mode='r' opens a store that is only to be read",
    errno.EACCES: "this user has no permission: change the owner or the mode of that path; mode='r' opens a store that "
                  "is only to be read",
    errno.EIO: "the device failed: see the kernel's log (`dmesg`), and check what is there with `pystream verify`",
}
_ADVICE[errno.EPERM] = _ADVICE[errno.EACCES]


class StorageError(PystreamError, OSError):
    """A system call failed: errno, strerror and filename are set as on any OSError; `advice` is what to do about it,
    or None."""

    @property
    def advice(self):
        return _ADVICE.get(self.errno)

    def __reduce__(self):
        state = {**self.__dict__, "errno": self.errno, "strerror": self.strerror}
        if self.filename is not None:
            state["filename"] = self.filename
        return _rebuild, (type(self), self.args, state)

    def __str__(self):
        text = self.args[0] if len(self.args) == 1 else OSError.__str__(self)
        return f"{text}; {self.advice}" if self.advice else text


class CorruptLogError(PystreamError, ValueError):
    """Stored bytes are not what was written. Nothing was cut or skipped."""


class FormatVersionError(PystreamError, ValueError):
    """Written by a format version, or with a feature, that this version of pystream does not know."""


class PoisonedError(StorageError):
    """A write or sync of this partition failed, so nothing more can be promised about it. What it holds can be read.
    Close the store in every process and open it again: what was not durable is then written anew."""

    @property
    def advice(self):
        return "close the store in every process and open it again: what was not durable is then written anew"


class TopicDeletedError(PystreamError, LookupError):
    """The topic was deleted while it was open."""


class TopicRenamedError(TopicDeletedError):
    """The topic was renamed while it was open: its records are there under `new_name`, for whoever opens that."""

    new_name = None


class ForkedError(PystreamError, RuntimeError):
    """The handle was opened before a fork: open the store again in the child process."""


class ClosedError(PystreamError, ValueError):
    """The store, producer or consumer is closed."""


class ReadOnlyError(PystreamError, io.UnsupportedOperation):
    """The store was opened with mode="r": nothing can be written through it."""


class RecordTooLargeError(PystreamError, ValueError):
    """One record exceeds a limit. Nothing was written."""


class BatchTooLargeError(RecordTooLargeError):
    """The records exceed what one batch, the unit that is atomic, can hold. Nothing was written."""


class LockTimeoutError(PystreamError, TimeoutError):
    """Another writer kept the partition for longer than the timeout. Nothing was written."""


class PartitionHeldError(LockTimeoutError):
    """Somebody else holds the partition for exclusive writing, and did not let go in time."""


class OffsetOutOfRangeError(PystreamError, LookupError):
    """The offset is below the log start or beyond the log end."""


class LogTruncatedError(OffsetOutOfRangeError):
    """The offset was cut away after it had been read: a crash lost it."""


class FencedMemberError(PystreamError, RuntimeError):
    """The consumer was put out of its group, whose other members go on without it: it was silent for longer than its
    `session_timeout`. Nothing was committed. Asking for records again joins anew."""


class GroupNotFoundError(PystreamError, LookupError):
    """There is no consumer group of that name."""


class GroupNotEmptyError(PystreamError, RuntimeError):
    """The consumer group has members. Nothing has changed."""


class PartitionOwnedError(PystreamError, RuntimeError):
    """Another member of the consumer group reads that partition."""


class TopicExistsError(PystreamError, ValueError):
    """There is a topic of that name already."""


class TopicNotFoundError(PystreamError, LookupError):
    """There is no topic of that name."""


class StoreNotFoundError(PystreamError, FileNotFoundError):
    """There is no store at that path."""


class UnsafeFileSystemError(PystreamError, OSError):
    """A network or user-space file system, whose locks and maps cannot be relied upon."""


class OptionError(PystreamError, ValueError):
    """An option is unknown, out of range, or conflicts with how something was created."""


class UnsupportedError(PystreamError, ValueError):
    """Something that this version of pystream cannot do yet."""


class SerializationError(PystreamError, ValueError):
    """A serializer failed on a key or a value; what it raised is the cause. Nothing was written, or, where it
    was read, the record has not been consumed. `index` is the record's place in a list that was given."""

    index = None


class KeyRequiredError(PystreamError, ValueError):
    """A record without a key, for a topic that is compacted: there the last record of each key is kept, and one without
    would stay for ever. Nothing was accepted. `index` is its place in what was given, where that was several."""

    index = None


class DeliveryError(PystreamError, RuntimeError):
    """Records accepted by `send` could not be appended. `records` is how many; the cause is chained."""

    records = 0


_CLASSES = {
    <int>PS_CORRUPT: CorruptLogError,
    <int>PS_VERSION: FormatVersionError,
    <int>PS_DELETED: TopicDeletedError,
    <int>PS_FORKED: ForkedError,
    <int>PS_CLOSED: ClosedError,
    <int>PS_TOO_LARGE: RecordTooLargeError,
    <int>PS_INVALID: OptionError,
    <int>PS_READ_ONLY: ReadOnlyError,
    <int>PS_TIMEOUT: LockTimeoutError,
    <int>PS_HELD: PartitionHeldError,
    <int>PS_INTERRUPTED: LockTimeoutError,
    <int>PS_OUT_OF_RANGE: OffsetOutOfRangeError,
    <int>PS_NOT_FOUND: TopicNotFoundError,
}


cdef object make_error(const ps_error *err, object topic, object partition):
    cdef str what = (<const char *>err.what).decode("utf-8", "replace")
    cdef str path = os.fsdecode(<bytes>(<const char *>err.path)) if err.path[0] else None
    cdef int status = <int>err.status
    fields = dict(
        topic=topic,
        partition=partition,
        offset=err.offset if err.offset >= 0 else None,
        segment=err.segment if err.segment >= 0 else None,
        position=err.position if err.position >= 0 else None,
        path=path,
        errno_=err.os_errno or None,
    )
    failed = status == PS_OS_ERROR or status == PS_POISONED
    place = []
    if topic is not None:
        place.append(f"topic {topic!r}" if partition is None else f"topic {topic!r} partition {partition}")
    for name in ("segment", "position", "offset"):
        if fields[name] is not None:
            place.append(f"{name} {fields[name]}")
    if path and not failed:  # what failed has it as its filename
        place.append(path)
    message = f"{what} ({', '.join(place)})" if place else what
    if status == PS_NO_MEMORY:
        return MemoryError(message)
    if failed:
        cls = StorageError if status == PS_OS_ERROR else PoisonedError
        error = cls(err.os_errno, f"{os.strerror(err.os_errno)}: {message}", path, **fields)
        error.errno = err.os_errno
        error.strerror = f"{os.strerror(err.os_errno)}: {message}"
        if path is not None:
            error.filename = path
        return error
    return _CLASSES.get(status, PystreamError)(message, **fields)


cdef int raise_error(const ps_error *err, object topic=None, object partition=None) except -1:
    raise make_error(err, topic, partition)


cdef object deleted_error(str topic, object partition, str path, int locks_fd):
    """Why a topic is not there any more. Whoever had it open still has its `locks` (-1: not even that), and the kernel
    says where that file is by now."""
    place = "" if partition is None else f" partition {partition}"
    now = None
    if locks_fd >= 0:
        try:
            now = os.readlink(f"/proc/self/fd/{locks_fd}")
        except OSError:  # no /proc here
            pass
    above = os.path.dirname(now) if now else ""
    name = os.path.basename(above)
    # What is being removed has a '+' in its name; what is removed, and is not the same path, a remark behind it.
    if name and "+" not in name and now.endswith("/locks"):
        what = f"renamed to {name!r}" if name != topic else "renamed, and has its name again"
        how = "by that name" if name != topic else "anew"
        error = TopicRenamedError(f"the topic was {what} (topic {topic!r}{place}); open it {how}",
                                  topic=topic, partition=partition, path=path)
        error.new_name = name
        return error
    return TopicDeletedError(f"the topic was deleted (topic {topic!r}{place}, {path})", topic=topic,
                             partition=partition, path=path)
