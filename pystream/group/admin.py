"""A consumer group from outside: who is in it, how far it is, and setting it elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from pystream import metadata
from pystream import options as opt
from pystream.errors import GroupNotEmptyError, GroupNotFoundError, OptionError
from pystream.group.documents import Committed, Key, State
from pystream.group.offsets import SAVE_PATIENCE_S, save_in_time
from pystream.group.shared import Gone, SharedGroup, finish_deletion
from pystream.group.sharing import follow_names, is_dead
from pystream.places import OffsetAndMetadata, TopicPartition

if TYPE_CHECKING:
    from pystream.partition import Partition, Position
    from pystream.store import Store

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class MemberDescription:
    """A member of a group."""

    member_id: str
    """16 hexadecimal digits."""
    client: str
    """What the consumer was called by `client=`, else its program."""
    pid: int
    """Its process."""
    alive: bool
    """Whether it lives; one that does not is taken out when another member next looks."""
    topics: tuple[str, ...]
    """What it subscribes to; empty where partitions are assigned by hand."""
    session_timeout: float
    """Seconds of silence after which it is put out."""
    partitions: tuple[TopicPartition, ...]
    """What it reads."""


@dataclass(frozen=True, slots=True)
class PartitionDescription:
    """How far a group is in a partition."""

    topic: str
    partition: int
    member_id: str | None
    """Who reads it; None: nobody."""
    pid: int | None
    committed: int | None
    """The offset up to which everything is done; None: nothing was committed yet."""
    metadata: str
    committed_at: datetime | None
    """When that was committed, UTC; of an offset that moves with its consumer, now."""
    durable: bool
    """Whether the committed offset would survive a power failure."""
    beginning_offset: int | None
    """None: the topic was deleted."""
    end_offset: int | None
    lag: int | None
    """Offsets between the committed one (or the beginning) and the end."""


@dataclass(frozen=True, slots=True)
class GroupDescription:
    """A group at one moment."""

    name: str
    state: str
    """"empty"; "stable": each partition is read by who is to read it; "rebalancing": not yet."""
    generation: int
    """How often partitions were shared out."""
    assignor: str
    members: tuple[MemberDescription, ...]
    partitions: tuple[PartitionDescription, ...]


class Group:
    """A consumer group of a store. Made by `Store.group`; holds nothing open between calls."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._name = name
        self._open()

    @property
    def name(self) -> str:
        """Its name."""
        return self._name

    def _open(self) -> SharedGroup:
        self._store._check()
        return SharedGroup(self._store._handle, self._store.path, self._name, create=False)

    def _gone(self) -> GroupNotFoundError:
        return GroupNotFoundError(f"consumer group {self._name!r} was deleted")

    def describe(self) -> GroupDescription:
        """Its members, and how far it is in each partition that it reads or has read.

        Raises:
            GroupNotFoundError: it was deleted.
            ClosedError: the store is closed.
        """
        group = self._open()
        try:
            state = group.load().copy()
            follow_names(state, self._store.path)
            committed, saved = group.committed(), group.saved()
        except Gone:
            raise self._gone() from None
        alive = {member for member in state.members if (peer := group.peer(member)) and peer.alive}
        owned = {key: claim for key, claim in state.claims.items() if claim.member in state.members}
        keys = sorted(
            {*owned, *state.targets, *committed},
            key=lambda key: (state.names.get(key[0], ""), key[1], key[0]),
        )
        settled = all(key in owned and owned[key].member == target for key, target in state.targets.items())
        return GroupDescription(
            name=self._name,
            state="empty"
            if not alive
            else "stable"
            if settled and len(owned) == len(state.targets) and alive == state.members.keys()
            else "rebalancing",
            generation=state.generation,
            assignor=state.assignor,
            members=tuple(
                MemberDescription(
                    member,
                    entry.client,
                    entry.pid,
                    member in alive,
                    entry.topics,
                    entry.session_timeout_ns / 1e9,
                    tuple(
                        TopicPartition(*place)
                        for place in sorted((state.names[key[0]], key[1]) for key in state.claimed_by(member))
                    ),
                )
                for member, entry in sorted(state.members.items())
            ),
            partitions=tuple(self._partition(key, state, committed.get(key), saved.get(key)) for key in keys),
        )

    def _partition(
        self, key: Key, state: State, committed: Committed | None, saved: Committed | None
    ) -> PartitionDescription:
        claim = state.claims.get(key)
        owner = claim.member if claim is not None and claim.member in state.members else None
        there = self._find(key, state)
        beginning = there.beginning_offset if there else None
        end = there.end_offset if there else None
        offset = committed.offset if committed else None
        return PartitionDescription(
            topic=state.names.get(key[0], ""),
            partition=key[1],
            member_id=owner,
            pid=state.members[owner].pid if owner is not None else None,
            committed=offset,
            metadata=committed.metadata if committed else "",
            committed_at=_moment(committed.at) if committed else None,
            durable=committed is not None and saved is not None and saved.offset == offset,
            beginning_offset=beginning,
            end_offset=end,
            lag=None
            if end is None or beginning is None
            else max(end - (beginning if offset is None else max(offset, beginning)), 0),
        )

    def _find(self, key: Key, state: State) -> Partition | None:
        name = state.names.get(key[0])
        if name is None or not metadata.has_topic(self._store.path, name):
            return None
        topic = self._store.topic(name)
        if topic.uuid.hex != key[0] or key[1] >= topic.partitions:
            return None
        return topic.partition(key[1])

    def committed(self) -> dict[TopicPartition, OffsetAndMetadata]:
        """The committed offset of every partition that has one, and whose topic exists.

        Raises:
            GroupNotFoundError: it was deleted.
            ClosedError: the store is closed.
        """
        group = self._open()
        try:
            state, offsets = group.load().copy(), group.committed()
            follow_names(state, self._store.path)
        except Gone:
            raise self._gone() from None
        found = {}
        for key, entry in offsets.items():
            if self._find(key, state) is not None:
                place = TopicPartition(state.names[key[0]], key[1])
                found[place] = OffsetAndMetadata(entry.offset, entry.metadata, entry.epoch)
        return dict(sorted(found.items()))

    def reset(
        self,
        to: Position | None = None,
        *,
        shift: int | None = None,
        topics: str | Iterable[str] | None = None,
        partitions: Iterable[tuple[str, int]] | None = None,
        dry_run: bool = False,
    ) -> dict[TopicPartition, tuple[int | None, int]]:
        """Set committed offsets elsewhere, durably, all of them or none.

        Places beyond an end of a partition become that end.

        Args:
            to: "earliest", "latest", a moment (the first record at or after it, else the end), or an offset.
            shift: so many offsets on, or back where it is negative; of what was not committed yet, from
                the beginning. Give this or `to`.
            topics: all partitions of these; by default, all that have a committed offset.
            partitions: these, as (topic, partition).
            dry_run: only tell what would change.

        Returns:
            For each partition its offset before, None where there was none, and after.

        Raises:
            GroupNotEmptyError: a living member reads one of them.
            OptionError: neither or both of `to` and `shift`; no such partition.
            LockTimeoutError: they are set, but not durable yet, as a process that was saving them is stopped.
            TopicNotFoundError, GroupNotFoundError: it does not exist.
            ReadOnlyError: the store was opened to read only.
        """
        if (to is None) == (shift is None):
            raise OptionError("give either to= or shift=: where to, or how far")
        number = None if shift is None else opt.parse_int("shift", shift)
        if not opt.parse_flag("dry_run", dry_run):
            self._store._check_writable()
        group = self._open()
        try:
            places = self._places(group, topics, partitions)
        except Gone:
            raise self._gone() from None
        try:
            changes = self._reset_to(group, places, to, number, dry_run)
            if not dry_run:
                save_in_time(group, SAVE_PATIENCE_S)
        except Gone:
            raise self._gone() from None
        return changes

    def _places(
        self,
        group: SharedGroup,
        topics: str | Iterable[str] | None,
        partitions: Iterable[tuple[str, int]] | None,
    ) -> dict[Key, Partition]:
        chosen: list[Partition] = []
        for name in _several("topics", topics):
            topic = self._store.topic(name)
            chosen += [topic.partition(index) for index in range(topic.partitions)]
        for given in _several("partitions", partitions):
            if not isinstance(given, tuple) or len(given) not in (2, 3):
                raise TypeError(f"partitions= must be a list of (topic, partition); it has {given!r} in it")
            chosen.append(self._store.topic(given[0]).partition(given[1]))
        if topics is None and partitions is None:
            state = group.load().copy()
            follow_names(state, self._store.path)
            found = [self._find(key, state) for key in {*group.committed(), *state.targets}]
            chosen = [partition for partition in found if partition is not None]
        return {(where._topic.uuid.hex, where.index): where for where in chosen}

    def _reset_to(
        self,
        group: SharedGroup,
        places: dict[Key, Partition],
        to: Position | None,
        shift: int | None,
        dry_run: bool,
    ) -> dict[TopicPartition, tuple[int | None, int]]:
        changes: dict[TopicPartition, tuple[int | None, int]] = {}
        epochs = {key: where._log().leader_epoch for key, where in places.items()}

        def edit(state: State) -> bool:
            changes.clear()
            if not dry_run:
                group.remove_members(state, [member for member in state.members if is_dead(group, member)])
            self._refuse_owned(state, places)
            committed = group.committed() if dry_run else state.committed
            for key, where in places.items():
                before = committed.get(key)
                old = before.offset if before else None
                if to is not None:
                    wanted = where._resolve("to", to)
                else:
                    wanted = (where.beginning_offset if old is None else old) + (shift or 0)
                new = min(max(wanted, where.beginning_offset), where.end_offset)
                changes[TopicPartition(where.topic, where.index)] = old, new
                state.committed[key] = Committed(new, epochs[key], "", time.time_ns())
                state.names[key[0]] = where.topic
            return not dry_run and bool(places)

        if dry_run:
            edit(group.load().copy())
        else:
            group.change(edit)
        return dict(sorted(changes.items()))

    def _refuse_owned(self, state: State, places: dict[Key, Partition]) -> None:
        for key, where in places.items():
            claim = state.claims.get(key)
            if claim is not None and claim.member in state.members:
                raise GroupNotEmptyError(
                    f"{where.topic!r}/{where.index} is read by a member of group {self._name!r}, in process "
                    f"{state.members[claim.member].pid}; its consumers must be closed first",
                    topic=where.topic,
                    partition=where.index,
                )

    def delete(self) -> None:
        """Delete the group with its committed offsets.

        Raises:
            GroupNotEmptyError: it has living members.
            GroupNotFoundError: it was deleted.
            ReadOnlyError: the store was opened to read only.
        """
        self._store._check_writable()
        group = self._open()

        def edit(state: State) -> bool:
            group.remove_members(state, [member for member in state.members if is_dead(group, member)])
            if state.members:
                pids = ", ".join(sorted({str(entry.pid) for entry in state.members.values()}))
                raise GroupNotEmptyError(
                    f"group {self._name!r} has members, in processes {pids}; its consumers must be closed "
                    "first"
                )
            state.deleted = True
            return True

        try:
            group.change(edit)
        except Gone:
            raise self._gone() from None
        with metadata.storage_errors(group.path):
            finish_deletion(group)

    def __repr__(self) -> str:
        return f"<pystream.Group {self._name!r} of {self._store.path!r}>"


def _several(name: str, given: str | Iterable[T] | None) -> Iterable[str | T]:
    if given is not None and not isinstance(given, Iterable):
        raise TypeError(f"{name}= must be a list, not {type(given).__name__}")
    return (given,) if isinstance(given, str) else given or ()


def _moment(at: int) -> datetime:
    return datetime.fromtimestamp(at / 1e9, UTC)
