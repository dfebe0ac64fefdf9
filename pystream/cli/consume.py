"""`pystream consume`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

import pystream
from pystream import options as opt
from pystream._native.linereader import LineReader
from pystream.cli.common import (
    PLACE,
    open_store,
    option_value,
    store_argument,
    topic_argument,
)
from pystream.cli.pipes import BytesType, chosen_delimiter, delimiter_options, end_of, when_nobody_reads

if TYPE_CHECKING:
    from pystream.cli.columns import Columns
    from pystream.partition import Position

FORMATS = ("raw", "json", "hex", "table")


@click.command()
@store_argument
@topic_argument
@click.option(
    "--from", "start", type=PLACE, default="earliest", show_default=True, help="Where to begin (included)."
)
@click.option("--until", "stop", type=PLACE, help="Where to end (not included).  [default: the end as it is]")
@click.option("-n", "--max", "most", type=click.IntRange(min=0), metavar="N", help="End after N records.")
@click.option("-f", "--follow", is_flag=True, help="At the end, wait for more.")
@click.option(
    "--timeout",
    metavar="DURATION",
    callback=option_value(lambda text: opt.parse_timeout("timeout", _seconds(text))),
    help="With --follow, end when nothing came for this long, such as 10 (seconds) or 500ms.",
)
@click.option(
    "-p",
    "--partition",
    "partitions",
    type=click.IntRange(min=0),
    metavar="N",
    multiple=True,
    help="Only this partition; repeatable.  [default: all]",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="raw",
    show_default=True,
    help="Values as they are, JSON lines, values in hexadecimal, or a table.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("--keys", is_flag=True, help="raw, hex: the key before the value.")
@click.option("--offsets", is_flag=True, help="raw, hex: the offset.")
@click.option("--times", is_flag=True, help="raw, hex: the timestamp, in UTC.")
@click.option("--headers", is_flag=True, help="raw, hex, table: the headers, NAME=VALUE,...")
@click.option("--partitions", "numbers", is_flag=True, help="raw, hex: the number of the partition.")
@click.option(
    "-k",
    "--key-separator",
    "separator",
    type=BytesType(),
    metavar="TEXT",
    default="\\t",
    show_default=True,
    help="raw, hex: between key, value and what else is printed.",
)
@click.option(
    "--null-text",
    type=BytesType(),
    metavar="TEXT",
    help="raw, hex: printed for a null key or value.  [default: nothing]",
)
@delimiter_options("raw: byte after each record; escapes as \\t \\n \\0 \\xHH.")
@click.pass_context
def consume(
    ctx: click.Context,
    store: Path,
    topic: str,
    start: Position,
    stop: Position | None,
    most: int | None,
    follow: bool,
    timeout: int | None,
    partitions: tuple[int, ...],
    form: str,
    as_json: bool,
    keys: bool,
    offsets: bool,
    times: bool,
    headers: bool,
    numbers: bool,
    separator: bytes,
    null_text: bytes | None,
    delimiter: bytes,
    null: bool,
) -> None:
    """Print the records of TOPIC, by default the bytes of each value and a newline.

    It prints one partition after the other, each in order, and ends at the end as it is now. With --follow
    it prints records of all partitions as they come, and does not end. Raw output is byte for byte what
    `produce` took; of null it prints nothing, unless --null-text says what. So a record without a key is,
    with --keys alone, a line without separator, as `produce --key-separator` reads it.

    \b
    Examples:
      pystream consume events.ps access --from 15m --follow | grep ' 500 '
      pystream consume events.ps users --keys --offsets --max 10
      pystream consume events.ps clicks --format json --until 2026-01-31 > clicks.jsonl
    """
    end = chosen_delimiter(ctx, delimiter, null)
    if as_json:
        if ctx.get_parameter_source("form") is click.core.ParameterSource.COMMANDLINE and form != "json":
            raise click.UsageError(f"--json and --format {form} contradict each other")
        form = "json"
    _check_usage(ctx, form)
    if timeout is not None and not follow:
        raise click.UsageError("--timeout is for --follow; without it, consume never waits")
    # Who may write can be woken by the next record; who only reads looks for it every so often.
    with open_store(store, read_only=not (follow and os.access(store, os.W_OK))) as opened:
        found = opened.topic(topic)
        chosen = _choose(found, partitions, start, stop)
        sink = end_of(sys.stdout, "standard output")
        plain = form == "raw" and not (offsets or times or headers or numbers)
        out = LineReader(sink, delimiter=end, keys=keys and plain, separator=separator, null_text=null_text)
        put: Callable[[pystream.Batch], object] = out.put_batch
        if not plain:
            columns = _columns(found, form, keys, offsets, times, headers, numbers, separator, null_text, end)

            def put(batch: pystream.Batch) -> None:
                for line in columns(batch):
                    out.put(line)

        if follow:
            fd = sink if isinstance(sink, int) else None
            batches = _follow(opened, found, chosen, start, stop, timeout, out.flush, fd)
        else:
            # All are made now, so that all end where the log ends now.
            batches = chain.from_iterable([found.partition(index).scan(start, stop) for index in chosen])
        try:
            for batch in _first(batches, most):
                put(batch)
        except pystream.PystreamError:
            out.flush()  # what came before the damage
            raise
        out.flush()


def _seconds(text: str) -> float | str:
    """A duration option: a bare number is seconds."""
    try:
        return float(text)
    except ValueError:
        return text


def _check_usage(ctx: click.Context, form: str) -> None:
    """Options that the chosen format would not heed are refused."""
    lines = ("raw", "hex")
    heeded = {
        "keys": lines,
        "offsets": lines,
        "times": lines,
        "numbers": lines,
        "separator": lines,
        "null_text": lines,
        "headers": (*lines, "table"),
        "delimiter": ("raw",),
        "null": ("raw",),
    }
    for param in ctx.command.params:
        name = str(param.name)
        given = ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if given and form not in heeded.get(name, FORMATS):
            why = "which always has it" if name in ("keys", "offsets", "times", "headers", "numbers") else ""
            raise click.UsageError(
                f"{param.opts[-1]} is not for --format {form}" + (f", {why}" if why else "")
            )


def _choose(
    topic: pystream.Topic, partitions: Sequence[int], start: Position, stop: Position | None
) -> list[int]:
    """The partitions to read."""
    chosen = sorted(set(partitions)) or list(range(topic.partitions))
    for index in chosen:
        topic.partition(index)  # says which there are
    for option, place in (("--from", start), ("--until", stop)):
        if isinstance(place, int) and len(chosen) > 1:
            raise click.UsageError(
                f"{option} {place}: topic {topic.name!r} has {topic.partitions} partitions, each with "
                f"offsets of its own; name one with --partition"
            )
    return chosen


def _columns(
    topic: pystream.Topic,
    form: str,
    keys: bool,
    offsets: bool,
    times: bool,
    headers: bool,
    numbers: bool,
    separator: bytes,
    null_text: bytes | None,
    delimiter: bytes,
) -> Columns:
    """What makes the lines of a batch, for all formats but plain raw."""
    from pystream.cli import columns

    if form == "json":
        from pystream.cli import jsonlines

        return lambda batch: jsonlines.encode(batch, topic.options.dtype)
    if form == "table":
        return columns.Table(topic, headers)
    return columns.lines(
        hexadecimal=form == "hex",
        keys=keys,
        offsets=offsets,
        times=times,
        headers=headers,
        numbers=numbers,
        separator=separator,
        null_text=null_text,
        delimiter=delimiter,
    )


def _first(batches: Iterator[pystream.Batch], most: int | None) -> Iterator[pystream.Batch]:
    """The batches of the first `most` records."""
    if most is None:
        yield from batches
        return
    left = most
    while left > 0:
        batch = next(batches, None)
        if batch is None:
            return
        yield batch[:left]
        left -= len(batch)


def _follow(
    store: pystream.Store,
    topic: pystream.Topic,
    chosen: Sequence[int],
    start: Position,
    stop: Position | None,
    timeout: int | None,
    flush: Callable[[], None],
    fd: int | None,
) -> Iterator[pystream.Batch]:
    """Batches as they come. What was printed is flushed before each wait."""
    wait = None if timeout is None else timeout / 1e9
    stops = {index: _stop_of(topic.partition(index), stop) for index in chosen}
    broken = False
    with store.consumer(start={(topic.name, index): start for index in chosen}) as consumer:
        consumer.assign([(topic.name, index) for index in chosen])
        if fd is not None:

            def leave() -> None:
                nonlocal broken
                broken = True
                consumer.close()

            when_nobody_reads(fd, leave)
        for index in chosen:
            end = stops[index]
            if isinstance(end, int) and consumer.position((topic.name, index)) >= end:
                del stops[index]
                consumer.pause((topic.name, index))
        while stops:
            try:
                batch = consumer.poll(0)
                if batch is None:
                    flush()
                    batch = consumer.poll(wait)
            except pystream.ClosedError:
                if broken:
                    raise BrokenPipeError("nobody reads standard output") from None
                raise
            if batch is None:
                return
            end = stops[batch.partition]
            count = _count_before(batch, end)
            if count < len(batch) or (isinstance(end, int) and batch.next_offset >= end):
                del stops[batch.partition]
                consumer.pause((topic.name, batch.partition))
            if count:
                yield batch[:count]


def _stop_of(partition: pystream.Partition, stop: Position | None) -> int | datetime | None:
    """A word as the offset it stands for now; a moment as it is, for its record may be yet to come."""
    if stop == "latest":
        return partition.end_offset
    if stop == "earliest":
        return partition.beginning_offset
    assert stop is None or isinstance(stop, (int, datetime))
    return stop


def _count_before(batch: pystream.Batch, stop: int | datetime | None) -> int:
    """How many records of a batch come before `stop`."""
    if stop is None:
        return len(batch)
    if isinstance(stop, int):
        return int(np.searchsorted(batch.offsets, stop))
    late = batch.timestamps >= np.datetime64(opt.parse_time("until", stop), "ns")
    return int(np.argmax(late)) if late.any() else len(batch)
