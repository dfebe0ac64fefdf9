"""The native readers: one partition forward, several in turn, and waiting without missing anything."""

import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import pystream
from pystream import ClosedError, OffsetOutOfRangeError
from pystream._native.batch import Record
from pystream._native.fetcher import Fetcher
from pystream._native.reader import PartitionReader

MS = 1_000_000


def reader(topic: pystream.Topic, partition: int = 0, start: int = 0, stop: int = -1) -> PartitionReader:
    return PartitionReader(topic.partition(partition)._log(), start, stop)


def at_end(topic: pystream.Topic, partition: int = 0) -> PartitionReader:
    return reader(topic, partition, topic.partition(partition).end_offset)


@contextmanager
def soon(act: Callable[[], object]) -> Iterator[None]:
    """Do `act` in another thread, a tenth of a second from now."""
    timer = threading.Timer(0.1, act)
    timer.start()
    try:
        yield
    finally:
        timer.join()


@contextmanager
def taking(at_least: float, at_most: float) -> Iterator[None]:
    begun = time.monotonic()
    yield
    assert at_least <= time.monotonic() - begun <= at_most


# ---- one partition --------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["none", "lz4"])
def test_any_range_by_records_and_batches(store: pystream.Store, codec: str) -> None:
    topic = store.topic("t", create=True, compression=codec, segment_bytes="64KiB")
    random = np.random.default_rng(5)
    total = 0
    for size in random.integers(1, 400, 40):
        topic.append([b"%d" % (total + i) * 20 for i in range(size)])
        total += int(size)
    for _ in range(60):
        start = int(random.integers(0, total + 1))
        stop = int(random.integers(start, total + 1))
        one = reader(topic, 0, start, stop)
        found: list[Record] = []
        while one.position < stop:
            if random.integers(2):
                found.append(next(one))
                assert one.position == found[-1].offset  # until the next one is asked for
                if found[-1].offset == stop - 1:
                    break
            else:
                batch = one.next_batch()
                if batch is None:
                    break
                found += batch
                assert one.position == batch.next_offset
        assert [r.offset for r in found] == list(range(start, stop))
        assert all(r.value == b"%d" % r.offset * 20 for r in found)
        assert next(one, None) is None
        assert one.next_batch() is None
        assert one.done
        assert one.position == stop


def test_the_end_is_not_the_end_for_ever(topic: pystream.Topic) -> None:
    one = reader(topic)
    assert one.next_batch() is None
    topic.append([b"a", b"b"])
    assert next(one).value == b"a"
    topic.append([b"c"])
    assert [r.value for r in one] == [b"b", b"c"]
    assert one.position == 3
    assert not one.done


