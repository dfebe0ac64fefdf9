"""What is lent outlives whatever it came from; closing twice is closing once; nothing leaks."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import pystream
from harness import LONG, T0, quick_directory, rows
from pystream import ClosedError
from pystream.stats import PartitionStats


@pytest.fixture
def path() -> Iterator[Path]:
    with quick_directory() as directory:
        yield directory / "s"


def maps_of(path: Path) -> int:
    """How many maps of files below `path` this process has."""
    return sum(str(path) in line for line in Path("/proc/self/maps").read_text().splitlines())


def descriptors_of(path: Path) -> int:
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{fd}").startswith(str(path))
        except OSError:
            continue
    return count


# ---- lending ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_what_is_lent_outlives_everything(path: Path, compression: str) -> None:
    """Consumer, store and the segment's file."""
    values = [b"value %d" % (i % 7) for i in range(500)]
    with pystream.open(path) as store:
        topic = store.topic("t", create=True, compression=compression, segment_bytes=65536)
        topic.append(values, keys=values, headers=[[("h", b"1")]] * 500, timestamps=np.arange(500) + T0)
        consumer = store.consumer("t")
        batch = consumer.poll(0)
        assert batch is not None
        record = batch[3]
        view = batch.values[3]
        data = batch.values.data
        offsets = batch.values.offsets
        sliced = batch[100:200].values
        arrow = pa.record_batch(batch)
        chunk = arrow.column("key").slice(10, 5)
        stamps, numbers = batch.timestamps, batch.offsets
        iterator = iter(batch)
        next(iterator)
        consumer.close()
    for file in path.rglob("*"):
        if file.is_file():
            file.unlink()
    del consumer, store, topic
    gc.collect()
    assert [one.value for one in batch] == values
    assert next(iterator).value == values[1]
    assert view is not None
    assert bytes(view) == values[3]
    assert bytes(data) == b"".join(values)
    assert offsets is not None
    assert offsets[-1] == len(b"".join(values))
    assert sliced.to_pylist() == values[100:200]
    del batch
    gc.collect()
    assert arrow.column("value").to_pylist() == values
    arrow.validate(full=True)
    del arrow
    gc.collect()
    assert chunk.to_pylist() == values[10:15]
    assert list(stamps.astype("i8")) == list(np.arange(500) + T0)
    assert list(numbers) == list(range(500))
    assert (record.value, record.key, record.headers) == (values[3], values[3], (("h", b"1"),))
    assert descriptors_of(path) == 0
    assert maps_of(path) <= 2  # the segment, its index
    del view, data, offsets, sliced, chunk, iterator, stamps, numbers
    gc.collect()
    assert maps_of(path) == 0


def test_arrays_outlive_everything(path: Path) -> None:
    rows_ = np.zeros(1000, [("a", "i8"), ("b", "f4")])
    rows_["a"] = np.arange(1000)
    with pystream.open(path) as store:
        topic = store.topic("t", create=True, dtype=rows_.dtype)
        topic.append(rows_)
        arrays = list(topic.partition(0).arrays())
    for file in path.rglob("*.log"):
        file.unlink()
    column = arrays[0]["a"][10:20]
    del arrays, topic, store
    gc.collect()
    assert descriptors_of(path) == 0
    assert 1 <= maps_of(path) <= 2
    assert list(column) == list(range(10, 20))
    with pytest.raises(ValueError, match="read-only"):
        column[0] = 1
    del column
    gc.collect()
    assert maps_of(path) == 0


def test_lent_memory_is_read_only(path: Path) -> None:
    with pystream.open(path) as store:
        topic = store.topic("t", create=True, value_bytes=8)
        topic.append([bytes(8)] * 10)
        batch = next(topic.batches())
        view = batch.values[0]
        assert view is not None
        assert view.readonly
        assert batch.values.data.readonly
        for array in (batch.values.to_numpy(), batch.array):
            assert not array.flags.writeable
            with pytest.raises(ValueError, match="WRITEABLE"):
                array.flags.writeable = True
        with pytest.raises(TypeError):
            view[0] = 1


