"""What is on the disk, as a user asks for it: flushes of one and of many, readers of durable records only,
and space that is left free."""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import lives
import pystream
from harness import Life

SLOW = "1h"  # no sync comes by itself


@pytest.fixture
def store(tmp_path: Path) -> Iterator[pystream.Store]:
    with pystream.open(tmp_path / "s", sync_interval=SLOW) as store:
        yield store


def durable(topic: pystream.Topic) -> list[int]:
    return [topic.partition(index).durable_offset for index in range(topic.partitions)]


# ---- flushes ---------------------------------------------------------------------------------------


def test_flush_of_a_topic_and_of_a_store(store: pystream.Store) -> None:
    topics = [
        store.topic(name, create=True, partitions=3, durability=name) for name in ("interval", "none", "sync")
    ]
    for topic in topics:
        for index in range(3):
            topic.partition(index).append([b"x"] * (index + 1))
    assert [durable(topic) for topic in topics] == [[0, 0, 0], [0, 0, 0], [1, 2, 3]]
    topics[0].flush()
    assert [durable(topic) for topic in topics] == [[1, 2, 3], [0, 0, 0], [1, 2, 3]]
    store.flush()
    assert [durable(topic) for topic in topics] == [[1, 2, 3]] * 3


def test_flush_covers_other_processes(store: pystream.Store) -> None:
    topic = store.topic("t", create=True)
    life = Life(lives.call, lives.append_one, store.path)
    life.receive()
    assert life.end() == 0
    assert topic.partition(0).end_offset == 1
    topic.flush()
    assert durable(topic) == [1]


def test_flush_of_many_goes_on_after_a_failure(store: pystream.Store) -> None:
    topic = store.topic("t", create=True, partitions=4)
    for index in range(4):
        topic.partition(index).append([b"x"])
    store._handle.arm("sync:2:errno=5")
    with pytest.raises(pystream.StorageError) as caught:
        topic.flush()
    store._handle.arm(None)
    assert caught.value.errno == errno.EIO
    assert sorted(durable(topic)) == [0, 1, 1, 1]
    poisoned = durable(topic).index(0)
    for index in range(4):
        if index == poisoned:
            with pytest.raises(pystream.PoisonedError):
                topic.partition(index).append([b"y"])
        else:
            topic.partition(index).append([b"y"])
    with pytest.raises(pystream.PoisonedError):
        store.flush()


def test_flush_of_a_producer_syncs_all_its_partitions(store: pystream.Store) -> None:
    topic = store.topic("t", create=True, partitions=8)
    with topic.producer() as producer:
        for number in range(80):
            producer.send(b"x", partition=number % 8)
        producer.flush()
        assert durable(topic) == [0] * 8
        with pytest.raises(TypeError, match="durable= must be True or False"):
            producer.flush(durable="no")
        assert durable(topic) == [0] * 8
        producer.flush(durable=True)
        assert durable(topic) == [10] * 8


def test_flush_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pystream.open(tmp_path / "s") as store:
        topic = store.topic("t", create=True)
    for closed in (store.flush, topic.flush):
        with pytest.raises(pystream.ClosedError):
            closed()
    with pystream.open(tmp_path / "s", "r") as reading:
        for call in (reading.flush, reading.topic("t").flush):
            with pytest.raises(pystream.ReadOnlyError):
                call()


def test_many_partitions_are_synced_by_themselves(tmp_path: Path) -> None:
    """One thread sees to all of them, within the interval and the time of one round."""
    with pystream.open(tmp_path / "s", sync_interval=0.05) as store:
        topic = store.topic("t", create=True, partitions=120)
        for _ in range(3):
            for index in range(120):
                topic.partition(index).append([b"x"])
        deadline = time.monotonic() + 60
        while durable(topic) != [3] * 120:
            assert time.monotonic() < deadline
            time.sleep(0.01)


# ---- readers of durable records only ---------------------------------------------------------------


def values(consumer: pystream.Consumer) -> list[bytes | None]:
    return [record.value for record in consumer]


