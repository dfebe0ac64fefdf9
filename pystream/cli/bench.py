"""`pystream bench`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from pystream import options as opt
from pystream._native.limits import CODECS, DURABILITIES
from pystream.benchmark.plan import (
    BATCH_MAX,
    CREW_MAX,
    PASSES_MAX,
    RATE_MAX,
    SECONDS_MAX,
    SECONDS_MIN,
    SEED_DEFAULT,
    SEED_MAX,
    SIZE_BYTES_MAX,
    TOTAL_BYTES_MAX,
    Plan,
)
from pystream.cli.common import (
    EXIT_FAILED,
    EXIT_USAGE,
    SuggestingGroup,
    fail,
    json_option,
    need,
    option_value,
    progress_bar,
    quiet_option,
    say,
    show_json,
)

if TYPE_CHECKING:
    from pystream.benchmark.run import Show

SECONDS_DEFAULT: Final = 5.0
RATE_DEFAULT: Final = 1000.0


@click.group(cls=SuggestingGroup)
def bench() -> None:
    """Measure pystream on this machine and this disk.

    Each makes a scratch store of its own in a directory (the current one unless you name another, which may
    be a store: its topics are not touched), does its work in processes of its own, and removes the store.

    \b
    Examples:
      pystream bench produce
      pystream bench latency /mnt/fast --rate 10000 --plot latency.png
    """


# ---- options --------------------------------------------------------------------------------------------


def _parse_size(value: Any) -> int:
    return opt.parse_size("size", value, minimum=1, maximum=SIZE_BYTES_MAX)


def _parse_total(value: Any) -> int:
    return opt.parse_size("bytes", value, minimum=1, maximum=TOTAL_BYTES_MAX)


def _parse_seconds(value: Any, least: float = SECONDS_MIN) -> float:
    text = f"{value}s" if str(value).replace(".", "", 1).isdecimal() else value
    low, high = int(least * 1e9), int(SECONDS_MAX * 1e9)
    return opt.parse_duration("duration", text, minimum=low, maximum=high) / 1e9


def _parse_warmup(value: Any) -> float:
    return _parse_seconds(value, 0)


def _options(*wanted: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several decorators as one, applied from the last to the first, as they are listed in the help."""

    def decorate(function: Any) -> Any:
        for each in reversed(wanted):
            function = each(function)
        return function

    return decorate


_directory = click.argument(
    "directory", type=click.Path(path_type=Path), default=Path("."), metavar="[DIRECTORY]"
)
_size = click.option(
    "--size",
    metavar="SIZE",
    callback=option_value(_parse_size),
    help="Bytes of a record's value, up to 16MiB; 100 by default, of JSON events 256.",
)
_shape = click.option(
    "--shape",
    type=click.Choice(["random", "json", "ticks"]),
    default="random",
    show_default=True,
    help="random: bytes that do not compress; json: events that LZ4 makes a quarter of; ticks: structured "
    "rows of 24 bytes in a topic with a dtype.",
)
_keys = click.option(
    "--keys",
    type=click.Choice(["none", "uniform", "hot"]),
    default="none",
    show_default=True,
    help="Keys of records, of 10,000: each as likely, or by Zipf's law, the first in a tenth of all.",
)
_batch = click.option(
    "--batch",
    type=click.IntRange(1, BATCH_MAX),
    metavar="N",
    help="Records of a call of append or send_many, 1,000 by default; with send, of a batch at most.",
)
_codec = click.option(
    "--codec", type=click.Choice(sorted(CODECS)), default="none", show_default=True, help="Codec of batches."
)
_partitions = click.option(
    "--partitions",
    type=int,
    default=1,
    show_default=True,
    metavar="N",
    callback=option_value(opt.parse_partitions),
    help="Partitions of the topic, up to 65,536.",
)
_crew = _options(
    click.option(
        "--threads",
        type=click.IntRange(1, CREW_MAX),
        default=1,
        show_default=True,
        metavar="N",
        help="Threads of each process.",
    ),
    click.option(
        "--processes",
        type=click.IntRange(1, CREW_MAX),
        default=1,
        show_default=True,
        metavar="N",
        help="Processes.",
    ),
)
_durability = click.option(
    "--durability",
    type=click.Choice(sorted(DURABILITIES)),
    default="interval",
    show_default=True,
    help="Durability of the topic: what it means that a record is acknowledged.",
)
_duration = click.option(
    "--duration",
    metavar="TIME",
    callback=option_value(_parse_seconds),
    help="How long, such as 10 or 500ms; 5 seconds by default.",
)
_bytes = click.option(
    "--bytes",
    "total",
    metavar="SIZE",
    callback=option_value(_parse_total),
    help="How much instead of how long: bytes of values, such as 2GiB.",
)
_rate = click.option(
    "--rate",
    type=click.FloatRange(0, RATE_MAX, min_open=True),
    metavar="N",
    help="Records a second of all writers together, in an open loop; as fast as it goes by default.",
)
_seed = click.option(
    "--seed",
    type=click.IntRange(0, SEED_MAX),
    default=SEED_DEFAULT,
    show_default=True,
    metavar="N",
    help="The same seed makes the same records.",
)
_plot = click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.png",
    help="Draw the figures, too.",
)
_output = _options(_seed, _plot, json_option, quiet_option)


