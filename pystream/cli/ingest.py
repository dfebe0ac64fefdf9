"""`pystream ingest`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

import pystream
from pystream._native.limits import CODECS
from pystream.cli.common import (
    EXIT_DIFFERS,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    bytes_text,
    error_text,
    fail,
    json_option,
    need,
    open_store,
    option_value,
    parse_dtype_text,
    quiet_option,
    say,
    show_json,
    store_argument,
    topic_argument,
    warn,
)
from pystream.cli.transfer import Bar, Typed

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

    from pystream.ingest import BadRow, Result

BAD_ROWS_SHOWN: Final = 10

_as_typed: Final = Typed(
    "format compression delimiter quote columns types key timestamp timestamp_format timestamp_unit timezone "
    "value value_column partition bad_rows bad_rows_to resume restart checkpoint dtype".split(),
    {"types": "type", "checkpoint": "checkpoint-every"},
)


@click.command()
@store_argument
@topic_argument
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option(
    "--format",
    type=click.Choice(["csv", "jsonl", "parquet", "arrow", "arrow-stream"]),
    help="Of all sources; by each one's name or first bytes when left out. arrow: IPC file, Feather.",
)
@click.option(
    "--compression",
    "codec",
    type=click.Choice(["none", "gzip", "zstd", "bz2", "lz4"]),
    help="Of all sources (csv, jsonl, arrow-stream); by each one's name or first bytes when left out.",
)
@click.option("--delimiter", metavar="CHAR", help=r"Between CSV fields; tab (\t) for .tsv, else a comma.")
@click.option("--quote", metavar="CHAR", default='"', help='Around CSV fields; "" for none.  [default: "]')
@click.option("--columns", metavar="NAME,...", help="Names of the columns of CSV files without a header.")
@click.option(
    "--type",
    "types",
    metavar="NAME=TYPE",
    multiple=True,
    help="What a CSV column holds: string, number or bool; NAME * is every column. Judged by the first "
    "4 MiB when left out. Repeatable.",
)
@click.option("--key", metavar="COLUMN", help="The column whose text is the key.")
@click.option(
    "--timestamp", metavar="COLUMN", help="The column of timestamps; the present moment when left out."
)
@click.option(
    "--timestamp-format", metavar="FORMAT", help="Of text that is not ISO 8601, as for strptime: %d/%m/%Y."
)
@click.option(
    "--timestamp-unit", type=click.Choice(["s", "ms", "us", "ns"]), help="Of timestamps that are numbers."
)
@click.option(
    "--timezone", metavar="ZONE", default="UTC", show_default=True, help="Of timestamps that name none."
)
@click.option(
    "--value",
    type=click.Choice(["json", "raw"]),
    help="json: the row as an object; raw: the line as it is (csv, jsonl).  [default: json]",
)
@click.option("--value-column", metavar="COLUMN", help="The value is this column's text alone.")
@click.option(
    "-p", "--partition", type=int, help="Where all rows go; by key, or without one in turn, when left out."
)
@click.option("--create", is_flag=True, help="Make the topic, and the store, if they are not there.")
@click.option("--partitions", type=int, help="With --create: how many; 1 by default.")
@click.option(
    "--topic-compression",
    type=click.Choice(sorted(CODECS)),
    help="With --create: codec of the topic's batches.",
)
@click.option(
    "--dtype",
    metavar="DTYPE|infer",
    callback=option_value(lambda text: text if text == "infer" else parse_dtype_text(text)),
    help="With --create: make values records of this dtype, as ts:M8[ns],px:f8; infer: by the first source.",
)
@click.option(
    "--bad-rows",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="What a row does that cannot become a record.",
)
@click.option(
    "--bad-rows-to",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Keep skipped rows there, as JSON lines.",
)
@click.option(
    "--resume", is_flag=True, help="Go on where an interrupted run stopped; take in what was appended."
)
@click.option("--restart", is_flag=True, help="Begin anew, although rows are in the topic already.")
@click.option(
    "--checkpoint-every",
    "checkpoint",
    metavar="TIME",
    default="2s",
    show_default=True,
    help="How much work at most a --resume does twice over.",
)
@json_option
@quiet_option
def ingest(
    store: Path,
    topic: str,
    sources: tuple[str, ...],
    create: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Take the rows of files into TOPIC, one record a row.

    SOURCE is a CSV, JSON lines, Parquet or Arrow file, a pattern in quotes, or - for standard input.
    Interrupted at any moment, --resume goes on without losing a row or writing one twice. A topic with a
    dtype gets structured records: its fields take the columns of their names.

    Exit code 1: a row is bad, or a source is not what it should be.

    \b
    Examples:
      pystream ingest events.ps trips trips.csv --create --key vehicle --timestamp started
      pystream ingest events.ps logs 'logs-*.jsonl.gz' --bad-rows skip --bad-rows-to bad.jsonl
      pystream ingest events.ps ticks ticks.parquet --create --dtype infer --timestamp ts
    """
    need("arrow", "pyarrow")
    from pystream.ingest import BadRowError, JobBusyError, SourceError
    from pystream.ingest import ingest as take

    made = {name: options.pop(name) for name in ("partitions", "topic_compression", "dtype")}
    _check_usage(create, made)
    options = _as_taken(options)
    bad = _BadRows()
    try:
        bar = Bar(quiet or as_json, _bar_columns)
        with _open(store, topic, sources, create, made, options) as opened, bar:
            result = take(
                opened[topic],
                sources,
                on_progress=lambda now: bar.show("ingesting", now.bytes, now.bytes_total, now.rows),
                on_bad_row=bad.add,
                **options,
            )
    except BadRowError as error:
        fail(EXIT_DIFFERS, f"{_as_typed(str(error))}\n{_what_now(sources)}")
    except SourceError as error:
        fail(EXIT_DIFFERS, _as_typed(error_text(error)))
    except JobBusyError as error:
        fail(EXIT_FAILED, str(error))
    except pystream.OptionError as error:
        fail(EXIT_USAGE, _as_typed(error_text(error)))
    except KeyboardInterrupt:
        again = "" if "-" in sources else "; --resume goes on from there"
        fail(EXIT_INTERRUPTED, f"interrupted; what was read up to the last checkpoint is in the topic{again}")
    finally:
        bad.tell_rest()
    if result.unused_columns:
        warn(
            "columns that the topic's dtype has no field for are left out: "
            + ", ".join(result.unused_columns)
        )
    if as_json:
        show_json(_document(result))
    elif not quiet:
        say(_summary(result))


