"""pystream: an embedded, crash-safe, multi-process, append-only log.

A store is a directory of topics; a topic is a log in partitions; a record is a value with, perhaps, a key,
headers and a timestamp. `pystream.open` is the way in:

    with pystream.open("events.ps") as store:
        clicks = store.topic("clicks", create=True)
        clicks.append([b"/home", b"/about"])
        for record in clicks.records():
            print(record.offset, record.value)
"""

from typing import TYPE_CHECKING

from pystream._native.batch import Batch, Record
from pystream._native.column import Column
from pystream._native.producer import RecordMetadata
from pystream.consumer import Consumer, OffsetAndTimestamp, TopicPartition
from pystream.errors import (
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
from pystream.metadata import TopicOptions
from pystream.partition import Hold, Partition
from pystream.producer import Producer
from pystream.serializers import Serializer
from pystream.store import Store, open
from pystream.topic import Topic
from pystream.versions import show_versions

if TYPE_CHECKING:
    from pystream.aio import AsyncConsumer, AsyncProducer

    __version__: str

__all__ = [
    "AsyncConsumer",
    "AsyncProducer",
    "Batch",
    "BatchTooLargeError",
    "ClosedError",
    "Column",
    "Consumer",
    "CorruptLogError",
    "DeliveryError",
    "ForkedError",
    "FormatVersionError",
    "Hold",
    "LockTimeoutError",
    "LogTruncatedError",
    "OffsetAndTimestamp",
    "OffsetOutOfRangeError",
    "OptionError",
    "Partition",
    "PartitionHeldError",
    "PoisonedError",
    "Producer",
    "PystreamError",
    "ReadOnlyError",
    "Record",
    "RecordMetadata",
    "RecordTooLargeError",
    "SerializationError",
    "Serializer",
    "StorageError",
    "Store",
    "StoreNotFoundError",
    "Topic",
    "TopicDeletedError",
    "TopicExistsError",
    "TopicNotFoundError",
    "TopicOptions",
    "TopicPartition",
    "UnsafeFileSystemError",
    "UnsupportedError",
    "__version__",
    "open",
    "show_versions",
]


def __getattr__(name: str) -> object:
    # importlib.metadata and asyncio take longer to import than all of pystream; few ask.
    if name in ("AsyncConsumer", "AsyncProducer"):
        from pystream import aio

        return getattr(aio, name)
    if name == "__version__":
        from importlib.metadata import version

        return version("pystream-log")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
