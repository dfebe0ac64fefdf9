"""`pystream produce`."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, Protocol

import click
import numpy as np

import pystream
from pystream import options as opt
from pystream._native.linewriter import BadLineError, LineWriter
from pystream.cli.common import (
    EXIT_DIFFERS,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    PLACE,
    bytes_text,
    error_text,
    fail,
    open_store,
    option_value,
    quiet_option,
    say,
    store_argument,
    topic_argument,
    warn,
)
from pystream.cli.pipes import BytesType, chosen_delimiter, delimiter_options, end_of
from pystream.cli.topicoptions import seconds

if TYPE_CHECKING:
    from pathlib import Path

CHUNK_BYTES = 256 << 10
STDIN_NAME = "standard input"
# The longest that an escape of JSON makes of a byte is six: a NUL. A longer line holds more than a segment.
JSON_BYTES_A_BYTE = 6


class Writer(Protocol):
    """What takes the lines of one input after the other."""

    @property
    def records(self) -> int: ...
    @property
    def input_bytes(self) -> int: ...
    def run(self, fd: int, name: str = ...) -> None: ...
    def feed(self, data: bytes, name: str = ...) -> None: ...
    def finish(self) -> None: ...
    def flush(self) -> int: ...


class JsonWriter:
    """Appends the records that JSON lines describe, as many at once as come at once."""

    def __init__(
        self,
        topic: pystream.Topic,
        producer: pystream.Producer,
        *,
        partition: int | None,
        headers: Sequence[tuple[str, bytes]],
        timestamps: bool,
        timestamp: int | None,
    ) -> None:
        from pystream.cli import jsonlines

        self._decode = jsonlines.decode
        self._dtype = topic.options.dtype
        self._stamps_itself = topic.options.timestamp_type == "append"
        self._producer = producer
        self._partition = partition
        self._headers = list(headers)
        self._timestamps = timestamps
        self._timestamp = timestamp
        self._line_bytes_max = JSON_BYTES_A_BYTE * topic.options.segment_bytes
        self._held = b""
        self._line = 0
        self._name = ""
        self.records = 0
        self.input_bytes = 0

    def run(self, fd: int, name: str = STDIN_NAME) -> None:
        """Take the lines of a file or pipe until its end."""
        while data := os.read(fd, CHUNK_BYTES):
            self.feed(data, name)
        self.finish()

    def feed(self, data: bytes, name: str = STDIN_NAME) -> None:
        """Take lines, which may begin and end within one."""
        self._name = name
        whole, newline, rest = data.rpartition(b"\n")
        if not newline:
            self._held += data
            if len(self._held) > self._line_bytes_max:
                self._refuse(self._line + 1, "is longer than a record of this topic can be")
            return
        lines, self._held = self._held + whole + newline, rest
        self._take(lines)

    def finish(self) -> None:
        """The input has ended: what is held is its last line."""
        rest, self._held = self._held, b""
        if rest:
            self._take(rest)
        self._line = 0

    def flush(self) -> int:
        """Bytes of an unfinished line; whole ones are never held."""
        return len(self._held)

    def _refuse(self, line: int, reason: object) -> NoReturn:
        raise BadLineError(f"{self._name}, line {line}: {reason}", line)

    def _take(self, text: bytes) -> None:
        """Send the records of whole lines; those before a bad one, and then raise."""
        bad: ValueError | None = None
        numbers, values, keys, headers, times = [], [], [], [], []
        default = time.time_ns() if self._timestamp is None else self._timestamp
        for number, line in enumerate(text.removesuffix(b"\n").split(b"\n"), self._line + 1):
            self._line = number
            if not line.strip():
                continue
            try:
                fields = self._decode(line, self._dtype)
                if self._stamps_itself and self._timestamps and fields.timestamp is not None:
                    raise ValueError(
                        "the topic stamps its records itself; --no-timestamps passes over what lines say"
                    )
            except ValueError as error:
                bad = error
                break
            stamp = fields.timestamp if self._timestamps and fields.stamped else default
            numbers.append(number)
            values.append(fields.value)
            keys.append(fields.key)
            headers.append([*fields.headers, *self._headers])
            times.append("NaT" if stamp is None else stamp)
        if values:
            stamps = None if self._stamps_itself else np.array(times, "datetime64[ns]")
            self._send(numbers, values, keys, headers if any(headers) else None, stamps)
        self.input_bytes += len(text)
        if bad is not None:
            self._refuse(self._line, bad)

    def _send(self, numbers: list[int], values: list[Any], keys: list[Any], headers: Any, times: Any) -> None:
        """All, or all before the one that the topic refuses."""
        try:
            self._send_range(0, len(values), values, keys, headers, times)
        except (ValueError, TypeError):  # of the arguments: nothing has been written
            for i in range(len(values)):
                try:
                    self._send_range(i, i + 1, values, keys, headers, times)
                except (ValueError, TypeError) as error:
                    self._refuse(numbers[i], error)

    def _send_range(
        self, start: int, stop: int, values: list[Any], keys: list[Any], headers: Any, times: Any
    ) -> None:
        part = slice(start, stop)
        self._producer.send_many(
            values[part],
            keys=keys[part] if any(key is not None for key in keys[part]) else None,
            headers=None if headers is None else headers[part],
            timestamps=None if times is None else times[part],
            partition=self._partition,
        )
        self.records += stop - start


class HeaderType(BytesType):
    """NAME=VALUE."""

    name = "name=value"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).partition("=")
        if not name or not equals:
            self.fail(f"{value!r} is not NAME=VALUE", param, ctx)
        return name, super().convert(text, param, ctx)


def _moment(ctx: click.Context, param: click.Parameter, value: Any) -> int | None:
    """Nanoseconds of --timestamp."""
    if value is None:
        return None
    try:
        if isinstance(value, str):
            raise pystream.OptionError(f"timestamp={value}: a place in the log, not a moment")
        return opt.parse_time("timestamp", value)
    except pystream.OptionError as error:
        raise click.BadParameter(str(error).partition(": ")[2] or str(error), ctx, param) from None


@click.command()
@store_argument
@topic_argument
@click.argument(
    "files", nargs=-1, type=click.Path(exists=True, dir_okay=False, allow_dash=True), metavar="[FILE]..."
)
@click.option("--create", is_flag=True, help="Make the topic, and the store, where they are missing.")
@click.option("--partitions", type=click.IntRange(min=1), help="Of the topic made by --create.  [default: 1]")
@click.option(
    "--compression",
    type=click.Choice(["none", "lz4"]),
    help="Of the topic made by --create.  [default: none]",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["lines", "json"]),
    default="lines",
    show_default=True,
    help="A value a line, or a JSON object a line as `consume --format json` prints it.",
)
@click.option(
    "-k",
    "--key-separator",
    "separator",
    type=BytesType(),
    metavar="TEXT",
    help="Lines are KEY, TEXT, VALUE; a line without TEXT has no key. Escapes: \\t \\n \\0 \\xHH.",
)
@click.option(
    "--null-text", type=BytesType(), metavar="TEXT", help="A key or value that is TEXT is null (a tombstone)."
)
@click.option(
    "-H",
    "--header",
    "headers",
    type=HeaderType(),
    metavar="NAME=VALUE",
    multiple=True,
    help="A header of every record; repeatable.",
)
@click.option(
    "--timestamp",
    type=PLACE,
    metavar="TIME",
    callback=_moment,
    help="Of every record, such as 2026-01-31T12:00:00Z or 2h (ago).  [default: now]",
)
@click.option("--no-timestamps", is_flag=True, help="Do not take over the timestamps of JSON lines.")
@click.option("-p", "--partition", type=click.IntRange(min=0), help="Where all records go.")
@delimiter_options("Byte that ends a line; escapes as above.")
@click.option("--strip-cr", is_flag=True, help="A carriage return that ends a line is not part of it.")
@click.option(
    "--linger",
    default="5ms",
    show_default=True,
    metavar="DURATION",
    callback=option_value(lambda text: opt.parse_duration("linger", seconds(text), maximum=3600 * 10**9)),
    help="How long a line may wait for others, to be appended with them.",
)
@click.option("--durable", is_flag=True, help="End only when every record is on the disk.")
@click.option("-v", "--verbose", is_flag=True, help="Say what was done even where stderr is no terminal.")
@quiet_option
@click.pass_context
def produce(
    ctx: click.Context,
    store: Path,
    topic: str,
    files: tuple[str, ...],
    create: bool,
    partitions: int | None,
    compression: str | None,
    form: str,
    separator: bytes | None,
    null_text: bytes | None,
    headers: tuple[tuple[str, bytes], ...],
    timestamp: int | None,
    no_timestamps: bool,
    partition: int | None,
    delimiter: bytes,
    null: bool,
    strip_cr: bool,
    linger: int,
    durable: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Append the lines of FILES, or of standard input, to TOPIC: a record a line.

    Lines are appended as they come, in large batches when there are many. With several partitions, lines
    with keys go where Kafka's clients would send them, and others by turns, a batch at a time. A last line
    without its end counts. Interrupted, it appends the lines it has read.

    \b
    Examples:
      tail -f access.log | pystream produce events.ps access --create
      pystream produce events.ps users users.tsv --key-separator '\\t' --durable
      pystream consume a.ps t --format json | pystream produce b.ps t --format json
    """
    end = chosen_delimiter(ctx, delimiter, null)
    _check_usage(form, separator, null_text, strip_cr, no_timestamps, end, create, partitions, compression)
    with _opened(store, topic, create, partitions, compression) as found:
        if found.options.dtype is not None and form == "lines":
            raise click.UsageError(
                f"topic {topic!r} has values of dtype {found.options.dtype}: give them by --format json, or "
                "use `pystream ingest`"
            )
        if timestamp is not None and found.options.timestamp_type == "append":
            raise click.UsageError(f"--timestamp: topic {topic!r} stamps its records itself")
        if partition is not None:
            found.partition(partition)  # says which there are
        producer = found.producer(linger=linger / 1e9)
        writer: Writer
        if form == "json":
            writer = JsonWriter(
                found,
                producer,
                partition=partition,
                headers=headers,
                timestamps=not no_timestamps,
                timestamp=timestamp,
            )
        else:
            writer = LineWriter(
                producer,
                partition=-1 if partition is None else partition,
                delimiter=end,
                separator=separator,
                null_text=null_text,
                strip_cr=strip_cr,
                headers=headers,
                timestamp=timestamp,
                linger_ns=linger,
            )
        began = time.monotonic()
        try:
            _copy_all(writer, files or ("-",), quiet)
        finally:
            producer.flush(durable=durable)
            producer.close()
            if not quiet and (verbose or sys.stderr.isatty()):
                _summarize(writer, found, time.monotonic() - began)