def _check_usage(create: bool, made: dict[str, Any]) -> None:
    given = [f"--{name.replace('_', '-')}" for name, value in made.items() if value is not None]
    if given and not create:
        raise click.UsageError(f"{given[0]} is for a topic that is made here: add --create")


def _as_taken(options: dict[str, Any]) -> dict[str, Any]:
    """What was typed, as the library takes it."""
    types = {}
    for item in options.pop("types"):
        name, equals, kind = item.rpartition("=")
        if not equals or kind not in ("string", "number", "bool"):
            raise click.UsageError(f"--type {item}: write NAME=string, NAME=number or NAME=bool")
        types[name] = kind
    columns, delimiter = options.pop("columns"), options.pop("delimiter")
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", options["checkpoint"]):
        options["checkpoint"] = float(options["checkpoint"])
    return {
        "types": types,
        "compression": options.pop("codec"),
        "quote": options.pop("quote") or None,
        "delimiter": "\t" if delimiter in ("\\t", "tab") else delimiter,
        "columns": None if columns is None else [name.strip() for name in columns.split(",")],
        **options,
    }


def _open(
    path: Path,
    topic: str,
    sources: tuple[str, ...],
    create: bool,
    made: dict[str, Any],
    options: dict[str, Any],
) -> pystream.Store:
    """The store, with the topic in it. Nothing is made before the sources were found."""
    if not create:
        return open_store(path)
    from pystream.ingest import infer_dtype
    from pystream.ingest.plan import Plan
    from pystream.ingest.sources import find_sources

    how = {name: options[name] for name in ("format", "compression", "delimiter", "quote", "columns")}
    find_sources(sources, Plan(format=how["format"], compression=how["compression"]))
    dtype = infer_dtype(sources, **how) if isinstance(made["dtype"], str) else made["dtype"]
    opened = open_store(path, create=True)
    try:
        opened.topic(
            topic,
            create=True,
            partitions=made["partitions"],
            compression=made["topic_compression"],
            dtype=dtype,
        )
    except BaseException:
        opened.close()
        raise
    return opened


def _what_now(sources: tuple[str, ...]) -> str:
    if "-" in sources:
        return "pystream: rows before it may be in the topic; --bad-rows skip passes over bad rows"
    return "pystream: rows before it are in the topic or will be; go on with --resume --bad-rows skip"


# ---- what is shown ------------------------------------------------------------------------------------


class _BadRows:
    """Tells of the first bad rows as they come, and of the others by their number."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, row: BadRow) -> None:
        self._count += 1
        if self._count <= BAD_ROWS_SHOWN:
            warn(f"skipped {_as_typed(str(row))}")

    def tell_rest(self) -> None:
        if self._count > BAD_ROWS_SHOWN:
            warn(f"skipped {self._count - BAD_ROWS_SHOWN:,} more bad rows")


def _bar_columns() -> list[ProgressColumn]:
    from rich.progress import BarColumn, DownloadColumn, TextColumn

    return [
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:>3.0f}%"),
        DownloadColumn(binary_units=True),
    ]


def _summary(result: Result) -> str:
    if result.complete_before:
        return "nothing to do: all of it is in the topic already"
    rows = "1 row" if result.rows == 1 else f"{result.rows:,} rows"
    rate = f", {result.rows / result.seconds:,.0f} rows/s" if result.seconds > 0 else ""
    before = result.rows_total - result.rows
    resumed = f", {before:,} before" if result.resumed and before else ""
    bad = f", {result.bad_rows:,} bad row{'s' * (result.bad_rows != 1)} skipped" if result.bad_rows else ""
    return f"{rows}, {bytes_text(result.bytes)} read in {result.seconds:.2f} s{rate}{resumed}{bad}"


def _document(result: Result) -> dict[str, Any]:
    return {
        "topic": result.topic,
        "sources": result.sources,
        "rows": result.rows,
        "rows_total": result.rows_total,
        "bad_rows": result.bad_rows,
        "bytes": result.bytes,
        "seconds": round(result.seconds, 6),
        "resumed": result.resumed,
        "complete_before": result.complete_before,
        "partitions": {str(partition): count for partition, count in sorted(result.partitions.items())},
        "unused_columns": result.unused_columns,
    }
