"""What a look at a partition gives, before it is judged."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from uuid import UUID

from pystream.inspected import Head
from pystream.inspection import kept_files


class Presence(NamedTuple):
    """Who has the store open."""

    incarnation: int
    """Of the store since the first of those who have it open now; 0: it cannot be read."""
    writers: bool


class Passed(NamedTuple):
    """Sound batches between two events."""

    durable: int
    """The highest durable offset that any of them knew."""


class Event(NamedTuple):
    """What is not a sound batch."""

    kind: str
    position: int
    end: int
    values: tuple[Any, ...]
    """As `pystream._native.verify.SegmentCheck` gives them."""


@dataclass(slots=True)
class SegmentResult:
    """What a pass over one segment file gave."""

    base: int
    path: str
    header: str = "unchecked"
    """"sound", "damaged" or "newer"."""
    whose: tuple[int, bytes, int] | None = None
    """Base offset, topic uuid and partition that a sound header names."""
    epoch: int | None = None
    header_end: int = 0
    file_bytes: int = 0
    events: list[Event | Passed] = field(default_factory=list)
    rest: str = "unseen"
    """What stands behind the last batch: "nothing", "zeros", "bytes", or "unseen"."""
    batches: int = 0
    records: int = 0
    position: int = 0
    """Where the pass ended."""
    end: int = 0
    """From there on there are only zeros."""
    next_offset: int = 0
    error: OSError | None = None
    """Why it ended too early."""


@dataclass(slots=True)
class Look:
    """A partition as it was when a look at it began."""

    topic: str
    partition: int
    directory: str
    uuid: UUID | None
    """The topic's, where that is known."""
    presence: Presence
    head: Head | None
    head_state: str
    """"sound", "missing", "blank", "damaged", "newer" or "unreadable"."""
    files: list[tuple[int, str]]
    """(base offset, path) of the segments, in order."""
    results: dict[int, SegmentResult] = field(default_factory=dict)
    moved: bool = False
    """A file that was listed was not there any more."""
    gone: set[int] = field(default_factory=set)
    """The base offsets of such files."""

    @property
    def start(self) -> int | None:
        """Where the log starts, if that is known."""
        return self.head.log_start if self.head is not None and self.head.sound else None

    def follow(self, head: Head | None) -> None:
        """Retention has gone on meanwhile: the log starts where `head` says, and what is gone below is not
        missed."""
        if head is None or not head.sound or self.head is None or not self.head.sound:
            return
        start, now = self.start or 0, head.log_start or 0
        if now <= start or (self.bound is not None and now > self.bound):
            return
        self.head = replace(self.head, log_start=now)
        self.files = kept_files(self.files, now)
        kept = {base for base, _ in self.files}
        self.results = {base: result for base, result in self.results.items() if base in kept}
        self.moved = bool(self.gone & kept)

    @property
    def attached(self) -> bool:
        """A writer that has the store open uses the partition: its high watermark is to be believed."""
        return (
            self.presence.writers
            and self.head is not None
            and self.head.sound
            and self.head.incarnation == self.presence.incarnation
        )

    @property
    def bound(self) -> int | None:
        """Where published records end; None: nobody is there to move it."""
        return self.head.high_watermark if self.attached and self.head is not None else None

    @property
    def durable(self) -> int:
        """Below this offset everything was synced, as recovery believes; -1: nobody knows."""
        slot = self._slot
        return -1 if slot is None or self.head is None else min(self.head.durable_offset, slot.log_end)

    @property
    def log_end(self) -> int:
        """The next offset to give out, as the head says; -1: it says nothing."""
        return -1 if self._slot is None else self._slot.log_end

    @property
    def _slot(self) -> Any:
        return self.head.slot if self.head is not None and self.head.state == "sound" else None

    @property
    def state(self) -> tuple[object, ...]:
        """What changes when somebody recovers the partition."""
        return self.presence, self.head_state, self.head.incarnation if self.head is not None else None
