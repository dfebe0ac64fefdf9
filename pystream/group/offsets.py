"""Committed offsets: where a consumer begins by them, and those that say more than a mark can hold."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from pystream import options as opt
from pystream.errors import (
    FencedMemberError,
    LockTimeoutError,
    LogTruncatedError,
    OffsetOutOfRangeError,
    OptionError,
    TopicDeletedError,
    TopicNotFoundError,
)
from pystream.group.documents import Committed, Key, State
from pystream.group.shared import Gone
from pystream.notices import limited
from pystream.places import OffsetAndMetadata

if TYPE_CHECKING:
    from pystream._native.group import Member
    from pystream._native.log import LogHandle
    from pystream.consumer import Consumer
    from pystream.group.membership import Membership
    from pystream.group.settings import GroupOptions
    from pystream.group.shared import SharedGroup
    from pystream.partition import Partition

_log = logging.getLogger("pystream.group")

METADATA_BYTES_MAX: Final = 4096
"""What may be said beside a committed offset."""

SAVE_PATIENCE_S: Final = 30.0
"""How long who wants offsets to be durable waits for another process that is saving them."""


def parse_commit(partition: Partition, entry: object) -> int | Committed:
    """What is to be committed for a partition: an offset, perhaps with metadata.

    Raises:
        OffsetOutOfRangeError: the partition has no such offset.
        OptionError, TypeError: it is no offset, or its metadata is none, or too long.
    """
    whole = entry if isinstance(entry, OffsetAndMetadata) else OffsetAndMetadata(entry)  # type: ignore[arg-type]
    offset = opt.parse_int("offset", whole.offset)
    if not 0 <= offset <= partition.end_offset:
        raise OffsetOutOfRangeError(
            f"offset {offset} cannot be committed: {partition.topic!r}/{partition.index} ends at "
            f"{partition.end_offset}",
            topic=partition.topic,
            partition=partition.index,
            offset=offset,
        )
    if not isinstance(entry, OffsetAndMetadata):
        return offset
    if not isinstance(whole.metadata, str):
        raise TypeError(f"metadata must be a str, not {type(whole.metadata).__name__}")
    if len(whole.metadata.encode("utf-8", "surrogatepass")) > METADATA_BYTES_MAX:
        raise OptionError(f"metadata has more than {METADATA_BYTES_MAX} bytes")
    epoch = -1 if whole.leader_epoch is None else opt.parse_int("leader_epoch", whole.leader_epoch, minimum=0)
    return Committed(offset, epoch, whole.metadata, time.time_ns())


def first_offset(
    consumer: Consumer, place: tuple[str, int], committed: Committed | None, options: GroupOptions
) -> tuple[int, OffsetOutOfRangeError | None]:
    """Where to begin in a partition, and what is wrong with where it was to be.

    A position beyond where a later leader epoch begins was read before a cut: offsets from there on were
    given out again, so that beginning at it would pass over records.
    """
    if committed is None:
        return consumer._first_place(place), None
    log = consumer._topics[place[0]].partition(place[1])._log()
    cut = log.epoch_end(committed.epoch)
    end = log.high_watermark if cut is None else min(cut, log.high_watermark)
    if committed.offset < log.start_offset:
        return consumer._falls.place(consumer, place, committed.offset)
    if committed.offset <= end:
        return committed.offset, None
    where = f"{place[0]!r}/{place[1]}"
    what = f"{where} was committed up to {committed.offset}, but a crash has cut the log at {end}"
    if options.truncated == "resume":
        _log.warning("group %r: %s; going on from there", options.name, what)
        return end, None
    return end, LogTruncatedError(
        f"{what}: what was there is lost, and offsets from {end} on are other records'. Asking again goes on "
        f"at {end}; truncated='resume' does so at once",
        topic=place[0],
        partition=place[1],
        offset=committed.offset,
    )


def seek_to_committed(consumer: Consumer, membership: Membership, places: Iterable[tuple[str, int]]) -> None:
    """Have partitions that are read go on where they would if they were taken over now.

    Raises:
        OffsetOutOfRangeError, LogTruncatedError: as the first read of a partition that was taken over does.
            The consumer goes on where they say.
    """
    wrong = None
    for place in places:
        reader = consumer._reader(place)
        while True:
            offset, error = first_offset(consumer, place, membership.committed(place), membership.options)
            try:
                reader.seek(offset)
            except OffsetOutOfRangeError:
                if offset >= reader.handle.start_offset:
                    raise
                continue  # it was deleted this moment
            break
        wrong = wrong or error
    if wrong is not None:
        raise wrong


def leader_epochs(consumer: Consumer, keys: Mapping[Key, str]) -> dict[Key, int]:
    """Those of partitions (with their topics' names) that are there: not of topics that were deleted, though
    there may be others of that name now."""
    consumer._forget_deleted()
    found = {}
    for key, name in keys.items():
        with suppress(TopicNotFoundError, TopicDeletedError):
            if consumer._topic(name).uuid.hex != key[0]:
                del consumer._topics[name]  # perhaps another's, of which no partition was opened
            topic = consumer._topic(name)
            if topic.uuid.hex == key[0]:
                found[key] = topic.partition(key[1])._log().leader_epoch
    return found


def commit_slowly(group: SharedGroup, member: str, offsets: Mapping[Key, Committed], page: Member) -> None:
    """Commit through the group's state what a mark cannot hold. An epoch below 0: that of the claim.

    Raises:
        FencedMemberError: the member was put out; nothing was committed.
    """
    accepted = False

    def edit(state: State) -> bool:
        nonlocal accepted
        accepted = member in state.members and not page.is_fenced
        if accepted:
            for key, entry in offsets.items():
                epoch = state.claims[key].epoch if entry.epoch < 0 else entry.epoch
                state.committed[key] = entry._replace(epoch=epoch)
        return accepted

    try:
        group.change(edit)
    except Gone:  # which takes that no member of it lives
        accepted = False
    if not accepted:
        raise put_out(group.name)


def put_out(group_name: str) -> FencedMemberError:
    """What a member hears that is none any more."""
    return FencedMemberError(
        f"this consumer was put out of group {group_name!r}: it was silent for longer than its "
        "session_timeout; nothing was committed"
    )


def save_with_logs(group: SharedGroup, logs: Mapping[Key, LogHandle], patience_s: float) -> None:
    """Make the committed offsets durable, and in these logs, which a member reads, the records below them.

    Raises:
        FencedMemberError: the group was deleted, and so the member put out before.
        LockTimeoutError: somebody else was at it for all of `patience_s` seconds.
        StorageError: a system call failed.
    """
    try:
        offsets = group.committed()
        for key, log in logs.items():
            with suppress(TopicDeletedError):
                if key in offsets and log.durable_offset < offsets[key].offset:
                    log.sync()
        save_in_time(group, patience_s)
    except Gone:
        raise put_out(group.name) from None


class Saver:
    """Saves the offsets of a member's group, each time that it is time to."""

    def __init__(self) -> None:
        self._marks: tuple[int, ...] = ()
        self._tried = 0  # when they were last saved, or not (monotonic, ns)

    def tick(self, group: SharedGroup, page: Member, slots: Iterable[int], interval_s: float) -> bool:
        """Save them if the interval is over; False: no mark has moved since the last time; all is saved."""
        now = time.monotonic_ns()
        if now - self._tried < round(interval_s * 0.9e9):
            return True
        self._tried = now
        marks = tuple(page.mark(slot) for slot in slots)
        moved, self._marks = marks != self._marks, marks
        try:
            saved = group.save()
        except Gone:
            return False
        except OSError as error:
            what = "group %r: saving offsets failed, and is tried again: %s"
            limited.log(("saving", group.path), _log, logging.ERROR, what, group.name, error)
            saved = False
        return moved or not saved


def save_in_time(group: SharedGroup, patience_s: float) -> None:
    """Save a group's offsets; whoever is at it already may have looked before us, and is waited for.

    Raises:
        Gone, LockTimeoutError, StorageError: as `save_with_logs`.
    """
    deadline = time.monotonic() + patience_s
    while not group.save():
        if time.monotonic() >= deadline:
            raise LockTimeoutError(
                f"group {group.name!r}: another process has been saving its offsets for {patience_s:g} s, "
                "and may be stopped; what was committed survives all processes, and is not durable yet"
            )
        time.sleep(0.001)
