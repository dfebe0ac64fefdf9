"""What is wrong with the history of a group. Entries that only members write:

    assigned MEMBER GENERATION auto|manual (PARTITION PLACE)...   it reads these from now on
    revoked MEMBER PARTITION... / lost MEMBER PARTITION...        it does not any more
    commit MEMBER BEGAN (PARTITION OFFSET)...                     was accepted
    refused MEMBER (PARTITION OFFSET)...                          was not: the member was fenced
    observed PARTITION OFFSET                                     what is committed, as others see it

and the anomalies:

    two-owners      a partition is given to one while another has it who was not silent, or who reads on
    fenced-commit   a commit was accepted after the partition had gone to another member
    lost-commit     an accepted commit is not what the next owner begins at, or goes back
    lost-delivery   a record below the committed offset was given to nobody
    generation      the generation goes back for a member
    stall           a dead member's partition goes to nobody, though there are others
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Final

import numpy as np

from .checker import Excuses, Findings, Logs, by_kind, lateness, stops_of
from .history import Entry

SILENCE_NS: Final = 800_000_000
"""Who does nothing for so long may have been fenced, for a session of 1 s."""
HANDOVER_NS_MAX: Final = 3_000_000_000


class Tenure:
    """A member's time with a partition."""

    def __init__(self, entry: Entry, member: str, partition: str) -> None:
        self.actor, self.member, self.partition = entry.actor, member, partition
        self.begin = entry.time
        self.end = 1 << 62
        self.how = "alive"
        self.asked: list[int] = []  # when it was given records
        self.commits: list[int] = []  # when those that were accepted began

    def close(self, time: int, how: str) -> None:
        if self.end > time:
            self.end, self.how = time, how

    @property
    def hollow(self) -> bool:
        """Lost before anything was read: who is stopped between taking it and hearing of it hears late."""
        return self.how == "lost" and not self.asked and not self.commits


class Group:
    """Tenures and commits, found in one pass over the entries of each actor."""

    def __init__(self, entries: Iterable[Entry], found: Findings) -> None:
        self.found = found
        self.tenures: dict[str, list[Tenure]] = defaultdict(list)
        self.commits: list[tuple[int, str, int, str]] = []  # (ended, partition, offset, member)
        self.begins: list[tuple[Tenure, int]] = []  # and the place
        self.open: dict[tuple[str, str], Tenure] = {}
        self.automatic: set[str] = set()
        self.asked: dict[str, tuple[int, dict[str, int]]] = {}
        self.generations: dict[str, int] = {}
        self.committing: dict[str, list[tuple[int, int]]] = defaultdict(list)  # by actor: it asks for nothing
        for entry in entries:
            handle = getattr(self, f"on_{entry.kind}", None)
            if handle is not None:
                handle(entry)

    def on_assigned(self, entry: Entry) -> None:
        member, generation, how = entry.fields[:3]
        if int(generation) < self.generations.get(entry.actor, 0):
            self.found.add(
                "generation", f"{entry.actor} was in {self.generations[entry.actor]}, now {generation}"
            )
        self.generations[entry.actor] = int(generation)
        if how == "auto":
            self.automatic.add(member)
        for partition, place in zip(entry.fields[3::2], entry.fields[4::2], strict=True):
            tenure = self.open[member, partition] = Tenure(entry, member, partition)
            self.tenures[partition].append(tenure)
            self.begins.append((tenure, int(place)))

    def on_revoked(self, entry: Entry) -> None:
        if entry.kind == "revoked":  # which it hears of when it asks
            self.settle(entry.fields[0], entry.time)
        for partition in entry.fields[1:]:
            tenure = self.open.pop((entry.fields[0], partition), None)
            if tenure is not None:
                tenure.close(entry.time, entry.kind)

    on_lost = on_revoked

    def on_commit(self, entry: Entry) -> None:
        member, began = entry.fields[0], int(entry.fields[1])
        self.committing[entry.actor].append((began, entry.time))
        for partition, offset in zip(entry.fields[2::2], entry.fields[3::2], strict=True):
            self.commits.append((entry.time, partition, int(offset), member))
            tenure = self.open.get((member, partition))
            if tenure is not None:
                tenure.commits.append(began)

    def on_seen(self, entry: Entry) -> None:
        """A request for more, which commits what was given before if the member commits by itself."""
        member = entry.fields[0]
        given: dict[str, int] = {}
        for i in range(1, len(entry.fields), 5):
            offset, count = int(entry.fields[i + 1]), int(entry.fields[i + 4])
            given[entry.fields[i]] = offset + count
            tenure = self.open.get((member, entry.fields[i]))
            if tenure is not None:
                tenure.asked.append(entry.time)
        if member in self.automatic:
            self.settle(member, entry.time)
            self.asked[member] = entry.time, given

    def settle(self, member: str, time: int) -> None:
        """What it was given last is committed, as it commits by itself and has asked for more."""
        since, given = self.asked.pop(member, (0, {}))
        if time - since < SILENCE_NS:  # else it may have been fenced in between
            self.commits += [(time, partition, offset, member) for partition, offset in given.items()]


