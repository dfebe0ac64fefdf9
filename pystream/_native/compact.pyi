from typing import Final, NamedTuple

from pystream._native.log import LogHandle

KEY_BYTES: Final[int]
MAP_BYTES_MIN: Final[int]
MAP_BYTES: Final[int]

class Compactable(NamedTuple):
    dirty_bytes: int
    clean_bytes: int
    ratio: float
    due: bool

class Compacted(NamedTuple):
    ran: bool
    more: bool
    dirty_bytes: int
    clean_bytes: int
    read_bytes: int
    written_bytes: int
    records_removed: int
    segments_before: int
    segments_after: int
    cleaned_offset: int
    keys: int
    next_horizon: int

class Stop:
    def set(self) -> None: ...
    def clear(self) -> None: ...
    def is_set(self) -> bool: ...

def compactable(log: LogHandle, *, now_ns: int, lag_ns: int = 0) -> Compactable: ...
def without_leftovers(files: list[tuple[int, str]]) -> list[tuple[int, str]]: ...
def sweep_leftovers(log: LogHandle) -> int: ...

class Compactor:
    def __init__(
        self,
        log: LogHandle,
        *,
        now_ns: int,
        lag_ns: int = 0,
        delete_retention_ns: int = 86_400_000_000_000,
        min_dirty_ratio: float = 0.0,
        map_bytes: int = ...,
        bytes_per_second: int = 0,
        max_bytes: int = 0,
        stop: Stop | None = None,
    ) -> None: ...
    def step(self, max_bytes: int = ...) -> bool: ...
    def run(self, slice_ns: int = -1) -> bool: ...
    @property
    def result(self) -> Compacted: ...
    def close(self) -> None: ...

def compact(
    log: LogHandle,
    *,
    now_ns: int,
    lag_ns: int = 0,
    delete_retention_ns: int = 86_400_000_000_000,
    min_dirty_ratio: float = 0.0,
    map_bytes: int = ...,
    bytes_per_second: int = 0,
    max_bytes: int = 0,
    stop: Stop | None = None,
) -> Compacted: ...
