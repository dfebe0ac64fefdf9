from typing import Protocol

from pystream._native.batch import Batch

class _Sink(Protocol):
    def write(self, data: bytes, /) -> object: ...

class LineReader:
    def __init__(
        self,
        sink: int | _Sink,
        *,
        delimiter: bytes = b"\n",
        keys: bool = False,
        separator: bytes = b"\t",
        null_text: bytes | None = None,
        buffer_bytes: int = ...,
    ) -> None: ...
    @property
    def records(self) -> int: ...
    @property
    def output_bytes(self) -> int: ...
    def put(self, data: bytes | bytearray | memoryview) -> None: ...
    def put_batch(self, batch: Batch) -> None: ...
    def flush(self) -> None: ...