def _check_usage(
    form: str,
    separator: bytes | None,
    null_text: bytes | None,
    strip_cr: bool,
    no_timestamps: bool,
    delimiter: bytes,
    create: bool,
    partitions: int | None,
    compression: str | None,
) -> None:
    of_lines = {
        "--key-separator": separator is not None,
        "--null-text": null_text is not None,
        "--strip-cr": strip_cr,
        "--delimiter": delimiter != b"\n",
    }
    for name, given in of_lines.items():
        if given and form != "lines":
            raise click.UsageError(f"{name} is for --format lines")
    if no_timestamps and form != "json":
        raise click.UsageError("--no-timestamps is for --format json")
    for name, value in (("--partitions", partitions), ("--compression", compression)):
        if value is not None and not create:
            raise click.UsageError(f"{name} is for the topic that --create makes")
    if separator == b"":
        raise click.UsageError("--key-separator is empty; leave it out for lines without keys")
    if separator is not None and delimiter in separator:
        raise click.UsageError("--key-separator holds the delimiter, so no line does")


@contextmanager
def _opened(
    store: Path, topic: str, create: bool, partitions: int | None, compression: str | None
) -> Iterator[pystream.Topic]:
    try:
        opened = open_store(store, create=create)
    except pystream.StoreNotFoundError as error:
        fail(EXIT_FAILED, error_text(error) + ("" if create else "; or give --create"))
    with opened:
        try:
            found = opened.topic(topic, create=create, partitions=partitions, compression=compression)
        except pystream.TopicNotFoundError as error:
            fail(EXIT_FAILED, error_text(error) + "; or give --create")
        yield found


