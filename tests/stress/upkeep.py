"""Compares what happened to the topics that look after themselves with what may: see `keepers`.

What is known of a partition is put together of all that anybody saw: who wrote a record where, who read it
where, what is left at the end. From that follows what may be gone: what lies below the log start, and, of a
compacted topic, what has a later record of its key. The log start may rise only for a reason.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Final

import numpy as np

import pystream

from .actors import label
from .checker import TORN, Findings, Ints, by_kind
from .history import Entry
from .keepers import (
    AGE_S,
    DIRTY,
    KEYS,
    PARTITIONS,
    SEGMENT_BYTES,
    TOPICS,
    identify,
    is_tombstone,
    key_number,
)
from .values import LAST_STREAM

SLACK_NS: Final = 50_000_000
"""By how much two clocks of a machine may go apart in a round."""
ROOM_MAX: Final = 64 << 10
"""What a record is taken to need of which nobody knows how large it is."""
NEVER: Final = 1 << 62


class Kept:
    """A partition at the end: where it starts and ends, and what is at which offset."""

    def __init__(
        self,
        start: int,
        end: int,
        records: Sequence[tuple[int, int, int]],
        stored_bytes: int = 0,
        dirty_bytes: int = 0,
    ) -> None:
        self.start, self.end = start, end
        self.records = records
        """Offset, stream and number of each."""
        self.stored_bytes, self.dirty_bytes = stored_bytes, dirty_bytes


class Known:
    """All that is known of a partition: by offset, who wrote it, from when on, and how large it can be."""

    def __init__(self, partition: str, end: int, sent: Mapping[int, str], found: Findings) -> None:
        self.partition, self.end, self.sent, self.found = partition, end, sent, found
        self.streams: Ints = np.full(end, TORN, np.int64)
        self.numbers: Ints = np.zeros(end, np.int64)
        self.began: Ints = np.zeros(end, np.int64)
        self.room: Ints = np.full(end, ROOM_MAX, np.int64)
        self.places: dict[tuple[int, int], int] = {}

    def see(self, who: str, offset: int, stream: int, number: int) -> None:
        """Somebody says that this stands there: nobody may say something else."""
        if not 0 <= offset < self.end:
            self.found.add(
                "lost-write",
                f"{who}: {stream:x}#{number} at {self.partition}@{offset}, which ends at {self.end}",
            )
        elif self.streams[offset] == TORN:
            self.streams[offset], self.numbers[offset] = stream, number
            if self.sent.get(stream) != self.partition:
                self.found.add("foreign-record", f"{who}: {stream:x}#{number} at {self.partition}@{offset}")
            elsewhere = self.places.setdefault((stream, number), offset)
            if elsewhere != offset:
                self.found.add(
                    "duplicate", f"{self.partition}: {stream:x}#{number} at {elsewhere} and {offset}"
                )
        elif (self.streams[offset], self.numbers[offset]) != (stream, number):
            self.found.add(
                "inconsistent-offsets",
                f"{who} has {stream:x}#{number} at {self.partition}@{offset}, others "
                f"{self.streams[offset]:x}#{self.numbers[offset]}",
            )

    def settle(self) -> None:
        """All has been seen: what follows from it."""
        self.keys: Ints = np.full(self.end, -1, np.int64)
        """-1: nobody knows. The last record of a partition has a key of its own."""
        self.tombstones = np.zeros(self.end, bool)
        for offset in np.flatnonzero(self.streams != TORN):
            stream, number = int(self.streams[offset]), int(self.numbers[offset])
            last = stream >= LAST_STREAM
            self.keys[offset] = KEYS if last else key_number(stream, number)
            self.tombstones[offset] = not last and is_tombstone(number)
        self.superseded = np.zeros(self.end, bool)
        later = [False] * (KEYS + 1)
        for offset in range(self.end - 1, -1, -1):
            key = int(self.keys[offset])
            if key >= 0:
                self.superseded[offset] = later[key]
                later[key] = True
        order: dict[int, int] = {}
        for offset in np.flatnonzero(self.streams != TORN):
            stream, number = int(self.streams[offset]), int(self.numbers[offset])
            if order.get(stream, -1) >= number:
                self.found.add("reordered", f"{self.partition}@{offset} is {stream:x}#{number}")
            order[stream] = max(number, order.get(stream, -1))

    def must_be_there(self, begin: int, end: int, *, compacted: bool) -> Ints:
        """Offsets in [begin, end) that nobody may miss, were the log start at `begin`."""
        begin, end = max(begin, 0), min(end, self.end)
        wanted = self.streams[begin:end] != TORN
        if compacted:
            wanted = wanted & ~self.superseded[begin:end] & ~self.tombstones[begin:end]
        return np.flatnonzero(wanted) + begin


def is_compacted(partition: str) -> bool:
    return "compact" in TOPICS[partition.partition("/")[0]].get("cleanup", "delete")


def check(entries: Iterable[Entry], kept: Mapping[str, Kept], found: Findings) -> None:
    """Compare the histories with what is left. `kept` is empty where nobody could read it: said elsewhere."""
    if not kept:
        return
    kinds = by_kind(entries)
    sent = {int(entry.fields[0]): entry.fields[1] for entry in kinds.get("put", ())}
    known = {name: Known(name, one.end, sent, found) for name, one in kept.items()}
    see_all(kinds, kept, known)
    for each in known.values():
        each.settle()
    for name, one in kept.items():
        check_end(one, known[name], found)
    check_starts(kinds, kept, known, found)
    check_reads(entries, known, found)
    check_tables(kinds, kept, known, found)
    for entry in kinds.get("pinned", ()):
        found.add("pinned", f"{entry.actor}: {entry.text()}")


def see_all(kinds: Mapping[str, list[Entry]], kept: Mapping[str, Kept], known: Mapping[str, Known]) -> None:
    puts: dict[int, list[tuple[int, int, int]]] = defaultdict(list)  # first number, room for each, time
    partitions: dict[int, str] = {}
    for entry in kinds.get("put", ()):
        stream, number, count, room = entry.ints(0, 1) + entry.ints(2)
        partitions[stream] = entry.fields[1]
        puts[stream].append((number, room // count + 1, entry.time))
    for entry in kinds.get("kept", ()):
        stream, number, count, offset, _ = entry.ints()
        for i in range(count):
            who = f"{entry.actor}, who wrote it,"
            known[partitions[stream]].see(who, offset + i, stream, number + i)
    for entry in kinds.get("got", ()):
        for i in range(1, len(entry.fields), 5):
            offset, stream, number, count = entry.ints(i + 1, i + 5)
            for k in range(count):
                known[entry.fields[i]].see(entry.fields[0], offset + k, stream, number + k)
    for name, one in kept.items():
        for offset, stream, number in one.records:
            known[name].see("the log", offset, stream, number)
    for partition in known.values():
        for (stream, number), offset in partition.places.items():
            at = bisect_right(puts[stream], number, key=itemgetter(0)) - 1
            if at >= 0:
                _, partition.room[offset], partition.began[offset] = puts[stream][at]


# ---- what is left -----------------------------------------------------------------------------------


def check_end(one: Kept, known: Known, found: Findings) -> None:
    compacted, name = is_compacted(known.partition), known.partition
    offsets = np.array([record[0] for record in one.records], np.int64)
    present = np.zeros(one.end, bool)
    present[offsets] = True
    if (np.diff(offsets) <= 0).any() or (len(offsets) and offsets[0] < one.start):
        found.add("offset-gap", f"{name}: offsets are out of order, or below the log start {one.start}")
    for offset in known.must_be_there(one.start, one.end, compacted=compacted):
        if not present[offset]:
            stream, number = int(known.streams[offset]), int(known.numbers[offset])
            found.add("lost-write", f"{name}: {stream:x}#{number}, acknowledged at {offset}, is not there")
    if not compacted and len(offsets) != one.end - one.start:
        found.add("offset-gap", f"{name}: {len(offsets)} records from {one.start} to {one.end}")
    if compacted:
        check_resurrected(one, known, present, found)
        if one.dirty_bytes > 2 * DIRTY * one.stored_bytes + 2 * SEGMENT_BYTES:
            found.add(
                "not-tidied", f"{name}: {one.dirty_bytes} of {one.stored_bytes} bytes were never compacted"
            )
    bound = TOPICS[name.partition("/")[0]].get("retention_bytes")
    if bound is not None and one.stored_bytes > bound + 2 * SEGMENT_BYTES:
        found.add("not-tidied", f"{name}: takes {one.stored_bytes} bytes, though {bound} are enough")


def check_resurrected(one: Kept, known: Known, present: np.ndarray, found: Findings) -> None:
    """The last record of a key is a tombstone that is gone: then no older one may be there."""
    last: dict[int, int] = {}
    for offset in range(one.start, one.end):
        if known.keys[offset] >= 0:
            last[int(known.keys[offset])] = offset
    for offset in np.flatnonzero(present):
        end = last[int(known.keys[offset])]
        if known.tombstones[end] and not present[end]:
            found.add("resurrected", f"{known.partition}@{offset}: its key was deleted at {end}")


# ---- where it starts --------------------------------------------------------------------------------


def check_starts(
    kinds: Mapping[str, list[Entry]],
    kept: Mapping[str, Kept],
    known: Mapping[str, Known],
    found: Findings,
) -> None:
    cuts: dict[str, list[tuple[int, int]]] = {name: [] for name in kept}
    looks: dict[str, list[tuple[int, int, int, str]]] = {name: [] for name in kept}
    for entry in kinds.get("delete", ()):
        cuts[entry.fields[0]].append((entry.time, int(entry.fields[1])))
    for entry in kinds.get("begins", ()):
        offset, since = entry.ints(1)
        looks[entry.fields[0]].append((since, entry.time, offset, entry.actor))
    for name, one in kept.items():
        looks[name].append((NEVER, NEVER, one.start, "the log"))
        check_rising(name, looks[name], found)
        reasons = Reasons(name, known[name], cuts[name])
        for since, time, offset, actor in looks[name]:
            reasons.check(since, time, offset, actor, found)


def check_rising(name: str, looks: list[tuple[int, int, int, str]], found: Findings) -> None:
    """Who begins to look after another has seen a start sees no earlier one."""
    ended = sorted(looks, key=lambda look: look[1])
    highest, at = 0, 0
    for since, _, offset, actor in sorted(looks):
        while at < len(ended) and ended[at][1] < since:
            highest = max(highest, ended[at][2])
            at += 1
        if offset < highest:
            found.add("log-start", f"{actor}: {name} starts at {offset}, it had started at {highest}")


class Reasons:
    """Why a partition may start where it does: somebody has cut it there, it is too old, or too much."""

    def __init__(self, name: str, known: Known, cuts: list[tuple[int, int]]) -> None:
        options = TOPICS[name.partition("/")[0]]
        self.name, self.known, self.cuts = name, known, sorted(cuts)
        self.by_age = "retention" in options
        self.by_bytes = options.get("retention_bytes")
        self.youngest = np.maximum.accumulate(known.began)
        """For each offset, when the youngest record up to there was written, at the earliest."""

    def check(self, since: int, time: int, offset: int, actor: str, found: Findings) -> None:
        if offset == 0 or any(cut >= offset for when, cut in self.cuts if when <= time):
            return
        if self.by_age and (time == NEVER or self.youngest[offset - 1] + AGE_S * 1e9 <= time + SLACK_NS):
            return
        if self.by_bytes is not None and self.left(offset, time) >= self.by_bytes:
            return
        found.add("early-deletion", f"{actor}: {self.name} starts at {offset}, for no reason that there is")

    def left(self, offset: int, time: int) -> int:
        """How many bytes there can have been from there on."""
        there = self.known.began[offset:] <= time
        return int(self.known.room[offset:][there].sum())


# ---- what was read ----------------------------------------------------------------------------------


def check_reads(entries: Iterable[Entry], known: Mapping[str, Known], found: Findings) -> None:
    places: dict[tuple[str, str], int] = {}
    gaps: dict[tuple[str, str], tuple[int, int]] = {}  # of a reader: passed over, before it has said why
    for entry in entries:
        if entry.kind == "from":
            places[entry.fields[0], entry.fields[1]] = int(entry.fields[2])
            gaps.pop((entry.actor, entry.fields[1]), None)
        elif entry.kind == "begins":
            gap = gaps.pop((entry.actor, entry.fields[0]), None)
            if gap is not None:
                check_gap(entry.actor, known[entry.fields[0]], gap, int(entry.fields[1]), found)
        elif entry.kind == "got":
            for i in range(1, len(entry.fields), 5):
                partition = entry.fields[i]
                offset, _, _, count = entry.ints(i + 1, i + 5)
                place = places.get((entry.fields[0], partition), offset)
                if offset < place:
                    found.add(
                        "nonmonotonic-poll",
                        f"{entry.actor} was given {partition}@{offset} instead of @{place}",
                    )
                elif offset > place:
                    gaps[entry.actor, partition] = place, offset
                places[entry.fields[0], partition] = offset + count


def check_gap(reader: str, known: Known, gap: tuple[int, int], start: int, found: Findings) -> None:
    """A reader was not given the offsets of `gap`, and has then seen where the log starts."""
    compacted = is_compacted(known.partition)
    begin, end = max(gap[0], min(start, gap[1])), gap[1]
    missed = known.must_be_there(begin, end, compacted=compacted)
    if len(missed) or (begin < end and not compacted):
        at = int(missed[0]) if len(missed) else begin
        found.add(
            "poll-skip",
            f"{reader} was given {known.partition}@{end} instead of @{gap[0]}: {at} is passed over, though "
            f"the log starts at {start}",
        )


def check_tables(
    kinds: Mapping[str, list[Entry]],
    kept: Mapping[str, Kept],
    known: Mapping[str, Known],
    found: Findings,
) -> None:
    for entry in kinds.get("table", ()):
        topic = entry.fields[0]
        table: dict[tuple[str, int], tuple[int, int, int]] = {}
        for i in range(1, len(entry.fields), 4):
            index, _, word = entry.fields[i].partition("-key-")
            name = label(topic, int(index)) if word else label(topic, int(entry.fields[i].split("-")[1]))
            offset, stream, number = entry.ints(i + 1, i + 4)
            table[name, int(word) if word else KEYS] = offset, stream, number
        for name in kept:
            if name.startswith(topic + "/"):
                check_table(entry.actor, table, kept[name], known[name], found)


def check_table(
    who: str,
    table: Mapping[tuple[str, int], tuple[int, int, int]],
    one: Kept,
    known: Known,
    found: Findings,
) -> None:
    """Of each key the last record. What the log has lost since, the table may still have."""
    last: dict[int, int] = {}
    for offset in np.flatnonzero(known.keys >= 0):
        last[int(known.keys[offset])] = int(offset)
    for key in range(KEYS + 1):
        has, offset = table.get((known.partition, key)), last.get(key, -1)
        gone = offset < 0 or bool(known.tombstones[offset])
        if has is None:
            if not gone and offset >= one.start:
                found.add("stale-table", f"{who}: {known.partition}, key {key}, at {offset}, is not in it")
        elif has[0] != offset or gone or has[1:] != (known.streams[offset], known.numbers[offset]):
            found.add(
                "stale-table",
                f"{who}: {known.partition}, key {key}, is {has[1]:x}#{has[2]} of {has[0]}; its last is at "
                f"{offset}{', a tombstone' if gone else ''}",
            )


# ---- the logs ---------------------------------------------------------------------------------------


def read(path: str, found: Findings) -> dict[str, Kept]:
    """What there is at the end, when all that was due has been done. Nothing, where that cannot be said."""
    try:
        with pystream.open(path, maintenance=False) as store:
            return read_all(store, found) if set(TOPICS) <= set(store.topics()) else {}
    except pystream.CorruptLogError as error:
        found.add("torn-record", str(error))
        return {}


def read_all(store: pystream.Store, found: Findings) -> dict[str, Kept]:
    kept = {}
    for _, _, partition in parts(store):
        list(read_records(partition, found))  # before, too: nobody knows what the work leaves
    for problem in store.maintain().problems:
        found.add("error", f"maintain: {problem}")
    for name, index, partition in parts(store):
        start, end = partition.beginning_offset, partition.end_offset
        records = list(read_records(partition, found))
        stats = partition.stats()
        kept[label(name, index)] = Kept(start, end, records, stats.stored_bytes, stats.dirty_bytes)
    return kept


def parts(store: pystream.Store) -> Iterable[tuple[str, int, pystream.Partition]]:
    return [(name, index, store.topic(name).partition(index)) for name, index in PARTITIONS]


def read_records(partition: pystream.Partition, found: Findings) -> Iterable[tuple[int, int, int]]:
    name = label(partition.topic, partition.index)
    try:
        for record in partition.records():
            made = identify(record)
            if made is None:
                found.add("torn-record", f"{name}@{record.offset}")
            else:
                yield record.offset, *made
    except pystream.CorruptLogError as error:
        found.add("torn-record", f"{name}: {error}")
