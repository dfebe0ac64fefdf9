"""Files into a topic: CSV, JSON lines, Parquet and Arrow, one record a row. Needs the extra [arrow].

How an ingest is resumed without losing a row or writing one twice
------------------------------------------------------------------

A job is what takes certain sources into a certain topic in a certain way. Its file,
`STORE/ingest/JOB.json`, is written before the first record: it holds a random producer id, a fingerprint of
each source, and a state. JOB is a digest of the topic's uuid, the sources' paths and the options that shape
records, so the same command finds the same job; beside it `JOB.lock` is held (by a lock that dies with its
process) while a run is at it.

Every batch that a job appends bears its producer id and a sequence number: how many records of the job
stand in that partition before it, modulo 2^31. A batch is in the log whole or not at all, whenever the
process dies.

Now and then (2 s) the partitions written to are synced, and then a state is saved: a place in the sources,
and for each partition the number of the job's records and the offset behind the last of them. The sync
comes first, so a power failure never takes away what a saved state counts. To resume, the log is settled
(what a killed writer left half done is finished or undone, so that it cannot come to light later), the
batches of this producer id behind those offsets are counted, the sources are read again from the saved
place, and in each partition as many records are passed over as were counted. That is exact because reading
from a place is deterministic: blocks are cut, rows shaped and records routed by nothing but the bytes, the
options and the state. Other producers do not matter, as their batches do not bear the id; nor does what
happens to the process at any instant. Nor does what compaction leaves out, or retention deletes meanwhile:
sequence numbers, the last of which compaction keeps, tell how many records there were.

Where the log ends before a saved offset, or a recovery has cut a partition's tail (its leader epoch has
changed) and the record before that offset is not the job's any more, the state is given up: the whole log is
searched for the job's batches and the sources are read from their beginning. Counting from what is there
makes up for whatever was lost.

A source is held to be the same while it has its size and its first and last 64 KiB; text files may grow,
and what was appended is taken in by resuming the job once it is complete. Pipes cannot be read again, so
they make no job.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pystream import options as opt
from pystream.errors import OptionError
from pystream.ingest.blocks import schema_of
from pystream.ingest.errors import (
    BadRow,
    BadRowError,
    IngestError,
    JobBusyError,
    JobExistsError,
    SourceError,
)
from pystream.ingest.fields import dtype_from_schema
from pystream.ingest.job import fresh_state, open_job
from pystream.ingest.plan import Plan, value_mode
from pystream.ingest.run import Progress, Result, Run
from pystream.ingest.sources import Source, find_sources
from pystream.ingest.times import TimeRules
from pystream.topic import Topic

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "BadRow",
    "BadRowError",
    "IngestError",
    "JobBusyError",
    "JobExistsError",
    "Progress",
    "Result",
    "SourceError",
    "infer_dtype",
    "ingest",
]

CHECKPOINT_DEFAULT: float = 2.0
_CHECKPOINT_NS_MAX = 3600 * 10**9

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def ingest(
    topic: Topic,
    sources: Paths,
    *,
    format: str | None = None,
    compression: str | None = None,
    delimiter: str | None = None,
    quote: str | None = '"',
    columns: str | Sequence[str] | None = None,
    types: Mapping[str, str] | None = None,
    key: str | None = None,
    timestamp: str | None = None,
    timestamp_format: str | None = None,
    timestamp_unit: str | None = None,
    timezone: str = "UTC",
    value: str | None = None,
    value_column: str | None = None,
    partition: int | None = None,
    bad_rows: str = "stop",
    bad_rows_to: str | os.PathLike[str] | None = None,
    resume: bool = False,
    restart: bool = False,
    checkpoint: opt.Duration = CHECKPOINT_DEFAULT,
    on_progress: Callable[[Progress], object] | None = None,
    on_bad_row: Callable[[BadRow], object] | None = None,
) -> Result:
    """Take the rows of files into a topic, one record a row.

    Memory is bounded whatever the size of the files. Rows keep their order within a partition.

    Args:
        topic: where they go.
        sources: a path or several; patterns such as "day-*.csv" are expanded in sorted order; "-" is standard
            input.
        format: "csv", "jsonl", "parquet", "arrow" (IPC file, Feather) or "arrow-stream"; by the name, or
            the first bytes, when left out.
        compression: "none", "gzip", "zstd", "bz2" or "lz4", of CSV, JSON lines and Arrow streams; likewise.
        delimiter: between the fields of CSV; a tab for .tsv, a comma otherwise.
        quote: around fields of CSV that hold delimiters, quotes or line ends; None: no quoting.
        columns: names of the columns of CSV files that have no header: a list, or "a,b".
        types: what columns of CSV hold, {name: "string", "number" or "bool"}, where the first 4 MiB
            mislead; "*" stands for all columns. Numbers with leading zeros make a column of strings.
        key: the column whose text is the key. Null: no key.
        timestamp: the column of the records' timestamps: times, ISO 8601 text, or as the next three say.
        timestamp_format: of text, as `strptime` has it.
        timestamp_unit: of numbers since the epoch, "s", "ms", "us" or "ns".
        timezone: of times that name none.
        value: "json" (the default): the row as a JSON object, keys in the order of the columns; rows of
            JSON lines stay as they are. "raw": the line, byte for byte.
        value_column: the value is this column's text or bytes instead. Of a topic with a structured `dtype`,
            which needs neither, the fields take the columns of their names.
        partition: where all go. When left out: by key exactly as a producer chooses, without one in turn.
        bad_rows: "stop": the first row that cannot become a record raises. "skip": they are counted.
        bad_rows_to: a file to which skipped rows are appended, as JSON lines.
        resume: go on with a job that was interrupted, or whose last text file has grown.
        restart: begin anew a job that was begun before; rows it had written are written once more.
        checkpoint: seconds between states that are saved, 0 to 1 h. (0: after each block of 4 MiB.)
        on_progress: called after each block.
        on_bad_row: called with each row that is skipped.

    Returns:
        What was done.

    Raises:
        OptionError: an option that makes no sense, with the others, the topic or the sources;
            `JobExistsError` when the same sources went into the topic before, in part or in whole.
        BadRowError: see `bad_rows`. Rows before its block are written, and the job can be resumed.
        SourceError: a source cannot be read, or is not what it was.
        JobBusyError: another process is at the same job.
        StorageError: the disk is full or failed. The job can be resumed.
        TopicDeletedError: the topic is no longer there.
    """
    if not isinstance(topic, Topic):
        raise TypeError(f"topic must be a pystream.Topic, not {type(topic).__name__}")
    topic._store._check_writable()
    topic.offsets()  # says so now if the topic was deleted
    opt.check_callable("on_progress", on_progress)
    opt.check_callable("on_bad_row", on_bad_row)
    skip_bad = opt.parse_choice("bad_rows", bad_rows, ("stop", "skip")) == "skip"
    resume, restart = opt.parse_flag("resume", resume), opt.parse_flag("restart", restart)
    if resume and restart:
        raise OptionError("resume= and restart= contradict each other: give one of them")
    if bad_rows_to is not None and not skip_bad:
        raise OptionError("bad_rows_to= keeps rows that are skipped: it needs bad_rows='skip'")
    plan = Plan(
        format=format,
        compression=compression,
        delimiter=delimiter,
        quote=quote,
        columns=None if columns is None else opt.parse_names("columns", columns),
        types=_types(types),
        key=key,
        timestamp=timestamp,
        times=TimeRules(timestamp_format, timestamp_unit, timezone),
        value=value_mode(value, value_column, topic.options),
        value_column=value_column,
        partition=None if partition is None else topic.partition(partition).index,
    )
    plan.check_topic(topic.options)
    checkpoint_ns = opt.parse_duration("checkpoint", checkpoint, maximum=_CHECKPOINT_NS_MAX)
    found = find_sources(_paths(sources), plan)
    if bad_rows_to is not None:
        _check_bad_file(bad_rows_to, found)
    streams = [source.name for source in found if source.is_stream]
    if streams and (resume or restart):
        name = "standard input" if streams[0] == "-" else streams[0]
        raise OptionError(f"{name} can be read only once, so there is nothing to resume or restart")
    job = None if streams else open_job(topic, plan, found, resume=resume, restart=restart)
    if job is None and not streams:
        return Result(topic.name, [source.name for source in found], resumed=True, complete_before=True)
    try:
        state = fresh_state(topic) if job is None else job.state
        return Run(
            topic,
            plan,
            found,
            job,
            state,
            skip_bad=skip_bad,
            bad_rows_to=bad_rows_to,
            checkpoint_ns=checkpoint_ns,
            on_progress=on_progress,
            on_bad_row=on_bad_row,
        ).run()
    finally:
        if job is not None:
            job.close()


def _paths(sources: object) -> list[str | os.PathLike[str]]:
    """The sources that were named, one by one."""
    if isinstance(sources, (str, os.PathLike)):
        return [sources]
    if not isinstance(sources, Iterable) or isinstance(sources, bytes):
        raise TypeError(f"sources must be a path or a list of paths, not {type(sources).__name__}")
    paths = list(sources)
    for path in paths:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"sources must be paths: str or os.PathLike, not {type(path).__name__}")
    return paths


def _types(types: object) -> dict[str, str]:
    """What columns hold, as a dictionary; `Plan` checks the words."""
    if not isinstance(types, Mapping | None):
        raise TypeError(f"types= must be a dict {{column: type}}, not {type(types).__name__}")
    return dict(types or {})


def _check_bad_file(path: object, sources: Sequence[Source]) -> None:
    """Refuse to append bad rows to what they are read from."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"bad_rows_to= must be a path, not {type(path).__name__}")
    for source in sources:
        if os.path.realpath(path) == source.path:
            raise OptionError(f"bad_rows_to={str(path)!r}: is one of the sources; name another file")


def infer_dtype(
    sources: Paths,
    *,
    format: str | None = None,
    compression: str | None = None,
    delimiter: str | None = None,
    quote: str | None = '"',
    columns: str | Sequence[str] | None = None,
) -> np.dtype[Any]:
    """The dtype that a topic needs to hold the rows of files as structured records.

    It is that of the first source: of its schema, or of text as Arrow's readers judge its first 4 MiB.
    Integers, floats and booleans keep their width; timestamps become `M8` of their unit, dates `M8[D]`.

    Args:
        sources: as `ingest` takes them.
        format: as `ingest` takes it, and so are `compression`, `delimiter`, `quote` and `columns`.

    Raises:
        OptionError: a column (of text, say) that has no fixed width; or the source is a pipe.
        SourceError: the source cannot be read.
    """
    plan = Plan(
        format=format,
        compression=compression,
        delimiter=delimiter,
        quote=quote,
        columns=None if columns is None else opt.parse_names("columns", columns),
    )
    found = find_sources(_paths(sources), plan)
    return dtype_from_schema(schema_of(found[0], plan), found[0].name)
