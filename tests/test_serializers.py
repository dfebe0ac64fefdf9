"""Serializers: what goes in comes back, whatever way it takes, and who has the say."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pystream
from harness import quick_directory, without
from pystream import OptionError, Serializer, serializers


@pytest.fixture(scope="module")
def shared() -> Iterator[pystream.Store]:
    """One store for examples by the hundred."""
    with quick_directory() as path, pystream.open(path / "s") as store:
        yield store


def end(topic: pystream.Topic) -> int:
    return sum(topic.partition(index).end_offset for index in range(topic.partitions))


def raw(topic: pystream.Topic) -> list[Any]:
    """The values as they are stored."""
    return [value for batch in topic.batches() for value in batch.values.to_pylist()]


def values_of(records: Any) -> list[Any]:
    return [record.value for record in records]


# ---- round trips ------------------------------------------------------------------------------------

OBJECTS: dict[str, list[Any]] = {
    "utf8": ["", "plain", "Zürich", "日本", "\0", "🜁" * 300, None, "last"],
    "json": [{"b": 1, "a": [None, True, 2.5, "é"]}, [], {}, "", 0, -1.5, None, {"n": None}],
    "msgpack": [{"b": 1, 2: b"\xff"}, [], b"raw", "é", 2**63, None, [None]],
}
WRITERS: dict[str, Callable[[pystream.Topic, list[Any], list[Any]], None]] = {}


def writer(function: Callable[[pystream.Topic, list[Any], list[Any]], None]) -> Any:
    WRITERS[function.__name__] = function
    return function


@writer
def by_append(topic: pystream.Topic, values: list[Any], keys: list[Any]) -> None:
    topic.append(values, keys=keys)


@writer
def by_partition(topic: pystream.Topic, values: list[Any], keys: list[Any]) -> None:
    topic.partition(0).append(tuple(values), keys=iter(keys))


@writer
def by_send(topic: pystream.Topic, values: list[Any], keys: list[Any]) -> None:
    with topic.producer() as producer:
        for value, key in zip(values, keys, strict=True):
            producer.send(value, key)


@writer
def by_long_send(topic: pystream.Topic, values: list[Any], keys: list[Any]) -> None:
    with topic.producer() as producer:
        for value, key in zip(values, keys, strict=True):
            producer.send(value, key=key, headers={"h": b"1"}, partition=0)


@writer
def by_send_many(topic: pystream.Topic, values: list[Any], keys: list[Any]) -> None:
    with topic.producer(batch_records=3) as producer:
        producer.send_many(values, keys=keys)


@pytest.mark.parametrize("compression", ["none", "lz4"])
@pytest.mark.parametrize("way", WRITERS)
@pytest.mark.parametrize("name", OBJECTS)
def test_what_goes_in_comes_back_every_way(
    store: pystream.Store, name: str, way: str, compression: str
) -> None:
    objects = OBJECTS[name]
    keys = objects[::-1]
    topic = store.topic("t", create=True, value=name, key=name, compression=compression)
    WRITERS[way](topic, objects, keys)
    partition = topic.partition(0)
    count = len(objects)
    assert values_of(topic.records()) == objects
    assert [record.key for record in topic.records()] == keys
    assert values_of(partition.records(start=2, stop=5)) == objects[2:5]
    assert values_of(partition) == objects
    assert [partition[offset].value for offset in range(count)] == objects
    assert values_of(partition.tail(3)) == objects[-3:]
    assert [record.value for batch in topic.batches() for record in batch] == objects
    assert [batch[-1].value for batch in partition.scan()][-1] == objects[-1]
    assert next(partition.scan())[:1][0].key == keys[0]
    with store.consumer("t", value=name, key=name, timeout=0) as consumer:
        assert [(record.value, record.key) for record in consumer] == list(zip(objects, keys, strict=True))
    with store.consumer("t", value=name, timeout=0) as consumer:
        assert [record.value for batch in consumer.batches() for record in batch] == objects


def test_columns_and_exports_are_bytes_always(store: pystream.Store) -> None:
    topic = store.topic("t", create=True, value="json", key="utf8")
    topic.append([{"a": 1}, None], keys=["k", None])
    (batch,) = topic.batches()
    assert batch.values.to_pylist() == [b'{"a":1}', None]
    assert batch.keys.to_pylist() == [b"k", None]
    table = pa.table(topic)
    assert table["value"].to_pylist() == [b'{"a":1}', None]
    assert pa.record_batch(batch)["key"].to_pylist() == [b"k", None]


def test_nothing_is_stored_of_serializers(store: pystream.Store) -> None:
    """Two objects for one topic share its files and nothing else, whichever opened them."""
    coded = store.topic("t", create=True, value="json")
    coded.append([[1]])
    plain = store["t"]
    plain.append([b"[2]"])
    assert values_of(coded.records()) == [[1], [2]]
    assert values_of(plain.records()) == [b"[1]", b"[2]"]
    assert values_of(store.topic("t", value="utf8").records()) == ["[1]", "[2]"]
    with store.consumer("t", timeout=0) as consumer:
        assert values_of(consumer) == [b"[1]", b"[2]"]


@settings(deadline=None)
@given(st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]))), st.booleans())
def test_any_text_as_utf8(shared: pystream.Store, texts: list[str | None], lz4: bool) -> None:
    topic = shared.topic(f"text-{lz4}", create=True, compression="lz4" if lz4 else "none", value="utf8")
    first = topic.append(texts, partition=0)
    with topic.producer() as producer:
        for text in texts:
            producer.send(text)
    expected = [None if text is None else text.encode() for text in texts] * 2
    assert raw(shared[topic.name])[first:] == expected
    assert values_of(topic.records(start=first)) == texts * 2


# ---- columns that are not lists -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "column",
    [
        np.array(["a", "é", "longer"]),
        np.array(["a", "é", "longer"], object),
        pa.array(["a", "é", "longer"]),
        pa.array(["a", "é", "longer"], pa.large_string()),
        pa.array(["x", "a", "é", "longer", "y"])[1:4],
        pa.chunked_array([["a"], [], ["é", "longer"]]),
        pd.Series(["a", "é", "longer"], dtype=object),
        iter(["a", "é", "longer"]),
    ],
    ids=lambda column: type(column).__name__,
)
def test_columns_of_text(store: pystream.Store, column: Any) -> None:
    topic = store.topic("t", create=True, value="utf8")
    topic.append(column)
    assert values_of(topic.records()) == ["a", "é", "longer"]


def test_arrow_text_with_nulls(store: pystream.Store) -> None:
    topic = store.topic("t", create=True, value="utf8", key="utf8", partitions=3)
    texts = ["a", None, "é"]
    with topic.producer() as producer:
        producer.send_many(pa.array(texts), keys=pa.array(["k", "l", None]))
    assert sorted(values_of(topic.records()), key=str) == sorted(texts, key=str)


@pytest.mark.parametrize("column", [pa.array([b"a"]), pa.array([1]), pa.chunked_array([[b"a"]])])
def test_arrow_columns_that_are_no_text(store: pystream.Store, column: Any) -> None:
    topic = store.topic("t", create=True, value="utf8")
    with pytest.raises(TypeError, match="the serializer utf8 takes strings"):
        topic.append(column)
    assert end(topic) == 0


@pytest.mark.parametrize(
    "column",
    [
        np.array([1, 2]),
        pa.array([1, 2]),
        pa.chunked_array([[1], [2]]),
        pd.Series([1, 2]),
        range(1, 3),
        (number for number in (1, 2)),
    ],
    ids=lambda column: type(column).__name__,
)
def test_columns_of_objects(store: pystream.Store, column: Any) -> None:
    topic = store.topic("t", create=True, value="json")
    topic.append(column)
    assert values_of(topic.records()) == [1, 2]


@pytest.mark.parametrize("name", ["utf8", "json"])
@pytest.mark.parametrize("given", ["text", b"bytes", {"a": 1}, None, 3, np.array(1)], ids=repr)
def test_one_value_is_no_column(store: pystream.Store, name: str, given: Any) -> None:
    topic = store.topic("t", create=True, value=name)
    with pytest.raises((TypeError, ValueError), match="values"):
        topic.append(given)
    assert end(topic) == 0


def test_widths_are_of_what_is_stored(store: pystream.Store) -> None:
    topic = store.topic("t", create=True, value_bytes=3, key_bytes=2, value="utf8", key="utf8")
    topic.append(["abc", "aé", None], keys=["kk", None, "é"])
    with pytest.raises(ValueError, match=r"values\[1\] has 4 bytes"):
        topic.append(["abc", "abé"])
    with pytest.raises(ValueError, match=r"keys\[0\] has 1 bytes"):
        topic.append(["abc"], keys=["k"])
    with topic.producer() as producer, pytest.raises(ValueError, match="value has 2 bytes"):
        producer.send("ab")
    assert values_of(topic.records()) == ["abc", "aé", None]
    assert [record.key for record in topic.records()] == ["kk", None, "é"]


def test_keys_choose_partitions_by_their_bytes(store: pystream.Store) -> None:
    """As a producer of bytes would, by `send`, `send_many` and a partitioner of the user's."""
    keys = [f"kéy-{number}" for number in range(40)]
    seen: list[bytes | None] = []

    def partitioner(key: bytes | None, count: int) -> int:
        seen.append(key)
        return len(key or b"") % count

    plain = store.topic("plain", create=True, partitions=5)
    with plain.producer() as producer:
        for key in keys:
            producer.send(b"v", key.encode())
    expected = {record.key.decode(): record.partition for record in plain.records()}
    for name in ("utf8", "json"):
        for many in (False, True):
            topic = store.topic(f"{name}-{many}", create=True, partitions=5, key=name)
            with topic.producer(key="utf8") as producer:
                if many:
                    producer.send_many([b"v"] * len(keys), keys=keys)
                else:
                    for key in keys:
                        producer.send(b"v", key)
            found = store.topic(topic.name, key="utf8").records()
            assert {record.key: record.partition for record in found} == expected
    with plain.producer(partitioner=partitioner, key="utf8") as producer:
        producer.send(b"v", "é")
        producer.send_many([b"v", b"v"], keys=["ab", None])
    assert seen == ["é".encode(), b"ab", None]


