"""Producers and appends through the public API: what goes in comes out, in order, or is refused whole."""

import errno
import fcntl
import gc
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pystream
from pystream import (
    BatchTooLargeError,
    ClosedError,
    DeliveryError,
    ForkedError,
    LockTimeoutError,
    OptionError,
    PoisonedError,
    RecordTooLargeError,
    StorageError,
)
from pystream._native.hashing import murmur2

T = 1_700_000_000_000_000_000


def rows(topic: pystream.Topic) -> list[tuple[Any, ...]]:
    return [(r.partition, r.key, r.value, r.headers) for r in topic.records()]


def values(topic: pystream.Topic) -> list[bytes | None]:
    return [r.value for r in topic.records()]


@contextmanager
def locked(store: pystream.Store, name: str, partition: int = 0) -> Iterator[None]:
    """Keep a partition's append lock, as another process would."""
    fd = os.open(Path(store.path) / "topics" / name / "locks", os.O_RDWR)
    F_OFD_SETLKW = 38
    fcntl.fcntl(fd, F_OFD_SETLKW, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, partition * 16, 1, 0))
    try:
        yield
    finally:
        os.close(fd)


# ---- partitioning ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "expected"),  # org.apache.kafka.common.utils.UtilsTest.testMurmur2
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_kafkas(key: bytes, expected: int) -> None:
    assert murmur2(key) == expected
    assert murmur2(memoryview(bytearray(key))) == expected


@pytest.mark.parametrize("many", [False, True])
def test_keys_choose_partitions(store: pystream.Store, many: bool) -> None:
    topic = store.topic("k", create=True, partitions=5)
    keys = [b"key-%d" % (i % 37) for i in range(1000)]
    payload = [b"%d" % i for i in range(1000)]
    with topic.producer() as producer:
        if many:
            producer.send_many(payload, keys=keys)
        else:
            for value, key in zip(payload, keys, strict=True):
                producer.send(value, key)
    for index in range(5):
        expected = [
            (k, v)
            for k, v in zip(keys, payload, strict=True)
            if (murmur2(k) & 0x7FFFFFFF) % 5 == index
        ]
        assert [(r.key, r.value) for r in topic.partition(index)] == expected


