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
import pytest

import pystream
from pystream import (
    ClosedError,
    DeliveryError,
    ForkedError,
    LockTimeoutError,
    OptionError,
    PoisonedError,
    StorageError,
)
from pystream._native.hashing import murmur2

T = 1_700_000_000_000_000_000


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
            (k, v) for k, v in zip(keys, payload, strict=True) if (murmur2(k) & 0x7FFFFFFF) % 5 == index
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
        with (
            topic.producer(partitioner=lambda k, n, bad=bad: bad) as producer,
            pytest.raises(error, match="partitioner"),
        ):
            producer.send(b"x")
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
        assert [(e, m.offset, m.timestamp, m.topic, m.partition) for e, m in own] == [
            (None, 1, T + 1, "t", 0)
        ]
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
    for _ in range(27):
        topic.append([bytes(2000)])  # so that the next batch must roll
    producer.send_many([b"a"])
    store._handle.arm(f"rename:1:errno={errno.ENOSPC}:1000000")
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
            assert 4 <= waiting <= 10
            assert producer.stats().pending_bytes <= 8192 + 2 * 2048
        thread.join()
    assert len(done) == 100 and len(values(topic)) == 101


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
