"""`pystream dump`: the frames of a partition's files, damaged ones too."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

import pystream
from pystream import inspection, metadata
from pystream.cli.common import (
    EXIT_DIFFERS,
    EXIT_FAILED,
    EXIT_USAGE,
    bytes_text,
    console,
    fail,
    json_option,
    time_text,
)
from pystream.inspected import (
    CutFile,
    Damage,
    End,
    EpochEntry,
    Event,
    Frame,
    Head,
    Index,
    RecordSizes,
    Seal,
    SegmentHeader,
)


class Column(NamedTuple):
    """A column of the table of frames, shown where the terminal has `columns` columns."""

    title: str
    width: int
    columns: int
    text: Callable[[Frame], str]


def _producer(frame: Frame) -> str:
    if frame.producer_id is None:
        return "-"
    return f"{frame.producer_id}:{frame.producer_epoch}:{frame.base_sequence}"


COLUMNS: Final = (
    Column("position", 13, 0, lambda frame: f"{frame.position:,}"),
    Column("offset", 15, 0, lambda frame: f"{frame.base_offset:,}"),
    Column("records", 10, 0, lambda frame: f"{frame.records:,}"),
    Column("codec", 6, 0, lambda frame: frame.codec),
    Column("bytes", 12, 0, lambda frame: f"{frame.frame_bytes:,}"),
    Column("raw", 12, 100, lambda frame: f"{frame.raw_bytes:,}"),
    Column("epoch", 6, 0, lambda frame: str(frame.leader_epoch)),
    Column("first timestamp", 31, 120, lambda frame: time_text(frame.first_timestamp)),
    Column("durable", 15, 140, lambda frame: f"{frame.durable_offset:,}"),
    Column("producer", 12, 160, _producer),
)
ATTRIBUTES_COLUMNS: Final = 180
"""From so many columns on, attributes are shown, too."""


@dataclass(slots=True)
class Tally:
    """What was seen."""

    segments: int = 0
    frames: int = 0
    records: int = 0
    bytes: int = 0
    damaged: int = 0
    missing_offsets: int = 0
    in_use: bool = False

    def count(self, item: object) -> None:
        if isinstance(item, SegmentHeader):
            self.segments += 1
            self.bytes += item.file_bytes
        elif isinstance(item, Frame):
            self.frames += 1
            self.records += item.records
            if not item.sound:
                self.missing_offsets += item.next_offset - item.base_offset
        elif isinstance(item, Damage) and item.missing:
            self.missing_offsets += item.missing[1] - item.missing[0]
        if not is_sound(item):
            self.damaged += 1

    def text(self) -> str:
        damage = "no damage"
        if self.damaged:
            damage = f"{self.damaged:,} damaged place{'s' * (self.damaged != 1)}"
            if self.missing_offsets:
                damage += f", {self.missing_offsets:,} offsets that cannot be read"
        return (
            f"{_count(self.segments, 'segment')}, {_count(self.frames, 'frame')}, "
            f"{_count(self.records, 'record')}, {bytes_text(self.bytes)}; {damage}"
            + "; in use: up to the high watermark"
            * self.in_use
        )


def is_sound(item: object) -> bool:
    """False for what counts as damage. A partition that was never used has a blank head, or none."""
    if isinstance(item, Head) and item.state == "blank":
        return True
    return bool(getattr(item, "sound", True))


# ---- output -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Lines:
    """JSON lines."""

    place: dict[str, object] = field(default_factory=dict)

    def partition(self, topic: str, number: int) -> None:
        self.place = {"topic": topic, "partition": number}

    def show(self, item: Any) -> None:
        if isinstance(item, SegmentHeader):
            self.place["segment"] = item.name_offset if item.name_offset >= 0 else item.base_offset
        fields = asdict(item)
        for entry in fields.pop("sizes", None) or ():
            self.write("record", entry)
        for entry in fields.pop("entries", ()):
            self.write("index_entry", entry)
        self.write(_KINDS[type(item)], {**fields, "sound": is_sound(item)})

    def write(self, kind: str, fields: dict[str, Any]) -> None:
        click.echo(json.dumps({"event": kind, **self.place, **fields}, default=str))

    def end(self, tally: Tally) -> None:
        self.place = {}
        self.write("summary", asdict(tally))


_KINDS: Final[dict[type, str]] = {
    SegmentHeader: "segment",
    Frame: "frame",
    Damage: "damage",
    Seal: "seal",
    End: "end",
    Head: "head",
    Index: "index",
    EpochEntry: "epoch",
    CutFile: "cut",
}


class Table:
    """Text for people, as wide as the terminal."""

    def __init__(self, quiet: bool) -> None:
        where = console()
        self.quiet = quiet
        self.colour = where.is_terminal and where.color_system is not None and not where.no_color
        self.columns = [column for column in COLUMNS if column.columns <= where.width]
        self.attributes = where.width >= ATTRIBUTES_COLUMNS
        self.titled = False

    def write(self, text: str, *, bad: bool = False, **style: Any) -> None:
        if self.quiet and not bad:
            return
        click.echo(click.style(text, **({"fg": "red"} if bad else style)), color=self.colour)

    def partition(self, topic: str, number: int) -> None:
        self.write(f"topic {topic}, partition {number}", bold=True)

    def show(self, item: Any) -> None:
        if isinstance(item, Frame):
            self.frame(item)
            return
        if isinstance(item, SegmentHeader):
            self.titled = False
        for text in _describe(item):
            self.write(text, bad=not is_sound(item))

    def frame(self, frame: Frame) -> None:
        if not self.titled:
            titles = "".join(column.title.rjust(column.width) for column in self.columns)
            self.write(titles + "  state" + ", attributes" * self.attributes, dim=True)
            self.titled = True
        row = "".join(column.text(frame).rjust(column.width) for column in self.columns)
        attributes = "".join(f", {name}" for name in frame.attributes) if self.attributes else ""
        self.write(f"{row}  {_state(frame)}{attributes}", bad=not frame.sound)
        if frame.body == "damaged" or frame.columns == "damaged":
            self.write(f"  ! {_offsets((frame.base_offset, frame.next_offset))} cannot be read", bad=True)
        for record in frame.sizes or ():
            key, value = _size("key", record.key_bytes), _size("value", record.value_bytes)
            headers = f", {record.headers} header{'s' * (record.headers != 1)}" if record.headers else ""
            self.write(
                f"{record.offset:>28,}  {time_text(record.timestamp)}  {key}, {value}{headers}".rstrip()
            )

    def end(self, tally: Tally) -> None:
        self.quiet = False
        self.write(tally.text(), bad=tally.damaged > 0, bold=True)


def _state(frame: Frame) -> str:
    if frame.header == "newer":
        return "newer version"
    for name in ("body", "columns"):
        if getattr(frame, name) == "damaged":
            return f"{name.upper()} DAMAGED"
    return "sound" if frame.body == "sound" else "header sound"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _size(name: str, size: int | None) -> str:
    return f"{name} null" if size is None else f"{name} {size:,} B"


def _offsets(missing: tuple[int, int]) -> str:
    first, after = missing
    return f"offset {first:,}" if after == first + 1 else f"offsets {first:,} to {after - 1:,}"


def _describe(item: object) -> Iterator[str]:
    """Lines for everything but frames."""
    if isinstance(item, SegmentHeader):
        name = os.path.basename(item.path)
        if item.sound:
            yield (
                f"segment {name}  {bytes_text(item.file_bytes)}, epoch {item.leader_epoch}, "
                f"{time_text((item.created or 0) // 10**9 * 10**9)}"
            )
        else:
            why = {
                "damaged": "its header is damaged",
                "newer": "written by a later format version",
                "foreign": f"it belongs to topic {item.topic_uuid}, partition {item.partition}, offset "
                f"{item.base_offset}",
            }[item.state]
            yield f"segment {name}  {bytes_text(item.file_bytes)}  ! {why}"
    elif isinstance(item, Damage):
        where = "" if item.position is None else f"{item.position:,} to {item.end:,}: "
        if item.position is not None and item.position == item.end:
            where = f"{item.position:,}: "
        lost = f"; {_offsets(item.missing)} cannot be read" if item.missing else ""
        yield f"  ! {where}{item.what}{lost}"
    elif isinstance(item, Seal):
        if item.sound:
            yield f"  {item.position:>11,}  seal: {item.frames:,} frames, ends at offset {item.end_offset:,}"
        else:
            yield f"  ! {item.position:,}: the seal is damaged"
    elif isinstance(item, End):
        rest = {
            "nothing": "end of the file",
            "zeros": f"end; {bytes_text(item.rest_bytes)} reserved",
            "bytes": f"end; then {bytes_text(item.torn_bytes)} that are no batch: a torn append",
            "unseen": "end of what was published",
        }[item.rest]
        yield f"  {item.position:>11,}  {rest}; next offset {item.next_offset:,}"
    elif isinstance(item, Head):
        yield from _describe_head(item)
    elif isinstance(item, Index):
        of = "" if item.interval_bytes is None else f", one in {bytes_text(item.interval_bytes)} or more"
        yield f"index {os.path.basename(item.path)}  {item.state}, {len(item.entries):,} entries{of}"
        for entry in item.entries:
            agrees = {True: "", False: "  ! no such frame stands there", None: ""}[entry.agrees]
            agrees = agrees if entry.state == "sound" else "  ! damaged"
            latest = f"  latest before: {time_text(entry.max_timestamp)}" if entry.max_timestamp else ""
            yield f"{entry.position:>13,}{entry.offset:>15,}{latest}{agrees}"
    elif isinstance(item, EpochEntry):
        if item.sound:
            yield f"epoch {item.epoch}  from offset {item.first_offset:,}, {time_text(item.created)}"
        else:
            yield "  ! an entry of the epochs file is damaged"
    elif isinstance(item, CutFile):
        yield f"cut {os.path.basename(item.path)}  {bytes_text(item.file_bytes)}"


def _describe_head(head: Head) -> Iterator[str]:
    state = [head.state]
    if head.moved:
        state.append("copied from another file")
    if head.writing:
        state.append("an append is under way, or its writer died")
    if head.held:
        state.append(f"held for exclusive writing by process {head.holder}")
    if head.poison is not None:
        state.append(f"poisoned: {os.strerror(head.poison)}")
    if head.deleted:
        state.append("its topic was deleted")
    yield f"head  {', '.join(state)}"
    start = "damaged" if head.log_start is None else f"{head.log_start:,}"
    yield f"  log start {start}, high watermark {head.high_watermark:,}, log end {head.log_end:,}"
    yield f"  durable {head.durable_offset:,}, incarnation {head.incarnation:016x}, last writer {head.holder}"
    for number, slot in enumerate(head.slots):
        if slot is None:
            yield f"  slot {number}: not sound"
        else:
            yield (
                f"  slot {number}: sequence {slot.sequence:,}, log end {slot.log_end:,}, segment "
                f"{slot.segment:,} at {slot.position:,}, epoch {slot.leader_epoch}"
            )


# ---- the command --------------------------------------------------------------------------------------


@click.command()
@click.argument("path", type=click.Path(path_type=Path), metavar="STORE|FILE")
@click.argument("topic", required=False)
@click.option("-p", "--partition", type=click.IntRange(min=0), help="Only this partition.")
@click.option(
    "--segment", type=click.IntRange(min=0), metavar="BASE", help="Only the segment that begins so."
)
@click.option("--from", "start", type=click.IntRange(min=0), metavar="OFFSET", help="From this offset on.")
@click.option("--until", "stop", type=click.IntRange(min=0), metavar="OFFSET", help="Before this offset.")
@click.option("--records", is_flag=True, help="Each record's offset, time and sizes, too.")
@click.option("--index", "indexes", is_flag=True, help="The sparse indexes, too.")
@click.option("--head", "heads", is_flag=True, help="The control page, epochs and cut files, too.")
@click.option("--no-body", is_flag=True, help="Read headers only: quicker, but damaged bodies go unseen.")
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Only damage, and the last line.")
def dump(
    path: Path,
    topic: str | None,
    partition: int | None,
    segment: int | None,
    start: int | None,
    stop: int | None,
    records: bool,
    indexes: bool,
    heads: bool,
    no_body: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Walk the frames of a topic's files, or of one FILE, and say what is damaged.

    Reads the files as they are, without opening the store: nothing is written, locked or repaired. A store
    that others write to is walked up to what was published when the walk began. Ends with 1 when anything
    is damaged.

    \b
    Examples:
      pystream dump events.ps clicks
      pystream dump events.ps clicks -p 3 --from 1000 --until 2000 --records
      pystream dump events.ps/topics/clicks/0/00000000000000000000.log --json
    """
    if records and no_body:
        raise click.UsageError("--records reads bodies: leave out --no-body")
    if start is not None and stop is not None and stop <= start:
        raise click.UsageError(f"--until {stop} must be above --from {start}")
    out: Lines | Table = Lines() if as_json else Table(quiet)
    tally = Tally()

    def show(item: object) -> None:
        tally.count(item)
        if isinstance(item, Frame) and item.sizes:
            item = replace(item, sizes=_between(item.sizes, start, stop))
        if not (quiet and as_json and is_sound(item)):
            out.show(item)

    if path.is_file():
        if topic is not None or partition is not None or segment is not None:
            raise click.UsageError(f"{path} is a file: a topic, --partition and --segment are for stores")
        for item in _file(path, records, not no_body, start, stop):
            show(item)
    else:
        directory = _topic_directory(path, topic)
        tally.in_use = inspection.in_use(path)
        for number in _partitions(directory, topic or "", partition):
            out.partition(topic or "", number)
            where = os.path.join(directory, str(number))
            before = tally.segments
            for event in inspection.walk_partition(
                where, bodies=not no_body, records=records, segment=segment, start=start, stop=stop
            ):
                show(event)
            if segment is not None and tally.segments == before:
                there = [base for base, _ in inspection.segment_files(where)]
                fail(EXIT_USAGE, f"--segment {segment}: partition {number} has {_listed(there)}")
            for item in _beside(where, heads, indexes, tally.in_use):
                show(item)
    out.end(tally)
    if tally.damaged:
        sys.exit(EXIT_DIFFERS)


