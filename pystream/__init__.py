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
from pystream.consumer import Consumer
from pystream.errors import (
    BatchTooLargeError,
    ClosedError,
    CorruptLogError,
    DeliveryError,
    FencedMemberError,
    ForkedError,
    FormatVersionError,
    GroupNotEmptyError,
    GroupNotFoundError,
    KeyRequiredError,
    LockTimeoutError,
    LogTruncatedError,
    OffsetOutOfRangeError,
    OptionError,
    PartitionHeldError,
    PartitionOwnedError,
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
    TopicRenamedError,
    UnsafeFileSystemError,
    UnsupportedError,
)
from pystream.metadata import TopicOptions
from pystream.opening import open
from pystream.partition import Hold, Partition
from pystream.places import OffsetAndMetadata, OffsetAndTimestamp, TopicPartition
from pystream.producer import Producer
from pystream.serializers import Serializer
from pystream.store import Store
from pystream.topic import Topic
from pystream.versions import show_versions

if TYPE_CHECKING:
    from pystream.aio import AsyncConsumer, AsyncProducer
    from pystream.group import Group
    from pystream.latest import Latest
    from pystream.repairs import repair
    from pystream.verification import verify

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
    "FencedMemberError",
    "ForkedError",
    "FormatVersionError",
    "Group",
    "GroupNotEmptyError",
    "GroupNotFoundError",
    "Hold",
    "KeyRequiredError",
    "Latest",
    "LockTimeoutError",
    "LogTruncatedError",
    "OffsetAndMetadata",
    "OffsetAndTimestamp",
    "OffsetOutOfRangeError",
    "OptionError",
    "Partition",
    "PartitionHeldError",
    "PartitionOwnedError",
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
    "TopicRenamedError",
    "UnsafeFileSystemError",
    "UnsupportedError",
    "__version__",
    "open",
    "repair",
    "show_versions",
    "verify",
]


def __getattr__(name: str) -> object:
    # These take longer to import than all the rest, or few ask for them.
    if name in ("AsyncConsumer", "AsyncProducer"):
        from pystream import aio

        return getattr(aio, name)
    if name == "Group":
        from pystream.group import Group

        return Group
    if name == "Latest":
        from pystream.latest import Latest

        return Latest
    if name == "repair":
        from pystream.repairs import repair

        return repair
    if name == "verify":
        from pystream.verification import verify

        return verify
    if name == "__version__":
        from importlib.metadata import version

        return version("pystream-log")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
