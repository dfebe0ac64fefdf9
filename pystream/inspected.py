"""What `pystream.inspection` finds in the files of a store, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias
from uuid import UUID


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """A segment file, and what its header says; all but the first four is None unless it is sound."""

    path: str
    """The file."""
    name_offset: int
    """The base offset in the file's name."""
    file_bytes: int
    """Bytes of the file, reserved ones included."""
    state: str
    """"sound", "damaged", "newer" (a later format version), or "foreign" (another topic's or partition's)."""
    base_offset: int | None = None
    topic_uuid: UUID | None = None
    partition: int | None = None
    salt: int | None = None
    leader_epoch: int | None = None
    capacity: int | None = None
    """Bytes the segment may grow to."""
    created: int | None = None
    """Nanoseconds since the epoch."""

    @property
    def sound(self) -> bool:
        return self.state == "sound"


@dataclass(frozen=True, slots=True)
class RecordSizes:
    """One record of a frame. Sizes are in bytes, None for null."""

    offset: int
    timestamp: int | None
    key_bytes: int | None
    value_bytes: int | None
    headers: int
    """How many."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One batch, whose header is sound. Offsets, counts and bytes as its header says; times in ns."""

    position: int
    """Byte in the file."""
    frame_bytes: int
    base_offset: int
    next_offset: int
    """The first offset after it."""
    records: int
    codec: str
    layout: str
    attributes: tuple[str, ...]
    stored_bytes: int
    """Of the body."""
    raw_bytes: int
    """Of the body, decompressed."""
    first_timestamp: int | None
    max_timestamp: int | None
    leader_epoch: int
    durable_offset: int
    """As its writer knew it."""
    producer_id: int | None
    producer_epoch: int | None
    base_sequence: int | None
    schema_id: int | None
    batch_uuid: UUID | None
    value_width: int | None
    """Bytes of every value; None: they vary."""
    key_width: int | None
    key_bytes: int
    value_bytes: int
    headers: int
    header: str
    """"sound", or "newer": a codec, layout or attribute of a later version."""
    body: str
    """"sound", "damaged", or "unchecked"."""
    columns: str
    """"sound", "damaged", or "unchecked"."""
    sizes: tuple[RecordSizes, ...] | None = None
    """Its records, where they were asked for and are sound."""

    @property
    def sound(self) -> bool:
        return self.header == "sound" and "damaged" not in (self.body, self.columns)


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that is not there as it must be: a stretch of a file, offsets, or both."""

    what: str
    """In words."""
    position: int | None
    """First byte of the stretch; None when a whole file is missing."""
    end: int | None
    """Its end, where the walk goes on; the same when what is there does not join."""
    missing: tuple[int, int] | None
    """The offsets that cannot be read for it: the first, and the first that can be again."""

    @property
    def sound(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Seal:
    """The end of a finished segment."""

    position: int
    state: str
    """"sound" or "damaged"."""
    end_offset: int | None
    """The next segment's base offset."""
    frames: int | None
    max_timestamp: int | None

    @property
    def sound(self) -> bool:
        return self.state == "sound"


@dataclass(frozen=True, slots=True)
class End:
    """Where the frames of a file end, and what is behind them."""

    position: int
    next_offset: int
    rest: str
    """"nothing", "zeros" (reserved space), "bytes" (a torn append, or damage), or "unseen" (not looked at:
    records that were not published when the walk began, if any)."""
    rest_bytes: int
    """Bytes of the file behind the end."""
    torn_bytes: int
    """Of those, up to the last one that is not zero."""

    @property
    def sound(self) -> bool:
        return True


Event: TypeAlias = SegmentHeader | Frame | Damage | Seal | End
"""What a walk gives; each has `sound`."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Where the log ends, as written with one of the last two appends."""

    sequence: int
    log_end: int
    segment: int
    position: int
    frames: int
    max_timestamp: int | None
    leader_epoch: int


@dataclass(frozen=True, slots=True)
class Head:
    """The control page of a partition, at one moment."""

    state: str
    """Of its identity: "sound", "damaged", "newer" or "blank"."""
    topic_uuid: UUID | None
    partition: int | None
    moved: bool
    """It was copied: device or inode are not those it was written in."""
    incarnation: int
    writing: bool
    """An append is under way, or its writer died."""
    holder: int
    """Process id of the last writer."""
    held: bool
    """It keeps the partition for exclusive writing."""
    poison: int | None
    """The errno of a failed write or sync."""
    deleted: bool
    log_start: int | None
    slots: tuple[Slot | None, Slot | None]
    """None: not sound."""
    high_watermark: int
    log_end: int
    durable_offset: int
    waited_for: bool
    """Somebody waits for the next append, or did when the last one came."""

    @property
    def slot(self) -> Slot | None:
        """The one that counts."""
        return max((slot for slot in self.slots if slot), key=lambda slot: slot.sequence, default=None)

    @property
    def sound(self) -> bool:
        return self.state == "sound" and self.slot is not None and self.log_start is not None


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One entry of a sparse index."""

    number: int
    state: str
    """"sound" or "damaged"."""
    offset: int
    position: int
    max_timestamp: int | None
    """Of all frames before it."""
    agrees: bool | None
    """Such a frame stands there; None: not looked at."""

    @property
    def sound(self) -> bool:
        return self.state == "sound" and self.agrees is not False


@dataclass(frozen=True, slots=True)
class Index:
    """A sparse index. It is derived: damage costs time, never records."""

    path: str
    state: str
    """Of its header: "sound", "damaged", "newer", "blank" (nothing was written yet), or "stale": another
    segment's."""
    salt: int | None
    base_offset: int | None
    interval_bytes: int | None
    capacity: int | None
    entries: tuple[IndexEntry, ...]

    @property
    def sound(self) -> bool:
        return self.state in ("sound", "blank") and all(entry.sound for entry in self.entries)


@dataclass(frozen=True, slots=True)
class EpochEntry:
    """One change of the leader epoch; the rest is None when it is not sound."""

    sound: bool
    epoch: int | None
    first_offset: int | None
    created: int | None


@dataclass(frozen=True, slots=True)
class CutFile:
    """What a recovery cut away and kept."""

    path: str
    file_bytes: int