# ---- functions, pairs, and who has the say -----------------------------------------------------------


def test_a_function_serializes_or_deserializes_by_who_is_given_it(store: pystream.Store) -> None:
    topic = store.topic("t", create=True, value=lambda number: b"%d" % number)
    topic.append([1, None, 2])
    with topic.producer(value=lambda number: b"%x" % number, key=str.encode) as producer:
        producer.send(255, "k")
        producer.send_many([17])
    assert values_of(topic.records()) == [b"1", None, b"2", b"ff", b"11"]
    with store.consumer("t", value=lambda data: int(data, 16), key=bytes.decode, timeout=0) as consumer:
        assert [(record.key, record.value) for record in consumer] == [
            (None, 1), (None, None), (None, 2), ("k", 255), (None, 17)
        ]  # fmt: skip


def test_pairs_and_serializers(store: pystream.Store) -> None:
    for name, both in (
        ("pair", (pickle.dumps, pickle.loads)),
        ("own", Serializer("own", pickle.dumps, pickle.loads)),
    ):
        topic = store.topic(name, create=True, value=both)
        topic.append([{1, 2}, None, 3j])
        assert values_of(topic.records()) == [{1, 2}, None, 3j]
    reading = store.topic("pair", value=(None, pickle.loads))
    assert values_of(reading.records()) == [{1, 2}, None, 3j]
    reading.append([pickle.dumps("as bytes")])
    assert reading.partition(0)[3].value == "as bytes"


