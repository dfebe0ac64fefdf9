"""What can be sent and appended: lists and columns come out as they went in, the rest is refused whole."""

import struct
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pystream
from pystream import BatchTooLargeError, RecordTooLargeError

T = 1_700_000_000_000_000_000


def values(topic: pystream.Topic) -> list[bytes | None]:
    return [r.value for r in topic.records()]


# ---- what goes in comes out ------------------------------------------------------------------------

texts = st.one_of(st.none(), st.binary(max_size=40))
headers = st.one_of(
    st.none(),
    st.lists(st.tuples(st.text(max_size=5), st.one_of(st.none(), st.binary(max_size=5))), max_size=3),
)
times = st.one_of(st.none(), st.integers(10**16, 2**62))
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
    assert values(topic) == [
        b"a",
        b"bcd",
        b"",
        b"a\0",
        b"bc",
        b"\0\1",
        b"\2\3",
        b"\4\5",
        b"\0\2",
        b"\x08\x0a",
    ]
    for bad in (np.arange(3), np.zeros(2, "f8,i4"), np.array(["a"])):
        with pytest.raises(TypeError, match=r"dtype=|encode"):
            topic.append(bad)
    with pytest.raises(ValueError, match="dimensions"):
        topic.append(np.zeros((2, 2, 2), "S1"))

    wide = store.topic("w", create=True, value_bytes=4, key_bytes=2)
    wide.append(np.arange(3, dtype="<i4"), keys=np.array([1, 2, 3], "<u2"))
    wide.append(np.array([b"abcd"], "S4"), keys=[None])
    wide.append([b"wxyz", None], keys=[b"kk", None])
    assert [r.value for r in wide.records()] == [
        *(struct.pack("<i", i) for i in range(3)),
        b"abcd",
        b"wxyz",
        None,
    ]
    assert [r.key for r in wide.records()][3:] == [None, b"kk", None]
    for bad in (np.zeros(2, "i8"), [b"abcd", b"abc"], np.zeros((2, 3), np.uint8)):
        with pytest.raises(ValueError, match="exactly 4"):
            wide.append(bad)
    with pytest.raises(ValueError, match=r"keys\[1\] has 1 bytes.*exactly 2"):
        wide.append([b"abcd"] * 2, keys=[b"ab", b"a"])
    with wide.producer() as producer, pytest.raises(ValueError, match="exactly 4"):
        producer.send(b"abc")


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
    with topic.producer() as producer:
        with pytest.raises(TypeError, match="null"):
            producer.send(None)
        with pytest.raises(TypeError, match="dtype"):
            producer.send(np.zeros(1, [("a", "i8"), ("b", "f8"), ("c", "u4")])[0])


@pytest.mark.parametrize(
    "type_", [pa.binary(), pa.large_binary(), pa.string(), pa.large_string(), pa.binary(3)]
)
@pytest.mark.parametrize("nulls", [False, True])
def test_arrow_columns(store: pystream.Store, type_: pa.DataType, nulls: bool) -> None:
    topic = store.topic("a", create=True)
    items: list[Any] = [b"%03d" % i for i in range(50)]
    if nulls:
        items[7] = items[30] = None
    array = (
        pa.array([None if i is None else i.decode() for i in items], pa.string())
        .cast(pa.binary())
        .cast(type_)
    )
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
        with pytest.raises(TypeError, match=r"dtype|float64|int64"):
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
    with topic.producer(batch_bytes="1GiB", buffer_bytes="4GiB") as producer:
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