def test_sticky_without_a_key(store: pystream.Store) -> None:
    topic = store.topic("k", create=True, partitions=3)
    with topic.producer(batch_records=4, linger=60) as producer:
        for i in range(24):
            producer.send(b"%d" % i)
    for index in range(3):
        got = [int(r.value or b"") for r in topic.partition(index)]
        assert got == [i for i in range(24) if i // 4 % 3 == index]


def test_own_partitioner(store: pystream.Store) -> None:
    topic = store.topic("k", create=True, partitions=3)
    asked: list[Any] = []

    def choose(key: bytes | None, partitions: int) -> int:
        asked.append((key, partitions))
        return 0 if key is None else len(key)

    with topic.producer(partitioner=choose) as producer:
        producer.send(b"a")
        producer.send(b"b", b"x")
        producer.send_many([b"c", b"d"], keys=[b"xx", None])
        for bad, error in [(3, ValueError), (-1, ValueError), ("0", TypeError), (True, TypeError)]:
            with pytest.raises(error, match="partitioner"):
                topic.producer(partitioner=lambda k, n, bad=bad: bad).send(b"x")
    assert asked == [(None, 3), (b"x", 3), (b"xx", 3), (None, 3)]
    assert [[r.value for r in topic.partition(i)] for i in range(3)] == [[b"a", b"d"], [b"b"], [b"c"]]


def test_named_partition(store: pystream.Store) -> None:
    topic = store.topic("k", create=True, partitions=2)
    with topic.producer() as producer:
        producer.send(b"a", b"k", partition=1)
        producer.send_many([b"b"], partition=np.int64(1))
        for bad in (2, -1):
            with pytest.raises(OptionError, match="partition"):
                producer.send(b"x", partition=bad)
            with pytest.raises(OptionError, match="partition"):
                producer.send_many([], partition=bad)
        with pytest.raises(TypeError, match="partition"):
            producer.send(b"x", partition="0")
    assert [r.value for r in topic.partition(1)] == [b"a", b"b"]


# ---- what goes in comes out ------------------------------------------------------------------------

texts = st.one_of(st.none(), st.binary(max_size=40))
headers = st.one_of(
    st.none(), st.lists(st.tuples(st.text(max_size=5), st.one_of(st.none(), st.binary(max_size=5))), max_size=3)
)
times = st.one_of(st.none(), st.integers(10**15, 2**62))
records = st.lists(st.tuples(texts, texts, headers, times), max_size=60)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(st.tuples(st.sampled_from(["send", "send_many", "append", "flush"]), records), max_size=6),
    compression=st.sampled_from(["none", "lz4"]),
    batch_bytes=st.sampled_from([1, 1500, 1 << 18]),
)
def test_round_trip(tmp_path_factory: Any, steps: Any, compression: str, batch_bytes: int) -> None:
    expected = []
    with pystream.open(tmp_path_factory.mktemp("s") / "store") as store:
        topic = store.topic("t", create=True, compression=compression, segment_bytes="64KiB")
        with topic.producer(batch_bytes=batch_bytes) as producer:
            for step, batch in steps:
                expected += [(v, k, tuple(h or ()), t) for v, k, h, t in batch] if step != "flush" else []
                columns: Any = [list(column) for column in zip(*batch, strict=True)] or [[], [], [], []]
                if step == "send":
                    for v, k, h, t in batch:
                        producer.send(v, k, headers=h, timestamp=t)
                elif step == "send_many":
                    producer.send_many(columns[0], keys=columns[1], headers=columns[2], timestamps=columns[3])
                else:
                    producer.flush()
                if step == "append":
                    topic.append(columns[0], keys=columns[1], headers=columns[2], timestamps=columns[3])
        got = list(topic.records())
        assert [r.offset for r in got] == list(range(len(expected)))
        now = time.time_ns()
        for r, (v, k, h, t) in zip(got, expected, strict=True):
            assert (r.value, r.key, r.headers) == (v, k, h)
            assert r.timestamp == t if t is not None else now - 600 * 10**9 < (r.timestamp or 0) <= now


def test_buffers_of_all_kinds(topic: pystream.Topic) -> None:
    kinds = [b"ab", bytearray(b"ab"), memoryview(b"ab"), np.frombuffer(b"ab", np.uint8), np.bytes_(b"ab")]
    with topic.producer() as producer:
        for kind in kinds:
            producer.send(kind, kind, headers={"h": kind} if isinstance(kind, (bytes, bytearray)) else None)
        producer.send_many(kinds, keys=tuple(kinds))
        producer.send_many(np.array(kinds[:3], object))
        producer.send_many(iter(kinds))
    topic.append(kinds, keys=kinds)
    assert set(values(topic)) == {b"ab"} and len(values(topic)) == 23


def test_numpy_columns(store: pystream.Store) -> None:
    topic = store.topic("v", create=True)
    topic.append(np.array([b"a", b"bcd", b""], "S5"))  # as NumPy reads them: without the padding
    topic.append(np.array([b"a\0", b"bc"], "V2"))
    topic.append(np.arange(6, dtype=np.uint8).reshape(3, 2))
    topic.append(np.arange(12, dtype=np.uint8).reshape(3, 4)[::2, ::2])
    assert values(topic) == [b"a", b"bcd", b"", b"a\0", b"bc", b"\0\1", b"\2\3", b"\4\5", b"\0\2", b"\x08\x0a"]
    for bad in (np.arange(3), np.zeros(2, "f8,i4"), np.array(["a"])):
        with pytest.raises(TypeError, match="dtype=|encode"):
            topic.append(bad)
    with pytest.raises(ValueError, match="dimensions"):
        topic.append(np.zeros((2, 2, 2), "S1"))

    wide = store.topic("w", create=True, value_bytes=4, key_bytes=2)
    wide.append(np.arange(3, dtype="<i4"), keys=np.array([1, 2, 3], "<u2"))
    wide.append(np.array([b"abcd"], "S4"), keys=[None])
    wide.append([b"wxyz", None], keys=[b"kk", None])
    assert [r.value for r in wide.records()] == [*(struct.pack("<i", i) for i in range(3)), b"abcd", b"wxyz", None]
    assert [r.key for r in wide.records()][3:] == [None, b"kk", None]
    for bad in (np.zeros(2, "i8"), [b"abcd", b"abc"], np.zeros((2, 3), np.uint8)):
        with pytest.raises(ValueError, match="exactly 4"):
            wide.append(bad)
    with pytest.raises(ValueError, match=r"keys\[1\] has 1 bytes.*exactly 2"):
        wide.append([b"abcd"] * 2, keys=[b"ab", b"a"])
    with pytest.raises(ValueError, match="exactly 4"):
        wide.producer().send(b"abc")