# ---- the commands ---------------------------------------------------------------------------------------


@bench.command()
@_directory
@_options(_size, _shape, _keys, _batch, _codec, _partitions, _crew, _durability, _duration, _bytes, _rate)
@click.option(
    "--call",
    type=click.Choice(["append", "send", "send_many"]),
    default="append",
    show_default=True,
    help="append: a batch into one partition after the other; send: records one by one through a producer; "
    "send_many: a batch through a producer.",
)
@_output
def produce(directory: Path, **given: Any) -> None:
    """Write, and end with flush: what is counted is acknowledged.

    As fast as it goes, or at a rate. Beside it stands the floor: a checksum and a copy of random bytes into a
    file, by one thread.

    \b
    Examples:
      pystream bench produce
      pystream bench produce --call send --size 16 --duration 10s
      pystream bench produce --shape json --codec lz4 --threads 2 --partitions 2
      pystream bench produce --shape ticks --bytes 1GiB --plot produce.png
    """
    _refuse_both(given)
    _go("produce", directory, given)


@bench.command()
@_directory
@_options(_size, _shape, _keys, _batch, _codec, _partitions, _crew, _durability)
@click.option(
    "--bytes",
    "total",
    metavar="SIZE",
    default="512MiB",
    show_default=True,
    callback=option_value(_parse_total),
    help="How much to read: bytes of values.",
)
@click.option(
    "--as",
    "reading",
    type=click.Choice(["records", "batches", "arrays"]),
    default="records",
    show_default=True,
    help="How it is read: each record, its value looked at; batches as they lie in the file; or arrays.",
)
@click.option(
    "--passes",
    type=click.IntRange(1, PASSES_MAX),
    default=1,
    show_default=True,
    metavar="N",
    help="How often; all passes after the first are a figure of their own.",
)
@click.option(
    "--cold", is_flag=True, help="Sync the files and have the kernel drop their pages before the first pass."
)
@click.option("--fan-out", is_flag=True, help="Each reader reads all; else they share out the partitions.")
@_output
def consume(directory: Path, **given: Any) -> None:
    """Fill a topic, then read it from its beginning to its end.

    Beside it stands the floor: one pass of the checksum over the same files, by one thread.

    \b
    Examples:
      pystream bench consume
      pystream bench consume --as batches --cold --bytes 2GiB
      pystream bench consume --as arrays --shape ticks --passes 5
      pystream bench consume --processes 2 --partitions 2
    """
    _go("consume", directory, given)


@bench.command()
@_directory
@_options(_size, _durability, _duration)
@click.option(
    "--batch",
    type=click.IntRange(1, BATCH_MAX),
    default=1,
    show_default=True,
    metavar="N",
    help="Records of an append.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0, RATE_MAX, min_open=True),
    default=RATE_DEFAULT,
    show_default=True,
    metavar="N",
    help="Records a second, in an open loop.",
)
@click.option(
    "--wait",
    type=click.Choice(["both", "spin", "block"]),
    default="both",
    show_default=True,
    help="How the consumer waits: looking again and again, or asleep; or one after the other.",
)
@click.option(
    "--warmup",
    metavar="TIME",
    default="500ms",
    show_default=True,
    callback=option_value(_parse_warmup),
    help="How long before latencies count, in addition to the duration.",
)
@_output
def latency(directory: Path, **given: Any) -> None:
    """From an append to a consumer in another process.

    Times run until the consumer holds the record. Each append is due at a fixed time, whatever happened to
    those before, and latency counts from then: a stall is felt by every record that was due in it
    (coordinated omission is avoided).

    \b
    Examples:
      pystream bench latency
      pystream bench latency --rate 20000 --wait spin --duration 30s --plot latency.png
    """
    _go("latency", directory, given)


