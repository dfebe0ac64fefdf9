"""Limits at limit - 1, limit and limit + 1, where they meet the log: a specific error, and nothing written.

What options may be is in test_options.py, what arguments may be in test_inputs.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lives
import pystream
from harness import T0, nothing_written, quick_directory
from pystream import (
    BatchTooLargeError,
    ClosedError,
    OffsetOutOfRangeError,
    OptionError,
    RecordTooLargeError,
    StoreNotFoundError,
)

SEGMENT_BYTES = 65536
BODY_BYTES_MAX = SEGMENT_BYTES - 256 - 64 - 192
"""What the headers of the segment and of the batch and the seal leave for the columns of a batch."""

ONE_RECORD_MAX = SEGMENT_BYTES - 256 - 64 - 424 - 13
"""The largest value of a record: all columns that it might bring into a batch are allowed for."""

LATER_COLUMNS = 1
"""Bytes that `send` allows for only once there is a null among the values."""


def noise(size: int) -> bytes:
    return np.random.default_rng(size).bytes(size)


@pytest.fixture(params=["none mmap", "none pwrite", "lz4 mmap"])
def small(request: pytest.FixtureRequest) -> Iterator[pystream.Topic]:
    """A topic of 64 KiB segments in which one record stands already."""
    compression, io = request.param.split()
    with quick_directory() as path, lives.open_store(str(path / "s"), io) as store:
        topic = store.topic("t", create=True, segment_bytes=SEGMENT_BYTES, compression=compression)
        topic.append([b"first"], timestamps=T0)
        yield topic


def path_of(topic: pystream.Topic) -> Path:
    return Path(topic._store.path)


def by_append(topic: pystream.Topic, values: Any, **more: Any) -> None:
    topic.append(values, **more)


def by_send_many(topic: pystream.Topic, values: Any, **more: Any) -> None:
    with topic.producer() as producer:
        producer.send_many(values, **more)


def by_send(topic: pystream.Topic, values: Any, **more: Any) -> None:
    with topic.producer() as producer:
        for i, value in enumerate(values):
            headers = more.get("headers")
            keys = more.get("keys")
            producer.send(value, keys and keys[i], headers=headers and headers[i], timestamp=T0)


WAYS: list[Callable[..., None]] = [by_append, by_send_many, by_send]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("below", [1, 0])
def test_largest_record(small: pystream.Topic, way: Callable[..., None], below: int) -> None:
    """It fits into a segment of its own, however it gets there; and the log goes on behind it."""
    value = noise(ONE_RECORD_MAX + LATER_COLUMNS * (way is by_send) - below)
    way(small, [value])
    small.append([b"after"])
    assert [record.value for record in small.records()] == [b"first", value, b"after"]
    assert small.stats()[0].segments == 3


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("over", [1, 1000, 3 * SEGMENT_BYTES])
def test_record_too_large(small: pystream.Topic, way: Callable[..., None], over: int) -> None:
    size = ONE_RECORD_MAX + LATER_COLUMNS * (way is by_send) + over
    partition = small.partition(0)
    with nothing_written(partition, path_of(small)), pytest.raises(RecordTooLargeError) as caught:
        way(small, [noise(size)])
    assert isinstance(caught.value, ValueError)
    assert small.append([b"after"]) == 1


@pytest.mark.parametrize("way", WAYS)
def test_keys_and_headers_count(small: pystream.Topic, way: Callable[..., None]) -> None:
    """A record is all of its columns: the value that fits alone does not fit with a key."""
    value = noise(ONE_RECORD_MAX - 5)
    with nothing_written(small.partition(0), path_of(small)):
        for more in ({"keys": [noise(40)]}, {"headers": [[("k", b"v")]]}):
            with pytest.raises(RecordTooLargeError):
                way(small, [value], **more)
    way(small, [value[:-60]], keys=[b"k" * 40], headers=[[("k", b"v")]])
    assert small.partition(0)[1].key == b"k" * 40


def test_largest_batch() -> None:
    """Of values of fixed width: the columns are the values and nothing else."""
    with quick_directory() as path, pystream.open(path / "s") as store:
        topic = store.topic("t", create=True, segment_bytes=SEGMENT_BYTES, value_bytes=8)
        partition = topic.partition(0)
        most = BODY_BYTES_MAX // 8
        values = np.frombuffer(noise((most + 1) * 8), "V8")
        with nothing_written(partition, path / "s"):
            with pytest.raises(BatchTooLargeError) as caught:
                partition.append(values, timestamps=T0)
            assert isinstance(caught.value, RecordTooLargeError)
            with pytest.raises(BatchTooLargeError):  # a timestamp each is a column more
                partition.append(values[:most], timestamps=np.arange(most) + T0)
        for count in (most - 1, most):
            assert partition.append(values[:count], timestamps=T0) == partition.end_offset - count
        # What is more than one batch goes out as several, which is what producers are for.
        with topic.producer() as producer:
            producer.send_many(values, timestamps=T0)
        assert partition.end_offset == 3 * most
        assert b"".join(batch.array.tobytes() for batch in partition.scan(2 * most - 1)) == values.tobytes()


def test_most_records_in_a_batch() -> None:
    """16,777,216 records without a byte: the number is a limit of its own."""
    most = 1 << 24
    with quick_directory() as path, pystream.open(path / "s") as store:
        partition = store.topic("t", create=True, value_bytes=0).partition(0)
        with nothing_written(partition, path / "s"), pytest.raises(BatchTooLargeError, match=str(most)):
            partition.append(np.zeros((most + 1, 0), "u1"), timestamps=T0)
        for count in (most - 1, most):
            partition.append(np.zeros((count, 0), "u1"), timestamps=T0)
        assert partition.end_offset == 2 * most - 1
        assert [len(batch) for batch in partition.scan()] == [most - 1, most]
        assert partition[2 * most - 2].value == b""


@pytest.mark.parametrize("way", WAYS)
def test_headers(small: pystream.Topic, way: Callable[..., None]) -> None:
    """1,024 of them, names of 65,535 bytes of UTF-8."""
    partition = small.partition(0)
    for count in (1023, 1024):
        way(small, [b"x"], headers=[[(f"h{i}", b"")] * count for i in range(1)])
    for name in ("n" * 65534, "é" * 32767 + "n"):
        with pytest.raises(RecordTooLargeError):  # does not fit a segment of 64 KiB, though a header may
            way(small, [b"x"], headers=[[(name, None)]])
    with nothing_written(partition, path_of(small)):
        for headers in ([("h", None)] * 1025, [("n" * 65536, None)], [("é" * 32768, None)]):
            with pytest.raises(RecordTooLargeError):
                way(small, [b"x"], headers=[headers])
        for wrong in ([("\ud800", b"")], [(b"bytes", b"")], [("name",)], [("name", "text")], "text", 5):
            with pytest.raises((TypeError, ValueError)):
                way(small, [b"x"], headers=[wrong])
    assert [len(record.headers) for record in small.records()] == [0, 1023, 1024]


@pytest.mark.parametrize("way", WAYS)
def test_longest_header_names(way: Callable[..., None]) -> None:
    with quick_directory() as path, pystream.open(path / "s") as store:
        topic = store.topic("t", create=True, segment_bytes="1MiB")
        names = ["n" * 65534, "é" * 32767 + "n"]
        way(topic, [b"x"], headers=[[(name, b"v") for name in names]])
        assert topic.partition(0)[0].headers == tuple((name, b"v") for name in names)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("width", [0, 1, 7])
def test_widths(way: Callable[..., None], width: int) -> None:
    """A declared width is exact, to the byte, for values and keys."""
    with quick_directory() as path, pystream.open(path / "s") as store:
        topic = store.topic("t", create=True, value_bytes=width, key_bytes=width)
        partition = topic.partition(0)
        right = b"x" * width
        way(topic, [right, None], keys=[None, right], timestamps=T0)
        with nothing_written(partition, path / "s"):
            for wrong in {max(width - 1, 1 - width), width + 1, 100}:
                for values, keys in (([b"y" * wrong], [right]), ([right], [b"y" * wrong])):
                    with pytest.raises(ValueError, match=f"exactly {width}"):
                        way(topic, values, keys=keys, timestamps=T0)
                if way is not by_send:
                    with pytest.raises(ValueError, match=f"exactly {width}"):
                        way(topic, [right, b"y" * wrong], timestamps=T0)
        assert [(record.value, record.key) for record in partition] == [(right, None), (None, right)]


def test_refused_in_the_midst(small: pystream.Topic) -> None:
    """A batch with one bad record is refused whole; a producer keeps what was accepted before."""
    partition = small.partition(0)
    for bad in (5, "text", noise(SEGMENT_BYTES), 1.5, object()):
        with nothing_written(partition, path_of(small)), pytest.raises((TypeError, ValueError)):
            partition.append([b"good", bad, b"good"])
        with pytest.raises((TypeError, ValueError)), small.producer(linger=60) as producer:
            producer.send(b"before")
            producer.send(bad)
    assert [record.value for record in partition] == [b"first"] + [b"before"] * 5


# ---- offsets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [2, 3, 2**31, 2**63 - 1])
def test_offsets_beyond_the_end(small: pystream.Topic, offset: int) -> None:
    partition = small.partition(0)
    small.append([b"second"])
    uses: list[Callable[[], Any]] = [lambda: partition[offset]]
    if offset > 2:
        uses += [
            lambda: next(partition.records(offset), None),
            lambda: next(partition.scan(offset), None),
            lambda: small.records(offset),
            lambda: small._store.consumer("t").seek(("t", 0), offset),
            lambda: small._store.consumer("t", start={("t", 0): offset}),
            lambda: small._store.consumer().assign([("t", 0, offset)]),
        ]
    for use in uses:
        with pytest.raises(OffsetOutOfRangeError) as caught:
            use()
        assert isinstance(caught.value, LookupError)
        assert (caught.value.topic, caught.value.partition, caught.value.offset) == ("t", 0, offset)
    assert len(list(partition.records(0, offset))) == 2
    assert len(partition.tail(offset)) == 2
    assert partition.wait(offset, 0) is False


@pytest.mark.parametrize("offset", [-1, -(2**63), 2**63, 2**200])
def test_offsets_that_are_none(small: pystream.Topic, offset: int) -> None:
    partition = small.partition(0)
    for use in (
        lambda: partition[offset],
        lambda: partition.records(offset),
        lambda: partition.records(0, offset),
        lambda: partition.tail(offset),
        lambda: partition.wait(offset, 0),
    ):
        with pytest.raises((OptionError, OffsetOutOfRangeError)):
            use()


# ---- partitions -------------------------------------------------------------------------------------


def test_partition_numbers() -> None:
    with quick_directory() as path, pystream.open(path / "s") as store:
        topic = store.topic("t", create=True, partitions=3)
        assert topic.append([b"x"], partition=2) == 0
        with topic.producer() as producer:
            for number in (-1, 3, 65536, 2**63):
                for use in (
                    lambda number=number: topic.partition(number),
                    lambda number=number: topic.append([b"x"], partition=number),
                    lambda number=number: producer.send(b"x", partition=number),
                    lambda number=number: producer.send_many([b"x"], partition=number),
                    lambda number=number: store.consumer().assign([("t", number)]),
                    lambda number=number: topic.records({number: 0}),
                ):
                    with pytest.raises(OptionError):
                        use()
            for wrong in (True, 1.0, "1", b"1"):
                for use in (
                    lambda wrong=wrong: topic.partition(wrong),
                    lambda wrong=wrong: topic.append([b"x"], partition=wrong),
                    lambda wrong=wrong: producer.send(b"x", partition=wrong),
                ):
                    with pytest.raises(TypeError):
                        use()
        assert topic.offsets() == {0: (0, 0), 1: (0, 0), 2: (0, 1)}


# ---- paths ------------------------------------------------------------------------------------------


def deep(base: Path, length: int) -> Path:
    """A path below `base` of exactly so many bytes; all but its last component exists."""
    path = base
    while length - len(str(path)) > 130:
        path = path / ("d" * 99)
    path.mkdir(parents=True, exist_ok=True)
    return path / ("s" * (length - len(str(path)) - 1))


def test_longest_path_of_a_store() -> None:
    with quick_directory() as base:
        for length in (399, 400):
            path = deep(base, length)
            with pystream.open(path) as store:
                assert store.topic("t", create=True).append([b"x"]) == 0
        path = deep(base, 401)
        with pytest.raises(OptionError, match="400 bytes"):
            pystream.open(path)
        assert not path.exists()


def test_long_names_in_long_paths() -> None:
    """A topic whose partitions' paths would be too long is refused before anything is made of it."""
    with quick_directory() as base:
        path = deep(base, 300)
        longest = 447 - 300 - len("/topics/") - len("/65535")
        with pystream.open(path) as store:
            for length in (longest - 1, longest):
                assert store.topic("n" * length, create=True).append([b"x"]) == 0
            before = sorted(os.listdir(path / "topics"))
            for length in (longest + 1, 249):
                with pytest.raises(OptionError, match="447 bytes"):
                    store.topic("n" * length, create=True)
            assert sorted(os.listdir(path / "topics")) == before


