"""What the maintenance thread of a process does, tick by tick, and the thread for what is heavy."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from pystream._native import maintenance as native
from pystream.errors import PystreamError
from pystream.maintenance.caretaker import BUSY_NS, Caretaker
from pystream.maintenance.jobs import HEAVY, Job
from pystream.maintenance.report import MaintenanceReport

if TYPE_CHECKING:
    from pystream._native.log import StoreHandle
    from pystream.maintenance.maintainer import Maintainer

REFRESH_NS: Final = 1_000_000_000
"""How often a process looks whether another has altered a topic."""
REFRESH_NS_MAX: Final = 3 * REFRESH_NS
"""How long that may be put off."""
REFRESH_SHARE: Final = 100
"""For it is to take no more of a processor than one part in so many,"""
TRIM_SHARE: Final = 1000
"""and one in so many to look whether files are held that are gone."""
SWEEP_NS: Final = 60 * 10**9
"""How often left-overs of dead processes are looked for."""
IDLE_SHARE: Final = 2000
"""Of the time between two passes, one part in so many is spent on looking again at what is known."""
FIRST_SHARE: Final = 100
"""And one in so many on what has never been looked at."""
LOOK_NS_MIN: Final = 1_000_000
REST: Final = 3
"""After each step of work, so many times its length is left to others."""
REST_NS_MAX: Final = 100_000_000
BYTES_PER_SECOND: Final = 64 << 20
"""How fast compaction in the background reads and writes."""
LIFTER_JOIN_S: Final = 5.0
"""How long a step of compaction that is under way is waited for."""


class Shift:
    """What the background thread does, tick by tick. Of that thread."""

    def __init__(self, maintainer: Maintainer, interval_ns: int) -> None:
        self._maintainer = maintainer
        self._interval_ns = interval_ns
        told: dict[tuple[str, int | None], str] = {}
        self._caretaker = Caretaker(
            maintainer.store, maintainer.clock, bytes_per_second=BYTES_PER_SECOND, told=told
        )
        self._own = Caretaker(maintainer.store, maintainer.clock, compacts=False, told=told)
        self._lifter: Lifter | None = None
        self._claimed = False
        self._open = 0
        """Partitions that were open when the bounds were last looked at."""
        self._is_changed = False
        """Topics have come, gone or changed since left-overs were last looked for."""
        now = time.monotonic_ns()
        self._pass_at = now
        self._refresh_at = now + REFRESH_NS
        self._trim_at = now
        self._sweep_at = now

    def tick(self) -> int:
        """Do what is due, for a moment. How long to sleep, in ns."""
        began = time.monotonic_ns()
        self._tend_own()
        if began >= self._refresh_at:
            self._refresh(began)
        if began >= self._pass_at and not self._maintainer.is_asked:
            self._pass_at = began + self._interval_ns
            if self._claimed or self._claim():
                self._look()
        if self._claimed:
            self._work()
        now = time.monotonic_ns()
        if self._claimed and self._caretaker.jobs:
            return min(REST * (now - began), REST_NS_MAX)
        rest = max(min(self._pass_at, self._refresh_at) - now, 0)
        return min(rest, BUSY_NS) if self._own.put_off else rest

    def end(self) -> None:
        """Let go of everything."""
        if self._lifter is not None:
            self._lifter.stop()
        for job in (*self._own.jobs, *self._caretaker.jobs):
            with suppress(PystreamError, OSError):
                job.close()
        if self._claimed:
            self._unclaim()

    def _tend_own(self) -> None:
        rolled = native.rolled(self._maintainer.handle)
        if rolled:
            self._follow()
        for handle in rolled:
            self._own.look_at(handle)
            self._caretaker.expect(handle)
        self._own.look_put_off()
        while self._own.step():
            if self._maintainer.stopping:
                return

    def _refresh(self, now: int) -> None:
        """Go by altered options, and let go of deleted files. Where there is much to look at, less often: by
        what it took of a processor, since on a busy machine this thread waits long for its turn."""
        began = time.thread_time_ns()
        self._maintainer.store._refresh_options()
        took = time.thread_time_ns() - began
        self._refresh_at = now + min(max(REFRESH_NS, REFRESH_SHARE * took), REFRESH_NS_MAX)
        if now >= self._trim_at:
            for handle in self._maintainer.handle.open_logs():
                handle.trim()
            self._follow()
            self._trim_at = now + TRIM_SHARE * (time.thread_time_ns() - began - took)

    def _follow(self) -> None:
        """Have the bounds of what is open, as the topics' options are now."""
        handles = self._maintainer.handle.open_logs()
        if not self._own.list_topics() and len(handles) == self._open:
            return
        self._open = len(handles)
        for handle in handles:
            handle.keep_bytes = self._own.bound_of(handle)
        self._maintainer.keep()

    def _claim(self) -> bool:
        self._claimed = self._maintainer.claim()
        return self._claimed

    def _unclaim(self) -> None:
        self._claimed = False
        self._maintainer.unclaim()

    def _look(self) -> None:
        caretaker, clock = self._caretaker, self._maintainer.clock
        clock.refresh()
        clock.save()
        caretaker.report = MaintenanceReport(caretaker.store.path)  # of what was done, the log tells
        self._is_changed = caretaker.list_topics() or self._is_changed
        if self._is_changed and time.monotonic_ns() >= self._sweep_at:
            self._is_changed, self._sweep_at = False, time.monotonic_ns() + SWEEP_NS
            caretaker.sweep()
        caretaker.look_expected()
        share = IDLE_SHARE if caretaker.knows_all else FIRST_SHARE
        caretaker.look_on(max(self._interval_ns // share, LOOK_NS_MIN))

    def _work(self) -> None:
        caretaker = self._caretaker
        if self._maintainer.is_asked:
            self._drop_all()
        while self._lifter is not None and self._lifter.done:
            caretaker.take_back(self._lifter.done.popleft())
        if caretaker.jobs and caretaker.jobs[0].next == HEAVY:
            if self._lifter is None:
                self._lifter = Lifter(self._maintainer.handle)
            self._lifter.take(caretaker.jobs.popleft())
        else:
            caretaker.step()
        if not caretaker.jobs and (self._lifter is None or self._lifter.is_idle):
            self._unclaim()

    def _drop_all(self) -> None:
        """Somebody wants the claim: what is not done is found again."""
        if self._lifter is not None:
            self._lifter.stop()
            self._caretaker.jobs.extend(self._lifter.done)
            self._lifter = None
        self._caretaker.drop_all()


class Lifter:
    """A thread of low priority, for heavy steps. `done` are the jobs that it gives back: they are over, or go
    on with lighter ones."""

    def __init__(self, handle: StoreHandle) -> None:
        self.done: deque[Job] = deque()
        self._handle = handle
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._taken: set[Job] = set()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="pystream-compaction", daemon=True)
        self._thread.start()

    @property
    def is_idle(self) -> bool:
        """Whether all that was taken has been given back."""
        return not self._taken

    def take(self, job: Job) -> None:
        self._taken.add(job)
        self._jobs.put(job)

    def stop(self) -> None:
        """End the thread, after the step that is under way; its jobs are in `done`, but for those that wait
        for a step that takes too long: they are given up."""
        self._stopping = True
        self._jobs.put(None)
        self._thread.join(LIFTER_JOIN_S)
        for job in list(self._taken):
            job.subject.busy = False

    def _run(self) -> None:
        native.lower_priority()
        while (job := self._jobs.get()) is not None:
            while not self._stopping and not job.is_over and job.next == HEAVY:
                job.step()
            self.done.append(job)
            self._taken.discard(job)
            native.ring(self._handle)