def test_dtype_topic(store: pystream.Store) -> None:
    dtype = np.dtype([("ts", "i8"), ("px", "f8"), ("qty", "i4")])
    topic = store.topic("d", create=True, dtype=dtype)
    array = np.zeros(1000, dtype)
    array["ts"] = np.arange(1000)
    with topic.producer(batch_bytes=4096) as producer:
        producer.send_many(array[:500])
        producer.send(array[500])
        producer.send(array[501].tobytes())
    topic.append(array[502::2])
    got = np.concatenate(list(topic.partition(0).arrays()))
    assert np.array_equal(got, np.concatenate([array[:502], array[502::2]]))
    with pytest.raises(TypeError, match="dtype"):
        topic.append(np.zeros(3, "i8"))
    with pytest.raises(TypeError, match="null"):
        topic.append([None])
    with pytest.raises(TypeError, match="array"):
        topic.append([(1, 2.0, 3)])
    with pytest.raises(TypeError, match="null"):
        topic.producer().send(None)
    with pytest.raises(TypeError, match="dtype"):
        topic.producer().send(np.zeros(1, [("a", "i8"), ("b", "f8"), ("c", "u4")])[0])


@pytest.mark.parametrize("type_", [pa.binary(), pa.large_binary(), pa.string(), pa.large_string(), pa.binary(3)])
@pytest.mark.parametrize("nulls", [False, True])
def test_arrow_columns(store: pystream.Store, type_: pa.DataType, nulls: bool) -> None:
    topic = store.topic("a", create=True)
    items: list[Any] = [b"%03d" % i for i in range(50)]
    if nulls:
        items[7] = items[30] = None
    array = pa.array([None if i is None else i.decode() for i in items], pa.string()).cast(pa.binary()).cast(type_)
    topic.append(array, keys=array)
    topic.append(array[11:40], keys=array[1:30])
    topic.append(pa.chunked_array([array[5:9], array[:0], array[20:]]))
    with topic.producer(batch_bytes=600) as producer:
        producer.send_many(pa.chunked_array([array[5:9], array[20:]]), keys=array[16:])
        producer.send_many(array[:0])
    expected = items + items[11:40] + 2 * (items[5:9] + items[20:])
    assert values(topic) == expected
    assert [r.key for r in topic.records()] == items + items[1:30] + [None] * 34 + items[16:]


def test_arrow_numbers(store: pystream.Store) -> None:
    topic = store.topic("n", create=True, dtype="f8")
    topic.append(pa.array([1.5, 2.5, 3.5])[1:])
    assert np.concatenate(list(topic.partition(0).arrays())).tolist() == [2.5, 3.5]
    for bad in (pa.array([1, 2]), pa.array([b"12345678"])):
        with pytest.raises(TypeError, match="dtype|float64|int64"):
            topic.append(bad)
    with pytest.raises(TypeError, match="null"):
        topic.append(pa.array([1.0, None]))
    plain = store.topic("p", create=True)
    for bad in (pa.array([1, 2]), pa.array([[b"a"]]), pa.table({"a": [b"a"]}), pa.array([True])):
        with pytest.raises(TypeError, match="column"):
            plain.append(bad)
    with pytest.raises(pystream.UnsupportedError, match="dictionary"):
        plain.append(pa.array([b"a", b"a"]).dictionary_encode())


