"""`pystream export`."""

from __future__ import annotations

import re
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
    progress_bar,
    quiet_option,
    say,
    show_json,
    store_argument,
    topic_argument,
    warn,
)

if TYPE_CHECKING:
    from pystream.export import ExportResult, Progress

BAD_SHOWN: Final = 10

# What the library calls an option, where the command line calls it otherwise.
_NAMES: Final = {"start": "from", "stop": "until", "partition": "partition", "max_records": "max"}
_OPTION: Final = re.compile(
    r"(?<![\w/])(value|key|format|columns|schema|bad_values|split|by|rows_per_file|compression|delimiter|start"
    r"""|stop|partition|max_records|overwrite)=(?:"([^"]*)"|'([^']*)'|True\b)?"""
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
        with open_store(store, read_only=True) as opened, _Bar(quiet) as bar:
            result = write(
                opened.topic(topic),
                sys.stdout.buffer if is_stdout else output,
                start=start,
                stop=stop,
                partitions=partitions or None,
                max_records=most,
                progress=bar.update,
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


def _as_typed(message: str) -> str:
    """A message of the library with its options as they are typed here: value="hex" is --value hex."""

    def typed(match: re.Match[str]) -> str:
        name = _NAMES.get(match[1], match[1].replace("_", "-"))
        given = match[2] if match[2] is not None else match[3]
        is_number = message[match.end() : match.end() + 1].isdigit()
        return f"--{name}" + (f" {given}" if given is not None else " " if is_number else "")

    return _OPTION.sub(typed, message)


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


class _Bar:
    """Rows, their rate and the time left, on a terminal."""

    def __init__(self, quiet: bool) -> None:
        self._is_shown = not quiet and sys.stderr.isatty()
        self._context: Any = None
        self._task: Any = None
        self._step = ""

    def __enter__(self) -> _Bar:
        if self._is_shown:
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

            self._context = progress_bar(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.fields[rows]:>13,} rows"),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
            )
            self._bar = self._context.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._context is not None:
            self._context.__exit__(*exception)

    def update(self, progress: Progress) -> None:
        """Show how far the export is."""
        if self._context is None:
            return
        if progress.step != self._step:
            self._step = progress.step
            if self._task is not None:
                self._bar.remove_task(self._task)
            name = "looking for fields" if progress.step == "schema" else "exporting"
            self._task = self._bar.add_task(name, total=progress.total, rows=0, rate="")
        elapsed = self._bar.tasks[-1].elapsed or 0
        rate = f"{progress.records / elapsed:,.0f} rows/s" if elapsed > 0 else ""
        self._bar.update(self._task, completed=progress.done, rows=progress.records, rate=rate)


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
