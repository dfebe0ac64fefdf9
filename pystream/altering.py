"""Changing a topic's options while it is used, and following such changes made by others.

The options are in `topic.json`, which is replaced in one step by whoever changes them. Everybody else finds
out by the time of change of STORE/topics, which moves with every topic that is made, deleted, renamed or
altered: a process that writes looks about once a second, and a consumer when it waits. What concerns
the kernels is handed down to the open logs then, and producers and consumers take up new partitions.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary, WeakSet

from pystream import metadata
from pystream._native.deletion import point
from pystream._native.limits import DURABILITIES, PARTITIONS_MAX
from pystream.errors import OptionError, PystreamError
from pystream.topicoptions import ALTERABLE, OPTIONS, Option, TopicOptions

if TYPE_CHECKING:
    from pystream._native.log import StoreHandle
    from pystream.group.patterns import TopicsDirectory
    from pystream.topic import Topic


@dataclass(frozen=True, slots=True)
class Change:
    """One option of a topic that is another now."""

    option: str
    """Its name."""
    before: str
    """What it was, in words that the option takes."""
    after: str
    """What it is."""
    acts: str
    """When that acts: "at once", "from the next segment", or "from the next producer"."""

    def __str__(self) -> str:
        return f"{self.option}: {self.before} -> {self.after}, {self.acts}"


def parse_changes(given: Mapping[str, object], durability: str) -> dict[str, Any]:
    """What was given to `alter`, checked, by stored names and in stored form; None becomes the default.

    Args:
        durability: the store's, which is the default of that option.

    Raises:
        OptionError: an option that cannot be changed, or a value that is refused.
        TypeError: no such option, or a value of a wrong type.
    """
    if not given:
        raise TypeError(f"alter() needs at least one option: {', '.join(ALTERABLE)}")
    defaults = TopicOptions(durability=durability)
    changes = {}
    for name, value in given.items():
        option = OPTIONS.get(name)
        if option is None:
            known = ", ".join(ALTERABLE)
            raise TypeError(f"alter() got an unexpected keyword argument {name!r}; there are {known}")
        if option.acts is None:
            raise OptionError(_why_fixed(option))
        changes[option.stored] = getattr(defaults, option.stored) if value is None else option.read(value)
    return changes


def _why_fixed(option: Option) -> str:
    if option.name == "partitions":
        return "partitions=: altered by add_partitions(), which adds some; there can never be fewer"
    return (
        f"{option.name}=: cannot be altered, for it says what the records are that are there; "
        "make another topic with it"
    )


def alter_topic(
    store: StoreHandle, path: str, name: str, changes: Mapping[str, Any], timeout_ns: int
) -> tuple[Change, ...] | None:
    """Change options of the topic `name` of the store in `path`; what is different now. None: no such topic.

    Raises:
        OptionError: the options do not go together.
        LockTimeoutError: another process kept changing it for longer than `timeout_ns`. Nothing has changed.
        CorruptLogError, FormatVersionError, StorageError: see `metadata.rewrite_topic`.
    """
    with metadata.storage_errors(metadata.topic_directory(path, name)):
        try:
            with metadata.topic_lock(path, name, timeout_ns) as directory:
                before, after = metadata.rewrite_topic(
                    path, name, directory, lambda options: replace(options, **changes), store
                )
        except (FileNotFoundError, NotADirectoryError):
            return None
    following(store).refresh(path, name)
    return tuple(
        Change(option.name, option.text(old), option.text(new), option.acts or "")
        for option in OPTIONS.values()
        if (old := getattr(before, option.stored)) != (new := getattr(after, option.stored))
    )


def add_partitions(
    store: StoreHandle, path: str, name: str, count: int | None, to: int | None, timeout_ns: int
) -> int | None:
    """Give the topic `name` more partitions, `count` or up to `to`; how many it has now. None: no such topic.

    Raises:
        OptionError: there would be fewer, or too many.
        LockTimeoutError, CorruptLogError, FormatVersionError, StorageError: as for `alter_topic`.
    """

    def grow(options: TopicOptions) -> TopicOptions:
        total = options.partitions + (count or 0) if to is None else to
        if total < options.partitions:
            raise OptionError(
                f"to={total}: topic {name!r} has {options.partitions} partitions; there can never be fewer",
                topic=name,
            )
        if total > PARTITIONS_MAX:
            raise OptionError(
                f"topic {name!r} has {options.partitions} partitions, and can have {PARTITIONS_MAX}: at most "
                f"{PARTITIONS_MAX - options.partitions} more",
                topic=name,
            )
        if total > options.partitions:  # before anybody looks for them
            for partition in range(options.partitions, total):
                with suppress(FileExistsError):  # made by somebody who died
                    os.mkdir(str(partition), dir_fd=directory)
            os.fsync(directory)
            point(store, "alter.grown")
        return replace(options, partitions=total)

    with metadata.storage_errors(metadata.topic_directory(path, name)):
        try:
            with metadata.topic_lock(path, name, timeout_ns) as directory:
                _, after = metadata.rewrite_topic(path, name, directory, grow, store)
        except (FileNotFoundError, NotADirectoryError):
            return None
    following(store).refresh(path, name)
    return after.partitions


# ---- following ------------------------------------------------------------------------------------


class Listener(Protocol):
    """Who uses a topic's partitions."""

    def _topic_has_grown(self, topic: Topic) -> None:
        """The topic has more partitions. From any thread; called again later if it raises."""


