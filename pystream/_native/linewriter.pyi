from collections.abc import Iterable

from pystream._native.producer import ProducerCore

class BadLineError(ValueError):
    line: int
    def __init__(self, message: str, line: int) -> None: ...

class LineWriter:
    def __init__(
        self,
        producer: ProducerCore,
        *,
        partition: int = -1,
        delimiter: bytes = b"\n",
        separator: bytes | None = None,
        null_text: bytes | None = None,
        strip_cr: bool = False,
        headers: Iterable[tuple[str, bytes]] = (),
        timestamp: int | None = None,
        chunk_bytes: int = ...,
        linger_ns: int = ...,
    ) -> None: ...
    @property
    def producer(self) -> ProducerCore: ...
    @property
    def line(self) -> int: ...
    @property
    def records(self) -> int: ...
    @property
    def input_bytes(self) -> int: ...
    def run(self, fd: int, name: str = "input") -> None: ...
    def feed(self, data: bytes | bytearray | memoryview, name: str = "input") -> None: ...
    def finish(self) -> None: ...
    def flush(self) -> int: ...
