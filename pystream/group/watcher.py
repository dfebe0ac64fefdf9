"""One thread a process that hears what no member asks for: deaths, new topics, and the time to save offsets.

It sleeps in one poll: on a descriptor for each process that has members in a group of ours (a pidfd, which
the kernel makes readable when the process ends), on one for the topics' directory of each store with
subscriptions by pattern, and, only while members consume, until their offsets are to be saved. What it hears
it passes on by waking those concerned; they act on it themselves when they next ask for records, or at once
where they wait.
"""

from __future__ import annotations

import atexit
import logging
import os
import select
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol

_log = logging.getLogger("pystream.group")


class Watched(Protocol):
    """Who wants to hear."""

    def interval_ns(self) -> int:
        """How often it wants to be ticked while it is active."""

    def wanted_processes(self) -> Iterable[int]:
        """Pids whose end is to be told."""

    def wanted_directory(self) -> int | None:
        """A descriptor of inotify that tells of new topics."""

    def look_again(self) -> None:
        """Something has ended, or has come. From the watcher's thread."""

    def tick(self) -> bool:
        """Save offsets; whether there may be more to save soon. From the watcher's thread."""

    def at_exit(self) -> None:
        """The interpreter ends."""


class Watcher:
    """The thread, started when it is first wanted. It never ends while the process lives, and holds nobody
    alive."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: weakref.WeakSet[Watched] = weakref.WeakSet()
        self._active: weakref.WeakSet[Watched] = weakref.WeakSet()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._pidfds: dict[int, int] = {}
        self._told: set[int] = set()  # processes whose end was told, while somebody still names them
        self._retired: deque[int] = deque()  # without a lock: the collector may add to it at any place
        self._tick_at: int | None = None
        threading.Thread(target=self._run, name="pystream-groups", daemon=True).start()

    def add(self, who: Watched) -> None:
        with self._lock:
            self._watched.add(who)
        self.refresh()

    def remove(self, who: Watched) -> None:
        with self._lock:
            self._watched.discard(who)
            self._active.discard(who)
        self.refresh()

    def activate(self, who: Watched) -> None:
        """Tick `who` from now on, until its tick says that there is nothing more."""
        with self._lock:
            known = who in self._active
            self._active.add(who)
        if not known:
            self.refresh()

    def retire(self, descriptor: int) -> None:
        """Close a descriptor that was watched, once it is polled no more."""
        self._retired.append(descriptor)
        self.refresh()

    def refresh(self) -> None:
        """What is to be watched has changed."""
        with suppress(BlockingIOError):
            os.eventfd_write(self._bell, 1)

    # ---- the thread -------------------------------------------------------------------------------

    def _everybody(self) -> tuple[list[Watched], list[Watched]]:
        with self._lock:
            return list(self._watched), list(self._active)

    def _run(self) -> None:
        while True:
            try:
                self._turn()
            except Exception:  # one failure is not to end all watching
                _log.exception("watching consumer groups failed; it goes on")
                threading.Event().wait(1.0)

    def _turn(self) -> None:
        while self._retired:
            os.close(self._retired.popleft())
        watched, active = self._everybody()
        self._follow(watched)
        poll = select.poll()
        directories = {fd for who in watched if (fd := who.wanted_directory()) is not None}
        for descriptor in (self._bell, *self._pidfds.values(), *directories):
            poll.register(descriptor, select.POLLIN)
        now = time.monotonic_ns()
        if not active:
            self._tick_at = None
        elif self._tick_at is None:
            self._tick_at = now + min(who.interval_ns() for who in active)
        patience = None if self._tick_at is None else max(self._tick_at - now, 0) / 1e6
        del watched, active  # nobody is held alive by being waited for
        ready = {descriptor for descriptor, _ in poll.poll(patience)}
        with suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        for descriptor in ready & directories:
            with suppress(OSError):
                os.read(descriptor, 65536)
        self._tell({pid for pid, descriptor in self._pidfds.items() if descriptor in ready}, ready)
        if self._tick_at is not None and time.monotonic_ns() >= self._tick_at:
            self._tick_at = None
            self._tick()

    def _tell(self, ended: set[int], ready: set[int]) -> None:
        watched, _ = self._everybody()
        for who in watched:
            if ended.intersection(who.wanted_processes()) or who.wanted_directory() in ready:
                who.look_again()
        for pid in ended & self._pidfds.keys():
            os.close(self._pidfds.pop(pid))
        self._told |= ended

    def _tick(self) -> None:
        _, active = self._everybody()
        for who in active:
            if not who.tick():
                with self._lock:
                    self._active.discard(who)

    def _follow(self, watched: list[Watched]) -> None:
        pids = {pid for who in watched for pid in who.wanted_processes()}
        self._told &= pids
        for pid in self._pidfds.keys() - pids:
            os.close(self._pidfds.pop(pid))
        for pid in pids - self._pidfds.keys() - self._told:
            try:
                self._pidfds[pid] = os.pidfd_open(pid)
            except ProcessLookupError:
                self._tell({pid}, set())
            except OSError:  # no pidfds here: members find out by the locks, at the end of a slice
                self._told.add(pid)


_watcher: Watcher | None = None
_lock = threading.Lock()


def get_watcher() -> Watcher:
    global _watcher
    with _lock:
        if _watcher is None:
            _watcher = Watcher()
            atexit.register(_at_exit)
        return _watcher


def retire(descriptor: int) -> None:
    """Close a descriptor that may be watched.

    A poll goes by numbers: closed under it, the number may be another file's when it looks, which it would
    take for ours, and read from.
    """
    watcher = _watcher
    if watcher is None:
        os.close(descriptor)
    else:
        watcher.retire(descriptor)


def _at_exit() -> None:
    if _watcher is None:
        return
    watched, _ = _watcher._everybody()
    for who in watched:
        try:
            who.at_exit()
        except Exception:
            _log.exception(
                "leaving a consumer group at exit failed; its offsets are in the store all the same"
            )


def _after_fork() -> None:
    """The thread, and what it watched for, are the parent's."""
    global _watcher, _lock
    if _watcher is not None:
        for descriptor in (_watcher._bell, *_watcher._pidfds.values()):
            os.close(descriptor)
    _watcher = None
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
