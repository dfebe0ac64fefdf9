"""Looking at the files of a store without opening it: what stands where, and what is damaged.

Nothing is written, locked or mapped, so all of this works on a store that others append to, on read-only
media, and on files that no store would open. What is being written while one looks is not reported: in a
store that is in use, a partition is walked up to the high watermark its head showed when the walk began.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

from pystream import metadata
from pystream._native import inspect as native
from pystream._native.compact import without_leftovers
from pystream._native.limits import CODECS
from pystream.errors import PystreamError
from pystream.inspected import (
    CutFile,
    Damage,
    End,
    EpochEntry,
    Event,
    Frame,
    Head,
    Index,
    IndexEntry,
    RecordSizes,
    Seal,
    SegmentHeader,
    Slot,
)

__all__ = [
    "CutFile",
    "Damage",
    "End",
    "EpochEntry",
    "Event",
    "Frame",
    "Head",
    "Index",
    "IndexEntry",
    "RecordSizes",
    "Seal",
    "SegmentHeader",
    "Slot",
    "cut_files",
    "in_use",
    "read_epochs",
    "read_head",
    "read_index",
    "salt_of_index",
    "segment_files",
    "walk_partition",
    "walk_segment",
]

_SEGMENT: Final = re.compile(r"(\d{20})\.log")
_CUT: Final = re.compile(r"\d{20}\.log\.\d{10}\.cut")
_CODEC_NAMES: Final = {number: name for name, number in CODECS.items()}
_LAYOUT_NAMES: Final = {0: "columns", 1: "arrow", 2: "kafka"}
_ATTRIBUTES: Final = (
    "timestamps equal",
    "log append time",
    "transactional",
    "control",
    "delete horizon",
    "offset deltas",
    "keys",
    "key nulls",
    "value nulls",
    "headers",
    "header nulls",
)
_SLOT_READS: Final = 5  # a slot that is being written is whole a moment later


# ---- files ------------------------------------------------------------------------------------------


def segment_files(directory: str | os.PathLike[str]) -> list[tuple[int, str]]:
    """(base offset, path) of the segments of a partition, in order.

    Those that an interrupted compaction has left, which the one before them covers, are left out.

    Raises:
        StorageError: the directory cannot be read.
    """
    directory = os.fspath(directory)
    with metadata.storage_errors(directory):
        found = [(_SEGMENT.fullmatch(entry), entry) for entry in os.listdir(directory)]
    files = sorted((int(match[1]), os.path.join(directory, entry)) for match, entry in found if match)
    return without_leftovers(files)


def kept_files(files: list[tuple[int, str]], log_start: int | None) -> list[tuple[int, str]]:
    """Those of `segment_files` that hold records from the log start on; None: it is not known.

    What is below it may be there still, whole or in part: it is removed later, and says nothing.
    """
    if log_start is None:
        return files
    first = 0
    while first + 1 < len(files) and files[first + 1][0] <= log_start:
        first += 1
    return files[first:]


def cut_files(directory: str | os.PathLike[str]) -> list[CutFile]:
    """What recoveries of a partition cut away, by name."""
    directory = os.fspath(directory)
    with metadata.storage_errors(directory):
        names = sorted(entry for entry in os.listdir(directory) if _CUT.fullmatch(entry))
        paths = [os.path.join(directory, name) for name in names]
        return [CutFile(path, os.stat(path).st_size) for path in paths]


def in_use(store: str | os.PathLike[str]) -> bool:
    """Whether any process, this one included, has the store in directory `store` open."""
    path = os.path.join(os.fspath(store), "live")
    with metadata.storage_errors(path):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return native.in_use(descriptor)
        finally:
            os.close(descriptor)


def read_head(path: str | os.PathLike[str]) -> Head:
    """What a head page says.

    Raises:
        StorageError: it cannot be read (`errno` ENOENT: the partition was never opened).
    """
    path = os.fspath(path)
    with metadata.storage_errors(path), open(path, "rb", buffering=0) as file:
        identity = os.fstat(file.fileno())
        for _ in range(_SLOT_READS):
            page = os.pread(file.fileno(), native.HEAD_BYTES, 0)
            facts = native.read_head(page)
            slots = tuple(None if slot is None else Slot(*slot) for slot in facts.pop("slots"))
            if all(slots):
                break
    if facts["state"] == "sound" and len(page) < native.HEAD_BYTES:
        facts["state"] = "damaged"  # its beginning is sound, but it is not whole
    where = facts.pop("device"), facts.pop("inode")
    uuid = facts.pop("topic_uuid")
    return Head(
        topic_uuid=None if uuid is None else UUID(bytes=uuid),
        moved=uuid is not None and where != (identity.st_dev, identity.st_ino),
        slots=(slots[0], slots[1]),
        **facts,
    )


def read_index(path: str | os.PathLike[str], *, end_offset: int | None = None) -> Index:
    """What a sparse index says, each entry compared with the frame it names in the segment beside it.

    Args:
        path: a `.index` file.
        end_offset: None, or where published records end: later entries are left out, and so is the last
            one where it is being written.

    Raises:
        StorageError: a file cannot be read.
    """
    path = os.fspath(path)
    segment = path.removesuffix(".index") + ".log"
    descriptor = None
    with metadata.storage_errors(path):
        with open(path, "rb") as file:
            data = file.read()
        try:
            with suppress(FileNotFoundError):
                descriptor = os.open(segment, os.O_RDONLY | os.O_CLOEXEC)
            state, salt, base, interval, capacity, found = native.read_index(data, descriptor)
        finally:
            if descriptor is not None:
                os.close(descriptor)
    entries = [
        IndexEntry(number, entry_state, offset, position, max_timestamp, agrees)
        for number, entry_state, offset, position, max_timestamp, agrees in found
    ]
    if end_offset is not None:
        if entries and entries[-1].state != "sound":
            del entries[-1]
        entries = [entry for entry in entries if entry.state != "sound" or entry.offset < end_offset]
    if not data.strip(b"\0"):
        state = "blank"
    if state == "sound" and os.path.exists(segment):
        header = _header(segment)
        if header.sound and header.salt != salt:
            state = "stale"
    return Index(path, state, salt, base, interval, capacity, tuple(entries))


def read_epochs(path: str | os.PathLike[str]) -> list[EpochEntry]:
    """What an epochs file says.

    Raises:
        StorageError: it cannot be read.
    """
    path = os.fspath(path)
    with metadata.storage_errors(path), open(path, "rb") as file:
        return [EpochEntry(*entry) for entry in native.read_epochs(file.read())]


# ---- walks ------------------------------------------------------------------------------------------


def walk_segment(
    path: str | os.PathLike[str],
    *,
    bodies: bool = True,
    records: bool = False,
    end_offset: int | None = None,
) -> Iterator[Event]:
    """Everything in a segment file, in order: its header, frames, damage, the seal, and last the `End`.

    After damage it goes on at the next frame whose header is sound. A damaged header of the file hides
    nothing as long as the salt can be had from it, or from the index beside it.

    Args:
        path: a segment file; its name need not be that of one.
        bodies: compare the checksums of bodies and look at columns; False reads headers only.
        records: list each frame's records, too (`Frame.sizes`). Needs `bodies`.
        end_offset: None, or where published records end; the walk ends there.

    Raises:
        StorageError: the file cannot be read.
    """
    path = os.fspath(path)
    match = _SEGMENT.fullmatch(os.path.basename(path))
    base = int(match[1]) if match else -1
    with metadata.storage_errors(path):
        walk = native.SegmentWalk(path, base, end_offset, salt_of_index(path), bodies or records)
        try:
            while (event := walk.next()) is not None:
                yield _event(path, base, event, walk if records else None)
        finally:
            walk.close()


def walk_partition(
    directory: str | os.PathLike[str],
    *,
    bodies: bool = True,
    records: bool = False,
    segment: int | None = None,
    start: int | None = None,
    stop: int | None = None,
) -> Iterator[Event]:
    """Everything in a partition's segments, and what is missing between and behind them.

    Args:
        directory: a partition's, STORE/topics/TOPIC/NUMBER.
        bodies, records: as for `walk_segment`.
        segment: only the segment with this base offset.
        start, stop: only what concerns offsets from `start` up to, not including, `stop`.

    Raises:
        StorageError: a file cannot be read.
    """
    directory = os.path.abspath(os.fspath(directory))
    low, high = start or 0, stop
    head, live = _head_of(directory)
    bound = head.high_watermark if live and head is not None and head.sound else None
    identity = _identity_of(directory, head)
    files = segment_files(directory)
    if segment is None:
        files = kept_files(files, head.log_start if head is not None and head.sound else None)
    bases = [base for base, _ in files]
    expected: int | None = head.log_start if head is not None and head.sound else None
    for number, (base, path) in enumerate(files):
        following = bases[number + 1] if number + 1 < len(files) else None
        if bound is not None and base > bound:  # being made
            break
        if (segment is not None and base != segment) or not _touches(base, following, low, high):
            expected = None
            continue
        if expected is not None and base > expected:
            yield Damage("segments are missing", None, None, (expected, base))
        last_end: End | None = None
        sealed = False
        for event in walk_segment(path, bodies=bodies, records=records, end_offset=bound):
            if isinstance(event, SegmentHeader):
                yield _placed(event, base, identity)
            elif isinstance(event, End):
                last_end = event
            elif _concerns(event, low, high):
                sealed = sealed or isinstance(event, Seal)  # if it is damaged, that was said
                yield event
        assert last_end is not None
        head_there = head if following is None else None
        joins = _joins(last_end, sealed, following, bound, head_there)
        yield from (damage for damage in joins if _concerns(damage, low, high))
        yield last_end
        expected = max(last_end.next_offset, following or 0)
    if not files and head is not None and head.sound and head.log_end > 0:
        yield Damage("every segment is missing", None, None, (head.log_start or 0, head.log_end))


def _joins(
    end: End, sealed: bool, following: int | None, bound: int | None, head: Head | None
) -> Iterator[Damage]:
    """What is not as it must be where a segment ends."""
    rest = end.position + end.torn_bytes
    if end.rest == "unseen":
        return
    if following is None:
        if head is None or not head.sound:
            return
        published = max(head.high_watermark if bound is None else bound, head.durable_offset)
        if end.next_offset < published:
            yield Damage(
                "records that were published are missing", end.position, rest, (end.next_offset, published)
            )
        return
    if bound is not None and following >= bound:  # a roll may be under way
        return
    if end.next_offset < following:
        yield Damage("records are missing", end.position, rest, (end.next_offset, following))
    elif not sealed:
        yield Damage("a finished segment has no sound seal", end.position, rest, None)
    elif end.torn_bytes:
        yield Damage("something stands behind the seal", end.position, rest, None)


def _concerns(event: Event, low: int, high: int | None) -> bool:
    if isinstance(event, Frame):
        return _touches(event.base_offset, event.next_offset, low, high)
    if isinstance(event, Damage) and event.missing is not None:
        return _touches(*event.missing, low, high)
    return True


def _touches(first: int, after: int | None, low: int, high: int | None) -> bool:
    return (after is None or after > low) and (high is None or first < high)


def _event(path: str, base: int, event: tuple[Any, ...], walk: native.SegmentWalk | None) -> Event:
    kind, *values = event
    if kind == "frame":
        return _frame(values, walk)
    if kind == "header":
        state, size, base_offset, uuid, *rest = values
        return SegmentHeader(path, base, size, state, base_offset, UUID(bytes=uuid) if uuid else None, *rest)
    if kind == "damage":
        position, end, reason, missing, found = values
        what = {
            "no frame": "no sound batch stands here",
            "cut off": "the file ends inside a batch",
            "gap": "offsets are missing before this batch",
            "overlap": "a batch repeats offsets",
        }[str(reason)]
        offsets = None if missing is None or found is None else (min(missing, found), max(missing, found))
        return Damage(what, position, end, offsets)
    if kind == "seal":
        return Seal(*values)
    position, to, size, next_offset, rest = values
    return End(position, next_offset, rest, max(size - position, 0), max(to - position, 0))


def _frame(values: list[Any], walk: native.SegmentWalk | None) -> Frame:
    position, frame_bytes, base, following, count, attributes, stored, raw = values[:8]
    sizes = None if walk is None else tuple(RecordSizes(*record) for record in walk.records())
    uuid = values[16]
    fields: list[Any] = [
        position,
        frame_bytes,
        base,
        following,
        count,
        _CODEC_NAMES.get(attributes & 7, str(attributes & 7)),
        _LAYOUT_NAMES.get(attributes >> 3 & 7, str(attributes >> 3 & 7)),
        tuple(name for bit, name in enumerate(_ATTRIBUTES, 6) if attributes >> bit & 1),
        stored,
        raw,
        *values[8:16],
        None if uuid is None else UUID(bytes=uuid),
        *values[17:],
        sizes,
    ]
    return Frame(*fields)


def _header(path: str) -> SegmentHeader:
    events = walk_segment(path, bodies=False, end_offset=-1)
    header = next(events)
    assert isinstance(header, SegmentHeader)
    return header


def _placed(header: SegmentHeader, base: int, identity: tuple[UUID | None, int | None]) -> SegmentHeader:
    """The header, "foreign" if it is sound but not of this file's place."""
    uuid, partition = identity
    at_home = (
        header.base_offset == base
        and (uuid is None or header.topic_uuid == uuid)
        and (partition is None or header.partition == partition)
    )
    return header if not header.sound or at_home else replace(header, state="foreign")


def salt_of_index(path: str) -> int | None:
    """The salt that the index beside a segment carries; None when there is none to be believed."""
    try:
        with open(path.removesuffix(".log") + ".index", "rb") as file:
            return native.read_index(file.read(64))[1]
    except OSError:
        return None


def _head_of(directory: str) -> tuple[Head | None, bool]:
    """The head of the partition in `directory`, and whether its store is in use."""
    live = False
    with suppress(PystreamError):
        live = in_use(os.path.join(directory, "..", "..", ".."))
    try:
        return read_head(os.path.join(directory, "head")), live
    except PystreamError:
        return None, live


def _identity_of(directory: str, head: Head | None) -> tuple[UUID | None, int | None]:
    """The uuid and number that the segments of the partition in `directory` must bear, where known."""
    topic, partition = os.path.split(directory)
    uuid = head.topic_uuid if head is not None else None
    with suppress(PystreamError):
        found = metadata.read_topic(*_store_and_name(topic))
        uuid = uuid if found is None else found[0].uuid
    return uuid, int(partition) if partition.isdecimal() else None


def _store_and_name(topic: str) -> tuple[str, str]:
    topics, name = os.path.split(topic)
    return os.path.dirname(topics), name
