"""What `pystream bench` prints for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pystream.benchmark.histogram import time_text
from pystream.benchmark.run import MEANINGS
from pystream.cli.common import Column, bytes_text, show_facts, show_table, warn

if TYPE_CHECKING:
    from pystream.benchmark.plan import Plan
    from pystream.benchmark.run import Report

_SHAPES = {"random": "random bytes", "json": "JSON events", "ticks": "structured ticks"}


def show_report(report: Report) -> None:
    """Print the machine, the options, throughput, latencies, floors; notes, which may be warnings."""
    show_facts(_facts(report))
    click.echo()
    if report.benchmark != "latency":
        _show_throughput(report)
        click.echo()
    _show_latencies(report)
    click.echo()
    for floor in report.floors:
        if floor.unit == "bytes":
            click.echo(f"floor: {floor.name}: {floor.per_second / 1e6:,.1f} MB/s")
        else:
            click.echo(f"floor: {floor.name}: {floor.per_second:,.1f} writes/s")
    if report.durable_seconds is not None:
        after = max(report.durable_seconds - report.results[0].seconds, 0)
        click.echo(f"the disk had all of it {after:.3f} s after the last acknowledgement")
    for note in report.notes:
        click.echo(note)
    for warning in report.warnings:
        warn(warning)


def _facts(report: Report) -> list[tuple[str, str]]:
    plan, machine, versions = report.plan, report.machine, report.versions
    cpus, memory = machine["cpus_usable"], bytes_text(machine["memory_bytes"])
    crew = ("readers" if report.benchmark == "consume" else "writers", _crew_text(plan))
    if report.benchmark == "latency":
        crew = ("pace", f"{plan.rate:,.0f} records/s, {plan.batch_records:,} to an append")
    return [
        ("machine", f"{machine['processor']}, {cpus} CPU{'s' * (cpus > 1)}, {memory}"),
        ("system", f"Linux {machine['kernel']}, {machine['filesystem']}"),
        ("load average", f"{machine['load_average']} before, {machine['load_average_after']} after"),
        ("pystream", f"{versions['pystream']}, Python {versions['python']}, NumPy {versions['numpy']}"),
        ("records", _records_text(plan)),
        crew,
        ("durability", f"{plan.durability}: {MEANINGS[plan.durability]}"),
    ]


def _records_text(plan: Plan) -> str:
    keys = "" if plan.keys == "none" else f", {plan.keys} keys"
    codec = "" if plan.codec == "none" else f", {plan.codec}"
    many = f"{plan.partitions:,} partition{'s' * (plan.partitions > 1)}"
    return f"{plan.size:,} bytes, {_SHAPES[plan.shape]}{keys}{codec}, {many}, seed {plan.seed}"


def _crew_text(plan: Plan) -> str:
    rate = "" if plan.rate is None else f", {plan.rate:,.0f} records/s"
    if plan.crew == 1:
        return f"1{rate}"
    processes = f"{plan.processes} process{'es' * (plan.processes > 1)}"
    return f"{plan.crew}: {processes} of {plan.threads} thread{'s' * (plan.threads > 1)}{rate}"


def _show_throughput(report: Report) -> None:
    columns = [
        Column("Throughput"),
        Column("Records", True, rank=2),
        Column("Seconds", True, rank=3),
        Column("Records/s", True),
        Column("MB/s", True),
        Column("MB/s stored", True, rank=1),
        Column("Of the floor", True),
    ]
    rows = []
    for result in report.results:
        assert result.stored is not None
        rows.append(
            (
                result.name,
                f"{result.records:,}",
                f"{result.seconds:,.3f}",
                f"{result.records_per_second:,.0f}",
                f"{result.size / result.seconds / 1e6:,.1f}",
                f"{result.stored / result.seconds / 1e6:,.1f}",
                "-" if result.ratio is None else f"{result.ratio:.2f}",
            )
        )
    show_table(columns, rows)


def _show_latencies(report: Report) -> None:
    columns = [Column("Latency"), Column("Of", rank=1), Column("Count", True, rank=2)]
    columns += [Column(name, True) for name in ("p50", "p90", "p99", "p99.9", "Max")]
    found = [(result.name, result.latency_of, result.latencies) for result in report.results]
    for floor in report.floors:
        if floor.latencies is not None:
            found.append(("floor", floor.name, floor.latencies))
    rows = [
        (name, of, f"{each.count:,}", *map(time_text, [*each.percentiles_ns(), each.max_ns]))
        for name, of, each in found
    ]
    show_table(columns, rows)
