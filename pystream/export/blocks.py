"""From a range of a topic to blocks of rows, as Arrow record batches of a good size.

The range is fixed when it is made: what others append meanwhile is beyond it. Stored batches of a good
size are lent as they are; small ones are put together, large ones are cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import pyarrow as pa

from pystream import options as opt
from pystream.errors import OptionError

if TYPE_CHECKING:
    from pystream._native.batch import Batch
    from pystream.topic import Positions, Topic

BLOCK_ROWS: Final = 1 << 16
BLOCK_BYTES: Final = 8 << 20
"""About as many bytes of rows are held for one step of the work; one record may be more."""


class Span(NamedTuple):
    """Offsets of one partition, `stop` not included."""

    partition: int
    start: int
    stop: int


class Block(NamedTuple):
    """Rows of one partition, in order, in the topic's own Arrow schema."""

    partition: int
    rows: pa.RecordBatch
    done: int
    """Offsets of the whole range that are behind, these rows included."""


def resolve(
    topic: Topic, start: Positions, stop: Positions | None, partitions: Iterable[int] | None
) -> list[Span]:
    """The range as it is now, in the order of the partitions.

    Raises:
        OptionError: no such partition, or one offset for several of them.
        OffsetOutOfRangeError: `start` is not in the partition.
    """
    chosen = range(topic.partitions) if partitions is None else sorted(set(partitions))
    places = []
    for name, place in (("start", start), ("stop", stop)):
        if hasattr(place, "__index__"):
            if len(chosen) > 1:
                raise OptionError(
                    f"{name}={place}: an offset belongs to one partition, and these are {len(chosen)}: "
                    "choose one of them, or give a moment",
                    topic=topic.name,
                )
            place = dict.fromkeys(chosen, cast("int", place))
        places.append(topic._positions(name, place))
    spans = []
    for index in chosen:
        reader = topic.partition(opt.parse_int("partition", index))._reader(*(p.get(index) for p in places))
        assert reader.stop_offset is not None
        spans.append(Span(index, reader.position, reader.stop_offset))
    return spans


def read(topic: Topic, spans: Iterable[Span], max_records: int | None = None) -> Iterator[Block]:
    """The rows of `spans`, at most `max_records` of them."""
    left = max_records
    behind = 0
    for span in spans:
        if left == 0:
            return
        for batch, rows in _gather(_batches(topic, span), left):
            if left is not None:
                left -= rows.num_rows
            yield Block(span.partition, rows, behind + min(batch.next_offset, span.stop) - span.start)
        behind += span.stop - span.start


def _batches(topic: Topic, span: Span) -> Iterator[Batch]:
    if span.start < span.stop:
        yield from topic.partition(span.partition).scan(span.start, span.stop)


def _gather(batches: Iterator[Batch], left: int | None) -> Iterator[tuple[Batch, pa.RecordBatch]]:
    """Record batches of a good size, each with the last stored batch that is in it."""
    waiting: list[pa.RecordBatch] = []
    rows = size = 0
    last: Batch | None = None
    for batch in batches:
        if left is not None and left < rows + len(batch):
            batch = batch[: left - rows]
        if not len(batch):
            if left == rows:
                break
            continue
        if waiting and (rows + len(batch) > BLOCK_ROWS or size + batch.raw_bytes > BLOCK_BYTES):
            assert last is not None
            for joined in _joined(waiting):
                yield last, joined
            if left is not None:
                left -= rows
            waiting, rows, size = [], 0, 0
        last = batch
        exported = pa.record_batch(batch)
        step = _step(batch)
        if len(batch) >= step:
            for at in range(0, len(batch), step):
                yield batch, exported.slice(at, step)
            if left is not None:
                left -= len(batch)
        else:
            waiting.append(exported)
            rows += len(batch)
            size += batch.raw_bytes
    if waiting:
        assert last is not None
        for joined in _joined(waiting):
            yield last, joined


def _step(batch: Batch) -> int:
    """As many rows of a batch as make a block."""
    return max(1, min(BLOCK_ROWS, len(batch) * BLOCK_BYTES // max(batch.raw_bytes, 1)))


def _joined(batches: list[pa.RecordBatch]) -> list[Any]:
    if len(batches) == 1:
        return batches
    found: list[Any] = pa.Table.from_batches(batches).combine_chunks().to_batches()
    return found
