"""`pystream maintain`: retention, compaction and left-overs, now or every few seconds."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

import pystream
from pystream import options as opt
from pystream.cli.common import (
    EXIT_DIFFERS,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    Column,
    StoreType,
    TopicType,
    bytes_text,
    json_option,
    option_value,
    quiet_option,
    say,
    show_json,
    show_table,
    warn,
)
from pystream.cli.topicoptions import seconds

if TYPE_CHECKING:
    from pystream.maintenance.report import MaintenanceReport

INTERVAL_DEFAULT: Final = "5s"
AHEAD_NS: Final = 60 * 10**9
"""What a clock may be ahead without a word about it."""


@click.command()
@click.argument("store", type=StoreType())
@click.option("-t", "--topic", type=TopicType(), help="Only this topic.")
@click.option("-w", "--watch", is_flag=True, help="Go on for ever, a pass every --interval.")
@click.option(
    "--interval",
    callback=option_value(lambda text: opt.parse_duration("interval", seconds(text), minimum=10**7)),
    metavar="TIME",
    help=f"With --watch: from the start of a pass to that of the next.  [default: {INTERVAL_DEFAULT}]",
)
@click.option(
    "--timeout",
    callback=option_value(lambda text: opt.parse_duration("timeout", seconds(text))),
    metavar="TIME",
    help="End a pass after this, in good order.  [default: when all is done]",
)
@click.option("--trust-clock", is_flag=True, help="Believe the clock, though it has jumped forward.")
@json_option
@quiet_option
def maintain(
    store: Path,
    topic: str | None,
    watch: bool,
    interval: int | None,
    timeout: int | None,
    trust_clock: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Let go of what is expired, and compact, now.

    Does all that is due by the topics' retention, retention-bytes, segment-age and cleanup, in the whole
    STORE, and removes what dead processes have left.

    Every process that writes to a store does this by itself, every few seconds and gently. This is for stores
    that only short-lived programs write to, from cron or as a sidecar with --watch, and for doing it now.
    Others go on appending and reading meanwhile.

    A clock that has jumped forward is not believed, lest everything expires at once, until the machine is
    started anew or --trust-clock is given.

    Ends with 0 when all is done, 1 when --timeout came first, 3 when something failed; the rest was done.
    With --json, a pass that did anything is one document; with --watch, one a line.

    \b
    Examples:
      pystream maintain events.ps
      pystream maintain events.ps --topic clicks --json
      pystream maintain events.ps --watch --interval 30s
    """
    if interval is not None and not watch:
        raise click.UsageError("--interval is for --watch")
    interval_ns = opt.parse_duration("interval", INTERVAL_DEFAULT) if interval is None else interval
    shown = _Shown(as_json, quiet, watch)
    with _ended_by_sigterm() as over, pystream.open(store, create=False, maintenance=False) as opened:
        while True:
            began = time.monotonic_ns()
            try:
                report = opened.maintain(
                    topic,
                    force_clock=trust_clock,
                    timeout=None if timeout is None else timeout / 1e9,
                    progress=lambda _: _check(over),
                )
            except _Ended:
                report = None
            except pystream.LockTimeoutError as error:
                if not watch:
                    raise
                warn(str(error))
                report = None
            if report is not None:
                shown.show(report)
            trust_clock = False
            if not watch or over.is_set():
                break
            if over.wait(max(interval_ns - (time.monotonic_ns() - began), 0) / 1e9):
                break
    if not watch:
        _end(report)


def _end(report: MaintenanceReport | None) -> None:
    if report is None:
        sys.exit(EXIT_INTERRUPTED)
    if report.problems:
        sys.exit(EXIT_FAILED)
    if not report.complete:
        warn("not all is done: --timeout came first")
        sys.exit(EXIT_DIFFERS)


class _Ended(Exception):
    """SIGTERM came."""


def _check(over: threading.Event) -> None:
    if over.is_set():
        raise _Ended


@contextmanager
def _ended_by_sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets: what is under way ends in good order."""
    over = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: over.set())
    try:
        yield over
    finally:
        signal.signal(signal.SIGTERM, before)


class _Shown:
    """Prints reports; in a watch, only of passes that did something, and a problem when it is new."""

    def __init__(self, as_json: bool, quiet: bool, watch: bool) -> None:
        self._as_json, self._quiet, self._watch = as_json, quiet, watch
        self._said: set[tuple[str, int | None, str]] = set()
        self._ahead = False

    def show(self, report: MaintenanceReport) -> None:
        problems = {(problem.topic, problem.partition, problem.error) for problem in report.problems}
        for topic, partition, error in sorted(problems - self._said, key=str):
            warn(f"{topic if partition is None else f'{topic}/{partition}'}: {error}")
        self._said = problems
        ahead = report.clock_ahead_ns > AHEAD_NS
        if ahead and not self._ahead:
            warn(
                f"the clock is {opt.duration_text(report.clock_ahead_ns // 10**9 * 10**9)} ahead of where it "
                "should be, and is not believed; --trust-clock if it is right"
            )
        self._ahead = ahead
        if self._watch and report.did_nothing:
            return
        if self._as_json:
            self._show_json(report)
        elif not self._quiet:
            self._show_table(report)

    def _show_json(self, report: MaintenanceReport) -> None:
        if self._watch:
            import json

            click.echo(json.dumps(report.to_json()))
            sys.stdout.flush()
        else:
            show_json(report.to_json())

    def _show_table(self, report: MaintenanceReport) -> None:
        if report.work:
            show_table(
                (
                    Column("Topic"),
                    Column("Partition", number=True),
                    Column("Segments", number=True),
                    Column("Freed", number=True),
                    Column("Log start", number=True),
                    Column("Compacted", number=True),
                    Column("Records", number=True),
                ),
                (
                    (
                        done.topic,
                        str(done.partition),
                        f"{done.segments_removed:,}",
                        bytes_text(done.bytes_removed + max(done.bytes_read - done.bytes_written, 0)),
                        "" if done.log_start is None else f"{done.log_start:,}",
                        bytes_text(done.bytes_read) if done.compactions else "",
                        f"{done.records_removed:,}" if done.compactions else "",
                    )
                    for done in report.work
                ),
            )
        looked = f"{report.partitions:,} partition{'s' * (report.partitions != 1)}"
        say(
            f"looked at {looked} of {report.topics:,} topic{'s' * (report.topics != 1)}, removed "
            f"{report.segments_removed:,} segment{'s' * (report.segments_removed != 1)} "
            f"({bytes_text(report.bytes_removed)}), {report.seconds:,.1f} s"
        )