def test_released_in_any_thread_at_any_time(path: Path) -> None:
    """Arrow calls release wherever it likes; so does the garbage collector."""
    with pystream.open(path) as store:
        topic = store.topic("t", create=True, compression="lz4", segment_bytes=65536)
        for i in range(100):
            topic.append([b"value %d" % i] * 50)
        tables = [pa.RecordBatchReader.from_stream(topic).read_all() for _ in range(20)]
        batches = [list(topic.batches()) for _ in range(20)]

    def drop() -> None:
        while tables or batches:
            for owner in (tables, batches):
                try:
                    owner.pop()
                except IndexError:
                    continue

    threads = [threading.Thread(target=drop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    del topic, store
    gc.collect()
    assert maps_of(path) == 0


def test_a_stream_begun_before_the_store_closed(path: Path) -> None:
    store = pystream.open(path)
    topic = store.topic("t", create=True)
    for i in range(10):
        topic.append([b"%d" % i])
    reader = pa.RecordBatchReader.from_stream(topic)
    assert reader.read_next_batch().num_rows == 1
    store.close()
    with pytest.raises((pa.ArrowException, OSError, ValueError), match="closed"):
        reader.read_all()


# ---- closing ----------------------------------------------------------------------------------------


def test_close_twice_in_any_order(path: Path) -> None:
    store = pystream.open(path)
    topic = store.topic("t", create=True)
    producer, consumer = topic.producer(), store.consumer("t")
    producer.send(b"x")
    for _ in range(2):
        producer.close()
        consumer.close()
        store.close()
    for _ in range(2):
        store.close()
        producer.close()
        consumer.close()
    with pytest.raises(ClosedError):
        producer.send(b"y")
    with pytest.raises(ClosedError):
        producer.flush()
    with pystream.open(path) as again:
        assert [record.value for record in again["t"].records()] == [b"x"]


def test_close_while_others_use_it(path: Path) -> None:
    """Threads in the midst of appends, sends, polls and scans end with ClosedError, or had just ended."""
    for _ in range(40 if LONG else 10):
        store = pystream.open(path)
        topic = store.topic("t", create=True, segment_bytes=65536)
        producer = topic.producer(linger=0.001)
        consumer = store.consumer("t")
        started = threading.Barrier(5)
        odd: list[BaseException] = []

        def use(work, started=started, odd=odd) -> None:  # type: ignore[no-untyped-def]
            started.wait()
            try:
                while True:
                    work()
            except ClosedError:
                pass
            except BaseException as error:
                odd.append(error)

        works = [
            lambda topic=topic: topic.append([b"a" * 500] * 3),
            lambda producer=producer: producer.send(b"s" * 500),
            lambda consumer=consumer: consumer.poll(0.5),
            lambda topic=topic: sum(len(batch) for batch in topic.batches()),
        ]
        threads = [threading.Thread(target=use, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        started.wait()
        time.sleep(0.01)
        store.close()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        assert odd == []
    with pystream.open(path) as store:
        values = {record.value for record in store["t"].records()}
        assert values == {b"a" * 500, b"s" * 500}


def test_unclosed_producer_warns(path: Path) -> None:
    """And what it had is appended all the same."""
    with pystream.open(path) as store:
        topic = store.topic("t", create=True)
        producer = topic.producer(linger=60)
        producer.send(b"x")
        with pytest.warns(ResourceWarning, match="unclosed producer of topic 't'"):
            del producer
            gc.collect()
        assert [record.value for record in topic.records()] == [b"x"]


def run(script: str, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", script, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


OPEN = """
import sys, threading, pystream
store = pystream.open(sys.argv[1])
topic = store.topic("t", create=True, segment_bytes=65536)
"""


@pytest.mark.parametrize(
    ("script", "sent"),
    [
        ("topic.append([b'x'])", 1),
        ("producer = topic.producer(linger=60); producer.send(b'x')", 1),
        ("producer = topic.producer(linger=60)\nfor i in range(1000): producer.send(b'x' * 1000)", 1000),
        ("topic.append([b'x']); batch = next(topic.batches()); view = batch.values[0]", 1),
        ("consumer = store.consumer('t'); consumer.poll(0); records = iter(consumer)", 0),
        ("consumer = store.consumer('t')\nthreading.Thread(target=consumer.poll, daemon=True).start()", 0),
        ("p = topic.producer(); p.send(b'x'); import atexit; atexit.register(p.close)", 1),
        ("store.me = store; topic.append([b'x'])", 1),
        ("topic.append([b'x'])\nraise SystemExit(0)", 1),
    ],
)
def test_interpreter_exit(path: Path, script: str, sent: int) -> None:
    """Whatever is open: the process ends, in order, and what a producer held has been appended."""
    done = run(OPEN + script, path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Fatal" not in done.stderr
    with pystream.open(path) as store:
        assert store["t"].partition(0).end_offset == sent


def test_exit_by_exception_in_a_with(path: Path) -> None:
    done = run(
        OPEN + "with store, topic.producer(linger=60) as p:\n p.send(b'x')\n raise ValueError('mine')", path
    )
    assert done.returncode == 1
    assert done.stderr.strip().endswith("ValueError: mine")
    with pystream.open(path) as store:
        assert rows(store["t"].records())[0].value == b"x"


# ---- leaks ------------------------------------------------------------------------------------------


def test_descriptors_and_maps_do_not_leak(path: Path) -> None:
    """Open, append, send, roll, read, lend, fail and close, over and over."""

    def cycle(number: int) -> None:
        with pystream.open(path, io=("mmap", "pwrite")[number % 2], force=True) as store:
            topic = store.topic("t", create=True, segment_bytes=65536, compression="lz4")
            partition = topic.partition(0)
            partition.append([os.urandom(9000)] * 2)
            with topic.producer() as producer:
                producer.send(b"x")
            with store.consumer("t", timeout=0) as consumer:
                assert sum(1 for _ in consumer.batches()) > 0
            kept = [batch.values for batch in partition.scan(max(0, partition.end_offset - 5))]
            assert kept
            with pytest.raises(pystream.RecordTooLargeError):
                partition.append([os.urandom(70_000)])
            with pytest.raises(pystream.OffsetOutOfRangeError):
                partition[10**9]
            pa.RecordBatchReader.from_stream(topic).read_next_batch()

    def counts() -> tuple[int, int, int]:
        gc.collect()
        maps = len(Path("/proc/self/maps").read_text().splitlines())
        return len(os.listdir("/proc/self/fd")), maps, threading.active_count()

    for number in range(10):
        cycle(number)
    descriptors, maps, threads = counts()
    for number in range(1000 if LONG else 150):
        cycle(number)
    after = counts()
    assert after[0] <= descriptors
    assert after[1] <= maps + 10  # the allocator's own come and go
    assert after[2] <= threads
    assert (descriptors_of(path), maps_of(path)) == (0, 0)


def test_many_segments_need_few_descriptors(path: Path) -> None:
    """Reading thousands of segments keeps maps only of what is lent, descriptors of none."""
    with pystream.open(path) as store:
        partition = store.topic("t", create=True, segment_bytes=65536, durability="none").partition(0)
        for _ in range(120):
            partition.append([bytes(60_000)])
        assert sum(1 for _ in partition) == 120
        assert partition.end_offset == 120
        assert descriptors_of(path) < 20 + 120


def test_memory_does_not_leak(path: Path) -> None:
    import resource

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pystream.open(path) as store:
        topic = store.topic("t", create=True, compression="lz4", segment_bytes="8MiB", durability="none")
        topic.append([b"%d" % (i % 9) * 100 for i in range(10_000)], keys=[b"k"] * 10_000)

        def cycle() -> None:
            batch = next(topic.batches())
            batch.values.to_pylist()
            pa.record_batch(batch)
            sum(1 for _ in batch)
            sum(1 for _ in topic.records())

        for _ in range(10):
            cycle()
        before = peak()
        for _ in range(60):
            cycle()
        assert peak() - before < 20_000  # KiB: one batch is 1 MB, and sixty leaked ones 60


def test_what_is_lent_is_reported(path: Path) -> None:
    def lent(segments: int) -> PartitionStats:
        """The figures, once that many segments are lent: the helper thread holds one for moments, too."""
        deadline = time.monotonic() + 30
        while (stats := topic.stats()[0]).process.lent_segments != segments and time.monotonic() < deadline:
            time.sleep(0.005)
        assert stats.process.lent_segments == segments
        return stats

    with pystream.open(path) as store:
        topic = store.topic("t", create=True, segment_bytes=65536)
        topic.append([b"x" * 60_000])
        topic.append([b"y" * 60_000])
        assert lent(0).lent_bytes == 0
        values = next(topic.batches()).values
        stats = lent(1)
        assert stats.segments == 2
        assert 60_000 < stats.lent_bytes <= 65536
        del values
        assert lent(0).lent_bytes == 0


def test_the_achieved_loss_bound_is_reported(path: Path) -> None:
    with pystream.open(path, sync_interval=0.01) as store:
        partition = store.topic("t", create=True).partition(0)
        assert partition.stats().process is None  # nobody has opened it
        partition.append([b"x"])
        deadline = time.monotonic() + 30
        while partition.durable_offset == 0 and time.monotonic() < deadline:
            time.sleep(0.005)
        assert partition.durable_offset == 1
        assert 0 < partition.stats().process.sync_lag_max_ns < 30 * 10**9