def test_columns_of_a_batch_go_in_again(store: pystream.Store) -> None:
    source, target = (store.topic(name, create=True) for name in "st")
    source.append([b"a", None, b"ccc"] * 9, keys=[b"k", b"", None] * 9)
    for batch in source.batches():
        target.append(batch.values, keys=batch.keys, timestamps=batch.timestamps)
        target.append(batch[4:].values, keys=batch[4:].keys)
    assert values(target) == values(source) + values(source)[4:]
    assert [r.key for r in target.records()] == [b"k", b"", None] * 9 + [b"", None, *[b"k", b"", None] * 7]


# ---- bad input: nothing is written -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"values": "abc"}, TypeError, "list of bytes"),
        ({"values": b"abc"}, TypeError, r"\[value\]"),
        ({"values": 5}, TypeError, "list of bytes"),
        ({"values": None}, TypeError, "list of bytes"),
        ({"values": {"a": 1}}, TypeError, "list of bytes"),
        ({"values": [b"a", "b"]}, TypeError, r"values\[1\] is a str.*encode"),
        ({"values": [b"a", 7]}, TypeError, r"values\[1\].*not int"),
        ({"values": [b"a"], "keys": ["b"]}, TypeError, r"keys\[0\] is a str"),
        ({"values": [b"a"], "keys": [b"b", b"c"]}, ValueError, "2 keys for 1 values"),
        ({"values": [b"a"], "headers": []}, ValueError, "0 headers for 1 values"),
        ({"values": [b"a"], "headers": {"a": b""}}, TypeError, "headers"),
        ({"values": [b"a"], "headers": [["ab"]]}, TypeError, "pair"),
        ({"values": [b"a"], "headers": [[(b"k", b"v")]]}, TypeError, "must be a str"),
        ({"values": [b"a"], "headers": [[("k", "v")]]}, TypeError, "encode"),
        ({"values": [b"a"], "timestamps": [T, T]}, ValueError, "2 timestamps for 1 values"),
        ({"values": [b"a"], "timestamps": np.array([1.5])}, TypeError, "timestamps"),
        ({"values": [memoryview(b"abcd")[::2]]}, TypeError, "contiguous"),
    ],
)
def test_refused_whole(topic: pystream.Topic, arguments: dict[str, Any], error: type, text: str) -> None:
    with topic.producer() as producer:
        with pytest.raises(error, match=text):
            topic.append(**arguments)
        with pytest.raises(error, match=text):
            producer.send_many(**arguments)
    assert values(topic) == []


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"value": "a"}, TypeError),
        ({"value": 1}, TypeError),
        ({"value": b"a", "key": "k"}, TypeError),
        ({"value": b"a", "headers": [("k", 1)]}, TypeError),
        ({"value": b"a", "headers": "k"}, TypeError),
        ({"value": b"a", "timestamp": 1_700_000_000}, ValueError),
        ({"value": b"a", "timestamp": "now"}, TypeError),
        ({"value": b"a", "on_delivery": 1}, TypeError),
    ],
)
def test_send_refused(topic: pystream.Topic, arguments: dict[str, Any], error: type) -> None:
    with topic.producer() as producer:
        producer.send(b"before")
        with pytest.raises(error):
            producer.send(**arguments)
        producer.send(b"after")
    assert values(topic) == [b"before", b"after"]


def test_record_limits(topic: pystream.Topic) -> None:
    """The largest record that goes in by each way, one byte less, one byte more."""

    def largest(put: Any) -> int:
        low, high = 1, 1 << 17
        while low < high:
            middle = (low + high + 1) // 2
            try:
                put(bytes(middle))
                low = middle
            except RecordTooLargeError:
                high = middle - 1
        return low

    with topic.producer() as producer:
        for put in (producer.send, lambda v: producer.send_many([v]), lambda v: topic.append([v])):
            most = largest(put)
            assert 65536 - 2048 < most < 65536
            producer.flush()
            end = topic.partition(0).end_offset
            put(bytes(most - 1))
            put(bytes(most))
            with pytest.raises(RecordTooLargeError, match="segment"):
                put(bytes(most + 1))
            producer.flush()
            assert [len(r.value or b"") for r in topic.partition(0).records(end)] == [most - 1, most]


