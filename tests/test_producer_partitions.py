"""Producers over more partitions than their buffer has whole batches for."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pystream

T = 1_700_000_000_000_000_000


def batches_of(topic: pystream.Topic) -> list[int]:
    return [len(list(topic.partition(index).scan())) for index in range(topic.partitions)]


@pytest.mark.parametrize(
    ("partitions", "buffer_bytes"), [(100, "32MiB"), (300, "32MiB"), (40, "256KiB")], ids=str
)
def test_no_batch_goes_early(tmp_path: Path, partitions: int, buffer_bytes: str) -> None:
    """A few records for each of many partitions: one batch each, whatever a batch may have."""
    with pystream.open(tmp_path / "store") as store:
        topic = store.topic("t", create=True, partitions=partitions)
        with topic.producer(linger=60, buffer_bytes=buffer_bytes) as producer:
            for number in range(20 * partitions):
                producer.send(b"%050d" % number, partition=number % partitions)
            assert producer.stats().batches == 0
            producer.flush()
            assert producer.stats().batches == partitions
        assert batches_of(topic) == [1] * partitions


def test_one_partition_takes_what_others_leave(tmp_path: Path) -> None:
    """Growing from its share to a whole batch, with what makes columns late: keys, nulls, headers, times."""
    with pystream.open(tmp_path / "store") as store:
        topic = store.topic("t", create=True, partitions=100)
        with topic.producer(linger=60, batch_bytes="256KiB", buffer_bytes="1MiB") as producer:
            for number in range(4000):
                producer.send(
                    None if number % 700 == 699 else b"%040d" % number,
                    b"%d" % number if number % 500 == 499 else None,
                    headers={"h": b"%d" % number} if number % 900 == 899 else None,
                    timestamp=T + number,
                    partition=7,
                )
            assert producer.stats().pending_records == 4000
        assert batches_of(topic)[7] < 3
        for number, record in enumerate(topic.partition(7)):
            assert record.value == (None if number % 700 == 699 else b"%040d" % number)
            assert record.key == (b"%d" % number if number % 500 == 499 else None)
            assert len(record.headers) == (number % 900 == 899)
            assert record.timestamp == T + number


@settings(max_examples=20, deadline=None)
@given(
    partitions=st.integers(1, 50),
    batch_kib=st.integers(1, 256),
    weights=st.lists(st.integers(0, 30), min_size=5, max_size=200),
    size=st.integers(0, 3000),
)
def test_whatever_is_sent_is_there(
    tmp_path_factory: pytest.TempPathFactory, partitions: int, batch_kib: int, weights: list[int], size: int
) -> None:
    path = tmp_path_factory.mktemp("partitions") / "store"
    with pystream.open(path) as store:
        topic = store.topic("t", create=True, partitions=partitions)
        sent: list[list[bytes]] = [[] for _ in range(partitions)]
        with topic.producer(linger=60, batch_bytes=batch_kib << 10, buffer_bytes="256KiB") as producer:
            for turn, weight in enumerate(weights):
                for number in range(weight):
                    index = turn % partitions if number % 3 else 0
                    value = b"%d.%d." % (turn, number) + b"x" * (size * number // 30)
                    producer.send(value, partition=index)
                    sent[index].append(value)
        assert [[record.value for record in topic.partition(index)] for index in range(partitions)] == sent