@bench.command()
@_directory
@_options(_size, _keys, _partitions, _crew, _duration, _bytes, _rate)
@click.option(
    "--batch",
    type=click.IntRange(1, BATCH_MAX),
    default=1,
    show_default=True,
    metavar="N",
    help="Records of an append.",
)
@click.option(
    "--by",
    type=click.Choice(["sync", "flush"]),
    default="sync",
    show_default=True,
    help="sync: a topic whose appends return when the disk has them; flush: flush(durable=True) after each.",
)
@_output
def durable(directory: Path, **given: Any) -> None:
    """Append so that the disk has it when the call returns. Several writers share syncs.

    Beside it stands the floor: a bare loop of pwrite and fdatasync of as many bytes, by one thread.

    \b
    Examples:
      pystream bench durable
      pystream bench durable --threads 8 --plot durable.png
      pystream bench durable --by flush --batch 100 --rate 1000
    """
    _refuse_both(given)
    by = given.pop("by")
    call, durability = ("append", "sync") if by == "sync" else ("flush", "interval")
    _go("durable", directory, given | {"call": call, "durability": durability})


def _refuse_both(given: dict[str, Any]) -> None:
    if given["duration"] is not None and given["total"] is not None:
        raise click.UsageError("--duration and --bytes: give one of them; either says when to end")


# ---- a run ----------------------------------------------------------------------------------------------


def _go(mode: str, directory: Path, given: dict[str, Any]) -> None:
    """Check the options, run, and show what came out."""
    plot, as_json, quiet = (given.pop(name) for name in ("plot", "as_json", "quiet"))
    need("bench", "hdrh", *(["matplotlib"] if plot is not None else []))
    if plot is not None:
        _check_plot(plot)
    wait = given.pop("wait", None)
    waits = ["spin", "block"] if wait == "both" else [wait]
    from pystream.benchmark import BenchmarkError, run
    from pystream.benchmark.scratch import scratch_directory

    try:
        plan = _plan(mode, given)
    except BenchmarkError as error:
        raise click.UsageError(str(error)) from None
    with _ended_by_signals(), _shown(quiet) as show:
        try:
            with scratch_directory(directory) as scratch:
                if mode == "latency":
                    report = run.latency(plan, waits, scratch, show)
                else:
                    report = {"produce": run.produce, "consume": run.consume, "durable": run.durable}[mode](
                        plan, scratch, show
                    )
        except BenchmarkError as error:
            fail(EXIT_FAILED, str(error))
    if as_json:
        show_json(report.as_dict())
    else:
        from pystream.cli.benchreport import show_report

        show_report(report)
    if plot is not None:
        from pystream.benchmark.plot import save_picture

        save_picture(report, plot)
        if not quiet:
            say(f"wrote {plot}")


def _check_plot(path: Path) -> None:
    """Refuse before the run what would fail after it."""
    if path.suffix.lower() != ".png":
        fail(EXIT_USAGE, f"--plot {path}: the picture is a PNG; give a name that ends with .png")
    if not path.parent.is_dir():
        fail(EXIT_USAGE, f"--plot {path}: there is no directory {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        fail(EXIT_USAGE, f"--plot {path}: cannot be written")


def _plan(mode: str, given: dict[str, Any]) -> Plan:
    """The options as the benchmark takes them, checked."""
    from pystream.benchmark import plan

    duration, total = given.pop("duration", None), given.pop("total", None)
    if mode != "consume" and duration is None and total is None:
        duration = SECONDS_DEFAULT
    shape = given.get("shape", "random")
    sizes = {"random": plan.RANDOM_BYTES_DEFAULT, "json": plan.JSON_BYTES_DEFAULT, "ticks": plan.TICK_BYTES}
    size = given.pop("size")
    made = plan.Plan(
        mode=mode, seconds=duration, total_bytes=total, size=sizes[shape] if size is None else size, **given
    )
    return made.check()


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Be ended by SIGTERM and SIGHUP as by ^C: after removing what was made. What is ignored stays so."""

    def end(number: int, frame: object) -> None:
        sys.exit(128 + number)

    heard = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is signal.SIG_DFL]
    for number in heard:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def _shown(quiet: bool) -> Iterator[Show]:
    """Progress on standard error, where that is a terminal."""
    if quiet:
        yield lambda step, done, total, records: None
        return
    from rich.progress import BarColumn, TextColumn

    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[records]:,} records"),
        TextColumn("{task.fields[rate]}"),
    ]
    with progress_bar(*columns) as bar:
        task = bar.add_task("", total=None, records=0, rate="")

        def show(step: str, done: float, total: float | None, records: int) -> None:
            if bar.tasks[0].description != step:
                bar.reset(task, total=total, description=step, records=0, rate="")
            seconds = bar.tasks[0].elapsed or 0
            rate = f"{records / seconds:,.0f} records/s" if records and seconds else ""
            bar.update(task, completed=done, total=total, records=records, rate=rate)

        yield show