def test_batch_limits(topic: pystream.Topic) -> None:
    many = [bytes(1000)] * 100
    with pytest.raises(BatchTooLargeError, match="100 records"):
        topic.append(many)
    with pytest.raises(BatchTooLargeError):
        topic.append(np.zeros((100, 1000), np.uint8))
    assert values(topic) == []
    with topic.producer(batch_bytes="2GiB", buffer_bytes="4GiB") as producer:
        producer.send_many(many)  # in as many batches as it takes
    assert values(topic) == many
    topic.append([b""] * 1000)


def test_header_limits(topic: pystream.Topic) -> None:
    with topic.producer() as producer:
        for count in (1023, 1024):
            producer.send(b"", headers=[("k", b"")] * count)
        with pytest.raises(RecordTooLargeError, match="1024"):
            producer.send(b"", headers=[("k", b"")] * 1025)
        with pytest.raises(RecordTooLargeError, match="65535"):
            producer.send(b"", headers={"k" * 65536: None})
        with pytest.raises(RecordTooLargeError, match="65535"):
            producer.send_many([b""], headers=[{"é" * 32768: None}])
    assert [len(r.headers) for r in topic.records()] == [1023, 1024]


# ---- batches, linger, callbacks --------------------------------------------------------------------


def test_linger(topic: pystream.Topic) -> None:
    with topic.producer(linger=0.02) as producer:
        producer.send(b"a")
        assert topic.partition(0).end_offset == 0
        assert topic.partition(0).wait(0, timeout=5)
    with topic.producer(linger=3600) as producer:
        producer.send(b"b")
        assert not topic.partition(0).wait(1, timeout=0.05)
    assert values(topic) == [b"a", b"b"]


def test_batches(topic: pystream.Topic) -> None:
    with topic.producer(batch_records=10, linger=60) as producer:
        for i in range(35):
            producer.send(b"%d" % i)
        producer.send_many([b"x"] * 25)
    assert [len(b) for b in topic.batches()] == [10, 10, 10, 5, 10, 10, 5]


def test_send_and_send_many_keep_order(topic: pystream.Topic) -> None:
    with topic.producer() as producer:
        for i in range(50):
            producer.send(b"s%d" % i)
            producer.send_many([b"m%d" % i])
        topic.append([b"last"])
    assert values(topic) == [b"%s%d" % (c, i) for i in range(50) for c in (b"s", b"m")] + [b"last"]


def test_delivery_callbacks(topic: pystream.Topic) -> None:
    default: list[Any] = []
    own: list[Any] = []
    with topic.producer(on_delivery=lambda e, m: default.append((e, m))) as producer:
        producer.send(b"a", timestamp=T)
        producer.send(b"b", timestamp=T + 1, on_delivery=lambda e, m: own.append((e, m)))
        producer.send(b"c")
        producer.flush()
        assert [(e, m.offset) for e, m in default] == [(None, 0), (None, 2)]
        assert [(e, m.offset, m.timestamp, m.topic, m.partition) for e, m in own] == [(None, 1, T + 1, "t", 0)]
        producer.send_many([b"d", b"e"], timestamps=[T, T + 5])
        assert [(m.offset, m.timestamp) for _, m in default[2:]] == [(3, T), (4, T + 5)]
    with topic.producer() as producer:
        producer.send(b"f")
        producer.send(b"g", on_delivery=lambda e, m: own.append(m.offset))
    assert own[1:] == [6]


def test_callback_that_raises(topic: pystream.Topic) -> None:
    def fail(error: object, metadata: pystream.RecordMetadata) -> None:
        calls.append(metadata.offset)
        raise RuntimeError("mine")

    calls: list[int | None] = []
    with topic.producer(on_delivery=fail) as producer:
        producer.send(b"a")
        producer.send(b"b")
        with pytest.raises(RuntimeError, match="mine"):
            producer.flush()
        producer.flush()
        with pytest.raises(RuntimeError, match="mine"):
            producer.send_many([b"c", b"d"])
    assert calls == [0, 1, 2, 3]
    assert values(topic) == [b"a", b"b", b"c", b"d"]


def test_callback_that_sends(topic: pystream.Topic) -> None:
    def again(error: object, metadata: pystream.RecordMetadata) -> None:
        if metadata.offset == 0:
            producer.send(b"again")
            producer.flush()

    with topic.producer(on_delivery=again) as producer:
        producer.send(b"a")
        producer.flush()
        assert values(topic) == [b"a", b"again"]