def _between(
    records: tuple[RecordSizes, ...], start: int | None, stop: int | None
) -> tuple[RecordSizes, ...]:
    """Of a frame at the edge of the range, the records within."""
    return tuple(
        record
        for record in records
        if (start or 0) <= record.offset and (stop is None or record.offset < stop)
    )


def _listed(bases: list[int]) -> str:
    if not bases:
        return "no segments"
    shown = ", ".join(map(str, bases[:8])) + ", ..." * (len(bases) > 8)
    return f"segments that begin at {shown}"


def _topic_directory(store: Path, topic: str | None) -> str:
    path = str(store)
    metadata.read_store(path)
    if topic is None:
        names = ", ".join(metadata.list_topics(path)[:8]) or "none"
        raise click.UsageError(f"which topic? {path} has: {names}")
    try:
        pystream.options.check_topic_name(topic)
    except pystream.OptionError as error:
        raise click.UsageError(str(error)) from None
    directory = metadata.topic_directory(path, topic)
    if not os.path.isdir(directory):
        names = ", ".join(metadata.list_topics(path)[:8]) or "none"
        fail(EXIT_FAILED, f"no topic {topic!r} in {path}; it has: {names}")
    return directory


def _partitions(directory: str, topic: str, wanted: int | None) -> list[int]:
    there = sorted(int(entry) for entry in os.listdir(directory) if entry.isdecimal())
    if wanted is None:
        return there
    if wanted not in there:
        has = f"partitions 0 to {there[-1]}" if len(there) > 1 else "only partition 0" if there else "none"
        raise click.UsageError(f"--partition {wanted}: topic {topic!r} has {has}")
    return [wanted]


