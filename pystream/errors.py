"""Every exception pystream raises of its own accord.

All derive from `PystreamError` and, each, from the builtin a caller would naturally catch
(`ValueError`, `LookupError`, `OSError`, ...). They carry, where known, `topic`, `partition`, `offset`,
`segment` (base offset), `position` (byte in the segment), `path` and `errno_`; what is unknown is None.
"""

from pystream._native.errors import (
    BatchTooLargeError,
    ClosedError,
    CorruptLogError,
    DeliveryError,
    ForkedError,
    FormatVersionError,
    LockTimeoutError,
    LogTruncatedError,
    OffsetOutOfRangeError,
    OptionError,
    PartitionHeldError,
    PoisonedError,
    PystreamError,
    ReadOnlyError,
    RecordTooLargeError,
    SerializationError,
    StorageError,
    StoreNotFoundError,
    TopicDeletedError,
    TopicExistsError,
    TopicNotFoundError,
    UnsafeFileSystemError,
    UnsupportedError,
)

__all__ = [
    "BatchTooLargeError",
    "ClosedError",
    "CorruptLogError",
    "DeliveryError",
    "ForkedError",
    "FormatVersionError",
    "LockTimeoutError",
    "LogTruncatedError",
    "OffsetOutOfRangeError",
    "OptionError",
    "PartitionHeldError",
    "PoisonedError",
    "PystreamError",
    "ReadOnlyError",
    "RecordTooLargeError",
    "SerializationError",
    "StorageError",
    "StoreNotFoundError",
    "TopicDeletedError",
    "TopicExistsError",
    "TopicNotFoundError",
    "UnsafeFileSystemError",
    "UnsupportedError",
]