def test_a_producer_goes_by_its_topic_unless_told(store: pystream.Store) -> None:
    topic = store.topic("t", create=True, value="json", key="utf8")
    with topic.producer() as producer:
        producer.send([1], "k")
    with topic.producer(value="bytes") as producer:
        producer.send(b"[2]", "k")
    with topic.producer(value="utf8", key="bytes") as producer:
        producer.send("[3]", b"k")
    assert values_of(topic.records()) == [[1], [2], [3]]
    assert {record.key for record in topic.records()} == {"k"}


def test_a_consumer_of_several_topics(store: pystream.Store) -> None:
    store.topic("j", create=True).append([b"[1]"])
    store.topic("u", create=True).append([b"text"])
    store.topic("d", create=True, dtype="u1").append(np.array([7], "u1"))
    with store.consumer("j", "u", "d", value={"j": "json", "u": "utf8"}, timeout=0) as consumer:
        assert {record.topic: record.value for record in consumer} == {"j": [1], "u": "text", "d": b"\7"}
    with store.consumer("j", "u", value="utf8", timeout=0) as consumer:
        assert {record.topic: record.value for record in consumer} == {"j": "[1]", "u": "text"}
    with pytest.raises(pystream.TopicNotFoundError, match="jj"):
        store.consumer("j", value={"jj": "json"})
    with store.consumer("j", value="json") as consumer, pytest.raises(OptionError, match="'d' has a dtype"):
        consumer.subscribe(["u", "d"])
    assert "value=json" in repr(store.topic("j", value="json"))


