"""Subscription by pattern: which topics match, and when to look again."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

from pystream._native.fetcher import Attention
from pystream._native.group import watch_directory
from pystream.errors import OptionError
from pystream.group.watcher import get_watcher, retire
from pystream.metadata import TOPICS_DIRECTORY, list_topics

# A directory's time of change moves in steps of the kernel's clock, of 10 ms at most.
_STEP_NS: Final = 20_000_000


def parse_pattern(given: str | re.Pattern[str]) -> re.Pattern[str]:
    """A pattern that topics' whole names are to match; text begins with "^", as in Kafka's clients.

    Raises:
        OptionError: not a regular expression.
        TypeError: one of bytes.
    """
    try:
        pattern = re.compile(given)
    except re.error as error:
        raise OptionError(f"pattern {given!r}: not a regular expression: {error}") from error
    if not isinstance(pattern.pattern, str):
        raise TypeError(f"a pattern of topic names must be one of str, not {pattern.pattern!r}")
    return pattern


def matching(names: Iterable[str], pattern: re.Pattern[str]) -> list[str]:
    """The names that match, in order."""
    return sorted(name for name in names if pattern.fullmatch(name))


class TopicsDirectory:
    """Tells whether topics of a store may have come or gone."""

    def __init__(self, store_path: str) -> None:
        self._path = os.path.join(store_path, TOPICS_DIRECTORY)
        self._seen = -1
        self._descriptor: int | None = None
        self._is_watching = False
        self._pid = os.getpid()

    def has_changed(self) -> bool:
        """Whether something may have changed since the last call that said so."""
        now = time.time_ns()  # before the look: this thread may have to wait for a processor after it
        try:
            changed = os.stat(self._path).st_mtime_ns
        except FileNotFoundError:
            changed = 0
        if changed == self._seen:
            return False
        if self._is_watching and self._descriptor is None and changed:  # the directory has come
            self.watch()
            get_watcher().refresh()
        # What is changed again in the same step looks the same: then look once more.
        self._seen = changed if abs(now - changed) > _STEP_NS else -1
        return True

    def forget(self) -> None:
        """Have the next call say that something may have changed."""
        self._seen = -1

    def watch(self) -> None:
        """Have `descriptor` tell of all that comes or goes from now on."""
        self._is_watching = True
        if self._descriptor is None:
            with suppress(OSError):
                self._descriptor = watch_directory(self._path)

    def make(self) -> None:
        """Have the directory be there to be watched, before the first topic."""
        with suppress(OSError):
            os.mkdir(self._path)

    @property
    def descriptor(self) -> int | None:
        """Becomes readable when a topic comes or goes; None where nobody watches, or the kernel cannot
        tell."""
        return self._descriptor

    def close(self) -> None:
        """Let go of the descriptor."""
        self._is_watching = False
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None and self._pid == os.getpid():
            retire(descriptor)

    def __del__(self) -> None:
        self.close()


class Follower:
    """Tells a consumer without a group which topics match its pattern, whenever that changes.

    Args:
        changed: called with the topics in the thread that asks for records, when others match than before.
    """

    def __init__(
        self,
        store_path: str,
        pattern: re.Pattern[str],
        changed: Callable[[tuple[str, ...]], None],
        *,
        read_only: bool,
    ) -> None:
        self._store_path = store_path
        self._pattern = pattern
        self._changed = changed
        self._directory = TopicsDirectory(store_path)
        if not read_only:
            self._directory.make()
        self._directory.watch()  # before topics are looked for: none comes in between
        self._matching: tuple[str, ...] = ()
        self.attention = Attention(self._notice)
        get_watcher().add(self)

    def topics(self) -> tuple[str, ...]:
        """The topics that match now."""
        self._directory.has_changed()
        self._matching = tuple(matching(list_topics(self._store_path), self._pattern))
        return self._matching

    def _notice(self, waited: bool) -> None:
        if self._directory.has_changed():
            self._changed(self.topics())  # though names are the same: one may be another topic's now

    def close(self) -> None:
        """Tell no more."""
        get_watcher().remove(self)
        self._directory.close()

    def interval_ns(self) -> int:
        """It is never active."""
        return 10**9

    def wanted_processes(self) -> Iterable[int]:
        """None."""
        return ()

    def wanted_directory(self) -> int | None:
        """Tells of new topics."""
        return self._directory.descriptor

    def look_again(self) -> None:
        """A topic has come or gone."""
        self.attention.want()

    def tick(self) -> bool:
        """Nothing is to be done."""
        return False

    def at_exit(self) -> None:
        """Nothing is to be done."""
