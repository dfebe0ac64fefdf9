from typing import Any

from pystream._native.walks import FileWalk

HEAD_BYTES: int

class SegmentWalk(FileWalk):
    def next(self) -> tuple[Any, ...] | None: ...
    def records(self) -> list[tuple[int, int | None, int | None, int | None, int]]: ...

def read_head(page: bytes) -> dict[str, Any]: ...
def read_index(
    data: bytes, segment: int | None = None
) -> tuple[
    str,
    int | None,
    int | None,
    int | None,
    int | None,
    list[tuple[int, str, int, int, int | None, bool | None]],
]: ...
def read_epochs(data: bytes) -> list[tuple[bool, int | None, int | None, int | None]]: ...
def in_use(live_fd: int) -> bool: ...