def test_threads_share_a_producer(store: pystream.Store) -> None:
    topic = store.topic("t", create=True, partitions=2)
    with topic.producer(buffer_bytes="256KiB", batch_bytes="4KiB") as producer:

        def work(name: int) -> None:
            for i in range(3000):
                producer.send(b"%d" % i, b"%d" % name)
                if i % 500 == 0:
                    producer.flush()

        threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for name in range(4):
        got = [int(r.value or b"") for r in topic.records() if r.key == b"%d" % name]
        assert got == list(range(3000))


# ---- failures --------------------------------------------------------------------------------------


def test_full_disk(topic: pystream.Topic, store: pystream.Store) -> None:
    reported: list[Any] = []
    with topic.producer(batch_bytes=2000) as producer:
        producer.send(b"first")
        producer.flush()
        store._handle.arm(f"allocate:1:errno={errno.ENOSPC}:1000000")
        sent = 0
        with pytest.raises(DeliveryError) as caught:
            for i in range(1000):
                producer.send(b"%05d" % i * 40, on_delivery=lambda e, m: reported.append((e, m.offset)))
                sent += 1
            producer.flush()
        assert isinstance(caught.value.__cause__, StorageError)
        assert caught.value.__cause__.errno == errno.ENOSPC
        assert caught.value.records > 0
        store._handle.arm(None)
        producer.flush()  # nothing was lost, and the order is kept
        assert values(topic) == [b"first"] + [b"%05d" % i * 40 for i in range(sent)]
        assert reported == [(None, i + 1) for i in range(sent)]


def test_full_disk_at_close(topic: pystream.Topic, store: pystream.Store) -> None:
    reported: list[Any] = []
    producer = topic.producer(linger=60, on_delivery=lambda e, m: reported.append((type(e), m.offset)))
    for _ in range(30):
        topic.append([bytes(2000)])  # so that the next batch must roll
    producer.send_many([b"a"])
    store._handle.arm(f"allocate:1:errno={errno.ENOSPC}:1000000")
    producer.send(bytes(8000))
    with pytest.raises(DeliveryError, match="1 record") as caught:
        producer.close()
    assert caught.value.records == 1
    assert reported[1:] == [(StorageError, None)]
    store._handle.arm(None)
    producer.close()
    with pytest.raises(ClosedError):
        producer.send(b"x")


def test_failed_sync_poisons(store: pystream.Store) -> None:
    topic = store.topic("s", create=True, durability="sync")
    producer = topic.producer(linger=60)
    producer.send(b"a")
    producer.flush()
    producer.send(b"b")
    store._handle.arm(f"sync:1:errno={errno.EIO}:1000000")
    with pytest.raises(DeliveryError) as caught:
        producer.flush()
    assert caught.value.records == 1
    with pytest.raises(StorageError):
        producer.send(b"c")
    with pytest.raises(PoisonedError):
        topic.append([b"d"])
    with pytest.raises(DeliveryError):
        producer.send_many([b"e"])
    store._handle.arm(None)
    producer.close()


def test_lock_held_elsewhere(store: pystream.Store, topic: pystream.Topic) -> None:
    topic.append([b"a"])
    with topic.producer() as producer, locked(store, "t"):
        with pytest.raises(LockTimeoutError):
            topic.append([b"x"], timeout=0)
        began = time.monotonic()
        with pytest.raises(LockTimeoutError):
            topic.append([b"x"], timeout=0.1)
        assert 0.09 < time.monotonic() - began < 5
        producer.send(b"b")
        with pytest.raises(LockTimeoutError, match="1 record"):
            producer.flush(timeout=0.1)
        assert values(topic) == [b"a"]
    assert values(topic) == [b"a", b"b"]


def test_signal_ends_a_wait(store: pystream.Store, topic: pystream.Topic) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    topic.append([b"a"])
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with topic.producer() as producer:
            with locked(store, "t"):
                for wait in (lambda: topic.append([b"x"]), lambda: (producer.send(b"b"), producer.flush())):
                    signal.setitimer(signal.ITIMER_REAL, 0.1)
                    with pytest.raises(KeyboardInterrupt):
                        wait()
            producer.flush()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert values(topic) == [b"a", b"b"]