def test_only_durable_records(store: pystream.Store) -> None:
    topic = store.topic("t", create=True)
    partition = topic.partition(0)
    partition.append([b"a", b"b"])
    with store.consumer("t", timeout=0, durable=True) as careful, store.consumer("t", timeout=0) as other:
        assert values(careful) == []
        assert values(other) == [b"a", b"b"]
        topic.flush()
        partition.append([b"c"])
        assert values(careful) == [b"a", b"b"]
        assert careful.position(("t", 0)) == 2
        assert careful.poll(0) is None
        careful.seek(("t", 0), 0)
        assert values(careful) == [b"a", b"b"]
        careful.seek(("t", 0), "latest")  # for such a reader, the log ends at what is durable
        assert values(careful) == []
        topic.flush()
        partition.append([b"d"])
        assert values(careful) == [b"c"]
        careful.seek(("t", 0), 4)  # beyond what is durable: a place to wait at
        assert values(careful) == []
        careful.seek(("t", 0), 3)
        topic.flush()
        assert values(careful) == [b"d"]


@pytest.mark.parametrize("partitions", [1, 5, 150])
@pytest.mark.parametrize("spin", [0, 0.01])
def test_a_sync_wakes_those_who_wait_for_it(store: pystream.Store, partitions: int, spin: float) -> None:
    topic = store.topic("t", create=True, partitions=partitions)
    with store.consumer("t", durable=True, spin=spin) as consumer:
        woken: list[tuple[float, Any]] = []

        def wait() -> None:
            batch = consumer.poll(30)
            woken.append((time.monotonic(), batch))

        thread = threading.Thread(target=wait)
        thread.start()
        topic.partition(partitions - 1).append([b"x"])
        time.sleep(0.3)
        assert not woken  # appended, and not durable
        synced = time.monotonic()
        topic.partition(partitions - 1).flush()
        thread.join(30)
        ((at, batch),) = woken
        assert batch is not None and batch.values[0] == b"x"
        assert synced <= at < synced + 0.9  # woken, not found by the look each second


def test_an_event_loop_waits_for_durable_records(store: pystream.Store) -> None:
    topic = store.topic("t", create=True)

    async def main() -> None:
        async with store.async_consumer("t", durable=True) as consumer:
            waiting = asyncio.ensure_future(consumer.poll(30))
            await asyncio.sleep(0.05)
            topic.append([b"x"])
            await asyncio.sleep(0.2)
            assert not waiting.done()
            topic.flush()
            batch = await asyncio.wait_for(waiting, 10)
            assert batch is not None and len(batch) == 1

    asyncio.run(main())


def test_durable_records_in_a_group_and_read_only(store: pystream.Store) -> None:
    topic = store.topic("t", create=True, partitions=2)
    for index in range(2):
        topic.partition(index).append([b"1"])
        topic.partition(index).flush()
        topic.partition(index).append([b"2"])
    with store.consumer("t", group="g", timeout=0.2, durable=True) as consumer:
        assert values(consumer) == [b"1", b"1"]
    with pystream.open(store.path, "r") as reading, reading.consumer("t", timeout=0, durable=True) as looks:
        assert values(looks) == [b"1", b"1"]
        topic.flush()
        with reading.consumer("t", timeout=0, durable=True) as later:
            assert sorted(values(later)) == [b"1", b"1", b"2", b"2"]


def test_durable_means_what_survives(tmp_path: Path) -> None:
    """What such a reader was given is there after the log has lost all that was not synced."""
    with pystream.open(tmp_path / "s", sync_interval=SLOW) as store:
        topic = store.topic("t", create=True)
        topic.append([b"kept"])
        topic.flush()
        topic.append([b"lost"])
        with store.consumer("t", timeout=0, durable=True) as consumer:
            given = values(consumer)
        log = tmp_path / "s/topics/t/0/00000000000000000000.log"
        data = log.read_bytes()
    at = data.index(b"lost")
    frame = at // 64 * 64
    log.write_bytes(data[: frame - 192] + bytes(len(data) - frame + 192))
    (tmp_path / "s/topics/t/0/head").unlink()
    with pystream.open(tmp_path / "s") as store:
        assert [record.value for record in store.topic("t").records()][: len(given)] == given == [b"kept"]


