"""`pystream topics alter`, `rename`, `copy`, `add-partitions`, `delete-records`, `truncate-before`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

import pystream
from pystream.altering import parse_changes
from pystream.cli.common import (
    EXIT_DIFFERS,
    EXIT_USAGE,
    PLACE,
    Column,
    F,
    ParamType,
    StoreType,
    bytes_text,
    error_text,
    fail,
    json_option,
    open_store,
    progress_bar,
    quiet_option,
    say,
    show_json,
    show_table,
    store_argument,
    topic_argument,
)
from pystream.cli.topicoptions import flag, topic_options
from pystream.topicoptions import ALTERABLE, OPTIONS, TopicOptions

if TYPE_CHECKING:
    from pystream.copying import Copied

yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


def ask(question: str, *, yes: bool) -> None:
    """End the command unless somebody says yes."""
    if yes:
        return
    if not sys.stdin.isatty():
        fail(EXIT_USAGE, "nobody can be asked, for standard input is no terminal: give --yes")
    if not click.confirm(question, err=True):
        fail(EXIT_DIFFERS, "nothing was changed")


# ---- alter --------------------------------------------------------------------------------------------


def _refuse_fixed(command: F) -> F:
    """Give `alter` the options that it has not, to say why."""

    def refuse(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
        if value is not None:
            try:
                parse_changes({str(param.name): value}, TopicOptions().durability)
            except pystream.OptionError as error:
                raise click.UsageError(
                    f"--{flag(str(param.name))}: {error_text(error).partition(': ')[2]}"
                ) from None

    for name in reversed(OPTIONS):
        if name not in ALTERABLE:
            command = click.option(f"--{flag(name)}", hidden=True, expose_value=False, callback=refuse)(
                command
            )
    return command


@click.command()
@store_argument
@topic_argument
@topic_options(ALTERABLE)
@_refuse_fixed
@click.option(
    "--reset",
    "resets",
    type=click.Choice([flag(name) for name in ALTERABLE]),
    multiple=True,
    metavar="OPTION",
    help="Put this option back to its default; repeatable.",
)
@yes_option
@json_option
@quiet_option
def alter(
    store: Path, topic: str, resets: tuple[str, ...], yes: bool, as_json: bool, quiet: bool, **options: Any
) -> None:
    """Change options of a topic while it is used; nobody need be stopped.

    Says what is different now, and when that acts: at once, which is within about a second for other
    processes; from the next segment on; or from the next producer that is opened. Asks first where records
    may go by it.

    \b
    Examples:
      pystream topics alter events.ps clicks --retention 7d --retention-bytes 10GiB
      pystream topics alter events.ps users --cleanup compact --yes
      pystream topics alter events.ps clicks --reset retention-bytes
    """
    given = {name: value for name, value in options.items() if value is not None}
    for name in (reset.replace("-", "_") for reset in resets):
        if name in given:
            raise click.UsageError(f"--{flag(name)} and --reset {flag(name)}: give one of them")
        given[name] = None
    if not given:
        raise click.UsageError("what is to change? Give an option, or --reset one; --help lists them")
    with open_store(store) as opened:
        before = opened.topic(topic).options
        after = replace(before, **parse_changes(given, opened.durability))
        if loses(before, after):
            ask(f"Records of topic {topic!r} may be deleted by that, for good. Go on?", yes=yes)
        changes = opened.alter_topic(topic, **given)
    if as_json:
        show_json({"topic": topic, "changes": [asdict(change) for change in changes]})
    elif not quiet:
        for change in changes:
            say(f"{flag(change.option)}: {change.before} -> {change.after}, {change.acts}")
        if not changes:
            say("nothing to change: all is so already")


def loses(before: TopicOptions, after: TopicOptions) -> bool:
    """Whether records may go by one set of options that stay by another."""
    if after.compacts and not before.compacts:
        return True
    for name in ("retention_ns", "retention_bytes", "retention_topic_bytes"):
        old, new = (getattr(options, name) if options.deletes else None for options in (before, after))
        if new is not None and (old is None or new < old):
            return True
    return False


# ---- rename, add-partitions ---------------------------------------------------------------------------


@click.command()
@store_argument
@topic_argument
@click.argument("new_name")
@quiet_option
def rename(store: Path, topic: str, new_name: str, quiet: bool) -> None:
    """Give a topic another name.

    Records, options and the offsets of consumer groups stay. Programs that have the topic open are told by an
    error that says the new name; those that read by a pattern which that matches go on.

    \b
    Example:
      pystream topics rename events.ps clicks clicks-2026
    """
    with open_store(store) as opened:
        opened.rename_topic(topic, new_name)
    if not quiet:
        say(f"topic {topic!r} is called {new_name!r} now")


@click.command("add-partitions")
@store_argument
@topic_argument
@click.argument("count", type=int, required=False)
@click.option("--to", type=int, metavar="N", help="How many there are to be, instead of how many to add.")
@json_option
@quiet_option
def add_partitions(
    store: Path, topic: str, count: int | None, to: int | None, as_json: bool, quiet: bool
) -> None:
    """Give a topic COUNT more partitions while it is used.

    Producers send to them, and consumers that subscribe to the topic read them, within about a second. There
    can never be fewer again. Records that are there stay where they are, but keys choose among more
    partitions from then on: records of one key may be in two, and their order among these is not kept.

    \b
    Examples:
      pystream topics add-partitions events.ps clicks 4
      pystream topics add-partitions events.ps clicks --to 8
    """
    if (count is None) == (to is None):
        raise click.UsageError("how many? Give COUNT, or --to how many there are to be")
    with open_store(store) as opened:
        before = opened.topic(topic).partitions
        after = opened.add_partitions(topic, count, to=to)
    if as_json:
        show_json({"topic": topic, "before": before, "partitions": after})
    elif not quiet:
        since = "already" if after == before else f"now, {before:,} before"
        say(f"topic {topic!r} has {after:,} partitions {since}")


# ---- delete-records, truncate-before ------------------------------------------------------------------


class Cut(NamedTuple):
    """What is to go from a partition."""

    partition: pystream.Partition
    start: int
    before: int

    @property
    def offsets(self) -> int:
        return max(self.before - self.start, 0)


class OffsetType(ParamType):
    """PARTITION:OFFSET, or OFFSET alone where there is one partition."""

    name = "partition:offset"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "PARTITION:OFFSET"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int | None, int]:
        if isinstance(value, tuple):
            return value
        partition, colon, offset = str(value).rpartition(":")
        if not (offset.isdecimal() and offset.isascii()) or (colon and not partition.isdecimal()):
            self.fail(f"{value!r}: give PARTITION:OFFSET, such as 0:1000", param, ctx)
        return int(partition) if colon else None, int(offset)


@click.command("delete-records")
@store_argument
@topic_argument
@click.argument("offsets", type=OffsetType(), nargs=-1, required=True)
@yes_option
@json_option
@quiet_option
def delete_records(
    store: Path,
    topic: str,
    offsets: tuple[tuple[int | None, int], ...],
    yes: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Delete the records of partitions below offsets, for good.

    Nobody can read them any more; the space is given back in whole segments. Asks first.

    \b
    Examples:
      pystream topics delete-records events.ps clicks 0:120000 1:118500
      pystream topics delete-records events.ps audit 5000 --yes
    """
    with open_store(store) as opened:
        found = opened.topic(topic)
        cuts: dict[int, Cut] = {}
        for index, offset in offsets:
            if index is None and found.partitions > 1:
                count = found.partitions
                raise click.UsageError(f"topic {topic!r} has {count} partitions: give PARTITION:{offset}")
            partition = found.partition(index or 0)
            if partition.index in cuts:
                raise click.UsageError(f"partition {partition.index} is given twice")
            if offset > partition.end_offset:
                raise pystream.OffsetOutOfRangeError(
                    f"{topic!r}/{partition.index} ends at offset {partition.end_offset}; {offset} is beyond",
                    topic=topic,
                    partition=partition.index,
                    offset=offset,
                )
            cuts[partition.index] = Cut(partition, partition.beginning_offset, offset)
        _cut(topic, list(cuts.values()), yes=yes, as_json=as_json, quiet=quiet)


