"""`pystream groups`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

import pystream
from pystream.cli.common import (
    EXIT_DIFFERS,
    EXIT_FAILED,
    EXIT_USAGE,
    MOMENT,
    Column,
    NameType,
    SuggestingGroup,
    TopicType,
    error_text,
    fail,
    json_option,
    open_store,
    quiet_option,
    say,
    show_facts,
    show_json,
    show_table,
    store_argument,
    warn,
)
from pystream.group.shared import list_groups

if TYPE_CHECKING:
    from pystream.group import GroupDescription, MemberDescription, PartitionDescription
    from pystream.partition import Position

NOTHING: Final = "-"


class GroupType(NameType):
    """The name of a consumer group."""

    def __init__(self) -> None:
        super().__init__("group", list_groups)


group_argument = click.argument("group", type=GroupType())


@click.group(cls=SuggestingGroup)
def groups() -> None:
    """List, describe, reset and delete consumer groups."""


# ---- list ---------------------------------------------------------------------------------------------


@groups.command("list")
@store_argument
@json_option
def list_(store: Path, as_json: bool) -> None:
    """List the consumer groups of a store, by name.

    The lag of a group is how many offsets it still has to read, in all the partitions that it reads or has
    read. Nothing is written.

    \b
    Examples:
      pystream groups list events.ps
      pystream groups list events.ps --json
    """
    found: list[tuple[str, GroupDescription | pystream.PystreamError]] = []
    with open_store(store, read_only=True) as opened:
        for name in opened.groups():
            try:
                found.append((name, opened.group(name).describe()))
            except pystream.GroupNotFoundError:  # deleted meanwhile
                continue
            except pystream.PystreamError as error:
                found.append((name, error))
    if as_json:
        show_json([_overview(name, group) for name, group in found])
    else:
        columns = [
            Column("Group"),
            Column("State", rank=1),
            Column("Members", True, rank=2),
            Column("Partitions", True, rank=3),
            Column("Lag", True),
        ]
        show_table(columns, [_overview_row(name, group) for name, group in found])
    wrong = [(name, group) for name, group in found if isinstance(group, pystream.PystreamError)]
    for name, problem in wrong:
        warn(f"group {name!r}: {error_text(problem)}")
    if wrong:
        sys.exit(EXIT_FAILED)


def _overview(name: str, group: GroupDescription | pystream.PystreamError) -> dict[str, Any]:
    if isinstance(group, pystream.PystreamError):
        return {"group": name, "error": error_text(group)}
    return {
        "group": name,
        "error": None,
        "state": group.state,
        "generation": group.generation,
        "assignor": group.assignor,
        "members": len(group.members),
        "partitions": len(group.partitions),
        "lag": _total_lag(group),
    }


def _overview_row(name: str, group: GroupDescription | pystream.PystreamError) -> tuple[str, ...]:
    if isinstance(group, pystream.PystreamError):
        return (name, *"????")
    return (
        name,
        group.state,
        f"{len(group.members):,}",
        f"{len(group.partitions):,}",
        f"{_total_lag(group):,}",
    )


def _total_lag(group: GroupDescription) -> int:
    return sum(partition.lag or 0 for partition in group.partitions)


# ---- describe -----------------------------------------------------------------------------------------


@groups.command()
@store_argument
@group_argument
@json_option
def describe(store: Path, group: str, as_json: bool) -> None:
    """Say how far a consumer group is in each partition, who reads it, and who its members are.

    A partition's lag is the number of offsets from the committed one to the end; where nothing was committed,
    from the beginning. Nothing is written.

    \b
    Examples:
      pystream groups describe events.ps billing
      pystream groups describe events.ps billing --json
    """
    with open_store(store, read_only=True) as opened:
        found = opened.group(group).describe()
    if as_json:
        show_json(_as_dict(found))
        return
    show_facts(
        [
            ("group", found.name),
            ("state", found.state),
            ("generation", f"{found.generation:,}"),
            ("assignor", found.assignor),
            ("members", f"{len(found.members):,}"),
            ("partitions", f"{len(found.partitions):,}"),
            ("lag", f"{_total_lag(found):,}"),
        ]
    )
    if found.partitions:
        clients = {member.member_id: member.client for member in found.members}
        click.echo()
        show_table(_PARTITION_COLUMNS, [_partition_row(entry, clients) for entry in found.partitions])
    if found.members:
        click.echo()
        show_table(_MEMBER_COLUMNS, [_member_row(member) for member in found.members])


_PARTITION_COLUMNS: Final = [
    Column("Topic"),
    Column("Partition", True),
    Column("Committed", True),
    Column("End", True, rank=2),
    Column("Lag", True),
    Column("Owner", rank=3),
    Column("Pid", True, rank=1),
    Column("Committed at (UTC)", rank=4),
    Column("Metadata", rank=5),
]
_MEMBER_COLUMNS: Final = [
    Column("Member"),
    Column("Client", rank=2),
    Column("Pid", True),
    Column("Alive"),
    Column("Partitions", True, rank=1),
    Column("Timeout", True, rank=4),
    Column("Subscribes to", rank=3),
]


def _partition_row(partition: PartitionDescription, clients: dict[str, str]) -> tuple[str, ...]:
    owner = partition.member_id
    return (
        partition.topic,
        str(partition.partition),
        _number(partition.committed),
        "deleted" if partition.end_offset is None else _number(partition.end_offset),
        _number(partition.lag),
        (clients.get(owner) or owner) if owner is not None else NOTHING,
        NOTHING if partition.pid is None else str(partition.pid),
        _second(partition.committed_at),
        partition.metadata,
    )


def _member_row(member: MemberDescription) -> tuple[str, ...]:
    return (
        member.member_id,
        member.client,
        str(member.pid),
        "yes" if member.alive else "no",
        f"{len(member.partitions):,}",
        f"{member.session_timeout:g} s",
        ", ".join(member.topics) or NOTHING,
    )


def _number(offset: int | None) -> str:
    return NOTHING if offset is None else f"{offset:,}"


def _second(moment: datetime | None) -> str:
    return NOTHING if moment is None else moment.strftime("%Y-%m-%d %H:%M:%S")


def _as_dict(group: GroupDescription) -> dict[str, Any]:
    return {
        "group": group.name,
        "state": group.state,
        "generation": group.generation,
        "assignor": group.assignor,
        "lag": _total_lag(group),
        "members": [
            {
                "member_id": member.member_id,
                "client": member.client,
                "pid": member.pid,
                "alive": member.alive,
                "topics": list(member.topics),
                "session_timeout_s": member.session_timeout,
                "partitions": [{"topic": p.topic, "partition": p.partition} for p in member.partitions],
            }
            for member in group.members
        ],
        "partitions": [
            {
                "topic": partition.topic,
                "partition": partition.partition,
                "member_id": partition.member_id,
                "pid": partition.pid,
                "committed": partition.committed,
                "metadata": partition.metadata,
                "committed_at": partition.committed_at and partition.committed_at.isoformat(),
                "durable": partition.durable,
                "beginning_offset": partition.beginning_offset,
                "end_offset": partition.end_offset,
                "lag": partition.lag,
            }
            for partition in group.partitions
        ],
    }


# ---- reset --------------------------------------------------------------------------------------------


@groups.command()
@store_argument
@group_argument
@click.option("--to-earliest", is_flag=True, help="To the first record that is there.")
@click.option("--to-latest", is_flag=True, help="To the end: what is there already is not read.")
@click.option("--to-offset", type=click.IntRange(min=0), metavar="N", help="To this offset.")
@click.option(
    "--to-time",
    type=MOMENT,
    help="To the first record at or after a moment, such as 2026-01-31T12:00:00Z, or how long ago: 15m, 7d.",
)
@click.option("--shift", type=int, metavar="N", help="So many offsets on; back where N is negative.")
@click.option(
    "--topic",
    "topics",
    type=TopicType(),
    multiple=True,
    help="Only this topic; repeatable.  [default: all that the group reads or has read]",
)
@click.option(
    "--partition",
    "partitions",
    type=int,
    multiple=True,
    help="Only this partition of the topics given; repeatable.  [default: all]",
)
@click.option("--execute", is_flag=True, help="Do it; otherwise it is only shown what would be done.")
@json_option
def reset(
    store: Path,
    group: str,
    to_earliest: bool,
    to_latest: bool,
    to_offset: int | None,
    to_time: datetime | None,
    shift: int | None,
    topics: tuple[str, ...],
    partitions: tuple[int, ...],
    execute: bool,
    as_json: bool,
) -> None:
    """Set a consumer group elsewhere: its members begin there when they next start.

    Give one of --to-earliest, --to-latest, --to-offset, --to-time and --shift. It shows the offsets before
    and after, and changes them only with --execute: all of them, durably, or none. Offsets beyond an end of
    a partition become that end. While a member of the group reads one of the partitions it is refused.

    \b
    Examples:
      pystream groups reset events.ps billing --to-earliest
      pystream groups reset events.ps billing --to-time 2h --topic clicks --execute
      pystream groups reset events.ps billing --shift -100 --topic clicks --partition 0 --execute
    """
    choices: dict[str, Position | None] = {
        "--to-earliest": "earliest" if to_earliest else None,
        "--to-latest": "latest" if to_latest else None,
        "--to-offset": to_offset,
        "--to-time": to_time,
    }
    given = [(name, place) for name, place in choices.items() if place is not None]
    if len(given) + (shift is not None) != 1:
        raise click.UsageError(f"where to? Give one of {', '.join(choices)} and --shift")
    if partitions and not topics:
        raise click.UsageError("--partition is of a topic: give --topic, too")
    with open_store(store, read_only=not execute) as opened:
        changes = opened.group(group).reset(
            given[0][1] if given else None,
            shift=shift,
            topics=list(dict.fromkeys(topics)) if topics and not partitions else None,
            partitions=[(topic, p) for topic in topics for p in partitions] if partitions else None,
            dry_run=not execute,
        )
    if as_json:
        show_json(
            {
                "group": group,
                "executed": execute,
                "partitions": [
                    {"topic": p.topic, "partition": p.partition, "old_offset": old, "new_offset": new}
                    for p, (old, new) in changes.items()
                ],
            }
        )
    elif changes:
        columns = [
            Column("Topic"),
            Column("Partition", True),
            Column("Offset", True),
            Column("New offset", True),
        ]
        rows = [(p.topic, str(p.partition), _number(old), f"{new:,}") for p, (old, new) in changes.items()]
        show_table(columns, rows)
    for place, (old, new) in changes.items():
        wanted = to_offset if shift is None else None if old is None else old + shift
        if wanted is not None and wanted != new:
            end = "beginning" if wanted < new else "end"
            warn(f"{place.topic}/{place.partition} has no offset {wanted:,}: {new:,} is its {end}")
    if not changes:
        fail(EXIT_DIFFERS, f"group {group!r} has no committed offsets yet: name topics with --topic")
    if not execute:
        say("nothing was changed: --execute does it")
    elif not as_json:
        say(f"reset {len(changes):,} partition{'s' * (len(changes) > 1)} of group {group!r}")


# ---- delete -------------------------------------------------------------------------------------------


@groups.command()
@store_argument
@click.argument("group", type=GroupType(), nargs=-1, required=True)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--if-exists", is_flag=True, help="No error when a group is not there.")
@quiet_option
def delete(store: Path, group: Sequence[str], yes: bool, if_exists: bool, quiet: bool) -> None:
    """Delete consumer groups with their committed offsets. Records stay where they are.

    Asks first, once for each; where nobody can be asked, it takes --yes. A group that has members is not
    deleted.

    \b
    Examples:
      pystream groups delete events.ps billing
      pystream groups delete events.ps billing audit --yes
    """
    if not yes and not sys.stdin.isatty():
        fail(EXIT_USAGE, "nobody can be asked, for standard input is no terminal: give --yes to delete")
    declined = False
    with open_store(store) as opened:
        names = list(dict.fromkeys(group))
        found = {}
        for name in names:  # all of them, before the first is deleted
            try:
                found[name] = opened.group(name)
            except pystream.GroupNotFoundError:
                if not if_exists:
                    raise
        for name, doomed in found.items():
            if not yes and not click.confirm(f"Delete group {name!r} and its committed offsets?", err=True):
                declined = True
                continue
            try:
                doomed.delete()
            except pystream.GroupNotFoundError:  # somebody else was quicker
                if not if_exists:
                    raise
            else:
                if not quiet:
                    say(f"deleted group {name!r}")
    if declined:
        fail(EXIT_DIFFERS, "nothing was deleted" if len(names) == 1 else "not all were deleted")