def test_seek(topic: pystream.Topic) -> None:
    for i in range(10):
        topic.append([b"%d" % i] * 10)
    one = reader(topic)
    for offset in (55, 0, 99, 100, 42):
        one.seek(offset)
        assert one.position == offset
        record = next(one, None)
        assert (record is None) == (offset == 100)
        if record is not None:
            assert (record.offset, record.value) == (offset, b"%d" % (offset // 10))
    for offset in (-1, 101):
        with pytest.raises(OffsetOutOfRangeError):
            one.seek(offset)
        assert one.position == 42
        with pytest.raises(OffsetOutOfRangeError):
            reader(topic, 0, offset)
    assert "t[0] at 42" in repr(one)
    assert one.stop_offset is None


def test_damage_is_reported_each_time(tmp_path: Path) -> None:
    with pystream.open(tmp_path / "store") as store:
        topic = store.topic("t", create=True, segment_bytes="4MiB")
        topic.append([b"first"])
        topic.append([b"x" * 1000])
        topic.append([b"last"])
    (path,) = (tmp_path / "store").glob("topics/t/0/*.log")
    damaged = path.read_bytes().replace(b"x" * 1000, b"x" * 500 + b"y" + b"x" * 499)
    path.write_bytes(damaged)
    with pystream.open(tmp_path / "store") as store:
        one = reader(store["t"])
        assert next(one).value == b"first"
        for _ in range(3):
            with pytest.raises(pystream.CorruptLogError):
                one.next_batch()
            assert one.position == 1


def test_a_reader_keeps_nothing_else_alive(store: pystream.Store, topic: pystream.Topic) -> None:
    topic.append([b"x"])
    one = reader(topic)
    store.close()
    with pytest.raises(ClosedError):
        while one.next_batch():
            pass


# ---- several partitions ---------------------------------------------------------------------------


@pytest.fixture
def wide(store: pystream.Store) -> pystream.Topic:
    return store.topic("wide", create=True, partitions=5, segment_bytes="64KiB")


def test_partitions_take_turns(wide: pystream.Topic) -> None:
    for i in range(3):
        for p in range(5):
            wide.append([b"%d" % i] * 2, partition=p)
    fetcher = Fetcher([reader(wide, p) for p in range(5)])
    batches = list(iter(lambda: fetcher.poll(0), None))
    assert [b.partition for b in batches] == list(range(5)) * 3
    assert [b.base_offset for b in batches] == [0] * 5 + [2] * 5 + [4] * 5


def test_records_then_a_batch_then_records(wide: pystream.Topic) -> None:
    for p in range(2):
        wide.append([b"x"] * 5, partition=p)
    fetcher = Fetcher([reader(wide, p) for p in range(2)])
    records = fetcher.records(0)
    assert [next(records).offset for _ in range(2)] == [0, 1]
    assert [r.position for r in fetcher.readers] == [1, 0]
    batch = fetcher.poll(0)
    assert batch is not None
    assert [r.position for r in fetcher.readers] == [2, 5]
    assert (batch.partition, len(batch)) == (1, 5)
    rest = list(fetcher.records(0))
    assert [(r.partition, r.offset) for r in rest] == [(0, 2), (0, 3), (0, 4)]
    assert [r.position for r in fetcher.readers] == [5, 5]


def test_pause_keeps_the_place(wide: pystream.Topic) -> None:
    for p in range(2):
        wide.append([b"x"] * 5, partition=p)
    fetcher = Fetcher([reader(wide, p) for p in range(2)])
    records = fetcher.records(0)
    first = next(records)
    fetcher.readers[first.partition].pause()
    assert [(r.partition, r.offset) for r in records] == [(1, i) for i in range(5)]
    fetcher.readers[first.partition].resume()
    assert [(r.partition, r.offset) for r in fetcher.records(0)] == [(0, i) for i in range(1, 5)]


def test_add_and_remove(wide: pystream.Topic) -> None:
    one, two = reader(wide, 0), reader(wide, 1)
    fetcher = Fetcher()
    assert fetcher.poll(0) is None
    fetcher.add(one)
    fetcher.add(two)
    wide.append([b"a"] * 3, partition=0)
    wide.append([b"b"] * 3, partition=1)
    records = fetcher.records(0)
    assert next(records).partition == 0
    fetcher.remove(one)
    assert {r.partition for r in records} == {1}
    with pytest.raises(ValueError, match="not in list"):
        fetcher.remove(one)
    with pytest.raises(ValueError, match="spin_ns"):
        Fetcher(spin_ns=-1)


# ---- waiting --------------------------------------------------------------------------------------


@pytest.mark.parametrize("spin_ns", [0, 20_000, 200 * MS])
@pytest.mark.parametrize("partitions", [1, 5])
def test_an_append_ends_the_wait(wide: pystream.Topic, partitions: int, spin_ns: int) -> None:
    fetcher = Fetcher([reader(wide, p) for p in range(partitions)], spin_ns=spin_ns)
    with soon(lambda: wide.append([b"x"], partition=partitions - 1)), taking(0.05, 0.9):
        batch = fetcher.poll()
    assert batch is not None
    assert batch.partition == partitions - 1


def test_timeouts(wide: pystream.Topic) -> None:
    fetcher = Fetcher([reader(wide, p) for p in range(2)])
    with taking(0, 0.5):
        assert fetcher.poll(0) is None
    with taking(0.1, 5):
        assert fetcher.poll(100 * MS) is None
    with taking(0.1, 5):
        assert list(fetcher.records(100 * MS)) == []
    with taking(0.1, 5):
        assert Fetcher().poll(100 * MS) is None


def test_paused_partitions_are_not_waited_for(wide: pystream.Topic) -> None:
    fetcher = Fetcher([reader(wide, p) for p in range(2)])
    fetcher.readers[0].pause()
    wide.append([b"x"], partition=0)
    with taking(0.1, 5):
        assert fetcher.poll(100 * MS) is None


def test_nothing_is_waited_for_when_all_ranges_have_been_read(wide: pystream.Topic) -> None:
    wide.append([b"x"], partition=0)
    fetcher = Fetcher([reader(wide, 0, 0, 1), reader(wide, 1, 0, 0)])
    assert [r.value for r in fetcher.records()] == [b"x"]


def test_more_partitions_than_the_kernel_can_wait_for(store: pystream.Store) -> None:
    topic = store.topic("many", create=True, partitions=130, segment_bytes="64KiB")
    fetcher = Fetcher([reader(topic, p) for p in range(130)])
    with soon(lambda: topic.append([b"x"], partition=129)), taking(0.05, 0.9):
        batch = fetcher.poll()
    assert batch is not None
    assert batch.partition == 129


@pytest.mark.parametrize("partitions", [0, 1, 5])
def test_close_from_another_thread(wide: pystream.Topic, partitions: int) -> None:
    fetcher = Fetcher([reader(wide, p) for p in range(partitions)])
    with soon(fetcher.close), taking(0.05, 0.9):
        assert fetcher.poll() is None
    assert fetcher.closed
    assert fetcher.readers == ()
    fetcher.close()
    with pytest.raises(ClosedError):
        fetcher.poll(0)
    with pytest.raises(ClosedError):
        next(fetcher.records(0))
    with pytest.raises(ClosedError):
        fetcher.add(reader(wide))


def test_wake(wide: pystream.Topic) -> None:
    fetcher = Fetcher([reader(wide, 0)])
    with soon(fetcher.wake), taking(0.05, 0.9):
        assert fetcher.poll() is None
    wide.append([b"x"], partition=0)
    assert fetcher.poll() is not None


def test_closing_the_store_ends_the_wait(store: pystream.Store, wide: pystream.Topic) -> None:
    fetcher = Fetcher([reader(wide, p) for p in range(2)])
    with soon(store.close), taking(0.05, 5), pytest.raises(ClosedError):
        fetcher.poll()


def test_a_second_thread_is_refused(wide: pystream.Topic) -> None:
    fetcher = Fetcher([reader(wide, 0)])
    errors: list[BaseException] = []

    def intrude() -> None:
        try:
            fetcher.poll(0)
        except RuntimeError as error:
            errors.append(error)
        fetcher.wake()

    with soon(intrude):
        assert fetcher.poll() is None
    assert "another thread" in str(errors[0])


@pytest.mark.parametrize("partitions", [0, 1, 5])
def test_signals_end_the_wait_at_once(wide: pystream.Topic, partitions: int) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    fetcher = Fetcher([reader(wide, p) for p in range(partitions)])
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with taking(0.05, 0.9), pytest.raises(KeyboardInterrupt):
            fetcher.poll()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert fetcher.poll(0) is None  # and it can be used again


def append_elsewhere(path: str, count: int) -> None:
    with pystream.open(path) as store:
        topic = store["wide"]
        for i in range(count):
            topic.append([b"%d" % i], partition=i % 5)


@pytest.mark.parametrize("partitions", [1, 5])
def test_no_wake_up_is_missed(store: pystream.Store, wide: pystream.Topic, partitions: int) -> None:
    """Another process appends 5,000 times; each wait would last a second if its wake-up were lost."""
    count = 5000
    fetcher = Fetcher([reader(wide, p) for p in range(partitions)], spin_ns=0)
    writer = multiprocessing.get_context("spawn").Process(
        target=append_elsewhere, args=(str(store.path), count)
    )
    writer.start()
    seen, wanted, slow = 0, count * partitions // 5, 0
    fetched = fetcher.poll(30_000 * MS)
    while fetched is not None:
        seen += len(fetched)
        if seen == wanted:
            break
        begun = time.monotonic()
        fetched = fetcher.poll(10_000 * MS)
        slow += time.monotonic() - begun > 0.9
    writer.join()
    assert seen == wanted
    assert slow <= 3  # a busy machine may stall, but not often