@click.command("truncate-before")
@store_argument
@topic_argument
@click.argument("place", type=PLACE)
@click.option(
    "--partition",
    "partitions",
    type=int,
    multiple=True,
    help="Only this one; repeatable.  [default: all]",
)
@yes_option
@json_option
@quiet_option
def truncate_before(
    store: Path,
    topic: str,
    place: str | int | datetime,
    partitions: tuple[int, ...],
    yes: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Delete the records of a topic before a PLACE, for good.

    PLACE is a moment such as 2026-01-31T12:00:00Z, or how long ago, such as 7d: everything before the first
    record that is not older. Or latest, which is all there is; or an offset, of one partition. Asks first.

    \b
    Examples:
      pystream topics truncate-before events.ps clicks 30d
      pystream topics truncate-before events.ps clicks latest --partition 3 --yes
    """
    if place == "earliest":
        raise click.UsageError("before the earliest record there is nothing")
    with open_store(store) as opened:
        found = opened.topic(topic)
        chosen = [found.partition(index) for index in dict.fromkeys(partitions) or range(found.partitions)]
        if isinstance(place, int) and len(chosen) > 1:
            raise click.UsageError(
                f"offsets are a partition's own, and topic {topic!r} has {len(chosen)}: give --partition, "
                "or a moment"
            )
        cuts = [
            Cut(partition, partition.beginning_offset, partition._resolve("place", place))
            for partition in chosen
        ]
        _cut(topic, cuts, yes=yes, as_json=as_json, quiet=quiet)


def _cut(topic: str, cuts: list[Cut], *, yes: bool, as_json: bool, quiet: bool) -> None:
    total = sum(cut.offsets for cut in cuts)
    if total:
        count = f"{total:,} offset{'s' * (total != 1)}"
        where = f"{len(cuts):,} partition{'s' * (len(cuts) != 1)}"
        ask(f"Delete {count} in {where} of topic {topic!r}, for good?", yes=yes)
    starts = {cut: cut.partition.delete_records(cut.before) for cut in cuts}
    if as_json:
        show_json(
            [
                {"topic": topic, "partition": cut.partition.index, "before": cut.start, "start": start}
                for cut, start in starts.items()
            ]
        )
    elif not quiet:
        show_table(
            [Column(title, True) for title in ("Partition", "Began at", "Begins at", "End")],
            [
                (str(cut.partition.index), f"{cut.start:,}", f"{start:,}", f"{cut.partition.end_offset:,}")
                for cut, start in starts.items()
            ],
        )


# ---- copy ---------------------------------------------------------------------------------------------


@click.command()
@store_argument
@topic_argument
@click.argument("target", type=StoreType())
@click.argument("new_name", required=False)
@click.option("--start", type=PLACE, default="earliest", help="From where on.  [default: earliest]")
@click.option("--stop", type=PLACE, help="Up to, not including, this place.  [default: the end as it is now]")
@click.option("--partition", "partitions", type=int, multiple=True, help="Only this one's; repeatable.")
@click.option("--append", is_flag=True, help="Put the records behind those of a topic that exists.")
@topic_options(ALTERABLE)
@json_option
@quiet_option
def copy(
    store: Path,
    topic: str,
    target: Path,
    new_name: str | None,
    start: str | int | datetime,
    stop: str | int | datetime | None,
    partitions: tuple[int, ...],
    append: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Copy a topic, or a range of it, to another store, or under a NEW_NAME to the same one.

    Others go on meanwhile. Keys, headers, timestamps and order stay, and each record its partition; offsets
    begin at 0. Options are the original's, but for those given. The copy is there when it is whole: whatever
    ends in between, nothing is, except with --append.

    \b
    Examples:
      pystream topics copy events.ps clicks archive.ps
      pystream topics copy events.ps clicks events.ps clicks-today --start 24h
      pystream topics copy events.ps clicks cold.ps --compression lz4 --stop 2026-01-01T00:00:00Z
    """
    given = {name: value for name, value in options.items() if value is not None}
    with ExitStack() as stack:
        # A store that is read and written to in one process is opened once.
        same = target.exists() and store.resolve() == target.resolve()
        opened = stack.enter_context(open_store(store, read_only=not same))
        made = opened.copy_topic(
            topic,
            opened if same else str(target),
            new_name,
            start=start,
            stop=stop,
            partitions=partitions or None,
            append=append,
            progress=None if quiet or as_json else _bar(stack),
            **given,
        )
    _show_copied(made, as_json=as_json, quiet=quiet)


def _bar(stack: ExitStack) -> Callable[[int, int], object]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("copying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = stack.enter_context(progress_bar(*columns))
    task = progress.add_task("copying", total=None)
    return lambda done, total: progress.update(task, completed=done, total=total)


def _show_copied(made: Copied, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        document: Mapping[str, Any] = asdict(made)
        show_json({**document, "records": made.records})
    elif not quiet:
        records = f"{made.records:,} record{'s' * (made.records != 1)}"
        where = f"{len(made.partitions):,} partition{'s' * (len(made.partitions) != 1)}"
        say(f"copied {records} of {where} to topic {made.topic!r} in {made.store}, {bytes_text(made.bytes)}")
