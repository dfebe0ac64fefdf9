"""What serializers cannot do, and what they may: errors name the record, nothing is lost, nobody crashes."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import pystream
from pystream import ClosedError, SerializationError, Serializer, TopicPartition

WAIT_S = 30
PLACE = TopicPartition("t", 0)


def end(topic: pystream.Topic) -> int:
    return sum(topic.partition(index).end_offset for index in range(topic.partitions))


def values_of(records: Any) -> list[Any]:
    return [record.value for record in records]


# ---- errors of writing ---------------------------------------------------------------------------------


def test_send_raises_and_queues_nothing(store: pystream.Store) -> None:
    topic = store.topic("t", create=True, value="json", key="utf8")
    with topic.producer() as producer:
        producer.send("before")
        with pytest.raises(
            SerializationError, match="value cannot be serialized by json for topic 't'"
        ) as caught:
            producer.send({1, 2})
        assert (caught.value.topic, caught.value.partition, caught.value.index) == ("t", None, None)
        assert isinstance(caught.value, ValueError)
        assert isinstance(caught.value.__cause__, TypeError)
        with pytest.raises(
            SerializationError, match=r"key cannot be serialized by utf8 .* it takes str, not bytes"
        ):
            producer.send("v", b"k")
        with pytest.raises(SerializationError, match="surrogates not allowed"):
            producer.send("v", "\udc80")
        producer.send("after")
    assert values_of(topic.records()) == ["before", "after"]


@pytest.mark.parametrize("many", [False, True], ids=["append", "send_many"])
@pytest.mark.parametrize("side", ["values", "keys"])
@pytest.mark.parametrize("name", ["utf8", "json"])
def test_lists_are_written_whole_or_not_at_all(
    store: pystream.Store, name: str, side: str, many: bool
) -> None:
    topic = store.topic("t", create=True, partitions=3, value=name, key=name)
    columns: dict[str, list[Any]] = {"values": ["v"] * 20, "keys": ["k"] * 20}
    columns[side][17] = {1}
    with topic.producer() as producer:
        write = producer.send_many if many else topic.partition(1).append
        with pytest.raises(
            SerializationError, match=rf"{side}\[17\] cannot be serialized by {name}"
        ) as caught:
            write(**columns)
        assert (caught.value.topic, caught.value.index) == ("t", 17)
        assert end(topic) == 0
        columns[side][17] = "mended"
        write(**columns)
    assert end(topic) == 20


@pytest.mark.parametrize("made", ["text", None, 3, [1]], ids=repr)
def test_a_serializer_has_to_make_bytes(store: pystream.Store, made: Any) -> None:
    def mine(value: Any) -> Any:
        return made

    topic = store.topic("t", create=True, value=mine)
    what = rf"the serializer .*mine made {type(made).__name__} of"
    with topic.producer() as producer:
        with pytest.raises(TypeError, match=f"{what} value, not bytes"):
            producer.send(1)
        with pytest.raises(TypeError, match=rf"{what} values\[1\], not bytes"):
            producer.send_many([None, 1])
    with pytest.raises(TypeError, match="by .encode" if made == "text" else what):
        topic.append([1])
    assert end(topic) == 0


def test_memory_that_a_serializer_uses_again(store: pystream.Store) -> None:
    buffer = bytearray(4)

    def mine(number: int) -> bytearray:
        buffer[:] = b"%04d" % number
        return buffer

    topic = store.topic("t", create=True, value=mine, key=lambda text: np.frombuffer(text.encode(), "u1"))
    topic.append([1, 2, 3], keys=["a", "b", "c"])
    with topic.producer() as producer:
        producer.send(4, "d")
    assert values_of(topic.records()) == [b"0001", b"0002", b"0003", b"0004"]
    assert [record.key for record in topic.records()] == [b"a", b"b", b"c", b"d"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, SystemExit])
def test_what_is_not_about_the_record_is_not_dressed_up(
    store: pystream.Store, error: type[BaseException]
) -> None:
    def fail(_: Any) -> Any:
        raise error

    topic = store.topic("t", create=True, value=(fail, fail))
    with topic.producer() as producer, pytest.raises(error):
        producer.send(1)
    with pytest.raises(error):
        topic.append([1])
    store["t"].append([b"x", b"y"])
    with pytest.raises(error):
        next(topic.records())
    with store.consumer("t", value=fail) as consumer:
        with pytest.raises(error):
            next(iter(consumer))
        assert consumer.position(PLACE) == 0


def test_stop_iteration_from_a_serializer_ends_nothing_quietly(store: pystream.Store) -> None:
    def fail(_: Any) -> Any:
        raise StopIteration

    store.topic("t", create=True).append([b"x"])
    topic = store.topic("t", value=(fail, fail))
    with pytest.raises(SerializationError, match="StopIteration"):
        list(topic.records())
    with pytest.raises(SerializationError, match="StopIteration"):
        topic.append([1])
    with store.consumer("t", value=fail, timeout=0) as consumer, pytest.raises(SerializationError):
        list(consumer)


def test_a_closed_producer(store: pystream.Store) -> None:
    topic = store.topic("t", create=True, value="utf8")
    producer = topic.producer()
    producer.close()
    with pytest.raises(ClosedError):
        producer.send("text")
    closing = topic.producer(value=lambda _: closing.close() or b"late")
    with pytest.raises(ClosedError):
        closing.send("x")
    assert end(topic) == 0


def test_hints_for_those_who_forgot(store: pystream.Store) -> None:
    topic = store.topic("t", create=True)
    with topic.producer() as producer:
        for wrong, hint in (("text", 'value="utf8"'), ({"a": 1}, 'value="json"')):
            with pytest.raises(TypeError, match=hint):
                producer.send(wrong)
            with pytest.raises(TypeError, match=hint):
                topic.append([wrong])
        with pytest.raises(TypeError, match='key="utf8"'):
            producer.send(b"v", "k")
        with pytest.raises(TypeError, match=r"encode it: \.encode\(\)$"):
            producer.send(b"v", headers={"h": "text"})
    with pytest.raises(TypeError, match='value="utf8"'):
        topic.append(np.array(["a"]))


# ---- errors of reading -----------------------------------------------------------------------------------

BROKEN = [b"1", b"2", b"\xff", b"4", b"5"]
READERS = {
    "utf8": "utf8",
    "json": "json",
    "function": lambda data: data.decode("ascii"),
}


@pytest.mark.parametrize("value", READERS.values(), ids=READERS)
def test_a_record_that_cannot_be_read_is_not_consumed(store: pystream.Store, value: Any) -> None:
    topic = store.topic("t", create=True)
    topic.append(BROKEN[:4])
    topic.append(BROKEN[4:])
    with store.consumer("t", value=value, timeout=0) as consumer:
        got = []
        for _ in range(3):  # again and again, until something is done about it
            with pytest.raises(SerializationError, match="offset 2 of topic 't' partition 0") as caught:
                for record in consumer:
                    got.append(str(record.value))
            assert got == ["1", "2"]
            assert consumer.position(PLACE) == 2
            assert (caught.value.topic, caught.value.partition, caught.value.offset) == ("t", 0, 2)
            assert caught.value.__cause__ is not None
            assert "go on at offset 3" in str(caught.value)
            assert r"it is b'\xff'" in str(caught.value)
        assert caught.value.offset is not None
        consumer.seek(PLACE, caught.value.offset + 1)
        assert [str(record.value) for record in consumer] == ["4", "5"]
        assert consumer.position(PLACE) == 5


def test_one_iterator_goes_on_after_a_seek(store: pystream.Store) -> None:
    store.topic("t", create=True).append(BROKEN)
    for value in READERS.values():
        with store.consumer("t", value=value, timeout=0) as consumer:
            records = iter(consumer)
            assert [str(next(records).value) for _ in range(2)] == ["1", "2"]
            with pytest.raises(SerializationError):
                next(records)
            consumer.seek(PLACE, 3)
            assert [str(record.value) for record in records] == ["4", "5"]


@pytest.mark.parametrize("value", READERS.values(), ids=READERS)
def test_partitions_take_turns_by_batches(store: pystream.Store, value: Any) -> None:
    """As they do without serializers, though records are made one by one."""
    topic = store.topic("t", create=True, partitions=2)
    for _ in range(2):
        for index in range(2):
            topic.append([b"%d" % number for number in range(3)], partition=index)
    orders = []
    for each in (None, value):
        with store.consumer("t", value=each, timeout=0) as consumer:
            orders.append([(record.partition, record.offset) for record in consumer])
    assert orders[0] == orders[1]
    assert len(orders[0]) == 12


@pytest.mark.parametrize("value", READERS.values(), ids=READERS)
def test_errors_wherever_records_are_made(store: pystream.Store, value: Any) -> None:
    store.topic("t", create=True).append(BROKEN, keys=[b"k"] * 5)
    topic = store.topic("t", value=(None, value) if callable(value) else value)
    partition = topic.partition(0)
    records = topic.records()
    assert [str(next(records).value) for _ in range(2)] == ["1", "2"]
    for _ in range(2):
        with pytest.raises(SerializationError, match="offset 2"):
            next(records)
    with pytest.raises(SerializationError):
        partition[2]
    with pytest.raises(SerializationError):
        partition.tail(3)
    assert [str(record.value) for record in partition.tail(2)] == ["4", "5"]
    assert [str(record.value) for record in topic.records(start=3)] == ["4", "5"]
    (batch,) = topic.batches()
    assert str(batch[1].value) == "2"
    with pytest.raises(SerializationError):
        batch[2]
    with pytest.raises(SerializationError):
        list(batch)
    assert batch.values.to_pylist() == BROKEN
    assert len(pa.table(topic)) == 5


def test_errors_name_the_key_and_the_serializer(store: pystream.Store) -> None:
    store.topic("t", create=True).append([b"v"], keys=[b"\xff" * 100])
    with pytest.raises(
        SerializationError, match=r"the key at offset 0 .* by utf8: .*100 bytes that begin with"
    ):
        list(store.topic("t", key="utf8").records())
    named = Serializer("the one of ours", bytes, lambda _: 1 / 0)
    with pytest.raises(SerializationError, match="by the one of ours: ZeroDivisionError"):
        list(store.topic("t", value=named).records())


def test_errors_pickle(store: pystream.Store) -> None:
    with pytest.raises(SerializationError) as caught:
        store.topic("t", create=True, value="utf8").append(["a", 1])
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.topic, again.index) == (str(caught.value), "t", 1)


# ---- what serializers may do ----------------------------------------------------------------------------


def test_a_deserializer_that_moves_its_own_consumer(store: pystream.Store) -> None:
    store.topic("t", create=True).append([b"1", b"2", b"3"])
    consumer = store.consumer("t", value=lambda data: tried(data), timeout=0)

    def tried(data: bytes) -> bytes:
        for meddle in (
            lambda: consumer.seek(PLACE, 0),
            lambda: next(iter(consumer)),
            lambda: consumer.poll(0),
            lambda: consumer.assign([]),
        ):
            with pytest.raises(RuntimeError):
                meddle()
        assert consumer.position(PLACE) == int(data) - 1
        return data

    with consumer:
        assert values_of(consumer) == [b"1", b"2", b"3"]


def test_a_deserializer_that_closes_its_own_consumer(store: pystream.Store) -> None:
    store.topic("t", create=True).append([b"1", b"2", b"3"])
    consumer = store.consumer("t", value=lambda data: consumer.close() or data)
    records = iter(consumer)
    assert next(records).value == b"1"
    with pytest.raises(ClosedError):
        iter(consumer)


def test_one_iterator_in_two_threads(store: pystream.Store) -> None:
    """The second is told; nothing is skipped or read twice."""
    store.topic("t", create=True).append([b"1", b"2"])
    inside, go_on = threading.Event(), threading.Event()

    def slow(data: bytes) -> bytes:
        inside.set()
        assert go_on.wait(WAIT_S)
        return data

    for make in (
        lambda: store.topic("t", value=(None, slow)).records(),
        lambda: iter(store.consumer("t", value=slow, timeout=0)),
    ):
        inside.clear()
        go_on.clear()
        records, got = make(), []
        thread = threading.Thread(target=lambda records=records, got=got: got.append(next(records).value))
        thread.start()
        assert inside.wait(WAIT_S)
        with pytest.raises(RuntimeError):
            next(records)
        go_on.set()
        thread.join(WAIT_S)
        assert got == [b"1"]
        assert values_of(records) == [b"2"]


def test_producers_in_threads(store: pystream.Store) -> None:
    topic = store.topic("t", create=True, partitions=3, value="json", key="utf8")
    threads, each = 4, 500
    failed: list[int] = []

    with topic.producer(batch_bytes=4096) as producer:

        def work(thread: int) -> None:
            for number in range(each):
                producer.send({"thread": thread, "number": number}, f"{thread}")
                if number % 100 == 0:
                    with pytest.raises(SerializationError):
                        producer.send({thread})
                    failed.append(thread)
                if number % 50 == 0:
                    producer.send_many([[thread, number]] * 3)

        workers = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(WAIT_S)
    assert len(failed) == threads * each // 100
    sent = [record for record in topic.records() if isinstance(record.value, dict)]
    assert end(topic) == threads * each + threads * (each // 50) * 3
    for thread in range(threads):
        own = [record.value["number"] for record in sent if record.key == str(thread)]
        assert own == list(range(each))


def test_a_list_that_its_serializer_changes(store: pystream.Store) -> None:
    values = [1, 2, 3]

    def mine(value: int) -> bytes:
        values.clear()
        return b"%d" % value

    topic = store.topic("t", create=True, value=mine)
    with pytest.raises(ValueError, match="3 keys for 1 values"):
        topic.append(values, keys=[b"a", b"b", b"c"])
    assert end(topic) == 0
