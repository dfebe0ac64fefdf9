"""Ingestion that ends in the midst of it."""

from __future__ import annotations

from collections.abc import Callable


class Stop(Exception):
    """Ends a run as suddenly as an exception can."""


def stop_after(calls: int) -> Callable[[object], None]:
    """What to be told of progress by, which stops at the so many-th time."""
    left = [calls]

    def on_progress(progress: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Stop

    return on_progress
