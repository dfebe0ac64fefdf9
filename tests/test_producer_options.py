"""What `Topic.producer` accepts and refuses, and the thin Python around the native producer."""

import warnings
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

import pystream
from pystream import ClosedError, OptionError, Producer, RecordMetadata, UnsupportedError
from pystream._native.producer import ProducerCore

START = 1_356_998_400_000_000_000
MIB = 1 << 20


@pytest.mark.parametrize(
    ("option", "refused", "accepted"),
    [
        (
            "batch_bytes",
            [0, -1, (2 << 30) - 4095, "2GiB"],
            [1, 2, "1MiB", (2 << 30) - 4097, (2 << 30) - 4096],
        ),
        ("batch_records", [0, -1, (1 << 24) + 1], [1, 2, (1 << 24) - 1, 1 << 24]),
        ("linger", [-1, "1h1", 3600.000001, float("nan")], [0, 0.005, "1ms", 3600, "1h"]),
        ("buffer_bytes", [0, 256 * 1024 - 1, (64 << 30) + 1], [256 * 1024, "256KiB", 64 << 30]),
        ("compression", ["gzip", ""], ["none", "lz4", None]),
        ("partitioner", ["random"], ["murmur2", "sticky", None, lambda key, n: 0]),
    ],
)
def test_limits(topic: pystream.Topic, option: str, refused: list[Any], accepted: list[Any]) -> None:
    for value in refused:
        with pytest.raises(OptionError, match=option):
            topic.producer(**{option: value})
    for value in accepted:
        options = {"buffer_bytes": "4GiB", option: value}
        with topic.producer(**options) as producer:
            producer.send(b"x")
    assert topic.partition(0).end_offset == len(accepted)


def test_the_buffer_follows_the_batch(topic: pystream.Topic) -> None:
    with topic.producer(batch_bytes="64MiB") as producer:  # more than the default of buffer_bytes
        producer.send(b"x")
    with pytest.raises(OptionError, match="buffer_bytes"):
        topic.producer(batch_bytes="64MiB", buffer_bytes="63MiB")


@pytest.mark.parametrize(
    "options",
    [
        {"batch_bytes": 1.5},
        {"batch_records": "10"},
        {"linger": None},
        {"compression": 4},
        {"partitioner": 5},
        {"on_delivery": "print"},
        {"acks": "all"},
    ],
)
def test_types(topic: pystream.Topic, options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=next(iter(options))):
        topic.producer(**options)


def test_options_of_later_versions(topic: pystream.Topic) -> None:
    with pytest.raises(UnsupportedError, match=r"transactional_id=.*not available in this version"):
        topic.producer(transactional_id="one")


def test_send_is_the_native_method(topic: pystream.Topic) -> None:
    with topic.producer() as producer:
        assert isinstance(producer, ProducerCore)
        assert Producer.send is ProducerCore.send
        assert "send" not in vars(Producer)
        assert producer.send(b"x") is None
        assert producer.topic == "t"
        assert "'t'" in repr(producer)
    assert "closed" in repr(producer)


@pytest.mark.parametrize(
    "moment", [START, np.int64(START), datetime(2013, 1, 1, tzinfo=UTC), np.datetime64("2013-01-01")]
)
def test_moments(topic: pystream.Topic, moment: object) -> None:
    with topic.producer() as producer:
        producer.send(b"a", timestamp=moment)
        producer.send_many([b"b", b"c"], timestamps=moment)
        producer.send_many([b"d"], timestamps=[moment])
        producer.send_many([b"e"], timestamps=np.array(["2013-01-01"], dtype="M8[D]"))
    assert [record.timestamp for record in topic.records()] == [START] * 5


@pytest.mark.parametrize(
    ("moment", "kind"),
    [(1_356_998_400, ValueError), (datetime(2013, 1, 1), ValueError), ("2013", TypeError), (1.5, TypeError)],
)
def test_refused_moments(topic: pystream.Topic, moment: object, kind: type[Exception]) -> None:
    with topic.producer() as producer:
        with pytest.raises(kind, match="timestamp"):
            producer.send(b"a", timestamp=moment)
        for moments in (moment, [moment]):
            with pytest.raises(kind, match="timestamp"):
                producer.send_many([b"a"], timestamps=moments)
        with pytest.raises(OptionError, match=r"timestamps\[0\]"):
            producer.send_many([b"a"], timestamps=np.array([1_356_998_400]))
    assert topic.partition(0).end_offset == 0


def test_flush_and_close_take_durations(topic: pystream.Topic) -> None:
    delivered: list[RecordMetadata] = []
    producer = topic.producer(linger="1h", on_delivery=lambda error, metadata: delivered.append(metadata))
    producer.send(b"a")
    assert topic.partition(0).end_offset == 0
    producer.flush("5s", durable=True)
    assert topic.partition(0).durable_offset == 1
    assert [(at.topic, at.partition, at.offset) for at in delivered] == [("t", 0, 0)]
    producer.send(b"b")
    for timeout, kind in ((-1, OptionError), (b"1s", TypeError), ("soon", OptionError)):
        with pytest.raises(kind, match="timeout"):
            producer.flush(timeout)
        with pytest.raises(kind, match="timeout"):
            producer.close(timeout)
    producer.close(timeout=5)
    producer.close()
    assert producer.closed
    assert topic.partition(0).end_offset == 2
    for use in (lambda: producer.send(b"c"), lambda: producer.send_many([b"c"]), producer.flush):
        with pytest.raises(ClosedError):
            use()


def test_with_flushes_even_on_an_error(topic: pystream.Topic) -> None:
    with pytest.raises(ZeroDivisionError), topic.producer(linger="1h") as producer:
        producer.send(b"a")
        _ = 1 / 0
    assert topic.partition(0).end_offset == 1


def test_closing_the_store_flushes(tmp_path: Any) -> None:
    with pystream.open(tmp_path / "s") as store:
        producer = store.topic("t", create=True).producer(linger="1h")
        producer.send(b"a")
    assert producer.closed
    with pystream.open(tmp_path / "s") as store:
        assert [record.value for record in store["t"].records()] == [b"a"]


def test_one_of_two_stores_closes_its_own(tmp_path: Any) -> None:
    with pystream.open(tmp_path / "s") as one, pystream.open(tmp_path / "s") as two:
        mine, other = one.topic("t", create=True).producer(), two["t"].producer()
        one.close()
        assert mine.closed
        other.send(b"a")
        other.flush()
        assert two["t"].partition(0).end_offset == 1


def test_forgotten_producer_is_told_of(topic: pystream.Topic) -> None:
    producer = topic.producer(linger="1h")
    producer.send(b"a")
    with pytest.warns(ResourceWarning, match="unclosed producer"):
        del producer
    assert topic.partition(0).end_offset == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        producer = topic.producer()
        producer.close()
        del producer
