"""The engine: blocks of the sources, one after the other, as batches of the topic."""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import numpy as np

from pystream._native import rows
from pystream._native.producer import append_batch
from pystream.errors import BatchTooLargeError, OptionError, StorageError
from pystream.ingest.blocks import Block, Position, read_blocks
from pystream.ingest.errors import BadRow, BadRowError, SourceError
from pystream.ingest.job import SEQUENCES, Job, State
from pystream.ingest.plan import Plan
from pystream.ingest.shape import Records, Shaper
from pystream.ingest.sources import Source
from pystream.ingest.text import parts_of
from pystream.metadata import storage_errors

if TYPE_CHECKING:
    from pystream.topic import Topic

BATCH_BYTES: Final = 1 << 20
"""Batches are cut to about this much."""
TURN_ROWS: Final = 1024
"""Records without a key that go to one partition before it is the next one's turn, at least."""
READ_AHEAD: Final = 2
"""Blocks that are read while one is written."""

T = TypeVar("T")


class Progress(NamedTuple):
    """How far an ingest has come, as `on_progress` is told."""

    source: str
    """The source that is being read."""
    bytes: int
    """Bytes of all sources that were read; those that an earlier run had read count too."""
    bytes_total: int | None
    """Bytes of all sources, or None when one of them is a stream."""
    rows: int
    """Records written by this run."""
    bad_rows: int
    """Rows refused in this run."""
    seconds: float
    """Since it began."""


@dataclass(slots=True)
class Result:
    """What an ingest did."""

    topic: str
    sources: list[str]
    rows: int = 0
    """Records written by this run."""
    rows_total: int = 0
    """Records written by the job: this run, and those that it resumed."""
    bad_rows: int = 0
    """Rows that were refused, by the job in all."""
    bytes: int = 0
    """Bytes of the sources read by this run."""
    seconds: float = 0.0
    resumed: bool = False
    """The job was begun by an earlier run."""
    complete_before: bool = False
    """There was nothing left to do."""
    partitions: dict[int, int] = field(default_factory=dict)
    """Records written by this run to each partition that got some."""
    unused_columns: list[str] = field(default_factory=list)
    """Columns that no field of the topic's dtype takes."""


