"""The main paths through pystream, each as a piece of work of any size: for counting its instructions, and
for timing it beside other threads."""

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import data
import pystream
from pystream._native import hashing

Work = Callable[[], Any]
BATCH_BYTES = 256 << 10
VALUE_BYTES = data.VALUE_BYTES
# Records of 100 B that fill a batch.
FULL = BATCH_BYTES // (VALUE_BYTES + 4)
START_NS = 1_700_000_000_000_000_000
NEVER = "1h"
SHM = Path("/dev/shm")
SHM_BYTES_MIN = 512 << 20


class Site:
    """Where a path finds its stores; all are closed and removed when the site is.

    Nothing but the work happens in them: no batch is sent because time passes, and no sync of its own accord.
    """

    def __init__(self, root: str | Path) -> None:
        self._stack = ExitStack()
        self.root = tempfile.mkdtemp(prefix="paths-", dir=root)
        self._stack.callback(shutil.rmtree, self.root, ignore_errors=True)
        self._numbers = iter(range(10**6))

    def __enter__(self) -> "Site":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def kept(self, thing: Any) -> Any:
        """Close `thing` at the end."""
        return self._stack.enter_context(thing)

    def store(self, path: str | None = None) -> pystream.Store:
        made = path or os.path.join(self.root, f"{next(self._numbers):06}")
        store: pystream.Store = self.kept(pystream.open(made, sync_interval=NEVER))
        return store

    def topic(self, **options: Any) -> pystream.Topic:
        options.setdefault("partitions", 1)
        return self.store().topic("paths", create=True, **options)

    def producer(self, topic: pystream.Topic | None = None, **options: Any) -> Any:
        topic = self.topic() if topic is None else topic
        return self.kept(topic.producer(linger=60, batch_bytes=BATCH_BYTES, **options))

    def filled(self, count: int, *, batch: int = FULL, **options: Any) -> pystream.Topic:
        """A topic with so many records of 100 B, or of what options say; a batch is 1 ms after the last."""
        topic = self.topic(**options)
        append = topic.partition(0).append
        values: Any = records(count)
        if options.get("compression"):
            values = data.words(count)
        elif options.get("dtype"):
            values = data.numbers(count * 8)
        for number, first in enumerate(range(0, count, batch)):
            append(values[first : first + batch], timestamps=START_NS + number * 1_000_000)
        return topic

    def again(self, topic: pystream.Topic) -> pystream.Topic:
        """The same topic in a store that was opened anew, of which nothing has been checked."""
        path = topic._store.path
        topic.flush()
        topic._store.close()
        topic = self.store(path)["paths"]
        topic.offsets()  # opens its logs
        return topic


@dataclass(frozen=True)
class Path_:
    """A path.

    work:  prepares `count` units at a site, off the clock, and returns what does them.
    unit:  what is counted.
    count: a size that takes long enough to be measured, and is short under a simulator.
    rate:  as many units as a clock wants, by those that a simulator does.
    """

    name: str
    work: Callable[[Site, int], Work]
    unit: str
    count: int
    rate: int = 40


PATHS: dict[str, Path_] = {}


def path(
    name: str, unit: str, count: int, *, rate: int = 40
) -> Callable[[Callable[[Site, int], Work]], Callable[[Site, int], Work]]:
    def enter(work: Callable[[Site, int], Work]) -> Callable[[Site, int], Work]:
        PATHS[name] = Path_(name, work, unit, count, rate)
        return work

    return enter


_records: list[bytes] = []


def records(count: int) -> list[bytes]:
    """`count` distinct values of 100 B, made once."""
    if len(_records) < count:
        _records.extend(data.values(count)[len(_records) :])
    return _records[:count]


# ---- the measure of all others: what Python itself needs -----------------------------------------------


class Nothing:
    """A method of Python that does nothing."""

    def send(self, value: object, key: object = None) -> None:
        return None


@path("a call that does nothing, from a loop", "call", 3000)
def reference(site: Site, count: int) -> Work:
    send, values = Nothing().send, records(count)

    def work() -> None:
        for value in values:
            send(value)

    return work


# ---- writing --------------------------------------------------------------------------------------------


@path("`send`", "record", FULL)
def send(site: Site, count: int) -> Work:
    producer, values = site.producer(), records(count)

    def work() -> None:
        send = producer.send
        for value in values:
            send(value)

    return work


@path("`send`, a `flush` each 2,000", "record", 8000)
def send_and_flush(site: Site, count: int) -> Work:
    """A batch that is not full when it is flushed is delivered by the thread that flushes."""
    producer = site.producer()
    values = records(count)
    parts = [values[first : first + 2000] for first in range(0, count, 2000)]

    def work() -> None:
        send = producer.send
        for part in parts:
            for value in part:
                send(value)
            producer.flush()

    return work


