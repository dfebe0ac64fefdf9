"""What `pystream.verification` finds, as plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

DAMAGE: Final = "damage"
TORN: Final = "torn"
UNCHECKED: Final = "unchecked"
NOTE: Final = "note"

REMEDIES: Final = {
    "repair": "pystream repair mends it",
    "opening": "the next who opens the store to write sees to it",
    "backup": "bring the file back from a copy",
    "": "",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it was written, or not as usual."""

    kind: str
    """"damage"; "torn": what a crash left unfinished, which is no damage; "unchecked": it could not be read,
    or a later version wrote it; "note": all is well, but somebody may want to know."""
    part: str
    """What it is in: "store", "topic", "live", "head", "epochs", "index", "segment" (its header, or all of
    it), "batch", "seal", "records" (they are not there), "partition", "group" or "file" (another one)."""
    what: str
    """In words."""
    path: str
    """The file or directory."""
    topic: str | None = None
    partition: int | None = None
    segment: int | None = None
    """Base offset."""
    position: int | None = None
    """First byte in the file."""
    end: int | None = None
    """Behind its last byte."""
    offsets: tuple[int, int] | None = None
    """The offsets that are lost by it: the first, and the first that is not."""
    remedy: str = ""
    """"repair": `pystream repair` mends it, and keeps every sound record. "opening": the next who opens the
    store to write does. "backup": a copy is needed. "": nothing is, or nobody knows."""

    @property
    def place(self) -> str:
        """Where it is, for people."""
        parts = [] if self.topic is None else [f"{self.topic}"]
        if self.partition is not None:
            parts = [f"{self.topic}/{self.partition}"]
        parts.append(self.path)
        if self.position is not None:
            span = f"{self.position:,}"
            parts.append(span if self.end in (None, self.position) else f"{span} to {self.end:,}")
        return ", ".join(parts)

    @property
    def text(self) -> str:
        """What it is, for people: what, which offsets, and what to do."""
        lost = ""
        if self.offsets is not None:
            first, after = self.offsets
            lost = f"; offset {first:,}" if after == first + 1 else f"; offsets {first:,} to {after - 1:,}"
            lost += " would go" if self.kind == TORN else " cannot be read"
        remedy = REMEDIES[self.remedy]
        return f"{self.what}{lost}" + (f"; {remedy}" if remedy else "")


@dataclass(frozen=True, slots=True)
class PartitionReport:
    """A partition that was verified."""

    topic: str
    partition: int
    segments: int
    batches: int
    """Sound ones."""
    records: int
    """In sound batches."""
    file_bytes: int
    """Of the segments, with what is reserved."""
    beginning_offset: int
    end_offset: int
    """Where the log ends: what lies behind it is torn, or was not published when the check began."""
    lost: tuple[tuple[int, int], ...]
    """Ranges of offsets that cannot be read: the first, and the first that can be again."""
    findings: tuple[Finding, ...]

    @property
    def sound(self) -> tuple[tuple[int, int], ...]:
        """Ranges of offsets on both sides of what is lost."""
        found, at = [], self.beginning_offset
        for first, after in self.lost:
            if first > at:
                found.append((at, first))
            at = max(at, after)
        if at < self.end_offset:
            found.append((at, self.end_offset))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Report:
    """What `verify` found."""

    path: str
    """The store's directory."""
    in_use: bool
    """Somebody had it open to write; then each partition was checked up to what had been published."""
    partitions: tuple[PartitionReport, ...]
    others: tuple[Finding, ...]
    """What was found outside of partitions."""
    seconds: float

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Everything found, in and outside of partitions."""
        return self.others + tuple(one for part in self.partitions for one in part.findings)

    @property
    def damage(self) -> tuple[Finding, ...]:
        return self._of(DAMAGE)

    @property
    def torn(self) -> tuple[Finding, ...]:
        return self._of(TORN)

    @property
    def unchecked(self) -> tuple[Finding, ...]:
        return self._of(UNCHECKED)

    @property
    def notes(self) -> tuple[Finding, ...]:
        return self._of(NOTE)

    @property
    def sound(self) -> bool:
        """True when everything could be checked, and nothing is damaged. A torn tail is no damage."""
        return not self.damage and not self.unchecked

    @property
    def records(self) -> int:
        """Records in sound batches."""
        return sum(part.records for part in self.partitions)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON can hold it."""
        return {
            "store": self.path,
            "sound": self.sound,
            "in_use": self.in_use,
            "seconds": round(self.seconds, 3),
            "records": self.records,
            "counts": {kind: len(self._of(kind)) for kind in (DAMAGE, TORN, UNCHECKED, NOTE)},
            "findings": [asdict(one) for one in self.findings],
            "partitions": [
                {
                    **{name: value for name, value in asdict(part).items() if name != "findings"},
                    "sound": part.sound,
                }
                for part in self.partitions
            ],
        }

    def _of(self, kind: str) -> tuple[Finding, ...]:
        return tuple(one for one in self.findings if one.kind == kind)
