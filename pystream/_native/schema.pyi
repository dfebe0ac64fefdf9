from typing import Any

import numpy as np

class Schema:
    @property
    def topic(self) -> str: ...
    @property
    def value_width(self) -> int: ...
    @property
    def key_width(self) -> int: ...
    @property
    def dtype(self) -> np.dtype[Any] | None: ...
    @property
    def codec(self) -> int: ...
    @property
    def log_append_time(self) -> bool: ...
    def __init__(
        self,
        topic: str,
        value_width: int = ...,
        key_width: int = ...,
        dtype: np.dtype[Any] | None = ...,
        codec: int = ...,
        log_append_time: bool = ...,
    ) -> None: ...
