"""What maintenance remembers of topics and partitions, so that looking again costs next to nothing."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

from pystream import metadata
from pystream._native import maintenance as native
from pystream.maintenance.rules import AGAIN_NS, Due, has_rules, judge, stored_bytes
from pystream.topic import Topic

if TYPE_CHECKING:
    from pystream._native.log import LogHandle
    from pystream._native.maintenance import Survey
    from pystream.store import Store
    from pystream.topicoptions import TopicOptions

SETTLED_NS: Final = 20_000_000
"""What changed less than this before it was looked at may change again under the same time stamp."""
RETRY_NS_MIN: Final = 10**9
RETRY_NS_MAX: Final = AGAIN_NS
FAILURES_MAX: Final = 10


class Tended(ABC):
    """What jobs are done to: one at a time, and after a failure not at once again."""

    __slots__ = ("busy", "failures", "not_before", "said")

    def __init__(self) -> None:
        self.busy = False
        """A job is at it."""
        self.failures = 0
        self.not_before = 0
        """Monotonic ns, before which it is to be left alone."""
        self.said: str | None = None
        """The last failure that was told of."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, int | None]:
        """Its topic and partition."""

    @property
    def waits(self) -> bool:
        """Whether it is to be left alone for now."""
        return self.busy or time.monotonic_ns() < self.not_before

    def rest(self, ns: int) -> None:
        """Leave it alone for so long."""
        self.not_before = time.monotonic_ns() + ns

    def failed(self, error: BaseException) -> bool:
        """Leave it alone for a while, longer each time. True: the failure is news."""
        self.failures = min(self.failures + 1, FAILURES_MAX)
        self.rest(min(RETRY_NS_MIN << self.failures, RETRY_NS_MAX))
        text = f"{type(error).__name__}: {error}"
        is_news, self.said = text != self.said, text
        return is_news

    def succeeded(self) -> None:
        self.failures, self.said = 0, None


class Place(Tended):
    """A partition."""

    __slots__ = ("changed_ns", "directory", "due", "expected_ns", "index", "seen", "topic", "tried", "vain")

    def __init__(self, topic: TopicPlace, index: int) -> None:
        super().__init__()
        self.topic = topic
        self.index = index
        self.directory = f"{topic.directory}/{index}"
        self.changed_ns = -1
        """Of the directory, when it was last read; -1: it may change without being noticed."""
        self.seen: Survey | None = None
        self.due = Due()
        self.expected_ns: int | None = None
        """By the store's clock, when somebody is going to look again."""
        self.tried: tuple[object, ...] = ()
        """Its shape when the last job was begun."""
        self.vain: tuple[object, ...] | None = None
        """The same, if that job had nothing to do."""

    @property
    def names(self) -> tuple[str, int | None]:
        return self.topic.name, self.index

    def look(self, now_ns: int, *, closely: bool = False) -> Due:
        """What is due. The directory is read if it has changed, or something was due by now, or `closely`.

        Raises:
            PystreamError: it cannot be read.
        """
        changed = native.changed_ns(self.directory)
        is_time = self.due.at_ns is not None and self.due.at_ns <= now_ns
        if closely or is_time or changed < 0 or changed != self.changed_ns:
            self.seen = native.look(self.topic.store._handle, self.directory)
            settled = self.seen is not None and time.time_ns() - self.seen.changed_ns > SETTLED_NS
            self.changed_ns = self.seen.changed_ns if self.seen is not None and settled else -1
        self.due = Due() if self.seen is None else judge(self.seen, self.topic.options, now_ns)
        if self.vain is not None and self.vain != self.shape:
            self.vain, self.not_before = None, 0
        return self.due

    @property
    def shape(self) -> tuple[object, ...]:
        """What must have changed since a job had nothing to do, for another one to have something."""
        if self.seen is None:
            return ()
        seen = self.seen
        synced = min(seen.durable, seen.active)
        return seen.changed_ns, seen.files, seen.log_start, synced, self.topic.stamp, self.due[:3]

    def open(self) -> LogHandle:
        """The partition's log, to be given back.

        Raises:
            PystreamError: it cannot be opened.
        """
        return self.topic.topic._open_log(self.index, passing=True)

    @property
    def stored_bytes(self) -> int:
        """What its segments took when it was last looked at."""
        return 0 if self.seen is None else stored_bytes(self.seen)


class TopicPlace(Tended):
    """A topic, and what its topic.json said."""

    __slots__ = ("directory", "file", "is_stale", "name", "options", "places", "stamp", "store", "topic")

    def __init__(self, store: Store, name: str) -> None:
        super().__init__()
        self.store = store
        self.name = name
        self.directory = metadata.topic_directory(store.path, name)
        self.file = f"{self.directory}/{metadata.TOPIC_FILE}"
        self.stamp: tuple[int, int] | None = None
        self.is_stale = True
        """Whether topic.json may have changed since it was read."""
        self.topic: Topic
        self.options: TopicOptions
        self.places: list[Place] = []

    @property
    def names(self) -> tuple[str, int | None]:
        return self.name, None

    def refresh(self) -> bool:
        """Go by what topic.json says now. False: there is no such topic any more.

        Raises:
            PystreamError: it cannot be read.
        """
        if not self.is_stale:
            return True
        try:
            there = os.stat(self.file)
        except (FileNotFoundError, NotADirectoryError):
            return False
        stamp = there.st_mtime_ns, there.st_ino
        if stamp == self.stamp:
            self.is_stale = False
            return True
        found = metadata.read_topic(self.store.path, self.name)
        if found is None:
            return False
        identity, options = found
        if self.stamp is not None and identity.uuid != self.topic.uuid:
            self.places.clear()  # another topic of that name
        self.topic, self.options = Topic(self.store, self.name, identity, options), options
        for place in self.places:
            place.due = Due(at_ns=0)  # by the new rules, perhaps
        del self.places[options.partitions :]
        self.places += [Place(self, index) for index in range(len(self.places), options.partitions)]
        self.stamp, self.is_stale = stamp, False
        return True

    @property
    def has_rules(self) -> bool:
        """Whether anything ever leaves it by itself."""
        return has_rules(self.options)

    @property
    def bound(self) -> int | None:
        """What its partitions may take together."""
        return self.options.retention_topic_bytes if self.options.deletes else None

    def is_over(self) -> bool:
        """Whether its partitions took so much, when they were last looked at, that a segment has to go."""
        if self.bound is None:
            return False
        over = sum(place.stored_bytes for place in self.places) - self.bound
        sizes = [p.seen.oldest_bytes for p in self.places if p.seen is not None and p.seen.segments > 1]
        return any(size <= over for size in sizes)


def topic_names(path: str) -> list[str]:
    """The names of what may be topics, in order, without a look at each.

    Raises:
        StorageError: the directory cannot be read.
    """
    with metadata.storage_errors(path):
        try:
            entries = os.listdir(os.path.join(path, metadata.TOPICS_DIRECTORY))
        except FileNotFoundError:
            return []
    return sorted(name for name in entries if "+" not in name)
