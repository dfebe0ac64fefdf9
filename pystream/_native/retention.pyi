from typing import NamedTuple

from pystream._native.log import LogHandle

class Retained(NamedTuple):
    files: int
    bytes: int
    log_start: int
    more: bool
    rolled: bool

class SegmentFacts(NamedTuple):
    base: int
    end: int
    bytes: int
    max_timestamp: int
    created: int

def delete_before(handle: LogHandle, offset: int) -> int: ...
def retain(
    handle: LogHandle,
    *,
    min_timestamp: int | None = None,
    max_bytes: int | None = None,
    roll_before: int | None = None,
    max_files: int = 64,
) -> Retained: ...
def segments(handle: LogHandle) -> list[SegmentFacts]: ...
