from typing import NamedTuple

from pystream._native.log import LogHandle, StoreHandle

class Survey(NamedTuple):
    changed_ns: int
    files: int
    sound: bool
    poisoned: bool
    deleted: bool
    log_start: int
    log_end: int
    durable: int
    cleaned: int
    horizon: int | None
    segments: int
    first: int
    second: int
    active: int
    clean_bytes: int
    dirty_bytes: int
    active_bytes: int
    active_frames: int
    oldest_bytes: int
    oldest_known: bool
    oldest_timestamp: int | None
    active_since: int | None
    active_timestamp: int | None
    strays: int

def look(store: StoreHandle, directory: str) -> Survey | None: ...
def changed_ns(path: str) -> int: ...
def claim(store: StoreHandle) -> bool: ...
def unclaim(store: StoreHandle) -> None: ...
def bell(store: StoreHandle) -> int: ...
def ring(store: StoreHandle) -> None: ...

class Bounds:
    def __init__(self, store: StoreHandle) -> None: ...
    @property
    def logs(self) -> list[LogHandle]: ...
    def is_as(self, other: Bounds | None) -> bool: ...

def rings(store: StoreHandle) -> int: ...
def keep(store: StoreHandle, bounds: Bounds, rings: int) -> None: ...
def sleep(store: StoreHandle, seen: int, timeout_ns: int, bounds: Bounds | None = None) -> None: ...
def rolled(store: StoreHandle) -> list[LogHandle]: ...
def lower_priority() -> None: ...