class Run:
    """One run of a job. `job` is None where the sources can be read only once."""

    def __init__(
        self,
        topic: Topic,
        plan: Plan,
        sources: Sequence[Source],
        job: Job | None,
        state: State,
        *,
        skip_bad: bool,
        bad_rows_to: str | os.PathLike[str] | None,
        checkpoint_ns: int,
        on_progress: Callable[[Progress], object] | None,
        on_bad_row: Callable[[BadRow], object] | None,
    ) -> None:
        self._topic = topic
        self._plan = plan
        self._sources = sources
        self._job = job
        self._skip_bad = skip_bad
        self._checkpoint_ns = checkpoint_ns
        self._on_progress = on_progress
        self._on_bad_row = on_bad_row
        # Those that there were when the job began: rows that are taken in again are to go where they went.
        self._logs = [topic.partition(index)._log() for index in range(len(state.written))]
        self._shaper = Shaper(plan, topic.options)
        self._state = state
        self._written, self._ends, self._turn = list(state.written), list(state.ends), state.turn
        self._skip = list(job.skip) if job else [0] * len(state.written)
        self._origin = (job.producer_id, job.epoch) if job else None
        self._unsynced: set[int] = set()
        self._bad_path = bad_rows_to
        self._bad_file: Any = None
        self._bad_here = 0
        self._began = time.monotonic_ns()
        self._saved = self._began
        total = (
            None if any(source.is_stream for source in sources) else sum(source.size for source in sources)
        )
        self._bytes_total = total
        self._first_bytes: int | None = None
        self._piped = 0
        self.result = Result(
            topic.name,
            [source.name for source in sources],
            resumed=job is not None and job.document["runs"] > 0,
        )

    def run(self) -> Result:
        """Read to the end of the last source.

        Raises:
            BadRowError: a bad row, and bad rows stop the job. What comes before its block is written.
            SourceError, StorageError, KeyboardInterrupt: the job can be resumed.
        """
        try:
            with storage_errors(""):
                self._open_bad_file()
        except StorageError:
            if self._job is not None and not any(self._written):
                self._job.discard()
            raise
        try:
            position: Position | None = dict(self._state.position) if self._state.position else None
            for index in range(self._state.source, len(self._sources)):
                self._read(index, position)
                position = None
            self._checkpoint(done=True)
        except (BadRowError, SourceError, OptionError):
            if self._job is not None and not any(self._written):
                self._job.discard()
            else:
                self._checkpoint()
            raise
        except KeyboardInterrupt:
            self._checkpoint()
            raise
        finally:
            self._finish()
        return self.result

    def _finish(self) -> None:
        result = self.result
        result.seconds = (time.monotonic_ns() - self._began) / 1e9
        result.rows_total = sum(self._written)
        result.bad_rows = self._state.bad
        result.unused_columns = list(self._shaper.unused)
        if self._bad_file is not None:
            self._bad_file.close()

    # ---- blocks

    def _read(self, index: int, position: Position | None) -> None:
        source = self._sources[index]
        before = sum(other.size for other in self._sources[:index]) + self._piped
        if self._first_bytes is None:
            is_plain = source.compression == "none" and position is not None
            self._first_bytes = before + (position.get("at", 0) if is_plain and position else 0)
        limit = self._job.limit(index) if self._job else None
        piped = 0
        with _ahead(read_blocks(source, self._plan, position, limit)) as blocks:
            for block in blocks:
                piped = block.source_bytes
                self._take(index, source, block)
                self._report(source, before + block.source_bytes)
                if time.monotonic_ns() - self._saved >= self._checkpoint_ns:
                    self._checkpoint()
        if index + 1 < len(self._sources):
            self._note(index + 1, None)
        if source.is_stream:  # its size is known now that it has ended
            self._piped += piped
        self._report(source, before + (piped if source.is_stream else source.size))

    def _take(self, index: int, source: Source, block: Block) -> None:
        records = self._shaper.shape(block, source.name)
        if records.bad:
            self._refuse(records.bad)
        if len(records):
            for partition, part in self._route(records):
                self._append(partition, part)
        self._note(index, block.after, bad=len(records.bad))

    def _note(self, index: int, position: Position | None, bad: int = 0) -> None:
        """All up to here is in the log. One assignment, so that an interrupt finds one state or the other."""
        self._state = State(
            written=tuple(self._written),
            ends=tuple(self._ends),
            epochs=tuple(log.leader_epoch for log in self._logs),
            source=index,
            position=position,
            turn=self._turn,
            bad=self._state.bad + bad,
            bad_bytes=self._bad_file.tell() if self._bad_file is not None else self._state.bad_bytes,
        )

    def _report(self, source: Source, source_bytes: int) -> None:
        self.result.bytes = max(0, source_bytes - (self._first_bytes or 0))
        if self._on_progress is not None:
            seconds = (time.monotonic_ns() - self._began) / 1e9
            self._on_progress(
                Progress(
                    source.name, source_bytes, self._bytes_total, self.result.rows, self._bad_here, seconds
                )
            )

    # ---- partitions

    def _route(self, records: Records) -> Iterator[tuple[int, Records]]:
        """The records of each partition, in their order. The same records are always routed the same way."""
        count = len(self._logs)
        if self._plan.partition is not None or count == 1:
            yield self._plan.partition or 0, records
        elif records.keys is None:
            yield from self._in_turn(records)
        else:
            lanes = rows.partition_of(parts_of(records.keys), len(records), count)
            if (lanes < 0).any():
                yield from self._in_turn(records.take(np.flatnonzero(lanes < 0)))
            order = np.argsort(lanes, kind="stable")
            bounds = np.searchsorted(lanes[order], np.arange(count + 1))
            sorted_records = records.take(order)
            for partition in np.flatnonzero(np.diff(bounds)).tolist():
                yield partition, sorted_records.slice(int(bounds[partition]), int(bounds[partition + 1]))

    def _in_turn(self, records: Records) -> Iterator[tuple[int, Records]]:
        """Each partition in turn gets an equal part, but not a tiny one."""
        total = len(records)
        size = max(TURN_ROWS, -(-total // len(self._logs)))
        for start in range(0, total, size):
            partition, self._turn = self._turn, (self._turn + 1) % len(self._logs)
            yield partition, records.slice(start, min(start + size, total))

    def _append(self, partition: int, records: Records) -> None:
        """Append records, but for those that an earlier run has appended already."""
        if done := min(self._skip[partition], len(records)):
            self._skip[partition] -= done
            self._written[partition] += done
            records = records.slice(done, len(records))
        total = len(records)
        if not total:
            return
        nbytes = records.values.nbytes + (0 if records.keys is None else records.keys.nbytes)
        size = max(1, total * BATCH_BYTES // max(nbytes, 1))
        for start in range(0, total, size):
            self._append_batch(partition, records.slice(start, min(start + size, total)))

    def _append_batch(self, partition: int, records: Records) -> None:
        sequence = self._written[partition] % SEQUENCES
        origin = None if self._origin is None else (*self._origin, sequence)
        try:
            base = append_batch(
                self._logs[partition],
                records.values,
                records.keys,
                None,
                records.timestamps,
                -1,
                None,
                origin,
            )
        except BatchTooLargeError:
            if len(records) == 1:
                raise
            half = len(records) // 2
            self._append_batch(partition, records.slice(0, half))
            self._append_batch(partition, records.slice(half, len(records)))
            return
        self._written[partition] += len(records)
        self._ends[partition] = base + len(records)
        self._unsynced.add(partition)
        self.result.rows += len(records)
        self.result.partitions[partition] = self.result.partitions.get(partition, 0) + len(records)

    # ---- bad rows

    def _open_bad_file(self) -> None:
        """Open the file of bad rows, without those that come again because they are behind the state."""
        if self._bad_path is None:
            return
        self._bad_file = open(self._bad_path, "ab")  # noqa: SIM115 (closed by _finish)
        size = self._bad_file.tell()
        if self._job is None:
            return
        path = os.path.abspath(self._bad_path)
        known = self._job.document.get("bad_file")
        if known is not None and known["path"] == path:
            size = min(size, max(known["start"], self._state.bad_bytes))
            self._bad_file.truncate(size)
            self._bad_file.seek(size)
        else:
            self._job.document["bad_file"] = {"path": path, "start": size}
            self._job.write()
        self._state = replace(self._state, bad_bytes=size)

    def _refuse(self, bad: Sequence[BadRow]) -> None:
        for row in bad:
            if not self._skip_bad:
                raise BadRowError(row)
            self._bad_here += 1
            if self._bad_file is not None:
                self._bad_file.write(_bad_line(row))
            if self._on_bad_row is not None:
                self._on_bad_row(row)

    # ---- checkpoints

    def _checkpoint(self, *, done: bool = False) -> None:
        """Make what is written durable, then say in the job's file how far that is."""
        self._saved = time.monotonic_ns()
        if self._job is None:
            return
        state = self._state
        for partition in sorted(self._unsynced):
            self._topic.partition(partition).flush(durable=True)
        self._unsynced.clear()
        if self._bad_file is not None:
            self._bad_file.flush()
            os.fsync(self._bad_file.fileno())
        self._job.save(state, done=done)
        self._saved = time.monotonic_ns()


def _bad_line(row: BadRow) -> bytes:
    document: dict[str, Any] = {"source": row.source, row.unit: row.number, "reason": row.reason}
    try:
        document["text"] = row.text.decode()
    except UnicodeDecodeError:
        document["text_base64"] = b64encode(row.text).decode()
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n"


class _ahead:
    """Runs an iterator in a thread, a few items ahead of who takes them."""

    def __init__(self, items: Iterator[Any]) -> None:
        self._items = items
        self._queue: queue.Queue[tuple[str, Any]] = queue.Queue(READ_AHEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pystream-ingest-read", daemon=True)

    def _run(self) -> None:
        try:
            for item in self._items:
                if not self._put("item", item):
                    return
            self._put("end", None)
        except BaseException as error:
            self._put("error", error)

    def _put(self, kind: str, item: Any) -> bool:
        while not self._stop.is_set():
            with suppress(queue.Full):
                self._queue.put((kind, item), timeout=0.1)
                return True
        return False

    def __enter__(self) -> Iterator[Any]:
        self._thread.start()
        return self._taken()

    def _taken(self) -> Iterator[Any]:
        while True:
            kind, item = self._queue.get()
            if kind == "end":
                return
            if kind == "error":
                raise item
            yield item

    def __exit__(self, *ignored: object) -> None:
        self._stop.set()
        self._thread.join(timeout=1)  # it may be waiting for a pipe
