from typing import final

class BufferFull(Exception):
    """There is no room for a record now, and the caller does not want to wait."""

@final
class RecordMetadata:
    """Where a record went. offset is None when it was not delivered; timestamp is in ns, or None."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int | None: ...
    @property
    def timestamp(self) -> int | None: ...
    def __eq__(self, other: object, /) -> bool: ...