def _copy_all(writer: Writer, files: Sequence[str], quiet: bool) -> None:
    """Every file through the writer; what is wrong with a line, or a signal, ends the command."""
    with _stoppable() as stopped:
        try:
            for name in files:
                if name == "-":
                    _copy(writer, end_of(sys.stdin, STDIN_NAME), STDIN_NAME, quiet)
                else:
                    with open(name, "rb", buffering=0) as file:
                        _copy(writer, file.fileno(), name, quiet)
        except KeyboardInterrupt:
            left = writer.flush()
            if not quiet:
                unfinished = f"; an unfinished line of {left} bytes was not" if left else ""
                warn(f"interrupted; {_count(writer.records)} appended{unfinished}")
            sys.exit(128 + stopped[0] if stopped else EXIT_INTERRUPTED)
        except (BadLineError, pystream.RecordTooLargeError) as error:
            before = {0: "no record was", 1: "the record before it is"}.get(
                writer.records, f"the {_count(writer.records)} before it are"
            )
            fail(EXIT_DIFFERS, f"{error}; {before} appended")


def _copy(writer: Writer, source: int | BinaryIO, name: str, quiet: bool) -> None:
    if isinstance(source, int):
        if name == STDIN_NAME and not quiet and os.isatty(source):
            say("Reading lines from the terminal; Ctrl-D ends them.")
        writer.run(source, name)
        return
    while data := source.read(CHUNK_BYTES):
        writer.feed(data, name)
    writer.finish()


@contextmanager
def _stoppable() -> Iterator[list[int]]:
    """SIGTERM ends as Ctrl-C does, with what was read appended. The list gets its number."""
    got: list[int] = []

    def stop(number: int, frame: object) -> None:
        got.append(number)
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread, where no signal arrives
        yield got
        return
    try:
        yield got
    finally:
        signal.signal(signal.SIGTERM, before)


def _count(records: int) -> str:
    return f"{records:,} record{'s' * (records != 1)}"


def _summarize(writer: Writer, topic: pystream.Topic, seconds: float) -> None:
    size = bytes_text(writer.input_bytes)
    rate = bytes_text(writer.input_bytes / max(seconds, 1e-9))
    say(f"{_count(writer.records)}, {size} in {seconds:.1f} s ({rate}/s) to {topic.name!r}")
