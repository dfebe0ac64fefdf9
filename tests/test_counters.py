"""What producers and consumers count, held against a model; counters never fall."""

from __future__ import annotations

import errno
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pystream
from harness import LONG, quick_directory
from pystream.stats import ConsumerStats, ProducerStats

COUNTED = {
    ProducerStats: ("records", "bytes", "batches", "failed_records", "errors", "retries"),
    ConsumerStats: ("records", "bytes", "batches", "errors", "skipped_records"),
}


class Rising:
    """Sees to it that no counter falls from one look to the next."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.last = client.stats()

    def look(self) -> Any:
        now = self.client.stats()
        for name in COUNTED[type(now)]:
            assert getattr(now, name) >= getattr(self.last, name), name
        self.last = now
        return now


def test_a_producer_counts(topic: pystream.Topic) -> None:
    begun = time.time_ns()
    producer = topic.producer(linger=3600)
    seen = Rising(producer)
    assert asdict(producer.stats()) == dict.fromkeys(asdict(producer.stats()), 0) | {"last_delivery_ns": None}
    for _ in range(10):
        producer.send(b"x" * 100)
    stats = seen.look()
    assert (stats.records, stats.pending_records) == (0, 10) and stats.pending_bytes >= 1000
    producer.flush()
    stats = seen.look()
    assert (stats.records, stats.batches, stats.pending_records, stats.pending_bytes) == (10, 1, 0, 0)
    assert begun <= stats.last_delivery_ns <= time.time_ns()
    producer.send_many([b"y"] * 5)
    stats = seen.look()
    assert (stats.records, stats.batches) == (15, 2)
    stored = topic.stats()[0]
    assert stats.bytes == stored.stored_bytes - 256 == stored.process.appended_bytes
    producer.close()
    assert seen.look() == stats
    assert json_like(stats.to_dict())


def json_like(document: dict[str, Any]) -> bool:
    return all(value is None or type(value) is int for value in document.values())


def test_a_producer_counts_what_fails(store: pystream.Store, topic: pystream.Topic) -> None:
    producer = topic.producer(batch_bytes=1000, linger=0)
    seen = Rising(producer)
    topic.append([b"x"])
    store._handle.arm(f"rename:1:errno={errno.ENOSPC}:1000000")
    try:
        for _ in range(40):
            try:
                producer.send(b"x" * 4000)
                producer.flush(timeout=0.2)
            except (pystream.DeliveryError, pystream.LockTimeoutError):
                break
        stats = seen.look()
        assert stats.errors >= stats.retries >= 1 and stats.pending_records >= 1
    finally:
        store._handle.arm(None)
    producer.flush()
    now = seen.look()
    assert now.pending_records == now.failed_records == 0 and now.records > stats.records
    topic.partition(0)._log().poison(5)
    producer.send(b"x")
    with pytest.raises(pystream.DeliveryError):
        producer.flush()
    lost = seen.look()
    assert lost.failed_records == 1 and lost.errors > now.errors and lost.retries == now.retries
    with pytest.raises(pystream.DeliveryError):
        producer.send_many([b"y"] * 3)
    assert seen.look().failed_records == 4
    with pytest.raises(pystream.PystreamError):
        producer.send(b"x")
    producer.close()


def test_a_consumer_counts(store: pystream.Store, topic: pystream.Topic) -> None:
    for _ in range(4):
        topic.append([b"x" * 10] * 5)
    other = store.topic("u", create=True, partitions=2)
    other.append([b"y"] * 3, partition=1)
    consumer = store.consumer("t", timeout=0)
    seen = Rising(consumer)
    assert consumer.stats() == ConsumerStats(0, 0, 0, 0, 0, None, 1, 20)
    begun = time.time_ns() - 10**8
    records = iter(consumer)
    for _ in range(7):
        next(records)
    stats = seen.look()
    assert (stats.records, stats.batches, stats.lag_records) == (7, 2, 14)  # the one in hand is not done
    assert begun <= stats.last_batch_ns <= time.time_ns() + 10**8
    consumer.seek(("t", 0), 18)
    assert seen.look().records == 7
    assert len(list(records)) == 2
    stats = seen.look()
    assert (stats.records, stats.batches, stats.lag_records) == (9, 3, 0)
    consumer.subscribe(["t", "u"])
    assert seen.look().partitions == 3
    batch = consumer.poll(timeout=0)
    assert batch is not None and len(batch) == 3
    assert seen.look().records == 12
    consumer.assign([("u", 0)])
    stats = seen.look()
    assert (stats.records, stats.batches, stats.partitions) == (12, 4, 1)
    consumer.close()
    over = seen.look()
    assert (over.records, over.partitions, over.lag_records) == (12, 0, 0)
    store.close()
    assert consumer.stats() == over and json_like(over.to_dict())


def test_a_consumer_counts_errors(store: pystream.Store, topic: pystream.Topic) -> None:
    topic.append([b"x"])
    consumer = store.consumer("t", timeout=0)
    assert len(list(consumer)) == 1
    store.delete_topic("t")
    for count in (1, 2):
        with pytest.raises(pystream.TopicDeletedError):
            consumer.poll(timeout=0)
        assert consumer.stats().errors == count
    assert consumer.stats().records == 1 and consumer.stats().lag_records == 0


@settings(
    max_examples=300 if LONG else 40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_counters_against_a_model(data: st.DataObject) -> None:
    """Random work on a store of two partitions; everything counted is what was done."""
    with quick_directory() as place, pystream.open(Path(place) / "s") as store:
        topic = store.topic(
            "t",
            create=True,
            partitions=2,
            segment_bytes="64KiB",
            compression=data.draw(st.sampled_from(["none", "lz4"])),
        )
        producer = topic.producer(linger=3600)
        consumer = store.consumer("t", timeout=0)
        writes, reads = Rising(producer), Rising(consumer)
        sent = [0, 0]
        pending = [0, 0]
        taken = 0
        actions = ["send", "send_many", "append", "flush", "records", "poll", "seek", "look", "exact"]
        for action in data.draw(st.lists(st.sampled_from(actions), max_size=25)):
            where = data.draw(st.integers(0, 1))
            count = data.draw(st.integers(1, 20))
            value = b"v" * data.draw(st.sampled_from([0, 10, 3000]))
            if action == "send":
                for _ in range(count):
                    producer.send(value, partition=where)
                pending[where] += count
                producer.flush()
                sent[where] += pending[where]
                pending[where] = 0
            elif action == "send_many":
                producer.send_many([value] * count, partition=where)
                sent[where] += count
            elif action == "append":
                topic.append([value] * count, partition=where)
                sent[where] += count
            elif action == "flush":
                topic.flush()
            elif action == "records":
                for _, _record in zip(range(count), consumer, strict=False):
                    taken += 1
                    if taken % 7 == 0:
                        assert consumer.stats().records == taken
            elif action == "poll":
                batch = consumer.poll(timeout=0)
                taken += 0 if batch is None else len(batch)
            elif action == "seek":
                consumer.seek(("t", where), data.draw(st.integers(0, sent[where])))
            stats = topic.stats(exact=action == "exact")
            assert [part.records for part in stats.partitions] == sent
            assert writes.look().records + writes.last.pending_records <= sum(sent)
            assert reads.look().records == taken
            positions = [consumer.position(("t", index)) for index in range(2)]
            assert reads.last.lag_records == sum(sent) - sum(positions)
            process = [part.process for part in stats.partitions if part.process is not None]
            assert sum(each.appended_records for each in process) == sum(sent)
            assert (
                sum(each.appended_bytes for each in process)
                + 256 * stats.segments
                + 64 * sum(each.rolls for each in process)
                == stats.stored_bytes
            )
        producer.close()
