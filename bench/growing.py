"""What bench/growth.py measures: work of one kind at several sizes, each beside the floor of the same bytes.

A point is {"size", "rounds": {name: [seconds or None]}}; names are those of QUANTITIES.
"""

import gc
import multiprocessing
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import data
import pystream

Seconds = dict[str, float]
WIDTH = 8
BATCH_BYTES = 256 << 10
START_NS = 1_700_000_000_000_000_000
PLACES = 2000
READY_S_MAX = 120
SEGMENT_ROOM = 1 << 20
FLOOR_BYTES = 256 << 20
now = time.perf_counter


def numbers(count: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
    return data.numbers(count * 8)


@contextmanager
def stopped(path: Path) -> Iterator[Path]:
    """A directory that is gone afterwards."""
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def timed(work: Callable[[], Any]) -> float:
    gc.collect()
    began = now()
    work()
    return now() - began


# ---- more records in a partition --------------------------------------------------------------------------


def record_growth(root: Path, floors: ModuleType, sizes: list[int]) -> Iterator[tuple[int, Seconds]]:
    """One partition of 8-byte records that grows from size to size: what was added since the last size, as a
    record's cost; opening and finding in all there is."""
    path, had = root / "records", 0
    with stopped(root / "floor") as floor_root:
        for size in sizes:
            work, count = pieces(numbers(BATCH_BYTES // WIDTH), size - had), size - had
            spent = {"append": append_pieces(path, work, had) / count}
            spent["append, floor"] = floor_append(floors, floor_root, work) / count
            yield size, spent | opened(path, floors, size, had)
            had = size


def stamp_of(offset: int) -> int:
    """The timestamp of the batch that begins there."""
    return START_NS + 1000 * offset


def append_pieces(path: Path, work: "list[np.ndarray[Any, Any]]", had: int) -> float:
    with pystream.open(path) as store:
        append = store.topic("growth", create=True, dtype="i8").partition(0).append

        def write() -> None:
            offset = had
            for part in work:
                append(part, timestamps=stamp_of(offset))
                offset += len(part)

        return timed(write)


def pieces(block: "np.ndarray[Any, Any]", count: int) -> list["np.ndarray[Any, Any]"]:
    """`count` records in arrays of at most a block."""
    whole, rest = divmod(count, len(block))
    return [block] * whole + ([block[:rest]] if rest else [])


def floor_append(floors: ModuleType, root: Path, work: "list[np.ndarray[Any, Any]]") -> float:
    """Seconds to checksum and write the same arrays into files of reserved space."""
    seconds, per_file = 0.0, FLOOR_BYTES // BATCH_BYTES
    for first in range(0, len(work), per_file):
        some = [part.view(np.uint8) for part in work[first : first + per_file]]
        file = floors.File.make(str(root / "file"), FLOOR_BYTES + SEGMENT_ROOM)

        def write(file: Any = file, some: Any = some) -> None:
            for raw in some:
                file.append_blocks(raw, raw.nbytes, floors.PWRITE)

        seconds += timed(write)
        file.close()
    return seconds


def opened(path: Path, floors: ModuleType, size: int, had: int) -> Seconds:
    """What is asked of a store that was just opened; and, opened once more, a first pass over what is new."""
    spent: Seconds = {}
    began = now()
    with pystream.open(path) as store:
        partition = store["growth"].partition(0)
        assert partition.end_offset == size
        spent["open"] = now() - began
        place = pystream.TopicPartition("growth", 0)
        pick = random.Random(data.SEED)
        wanted = [pick.randrange(size) for _ in range(PLACES)]
        times = [stamp_of(offset) for offset in wanted]
        with store.consumer("growth") as consumer:

            def seek() -> None:
                for offset in wanted:
                    consumer.seek(place, offset)

            def find() -> None:
                for moment in times:
                    partition.offset_for_time(moment)

            def get() -> None:
                for offset in wanted:
                    partition[offset]

            for name, work in (("seek by offset", seek), ("seek by time", find), ("partition[offset]", get)):
                work()
                spent[name] = timed(work) / PLACES
    added = size - had
    with pystream.open(path) as store:
        partition = store["growth"].partition(0)

        def read() -> None:
            total = sum(len(array) for array in partition.arrays(had))
            assert total == added

        spent["read"] = timed(read) / added
    spent["read, floor"] = floor_read(path, floors, added * WIDTH) / added
    return spent


def floor_read(path: Path, floors: ModuleType, bytes_: int) -> float:
    """Seconds for one xxh3 pass over the last so many bytes of the log's files, mapped."""
    seconds, left = 0.0, bytes_
    for file_path in sorted((path / "topics/growth/0").glob("*.log"), reverse=True):
        if left <= 0:
            break
        file = floors.File.view(str(file_path))
        share = min(1.0, left / file.bytes)
        seconds += timed(lambda file=file: file.hash_pass(BATCH_BYTES, False)) * share
        left -= file.bytes
        file.close()
    return seconds


# ---- more partitions --------------------------------------------------------------------------------------


def partition_growth(root: Path, sizes: list[int], records: int) -> Iterator[tuple[int, Seconds]]:
    """The same records in more and more partitions: batches of 100 in turn, and by key; then all read by one
    consumer."""
    values = data.values(100)
    for size in sizes:
        with stopped(root / "partitions") as path:
            with pystream.open(path) as store:
                spent = write_partitions(store, size, records, values)
            yield size, spent | read_partitions(path, size)


def write_partitions(store: pystream.Store, size: int, records: int, values: list[bytes]) -> Seconds:
    began = now()
    topic = store.topic("growth", create=True, partitions=size, segment_bytes="4MiB")
    parts = [topic.partition(index) for index in range(size)]
    for partition in parts:
        partition.append(values[:1])
    spent = {"make a partition": (now() - began) / size}
    rounds = max(1, records // (len(values) * size))

    def write() -> None:
        for _ in range(rounds):
            for partition in parts:
                partition.append(values)

    spent["append, batches of 100"] = timed(write) / (rounds * size * len(values))
    keys, value, passes = [b"%d" % number for number in range(4096)], values[0], max(1, records // 4096)
    with topic.producer() as producer:

        def send() -> None:
            for _ in range(passes):
                for key in keys:
                    producer.send(value, key)
            producer.flush()

        spent["send with keys"] = timed(send) / (passes * len(keys))
    return spent


def read_partitions(path: Path, size: int) -> Seconds:
    began = now()
    with pystream.open(path) as store:
        topic = store["growth"]
        everything = sum(topic.partition(index).end_offset for index in range(size))
        spent = {"open a partition": (now() - began) / size}
        with store.consumer("growth") as consumer:

            def read() -> None:
                left = everything
                while left:
                    left -= len(consumer.poll(timeout=10) or ())

            spent["read by a consumer"] = timed(read) / everything
    return spent


# ---- larger batches ---------------------------------------------------------------------------------------


def batch_growth(
    root: Path, floors: ModuleType, sizes: list[int], records: int
) -> Iterator[tuple[int, Seconds]]:
    """Records of 100 B appended in lists of so many, and read again; the floor gathers the same lists."""
    values = data.values(max(sizes))
    for size in sizes:
        with stopped(root / "batches") as path:
            yield size, one_batch_size(path, floors, values[:size], min(records // size, BATCHES_MAX))


BATCHES_MAX = 20_000


def one_batch_size(path: Path, floors: ModuleType, batch: list[bytes], count: int) -> Seconds:
    total = count * len(batch)
    file = floors.File.make(str(path / "floor"), count * (len(batch) * 104 + 8) + SEGMENT_ROOM)

    def gather() -> None:
        for _ in range(count):
            file.gather(batch, len(batch) * 104 + 4096, floors.PWRITE)

    spent = {"append, floor": timed(gather) / total}
    file.close()
    with pystream.open(path) as store:
        partition = store.topic("growth", create=True).partition(0)
        partition.append(batch)
        append = partition.append

        def write() -> None:
            for _ in range(count):
                append(batch)

        def read() -> None:
            for record in partition:
                record.value  # noqa: B018

        def walk() -> None:
            for batch in partition.scan():
                batch.values  # noqa: B018

        spent["append"] = timed(write) / total
        read()
        spent["read records"] = timed(read) / (total + len(batch))
        spent["read batches"] = timed(walk) / (total + len(batch))
    return spent


# ---- more threads and processes ---------------------------------------------------------------------------


def crew_growth(
    root: Path, floors: ModuleType, sizes: list[int], bytes_all: int, kind: str
) -> Iterator[tuple[int, Seconds]]:
    """So many threads or processes: each appends arrays to a partition of its own, as LZ4 and as they are,
    and reads it; the floor writes as many files. A byte's cost of them all together, which write the same
    bytes whatever their number: more of them would measure the disk, by the syncs of every second."""
    for size in sizes:
        spent: Seconds = {}
        bytes_each = bytes_all // size
        for name, options in (("append", {}), ("append, LZ4", {"compression": "lz4"})):
            with stopped(root / "crew") as path:
                with pystream.open(path / "store") as store:
                    store.topic("growth", create=True, dtype="i8", partitions=size, **options)
                spent[name] = together(kind, size, append_all, path / "store", bytes_each) / (
                    size * bytes_each
                )
                if not options:
                    spent["read"] = together(kind, size, read_all, path / "store", bytes_each)
                    spent["read"] /= size * bytes_each
        with stopped(root / "crew") as path:
            work = FloorCrew(floors)
            spent["append, floor"] = together(kind, size, work, path, bytes_each) / (size * bytes_each)
        yield size, spent


def crew_block() -> "np.ndarray[Any, np.dtype[np.int64]]":
    """256 KiB which LZ4 halves: numbers of 32 bits."""
    return numbers(BATCH_BYTES // 8) >> 31


def append_all(path: Path, index: int, total: int, clock: "Clock") -> None:
    block = crew_block()
    with pystream.open(path) as store:
        append = store["growth"].partition(index).append
        append(block)
        with clock:
            for _ in range(total // BATCH_BYTES):
                append(block)


def read_all(path: Path, index: int, total: int, clock: "Clock") -> None:
    with pystream.open(path) as store:
        partition = store["growth"].partition(index)
        with clock:
            count = sum(len(array) for array in partition.arrays())
    assert count >= total // 8


class FloorCrew:
    """The same bytes by checksum and pwrite."""

    def __init__(self, floors: ModuleType) -> None:
        self.module = floors.__file__

    def __call__(self, path: Path, index: int, total: int, clock: "Clock") -> None:
        from floors.build import load_from

        floors = load_from(str(self.module))
        raw = crew_block().view(np.uint8)
        file = floors.File.make(str(path / str(index)), total + total // 512 + BATCH_BYTES + SEGMENT_ROOM)
        file.append_blocks(raw, BATCH_BYTES, floors.PWRITE)
        with clock:
            for _ in range(total // BATCH_BYTES):
                file.append_blocks(raw, BATCH_BYTES, floors.PWRITE)
        file.close()


class Clock:
    """Starts when all are ready, and notes when each has begun and ended."""

    def __init__(self, barrier: Any, times: Any, index: int) -> None:
        self._barrier, self._times, self._index = barrier, times, index

    def __enter__(self) -> None:
        self._barrier.wait(READY_S_MAX)
        self._times[2 * self._index] = time.monotonic()

    def __exit__(self, *error: object) -> None:
        self._times[2 * self._index + 1] = time.monotonic()


def together(kind: str, size: int, work: Any, path: Path, total: int) -> float:
    """Seconds from when the first begins until the last has ended."""
    context: Any = threading if kind == "threads" else multiprocessing.get_context("spawn")
    make = context.Thread if kind == "threads" else context.Process
    times = [0.0] * (2 * size) if kind == "threads" else context.Array("d", 2 * size)
    barrier = context.Barrier(size)
    crew = [make(target=attend, args=(work, path, index, total, barrier, times)) for index in range(size)]
    for one in crew:
        one.start()
    for one in crew:
        one.join()
    if min(times) == 0:
        raise RuntimeError(f"one of {size} {kind} failed; its words are above")
    return float(max(times[1::2]) - min(times[::2]))


def attend(work: Any, path: Path, index: int, total: int, barrier: Any, times: Any) -> None:
    try:
        work(path, index, total, Clock(barrier, times, index))
    except BaseException:
        barrier.abort()
        raise


# ---- bursts, and what lasts -------------------------------------------------------------------------------


def sustained(root: Path, floors: ModuleType, sizes: list[int]) -> Iterator[tuple[int, Seconds]]:
    """So many bytes by `send` of 100 B and by `append` of arrays, all on the disk at the end; the floor
    writes and syncs them."""
    values, block = data.values(100_000), numbers(BATCH_BYTES // 8)
    works = {
        "send and flush": lambda path, size: send_sustained(path, size, values),
        "append and flush": lambda path, size: append_sustained(path, size, block),
        "floor": lambda path, size: floor_sustained(floors, path, size, block),
    }
    for size in sizes:
        spent: Seconds = {}
        for name, work in works.items():
            os.sync()  # what the one before it has left is not this one's
            with stopped(root / "sustained") as path:
                spent[name] = work(path, size) / size
        yield size, spent


def send_sustained(path: Path, size: int, values: list[bytes]) -> float:
    passes, rest = divmod(size // data.VALUE_BYTES, len(values))
    with pystream.open(path) as store, store.topic("growth", create=True).producer() as producer:

        def work() -> None:
            send = producer.send
            for part in (*[values] * passes, values[:rest]):
                for value in part:
                    send(value)
            producer.flush(durable=True)

        return timed(work)


def append_sustained(path: Path, size: int, block: "np.ndarray[Any, Any]") -> float:
    with pystream.open(path) as store:
        partition = store.topic("growth", create=True, dtype="i8").partition(0)

        def work() -> None:
            append = partition.append
            for _ in range(size // BATCH_BYTES):
                append(block)
            partition.flush()

        return timed(work)


def floor_sustained(floors: ModuleType, root: Path, size: int, block: "np.ndarray[Any, Any]") -> float:
    """Seconds to write so many bytes to files, each synced when it is full, as a log rolls."""
    raw, seconds = block.view(np.uint8), 0.0
    files = []
    for first in range(0, size, FLOOR_BYTES):
        file = floors.File.make(str(root / str(first)), FLOOR_BYTES + SEGMENT_ROOM)
        files.append(file)

        def write(file: Any = file, count: int = min(size - first, FLOOR_BYTES) // BATCH_BYTES) -> None:
            for _ in range(count):
                file.store(raw, raw.nbytes, floors.PWRITE)
            file.sync()

        seconds += timed(write)
    for file in files:
        file.close()
    return seconds
