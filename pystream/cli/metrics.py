"""`pystream metrics`."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pystream.cli.common import (
    TopicType,
    need,
    open_store,
    quiet_option,
    say,
    store_argument,
)

if TYPE_CHECKING:
    from pystream.metrics import Collector


def _address(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[str, int] | None:
    """HOST:PORT, [HOST]:PORT, :PORT (every address of the machine) or PORT (this machine only)."""
    if text is None:
        return None
    host, colon, number = text.rpartition(":")
    if not number.isdecimal() or not number.isascii() or int(number) > 65535:
        raise click.BadParameter(f"{text!r}: give HOST:PORT, :PORT or PORT, as in 127.0.0.1:9308", ctx, param)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise click.BadParameter(f"{text!r}: put an IPv6 address into brackets, as in [::1]:9308", ctx, param)
    return (host or ("0.0.0.0" if colon else "127.0.0.1")), int(number)


@click.command()
@store_argument
@click.option(
    "--listen",
    metavar="[HOST:]PORT",
    callback=_address,
    help="Serve them by HTTP until interrupted, to Prometheus for one, instead of printing them. :PORT is "
    "every address of the machine, PORT alone this machine only, PORT 0 any that is free.",
)
@click.option(
    "-t", "--topic", "topics", type=TopicType(), multiple=True, help="Only this topic; may be given again."
)
@click.option(
    "--partitions/--no-partitions",
    default=True,
    help="Each partition by itself (the default), or sums over those of a topic.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["openmetrics", "prometheus"]),
    default="openmetrics",
    show_default=True,
    help="What to print; who asks by HTTP says what it wants.",
)
@quiet_option
def metrics(
    store: Path,
    listen: tuple[str, int] | None,
    topics: tuple[str, ...],
    partitions: bool,
    form: str,
    quiet: bool,
) -> None:
    """Print the numbers of a store as OpenMetrics text, or serve them to Prometheus.

    Nothing is written: it runs beside the programs that use the store. What those count for themselves
    (appends, syncs, deliveries) they serve by pystream.metrics.Collector.

    \b
    Examples:
      pystream metrics events.ps
      pystream metrics events.ps --listen :9308 --no-partitions
    """
    need("metrics", "prometheus_client")
    from pystream.metrics import Collector, text_of

    with open_store(store, read_only=True) as opened:
        for name in topics:
            opened.topic(name)  # says that there is none, and what was perhaps meant
        collector = Collector(opened, topics=topics or None, partitions=partitions)
        if listen is None:
            click.echo(text_of(collector, plain=form == "prometheus"), nl=False)
        else:
            _serve(collector, *listen, quiet=quiet)


def _serve(collector: Collector, host: str, port: int, *, quiet: bool) -> None:
    """Serve until SIGINT or SIGTERM."""
    from pystream.metrics import serve

    over = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: over.set())
    try:
        try:
            port, end = serve(collector, host, port)
        except OSError as error:
            error.filename = f"{host}:{port}"
            raise
        try:
            if not quiet:
                shown = f"[{host}]" if ":" in host else host
                say(f"serving http://{shown}:{port}/metrics until interrupted")
            over.wait()
        finally:
            end()
    finally:
        signal.signal(signal.SIGTERM, before)
