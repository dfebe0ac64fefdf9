"""`pystream verify`: is everything in a store as it was written?"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

import pystream
from pystream.cli.common import (
    EXIT_DIFFERS,
    EXIT_FAILED,
    StoreType,
    TopicType,
    bytes_text,
    json_option,
    progress_bar,
    show_json,
    warn,
)
from pystream.verified import DAMAGE, Finding, PartitionReport, Report

RANGES_SHOWN_MAX = 12


@click.command()
@click.argument("store", type=StoreType())
@click.argument("topic", type=TopicType(), required=False)
@click.option("-p", "--partition", type=click.IntRange(min=0), help="Only this partition.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Segments checked at a time.  [default: one a processor]",
)
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Only what is wrong.")
def verify(
    store: Path,
    topic: str | None,
    partition: int | None,
    threads: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Check every file of a STORE, or of a TOPIC, from end to end.

    Compares every checksum, decompresses what is compressed, and says what is damaged, which offsets are lost
    by it, and what is recoverable. Nothing is written or locked: others may go on writing meanwhile, and a
    store that does not open for damage can be checked too. What a crash left unfinished at the end of a log
    is shown, but is no damage: who next opens the store to write cuts it off.

    Ends with 0 when all is sound, 1 when damage was found, 3 when something could not be checked.

    \b
    Examples:
      pystream verify events.ps
      pystream verify events.ps clicks -p 3 --json
    """
    if partition is not None and topic is None:
        raise click.UsageError("--partition needs a topic: which one?")
    with ExitStack() as stack:
        report = pystream.verify(
            store,
            topic,
            partition,
            progress=None if quiet or as_json else bar(stack, "checking"),
            threads=threads,
        )
    if as_json:
        show_json(report.to_json())
    else:
        show_report(report, quiet)
    if report.damage:
        sys.exit(EXIT_DIFFERS)
    if report.unchecked:
        warn(f"{_count(len(report.unchecked), 'file')} could not be checked")
        sys.exit(EXIT_FAILED)


def bar(stack: ExitStack, name: str) -> Any:
    """A function that shows how many bytes are done, on standard error while that is a terminal."""
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn

    shown = stack.enter_context(
        progress_bar(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TimeRemainingColumn(),
        )
    )
    task = shown.add_task(name, total=None)
    return lambda done, total: shown.update(task, completed=done, total=total)


def show_report(report: Report, quiet: bool) -> None:
    """Print a report for people."""
    for found in report.others:
        _show(report, found, quiet)
    for part in report.partitions:
        if not quiet:
            click.echo(_headline(part))
        for found in part.findings:
            _show(report, found, quiet)
        if any(found.kind == DAMAGE for found in part.findings):
            click.echo(f"  sound: {_ranges(part.sound)}")
    if not quiet:
        click.echo(_summary(report))


def _headline(part: PartitionReport) -> str:
    return (
        f"{part.topic}/{part.partition}: {_count(part.segments, 'segment')}, "
        f"{_count(part.batches, 'batch', 'batches')}, {_count(part.records, 'record')}, "
        f"{bytes_text(part.file_bytes)}"
    )


def _show(report: Report, found: Finding, quiet: bool) -> None:
    if quiet and found.kind not in (DAMAGE, "unchecked"):
        return
    placed = replace(found, path=os.path.relpath(found.path, report.path))
    line = f"  {found.kind}: {placed.place}: {found.text}"
    click.secho(line, fg="red" if found.kind == DAMAGE else None)


def _summary(report: Report) -> str:
    size = sum(part.file_bytes for part in report.partitions)
    checked = f"{_count(report.records, 'record')}, {bytes_text(size)}, {report.seconds:,.1f} s"
    words = []
    if report.damage:
        words.append(f"damaged in {_count(len(report.damage), 'place')}")
    if report.unchecked:
        words.append(f"{_count(len(report.unchecked), 'file')} could not be checked")
    if report.torn:
        words.append(f"{_count(len(report.torn), 'torn end')}, as a crash leaves")
    verdict = "; ".join(words) if words else "everything is sound"
    return f"{checked}: {verdict}" + "; in use: up to what had been published" * report.in_use


def _ranges(ranges: tuple[tuple[int, int], ...]) -> str:
    if not ranges:
        return "no offset"
    shown = [f"{first:,}" if after == first + 1 else f"{first:,}-{after - 1:,}" for first, after in ranges]
    more = len(shown) - RANGES_SHOWN_MAX
    return ", ".join(shown[:RANGES_SHOWN_MAX]) + (f" and {more:,} more ranges" if more > 0 else "")


def _count(number: int, noun: str, several: str | None = None) -> str:
    return f"{number:,} {noun if number == 1 else several or noun + 's'}"
