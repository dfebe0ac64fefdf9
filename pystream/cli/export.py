"""`pystream export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

import pystream
from pystream.cli.common import (
    EXIT_DIFFERS,
    EXIT_USAGE,
    PLACE,
    bytes_text,
    error_text,
    fail,
    json_option,
    need,
    open_store,
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

    from pystream.export import ExportResult

BAD_SHOWN: Final = 10

_as_typed: Final = Typed(
    "value key format columns schema bad_values split by rows_per_file compression delimiter start stop "
    "partition max_records overwrite".split(),
    {"start": "from", "stop": "until", "max_records": "max"},
)


@click.command()
@store_argument
@topic_argument
@click.argument("output", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--format",
    type=click.Choice(["parquet", "csv", "jsonl", "arrow", "arrow-stream", "feather"]),
    help="How to write; by the name of OUTPUT when left out. arrow: IPC file; arrow-stream: IPC stream.",
)
@click.option(
    "--compression",
    metavar="CODEC",
    help="csv, jsonl: none, gzip, zstd (by .gz and .zst when left out). parquet: snappy (default), none, "
    "gzip, zstd, lz4, brotli. arrow, arrow-stream, feather: none, lz4, zstd.",
)
@click.option("--from", "start", type=PLACE, default="earliest", help="Where to begin.  [default: earliest]")
@click.option(
    "--until", "stop", type=PLACE, help="Where to end, not included.  [default: the end as it is now]"
)
@click.option("-p", "--partition", "partitions", type=int, multiple=True, help="Only this one; repeatable.")
@click.option("--max", "most", type=click.IntRange(min=0), help="At most so many records.")
@click.option(
    "--columns",
    metavar="NAME,...",
    help="Which, in order: offset, partition, timestamp, key, value, headers, or names of fields; value "
    "stands for all fields.",
)
@click.option(
    "--value",
    type=click.Choice(["bytes", "utf8", "base64", "hex", "json"]),
    help="How values are written; json: their fields become columns (in jsonl: values are embedded).  "
    "[default: utf8 for csv and jsonl, else bytes]",
)
@click.option(
    "--key",
    type=click.Choice(["bytes", "utf8", "base64", "hex"]),
    help="How keys are written.  [default: utf8 for csv and jsonl, else bytes]",
)
@click.option(
    "--schema",
    metavar="NAME:TYPE,...",
    help="Fields and types of JSON values, instead of looking through all of them first. Ends in ,... to "
    "leave other fields out.",
)
@click.option(
    "--bad-values",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="What a record does that cannot be written so.",
)
@click.option("--delimiter", metavar="CHARACTER", help="Between cells of csv; tab for .tsv, else a comma.")
@click.option(
    "--split", type=click.Choice(["partition"]), help="Make OUTPUT a directory, a file a partition."
)
@click.option(
    "--by",
    type=click.Choice(["day", "hour"]),
    help="Make OUTPUT a directory, with one for each day (date=2026-01-31) or hour of the timestamps, UTC.",
)
@click.option(
    "--rows-per-file",
    type=click.IntRange(min=1),
    metavar="N",
    help="Make OUTPUT a directory, at most N rows a file.",
)
@click.option("--overwrite", is_flag=True, help="Replace what is at OUTPUT.")
@json_option
@quiet_option
def export(
    store: Path,
    topic: str,
    output: Path,
    start: Any,
    stop: Any,
    partitions: tuple[int, ...],
    most: int | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Write records of TOPIC to OUTPUT: Parquet, CSV, JSON lines or Arrow. "-" is standard output.

    The end is the one of the moment when the export begins. OUTPUT appears when it is complete, and not
    at all when something goes wrong.

    \b
    Examples:
      pystream export events.ps clicks clicks.parquet
      pystream export events.ps clicks today.csv.gz --from 2026-01-31 --value json
      pystream export events.ps clicks clicks/ --format parquet --by day
    """
    need("arrow", "pyarrow")
    is_stdout = str(output) == "-"
    if is_stdout and as_json:
        fail(EXIT_USAGE, "--json prints to standard output, where the records go: name a file")
    from pystream.export import BadRecordError, OutputExistsError
    from pystream.export import export as write

    bad = _Bad(topic)
    try:
        with open_store(store, read_only=True) as opened, Bar(quiet, _bar_columns) as bar:
            result = write(
                opened.topic(topic),
                sys.stdout.buffer if is_stdout else output,
                start=start,
                stop=stop,
                partitions=partitions or None,
                max_records=most,
                progress=lambda now: bar.show(
                    "looking for fields" if now.step == "schema" else "exporting",
                    now.done,
                    now.total,
                    now.records,
                ),
                on_bad=bad.add,
                **options,
            )
    except BadRecordError as error:
        fail(EXIT_DIFFERS, _as_typed(error_text(error)))
    except (pystream.OptionError, OutputExistsError) as error:
        fail(EXIT_USAGE, _as_typed(error_text(error)))
    finally:
        bad.tell()
    if as_json:
        show_json(_document(result))
    if not quiet:
        say(_summary(result))


class _Bad:
    """Tells of the first records that are left out; all are counted."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._told: list[str] = []
        self._count = 0

    def add(self, partition: int, offset: int, reason: str) -> None:
        self._count += 1
        if self._count <= BAD_SHOWN:
            self._told.append(f"skipped {self._topic}/{partition} offset {offset}: {reason}")

    def tell(self) -> None:
        for line in self._told:
            warn(line)
        if self._count > BAD_SHOWN:
            warn(f"skipped {self._count - BAD_SHOWN:,} more like these")


def _bar_columns() -> list[ProgressColumn]:
    from rich.progress import BarColumn, TextColumn

    return [
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
    ]


def _summary(result: ExportResult) -> str:
    rate = f", {result.records / result.seconds:,.0f} rows/s" if result.seconds > 0 else ""
    files = f" in {len(result.files):,} files" if len(result.files) > 1 else ""
    size = f", {bytes_text(result.bytes)}" if result.bytes else ""
    skipped = f", {result.skipped:,} skipped" if result.skipped else ""
    return f"{_rows(result.records)}{files}{size} in {result.seconds:.2f} s{rate}{skipped}"


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def _document(result: ExportResult) -> dict[str, Any]:
    return {
        "records": result.records,
        "skipped": result.skipped,
        "bytes": result.bytes,
        "seconds": round(result.seconds, 6),
        "columns": list(result.columns),
        "offsets": {
            str(partition): {"start": start, "stop": stop}
            for partition, (start, stop) in result.offsets.items()
        },
        "files": [{"path": file.path, "records": file.records, "bytes": file.bytes} for file in result.files],
    }
