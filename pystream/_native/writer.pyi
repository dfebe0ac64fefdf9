from collections.abc import Callable
from typing import Any

from pystream._native.log import LogHandle, StoreHandle
from pystream._native.schema import Schema

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
def lag_ns_max(log: LogHandle) -> int: ...
def syncs_of(store: StoreHandle) -> list[tuple[LogHandle, int, int]]: ...
