"""Many processes and threads at one partition: batches whole, offsets dense, each writer's order kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import lives
import pystream
from harness import LONG, Life, quick_directory
from lives import numbered, parsed

COUNT = 4  # records in a batch
BATCHES = 400 if LONG else 60


@pytest.fixture
def path() -> Iterator[Path]:
    with quick_directory() as directory:
        yield directory / "s"


def check(partition: pystream.Partition, wanted: dict[int, int]) -> None:
    """All of each writer's numbers are there, in order, and its batches were not torn apart."""
    at = 0
    last = dict.fromkeys(wanted, -1)
    for batch in partition.scan():
        assert batch.base_offset == at
        assert list(batch.offsets) == list(range(at, at + len(batch)))
        at = batch.next_offset
        writers = set()
        for value in batch.values:
            writer, number = parsed(bytes(value))
            assert number == last[writer] + 1
            last[writer] = number
            writers.add(writer)
        assert len(writers) == 1
    assert last == {writer: count - 1 for writer, count in wanted.items()}


@pytest.mark.parametrize("compression", ["none", "lz4"])
@pytest.mark.parametrize("ios", ["mmap", "pwrite", "mmap pwrite"])
def test_processes_and_threads_at_once(path: Path, ios: str, compression: str) -> None:
    """Writers in three processes and four threads, rolling all the while, and readers behind them. Processes
    may even store in different ways."""
    first, *_, last = ios.split() * 2
    with lives.open_store(str(path), first) as store:
        topic = store.topic("t", create=True, segment_bytes=65536, compression=compression)
        partition = topic.partition(0)
        processes = [
            Life(lives.append_for_ever, str(path), last, w, 0, 300, COUNT, BATCHES) for w in range(3)
        ]
        everything = 6 * BATCHES * COUNT + BATCHES
        readers = [Life(lives.follow, str(path), io, everything) for io in (first, last)]
        for life in (*processes, *readers):
            assert life.receive() == "ready"
        failures: list[BaseException] = []

        def append(writer: int) -> None:
            try:
                for begin in range(0, BATCHES * COUNT, COUNT):
                    partition.append([numbered(writer, begin + i, 250) for i in range(COUNT)])
            except BaseException as error:
                failures.append(error)

        def produce(writer: int) -> None:
            try:
                with topic.producer(linger=0.001, batch_bytes=3000) as producer:
                    for number in range(BATCHES):
                        producer.send(numbered(writer, number, 200))
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=append, args=(writer,)) for writer in (3, 4, 5)]
        threads.append(threading.Thread(target=produce, args=(6,)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert failures == []
        for life in processes:
            assert len(life.received()) == BATCHES
            assert life.end() == 0
        wanted = dict.fromkeys(range(6), BATCHES * COUNT) | {6: BATCHES}
        check(partition, wanted)
        assert partition.end_offset == everything
        for life in readers:
            assert life.receive() == {writer: count - 1 for writer, count in wanted.items()}
            assert life.end() == 0
        assert topic.stats()[0].segments > 3
    with lives.open_store(str(path), first) as store:
        check(store.topic("t").partition(0), wanted)


def test_sync_topic_shows_only_what_is_durable(path: Path) -> None:
    """Several writers; a reader of the same topic never sees an offset that is not yet on the disk."""
    with lives.open_store(str(path), "mmap") as store:
        topic = store.topic("t", create=True, segment_bytes=65536, durability="sync")
        partition = topic.partition(0)
        writers = [Life(lives.append_for_ever, str(path), "mmap", w, 0, 300, COUNT, 100) for w in range(3)]
        for life in writers:
            assert life.receive() == "ready"
        seen = 0
        while seen < 3 * 100 * COUNT:
            assert partition.wait(seen, 30)
            seen = partition.high_watermark
            assert partition.durable_offset >= seen
        for life in writers:
            for offset, _ in life.received():
                assert offset + COUNT <= partition.durable_offset
            assert life.end() == 0
        check(partition, dict.fromkeys(range(3), 100 * COUNT))


@pytest.mark.parametrize("size", [700, 300_000])
def test_rolls_while_syncs_come_and_go(path: Path, size: int) -> None:
    """Small batches go through the map, large ones by a call; both need the descriptors that syncs close."""
    with pystream.open(path, io="mmap", force=True, sync_interval="1ms") as store:
        topic = store.topic("t", create=True, segment_bytes=max(65536, 3 * size))
        partition = topic.partition(0)
        value = bytes(size)
        for offset in range(300):
            assert partition.append([value]) == offset
            if offset % 7 == 0:
                partition.flush()
        assert topic.stats()[0].process.rolls > 2
        assert sum(1 for _ in partition) == 300


def test_threads_read_one_partition(path: Path) -> None:
    """Each thread with its own iterator, while another appends and a fifth looks at single records."""
    with lives.open_store(str(path), "mmap") as store:
        partition = store.topic("t", create=True, segment_bytes=65536, compression="lz4").partition(0)
        stop = threading.Event()
        failures: list[BaseException] = []

        def guarded(work) -> None:  # type: ignore[no-untyped-def]
            try:
                while not stop.is_set():
                    work()
            except BaseException as error:
                failures.append(error)

        def scan() -> None:
            numbers = [parsed(record.value or b"")[1] for record in partition]
            assert numbers == list(range(len(numbers)))

        def points() -> None:
            end = partition.end_offset
            for offset in np.linspace(0, end - 1, 20, dtype=int) if end else []:
                assert parsed(partition[int(offset)].value or b"") == (0, offset)

        readers = [threading.Thread(target=guarded, args=(work,)) for work in (scan, scan, points)]
        for thread in readers:
            thread.start()
        for begin in range(0, 100 * COUNT, COUNT):
            partition.append([numbered(0, begin + i, 400) for i in range(COUNT)])
        stop.set()
        for thread in readers:
            thread.join(60)
        assert failures == []


def test_many_open_and_create_at_once(path: Path) -> None:
    """Processes that make the same store and the same topic in the same moment agree, and each opens and
    closes it again and again while others write."""
    lives_ = [Life(lives.open_append_close, str(path), writer, 10) for writer in range(4)]
    for life in lives_:
        assert life.received() == ["done"]
        assert life.end() == 0
    with pystream.open(path) as store:
        assert store.topics() == ["t"]
        log = [parsed(record.value or b"") for record in store.topic("t").records()]
        for writer in range(4):
            assert [number for who, number in log if who == writer] == list(range(10))


def test_an_append_wakes_a_consumer_in_another_process(path: Path) -> None:
    """Blocking, without spinning: the record is there long before the wait would look again by itself."""
    with pystream.open(path) as store:
        topic = store.topic("t", create=True)
        life = Life(lives.echo, str(path))
        assert life.receive() == "ready"
        partition = store.topic("back", create=True).partition(0)
        for i in range(200):
            topic.append([b"%d" % i])
            assert partition.wait(i, 0.9), i
            assert partition[i].value == b"%d" % i
        topic.append([b"end"])
        assert life.end() == 0
