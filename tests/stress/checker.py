"""What is wrong with a history, in linear time. The names are Jepsen's for Kafka, where it has one.

lost-write             acknowledged, and not in the log
duplicate              in the log twice
aborted-write          refused, and in the log all the same
reordered              a producer's later record stands before an earlier one
inconsistent-offsets   two values for one offset: acknowledged or read as one, in the log another
offset-gap             an offset without a record
poll-skip              a reader was not given a record that lies between two that it was given
nonmonotonic-poll      a reader was given a record again, or an earlier one
unseen                 a reader ended before the end
torn-record            bytes that nobody wrote, or an error that says so
foreign-record         a record that nobody sent there
intruder               a record among those of one who held the partition alone
stall                  a wait that nothing and nobody was the reason of: a lost wake-up, a lock kept
hang, crash, error     a process that does not end, ended by itself, or met an exception it should not
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from .history import Entry

Ints = npt.NDArray[np.int64]

SLICE_NS: Final = 1_000_000_000
"""An unwoken sleeper looks again after so long (the documented second)."""
SLICE_SLACK_NS: Final = 100_000_000
"""A wait whose length is a whole number of slices, and at most this, was ended by its slice."""
WAKE_NS_MAX: Final = 250_000_000
"""It was woken late if the record had been acknowledged for this long when it ended."""
APPEND_NS_MAX: Final = 2_500_000_000
"""An append may take this long when nobody was stopped, held the partition or kept the machine busy."""
PADDING_NS: Final = 300_000_000
"""What held a process up is an excuse for this long after it was over."""
TORN = -1
"""Stream of a record that is none."""


class Anomaly(NamedTuple):
    kind: str
    text: str


class Log:
    """A partition as it is at the end: stream and number of the record at each offset."""

    def __init__(self, streams: Iterable[int], numbers: Iterable[int]) -> None:
        self.streams: Ints = np.asarray(streams, np.int64)
        self.numbers: Ints = np.asarray(numbers, np.int64)
        breaks = np.ones(len(self.streams), bool)
        breaks[1:] = (np.diff(self.streams) != 0) | (np.diff(self.numbers) != 1)
        run = np.cumsum(breaks) - 1
        ends = np.append(np.flatnonzero(breaks)[1:], len(self.streams))
        self.run_ends: Ints = ends[run] if len(run) else run
        """For each offset, where the run of consecutive numbers that it is in ends."""

    def __len__(self) -> int:
        return len(self.streams)

    def name(self, offset: int) -> str:
        if not 0 <= offset < len(self):
            return "nothing"
        return f"{self.streams[offset]:x}#{self.numbers[offset]}"

    def has_run(self, offset: int, stream: int, number: int, count: int) -> bool:
        return (
            offset >= 0
            and offset + count <= len(self)
            and self.streams[offset] == stream
            and self.numbers[offset] == number
            and bool(self.run_ends[offset] >= offset + count)
        )


Logs = Mapping[str, Log]


class Excuses:
    """Times at which something outside the library held processes up."""

    def __init__(self, spans: Iterable[tuple[int, int]]) -> None:
        merged: list[list[int]] = []
        for begin, end in sorted(spans):
            if merged and begin <= merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], end)
            else:
                merged.append([begin, end])
        self.begins: Ints = np.array([span[0] for span in merged], np.int64)
        self.ends: Ints = np.array([span[1] for span in merged], np.int64)

    def longest_without(self, begin: int, end: int) -> int:
        """The longest stretch of [begin, end] without an excuse, in ns."""
        first, last = np.searchsorted(self.ends, begin, "right"), np.searchsorted(self.begins, end, "left")
        longest, at = 0, begin
        for i in range(int(first), int(last)):
            longest = max(longest, int(self.begins[i]) - at)
            at = int(self.ends[i])
        return max(longest, end - at)


class Findings:
    """Anomalies as they are found; of each kind the first few in words, all of them counted."""

    SHOWN = 10

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.anomalies: list[Anomaly] = []

    def add(self, kind: str, text: str) -> None:
        self.counts[kind] += 1
        if self.counts[kind] <= self.SHOWN:
            self.anomalies.append(Anomaly(kind, text))

    def add_all(self, others: Findings) -> None:
        self.counts += others.counts
        self.anomalies += others.anomalies


def by_kind(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """The entries of each kind in order; under "reads" those of which the order among kinds matters, too."""
    found: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        found[entry.kind].append(entry)
        if entry.kind in ("open", "seen", "done"):
            found["reads"].append(entry)
    return found


def check(entries: Iterable[Entry], logs: Logs) -> Findings:
    """Compare histories with the logs at the end, and with themselves."""
    kinds, found = by_kind(entries), Findings()
    check_processes(kinds, found)
    check_writes(kinds, logs, found)
    check_reads(kinds, logs, found)
    check_waits(kinds, logs, found)
    return found


def check_processes(kinds: Mapping[str, list[Entry]], found: Findings) -> None:
    for kind, name in (("hang", "hang"), ("torn", "torn-record"), ("error", "error")):
        for entry in kinds.get(kind, ()):
            found.add(name, f"{entry.actor}: {entry.text()}")
    killed = {entry.fields[0] for entry in kinds.get("kill", ())}
    killed |= {entry.actor for entry in kinds.get("armed", ())}
    for entry in kinds.get("end", ()):
        name, code = entry.fields
        if code != "0" and not (code == "-9" and name in killed):
            found.add("crash", f"{name} ended with {code}")


# ---- what was written -----------------------------------------------------------------------------


class Sent:
    """Every number of every stream has a place in one array: where in the log it is, -1 when it is not."""

    def __init__(self, sends: Iterable[Entry]) -> None:
        self.partitions: dict[int, str] = {}
        self.counts: dict[int, int] = {}
        for entry in sends:
            stream = int(entry.fields[0])
            self.partitions[stream] = entry.fields[1]
            number, count = entry.ints(2)
            self.counts[stream] = max(self.counts.get(stream, 0), number + count)
        self.total = 0
        self.bases: dict[int, int] = {}
        for stream, count in self.counts.items():
            self.bases[stream] = self.total
            self.total += count
        self.offsets: Ints = np.full(self.total, -1, np.int64)

    def of(self, stream: int, number: int, count: int) -> Ints | None:
        """Their offsets; None for numbers that were never sent."""
        if number + count > self.counts.get(stream, 0):
            return None
        base = self.bases[stream] + number
        return self.offsets[base : base + count]


def check_writes(kinds: Mapping[str, list[Entry]], logs: Logs, found: Findings) -> None:
    sent = Sent(kinds.get("send", ()))
    for partition, log in logs.items():
        _place(partition, log, sent, found)
    for stream, base in sent.bases.items():
        offsets = sent.offsets[base : base + sent.counts[stream]]
        numbers = np.flatnonzero(offsets >= 0)
        for i in np.flatnonzero(np.diff(offsets[numbers]) < 0)[: Findings.SHOWN]:
            found.add(
                "reordered",
                f"{sent.partitions[stream]}: {stream:x}#{numbers[i + 1]} stands before #{numbers[i]}",
            )
    for entry in kinds.get("ack", ()):
        stream, number, count, offset = entry.ints(0, 4)
        offsets_or_none = sent.of(stream, number, count)
        if offsets_or_none is None:
            found.add("error", f"{entry.actor} acknowledges {stream:x}#{number}, which it has not sent")
            continue
        place = f"{sent.partitions[stream]}: {stream:x}#{number} (+{count}), acknowledged"
        if (offsets_or_none < 0).any():
            found.add("lost-write", f"{place} at {offset}, is not there")
        elif offset >= 0 and (offsets_or_none != np.arange(offset, offset + count)).any():
            found.add("inconsistent-offsets", f"{place} at {offset}, stands at {offsets_or_none[0]}")
    for entry in kinds.get("fail", ()):
        stream, number, count = entry.ints(0, 3)
        refused = sent.of(stream, number, count)
        if refused is not None and (refused >= 0).any():
            found.add("aborted-write", f"{stream:x}#{number} (+{count}) was refused: {entry.text(3)}")
    for entry in kinds.get("alone", ()):
        stream, begin, end = entry.ints()
        partition = sent.partitions[stream]
        if (logs[partition].streams[begin:end] != stream).any():
            found.add("intruder", f"{partition}: not all of {begin} to {end} is {stream:x}'s, who held it")


def _place(partition: str, log: Log, sent: Sent, found: Findings) -> None:
    """Find each record of a log among those sent; note its offset there."""
    streams, inverse = np.unique(log.streams, return_inverse=True)
    known = [sent.partitions.get(int(stream)) == partition for stream in streams]
    bases = np.array([sent.bases.get(int(stream), 0) for stream in streams], np.int64)[inverse]
    limits = np.array(
        [sent.counts[int(s)] if k else 0 for s, k in zip(streams, known, strict=True)], np.int64
    )[inverse]
    ours = (log.numbers >= 0) & (log.numbers < limits)
    for offset in np.flatnonzero(~ours)[: Findings.SHOWN]:
        torn = log.streams[offset] == TORN
        found.add(
            "torn-record" if torn else "foreign-record",
            f"{partition}@{offset} is {'no record' if torn else log.name(int(offset))}",
        )
    offsets = np.flatnonzero(ours)
    places = (bases + log.numbers)[offsets]
    for place in np.flatnonzero(np.bincount(places, minlength=sent.total) > 1)[: Findings.SHOWN]:
        where = offsets[places == place]
        found.add("duplicate", f"{partition}: {log.name(int(where[0]))} at {where.tolist()}")
    sent.offsets[places[::-1]] = offsets[::-1]  # the first of duplicates


# ---- what was read --------------------------------------------------------------------------------


def check_reads(kinds: Mapping[str, list[Entry]], logs: Logs, found: Findings) -> None:
    places: dict[tuple[str, str], int] = {}  # (reader, partition): the offset that it is to be given next
    for entry in kinds.get("reads", ()):
        reader = entry.fields[0]
        if entry.kind == "open":
            places[reader, entry.fields[1]] = int(entry.fields[2])
        elif entry.kind == "done":
            partition = entry.fields[1]
            if places[reader, partition] != len(logs[partition]):
                place = places[reader, partition]
                found.add("unseen", f"{reader} ended at {partition}@{place}, not @{len(logs[partition])}")
        else:
            for i in range(1, len(entry.fields), 5):
                partition = entry.fields[i]
                offset, stream, number, count = entry.ints(i + 1, i + 5)
                place = places.get((reader, partition), offset)
                if offset != place:
                    kind = "poll-skip" if offset > place else "nonmonotonic-poll"
                    found.add(kind, f"{reader} was given {partition}@{offset} instead of @{place}")
                if not logs[partition].has_run(offset, stream, number, count):
                    found.add(
                        "inconsistent-offsets",
                        f"{reader} was given {stream:x}#{number} (+{count}) at {partition}@{offset}, where "
                        f"the log has {logs[partition].name(offset)}",
                    )
                places[reader, partition] = offset + count


# ---- how long it took -----------------------------------------------------------------------------


def stops_of(kinds: Mapping[str, list[Entry]]) -> dict[str, list[tuple[int, int]]]:
    """When each process was stopped; a death ends it, too."""
    spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
    since: dict[str, int] = {}
    events = [e for kind in ("stop", "resume", "kill") for e in kinds.get(kind, ())]
    for entry in sorted(events, key=lambda entry: entry.time):
        name = entry.fields[0]
        if entry.kind == "stop":
            since[name] = entry.time
        elif name in since:
            spans[name].append((since.pop(name), entry.time + PADDING_NS))
    for name, begin in since.items():
        spans[name].append((begin, 1 << 62))
    return spans


def lateness(kinds: Mapping[str, list[Entry]]) -> list[tuple[int, int]]:
    """When the machine was so busy that the conductor itself came late."""
    return [(int(entry.fields[0]), entry.time + PADDING_NS) for entry in kinds.get("late", ())]


def holds_of(kinds: Mapping[str, list[Entry]]) -> dict[str, list[tuple[int, int]]]:
    """When each partition was held for exclusive writing by a process that was alive."""
    deaths = {entry.fields[0]: entry.time for entry in kinds.get("end", ())}
    deaths |= {entry.fields[0]: entry.time for entry in kinds.get("kill", ())}
    spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
    since: dict[tuple[str, str], int] = {}
    events = [*kinds.get("hold", ()), *kinds.get("release", ())]
    for entry in sorted(events, key=lambda entry: entry.time):
        key = entry.actor, entry.fields[0]
        if entry.kind == "hold":
            since[key] = entry.time
        elif key in since:
            spans[entry.fields[0]].append((since.pop(key), entry.time + PADDING_NS))
    for (actor, partition), begin in since.items():
        spans[partition].append((begin, deaths.get(actor, begin) + PADDING_NS))
    return spans


def check_waits(kinds: Mapping[str, list[Entry]], logs: Logs, found: Findings) -> None:
    stops, late, holds = stops_of(kinds), lateness(kinds), holds_of(kinds)
    everyones = [span for spans in stops.values() for span in spans] + late
    excuses: dict[str, Excuses] = {p: Excuses(everyones + holds[p]) for p in logs}
    partitions = {int(entry.fields[0]): entry.fields[1] for entry in kinds.get("send", ())}
    acked: dict[str, Ints] = {p: np.full(len(log), 1 << 62, np.int64) for p, log in logs.items()}
    for entry in kinds.get("ack", ()):
        stream, number, count, offset, began, ended = entry.ints()
        partition = partitions.get(stream)
        if partition is None:
            continue
        if offset >= 0:
            acked[partition][offset : offset + count] = ended
        took = ended - began
        if took > APPEND_NS_MAX and excuses[partition].longest_without(began, ended) > APPEND_NS_MAX:
            found.add(
                "stall",
                f"{entry.actor} took {took / 1e9:.1f} s to write {stream:x}#{number} to {partition}, though "
                "nobody alive was in its way",
            )
    for entry in kinds.get("waited", ()):
        reader, partition = entry.fields[:2]
        offset, began, ended = entry.ints(2)
        if offset >= len(acked[partition]):
            continue  # it is not in the log: said elsewhere
        over = (ended - began) % SLICE_NS
        late_by = ended - max(began, int(acked[partition][offset]))
        mine = Excuses(stops.get(entry.actor, []) + late)
        if (
            ended - began >= SLICE_NS
            and over < SLICE_SLACK_NS
            and late_by > WAKE_NS_MAX
            and mine.longest_without(began, ended) == ended - began
        ):
            found.add(
                "stall",
                f"{reader} slept {(ended - began) / 1e9:.3f} s on {partition}@{offset}, which had been "
                f"there for the last {late_by / 1e9:.3f} s",
            )