def check(entries: list[Entry], logs: Logs, committed: Mapping[str, int], found: Findings) -> int:
    """Name what is wrong. Returns the median of the hand-overs after a death, in ms; -1: there was none."""
    kinds = by_kind(entries)
    group = Group(entries, found)
    deaths = {e.fields[0]: e.time for kind in ("end", "kill") for e in kinds.get(kind, ())}
    for tenures in group.tenures.values():
        for tenure in tenures:
            if tenure.actor in deaths:
                tenure.close(deaths[tenure.actor], "dead")
        tenures.sort(key=lambda tenure: tenure.begin)
    check_owners(group, kinds, found)
    check_commits(group, kinds, committed, found)
    check_deliveries(kinds, logs, committed, found)
    return check_handovers(group, kinds, found)


def check_owners(group: Group, kinds: Mapping[str, list[Entry]], found: Findings) -> None:
    stops, late = stops_of(kinds), lateness(kinds)
    silences = {
        actor: Excuses(stops.get(actor, []) + group.committing[actor] + late)
        for actor in stops.keys() | group.committing.keys()
    }
    busy = Excuses(late)
    for partition, tenures in group.tenures.items():
        for i in range(1, len(tenures)):
            heir = tenures[i]
            if heir.hollow:
                continue
            for owner in tenures[max(0, i - 8) : i]:
                if owner.end <= heir.begin or owner.member == heir.member:
                    continue
                who = f"{partition} went from {owner.actor} ({owner.member}) to {heir.actor} ({heir.member})"
                silent = silences.get(owner.actor, busy)
                if silent.longest_without(heir.begin - SILENCE_NS, heir.begin) > SILENCE_NS // 2:
                    found.add(
                        "two-owners", f"{who}, though the former had neither given it up nor been silent"
                    )
                if sum(time > heir.begin for time in owner.asked) > 1:
                    found.add("two-owners", f"{who}, and the former read on")
                if any(began > heir.begin for began in owner.commits):
                    found.add("fenced-commit", f"{who}, and the former has committed since")


def check_commits(
    group: Group, kinds: Mapping[str, list[Entry]], committed: Mapping[str, int], found: Findings
) -> None:
    highest: dict[str, tuple[int, str]] = {}
    events = [(*commit, True) for commit in group.commits] + [
        (tenure.begin, tenure.partition, place, tenure.member, False)
        for tenure, place in group.begins
        if not tenure.hollow
    ]
    for _, partition, offset, member, is_commit in sorted(events):
        most, who = highest.get(partition, (0, ""))
        if is_commit:
            if offset > most:
                highest[partition] = offset, member
        elif offset < most:
            found.add("lost-commit", f"{member} begins {partition} at {offset}; {who} had committed {most}")
    for partition, (most, who) in highest.items():
        if committed.get(partition, 0) < most:
            found.add(
                "lost-commit",
                f"{partition}: {committed.get(partition)} is committed at the end; {who} had {most}",
            )
    last: dict[tuple[str, str], int] = {}
    for entry in kinds.get("observed", ()):
        key, offset = (entry.actor, entry.fields[0]), int(entry.fields[1])
        if offset < last.get(key, 0):
            found.add("lost-commit", f"{entry.actor} saw {key[1]} go back from {last[key]} to {offset}")
        last[key] = offset


def check_deliveries(
    kinds: Mapping[str, list[Entry]], logs: Logs, committed: Mapping[str, int], found: Findings
) -> None:
    given = {partition: np.zeros(len(logs[partition]) + 1, np.int64) for partition in committed}
    members = {entry.fields[0] for entry in kinds.get("assigned", ())}
    for entry in kinds.get("seen", ()):
        if entry.fields[0] in members:
            for i in range(1, len(entry.fields), 5):
                marks = given.get(entry.fields[i])
                offset, count = int(entry.fields[i + 1]), int(entry.fields[i + 4])
                if marks is not None and offset + count < len(marks):
                    marks[offset] += 1
                    marks[offset + count] -= 1
    for partition, marks in given.items():
        if committed[partition] > len(logs[partition]):
            found.add("lost-delivery", f"{partition}: {committed[partition]} is committed, beyond its end")
        missed = np.flatnonzero(np.cumsum(marks)[: min(committed[partition], len(logs[partition]))] == 0)
        if len(missed):
            found.add(
                "lost-delivery",
                f"{partition}: {len(missed)} records below {committed[partition]} went to nobody, from "
                f"{missed[0]} on",
            )


def check_handovers(group: Group, kinds: Mapping[str, list[Entry]], found: Findings) -> int:
    """After a death, the next owner comes soon, unless it is somebody else who is stopped."""
    excuses = Excuses([span for spans in stops_of(kinds).values() for span in spans] + lateness(kinds))
    took = []
    for partition, tenures in group.tenures.items():
        for owner, heir in pairwise(tenures):
            if owner.how != "dead" or heir.begin < owner.end:
                continue
            took.append(heir.begin - owner.end)
            if excuses.longest_without(owner.end, heir.begin) > HANDOVER_NS_MAX:
                seconds = (heir.begin - owner.end) / 1e9
                found.add(
                    "stall", f"{partition} went to nobody for {seconds:.1f} s after {owner.actor} had died"
                )
    return round(float(np.median(took)) / 1e6) if took else -1
