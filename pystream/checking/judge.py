"""What is to be said of a partition's segments after a look: damage, a torn tail, or nothing.

Where a writer uses the partition, everything below the high watermark must be there. Elsewhere the next who
opens the partition recovers it, and this is the judgement that recovery will pass: where the log breaks off
at or above the durable offset, and no sound batch beyond knew a durable offset above that place, the log ends
there and the rest is a torn tail. Everything else that is not sound is damage.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from pystream.checking.looks import Event, Look, Passed, SegmentResult
from pystream.verified import DAMAGE, NOTE, TORN, UNCHECKED, Finding, PartitionReport

# How a device says that it cannot give back what it was given.
_UNREADABLE: Final = {errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.EREMOTEIO, errno.ENODATA}

_REASONS: Final = {
    "no frame": "no sound batch stands here",
    "cut off": "the file ends inside a batch",
    "gap": "offsets are missing before this batch",
    "overlap": "a batch repeats offsets",
}


@dataclass(slots=True)
class _Fault:
    """Something that is not sound, before it is known what that means."""

    part: str
    what: str
    path: str
    segment: int
    low: int
    """Offset at which the log breaks off."""
    offsets: tuple[int, int] | None = None
    position: int | None = None
    end: int | None = None
    breaks: bool = True
    """Recovery would come to a halt here."""
    remedy: str = "repair"
    kind: str = DAMAGE
    durable_beyond: int = -1


class Judge:
    """Goes through what a look has found, segment by segment, in order."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._uuid = look.uuid
        if self._uuid is None and look.head is not None:
            self._uuid = look.head.topic_uuid
        self._trail: list[_Fault | Passed] = []
        self._notes: list[Finding] = []
        self._start = 0
        self._next: int | None = None
        """Offset expected next; None: what stands before could not be read."""

    def report(self) -> PartitionReport:
        """The verdict."""
        look = self._look
        results = [look.results[base] for base, _ in look.files if base in look.results]
        head = look.head if look.head is not None and look.head.sound else None
        if head is not None and head.log_start is not None:
            self._next = self._start = head.log_start
        elif results:
            self._start = results[0].base
        if not results and head is not None and look.log_end > 0:
            self._missing_segments(look.log_end)
        for i, result in enumerate(results):
            self._segment(result, results[i + 1].base if i + 1 < len(results) else None, first=i == 0)
        findings, end = self._sort_out()
        lost = _merged([one.offsets for one in findings if one.kind == DAMAGE and one.offsets], end)
        return PartitionReport(
            look.topic,
            look.partition,
            len(results),
            sum(result.batches for result in results),
            sum(result.records for result in results),
            sum(result.file_bytes for result in results),
            self._start,
            end,
            lost,
            (*findings, *self._notes),
        )

    # ---- one segment after the other --------------------------------------------------------------------

    def _segment(self, result: SegmentResult, following: int | None, *, first: bool) -> None:
        base = result.base
        if self._next is not None and base > self._next:
            self._missing_segments(base)
        elif self._next is not None and base < self._next and not first:
            what = f"the segment before goes up to offset {self._next - 1:,}, which this one has too"
            self._add(result, "segment", what, base, breaks=False, remedy="")
        if result.error is not None and not result.file_bytes:
            self._unreadable(result, base, following)
            return
        if result.header == "newer":
            self._unchecked(result, "a later version of pystream wrote this segment")
            self._next = following
            return
        if self._foreign(result, following):
            return
        if result.header == "damaged":
            what = "the segment header is damaged"
            self._add(result, "segment", what, base, position=0, end=result.header_end, breaks=not first)
        for event in result.events:
            if isinstance(event, Passed):
                # Recovery reads nothing in a segment whose header it cannot.
                if result.header == "sound":
                    self._trail.append(event)
            else:
                self._event(result, event)
        if result.error is not None:
            self._unreadable(result, result.next_offset, following)
            return
        self._next = result.next_offset
        self._join(result, following)

    def _foreign(self, result: SegmentResult, following: int | None) -> bool:
        """A sound header that names another place: then nothing of it is this partition's."""
        if result.whose is None:
            return False
        base, uuid, partition = result.whose
        at_home = (
            base == result.base
            and (self._uuid is None or uuid == self._uuid.bytes)
            and partition == self._look.partition
        )
        if at_home:
            return False
        what = f"this segment is of topic {UUID(bytes=uuid)}, partition {partition}, offset {base:,}"
        after = following if following is not None else max(self._look.durable, result.base)
        offsets = (result.base, after) if after > result.base else None
        self._add(result, "segment", what, result.base, offsets=offsets)
        self._next = after
        return True

    def _event(self, result: SegmentResult, event: Event) -> None:
        if event.kind == "frame":
            header, body, columns, low, after, durable = event.values
            if header == "newer":
                self._unchecked(result, "a later version of pystream wrote this batch", event)
                return
            part = "body" if body == "damaged" else "columns"
            what = f"the {part} of a batch {'is' if part == 'body' else 'are'} damaged"
            breaks = body == "damaged" and columns != "damaged"
            self._add(result, "batch", what, low, event, offsets=(low, after), breaks=breaks)
            if result.header == "sound":
                self._trail.append(Passed(durable))
        elif event.kind == "damage":
            reason, missing, found = event.values
            if missing is None or found is None:
                self._add(result, "batch", _REASONS[reason], result.base, event)
                return
            offsets = (min(missing, found), max(missing, found)) if missing != found else None
            self._add(result, "batch", _REASONS[reason], min(missing, found), event, offsets=offsets)
        elif event.kind == "seal" and event.end > result.file_bytes:
            what = "the file ends inside its seal"
            self._add(result, "seal", what, result.next_offset, event, breaks=False)
        elif event.kind == "seal" and event.values[0] == "damaged":
            self._add(result, "seal", "the seal is damaged", result.next_offset, event, breaks=False)

    def _join(self, result: SegmentResult, following: int | None) -> None:
        """Where a segment ends, the next must begin, or the log end."""
        look = self._look
        after = result.next_offset
        if following is None:
            self._last(result)
            return
        wanted = following if look.bound is None else min(following, look.bound)
        if after < wanted:
            self._add(
                result,
                "records",
                "records are missing",
                after,
                offsets=(after, wanted),
                position=result.position,
                end=result.end,
            )
            self._next = wanted
            return
        if result.rest == "unseen" or (look.bound is not None and following >= look.bound):
            return  # a roll may be under way
        end = max(result.position, result.end)
        sealed = any(isinstance(event, Event) and event.kind == "seal" for event in result.events)
        if result.rest == "bytes" and sealed:
            self._add(
                result,
                "seal",
                "something stands behind the seal",
                after,
                breaks=False,
                position=result.position,
                end=end,
            )
        elif result.rest == "bytes":
            self._add(
                result,
                "seal",
                "no sound seal stands here",
                after,
                breaks=False,
                position=result.position,
                end=end,
            )
        elif not sealed and result.rest == "nothing":
            self._add(
                result,
                "seal",
                "the file ends before its seal",
                after,
                breaks=False,
                position=result.position,
                end=end,
            )
        elif not sealed:
            self._notes.append(
                Finding(
                    NOTE,
                    "seal",
                    "no seal was written, as after a power failure; its records are all there",
                    result.path,
                    look.topic,
                    look.partition,
                    result.base,
                    result.position,
                    end,
                )
            )

    def _last(self, result: SegmentResult) -> None:
        look, after = self._look, result.next_offset
        if look.bound is not None:
            if after < look.bound:
                what = "records that were published are missing"
                self._add(
                    result, "records", what, after, offsets=(after, look.bound), position=result.position
                )
                self._next = look.bound
        elif after < look.durable:
            what = "records that were durable are missing"
            self._add(
                result,
                "records",
                what,
                after,
                offsets=(after, look.durable),
                position=result.position,
                breaks=False,
            )
            self._next = look.durable
        elif result.rest == "bytes" or look.log_end > after:
            offsets = (after, look.log_end) if look.log_end > after else None
            what = "the log ends in a torn append" if result.rest == "bytes" else "the log breaks off"
            self._add(
                result,
                "records",
                what,
                after,
                offsets=offsets,
                position=result.position,
                end=result.end,
                kind=TORN,
                remedy="opening",
            )

    # ---- faults -----------------------------------------------------------------------------------------

    def _missing_segments(self, after: int) -> None:
        low = self._next or 0
        path = os.path.join(self._look.directory, f"{low:020}.log")
        fault = _Fault("segment", "a segment is missing", path, low, low, (low, after))
        if low >= after:
            return
        self._trail.append(fault)
        self._next = after

    def _unreadable(self, result: SegmentResult, low: int, following: int | None) -> None:
        """The file, or the rest of it, cannot be read."""
        error = result.error
        assert error is not None
        reason = error.strerror or str(error)
        self._next = following
        if error.errno not in _UNREADABLE:
            self._unchecked(result, f"cannot be read: {reason}")
            return
        after = following if following is not None else max(self._look.durable, self._look.bound or 0)
        offsets = (low, after) if after > low else None
        what = f"the disk cannot give it back: {reason}"
        self._add(
            result,
            "segment",
            what,
            low,
            offsets=offsets,
            position=result.position,
            breaks=False,
            remedy="backup",
        )

    def _unchecked(self, result: SegmentResult, what: str, event: Event | None = None) -> None:
        look = self._look
        where = (None, None) if event is None else (event.position, event.end)
        self._notes.append(
            Finding(UNCHECKED, "segment", what, result.path, look.topic, look.partition, result.base, *where)
        )

    def _add(
        self,
        result: SegmentResult,
        part: str,
        what: str,
        low: int,
        event: Event | None = None,
        *,
        offsets: tuple[int, int] | None = None,
        position: int | None = None,
        end: int | None = None,
        breaks: bool = True,
        remedy: str = "repair",
        kind: str = DAMAGE,
    ) -> None:
        if event is not None:
            position, end = event.position, event.end
        self._trail.append(
            _Fault(part, what, result.path, result.base, low, offsets, position, end, breaks, remedy, kind)
        )

    def _sort_out(self) -> tuple[list[Finding], int]:
        """The findings, and where the log ends."""
        look = self._look
        beyond = -1
        for one in reversed(self._trail):
            if isinstance(one, Passed):
                beyond = max(beyond, one.durable)
            else:
                one.durable_beyond = beyond
        end = self._next if self._next is not None else max(look.log_end, self._start)
        findings = []
        for one in self._trail:
            if isinstance(one, Passed):
                continue
            torn = (
                not look.attached
                and one.breaks
                and one.kind == DAMAGE
                and one.low >= look.durable
                and one.durable_beyond <= one.low
            )
            if one.kind == TORN:
                end = one.low
            if torn:
                last = max(end, look.log_end)
                one.kind, one.remedy = TORN, "opening"
                one.what = f"the log ends in what a crash left unfinished: {one.what}"
                one.offsets = (one.low, last) if last > one.low else None
                end = one.low
            findings.append(
                Finding(
                    one.kind,
                    one.part,
                    one.what,
                    one.path,
                    look.topic,
                    look.partition,
                    one.segment,
                    one.position,
                    one.end,
                    one.offsets,
                    one.remedy,
                )
            )
            if torn:
                break
        return findings, end


def _merged(ranges: list[tuple[int, int]], end: int) -> tuple[tuple[int, int], ...]:
    found: list[tuple[int, int]] = []
    for first, after in sorted(ranges):
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], after))
        else:
            found.append((first, after))
    return tuple((first, min(after, end)) for first, after in found if first < end)
