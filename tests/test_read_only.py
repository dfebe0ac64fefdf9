"""Stores opened with mode="r": everything can be read, nothing is written, and writers are seen beside it."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import lives
import pystream
from harness import T0, Life, files_of, rows


def state(path: Path) -> dict[str, object]:
    """All there is to a store: names, bytes, times, and blocks on the disk."""
    found: dict[str, object] = {}
    for file in [path, *sorted(path.rglob("*"))]:
        st = file.stat()
        found[str(file)] = (
            st.st_mtime_ns,
            st.st_blocks,
            st.st_mode,
            file.read_bytes() if file.is_file() else None,
        )
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


def fill(path: Path, **options: object) -> None:
    with pystream.open(path) as store:
        topic = store.topic("t", create=True, partitions=3, segment_bytes="64KiB", **options)
        for i in range(300):
            key = [b"%d" % i, None] * 5
            stamps = np.arange(10) + T0 + i * 10
            topic.append([b"%d" % i] * 10, keys=key, timestamps=stamps, partition=i % 2)
            topic.append([b"h"], headers=[[("a", b"b")]], partition=0, timestamps=T0 + i * 10)


@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_everything_can_be_read(path: Path, compression: str) -> None:
    fill(path, compression=compression)
    with pystream.open(path) as store:
        topic = store.topic("t")
        wanted = {i: rows(topic.partition(i).records()) for i in range(3)}
        moment = np.datetime64(T0 + 1500, "ns")
        places = [topic.partition(i).offset_for_time(moment) for i in range(3)]
    before = state(path)
    with pystream.open(path, mode="r") as store:
        assert (store.mode, store.topics(), "t" in store) == ("r", ["t"], True)
        topic = store.topic("t", create=True)  # there is one: nothing to make
        for i in range(3):
            partition = topic.partition(i)
            assert rows(partition.records()) == wanted[i]
            end = len(wanted[i])
            assert (partition.beginning_offset, partition.end_offset) == (0, end)
            assert rows(partition.tail(7)) == wanted[i][-7:]
            assert [len(batch) for batch in partition.scan(start=end)] == []
            for offset in range(0, end, 211):
                assert rows([partition[offset]]) == [wanted[i][offset]]
            assert partition.wait(end, timeout=0.01) is False
        assert [topic.partition(i).offset_for_time(moment) for i in range(3)] == places
        assert topic.stats()[0].segments >= 1
        with store.consumer("t", timeout=0) as consumer:
            assert sum(len(batch) for batch in consumer.batches()) == sum(map(len, wanted.values()))
            assert consumer.poll(timeout=0.05) is None
    assert state(path) == before


def test_nothing_can_be_written(path: Path) -> None:
    fill(path)
    before = state(path)
    with pystream.open(path, "r") as store:
        topic = store.topic("t")
        for write in (
            lambda: topic.append([b"x"], partition=0),
            topic.producer,
            topic.partition(0).exclusive,
            topic.partition(0).flush,
            lambda: store.topic("new", create=True),
        ):
            with pytest.raises(pystream.ReadOnlyError, match=r"mode='r'|reading only") as caught:
                write()
            assert isinstance(caught.value, io.UnsupportedOperation)
        with pytest.raises(pystream.TopicNotFoundError, match="a store open to read makes none"):
            store.topic("new")
    assert state(path) == before


def test_open(path: Path) -> None:
    with pytest.raises(pystream.StoreNotFoundError):
        pystream.open(path, "r")
    assert not path.exists()
    fill(path)
    for name, value in {"durability": "sync", "sync_interval": 1, "io": "mmap", "create": True}.items():
        with pytest.raises(pystream.OptionError, match=f"{name}= is for stores that are written to"):
            pystream.open(path, "r", **{name: value})  # type: ignore[arg-type]
    with pytest.raises(pystream.OptionError, match="mode='w': must be one of 'r', 'rw'"):
        pystream.open(path, "w")


def test_both_in_one_process(path: Path) -> None:
    fill(path)
    with pystream.open(path, "r") as reading, pystream.open(path) as writing:
        ours, theirs = reading.topic("t").partition(2), writing.topic("t").partition(2)
        assert ours.end_offset == 0
        assert theirs.append([b"new"]) == 0
        assert [record.value for record in ours] == [b"new"]
        reading.close()
        assert theirs.append([b"more"]) == 1  # its locks are still its own
        with pystream.open(path, "r") as again:
            assert [record.value for record in again.topic("t").partition(2)] == [b"new", b"more"]


def test_partitions_that_were_never_used(path: Path) -> None:
    with pystream.open(path) as store:
        store.topic("t", create=True, partitions=2)
    before = state(path)
    with pystream.open(path, "r") as store:
        topic = store.topic("t")
        assert topic.offsets() == {0: (0, 0), 1: (0, 0)}
        assert list(topic.records()) == [] == list(topic.partition(0).tail())
        assert topic.partition(1).offset_for_time(np.datetime64(T0, "ns")) is None
        consumer = store.consumer("t", timeout=10)
        assert consumer.poll(timeout=0.05) is None
        assert state(path) == before
        got: list[bytes | None] = []
        reader = threading.Thread(target=lambda: got.append(next(iter(consumer)).value))
        reader.start()
        with pystream.open(path) as writing:
            writing.topic("t").partition(1).append([b"first"])
            reader.join(10)
        assert got == [b"first"]


def test_writers_are_seen_where_there_were_none(path: Path) -> None:
    """The file that tells of writers comes with the first one, after the reader."""
    fill(path)
    (path / "live").unlink()
    with pystream.open(path, "r") as reading, pystream.open(path) as writing:
        theirs = writing.topic("t").partition(2)
        theirs.append([b"one"])
        ours = reading.topic("t").partition(2)
        assert ours.end_offset == 1
        theirs.append([b"two"])
        assert [record.value for record in ours] == [b"one", b"two"]


def test_the_end_first_beside_a_writer(path: Path) -> None:
    """Who begins at the end finds the beginning all the same, several segments before it."""
    fill(path)
    with pystream.open(path) as writing:
        theirs = writing.topic("t").partition(0)
        assert theirs.append([b"x" * 30_000]) and theirs.append([b"x" * 30_000]) and theirs.append([b"last"])
        with pystream.open(path, "r") as reading:
            ours = reading.topic("t").partition(0)
            with reading.consumer("t", start="latest") as consumer:
                assert consumer.poll(timeout=0) is None
            assert [record.value for record in ours.tail(1)] == [b"last"]
            assert rows([ours[0]]) == rows([theirs[0]])


@pytest.mark.parametrize("mode", ["mmap", "pwrite"])
def test_beside_a_writer_that_is_killed(path: Path, mode: str) -> None:
    """Each record once, in order, as it comes; the death of the writer, its successor, and that one's."""
    lives.open_store(str(path), mode).topic("t", create=True, segment_bytes="64KiB")._store.close()
    with pystream.open(path, "r") as store, store.consumer("t", timeout=60) as consumer:
        records = iter(consumer)
        seen = 0
        for life in range(4):
            writer = Life(lives.append_for_ever, str(path), mode, 0, seen, 50, 3, 10_000)
            assert writer.receive() == "ready"
            acknowledged = 0
            while acknowledged < 60 * (life + 1):
                acknowledged = writer.receive()[1] + 3
            writer.kill()
            assert writer.end() == -signal.SIGKILL
            end = store.topic("t").partition(0).end_offset
            assert end >= acknowledged
            while seen < end:
                record = next(records)
                assert record.offset == seen and record.value is not None
                assert lives.parsed(record.value) == (0, seen)
                seen += 1
            with pystream.open(path, "r") as fresh:  # as one who comes after the death
                assert fresh.topic("t").partition(0).end_offset >= end
            with pystream.open(path) as mended:
                seen_by_all = mended.topic("t").partition(0).end_offset
            while seen < seen_by_all:
                assert next(records).offset == seen
                seen += 1


