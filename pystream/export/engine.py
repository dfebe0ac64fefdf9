"""The export itself: a range of a topic, shaped, into an output."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from io import TextIOBase
from time import perf_counter
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from pystream import options as opt
from pystream.errors import OptionError
from pystream.export.blocks import Block, Span, read, resolve
from pystream.export.output import Output, WrittenFile, check_directory, check_file, open_output
from pystream.export.request import Fields, Request, parse_request
from pystream.export.shape import Misfit, OnBad, Shaper, bad_record
from pystream.export.sinks import open_sink
from pystream.export.values import infer
from pystream.topic import Topic

if TYPE_CHECKING:
    from pystream.topic import Positions


class Progress(NamedTuple):
    """How far an export is."""

    step: str
    """"schema" while the fields of JSON values are looked for, then "rows"."""
    records: int
    """Records read in this step."""
    done: int
    """Offsets of the range that are behind."""
    total: int
    """Offsets of the range; where offsets have gaps there are fewer records."""


@dataclass(frozen=True)
class ExportResult:
    """What an export wrote."""

    records: int
    """Records written."""
    skipped: int
    """Records left out, because they were not what they should be."""
    files: tuple[WrittenFile, ...]
    """The files: path, records, bytes."""
    offsets: dict[int, tuple[int, int]]
    """For each partition the offset that the range begins at, and the one it ends before."""
    columns: tuple[str, ...]
    """Names of the columns."""
    seconds: float
    """How long it took."""

    @property
    def bytes(self) -> int:
        """Bytes of all files; 0 for an open file that was handed in."""
        return sum(file.bytes for file in self.files)


def export(
    topic: Topic,
    output: str | os.PathLike[str] | IO[bytes],
    *,
    format: str | None = None,
    compression: str | None = None,
    start: Positions = "earliest",
    stop: Positions | None = None,
    partitions: Iterable[int] | None = None,
    max_records: int | None = None,
    columns: str | Iterable[str] | None = None,
    value: str | None = None,
    key: str | None = None,
    schema: Any = None,
    bad_values: str = "stop",
    delimiter: str | None = None,
    split: str | None = None,
    by: str | None = None,
    rows_per_file: int | None = None,
    overwrite: bool = False,
    progress: Callable[[Progress], object] | None = None,
    on_bad: OnBad | None = None,
) -> ExportResult:
    """Write the records of `topic` from `start` up to `stop` to a file, or to a directory of files.

    The end is the one at the beginning of the export: what is appended meanwhile is not in it. Records go
    out partition by partition, in the order of their offsets, in bounded memory. An output appears whole or
    not at all.

    Args:
        output: a path, or a file open for writing bytes, which stays open.
        format: "parquet", "csv", "jsonl" (JSON lines), "arrow" (IPC file), "arrow-stream" (IPC stream) or
            "feather"; by the name of the output when left out.
        compression: for csv and jsonl "none", "gzip" or "zstd" (by .gz and .zst when left out); for parquet
            "snappy" (the default), "none", "gzip", "zstd", "lz4" or "brotli"; for arrow, arrow-stream and
            feather "none", "lz4" (the default of feather) or "zstd".
        start: where each partition begins; see `Topic.records`.
        stop: where each ends, not included; the end as it is now when left out.
        partitions: numbers of those to write; all when left out.
        max_records: at most so many records in all, those left out for being bad counted.
        columns: which, and in which order: of offset, partition, timestamp, key, value, headers and the
            names of fields; "value" stands for all fields not named. When left out: all, without partition
            where the topic has one. Fields called like another column that is written get value_ in front.
        value: "utf8" (the default of csv and jsonl), "bytes" (that of the others), "base64", "hex", or
            "json". With "json" each value is a JSON object whose fields become columns, typed alike over the
            whole range (which is read more than once for that, unless `schema` is given); a field of
            different kinds becomes text, its own JSON. In jsonl "json" embeds values as they are, of any
            JSON, unless fields are named in `columns` or `schema`. Left out for topics with a dtype.
        key: "bytes", "utf8", "base64" or "hex"; by default as `value`: "bytes" or "utf8".
        schema: fields and types of JSON values: "name:type,...", {name: type} or an Arrow schema. Types:
            bool, int8 to int64, uint8 to uint64, float32, float64, string, timestamp, timestamp[s|ms|us|ns],
            timestamp[s|ms|us|ns, UTC], decimal(digits, scale), json (the field's JSON as text). Fields not
            named are an error unless the text ends in ",...".
        bad_values: "stop" at a key, value or header that cannot be written, or "skip" its record.
        delimiter: between the cells of csv; a comma, or a tab for .tsv.
        split: "partition": write a directory with a file a partition: part-00003.csv.
        by: write a directory with a directory a "day" (date=2026-01-31) or "hour" (date=2026-01-31/hour=07)
            of the records' timestamps, UTC.
        rows_per_file: write a directory with at most so many rows a file.
        overwrite: replace what is at the output; a directory only if it holds nothing but an export.
        progress: called after each block of rows. Where the fields of JSON values turn out not to be those of
            the first ones, the steps are "rows", "schema" and "rows" from the beginning.
        on_bad: called with partition, offset and reason for each record skipped.

    Returns:
        What was written.

    Raises:
        OptionError: an option is refused, or does not go with another.
        OutputExistsError: there is something at `output`, and not `overwrite`.
        BadRecordError: a record cannot be written as asked, and `bad_values` is "stop".
        OffsetOutOfRangeError: `start` is not in a partition.
        CorruptLogError: stored bytes are not what was written.
        StorageError: a system call failed.
    """
    began = perf_counter()
    if not isinstance(topic, Topic):
        raise TypeError(f"topic must be a pystream.Topic, not {type(topic).__name__}")
    _check_output(output)
    opt.check_callable("progress", progress)
    opt.check_callable("on_bad", on_bad)
    path = os.fspath(output) if isinstance(output, (str, os.PathLike)) else None
    overwrite = opt.parse_flag("overwrite", overwrite)
    if split is not None:
        split = opt.parse_choice("split", split, ("partition",))
    if by is not None:
        by = opt.parse_choice("by", by, ("day", "hour"))
    if rows_per_file is not None:
        rows_per_file = opt.parse_int("rows_per_file", rows_per_file, minimum=1)
    if max_records is not None:
        max_records = opt.parse_int("max_records", max_records, minimum=0)
    is_directory = split is not None or by is not None or rows_per_file is not None
    if path is None and is_directory:
        raise OptionError("split=, by= and rows_per_file= need a directory, not an open file")
    if is_directory and format is None:
        raise OptionError(
            "format= is needed for a directory: parquet, csv, jsonl, arrow, arrow-stream or feather"
        )
    if path is not None:
        (check_directory if is_directory else check_file)(path, overwrite)
    request = parse_request(
        None if path is None else "-directory" if is_directory else path,
        dtype=topic.options.dtype,
        partitions=topic.partitions,
        format=format,
        compression=compression,
        value=value,
        key=key,
        columns=columns,
        schema=schema,
        bad_values=bad_values,
        delimiter=delimiter,
    )
    if partitions is not None and not isinstance(partitions, Iterable):
        raise TypeError(f"partitions= must be a list of numbers, not {type(partitions).__name__}")
    spans = resolve(topic, start, stop, partitions)

    def attempt(fields: Fields | None, is_guess: bool = False) -> ExportResult:
        shaper = Shaper(topic, request, fields, on_bad, is_guess=is_guess)
        target = open_output(
            output,
            lambda file: open_sink(request, file, shaper.schema, shaper.json_columns),
            request.extension,
            overwrite=overwrite,
            split=split is not None,
            by=by,
            rows_per_file=rows_per_file,
        )
        records, files = _copy(read(topic, spans, max_records), shaper, target, _total(spans), progress)
        return ExportResult(
            records=records - shaper.skipped,
            skipped=shaper.skipped,
            files=tuple(files),
            offsets={span.partition: (span.start, span.stop) for span in spans},
            columns=tuple(shaper.schema.names),
            seconds=perf_counter() - began,
        )

    if not request.infers:
        return attempt(request.fields)
    # Most topics hold values of one kind. Where an output can be begun anew, it is begun with the fields of
    # the first block, and all values are looked at only if one of them does not fit: that halves the work.
    guess = None if path is None else _guess(topic, request, spans, max_records)
    if guess is not None:
        with suppress(Misfit):
            return attempt(guess, is_guess=True)
    return attempt(_fields(topic, request, spans, max_records, progress))


def _total(spans: list[Span]) -> int:
    return sum(span.stop - span.start for span in spans)


def _copy(
    blocks: Iterable[Block],
    shaper: Shaper,
    target: Output,
    total: int,
    progress: Callable[[Progress], object] | None,
) -> tuple[int, list[WrittenFile]]:
    """Write all blocks: how many records were read, and the files. When that fails nothing is left."""
    records = 0
    try:
        for block in blocks:
            records += block.rows.num_rows
            target.write(shaper.shape(block))
            if progress is not None:
                progress(Progress("rows", records, block.done, total))
        return records, target.finish()
    except BaseException:
        target.discard()
        raise


def _guess(topic: Topic, request: Request, spans: list[Span], max_records: int | None) -> Fields | None:
    """The fields of the first block of JSON values; None when those do not say enough."""
    for block in read(topic, spans, max_records):
        found = infer([block.rows.column(3)], skip_bad=False)
        if isinstance(found, Fields) and found.types and not set(request.named) - set(found.types):
            return found
        return None
    return None


def _check_output(output: object) -> None:
    """Refuse what bytes cannot be written to, before anything is read."""
    if isinstance(output, (str, os.PathLike)):
        return
    if isinstance(output, TextIOBase):
        raise TypeError('output is a file of text: open it with "wb", or give its .buffer')
    if not callable(getattr(output, "write", None)):
        raise TypeError(f"output must be a path, or a file open for writing, not {type(output).__name__}")


def _fields(
    topic: Topic,
    request: Request,
    spans: list[Span],
    max_records: int | None,
    progress: Callable[[Progress], object] | None,
) -> Fields:
    """The fields of JSON values that become columns, found by reading the range."""
    total = _total(spans)
    block = None

    def blocks() -> Iterable[Any]:
        nonlocal block
        records = 0
        for block in read(topic, spans, max_records):
            yield block.rows.column(3)
            records += block.rows.num_rows
            if progress is not None:
                progress(Progress("schema", records, block.done, total))

    found = infer(blocks(), skip_bad=request.skip_bad)
    if isinstance(found, Fields):
        return found
    assert block is not None
    offset = block.rows.column(0)[found.row].as_py()
    raise bad_record(topic.name, request, block.partition, offset, "value", found.reason)
