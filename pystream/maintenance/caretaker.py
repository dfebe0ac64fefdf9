"""Looks for what is due in a store, and does it, one small step at a time, turn and turn about."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Final

from pystream import deletion, metadata
from pystream._native import maintenance as native
from pystream.errors import (
    ClosedError,
    ForkedError,
    LockTimeoutError,
    PartitionHeldError,
    PystreamError,
    TopicDeletedError,
)
from pystream.maintenance.jobs import Job, Times, partition_job, topic_job
from pystream.maintenance.places import SETTLED_NS, Place, Tended, TopicPlace, topic_names
from pystream.maintenance.report import MaintenanceReport, PartitionWork, Problem
from pystream.maintenance.rules import AGAIN_NS

if TYPE_CHECKING:
    from pystream._native.log import LogHandle
    from pystream.store import Store

BUSY_NS: Final = 100_000_000
"""How long a partition is left alone that somebody else is at."""

_log = logging.getLogger("pystream.maintenance")
_retention_log = logging.getLogger("pystream.retention")
_compaction_log = logging.getLogger("pystream.compaction")


class Caretaker:
    """Of one store, and one thread at a time.

    Args:
        store: for itself alone; it is not closed.
        clock: what records are judged by.
        bytes_per_second: how fast compaction reads and writes; None: as fast as it can.
        only: the only topic to look after; None: all.
        compacts: whether it compacts, too.
        told: failures that the log was told of, by topic and partition; for those who share it, a failure
            is news once.
    """

    def __init__(
        self,
        store: Store,
        clock: Times,
        *,
        bytes_per_second: int | None = None,
        only: str | None = None,
        compacts: bool = True,
        told: dict[tuple[str, int | None], str] | None = None,
    ) -> None:
        self.store = store
        self.clock = clock
        self.report = MaintenanceReport(store.path)
        self.topics: dict[str, TopicPlace] = {}
        self.jobs: deque[Job] = deque()
        self.put_off: dict[Tended, Exception] = {}
        """What somebody else was at, and is to be looked at again."""
        self._rate = bytes_per_second
        self._only = only
        self._compacts = compacts
        self._told = {} if told is None else told
        self._round: Iterator[None] = iter(())
        self._begun = False
        self._first_round = True
        self._listed_ns: int | None = None
        self._expected: list[tuple[int, int, Place]] = []
        self._number = count()

    # ---- looking ----------------------------------------------------------------------------------

    @property
    def knows_all(self) -> bool:
        """Whether every partition has been looked at once."""
        return not self._first_round

    def list_topics(self) -> bool:
        """Learn which topics there are. False: the directory has not changed since."""
        directory = os.path.join(self.store.path, metadata.TOPICS_DIRECTORY)
        changed = native.changed_ns(directory)
        if changed == self._listed_ns:
            return False
        settled = time.time_ns() - changed > SETTLED_NS
        names = topic_names(self.store.path) if self._only is None else [self._only]
        for name in self.topics.keys() - set(names):
            del self.topics[name]
        for name in names:
            known = self.topics.setdefault(name, TopicPlace(self.store, name))
            known.is_stale = True  # a changed topic.json passes through that directory
        self._listed_ns = changed if settled else None
        return True

    def look_expected(self) -> None:
        """Look where something was to be due by now."""
        now = self.clock.now()
        while self._expected and self._expected[0][0] <= now:
            at_ns, _, place = heappop(self._expected)
            if at_ns == place.expected_ns and self._is_known(place):
                place.expected_ns = None
                self._visit(place)

    def look_on(self, budget_ns: int) -> bool:
        """Go on looking at everything in turn, for so long. True: a round is complete.

        The time is what the thread has used; a look is never half done.
        """
        until = time.thread_time_ns() + budget_ns
        while time.thread_time_ns() < until:
            if next(self._round, self) is self:
                self._first_round = self._first_round and not self._begun
                self._begun = True
                self._round = self._everything()
                return True
        return False

    def look_put_off(self) -> None:
        """Look again where somebody else was at it."""
        put_off = list(self.put_off)
        self.put_off.clear()
        for subject in put_off:
            subject.not_before = 0
            if isinstance(subject, Place):
                self._visit(subject, closely=True)
            elif isinstance(subject, TopicPlace):
                self._sum_up(subject)

    def give_up(self) -> None:
        """Report what somebody else goes on being at."""
        for subject, error in self.put_off.items():
            topic, partition = subject.names
            self.report.problems.append(Problem(topic, partition, f"{type(error).__name__}: {error}"))

    def look_at_all(self) -> None:
        """Look at everything."""
        self.list_topics()
        for _ in self._everything():
            pass
        self._first_round = False

    def bound_of(self, handle: LogHandle) -> int:
        """What a partition may keep, in bytes; -1: all."""
        topic = self.topics.get(handle.topic)
        if topic is None or not self._refresh(topic) or not topic.options.deletes:
            return -1
        return -1 if topic.options.retention_bytes is None else topic.options.retention_bytes

    def expect(self, handle: LogHandle) -> None:
        """See to it that a partition is looked at soon."""
        topic = self.topics.get(handle.topic)
        if topic is not None and handle.partition < len(topic.places):
            place = topic.places[handle.partition]
            place.expected_ns = 0
            heappush(self._expected, (0, next(self._number), place))

    def look_at(self, handle: LogHandle) -> None:
        """Look at a partition that is open in this process, and has just gone on in a new segment."""
        topic = self.topics.setdefault(handle.topic, TopicPlace(self.store, handle.topic))
        if not self._refresh(topic):
            return
        if topic.has_rules and handle.partition < len(topic.places):
            self._visit(topic.places[handle.partition], closely=True)
            self._sum_up(topic)

    def _everything(self) -> Iterator[None]:
        for topic in list(self.topics.values()):
            if not self._refresh(topic):
                continue
            self.report.topics += 1
            for place in list(topic.places):
                self.report.partitions += 1
                self._visit(place)
                yield
            self._sum_up(topic)
            yield

    def _refresh(self, topic: TopicPlace) -> bool:
        try:
            if topic.refresh():
                if topic.failures and topic.not_before <= time.monotonic_ns():
                    topic.succeeded()
                return True
            self.topics.pop(topic.name, None)
        except (PystreamError, OSError) as error:
            self._tell(topic, error)
        return False

    def _visit(self, place: Place, *, closely: bool = False) -> None:
        """Look at a partition; what is due becomes a job."""
        try:
            due = place.look(self.clock.now(), closely=closely)
        except (PystreamError, OSError) as error:
            self._tell(place, error)
            return
        if due.at_ns is not None and (place.expected_ns is None or due.at_ns < place.expected_ns):
            place.expected_ns = due.at_ns
            heappush(self._expected, (due.at_ns, next(self._number), place))
        if (due.now if self._compacts else due.retain) and not place.waits:
            place.tried = place.shape
            self.jobs.append(partition_job(place, self.clock, self._compacts, self._rate))

    def _sum_up(self, topic: TopicPlace) -> None:
        """See whether a topic's partitions take too much together."""
        if topic.bound is None or topic.waits:
            return
        for place in topic.places:
            self._visit(place)
        if topic.is_over():
            self.jobs.append(topic_job(topic))

    def _is_known(self, place: Place) -> bool:
        topic = self.topics.get(place.topic.name)
        return topic is place.topic and place.index < len(topic.places) and topic.places[place.index] is place

    # ---- doing ------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Do one step of the job whose turn it is. False: there is none."""
        if not self.jobs:
            return False
        job = self.jobs.popleft()
        job.step()
        self.take_back(job)
        return True

    def take_back(self, job: Job) -> None:
        """See what has come of a job: it is gone on with when its turn comes, or it is over, well or not.

        Raises:
            ClosedError, ForkedError: there is no store to look after any more.
        """
        if not job.is_over:
            self.jobs.append(job)
            return
        self.drop(job)
        subject, error = job.subject, job.error
        if error is None:
            subject.succeeded()
            self._told.pop(subject.names, None)
            self.report.partitions_opened += len(job.work)
            for done in job.work:
                _say(done)
            if job.did_nothing:
                subject.rest(AGAIN_NS)  # it looked due from outside, and was not
            if isinstance(subject, Place):
                subject.vain = subject.tried if job.did_nothing else None
                self._visit(subject, closely=True)
        elif isinstance(error, (ClosedError, ForkedError)):
            raise error
        elif isinstance(error, (LockTimeoutError, PartitionHeldError)):
            subject.rest(BUSY_NS)
            self.put_off[subject] = error
        elif isinstance(error, (PystreamError, OSError, MemoryError)):
            self._tell(subject, error)
        else:
            raise error

    def drop_all(self) -> None:
        """End every job."""
        while self.jobs:
            self.drop(self.jobs.popleft())

    def drop(self, job: Job) -> None:
        """End a job, wherever it is; what it has done counts."""
        job.close()
        for done in job.work:
            self.report.note(done)

    def _tell(self, subject: Tended, error: BaseException) -> None:
        topic, partition = subject.names
        if isinstance(error, TopicDeletedError):
            self.topics.pop(topic, None)
            return
        if subject.failed(error):
            where = topic if partition is None else f"{topic}/{partition}"
            if self._told.get(subject.names) != subject.said:
                _log.warning("maintenance of %s failed; the others go on: %s", where, error)
                self._told[subject.names] = str(subject.said)
            self.report.problems.append(Problem(topic, partition, f"{type(error).__name__}: {error}"))

    def sweep(self) -> None:
        """Finish what makers and deleters of topics that died have left. Never fails."""
        deletion.sweep(self.store._handle, self.store.path)


def _say(done: PartitionWork) -> None:
    """Tell the log what was done."""
    where = done.topic, done.partition
    if done.segments_removed:
        _retention_log.info(
            "%s/%d: removed %d segment%s, %d bytes; the log begins at %d",
            *where,
            done.segments_removed,
            "s" * (done.segments_removed != 1),
            done.bytes_removed,
            done.log_start,
        )
    if done.compactions:
        _compaction_log.info(
            "%s/%d: compacted %d bytes to %d, %d records less",
            *where,
            done.bytes_read,
            done.bytes_written,
            done.records_removed,
        )