BAD_OPTIONS: list[tuple[Any, type[Exception], str]] = [
    ("jsn", OptionError, "value='jsn': there is no such serializer; there are 'bytes', 'json'"),
    (bytes, OptionError, 'say value="bytes"'),
    (str, OptionError, 'say value="utf8"'),
    (3, TypeError, "not int"),
    (json, TypeError, r"the pair \(x.dumps, x.loads\)"),
    ((1, None), TypeError, "serialize must be a function or None, not int"),
    ((json.dumps, json.loads, None), TypeError, "not tuple"),
    (Serializer("s", None, "no"), TypeError, "deserialize must be a function or None, not str"),  # type: ignore[arg-type]
    ([json.dumps, json.loads], TypeError, "not list"),
]


@pytest.mark.parametrize(("given", "error", "message"), BAD_OPTIONS)
def test_what_is_no_serializer(
    store: pystream.Store, given: Any, error: type[Exception], message: str
) -> None:
    there = store.topic("there", create=True)
    for make in (
        lambda: store.topic("new", create=True, value=given),
        lambda: there.producer(value=given),
        lambda: store.consumer("there", value=given),
    ):
        with pytest.raises(error, match=message):
            make()
    assert store.topics() == ["there"]
    with pytest.raises(error, match=message.replace("value", "key")):
        there.producer(key=given)


def test_one_sided_serializers_on_the_wrong_side(store: pystream.Store) -> None:
    topic = store.topic("t", create=True)
    with pytest.raises(OptionError, match="value=loads: only deserializes"):
        topic.producer(value=(None, json.loads))
    with pytest.raises(OptionError, match="key=dumps: only serializes"):
        store.consumer("t", key=(json.dumps, None))
    with pytest.raises(TypeError, match="names of topics, not int"):
        store.consumer("t", key={1: "utf8"})


def test_a_dtype_has_no_use_for_a_serializer_of_values(store: pystream.Store) -> None:
    with pytest.raises(OptionError, match="value=json: topic 't' has a dtype"):
        store.topic("t", create=True, dtype="i8", value="json")
    assert store.topics() == []
    topic = store.topic("t", create=True, dtype="i8", value="bytes", key="utf8")
    topic.append(np.arange(2), keys=["a", None])
    assert [record.key for record in topic.records()] == ["a", None]
    for make in (
        lambda: store.topic("t", value="json"),
        lambda: topic.producer(value="json"),
        lambda: store.consumer("t", value="json"),
    ):
        with pytest.raises(OptionError, match="leave value= away"):
            make()


def test_msgpack_that_is_not_installed(store: pystream.Store) -> None:
    serializers.named.cache_clear()
    with (
        without("msgpack"),
        pytest.raises(ModuleNotFoundError, match=r"pip install 'pystream-log\[serializers\]'"),
    ):
        store.topic("t", create=True, value="msgpack")
    assert store.topics() == []
    store.topic("t", create=True, value="msgpack")


# ---- records that hold objects ---------------------------------------------------------------------------


def test_records_of_objects(store: pystream.Store) -> None:
    topic = store.topic("t", create=True, value="json", key="utf8")
    topic.append([{"a": [1, 2]}, "x" * 1000], keys=["k", None])
    first, second = topic.records()
    assert pickle.loads(pickle.dumps(first)) == first
    assert first == topic.partition(0)[0]
    assert first != store["t"].partition(0)[0]
    assert hash(first) == hash(store["t"].partition(0)[0])
    assert "key='k', value={'a': [1, 2]}" in repr(first)
    assert len(repr(second)) < 400
    assert "(1002 characters)" in repr(second)
    assert len(next(topic.batches())) == 2


def test_what_a_topic_says_of_its_serializers(store: pystream.Store) -> None:
    topic = store.topic("t", create=True, value="json")
    assert topic.value_serializer is serializers.named("json")
    assert topic.key_serializer is None
    assert store["t"].value_serializer is None
    with pytest.raises(OptionError, match="there is no serializer 'yaml'"):
        serializers.named("yaml")
    assert serializers.UTF8.deserialize(serializers.UTF8.serialize("é")) == "é"
    with pytest.raises(TypeError, match="it takes str"):
        serializers.UTF8.serialize(b"no")
