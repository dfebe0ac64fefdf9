"""The report on the terminal, and as plain data."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

from pystream.demo.run import PARTITIONS, SEEK_TIME, Result, Step

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@contextmanager
def progress() -> Iterator[Step]:
    """A bar on stderr while it is a terminal; a `total` of 0 means that the length is not known."""
    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def step(name: str, done: int, total: int) -> None:
            bar.update(task, description=name, completed=done, total=total or None)

        yield step


def megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"


def show(result: Result, picture: Path) -> None:
    """Print the report on stdout."""
    console = Console()
    counted, seen = result.counted, result.seen
    ratio = result.bytes_in / result.bytes_stored
    console.print(
        f"\n[bold]{counted.flights:,} flights that left New York[/bold]  {result.data}\n"
        f"read and encoded in {result.read_seconds:.1f} s; {PARTITIONS} partitions in {result.store}\n"
        f"in  {counted.flights:>9,} records {megabytes(result.bytes_in):>12}\n"
        f"out {seen.flights:>9,} records {megabytes(seen.size):>12}\n"
        f"stored {megabytes(result.bytes_stored):>23}, {ratio:.2f} to 1 by LZ4\n",
        highlight=False,
        soft_wrap=True,
    )
    console.print(rates_table(result))
    console.print(carriers_table(result))
    console.print(delays_table(result))
    hour = np.datetime_as_string(SEEK_TIME, unit="m")
    where = ", ".join("none" if offset is None else f"{offset:,}" for offset in result.seek_offsets)
    console.print(
        f"seek to {hour}Z (noon in New York): offsets {where}; {result.seek_seconds * 1e6:.1f} us a seek\n",
        highlight=False,
        soft_wrap=True,
    )
    for check in result.checks:
        mark = "[green]same  [/green]" if check.passed else "[bold red]DIFFERS[/bold red]"
        console.print(f"{mark} {check.name}: {check.detail}", highlight=False, soft_wrap=True)
    console.print(f"\npicture: {picture}", highlight=False, soft_wrap=True)
    if result.passed:
        console.print(
            f"[bold green]all {seen.flights:,} flights accounted for[/bold green]\n",
            highlight=False,
            soft_wrap=True,
        )


def rates_table(result: Result) -> Table:
    table = Table("work", title="rates", title_justify="left")
    for name in ("records", "seconds", "records/s", "MB/s"):
        table.add_column(name, justify="right")
    for rate in result.rates:
        table.add_row(
            rate.name,
            f"{rate.records:,}",
            f"{rate.seconds:.3f}",
            f"{rate.records_per_second:,.0f}",
            f"{rate.bytes_per_second / 1e6:,.0f}",
        )
    return table


def carriers_table(result: Result) -> Table:
    counted, seen = result.counted, result.seen
    table = Table("carrier", title="flights by carrier", title_justify="left")
    for name in ("partition", "from the log", "from the CSV", ""):
        table.add_column(name, justify="right")
    for carrier in sorted(counted.by_carrier | seen.by_carrier):
        ours, theirs = seen.by_carrier[carrier], counted.by_carrier[carrier]
        where = ", ".join(map(str, sorted(seen.partitions.get(carrier, ()))))
        table.add_row(carrier, where, f"{ours:,}", f"{theirs:,}", "=" if ours == theirs else "DIFFERS")
    return table


def delays_table(result: Result) -> Table:
    counted = result.counted
    table = Table("month", title="mean departure delay, minutes (New York's months)", title_justify="left")
    for name in ("flights with one", "from mapped arrays", "from the CSV", ""):
        table.add_column(name, justify="right")
    for month in sorted(counted.delay_flights):
        minutes, flights = result.delays.get(month, (0, 0))
        theirs = counted.delay_minutes[month], counted.delay_flights[month]
        table.add_row(
            MONTHS[month - 1],
            f"{flights:,}",
            f"{minutes / flights:.4f}" if flights else "none",
            f"{theirs[0] / theirs[1]:.4f}",
            "=" if (minutes, flights) == theirs else "DIFFERS",
        )
    return table


def as_dict(result: Result, picture: Path) -> dict[str, Any]:
    """The report for machines."""
    counted, seen = result.counted, result.seen
    return {
        "passed": result.passed,
        "data": str(result.data),
        "store": str(result.store),
        "picture": str(picture),
        "records": {"in": counted.flights, "out": seen.flights},
        "bytes": {"in": result.bytes_in, "out": seen.size, "stored": result.bytes_stored},
        "rates": [
            {"name": r.name, "records": r.records, "bytes": r.size, "seconds": r.seconds}
            for r in result.rates
        ],
        "carriers": {
            carrier: {"log": seen.by_carrier[carrier], "csv": n} for carrier, n in counted.by_carrier.items()
        },
        "delays": {
            month: {
                "log": result.delays.get(month),
                "csv": [counted.delay_minutes[month], counted.delay_flights[month]],
            }
            for month in sorted(counted.delay_flights)
        },
        "seek": {"time": f"{SEEK_TIME}Z", "offsets": result.seek_offsets, "seconds": result.seek_seconds},
        "checks": [{"name": c.name, "passed": c.passed, "detail": c.detail} for c in result.checks],
    }
