"""The state of a consumer group, and the one form in which it is written down.

A document is a line that says what it is, in which version, and gives the xxh3 of the version and of the one
line of JSON that follows. Whatever
differs from what was written is told by the checksum, and never taken for a state.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from dataclasses import replace as _replace
from typing import Any, Final, NamedTuple, TypeAlias

from pystream._native.hashing import xxh3_hex
from pystream._native.limits import FORMAT_VERSION
from pystream.errors import CorruptLogError, FormatVersionError

Key: TypeAlias = tuple[str, int]
"""A partition: its topic's uuid (32 hexadecimal digits), and its number."""

_MAGIC: Final = b"pystream-group"


class Committed(NamedTuple):
    """A committed offset: up to there everything is done."""

    offset: int
    epoch: int
    """Leader epoch of the log when it was committed."""
    metadata: str
    at: int
    """When, in nanoseconds since the Unix epoch."""


class Claim(NamedTuple):
    """A partition that a member reads."""

    member: str
    slot: int
    """Which of the member's marks is this partition's."""
    generation: int
    epoch: int
    """Leader epoch of the log when it was claimed."""


class Member(NamedTuple):
    """What a member says of itself."""

    pid: int
    pid_space: int
    """Which numbering of processes `pid` belongs to (inode of the PID namespace)."""
    client: str
    topics: tuple[str, ...]
    session_timeout_ns: int
    static: bool
    """Claims what it was assigned by hand, and gets nothing else."""


class Subscribed(NamedTuple):
    """A topic as it was when partitions were last shared out."""

    uuid: str
    partitions: int


@dataclass(slots=True)
class State:
    """All that a group's members agree upon. A state that was written does not change any more."""

    generation: int = 0
    """Counts how often partitions were shared out."""
    assignor: str = "sticky"
    deleted: bool = False
    members: dict[str, Member] = field(default_factory=dict)
    topics: dict[str, Subscribed] = field(default_factory=dict)
    claims: dict[Key, Claim] = field(default_factory=dict)
    targets: dict[Key, str] = field(default_factory=dict)
    """Who is to read each partition; whoever else claims it gives it up when next asked for records."""
    committed: dict[Key, Committed] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    """Names of topics, by uuid, of those that partitions were ever committed of or shared out."""

    def copy(self) -> State:
        return _replace(
            self,
            members=dict(self.members),
            topics=dict(self.topics),
            claims=dict(self.claims),
            targets=dict(self.targets),
            committed=dict(self.committed),
            names=dict(self.names),
        )

    def claimed_by(self, member: str) -> dict[Key, Claim]:
        """What a member reads."""
        return {key: claim for key, claim in self.claims.items() if claim.member == member}

    def targets_of(self, member: str) -> set[Key]:
        """What a member is to read."""
        return {key for key, target in self.targets.items() if target == member}


def encode(state: State) -> bytes:
    """The state as it is written."""
    document = {
        "generation": state.generation,
        "assignor": state.assignor,
        "deleted": state.deleted,
        "members": state.members,
        "topics": state.topics,
        "names": state.names,
        "claims": _rows(state.claims),
        "targets": [[*key, member] for key, member in sorted(state.targets.items())],
        "committed": _rows(state.committed),
    }
    body = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"
    version = str(FORMAT_VERSION).encode()
    return b" ".join((_MAGIC, version, _checksum(version, body))) + b"\n" + body


def _checksum(version: bytes, body: bytes) -> bytes:
    """Of every version the same, so that a version that is not known is told from a damaged one."""
    return xxh3_hex(version + b"\n" + body).encode()


def _rows(entries: Mapping[Key, tuple[Any, ...]]) -> list[list[Any]]:
    return [[*key, *entry] for key, entry in sorted(entries.items())]


def decode(data: bytes, path: str) -> State:
    """The state that `encode` wrote.

    Raises:
        CorruptLogError: not exactly what was written.
        FormatVersionError: written by a version that this code does not know.
    """
    head, _, body = data.partition(b"\n")
    words = head.split(b" ")
    if len(words) != 3 or words[0] != _MAGIC or words[2] != _checksum(words[1], body):
        raise CorruptLogError(f"{path}: damaged: not what was written there (checksum differs)", path=path)
    if words[1] != str(FORMAT_VERSION).encode():
        raise FormatVersionError(
            f"{path}: written in format version {words[1].decode('latin-1')}; this pystream reads version "
            f"{FORMAT_VERSION}",
            path=path,
        )
    try:
        document = json.loads(body)
        return State(
            generation=int(document["generation"]),
            assignor=str(document["assignor"]),
            deleted=bool(document["deleted"]),
            members={name: _member(row) for name, row in document["members"].items()},
            topics={name: Subscribed(*row) for name, row in document["topics"].items()},
            names=dict(document["names"]),
            claims={(row[0], row[1]): Claim(*row[2:]) for row in document["claims"]},
            targets={(row[0], row[1]): row[2] for row in document["targets"]},
            committed={(row[0], row[1]): Committed(*row[2:]) for row in document["committed"]},
        )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise CorruptLogError(f"{path}: an entry is missing or malformed: {error!r}", path=path) from error


def _member(row: list[Any]) -> Member:
    pid, pid_space, client, topics, timeout, static = row
    return Member(pid, pid_space, client, tuple(topics), timeout, static)
