"""What is worth telling whoever runs a program: warnings through `logging`, seldom enough to be read.

Importing this gives the logger "pystream" a handler that does nothing, so that a program that has not set up
logging prints nothing; and it costs what importing `logging` does, so it is done where there is something to
say.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from pystream._native.writer import syncs_of

if TYPE_CHECKING:
    from pystream._native.log import LogHandle, StoreHandle

logging.getLogger("pystream").addHandler(logging.NullHandler())

AGAIN_S: Final = 60.0
"""The same thing is said again after so many seconds at the earliest."""

KEYS_MAX: Final = 4096
"""Different things that are remembered to have been said."""

FREE_PARTS: Final = 100
FREE_BYTES_MAX: Final = 1 << 30
"""Free space is low with less than a hundredth of the file system, or 1 GiB, beyond `min_free_bytes`."""

SLOW_INTERVALS: Final = 3
SLOW_NS_MIN: Final = 10**9
"""A sync was slow when a record waited for it so many intervals, and at least so long."""

_storage: Final = logging.getLogger("pystream.storage")


class Limited:
    """Says the same thing at most once a minute; how often it was left out is said with the next."""

    def __init__(self, again_s: float = AGAIN_S) -> None:
        self._again_s = again_s
        self._lock = threading.Lock()
        self._said: dict[object, tuple[float, int]] = {}

    def log(self, key: object, logger: logging.Logger, level: int, message: str, *values: object) -> bool:
        """Log it, unless it was logged within the last minute. True: it was.

        Args:
            key: what is the same thing.
            message, values: as for `logging.Logger.log`.
        """
        now = time.monotonic()
        with self._lock:
            at, held = self._said.get(key, (-self._again_s, 0))
            if now - at < self._again_s:
                self._said[key] = at, held + 1
                return False
            self._said.pop(key, None)  # the newest is the last
            while len(self._said) >= KEYS_MAX:
                del self._said[next(iter(self._said))]
            self._said[key] = now, 0
        if held:
            logger.log(level, f"{message} (and %d times more since this was last said)", *values, held)
        else:
            logger.log(level, message, *values)
        return True

    def after_fork(self) -> None:
        self._lock = threading.Lock()  # another thread of the parent may have held it


limited: Final = Limited()
"""Shared by all of this process."""

os.register_at_fork(after_in_child=limited.after_fork)


def logger(name: str) -> logging.Logger:
    """The logger called `name`: "pystream", or "pystream." and a part of it."""
    return logging.getLogger(name)


def warn(key: object, name: str, message: str, *values: object) -> bool:
    """Warn through the logger called `name`, once a minute at most; see `Limited.log`."""
    return limited.log(key, logging.getLogger(name), logging.WARNING, message, *values)


# ---- what is looked for ---------------------------------------------------------------------------------

WATCH_S: Final = 1.0
"""Looks closer together than this are not worth it."""

_slowest: WeakKeyDictionary[LogHandle, int] = WeakKeyDictionary()
_watched: WeakKeyDictionary[StoreHandle, float] = WeakKeyDictionary()


def watch(store: StoreHandle) -> None:
    """Look whether something is wrong with what this process writes to a store, and warn of it.

    Called now and then by the maintenance thread. It costs microseconds, and as much again for every ten or
    so partitions that this process has written to.
    """
    now = time.monotonic()
    if now - _watched.get(store, -WATCH_S) < WATCH_S:
        return
    _watched[store] = now
    syncs = syncs_of(store)
    if not syncs and not store.low_on_space:
        return  # it is only read here
    _watch_space(store)
    late = [(late_ns, log) for log, late_ns, _ in syncs if late_ns]
    if late:
        late_ns, log = max(late, key=lambda each: each[0])
        more = f" (and those of {len(late) - 1} other partitions)" if len(late) > 1 else ""
        warn(
            ("late", store.path),
            _storage.name,
            "%s/%d: its sync is %.1f s late%s: the disk cannot follow, and appends wait until it has",
            log.topic,
            log.partition,
            late_ns / 1e9,
            more,
        )
    for log, _, lag_ns in syncs:
        if lag_ns > max(SLOW_INTERVALS * log.sync_interval_ns, SLOW_NS_MIN, _slowest.get(log, 0)):
            _slowest[log] = lag_ns
            warn(
                ("slow", store.path),
                _storage.name,
                "%s/%d: a record waited %.1f s for its sync, which is due every %g s: so much could be lost "
                "with the power",
                log.topic,
                log.partition,
                lag_ns / 1e9,
                log.sync_interval_ns / 1e9,
            )


def _watch_space(store: StoreHandle) -> None:
    try:
        disk = os.statvfs(store.path)
    except OSError:
        return  # appends will say so
    free, size = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    if store.low_on_space:
        warn(
            ("refused", store.path),
            _storage.name,
            "%s: %d bytes are free, and min_free_bytes=%d are to stay so: appends are refused",
            store.path,
            free,
            store.min_free_bytes,
        )
    elif free < store.min_free_bytes + min(size // FREE_PARTS, FREE_BYTES_MAX):
        warn(
            ("low", store.path),
            _storage.name,
            "%s: the disk is nearly full: %d bytes of %d are free",
            store.path,
            free,
            size,
        )
