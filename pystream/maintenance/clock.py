"""The time by which records are judged to be old: a wall clock that does not jump forward.

A wall clock that is set years ahead by mistake would make every record expired. So within one boot of the
machine the time is never later than where it was when maintenance first looked, and what the machine's own
clock, which nobody sets, has gone on since. A wall clock that is set back, or is put right after that, is
believed. After a reboot nothing but the wall clock is there to go by; the time never goes below what it had
come to in the boot before, so that a machine that starts in 1970 begins where it left off.

`STORE/maintenance.json` keeps that line for all processes. It may be lost: then the wall clock counts again.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

from pystream import metadata
from pystream.errors import CorruptLogError, PystreamError

FILE: Final = metadata.MAINTENANCE_FILE
FORMAT: Final = "pystream maintenance"
TEMPORARY: Final = ".tmp+maintenance"

JUMP_NS: Final = 60 * 10**9
"""A wall clock may be ahead of the line by so much: time services step that far."""
DRIFT: Final = 1000
"""And by a thousandth of the time gone by, for many small steps: 86 s a day."""
SAVE_NS: Final = 3600 * 10**9
"""How often the time come to is written down."""

_log = logging.getLogger("pystream.maintenance")


class Reading(NamedTuple):
    """What the machine's clocks say."""

    boot_id: str
    """The kernel's name for this boot; "" where it does not say."""
    boottime_ns: int
    """Since the machine was started, sleep included; nobody can set it."""
    wall_ns: int
    """Since the epoch, as far as anybody knows."""


def read_clocks() -> Reading:
    """The machine's clocks, now."""
    return Reading(_boot_id(), time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns())


def _boot_id() -> str:
    with suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip().replace("-", "")
    return ""


class Anchor(NamedTuple):
    """Where the line begins, and how far it had come when it was written down."""

    boot_id: str
    boottime_ns: int
    wall_ns: int
    now_ns: int


class Clock:
    """The clock of one store, the same in all processes. Threads may share it.

    Args:
        path: the store's directory.
        read: the machine's clocks; tests have their own.
    """

    def __init__(self, path: str, read: Callable[[], Reading] = read_clocks) -> None:
        self._file = os.path.join(path, FILE)
        self._read = read
        self._lock = threading.Lock()
        self._anchor: Anchor | None = None
        self._stamp: tuple[int, int] | None = None
        self._warned_ns = 0
        self._unsaved: str | None = None

    def now(self) -> int:
        """Nanoseconds since the epoch, as far as they are believed."""
        with self._lock:
            return self._now(self._read())

    def behind_ns(self) -> int:
        """How far the wall clock is ahead of what is believed; 0: not at all."""
        with self._lock:
            reading = self._read()
            return reading.wall_ns - self._now(reading)

    def refresh(self) -> None:
        """Go by what another process may have written down meanwhile."""
        with self._lock:
            self._load(self._read())

    def save(self) -> None:
        """Write the line down, if it is new, and now and then how far it has come. For who has the claim.

        Never fails: where it cannot be written, this process goes by it all the same.
        """
        with self._lock:
            reading = self._read()
            now = self._now(reading)
            anchor = self._anchor
            assert anchor is not None
            if self._stamp is None or not 0 <= now - anchor.now_ns < SAVE_NS:
                self._write(anchor._replace(now_ns=max(now, anchor.now_ns)))

    def trust(self) -> None:
        """Believe the wall clock, whatever it says, from now on and in all processes."""
        with self._lock:
            reading = self._read()
            self._write(Anchor(reading.boot_id, reading.boottime_ns, reading.wall_ns, reading.wall_ns))

    def _now(self, reading: Reading) -> int:
        if self._anchor is None or self._anchor.boot_id != reading.boot_id:
            self._load(reading)
        anchor = self._anchor
        assert anchor is not None
        gone = max(reading.boottime_ns - anchor.boottime_ns, 0)
        line = anchor.wall_ns + gone
        if reading.wall_ns <= line + JUMP_NS + gone // DRIFT:
            self._warned_ns = 0
            return reading.wall_ns
        self._warn(reading.wall_ns - line)
        return line

    def _warn(self, ahead_ns: int) -> None:
        if abs(ahead_ns - self._warned_ns) > JUMP_NS:  # once a jump
            self._warned_ns = ahead_ns
            _log.warning(
                "%s: the clock is %.0f s ahead of where it should be; records are judged as if it was not. "
                "If it is right, say so: pystream maintain STORE --trust-clock",
                os.path.dirname(self._file),
                ahead_ns / 1e9,
            )

    def _load(self, reading: Reading) -> None:
        """The line of this boot: the one written down, else one that begins here."""
        found, stamp = self._anchor, self._stamp
        try:
            there = os.stat(self._file)
            if stamp != (there.st_mtime_ns, there.st_ino):
                stamp = there.st_mtime_ns, there.st_ino
                found = self._parse()
        except OSError:
            stamp = None
        except PystreamError as error:
            _log.warning("%s; the wall clock is believed once more", error)
            stamp = None
        if found is None or found.boot_id != reading.boot_id:
            wall = reading.wall_ns if found is None else max(reading.wall_ns, found.now_ns)
            found, stamp = Anchor(reading.boot_id, reading.boottime_ns, wall, wall), None
        self._anchor, self._stamp = found, stamp

    def _parse(self) -> Anchor:
        document = metadata.decode(metadata.read_bytes(self._file), format=FORMAT, path=self._file)
        try:
            numbers = [int(document[name]) for name in ("boottime_ns", "wall_ns", "now_ns")]
            return Anchor(str(document["boot_id"]), *numbers)
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptLogError(f"{self._file}: an entry is missing or malformed: {error!r}") from error

    def _write(self, anchor: Anchor) -> None:
        self._anchor = anchor
        document = {**metadata.new_document(FORMAT), **anchor._asdict()}
        try:
            self._replace(metadata.encode(document))
            there = os.stat(self._file)
        except OSError as error:
            self._stamp = None
            if str(error) != self._unsaved:
                self._unsaved = str(error)
                _log.warning("%s: cannot be written: %s", self._file, error)
            return
        self._stamp, self._unsaved = (there.st_mtime_ns, there.st_ino), None

    def _replace(self, data: bytes) -> None:
        # Always the same name, so that writers who die leave one file at most; two never write at once, as it
        # takes the claim.
        temporary = os.path.join(os.path.dirname(self._file), TEMPORARY)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, self._file)