def test_back_pressure(store: pystream.Store, topic: pystream.Topic) -> None:
    topic.append([b"a"])
    done: list[int] = []
    with topic.producer(batch_bytes="2KiB", buffer_bytes="8KiB") as producer:

        def work() -> None:
            for i in range(100):
                producer.send(bytes(1000))
                done.append(i)

        thread = threading.Thread(target=work)
        with locked(store, "t"):
            thread.start()
            time.sleep(0.3)
            waiting = len(done)
            assert 8 <= waiting <= 16
            assert producer.stats()["pending_bytes"] <= 8192 + 2 * 2048
        thread.join()
    assert len(values(topic)) == 101


# ---- lifetimes -------------------------------------------------------------------------------------


def test_closed(topic: pystream.Topic, store: pystream.Store) -> None:
    producer = topic.producer(linger=60)
    producer.send(b"a")
    producer.close()
    producer.close()
    for call in (lambda: producer.send(b"b"), lambda: producer.send_many([b"b"]), producer.flush):
        with pytest.raises(ClosedError):
            call()
    late = topic.producer(linger=60)
    late.send(b"c")
    path = store.path
    store.close()  # flushes
    with pytest.raises(ClosedError):
        late.send(b"d")
    with pystream.open(path) as again:
        assert values(again.topic("t")) == [b"a", b"c"]


def test_unclosed_producer_is_flushed(topic: pystream.Topic) -> None:
    with pytest.warns(ResourceWarning, match="unclosed producer"):
        producer = topic.producer(linger=60)
        producer.send(b"a")
        del producer
        gc.collect()
    assert values(topic) == [b"a"]


def test_exit_flushes(tmp_path: Path) -> None:
    code = (
        "import sys, pystream\n"
        "store = pystream.open(sys.argv[1])\n"
        "producer = store.topic('t', create=True).producer(linger=60)\n"
        "producer.send(b'a')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], timeout=60, capture_output=True)
    assert done.returncode == 0, done.stderr
    with pystream.open(tmp_path / "s") as store:
        assert values(store.topic("t")) == [b"a"]


def test_fork(topic: pystream.Topic, store: pystream.Store) -> None:
    with topic.producer(linger=60) as producer:
        producer.send(b"a")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # threads and fork: just what is tested
            child = os.fork()
        if child == 0:
            code = 1
            try:
                for call in (
                    lambda: producer.send(b"x"),
                    lambda: producer.send_many([b"x"]),
                    producer.flush,
                    lambda: topic.append([b"x"]),
                ):
                    with pytest.raises(ForkedError):
                        call()
                producer.close()
                with pystream.open(store.path) as mine, mine.topic("t").producer() as fresh:
                    fresh.send(b"child")
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        producer.send(b"b")
    assert values(topic) == [b"child", b"a", b"b"]


def test_interval_sync_happens(tmp_path: Path) -> None:
    with pystream.open(tmp_path / "s", sync_interval=0.05) as store:
        topic = store.topic("t", create=True)
        partition = topic.partition(0)
        with topic.producer() as producer:
            for put in (lambda: topic.append([b"a"]), lambda: (producer.send(b"b"), producer.flush())):
                put()
                end = partition.end_offset
                deadline = time.monotonic() + 10
                while partition.durable_offset < end and time.monotonic() < deadline:
                    time.sleep(0.01)
                assert partition.durable_offset == end
            producer.send(b"c")
            producer.flush(durable=True)
            assert partition.durable_offset == partition.end_offset == 3


def test_log_append_time(store: pystream.Store) -> None:
    topic = store.topic("l", create=True, timestamp_type="append")
    seen: list[Any] = []
    began = time.time_ns()
    with topic.producer(on_delivery=lambda e, m: seen.append(m.timestamp)) as producer:
        producer.send(b"a")
        with pytest.raises(ValueError, match="stamps records itself"):
            producer.send(b"a", timestamp=T)
    with pytest.raises(ValueError, match="stamps records itself"):
        topic.append([b"a"], timestamps=[T])
    stored = [r.timestamp for r in topic.records()]
    assert seen == stored and began <= (stored[0] or 0) <= time.time_ns()