@pytest.mark.parametrize("value", [1, "yes", None])
def test_durable_is_a_flag(store: pystream.Store, value: object) -> None:
    with pytest.raises(TypeError, match="durable= must be True or False"):
        store.consumer(durable=value)  # type: ignore[arg-type]


# ---- space left free -------------------------------------------------------------------------------


def test_min_free_bytes(tmp_path: Path) -> None:
    with pystream.open(tmp_path / "s") as store:
        assert store.min_free_bytes == 0
        store.topic("t", create=True).append([b"before"])
    with pystream.open(tmp_path / "s", min_free_bytes="1024 TiB") as store:
        assert store.min_free_bytes == 1 << 50
        topic = store.topic("t")
        topic.append([b"in the space it has already"])
        with pytest.raises(pystream.StorageError, match="min_free_bytes=1125899906842624") as caught:
            for _ in range(100):
                topic.append([bytes(60000)])
        assert caught.value.errno == errno.ENOSPC
        assert "go on by themselves" in str(caught.value)
        assert not isinstance(caught.value, pystream.PoisonedError)
        values = [record.value for record in topic.records()]
        assert values[:2] == [b"before", b"in the space it has already"]
        store._handle.min_free_bytes = 0
        topic.append([bytes(60000)])  # without opening anything again
        with pytest.raises(pystream.OptionError, match="already open"):
            pystream.open(tmp_path / "s", min_free_bytes=1)
        pystream.open(tmp_path / "s").close()  # does not say
    with pystream.open(tmp_path / "s", min_free_bytes=1 << 20) as store:
        store.topic("t").append([b"after"])


def test_a_producer_waits_for_space(tmp_path: Path) -> None:
    """What does not go out stays queued and goes when there is room; the error says which rule it is."""
    with pystream.open(tmp_path / "s") as store:
        topic = store.topic("t", create=True, segment_bytes="64KiB")
        topic.append([b""])
        store._handle.min_free_bytes = 1 << 50
        topic.append([bytes(50000)])  # in space the segment has; the next one cannot be made ready
        producer = topic.producer(batch_bytes=20000)
        producer.send(b"x" * 19000)  # no room for it in the first segment
        with pytest.raises((pystream.DeliveryError, pystream.LockTimeoutError)):
            producer.flush(timeout=0.3)
        assert producer.stats().pending_records == 1
        with pytest.raises(pystream.StorageError, match="min_free_bytes"):
            topic.append([bytes(50000)])
        store._handle.min_free_bytes = 0
        deadline = time.monotonic() + 30
        while topic.partition(0).end_offset < 3:
            assert time.monotonic() < deadline
            with suppress(pystream.DeliveryError):
                producer.flush()
        producer.close()
        assert [len(record.value or b"") for record in topic.records()] == [0, 50000, 19000]


def test_recovery_may_take_what_is_kept_free(tmp_path: Path) -> None:
    with pystream.open(tmp_path / "s", sync_interval=SLOW) as store:
        store.topic("t", create=True).append([b"a", b"b"])
        store.topic("t").flush()
        path = tmp_path / "s/topics/t/0/00000000000000000000.log"
    data = path.read_bytes()
    torn = data.rindex(b"ab") // 64 * 64 + 64
    path.write_bytes(data[:torn] + b"torn" * 100 + bytes(len(data) - torn - 400))
    with pystream.open(tmp_path / "s", min_free_bytes="1024 TiB") as store:
        partition = store.topic("t").partition(0)
        assert [record.value for record in partition] == [b"a", b"b"]
        assert partition.append([b"c"]) == 2  # in the segment that recovery has made


@pytest.mark.parametrize("value", [-1, (1 << 60) + 1, "2 EiB", "much"])
def test_min_free_bytes_limits(tmp_path: Path, value: Any) -> None:
    with pytest.raises(pystream.OptionError, match="min_free_bytes"):
        pystream.open(tmp_path / "s", min_free_bytes=value)
    pystream.open(tmp_path / "s", min_free_bytes=1 << 60).close()
    with pytest.raises(pystream.OptionError, match="min_free_bytes= is for stores that are written to"):
        pystream.open(tmp_path / "s", "r", min_free_bytes=0)
