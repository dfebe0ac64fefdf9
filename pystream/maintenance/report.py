"""What maintenance has done: the answer of `Store.maintain`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(slots=True)
class PartitionWork:
    """What was done to one partition."""

    topic: str
    partition: int
    segments_removed: int = 0
    """Files of records that were expired, or too much, or deleted by offset."""
    bytes_removed: int = 0
    """What they took."""
    log_start: int | None = None
    """The first offset that is left; None: nothing was removed."""
    rolled: int = 0
    """How often the segment that was being written was ended, because of its age or because all of it had
    expired."""
    compactions: int = 0
    """Passes of compaction that were finished."""
    records_removed: int = 0
    """Records that compaction left out, as later ones have the same keys."""
    bytes_read: int = 0
    """What compaction read."""
    bytes_written: int = 0
    """What it wrote in place of that."""
    swept: int = 0
    """Left-overs of processes that died, removed."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing was done."""
        return not any(getattr(self, name) for name in _COUNTS)

    def add(self, other: PartitionWork) -> None:
        """Count in what was done to the same partition another time."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        if other.log_start is not None:
            self.log_start = other.log_start


_COUNTS = tuple(
    item.name for item in fields(PartitionWork) if item.name not in ("topic", "partition", "log_start")
)


@dataclass(slots=True)
class Problem:
    """What could not be done, and is tried again later. The rest was done all the same."""

    topic: str
    partition: int | None
    error: str
    """What was raised, by its name and in words."""


@dataclass(slots=True)
class MaintenanceReport:
    """What `Store.maintain` has done."""

    store: str
    """The store's directory."""
    topics: int = 0
    """Topics that were looked at."""
    partitions: int = 0
    """Partitions that were looked at."""
    partitions_opened: int = 0
    """Of these, those in which something was to be done."""
    work: list[PartitionWork] = field(default_factory=list)
    """What was done, by topic and partition; those in which nothing was are not there."""
    problems: list[Problem] = field(default_factory=list)
    """What failed."""
    clock_ahead_ns: int = 0
    """Nanoseconds that the wall clock is ahead of the time that records were judged by; see `force_clock`."""
    seconds: float = 0.0
    """How long it took."""
    complete: bool = True
    """False: `timeout` ended it before everything was done."""
    _known: dict[tuple[str, int], PartitionWork] = field(default_factory=dict, repr=False, compare=False)

    @property
    def segments_removed(self) -> int:
        """Segment files that were removed."""
        return sum(done.segments_removed for done in self.work)

    @property
    def bytes_removed(self) -> int:
        """What they took, in bytes."""
        return sum(done.bytes_removed for done in self.work)

    @property
    def records_removed(self) -> int:
        """Records that compaction left out."""
        return sum(done.records_removed for done in self.work)

    @property
    def did_nothing(self) -> bool:
        """Whether there was nothing to do."""
        return not self.work and not self.problems

    def note(self, done: PartitionWork) -> None:
        """Enter what was done to a partition."""
        if done.is_empty:
            return
        known = self._known.setdefault((done.topic, done.partition), done)
        if known is done:
            self.work.append(done)
        else:
            known.add(done)

    def to_json(self) -> dict[str, Any]:
        """The report as plain values, for `json.dumps`."""
        return {name: value for name, value in asdict(self).items() if not name.startswith("_")}