def _beside(directory: str, heads: bool, indexes: bool, live: bool) -> Iterator[object]:
    """What is not segments."""
    bound = None
    head_file = os.path.join(directory, "head")
    if os.path.exists(head_file):
        head = inspection.read_head(head_file)
        bound = head.high_watermark if live and head.sound else None
        if heads:
            yield head
    epochs = os.path.join(directory, "epochs")
    if heads and os.path.exists(epochs):
        yield from inspection.read_epochs(epochs)
    if heads:
        yield from inspection.cut_files(directory)
    if indexes:
        for _, segment in inspection.segment_files(directory):
            index = segment.removesuffix(".log") + ".index"
            if os.path.exists(index):
                yield inspection.read_index(index, end_offset=bound)


def _file(path: Path, records: bool, bodies: bool, start: int | None, stop: int | None) -> Iterator[object]:
    """What one file says, told by its name."""
    if path.name == "head":
        yield inspection.read_head(path)
    elif path.name == "epochs":
        yield from inspection.read_epochs(path)
    elif path.suffix == ".index":
        yield inspection.read_index(path)
    elif path.name in (metadata.STORE_FILE, metadata.TOPIC_FILE, metadata.LOCKS_FILE, "live"):
        raise click.UsageError(f"{path} is no segment: give a .log, .index, head or epochs file")
    else:
        for event in inspection.walk_segment(path, bodies=bodies, records=records):
            if _wanted(event, start or 0, stop):
                yield event


def _wanted(event: Event, start: int, stop: int | None) -> bool:
    if not isinstance(event, Frame):
        return True
    return event.next_offset > start and (stop is None or event.base_offset < stop)