def test_directories_that_refuse() -> None:
    """Without the right to write there: an OSError that says where, and nothing half made."""
    if os.geteuid() == 0:
        return  # root is refused nothing
    with quick_directory() as base:
        (base / "closed").mkdir(mode=0o500)
        with pytest.raises(pystream.StorageError) as caught:
            pystream.open(base / "closed" / "s")
        assert str(base) in str(caught.value)
        assert os.listdir(base / "closed") == []


def test_mistyped_paths_make_nothing() -> None:
    with quick_directory() as base:
        (base / "file").write_bytes(b"mine")
        for path, create in ((base / "a" / "b", True), (base / "a", False), (base / "file", True)):
            with pytest.raises(StoreNotFoundError) as caught:
                pystream.open(path, create=create)
            assert isinstance(caught.value, FileNotFoundError)
        assert os.listdir(base) == ["file"]
        with pystream.open(base / "s") as store:
            for name in ("clikcs", "../evil", "", "a/b", ".", "..", "__x", "é", "n" * 250):
                with pytest.raises((LookupError, ValueError)):
                    store.topic(name)
                assert name not in store
        assert sorted(os.listdir(base)) == ["file", "s"]
        assert not (base / "s" / "topics").exists() or os.listdir(base / "s" / "topics") == []


# ---- closed ------------------------------------------------------------------------------------------


def test_closed_handles_write_nothing() -> None:
    with quick_directory() as base:
        store = pystream.open(base / "s")
        topic = store.topic("t", create=True)
        partition = topic.partition(0)
        partition.append([b"x"])
        producer = topic.producer()
        records, batches = partition.records(), topic.batches()
        store.close()
        sizes = {file: file.stat().st_size for file in base.rglob("*")}
        for use in (
            lambda: partition.append([b"y"]),
            lambda: partition.append([]),
            lambda: topic.append([b"y"]),
            lambda: producer.send(b"y"),
            lambda: producer.send_many([b"y"]),
            lambda: store.topic("u", create=True),
            lambda: partition.offset_for_time(T0),
            lambda: list(records),
            lambda: list(batches),
        ):
            with pytest.raises(ClosedError) as caught:
                use()
            assert isinstance(caught.value, ValueError)
        assert {file: file.stat().st_size for file in base.rglob("*")} == sizes