@path("`send` with a key, 4 partitions", "record", FULL)
def send_keyed(site: Site, count: int) -> Work:
    producer, values = site.producer(site.topic(partitions=4)), records(count)
    keys = [b"user-%06d" % (number % 1000) for number in range(count)]

    def work() -> None:
        send = producer.send
        for value, key in zip(values, keys, strict=True):
            send(value, key)

    return work


@path('`send` of str, `value="utf8"`', "record", FULL)
def send_text(site: Site, count: int) -> Work:
    producer, texts = site.producer(value="utf8"), data.texts(count)

    def work() -> None:
        send = producer.send
        for text in texts:
            send(text)

    return work


@path("`send_many` of a list", "record", FULL * 4)
def send_many_list(site: Site, count: int) -> Work:
    producer, values = site.producer(), records(count)
    return lambda: producer.send_many(values)


@path("`send_many` of an array of numbers", "record", 1 << 16)
def send_many_numbers(site: Site, count: int) -> Work:
    producer, array = site.producer(site.topic(dtype="i8")), data.numbers(count * 8)
    return lambda: producer.send_many(array)


@path("`send_many` of an array of S100", "record", FULL * 4)
def send_many_bytes(site: Site, count: int) -> Work:
    producer = site.producer(site.topic(value_bytes=VALUE_BYTES))
    array = np.array([value[:-1] + b"." for value in records(count)], f"S{VALUE_BYTES}")
    return lambda: producer.send_many(array)


@path("`append` of one record", "record", 1000)
def append_one(site: Site, count: int) -> Work:
    append, values = site.topic().partition(0).append, records(count)

    def work() -> None:
        for value in values:
            append([value])

    return work


@path("`append` of one record, partition held", "record", 1000)
def append_held(site: Site, count: int) -> Work:
    partition, values = site.topic().partition(0), records(count)
    partition.append([b"first"])
    append = partition.append
    site.kept(partition.exclusive())

    def work() -> None:
        for value in values:
            append([value])

    return work


@path('`append` of one record, `durability="sync"`', "record", 1000, rate=1)
def append_sync(site: Site, count: int) -> Work:
    append, values = site.topic(durability="sync").partition(0).append, records(count)

    def work() -> None:
        for value in values:
            append([value])

    return work


@path("`append` of an array of 64 numbers", "append", 200)
def append_numbers(site: Site, count: int) -> Work:
    append = site.topic(dtype="i8").partition(0).append
    blocks = np.split(data.numbers(count * 512), count)

    def work() -> None:
        for block in blocks:
            append(block)

    return work


@path("`append` of an array of 256 KiB", "append", 8)
def append_array(site: Site, count: int) -> Work:
    append = site.topic(dtype="i8").partition(0).append
    block = data.numbers(BATCH_BYTES)

    def work() -> None:
        for _ in range(count):
            append(block)

    return work


@path("`append` of an Arrow column of 2,520 values", "append", 8)
def append_arrow(site: Site, count: int) -> Work:
    # A column of a batch is itself an Arrow array, so no other package is needed.
    column = next(iter(site.filled(FULL).partition(0).scan())).values
    append = site.topic().partition(0).append

    def work() -> None:
        for _ in range(count):
            append(column)

    return work


