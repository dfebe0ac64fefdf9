from collections.abc import Callable, Sequence
from typing import Any, final

from pystream._native.log import LogHandle
from pystream._native.schema import Schema

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

class ProducerCore:
    def __init__(
        self,
        logs: Sequence[LogHandle],
        *,
        batch_bytes: int,
        batch_records: int = ...,
        linger_ns: int,
        buffer_bytes: int,
        partitioner: str | Callable[[bytes | None, int], int] | None = None,
        on_delivery: Callable[[Exception | None, RecordMetadata], object] | None = None,
        codec: int = -1,
        parse_time: Callable[[Any], int] | None = None,
        schema: Schema | None = None,
    ) -> None: ...
    def send(
        self,
        value: Any,
        key: Any = None,
        *,
        headers: Any = None,
        timestamp: Any = None,
        partition: int | None = None,
        on_delivery: Callable[[Exception | None, RecordMetadata], object] | None = None,
    ) -> None: ...
    def flush(self, timeout_ns: int = -1, durable: bool = False) -> None: ...
    def close(self, timeout_ns: int = -1) -> None: ...
    def grow(self, logs: Sequence[LogHandle]) -> None: ...
    @property
    def partitions(self) -> int: ...
    def stats(self) -> dict[str, int]: ...
    @property
    def closed(self) -> bool: ...

def append_batch(
    log: LogHandle,
    values: Any,
    keys: Any = None,
    headers: Any = None,
    timestamps: Any = None,
    timeout_ns: int = -1,
    parse_time: Callable[[Any], int] | None = None,
    origin: tuple[int, int, int] | None = None,
    schema: Schema | None = None,
) -> int: ...
