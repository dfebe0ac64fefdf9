from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from pystream._native.log import LogHandle

Int32s: TypeAlias = npt.NDArray[np.int32]
Text: TypeAlias = tuple[Any, Any, Any, int]

CELLS: Final[dict[str, int]]

def split_rows(
    data: Any, start: int, delimiter: int, quote: int, cr_ends: bool, last: bool
) -> tuple[Int32s, Int32s, int]: ...
def gather(data: Any, starts: Int32s, ends: Int32s) -> tuple[npt.NDArray[np.uint8], Int32s]: ...
def partition_of(column: Text, count: int, partitions: int) -> Int32s: ...
def json_rows(
    columns: list[tuple[bytes, int, Text]], count: int
) -> tuple[npt.NDArray[np.uint8], Int32s, Int32s]: ...
def settle(log: LogHandle) -> None: ...
