"""All that is due, at once: what `Store.maintain` does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from pystream.errors import TopicNotFoundError
from pystream.maintenance.caretaker import Caretaker
from pystream.maintenance.maintainer import of
from pystream.maintenance.report import MaintenanceReport

if TYPE_CHECKING:
    from collections.abc import Callable

    from pystream.store import Store

PATIENCE_NS: Final = 5 * 10**9
NAP_S: Final = 0.02


def maintain(
    store: Store,
    *,
    topic: str | None = None,
    force_clock: bool = False,
    timeout_ns: int = -1,
    progress: Callable[[MaintenanceReport], object] | None = None,
) -> MaintenanceReport:
    """Do all that is due in a store, or in one topic; see `Store.maintain`."""
    began = time.monotonic_ns()
    until = None if timeout_ns < 0 else began + timeout_ns
    maintainer = of(store._handle, store.path, store._settings, store._identity)
    clock = maintainer.clock
    maintainer.claim_within(timeout_ns)
    caretaker = Caretaker(maintainer.store, clock, only=topic)
    try:
        clock.refresh()
        if force_clock:
            clock.trust()
        clock.save()
        report = caretaker.report
        caretaker.sweep()
        caretaker.look_at_all()
        if topic is not None and topic not in caretaker.topics:
            raise TopicNotFoundError(store._not_found(topic, create=False), topic=topic)
        patience = Patience(caretaker)
        while caretaker.step() or patience.wait():
            store._check()
            if progress is not None:
                progress(report)
            if until is not None and time.monotonic_ns() >= until:
                break
        caretaker.give_up()
        report.complete = not caretaker.jobs and not caretaker.put_off
        report.clock_ahead_ns = clock.behind_ns()
        report.work.sort(key=lambda done: (done.topic, done.partition))
        report.seconds = (time.monotonic_ns() - began) / 1e9
        return report
    finally:
        caretaker.drop_all()
        maintainer.unclaim()


class Patience:
    """How long partitions are waited for that somebody else is at: a while after the last thing was done."""

    def __init__(self, caretaker: Caretaker) -> None:
        self._caretaker = caretaker
        self._done = -1
        self._until = 0

    def wait(self) -> bool:
        """Look there again in a moment. False: there is no such, or it is no use."""
        caretaker = self._caretaker
        if not caretaker.put_off:
            return False
        done = caretaker.report.partitions_opened
        if done != self._done:
            self._done, self._until = done, time.monotonic_ns() + PATIENCE_NS
        if time.monotonic_ns() >= self._until:
            return False
        time.sleep(NAP_S)
        caretaker.look_put_off()
        return True