def test_a_torn_tail_is_left_out_and_left_alone(path: Path) -> None:
    with pystream.open(path) as store:
        store.topic("t", create=True)
    whole, torn = [{"values": [b"a", b"b"]}], {"values": [b"c" * 99]}
    life = Life(lives.append_and_die, str(path), "mmap", "t", whole, torn)
    assert life.end() == -signal.SIGKILL
    (path / "live").unlink()  # as after a restart of the machine
    segment = path / "topics/t/0/00000000000000000000.log"
    segment.write_bytes(segment.read_bytes().replace(b"c" * 99, b"c" * 64 + bytes(35)))
    before = state(path)
    with pystream.open(path, "r") as store:
        assert [record.value for record in store.topic("t").records()] == [b"a", b"b"]
    assert state(path) == before


@pytest.mark.parametrize("lost", ["head", "locks", "epochs", "00000000000000000000.index"])
def test_files_that_are_lost(path: Path, lost: str) -> None:
    fill(path)
    (path / "topics/t" / ("locks" if lost == "locks" else f"0/{lost}")).unlink()
    before = state(path)
    with pystream.open(path, "r") as store:
        assert sum(1 for _ in store.topic("t").records()) == 3300
    assert state(path) == before


def test_without_permission_to_write(path: Path) -> None:
    fill(path)
    for file in [path, *path.rglob("*")]:
        file.chmod(0o555 if file.is_dir() else 0o444)
    above = [parent for parent in path.parents if str(parent).startswith("/tmp/")]
    modes = {parent: parent.stat().st_mode for parent in above}
    for parent in above:  # pytest keeps its directories to itself
        parent.chmod(0o755)
    try:
        life = Life(lives.read_as_nobody, str(path))
        said, found = life.receive()
        assert said in ("StorageError", "PermissionError")
        assert len(found) == 3300
        assert life.receive() == "waiting"
        if os.getuid() == 0:  # whom permissions do not bind
            with pystream.open(path) as store:
                store.topic("t").partition(1).append([b"seen"])
            assert life.receive() == [b"seen"]
        else:
            life.kill()
        life.end()
    finally:
        for parent, mode in modes.items():
            parent.chmod(mode)
        for file in [path, *path.rglob("*")]:
            file.chmod(0o755 if file.is_dir() else 0o644)


def test_an_idle_reader_sleeps(path: Path) -> None:
    fill(path)
    with pystream.open(path, "r") as store, store.consumer("t", start="latest") as consumer:
        before = time.thread_time()
        assert consumer.poll(timeout=0.5) is None
        assert time.thread_time() - before < 0.1
        assert sum(1 for _ in files_of(path)) > 5


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert len(set(os.listdir("/proc/self/fd")) - before) <= 4  # the fork server's