@path("`append` of lists of JSON, LZ4", "record", FULL)
def append_lz4(site: Site, count: int) -> Work:
    append, events = site.topic(compression="lz4").partition(0).append, data.words(count)
    return lambda: [append(events[first : first + FULL // 2]) for first in range(0, count, FULL // 2)]


# ---- reading --------------------------------------------------------------------------------------------


def reading(topic: pystream.Topic) -> Work:
    def work() -> None:
        for record in topic.records():
            record.offset  # noqa: B018
            record.value  # noqa: B018

    return work


def warmed(work: Work) -> Work:
    work()
    return work


@path("records, `.offset` and `.value`", "record", FULL)
def record_loop(site: Site, count: int) -> Work:
    return warmed(reading(site.filled(count)))


@path('records with `value="utf8"`', "record", FULL)
def text_loop(site: Site, count: int) -> Work:
    topic = site.store().topic("paths", create=True, value="utf8")
    topic.append(data.texts(count))
    return warmed(reading(topic))


@path("a consumer's records", "record", FULL)
def consumer_loop(site: Site, count: int) -> Work:
    topic = site.filled(count)
    consumer = site.kept(topic._store.consumer("paths"))
    last = count - 1

    def work() -> None:
        consumer.seek_to_beginning()
        for record in consumer:
            record.value  # noqa: B018
            if record.offset == last:
                break

    return warmed(work)


@path("batches of one record, `.values`", "batch", 300)
def batch_loop(site: Site, count: int) -> Work:
    partition = site.filled(count, batch=1).partition(0)

    def work() -> None:
        for batch in partition.scan():
            batch.values  # noqa: B018

    return warmed(work)


@path("batches of one record, an Arrow export", "batch", 300)
def export_loop(site: Site, count: int) -> Work:
    partition = site.filled(count, batch=1).partition(0)

    def work() -> None:
        for batch in partition.scan():
            batch.__arrow_c_array__()

    return warmed(work)


@path("`poll` of batches of one record", "poll", 300)
def poll(site: Site, count: int) -> Work:
    consumer = site.kept(site.filled(count, batch=1)._store.consumer("paths"))

    def work() -> None:
        consumer.seek_to_beginning()
        for _ in range(count):
            consumer.poll(timeout=0)

    return warmed(work)


@path("`poll` where nothing is", "poll", 300)
def poll_nothing(site: Site, count: int) -> Work:
    consumer = site.kept(site.filled(1)._store.consumer("paths", start="latest"))

    def work() -> None:
        for _ in range(count):
            consumer.poll(timeout=0)

    return work


@path("first pass, checksums made", "batch of 256 KiB", 8)
def first_pass(site: Site, count: int) -> Work:
    topic = site.again(site.filled(count * FULL))

    def work() -> None:
        for batch in topic.batches():
            batch.values  # noqa: B018

    return work


@path("first pass, LZ4", "record", FULL)
def first_pass_lz4(site: Site, count: int) -> Work:
    return reading(site.again(site.filled(count, compression="lz4")))


@path("arrays of a topic of numbers", "array of 256 KiB", 8)
def arrays(site: Site, count: int) -> Work:
    partition = site.filled(count * (BATCH_BYTES >> 3), batch=BATCH_BYTES >> 3, dtype="i8").partition(0)

    def work() -> None:
        for array in partition.arrays():
            array.size  # noqa: B018

    return warmed(work)


def places(count: int, end: int) -> list[int]:
    """`count` numbers below `end`, all over; a larger count goes over the same ones again."""
    step = 7919  # prime to all `end` in use
    return [number * step % end for number in range(count)]


LANDMARKS = 20_000


@path("`seek` and `poll`", "seek", 200)
def seek(site: Site, count: int) -> Work:
    consumer = site.kept(site.filled(LANDMARKS, batch=100)._store.consumer("paths"))
    place, wanted = pystream.TopicPartition("paths", 0), places(count, LANDMARKS)

    def work() -> None:
        for offset in wanted:
            consumer.seek(place, offset)
            consumer.poll(timeout=0)

    return warmed(work)


@path("`offset_for_time`", "search", 200)
def seek_time(site: Site, count: int) -> Work:
    partition = site.filled(LANDMARKS, batch=100).partition(0)
    times = [START_NS + number * 1_000_000 for number in places(count, LANDMARKS // 100)]

    def work() -> None:
        for time in times:
            partition.offset_for_time(time)

    return warmed(work)


@path("`partition[offset]`", "record", 200)
def read_one(site: Site, count: int) -> Work:
    partition = site.filled(LANDMARKS, batch=100).partition(0)
    wanted = places(count, LANDMARKS)

    def work() -> None:
        for offset in wanted:
            partition[offset]

    return warmed(work)


@path("checksum of 64 KiB", "checksum", 20)
def checksum(site: Site, count: int) -> Work:
    block = data.numbers(64 << 10).tobytes()

    def work() -> None:
        for _ in range(count):
            hashing.xxh3_hex(block)

    return work


@path("`commit` in a group", "commit", 100)
def commit(site: Site, count: int) -> Work:
    topic = site.filled(FULL)
    consumer = site.kept(topic._store.consumer("paths", group="paths", auto_commit=False))
    polled = next(iter(consumer))
    assert polled.offset == 0

    def work() -> None:
        for offset in range(1, count + 1):
            consumer.commit({("paths", 0): offset})

    return warmed(work)


# ---- where it runs ----------------------------------------------------------------------------------------


def disk_root() -> Path:
    """PYSTREAM_BENCH_DIR, or build/; it should lie on a real disk."""
    root = Path(os.environ.get("PYSTREAM_BENCH_DIR") or Path(__file__).parent.parent / "build")
    root.mkdir(parents=True, exist_ok=True)
    return root


def store_root() -> Path:
    """Memory, where it holds enough, so that a disk has no part in what is counted; else disk_root()."""
    room = SHM.is_dir() and os.access(SHM, os.W_OK) and shutil.disk_usage(SHM).free >= SHM_BYTES_MIN
    return SHM if room and "PYSTREAM_BENCH_DIR" not in os.environ else disk_root()
