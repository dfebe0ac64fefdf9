"""Delivery callbacks of a producer that threads share: a partition's come in the order of its records."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pystream
from pystream import LockTimeoutError, RecordMetadata

WAIT_S = 30


class Told:
    """Callbacks note offsets here, but the first of them only once it is let go on."""

    def __init__(self) -> None:
        self.offsets: list[int | None] = []
        self.began, self.go_on = threading.Event(), threading.Event()

    def __call__(self, error: Exception | None, metadata: RecordMetadata) -> None:
        assert error is None
        if metadata.offset == 0:
            self.began.set()
            assert self.go_on.wait(WAIT_S)
        self.offsets.append(metadata.offset)


def flushing(producer: pystream.Producer, told: Told) -> threading.Thread:
    """A thread in whose flush the first callback has begun."""
    producer.send(b"0")
    thread = threading.Thread(target=producer.flush)
    thread.start()
    assert told.began.wait(WAIT_S)
    return thread


@pytest.fixture
def topic(tmp_path: Path) -> Iterator[pystream.Topic]:
    with pystream.open(tmp_path / "store") as store:
        yield store.topic("t", create=True)


def test_order_over_threads(topic: pystream.Topic) -> None:
    told = Told()
    with topic.producer(on_delivery=told) as producer:
        first = flushing(producer, told)
        for number in range(1, 100):  # reports nothing: the other thread will
            producer.send(b"%d" % number)
        second = threading.Thread(target=producer.flush)
        second.start()
        deadline = time.monotonic() + WAIT_S
        while topic.partition(0).end_offset < 100 and time.monotonic() < deadline:
            time.sleep(0.001)
        second.join(0.05)
        assert second.is_alive() and told.offsets == []
        told.go_on.set()
        first.join(WAIT_S)
        second.join(WAIT_S)
        assert told.offsets == list(range(100))  # a flush has returned: all of them were told


def test_flush_in_time(topic: pystream.Topic) -> None:
    told = Told()
    with topic.producer(on_delivery=told) as producer:
        first = flushing(producer, told)
        with pytest.raises(LockTimeoutError, match="callbacks that another thread calls"):
            producer.flush(timeout=0.01)
        told.go_on.set()
        first.join(WAIT_S)
        producer.flush(timeout=WAIT_S)
    assert told.offsets == [0]


def test_order_with_calls_from_callbacks(topic: pystream.Topic) -> None:
    offsets: list[int | None] = []

    def callback(error: Exception | None, metadata: RecordMetadata) -> None:
        if metadata.offset == 0:
            producer.send(b"more")
            producer.flush()  # delivers, and leaves the telling to the call that this is in
            assert topic.partition(0).end_offset == 6
        offsets.append(metadata.offset)

    with topic.producer(on_delivery=callback, linger=60) as producer:
        for number in range(5):
            producer.send(b"%d" % number)
        producer.flush()
        assert offsets == list(range(6))


def test_close_waits_for_callbacks(topic: pystream.Topic) -> None:
    told = Told()
    producer = topic.producer(on_delivery=told, linger=60)
    first = flushing(producer, told)
    producer.send(b"1")
    closing = threading.Thread(target=producer.close)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()
    told.go_on.set()
    closing.join(WAIT_S)
    first.join(WAIT_S)
    assert told.offsets == [0, 1]