class Following:
    """The topics of a store that this process uses, kept as they are on the disk."""

    def __init__(self, store: StoreHandle) -> None:
        self._store = store
        self._topics: WeakSet[Topic] = WeakSet()
        self._applied: dict[bytes, dict[str, int]] = {}  # what the open logs of a topic go by
        self._behind: WeakSet[Topic] = WeakSet()  # whose users could not take up partitions
        self._lock = threading.RLock()
        self._directories: dict[str, TopicsDirectory] = {}
        self._watched: str | None = None

    def add(self, topic: Topic) -> None:
        """Follow a topic from now on."""
        with self._lock:
            self._topics.add(topic)
            self.apply(topic)
            with suppress(PystreamError):  # what was read a moment ago may be older than what was applied
                topic._refresh()

    def listen(self, topic: Topic, listener: Listener) -> None:
        """Tell `listener`, for as long as it lives, when the topic has got partitions; and now, if it has."""
        if self._store.read_only or not topic._store._settings.maintenance_ns:
            self.watch(topic._store.path)
        with self._lock:
            topic._listeners.add(listener)
            listener._topic_has_grown(topic)

    def apply(self, topic: Topic) -> None:
        """Have the logs of a topic go by its options."""
        options, uuid = topic._options, topic.uuid.bytes
        wanted = {
            "segment_bytes": options.segment_bytes,
            "index_interval_bytes": options.index_interval_bytes,
            "message_bytes_max": options.max_message_bytes or 0,
            "durability": DURABILITIES[options.durability],
            "log_append_time": options.timestamp_type == "append",
            "needs_keys": options.compacts,
        }
        with self._lock:
            before = self._applied.get(uuid)
            if before == wanted:
                return
            self._applied[uuid] = wanted
            if before is None or self._store.closed or self._store.forked:
                return
            self._store.set_options(uuid, **wanted)
            if options.durability == "sync" and not self._store.read_only:
                self._store.sync(uuid)  # what is shown is to be durable from now on

    def watch(self, path: str) -> None:
        """Hear of changes at once, from a thread that waits for them: for processes without maintenance."""
        from pystream.group.watcher import get_watcher

        with self._lock:
            directory = self._directory(path)
            if directory.descriptor is None:
                if not self._store.read_only:
                    directory.make()
                directory.watch()
                self._watched = path
                self._store.add_close_hook(self.close)
                get_watcher().add(self)

    def close(self) -> None:
        """Hear no more."""
        self._watched = None
        for directory in self._directories.values():
            directory.close()

    def refresh(self, path: str, name: str | None = None) -> None:
        """Look for changes made by any process, where there may be some; surely at those of the topic `name`.

        Never fails for a topic that is damaged or gone.
        """
        with self._lock:
            if self._store.closed or self._store.forked:
                return
            if not self._has_changed(path):
                topics = {topic for topic in self._topics if topic.name == name} | set(self._behind)
            else:
                topics = set(self._topics)
            for topic in topics:
                try:
                    topic._refresh()
                    self._tell(topic)
                except PystreamError as error:
                    from pystream.notices import logger  # logging is slow to import, and seldom wanted

                    logger("pystream").warning(
                        "topic %r: altered options do not act here yet: %s", topic.name, error
                    )

    def _tell(self, topic: Topic) -> None:
        self._behind.add(topic)
        for listener in list(topic._listeners):
            listener._topic_has_grown(topic)
        self._behind.discard(topic)

    def _has_changed(self, path: str) -> bool:
        return self._directory(path).has_changed()

    def _directory(self, path: str) -> TopicsDirectory:
        from pystream.group.patterns import TopicsDirectory  # not before there is something to look for

        directory = self._directories.get(path)
        if directory is None:
            directory = self._directories[path] = TopicsDirectory(path)
        return directory

    # What the watcher asks.

    def interval_ns(self) -> int:
        """It is never active."""
        return 10**9

    def wanted_processes(self) -> Iterable[int]:
        """None."""
        return ()

    def wanted_directory(self) -> int | None:
        """Tells of topics that change."""
        watched = None if self._store.closed else self._watched
        return None if watched is None else self._directory(watched).descriptor

    def look_again(self) -> None:
        """One has."""
        if self._watched is not None:
            self.refresh(self._watched)

    def tick(self) -> bool:
        """Nothing is to be done."""
        return False

    def at_exit(self) -> None:
        """Nothing is to be done."""


_followings: WeakKeyDictionary[StoreHandle, Following] = WeakKeyDictionary()
_lock = threading.Lock()


def following(store: StoreHandle) -> Following:
    """The one of this process for a store."""
    with _lock:
        found = _followings.get(store)
        if found is None:
            found = _followings[store] = Following(store)
        return found


def _at_exit() -> None:
    for found in list(_followings.values()):
        found.close()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    _followings.clear()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork)
