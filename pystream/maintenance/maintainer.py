"""The thread of a process that keeps a store in order, and what threads and processes take turns by.

One thread a store, whatever the number of `Store` objects, at the process's own priority: it holds the GIL
for microseconds at a time, and a thread of low priority that holds it would make every other one wait while
the machine is busy. What is heavy, reading and writing for compaction, goes to a second thread of the lowest
priority, which has the GIL between two reads only.

A process tends the partitions in which it has itself just begun a new segment at once, under the partition's
own lock; what they may keep is seen to by a third thread, which needs no GIL, so that bounds on size hold at
any speed. All else is for the one process that has the store's claim.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Final

from pystream import notices
from pystream._native import maintenance as native
from pystream.errors import ClosedError, ForkedError, LockTimeoutError
from pystream.store import Settings, Store

if TYPE_CHECKING:
    from pystream._native.log import StoreHandle
    from pystream.maintenance.clock import Clock
    from pystream.metadata import Identity

FIRST_NS: Final = 500_000_000
"""The first pass of a process comes after so long, or the interval: who is gone by then was only passing."""
AGAIN_NS: Final = 60 * 10**9
JOIN_S: Final = 10.0
"""How long closing waits for a step that is under way."""

_log = logging.getLogger("pystream.maintenance")


class Maintainer:
    """Maintenance of one store by this process. Made by `of`; any thread may use it."""

    def __init__(self, handle: StoreHandle, path: str, settings: Settings, identity: Identity) -> None:
        self.handle = handle
        self._clock: Clock | None = None
        self.store = Store(path, handle, settings, identity)  # for itself alone, and never closed
        self.turn = threading.Lock()
        """Held by the thread that has, or takes, the claim of this process."""
        self._interval_ns = settings.maintenance_ns
        self._asked = 0
        """Threads that wait for the background to let go of the claim."""
        self._thread: threading.Thread | None = None
        self._keeper: threading.Thread | None = None
        self._bounds: native.Bounds | None = None
        """What `_keeper` goes by; what is not in it is for `_thread`."""
        self._stopping = False

    @property
    def clock(self) -> Clock:
        """What all in this process judge records by."""
        if self._clock is None:
            from pystream.maintenance.clock import Clock

            with _lock:
                self._clock = self._clock or Clock(self.store.path)
        return self._clock

    def start(self) -> None:
        """Begin, if maintenance is on and nobody has."""
        with _lock:
            if self._thread is None and self._interval_ns and not self._stopping:
                self._thread = threading.Thread(target=self._run, name="pystream-maintenance", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """End the thread, after the step that is under way. Twice is once."""
        self._stopping = True
        native.ring(self.handle)
        for thread in (self._thread, self._keeper):
            if thread is not None and thread is not threading.current_thread():
                thread.join(JOIN_S)
                if thread.is_alive():
                    _log.warning("%s: maintenance is still busy; not waiting for it", self.store.path)
        with _lock:
            if _maintainers.get(self.handle) is self:
                del _maintainers[self.handle]

    # ---- the claim --------------------------------------------------------------------------------

    def claim(self) -> bool:
        """Take the store's claim, unless somebody has it."""
        if self._asked or not self.turn.acquire(blocking=False):
            return False
        taken = False
        try:
            taken = native.claim(self.handle)
        finally:
            if not taken:
                self.turn.release()
        return taken

    def unclaim(self) -> None:
        native.unclaim(self.handle)
        self.turn.release()

    def claim_within(self, timeout_ns: int) -> None:
        """Wait for the claim, -1: for ever.

        Raises:
            LockTimeoutError: another process, or thread, goes on having it.
        """
        until = None if timeout_ns < 0 else time.monotonic_ns() + timeout_ns
        self._asked += 1
        try:
            native.ring(self.handle)
            pause = 0.001
            while True:
                if self.turn.acquire(timeout=pause):
                    taken = False
                    try:
                        taken = native.claim(self.handle)
                    finally:
                        if not taken:
                            self.turn.release()
                    if taken:
                        return
                    time.sleep(pause)
                if until is not None and time.monotonic_ns() >= until:
                    raise LockTimeoutError(
                        f"{self.store.path}: another process is at its maintenance, and was for "
                        f"{timeout_ns / 1e9:g} s",
                        path=self.store.path,
                    )
                pause = min(pause * 2, 0.1)
        finally:
            self._asked -= 1

    # ---- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._wait_to_begin()
            while not self._stopping:
                self._serve()
        except (ClosedError, ForkedError):
            pass

    def _wait_to_begin(self) -> None:
        """Keep bounds only, until the first pass is due or something else is."""
        until = time.monotonic_ns() + min(self._interval_ns, FIRST_NS)
        while not self._stopping and time.monotonic_ns() < until:
            seen = native.bell(self.handle)
            self.keep()
            if any(handle.keep_bytes < 0 for handle in native.rolled(self.handle)):
                return
            self._sleep(seen, until - time.monotonic_ns())

    def _serve(self) -> None:
        """Ticks, until the end or an error that should not be; after that, all is begun anew."""
        from pystream.maintenance.shift import Shift  # not for processes that are gone in a moment

        shift = Shift(self, self._interval_ns)
        try:
            while not self._stopping:
                seen = native.bell(self.handle)
                pause = shift.tick()
                notices.watch(self.handle)
                self._sleep(seen, pause)
        except (ClosedError, ForkedError):
            raise
        except Exception:
            _log.exception("%s: maintenance failed; it begins anew in a minute", self.store.path)
            until = time.monotonic_ns() + AGAIN_NS
            while not self._stopping and time.monotonic_ns() < until:
                self._sleep(native.bell(self.handle), until - time.monotonic_ns())
        finally:
            shift.end()

    def _sleep(self, seen: int, ns: int) -> None:
        if not self._stopping and ns > 0:
            native.sleep(self.handle, seen, ns, self._bounds)

    # ---- bounds -----------------------------------------------------------------------------------

    def keep(self) -> None:
        """Hold the logs that are open here within their bounds from now on, by a thread that needs no GIL for
        it: beside busy Python threads, taking that takes longer than filling a segment."""
        bounds = native.Bounds(self.handle)
        with _lock:
            if self._stopping or bounds.is_as(self._bounds) or (self._keeper is None and not bounds.logs):
                return
            self._bounds = bounds
            if self._keeper is None:
                self._keeper = threading.Thread(target=self._keep, name="pystream-retention", daemon=True)
                self._keeper.start()
        native.ring(self.handle)

    def _keep(self) -> None:
        while not self._stopping:
            rings, bounds = native.rings(self.handle), self._bounds
            if bounds is not None and not self._stopping:
                native.keep(self.handle, bounds, rings)

    @property
    def stopping(self) -> bool:
        return self._stopping

    @property
    def is_asked(self) -> bool:
        """Whether somebody waits for the claim."""
        return self._asked > 0


# ---- the process ------------------------------------------------------------------------------------

_maintainers: dict[StoreHandle, Maintainer] = {}
_lock = threading.Lock()
_exit_is_watched = False


def of(handle: StoreHandle, path: str, settings: Settings, identity: Identity) -> Maintainer:
    """The maintainer of a store that is open here for writing, made when it is first asked for."""
    global _exit_is_watched
    with _lock:
        if not _exit_is_watched:
            _exit_is_watched = True
            atexit.register(_at_exit)
        found = _maintainers.get(handle)
        if found is None:
            found = _maintainers[handle] = Maintainer(handle, path, settings, identity)
            handle.add_close_hook(found.stop)
        return found


def _at_exit() -> None:
    for maintainer in list(_maintainers.values()):
        maintainer.stop()


def _after_fork() -> None:
    """The threads, and what they hold, are the parent's."""
    global _lock
    _maintainers.clear()
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
