from collections.abc import Iterator
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from pystream._native.log import LogHandle

_Int32s: TypeAlias = npt.NDArray[np.int32]
_Text: TypeAlias = tuple[Any, Any, Any, int]

class Held: ...

CELLS: Final[dict[str, int]]

def split_rows(
    data: Any, start: int, delimiter: int, quote: int, cr_ends: bool, last: bool
) -> tuple[_Int32s, _Int32s, int]: ...
def gather(data: Any, starts: _Int32s, ends: _Int32s) -> tuple[npt.NDArray[np.uint8], _Int32s]: ...
def partition_of(column: _Text, count: int, partitions: int) -> _Int32s: ...
def json_rows(
    columns: list[tuple[bytes, int, _Text]], count: int
) -> tuple[npt.NDArray[np.uint8], _Int32s, _Int32s]: ...
def settle(log: LogHandle) -> None: ...
def appended(log: LogHandle, start: int, producer_id: int) -> Iterator[tuple[int, int, int]]: ...
