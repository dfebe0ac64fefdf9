"""What a group's state becomes when members or topics come and go."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from pystream import metadata
from pystream.errors import (
    OptionError,
    PartitionOwnedError,
    PystreamError,
    TopicDeletedError,
    TopicRenamedError,
)
from pystream.group.assignors import assign
from pystream.group.documents import Key, State, Subscribed

if TYPE_CHECKING:
    from pystream.group.settings import GroupOptions
    from pystream.group.shared import SharedGroup
    from pystream.topic import Topic

_log = logging.getLogger("pystream.group")


class Lookout:
    """Finds members that are dead, or that live but have been silent for longer than they may."""

    def __init__(self) -> None:
        self._activity: dict[str, tuple[int, int]] = {}  # what it was, and since when (monotonic, ns)

    def find_dead(self, group: SharedGroup, state: State, but: str) -> set[str]:
        """The members of a state, other than `but`, to be taken out.

        Silence is counted from when it was first noticed here, so that whoever has only just come, or was
        stopped itself, finds nobody guilty at once.
        """
        now = time.monotonic_ns()
        gone = set()
        for member, entry in state.members.items():
            if member == but:
                continue
            peer = group.peer(member)
            if peer is None or is_dead(group, member):
                gone.add(member)
                continue
            activity = peer.activity
            before = self._activity.get(member)
            if before is None or before[0] != activity:
                self._activity[member] = activity, now
            elif now - before[1] > entry.session_timeout_ns:
                _log.warning(
                    "group %r: member %s (process %d) was silent for longer than its session_timeout, "
                    "and is put out",
                    group.name,
                    member,
                    entry.pid,
                )
                gone.add(member)
        for member in self._activity.keys() - state.members.keys():
            del self._activity[member]
        return gone


def this_process() -> tuple[int, int]:
    """Our pid, and which numbering of processes it belongs to."""
    return os.getpid(), os.stat("/proc/self/ns/pid").st_ino


def is_dead(group: SharedGroup, member: str) -> bool:
    """Whether a member's process, or its consumer, has ended, or it was fenced."""
    peer = group.peer(member)
    with metadata.storage_errors(group.path):
        return peer is None or peer.is_fenced or not peer.alive


def other_processes(state: State) -> frozenset[int]:
    """Those of members, but for this one, that can be seen from here."""
    pid, space = this_process()
    return frozenset(
        entry.pid for entry in state.members.values() if entry.pid != pid and entry.pid_space == space
    )


def follow_names(state: State, store_path: str) -> None:
    """Bring the names of topics that were renamed up to date, in a state that was loaded."""
    stale = set()
    for uuid, name in state.names.items():
        with suppress(PystreamError):
            found = metadata.read_topic(store_path, name)
            if found is None or found[0].uuid.hex != uuid:
                stale.add(uuid)
    if not stale:
        return
    for name in metadata.list_topics(store_path):
        with suppress(PystreamError):
            found = metadata.read_topic(store_path, name)
            if found is not None and found[0].uuid.hex in stale:
                state.names[found[0].uuid.hex] = name


def topic_deleted(name: str, topic: Topic | None = None) -> TopicDeletedError:
    """What a member hears whose topic went."""
    now = topic and metadata.find_topic(topic._store.path, topic.uuid)
    if now:
        renamed = TopicRenamedError(
            f"topic {name!r} was renamed to {now!r}; subscribe or assign anew to go on with it", topic=name
        )
        renamed.new_name = now
        return renamed
    return TopicDeletedError(
        f"topic {name!r} was deleted; subscribe or assign anew to go on without it", topic=name
    )


def catalog(state: State, store_path: str) -> dict[str, Subscribed]:
    """The topics that members subscribe to, as they are now."""
    found = {}
    for name in sorted({name for entry in state.members.values() for name in entry.topics}):
        topic = metadata.read_topic(store_path, name)
        if topic is not None:
            found[name] = Subscribed(topic[0].uuid.hex, topic[1].partitions)
    return found


def share_out(state: State, store_path: str) -> None:
    """Begin a generation: who is there is to read all that is subscribed to."""
    state.generation += 1
    state.topics = catalog(state, store_path)
    state.names.update({topic.uuid: name for name, topic in state.topics.items()})
    by_hand = {key: member for key, member in state.targets.items() if member in state.members}
    if any(entry.static for entry in state.members.values()):
        state.targets = by_hand
        return
    owners = {**by_hand, **{key: claim.member for key, claim in state.claims.items()}}
    owned = {
        (name, key[1]): owner
        for key, owner in owners.items()
        if (name := state.names.get(key[0])) in state.topics and state.topics[name].uuid == key[0]
    }
    shares = assign(
        state.assignor,
        {member: entry.topics for member, entry in state.members.items()},
        {name: topic.partitions for name, topic in state.topics.items()},
        owned,
    )
    state.targets = {(state.topics[name].uuid, index): member for (name, index), member in shares.items()}


def check_company(state: State, but: str, options: GroupOptions, *, is_static: bool) -> None:
    """Raise OptionError where the members of a state other than `but` do it in another way than it is to."""
    for member, entry in state.members.items():
        if member == but:
            continue
        if entry.static != is_static:
            theirs = "assign partitions by hand" if entry.static else "subscribe to topics"
            raise OptionError(
                f"group {options.name!r}: its members (one in process {entry.pid}) {theirs}; all must do "
                "the same"
            )
        if not is_static and state.assignor != options.assignor:
            raise OptionError(
                f"assignor={options.assignor!r}: the members of group {options.name!r} (one in process "
                f"{entry.pid}) use {state.assignor!r}; all must use the same"
            )


def target_by_hand(state: State, member: str, wanted: Mapping[Key, str], group_name: str) -> None:
    """Give a member these partitions (topics' names by partition), and no others.

    Raises:
        PartitionOwnedError: another one has one of them.
    """
    for key, name in wanted.items():
        claim = state.claims.get(key)
        owner = state.targets.get(key) or (claim.member if claim else member)
        if owner != member:
            raise PartitionOwnedError(
                f"{name!r}/{key[1]} is read by another member of group {group_name!r}, in process "
                f"{state.members[owner].pid}",
                topic=name,
                partition=key[1],
            )
    for key in state.targets_of(member) - wanted.keys():
        del state.targets[key]
    for key, name in wanted.items():
        state.targets[key] = member
        state.names[key[0]] = name
